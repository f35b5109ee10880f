"""Launches: programmatic dependent launch, off unless asked for, and only where there is such."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from dnc_fast.kernels.gpu import launch
from triton.backends.compiler import GPUTarget

TARGETS = {
    GPUTarget("cuda", 80, 32): False,
    GPUTarget("cuda", 89, 32): False,
    GPUTarget("cuda", 90, 32): True,
    GPUTarget("cuda", 100, 32): True,
    GPUTarget("cuda", 120, 32): True,
    GPUTarget("hip", "gfx942", 64): False,
}


class Kernel:
    """In the place of one: keeps what it was launched with."""

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.launch

    def launch(self, *arguments: Any, **named: Any) -> None:
        self.named = named


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: str(target.arch))
def test_pdl_is_asked_for_and_there(monkeypatch: pytest.MonkeyPatch, target: GPUTarget) -> None:
    monkeypatch.setattr(launch, "PDL", False)
    assert not launch.pdl(target)
    monkeypatch.setattr(launch, "PDL", True)
    assert launch.pdl(target) == TARGETS[target]


@pytest.mark.parametrize("pdl", [False, True])
def test_kernel_and_launch_agree(monkeypatch: pytest.MonkeyPatch, pdl: bool) -> None:
    """A kernel that lets the next start early would be wrong if that was launched not to wait."""
    monkeypatch.setattr(launch, "PDL", pdl)
    monkeypatch.setattr(launch, "_target", lambda device: GPUTarget("cuda", 90, 32))
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.device("meta"))
    kernel = Kernel()
    launch.run(kernel, (1,), OnGPU(), N=3)
    assert kernel.named["PDL"] == pdl and kernel.named.get("launch_pdl", False) == pdl
    assert kernel.named["N"] == 3


class OnGPU:
    """What a launch asks of its first argument."""

    device = torch.device("cuda", 0)


def test_an_interpreted_kernel_knows_nothing_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "PDL", True)
    kernel = Kernel()
    launch.run(kernel, (1,), torch.zeros(1))
    assert kernel.named == {"PDL": False}
