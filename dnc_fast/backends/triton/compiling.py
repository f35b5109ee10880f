"""All kernels of a run compiled at once, in several processes, before the first is launched.

Compiled one after another, during the first step, they take a minute. What is compiled here goes
into Triton's cache, where launches find it; a marker beside it records that, so that the next
process starts no others. If anything goes wrong here, kernels are compiled at their first launch as
usual.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import torch
import triton
from torch.fx.experimental import _config as config
from torch.utils._python_dispatch import _disable_current_modes

from ...compiling import tell
from ...kernels.gpu import compile as compiler
from ...kernels.gpu import launch
from ...kernels.gpu.compile import Build
from ...workers import cores, one_at_a_time, worker_command, worker_environment

FEW = 2
"""So few kernels are compiled as they are launched: starting a process takes longer."""

SERVER = f"{__package__}.compile_server"
"""The module that compiles in processes of its own."""

FOLDER = "dnc_fast"
"""Of the markers, in Triton's cache."""

log = logging.getLogger("dnc_fast")

_compiled: set[tuple[str, Build]] = set()
"""Targets and builds that this process need not compile again."""
_lock = threading.Lock()


def builds_of_rehearsal(rehearse: Callable[[], None]) -> list[Build]:
    """What is compiled for the launches of a rehearsal.

    If it needs values that a launch computes, it ends there. Its launches and its torch operations
    are not reported to anyone else.
    """
    patch: Any = config.patch  # type: ignore[attr-defined]  # torch adds it at run time
    with (
        launch.recorded(alone=True) as launches,
        patch(meta_nonzero_assume_all_nonzero=True),
        _disable_current_modes(),
    ):
        try:
            rehearse()
        except (NotImplementedError, RuntimeError) as error:  # what torch raises without data
            log.info("a rehearsal of a run ended early: %s", error)
    return compiler.builds_of(launches)


def compile_rehearsed(rehearse: Callable[[], None], device: torch.device) -> None:
    """Compile what a rehearsal launches for a GPU; whatever goes wrong, the run goes on."""
    try:
        builds = builds_of_rehearsal(rehearse)
        with torch.cuda.device(device):
            compile_missing(builds, triton.runtime.driver.active.get_current_target())
    except Exception as error:
        log.warning("GPU kernels are compiled one by one, as they are launched: %s", error)


def compile_missing(builds: Sequence[Build], target: Any) -> None:
    """Compile those builds for a device of this machine that are not in Triton's cache.

    Args:
        builds: what will be launched.
        target: of the current device, as Triton's driver says.

    Raises:
        OSError, SubprocessError: the cache cannot be written, or no processes can be started.
    """
    name = compiler.name_of(target)
    with _lock:
        todo = [build for build in builds if (name, build) not in _compiled]
        _compiled.update((name, build) for build in todo)
        if len(todo) <= FEW:
            return
        with one_at_a_time(cache_folder() / FOLDER):
            todo = [build for build in todo if not marker(build, target).exists()]
            if len(todo) > FEW:
                _compile_loudly(todo, target)


def _compile_loudly(builds: list[Build], target: Any) -> None:
    """Compile builds for a device of this machine, and say so."""
    processes = min(cores(), len(builds))
    log.info("compiling %d GPU kernels in %d processes", len(builds), processes)
    started = time.monotonic()
    if (command := worker_command(SERVER)) is None:
        errors = _compile_here(builds, target)
    else:
        errors = _compile_in_processes(command, builds, target, processes, launchers=True)
    log.info("compiled in %.1f s", time.monotonic() - started)
    for build, error in errors.items():  # whoever launches it gets the error itself
        log.warning("%s was not compiled: %s", build, error)


def compile_anywhere(builds: Sequence[Build], target: Any) -> dict[Build, str]:
    """Compile builds for any target, on a machine without it; returns errors.

    Where no other Python can be started, this process does it, and can launch nothing afterwards.
    """
    if not builds:
        return {}
    if (command := worker_command(SERVER)) is not None:
        return _compile_in_processes(command, builds, target, min(cores(), len(builds)))
    compiler.without_device(target)
    return _compile_here(builds, target)


def _named(builds: Sequence[Build]) -> str:
    return f"{len(builds)} GPU kernels"


def _compile_here(builds: Sequence[Build], target: Any) -> dict[Build, str]:
    """Compile builds in this process, one by one; returns errors."""
    errors, what = {}, _named(builds)
    for count, build in enumerate(builds):
        tell(what, count, len(builds))
        if (error := compile_one(build, target)) is not None:
            errors[build] = error
    tell(what, len(builds), len(builds))
    return errors


def compile_one(build: Build, target: Any, launcher: bool = False) -> str | None:
    """Compile a build for the target of this process, and mark it; the error if that fails."""
    try:
        kernel = compiler.compiled(build)
    except Exception as error:  # of Triton, or of what it calls
        return f"{type(error).__name__}: {error}"
    if launcher:
        compiler.build_launcher(kernel)
    place = marker(build, target)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.touch()
    return None


def _compile_in_processes(
    command: list[str],
    builds: Sequence[Build],
    target: Any,
    processes: int,
    launchers: bool = False,
) -> dict[Build, str]:
    """Compile builds for any target in new processes; returns errors.

    Args:
        command: starts the server.
        launchers: also compile what launches kernels; needs the target's own libraries.

    Raises:
        OSError, SubprocessError: the processes cannot be started, or were ended.
    """
    environment = worker_environment() | {"TRITON_CACHE_DIR": str(cache_folder())}
    environment.pop("TRITON_INTERPRET", None)
    errors, done, what = {}, 0, _named(builds)
    tell(what, done, len(builds))
    with (
        TemporaryFile() as said,
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, env=environment,
            start_new_session=True,
        ) as server,
    ):  # fmt: skip
        assert server.stdin is not None and server.stdout is not None
        try:
            with suppress(BrokenPipeError):
                pickle.dump((list(builds), target, processes, launchers), server.stdin)
                server.stdin.close()
            for line in server.stdout:
                index, error = json.loads(line)
                done += 1
                tell(what, done, len(builds))
                if error is not None:
                    errors[builds[index]] = error
        except BaseException:
            os.killpg(server.pid, signal.SIGKILL)  # its own processes too
            raise
        if server.wait() or done < len(builds):
            said.seek(0)
            reason = said.read().decode(errors="replace").strip()[-500:]
            raise subprocess.SubprocessError(f"the compiling processes ended early: {reason}")
    return errors


def cache_folder() -> Path:
    """Triton's cache."""
    return Path(triton.knobs.cache.dir)


def marker(build: Build, target: Any) -> Path:
    """The file that says that a build is in Triton's cache."""
    return cache_folder() / FOLDER / build.identity(target)
