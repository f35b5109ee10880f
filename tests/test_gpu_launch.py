"""Launches: what a kernel is given where it is compiled, interpreted, or only recorded."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("triton", minversion="3.6")

from dnc_fast.kernels.gpu import launch
from dnc_fast.kernels.gpu.compile import builds_of, described, name_of, target_named


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


# What is compiled for a launch


def test_launches_that_compile_to_the_same_are_described_by_the_same() -> None:
    numbers = torch.zeros(64, device="meta")
    assert described(numbers) == described(numbers[4:]) != described(numbers[1:])
    assert described(numbers) != described(numbers.double())
    far = torch.zeros(2**30, device="meta")
    assert described(numbers).near and not described(far).near
    alike = [(16, 4096, 0), (3, 17, -5), (2**40, 2**33), (2**40 + 1, 2**35 + 3), (0.5, 2.5)]
    kinds = [{described(value) for value in values} for values in alike]
    assert all(len(kind) == 1 for kind in kinds)
    assert len(set.union(*kinds, {described(1), described(None)})) == len(alike) + 2
    with pytest.raises(TypeError, match="a kernel was given 'x'"):
        described("x")
    for one in (numbers, numbers[1:], far):  # a tensor of the kind is described by it
        assert described(described(one).tensor()) == described(one)


def test_a_build_has_constants_and_options_of_its_launch() -> None:
    kernel = launch_kernel()
    tensor = torch.zeros(1, device="meta")
    with launch.recorded() as launches:
        launch.run(kernel, (1,), tensor, N=3, num_warps=2, num_stages=4)
        launch.run(kernel, (7,), tensor, N=3, num_warps=2, num_stages=4)
    (build,) = builds_of(launches)
    assert str(build) == f"{__name__.rpartition('.')[2]}.launch_kernel"
    assert dict(build.constants) == {"N": 3}
    assert dict(build.options) == {"num_warps": 2, "enable_fp_fusion": True, "num_stages": 4}


def launch_kernel() -> Kernel:
    """A kernel with a constant, as Triton would have made it of this function."""
    kernel = Kernel()
    kernel.arg_names, kernel.fn = ("x", "N"), launch_kernel  # type: ignore[attr-defined]
    return kernel


class Function:
    """Stands in for a compiled function; `named` hears when Triton looks for its name."""

    def __init__(self, name: str, known: dict[str, Any], calls: tuple[str, ...]) -> None:
        self.name, self.named = name, known.setdefault("named", [])
        self.fn = SimpleNamespace(__globals__=known, __code__=SimpleNamespace(co_names=calls))
        known[name] = self

    @property
    def cache_key(self) -> str:
        self.named.append(self.name)
        return self.name


def test_what_a_kernel_calls_is_named_before_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch.triton, "JITFunction", Function)
    monkeypatch.setattr(launch, "_settled", set())
    known: dict[str, Any] = {"number": 3}
    kernel = Function("kernel", known, ("half", "number", "whole", "unknown"))
    Function("whole", known, ("half", "whole"))  # it calls itself
    Function("half", known, ("whole",))
    assert launch.settle(kernel) is kernel
    assert known["named"] == ["whole", "half", "kernel"]
    launch.settle(kernel)
    assert len(known["named"]) == 3


@pytest.mark.parametrize("most", [3, 1])
def test_amd_has_its_own_options(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launch, "AMD_STAGES", most)
    given = {"HOW": "tf32x3", "N": 4, "num_stages": 4, "maxnreg": 96, "num_warps": 8}
    assert launch.on_amd(given) == {"HOW": "ieee", "N": 4, "num_stages": most, "num_warps": 8}
    assert launch.on_amd({"HOW": "half", "num_stages": 1}) == {"HOW": "half", "num_stages": 1}
    assert launch.on_amd({"HOW": "row"}) == {"HOW": "row"}


def test_targets_have_names() -> None:
    for name in ("sm_80", "sm_100", "gfx942", "gfx1100"):
        assert name_of(target_named(name)) == name
    assert target_named("gfx942").warp_size == 64 and target_named("gfx1100").warp_size == 32
    for name in ("h100", "sm_", "90", "gfx"):
        with pytest.raises(ValueError, match="named like sm_90 or gfx942"):
            target_named(name)


def test_recordings_of_several_threads_end_in_any_order() -> None:
    """None goes on for ever, which would keep the tensors of all launches; alone means alone."""
    began, ended = threading.Event(), threading.Event()
    found: list[int] = []

    def rehearse() -> None:
        with launch.recorded(alone=True) as launches:
            began.set()
            launch.run(Kernel(), (1,), torch.empty(1, device="meta"))
            ended.wait()
        found.append(len(launches))

    thread = threading.Thread(target=rehearse)
    with launch.recorded() as launches, launch.recorded(alone=True) as alone:
        thread.start()
        began.wait()
        launch.run(Kernel(), (1,), torch.empty(1, device="meta"))
    ended.set()
    thread.join()
    assert (len(launches), len(alone), found) == (0, 1, [1])
    with launch.recorded() as launches:
        launch.run(Kernel(), (1,), torch.empty(1, device="meta"))
    assert (len(launches), len(alone), found) == (1, 1, [1])
