"""Who is measured: ours by backend, and what a user would take instead.

A new way of ours is a line in `PROVIDERS`: a name and the options of `DNC` that it stands for.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from dnc_fast import DNC
from dnc_fast.backends import numba_installed, resolve_backend

from .sizes import Size

PEER_FAULT = (
    "`dnc` is the PyPI package. It feeds every step the read vectors of the initial state instead "
    "of r_{t-1}, so it does less work than a DNC should, and its results cannot be compared with "
    "the reference. It has one LSTM layer here, as ours (its own default is two)."
)
FLOOR = (
    "`lstm` is torch's nn.LSTM of the same hidden size, without any memory: the floor under every "
    "recurrent model, not a peer."
)


@dataclass(frozen=True)
class Provider:
    """One who calculates a step.

    name: in all tables and commands.
    options: of `DNC`, for our own; the gate compares with the reference of the same options.
    kind: "ours", "compiled" (the reference by torch.compile), "peer" or "floor".
    devices: where it is measured by default.
    half: under autocast to bfloat16.
    steps_only: it has whole training and inference steps, not the parts of a step.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    kind: str = "ours"
    devices: tuple[str, ...] = ("cpu", "cuda")
    half: bool = False
    steps_only: bool = False

    @property
    def checked(self) -> bool:
        """Whether it claims to calculate what the reference does, so that the gate can look."""
        return self.kind in ("ours", "compiled")

    @property
    def backend(self) -> str:
        return str(self.options.get("backend", "reference"))


CUDA, CPU = ("cuda",), ("cpu",)

PROVIDERS = {
    provider.name: provider
    for provider in (
        Provider("triton", {"backend": "triton"}, devices=CUDA),
        Provider(
            "triton launched", {"backend": "triton", "cuda_graphs": False},
            devices=CUDA, steps_only=True,
        ),
        Provider(
            "triton bfloat16", {"backend": "triton"}, devices=CUDA, half=True, steps_only=True
        ),
        Provider("cpu", {"backend": "cpu"}, devices=CPU),
        Provider("eager", {"backend": "eager"}),
        Provider("reference", {"backend": "reference"}),
        Provider("torch.compile", {"backend": "reference"}, kind="compiled"),
        Provider("dnc", kind="peer"),
        Provider("lstm", kind="floor", steps_only=True),
    )
}  # fmt: skip


def missing(provider: Provider, device: str) -> str | None:
    """Why a provider cannot be measured on a kind of device, with the remedy; None where it can."""
    if provider.kind == "peer" and importlib.util.find_spec("dnc") is None:
        return 'the package dnc is not installed; `pip install -e ".[bench]"` brings it'
    if provider.backend == "cpu" and not numba_installed():
        return 'Numba is not installed; `pip install -e ".[cpu]"` brings it'
    if provider.backend == "triton":
        try:
            resolve_backend("triton", torch.device(device), torch.float32)
        except (ImportError, RuntimeError, ValueError) as error:
            return str(error)
    return None


def our_model(
    size: Size, options: dict[str, Any], device: str, dtype: torch.dtype = torch.float32
) -> DNC:
    """A DNC whose parameters are the same for all options, and the same numbers in each dtype."""
    torch.manual_seed(0)
    model = DNC(
        size.X, size.H, num_cells=size.N, cell_size=size.W, num_read_heads=size.R, **options
    )
    return model.to(dtype).to(device)


def peer_model(size: Size, device: str) -> nn.Module:
    """The PyPI package `dnc` at the same sizes, with one LSTM layer, see `PEER_FAULT`."""
    import dnc

    return dnc.DNC(
        size.X,
        size.H,
        rnn_type="lstm",
        num_hidden_layers=1,
        nr_cells=size.N,
        cell_size=size.W,
        read_heads=size.R,
        batch_first=False,
        gpu_id=0 if device == "cuda" else -1,
    ).to(device)


def build(provider: Provider, size: Size, device: str) -> nn.Module:
    """The model of a provider, in float32; called as `model(x, None)[0]`, x (T, B, X)."""
    if provider.kind == "peer":
        return peer_model(size, device)
    if provider.kind == "floor":
        torch.manual_seed(0)
        return nn.LSTM(size.X, size.H).to(device)
    model = our_model(size, provider.options, device)
    if provider.kind == "compiled":
        model.cell.step = compiled(model.cell.step, device)  # type: ignore[method-assign]
    return model


def compiled(function: Any, device: str) -> Any:
    """By torch.compile: for these sizes, and on a GPU with its CUDA graphs."""
    mode = "reduce-overhead" if device == "cuda" else None
    return torch.compile(function, mode=mode, dynamic=False)
