"""How CPU kernels are compiled and kept: what the disk, the processes and the user do to it."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")
from states import python

from dnc_fast import workers
from dnc_fast.backends.cpu import compiling
from dnc_fast.compiling import tell, watched
from dnc_fast.kernels.cpu import groups, store
from dnc_fast.kernels.cpu.compile import Kernel, apart, kernel

ARRAY = groups._type("f1", "float32")


def add_one(values):
    for n in range(values.shape[0]):
        values[n] += 1


@kernel
def _square(x):
    return x * x


def squares(values):
    for n in range(values.shape[0]):
        values[n] = _square(values[n])


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for compiled kernels."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path / "of workers"))
    monkeypatch.setattr(store, "BASE", tmp_path)
    monkeypatch.setattr(store, "FOLDER", tmp_path / "kernels-now")
    monkeypatch.setattr(store, "_received", {})
    monkeypatch.setattr(store._Notes, "problem", "")
    monkeypatch.setattr(store._Notes, "used", False)
    return tmp_path / "kernels-now"


def works(function: Callable[..., Any] = add_one) -> Kernel:
    """Call a function as a kernel, as a new process would; it must do what it says."""
    new, values = kernel(function), np.arange(3, dtype=np.float32)
    new(values)
    assert values.tolist() == ([1, 2, 3] if function is add_one else [0, 1, 4])
    return new


def was_compiled(function: Kernel) -> bool:
    """Rather than loaded."""
    return bool(function.whole.stats.cache_misses)


# The store


def test_a_kernel_is_compiled_once_and_then_loaded(folder: Path) -> None:
    assert was_compiled(works(squares))
    assert len(list(folder.iterdir())) == 1  # none for the part inside
    assert not was_compiled(works(squares))


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "zeros": lambda content: bytes(len(content)),
    "one bit": lambda content: content[:-5] + bytes([content[-5] ^ 1]) + content[-4:],
    "something else": lambda content: with_checksum(pickle.dumps("something else")),
    "no pickle": lambda content: with_checksum(b"no pickle"),
}


def with_checksum(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest() + payload


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_written_anew(folder: Path, damage: str) -> None:
    works()
    (path,) = folder.iterdir()
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    assert was_compiled(works())
    assert not was_compiled(works())


def fails_with(number: int) -> Callable[..., Any]:
    def fail(*given: Any, **named: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["tempfile.mkstemp", "os.replace", "pathlib.Path.mkdir"])
def test_where_nothing_can_be_written_kernels_stay_in_memory(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
    call: str,
) -> None:
    monkeypatch.setattr(call, fails_with(number))
    for function in (add_one, squares):
        assert was_compiled(works(function))
    said = [record.message for record in caplog.records]
    assert len(said) == 1 and os.strerror(number) in said[0] and "NUMBA_CACHE_DIR" in said[0]
    assert str(folder) in said[0] and os.strerror(number) in store.problem()
    assert not folder.exists() or not list(folder.iterdir())  # nothing half written
    monkeypatch.undo()


def test_what_a_read_only_folder_holds_is_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    works()
    for call in ("tempfile.mkstemp", "os.utime"):
        monkeypatch.setattr(call, fails_with(errno.EROFS))
    assert not was_compiled(works())
    assert not caplog.records


def test_a_disk_that_fills_up_within_a_file(tmp_path: Path) -> None:
    """The real thing: no file may get longer than some bytes."""
    pytest.importorskip("resource")
    code = """
import resource, sys
import numpy as np
sys.path.insert(0, {tests!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
from test_cpu_compiling import works, was_compiled
assert was_compiled(works()) and was_compiled(works())
"""
    python(code.format(tests=os.path.dirname(__file__)), NUMBA_CACHE_DIR=str(tmp_path))
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]  # nothing half written


def test_folders_of_other_versions_go_when_unused_for_a_month(folder: Path) -> None:
    month = 31 * 86_400
    for name, age in (("old", month), ("recent", 86_400)):
        other = folder.parent / f"kernels-{name}"
        (other / "deeper").mkdir(parents=True)
        (other / "deeper/file").write_text("code")
        os.utime(other, (time.time() - age,) * 2)
    (folder.parent / "not ours").mkdir()
    os.utime(folder.parent / "not ours", (0, 0))
    works()
    names = {path.name for path in folder.parent.iterdir()}
    assert names == {"kernels-now", "kernels-recent", "not ours"}
    assert store.size() > 1000


def test_what_is_used_does_not_get_old(folder: Path) -> None:
    works()
    os.utime(folder, (0, 0))
    works()
    assert folder.stat().st_mtime > time.time() - 60


def test_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pathlib.Path.home", fails_with_runtime_error)
    monkeypatch.setattr(store.config, "CACHE_DIR", "")
    assert store.base_folder() is None
    monkeypatch.setattr(store, "FOLDER", None)
    monkeypatch.setattr(store, "BASE", None)
    assert was_compiled(works()) and not store.is_writable() and store.size() == 0


def fails_with_runtime_error() -> Path:
    raise RuntimeError("Could not determine home directory.")


# What is compiled


def test_parts_of_a_kernel() -> None:
    assert kernel(squares).parts() >= {_square}
    step = groups.GROUPS["step"][0][0]
    names = {part.name for part in step.parts()}
    assert {"step._allocate", "allocation.free_list", "elementary.exp"} <= names
    assert not any("backward" in name for name in names)


def test_arguments_apart_and_parts_of_a_name_do_not_meet(folder: Path) -> None:
    """Two kernels with a part each of the same name, compiled into one process."""

    def make(number: float) -> Kernel:
        @kernel
        def part(x):
            return x + number

        @apart
        def whole(values):
            values[0] = part(values[0])

        whole.whole._cache = store.Store(f"whole{number}")
        return whole

    values = np.zeros(1, np.float32)
    for number in (1.0, 10.0):
        make(number)(values)
    for number in (1.0, 10.0):  # now they are loaded
        make(number)(values)
    assert values[0] == 22


def test_shares_are_even_and_complete() -> None:
    shares = compiling._shares({"a": 50, "b": 30, "c": 20, "d": 1})
    assert sorted(name for share in shares for name in share) == ["a", "b", "c", "d"]
    assert len(shares) == min(4, workers.cores())


# Processes


@pytest.fixture
def nothing_is_ready(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As in a new process with an empty folder, for the group "largest"."""
    monkeypatch.setattr(compiling, "_ready", set())
    monkeypatch.setattr("dnc_fast.compiling._said", set())
    for function, _ in groups.GROUPS["largest"]:
        new = kernel(function.py_func)
        monkeypatch.setattr(function, "whole", new.whole)


@pytest.fixture
def told() -> Iterator[list[tuple[int, int]]]:
    """What is told about compiling."""
    seen: list[tuple[int, int]] = []
    with watched(lambda *progress: seen.append(progress[1:])):
        yield seen


def largest_is_ready() -> list[bool]:
    """Ensure that; returns for each kernel whether this process compiled it."""
    import torch

    compiling.ensure(torch.float32, "largest")
    found = groups.calls("largest", "float32")
    assert all(signature in one.whole.overloads for one, signature in found)
    return [was_compiled(one) for one, _ in found]


def assert_told(seen: list[tuple[int, int]]) -> None:
    total = seen[0][1]
    assert seen[0] == (0, total) and seen[-1] == (total, total) and total > 1
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen.count((total, total)) == 1


def test_workers_compile_and_this_process_loads(
    nothing_is_ready: None, folder: Path, told: list[tuple[int, int]]
) -> None:
    assert largest_is_ready() == [False]
    assert_told(told)
    assert {path.name.partition("-")[0] for path in folder.iterdir()} == {
        "lock",
        "selection.largest",
    }
    count = len(told)
    largest_is_ready()
    assert len(told) == count  # nothing to do any more


def test_workers_bring_what_the_disk_does_not_take(
    nothing_is_ready: None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.mkstemp", fails_with(errno.ENOSPC))
    assert largest_is_ready() == [False]


def test_one_process_compiles_for_all(tmp_path: Path) -> None:
    """Such as the ranks of a distributed run."""
    code = """
import sys
sys.path.insert(0, {tests!r})
import numpy, torch
from dnc_fast.backends.cpu import compiling
started = []
in_workers = compiling._in_workers
compiling._in_workers = lambda *given: started.append(given) or in_workers(*given)
compiling.ensure(torch.float32, "parts backward")
print(len(started))
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-c", code.format(tests=os.path.dirname(__file__))]
    running = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    assert sum(int(process.communicate(timeout=120)[0]) for process in running) == 1


def test_a_lock_that_is_never_given_back(folder: Path) -> None:
    pytest.importorskip("fcntl")
    with compiling.locked():
        begun = time.monotonic()
        with compiling.locked(0.3):
            assert time.monotonic() - begun >= 0.3
    with compiling.locked(60):
        assert time.monotonic() - begun < 30


NO_WORKERS = {
    "frozen": ("sys", "frozen", True),
    "no Python": ("sys", "executable", None),
    "gone": ("sys", "executable", "/nowhere/python"),
    "no processes": ("subprocess", "Popen", fails_with(errno.EAGAIN)),
}


@pytest.mark.parametrize("reason", NO_WORKERS)
def test_without_workers_this_process_compiles(
    nothing_is_ready: None,
    monkeypatch: pytest.MonkeyPatch,
    told: list[tuple[int, int]],
    reason: str,
) -> None:
    module, name, value = NO_WORKERS[reason]
    monkeypatch.setattr(sys.modules[module], name, value, raising=False)
    assert largest_is_ready() == [True]
    assert_told(told)


@pytest.mark.parametrize(
    "code", ["raise SystemExit(1)", "import os; os.kill(os.getpid(), 9)", "print('no pickle')"]
)
def test_workers_that_fail_are_replaced_by_this_process(
    nothing_is_ready: None, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr(compiling, "worker_command", lambda *words: [sys.executable, "-c", code])
    assert largest_is_ready() == [True]


def test_users_of_the_library_are_told_once(
    nothing_is_ready: None, caplog: pytest.LogCaptureFixture, folder: Path
) -> None:
    caplog.set_level(logging.INFO, "dnc_fast")
    largest_is_ready()
    tell("CPU kernels", 0, 5)
    (record,) = caplog.records
    assert record.name == "dnc_fast" and "compiling CPU kernels, only this once" in record.message


def test_a_frozen_program_starts_no_process_and_has_the_same_bits(tmp_path: Path) -> None:
    """Compiled by workers, by the process itself, and loaded."""
    code = """
import subprocess, sys, hashlib
import torch
if {frozen}:
    sys.frozen = True
    sys.executable = "/bin/true"
    subprocess.Popen = None
from dnc_fast import DNC
torch.manual_seed(0)
torch.set_num_threads(1)
model = DNC(3, 8, num_cells=70, cell_size=5, num_read_heads=3, linkage="separable", backend="cpu")
output, state = model(torch.randn(6, 2, 3))
output.square().sum().backward()
tensors = [output, *state.memory.memory, *(one.grad for one in model.parameters())]
print(hashlib.sha256(b"".join(one.detach().numpy().tobytes() for one in tensors)).hexdigest())
"""
    found = {
        (frozen, time): python(
            code.format(frozen=frozen), NUMBA_CACHE_DIR=str(tmp_path / str(frozen))
        )
        for frozen in (False, True)
        for time in ("compiled", "loaded")
    }
    assert len(set(found.values())) == 1, found


INTERRUPTED = """
import signal, sys
import torch
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell ignores it in the background
from dnc_fast import DNC
try:
    DNC(3, 8, backend="cpu")(torch.zeros(2, 1, 3))[0].sum().backward()
except KeyboardInterrupt:
    print("interrupted", file=sys.stderr, flush=True)
    raise
"""


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs process groups")
def test_ctrl_c_ends_compiling_at_once_and_all_workers(tmp_path: Path) -> None:
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED], stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        assert "compiling CPU kernels" in process.stderr.readline()
        deadline = time.monotonic() + 60
        while not (workers := children(process.pid)) and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        said = ""  # the progress of compiling comes first
        for line in iter(process.stderr.readline, ""):
            said += line
            if "interrupted" in line:
                break
        assert "interrupted" in said, said
        assert time.monotonic() - begun < 5
        errors = process.stderr.read()  # Python takes a second or more to leave torch
    assert process.returncode != 0 and errors.rstrip().endswith("KeyboardInterrupt")
    assert workers and not any(Path(f"/proc/{worker}").exists() for worker in workers)


def children(parent: int) -> list[int]:
    """The processes that a process has started; none where there is no /proc."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == parent:
            found.append(int(stat.parent.name))
    return found
