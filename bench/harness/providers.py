"""Who is measured: our backends, and what a user would take instead.

To measure another of our backends or options, add a line to `PROVIDERS`: a name and options of
`DNC`.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from dnc_fast import DNC
from dnc_fast.backends import resolve_backend

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

TOPK = 8
LINKAGES: dict[str, dict[str, Any]] = {
    f"{linkage}{suffix}": {"linkage": linkage, **cut}
    for suffix, cut in ((f", top {TOPK}", {"read_topk": TOPK, "write_topk": TOPK}), ("", {}))
    for linkage in ("none", "sparse", "separable", "dense")
}
"""The options of `DNC` for each linkage, by its name in tables. "top 8" keeps 8 entries of each
read and write weighting."""


@dataclass(frozen=True)
class Provider:
    """An implementation that is measured.

    name: in all tables and commands.
    options: of `DNC`, for our own; results are compared with the reference of the same options.
    kind: "ours", "compiled" (the reference by torch.compile), "peer" or "floor".
    devices: where it is measured by default.
    half: under autocast to bfloat16.
    steps_only: only whole training and inference steps with the dense linkage are measured.
    linkage: of `LINKAGES`; see `with_linkage`.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    kind: str = "ours"
    devices: tuple[str, ...] = ("cpu", "cuda")
    half: bool = False
    steps_only: bool = False
    linkage: str = "dense"

    @property
    def checked(self) -> bool:
        """Whether its results must equal the reference's."""
        return self.kind in ("ours", "compiled")

    @property
    def backend(self) -> str:
        return str(self.options.get("backend", "reference"))

    def with_linkage(self, linkage: str) -> Provider:
        """The same with one of `LINKAGES`."""
        if linkage == self.linkage:
            return self
        return replace(self, linkage=linkage, options=self.options | LINKAGES[linkage])


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
    """Why a provider cannot run on a kind of device, with the remedy; None if it can."""
    if provider.kind == "peer" and importlib.util.find_spec("dnc") is None:
        return 'the package dnc is not installed; `pip install -e ".[bench]"` installs it'
    try:
        resolve_backend(provider.backend, torch.device(device), torch.float32)
    except (ImportError, RuntimeError, ValueError) as error:
        return str(error)
    return None


def our_model(
    size: Size, options: dict[str, Any], device: str, dtype: torch.dtype = torch.float32
) -> DNC:
    """A DNC whose initial parameters do not depend on options or dtype."""
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
    """Compiled by torch.compile for fixed sizes, on a GPU with its CUDA graphs."""
    mode = "reduce-overhead" if device == "cuda" else None
    return torch.compile(function, mode=mode, dynamic=False)
