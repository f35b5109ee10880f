"""Launches: what a kernel is given where it is compiled, interpreted, or only recorded."""

from __future__ import annotations

from typing import Any

import pytest
import torch

pytest.importorskip("triton")

from dnc_fast.kernels.gpu import launch


class Kernel:
    """Stands in for a kernel, and keeps what it was launched with."""

    arg_names: tuple[str, ...] = ()
    named: dict[str, Any] | None = None

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        return self.launch

    def launch(self, *arguments: Any, **named: Any) -> None:
        self.named = named


class OnGPU:
    """What a launch asks of its first argument."""

    device = torch.device("cuda", 0)


def test_a_compiled_kernel_is_given_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.device("meta"))
    kernel = Kernel()
    launch.run(kernel, (1,), OnGPU(), N=3, num_warps=2, enable_fp_fusion=False)
    assert kernel.named == {"N": 3, "num_warps": 2, "enable_fp_fusion": False}
    launch.run(kernel, (1,), OnGPU(), N=3)
    assert kernel.named == {"N": 3, "num_warps": 4, "enable_fp_fusion": True}


@pytest.mark.parametrize(("hip", "options"), [(None, {"maxnreg": 128}), ("6.4", {})])
def test_only_nvidia_is_told_how_many_registers_to_take(
    monkeypatch: pytest.MonkeyPatch, hip: str | None, options: dict[str, int]
) -> None:
    """AMD's compiler refuses an option that it does not know."""
    monkeypatch.setattr(torch.cuda, "device", lambda device: torch.device("meta"))
    monkeypatch.setattr(torch.version, "hip", hip)
    kernel = Kernel()
    launch.run(kernel, (1,), OnGPU(), maxnreg=128)
    assert kernel.named == {"num_warps": 4, "enable_fp_fusion": True, **options}


def test_an_interpreted_kernel_is_given_constants_only() -> None:
    kernel = Kernel()
    launch.run(kernel, (1,), torch.zeros(1), N=3)
    assert kernel.named == {"N": 3}


def test_a_launch_on_meta_tensors_is_only_recorded() -> None:
    kernel, tensor = Kernel(), torch.zeros(1, device="meta")
    with launch.recorded() as launches:
        launch.run(kernel, (1,), tensor, N=3, num_warps=2)
    assert kernel.named is None
    assert launches == [launch.Launch(kernel, (1,), (tensor,), {"N": 3}, 2, True)]


def test_a_kernel_is_given_the_arrays_and_sizes_that_it_names() -> None:
    kernel, tensors = Kernel(), [torch.zeros(1, device="meta") for _ in range(3)]
    kernel.arg_names = ("c", "a", "N")
    arrays = dict(zip("abc", tensors, strict=True))
    with launch.recorded() as launches:
        launch.run_by_name(kernel, (1,), arrays, {"M": 2, "N": 3}, num_warps=2)
    (found,) = launches
    assert found.arguments[0] is tensors[2] and found.arguments[1] is tensors[0]
    assert found == launch.Launch(kernel, (1,), found.arguments, {"N": 3}, 2, True)
