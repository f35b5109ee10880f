"""All kernels of a run are compiled beforehand: none is forgotten and compiled again."""

import logging
import os
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from states import HAS_NUMBA

from dnc_fast import workers
from dnc_fast.compiling import watched

# On a CPU


SCRIPT = """
import pkgutil, importlib
import torch
from dnc_fast import DNC, DNCCell, functional
from dnc_fast.controllers import CONTROLLERS
from dnc_fast.kernels import cpu
from dnc_fast.kernels.cpu.compile import Kernel
from dnc_fast.step_options import USAGE_ORDERS

def train(cells=5, steps=3, **options):
    model = DNC(3, 4, num_cells=cells, cell_size=3, num_read_heads=2, backend="cpu", **options)
    model(torch.randn(steps, 2, 3))[0].sum().backward()

for controller in CONTROLLERS:
    train(controller=controller, num_layers=2, checkpoint_interval=2)
train(cells=300, num_write_heads=2)
train(dropout=0.5, num_layers=2)
for linkage in ("dense", "sparse", "separable", "none"):
    for order in USAGE_ORDERS:
        train(linkage=linkage, usage_order=order, read_topk=2)
        train(linkage=linkage, usage_order=order, write_topk=2, num_write_heads=2)
train(cells=5000, steps=2, linkage="sparse", read_topk=4, write_topk=4)
train(cells=5000, steps=2, linkage="separable", num_write_heads=2)
for varied in (
    {"similarity": "dot"}, {"allocation": "softmax"}, {"masked_lookup": True},
    {"deallocate": True}, {"link_sharpness": True},
):
    for linkage in ("dense", "separable"):
        train(linkage=linkage, checkpoint_interval=2, **varied)
train(cells=300, deallocate=True)
train(dropout=0.5, num_layers=2, deallocate=True)
cell = DNCCell(3, 4, num_cells=5, cell_size=3, backend="cpu", masked_lookup=True)
cell(torch.randn(2, 3))[0].sum().backward()
cell = DNCCell(3, 4, num_cells=5, cell_size=3, backend="cpu")
cell(torch.randn(2, 3))[0].sum().backward()
usage = torch.rand(2, 5, requires_grad=True)
functional.allocation_weighting(usage, backend="cpu").sum().backward()
link = torch.rand(2, 1, 5, 5, requires_grad=True)
weights = torch.rand(2, 1, 5)
functional.linkage(link, weights, weights, torch.rand(2, 2, 5), backend="cpu")[1].sum()

missed = []
for module in pkgutil.iter_modules(cpu.__path__):
    module = importlib.import_module(f"{cpu.__name__}.{module.name}")
    for name, function in vars(module).items():
        if isinstance(function, Kernel):
            missed += [(name, kinds) for kinds in function.whole.stats.cache_misses]
assert not missed, missed
"""


@pytest.mark.skipif(not HAS_NUMBA, reason="needs numba")
def test_no_kernel_is_compiled_in_the_process_that_uses_it():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


# For a GPU: several kernels at once, before the first launch


def compiling():
    """The module under test, for those who have Triton."""
    pytest.importorskip("triton", minversion="3.6")
    from dnc_fast.backends.triton import compiling

    return compiling


def some_builds(count):
    """Builds of which nothing is compiled here."""
    from dnc_fast.kernels.gpu.compile import Build

    return [Build("module", f"kernel_{index}", (), (), ()) for index in range(count)]


TARGET = SimpleNamespace(backend="cuda", arch=90, warp_size=32)


@pytest.fixture
def here(monkeypatch, tmp_path):
    """The module with an empty cache, markers by name, and a record of what is compiled here."""
    module = compiling()
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(module, "_compiled", set())
    monkeypatch.setattr(module, "marker", lambda build, target: tmp_path / build.kernel)
    done = []
    monkeypatch.setattr(module, "compile_one", lambda build, target: done.append(build.kernel))
    monkeypatch.setattr(module, "done", done, raising=False)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    active = SimpleNamespace(get_current_target=lambda: TARGET)
    monkeypatch.setattr(module.triton.runtime.driver, "_active", active)
    return module


def test_without_another_python_this_process_compiles(here, monkeypatch, caplog):
    monkeypatch.setattr(workers, "python_executable", lambda: None)
    told = []
    with caplog.at_level(logging.INFO, "dnc_fast"), watched(lambda *given: told.append(given)):
        here.compile_missing(some_builds(4), TARGET)
        here.compile_missing(some_builds(4), TARGET)
    assert here.done == [f"kernel_{index}" for index in range(4)]
    assert told == [("4 GPU kernels", index, 4) for index in range(5)]
    assert "compiling 4 GPU kernels in" in caplog.text and "compiled in" in caplog.text


def test_what_another_process_compiled_is_left_alone(here, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(workers, "python_executable", lambda: None)
    for index in range(2, 6):
        (tmp_path / f"kernel_{index}").touch()
    here.compile_missing(some_builds(6), TARGET)  # two are left, whose launches compile them
    assert not here.done and not caplog.text
    (tmp_path / "kernel_5").unlink()
    monkeypatch.setattr(here, "_compiled", set())
    here.compile_missing(some_builds(6), TARGET)
    assert here.done == ["kernel_0", "kernel_1", "kernel_5"]


def test_processes_that_cannot_be_started_stop_nothing(here, monkeypatch, caplog):
    for program, reason in (("/bin/false", "ended early"), ("/nowhere/python", "No such file")):
        monkeypatch.setattr(workers, "python_executable", lambda program=program: program)
        monkeypatch.setattr(here, "_compiled", set())
        monkeypatch.setattr(here, "builds_of_rehearsal", lambda rehearse: some_builds(3))
        with caplog.at_level(logging.WARNING, "dnc_fast"):
            here.compile_rehearsed(lambda: None, torch.device("cuda"))
        assert "compiled one by one" in caplog.text and reason in caplog.text
        caplog.clear()
    assert not here.done


def test_a_rehearsal_that_fails_stops_nothing(here, monkeypatch, caplog):
    def fail():
        raise AssertionError("the reason")

    here.compile_rehearsed(fail, torch.device("cuda"))
    assert "compiled one by one" in caplog.text and "the reason" in caplog.text
    with pytest.raises(AssertionError, match="the reason"):  # who asks for its builds is told
        here.builds_of_rehearsal(fail)


def test_nobody_hears_of_a_rehearsal():
    module = compiling()
    from torch.utils._python_dispatch import TorchDispatchMode

    from dnc_fast.kernels.gpu import launch

    class Heard(TorchDispatchMode):
        count = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.count += 1
            return function(*args, **(kwargs or {}))

    def kernel():
        raise AssertionError

    kernel.arg_names = ()

    def rehearse():
        launch.run(kernel, (1,), torch.zeros(3, device="meta") + 1)

    with Heard() as heard, launch.recorded() as launches:
        assert len(module.builds_of_rehearsal(rehearse)) == 1
        assert not launches and not heard.count
        rehearse()
    assert len(launches) == 1 and heard.count


def test_no_gpu_no_compiling(monkeypatch):
    compiling()
    from dnc_fast.backends.triton import backend

    def fail(*given):
        raise AssertionError

    monkeypatch.setattr(backend, "compile_rehearsed", fail)
    backend.TritonBackend().compile_ahead(torch.device("cpu"), fail)
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    backend.TritonBackend().compile_ahead(torch.device("cuda"), fail)


IN_PROCESSES = """
import logging, os, sys
from pathlib import Path
import torch
from dnc_fast import DNC
from dnc_fast.backends.triton import compiling, travelling
from dnc_fast.compiling import watched
from dnc_fast.kernels.gpu import compile as compiler
from dnc_fast.kernels.gpu import launch, separable_linkage

logging.basicConfig(level=logging.INFO)
cell = DNC(3, 4, num_cells=5, cell_size=3, linkage="none", device="meta").cell
found = compiling.builds_of_rehearsal(lambda: cell.rehearse(2))
builds = [build for build in found if build.kernel in ("scores_kernel", "weights_kernel",
                                                       "totals_kernel", "blocks_kernel")]
target = compiler.target_named("sm_90")
cache = Path(os.environ["TRITON_CACHE_DIR"])

def files():
    return {path for path in cache.rglob("*") if "tmp." not in path.name}

# Compiled in processes, and found by what a launch would do.
told = []
with watched(lambda *given: told.append(given[1:])):
    compiling.compile_missing(builds, target)
assert told[0] == (0, len(builds)) and told[-1] == (len(builds),) * 2, told
assert all(compiling.marker(build, target).exists() for build in builds)
known = files()
compiler.without_device(target)
for build in builds:
    compiler.compiled(build)
assert files() == known, files() - known

# Numbers in memory are described as a launch sees them.
scores = builds[0].function()
launches = []
for place, size, odd in ((0, 32, 3), (1, 1, 32), (4, 3, 1)):
    numbers = [torch.zeros(99)[place:] for _ in scores.arg_names]
    constants = dict(builds[0].constants)
    given = [number for number, name in zip(numbers, scores.arg_names) if name not in constants]
    options = {"num_warps": 1, "enable_fp_fusion": True}
    one = launch.Launch(scores, (1,), tuple(given), constants, 1, True)
    now = scores.warmup(*given, grid=(1,), **constants, **options)
    assert compiler.compiled(compiler.build_of(one)).hash == now.hash
    launches.append(now.hash)
assert len(set(launches)) == 2, launches

# A folder is moved, and everything is found where it arrives.
there, here = Path(sys.argv[1]) / "there", Path(sys.argv[1]) / "here"
builds = builds[:2]
assert not travelling.compile_folder(builds, ["sm_90", "gfx942"], there)
assert not travelling.compile_folder(builds, ["sm_90"], there)
assert {path.suffix for path in there.glob("*/*.*")} == {".json", ".cubin", ".hsaco"}
os.rename(there, here)
cache = here
os.environ["TRITON_CACHE_DIR"] = str(here)
travelling.arrive()
known = files()
for name in ("sm_90", "gfx942"):
    compiler.without_device(compiler.target_named(name))
    for build in builds:
        build.function().device_caches.clear()
        compiler.compiled(build)
assert files() == known, files() - known
manifest = here / compiling.FOLDER / travelling.MANIFEST
manifest.write_text(manifest.read_text().replace('"compiler": "', '"compiler": "x'))
try:
    travelling.compile_folder(builds, ["sm_90"], here)
except ValueError as error:
    assert "same Triton and Python" in str(error)
else:
    raise AssertionError
"""


def test_processes_compile_what_launches_then_find(tmp_path):
    pytest.importorskip("triton", minversion="3.6")
    environment = os.environ | {"TRITON_CACHE_DIR": str(tmp_path / "cache")}
    environment.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, "-c", IN_PROCESSES, str(tmp_path)],
        capture_output=True, text=True, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "GPU kernels in" in done.stderr


NAMED_ONCE = """
import importlib, pkgutil, triton
from dnc_fast.kernels import gpu
from dnc_fast.kernels.gpu import launch

order = []
hashed = triton.JITFunction.cache_key

class Noted:
    def __get__(self, function, kind):
        order.append(function)
        return hashed.__get__(function, kind)

triton.JITFunction.cache_key = Noted()
for module in pkgutil.iter_modules(gpu.__path__):
    module = importlib.import_module(f"{gpu.__name__}.{module.name}")
    for name in [name for name in vars(module) if name.endswith("_kernel")]:
        launch.settle(getattr(module, name))
places = {}
for place, function in enumerate(order):
    places.setdefault(id(function), place)
users = [f for f in order if f.fn.__name__.endswith("_kernel")]
calls = 0
for function in users:
    for name in function.fn.__code__.co_names:
        used = function.fn.__globals__.get(name)
        if isinstance(used, triton.JITFunction):
            calls += 1
            assert places[id(used)] < places[id(function)], (function, used)
assert calls > 50, calls
"""


def test_kernels_are_named_after_what_they_call():
    """Or Triton 3.6 names them by what the process launched before, see `launch.settle`."""
    pytest.importorskip("triton", minversion="3.6")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-c", NAMED_ONCE]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
