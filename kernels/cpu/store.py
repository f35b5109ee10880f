"""Compiled kernels on disk, a file for each kernel and the types of its arguments.

Files are written completely before they get their name, and begin with a checksum: one that a full
disk or a crash left incomplete is removed, and the kernel compiled again. Where nothing can be
written, kernels are kept in memory only. Folders that nobody used for a month are removed.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import llvmlite
import numba
from numba.core import config, serialize
from numba.core.caching import _Cache
from numba.core.compiler import CompileResult

LOG = logging.getLogger("dnc_fast")

UNUSED_DAYS = 30
"""Folders of other versions are removed when unused for so long."""


def base_folder() -> Path | None:
    """Where all versions' folders are; None where this system has no such place."""
    if getattr(config, "CACHE_DIR", ""):
        return Path(config.CACHE_DIR)
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"], "dnc_fast")
    try:
        return Path.home() / ".cache" / "dnc_fast"
    except RuntimeError:  # nobody's home
        return None


def _digest() -> str:
    """Of all kernels' sources, and of what compiles them."""
    versions = f"{numba.__version__} {llvmlite.__version__} {sys.version}"
    digest = hashlib.sha256(versions.encode())
    folder = Path(__file__).parent
    for source in sorted([*folder.glob("*.py"), *folder.parent.glob("*.py")]):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


BASE = base_folder()
FOLDER = BASE and BASE / f"kernels-{_digest()}"
"""Where this version's kernels are stored."""


class _Notes:
    """What a process remembers about the folder."""

    problem = ""
    used = False


_received: dict[str, bytes] = {}
"""By file name, what other processes compiled for this one and it did not load yet."""

sent_to: list[Callable[[str, bytes], None]] = []
"""In a process that compiles for another: called with each file instead of writing it."""


def problem() -> str:
    """Why kernels cannot be stored; empty where they can, or nobody tried yet."""
    return _Notes.problem


def is_writable() -> bool:
    """Whether a file can be made in the folder, now."""
    if FOLDER is None:
        return False
    try:
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=FOLDER):
            return True
    except OSError:
        return False


def read(name: str) -> bytes | None:
    """The content of a file; None if there is none that is whole."""
    if FOLDER is None:
        return None
    path = FOLDER / name
    try:
        content = path.read_bytes()
    except OSError:
        return None
    payload = content[32:]
    if hashlib.sha256(payload).digest() != content[:32]:
        forget(name)
        return None
    if not _Notes.used:
        _Notes.used = True
        with contextlib.suppress(OSError):
            os.utime(FOLDER)
    return payload


def receive(name: str, payload: bytes) -> None:
    """Take in and store what another process compiled."""
    _received[name] = payload
    write(name, payload)


def write(name: str, payload: bytes) -> None:
    """Write a file; if that fails, says so once in a process."""
    if sent_to:
        for send in sent_to:
            send(name, payload)
        return
    try:
        if FOLDER is None:
            raise OSError("there is no home folder")
        new = not FOLDER.exists()
        FOLDER.mkdir(parents=True, exist_ok=True)
        _write_whole(FOLDER / name, hashlib.sha256(payload).digest() + payload)
        if new:
            prune()
    except OSError as error:
        if not _Notes.problem:
            _Notes.problem = str(error)
            LOG.warning(
                "compiled CPU kernels cannot be stored in %s (%s), so every process compiles them "
                "again; NUMBA_CACHE_DIR can name another folder",
                FOLDER or "~/.cache/dnc_fast",
                error,
            )


def _write_whole(path: Path, content: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".part")
    try:
        with open(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise


def forget(name: str) -> None:
    """Remove a file that cannot be used."""
    if FOLDER is not None:
        with contextlib.suppress(OSError):
            (FOLDER / name).unlink()


def prune() -> None:
    """Remove what no process has used for `UNUSED_DAYS`, and what killed ones left half written."""
    if BASE is None or FOLDER is None:
        return
    now = time.time()
    with contextlib.suppress(OSError):
        for folder in BASE.glob("kernels-*"):
            if folder != FOLDER and folder.stat().st_mtime < now - UNUSED_DAYS * 86_400:
                shutil.rmtree(folder, ignore_errors=True)
        for path in FOLDER.glob("*.part"):
            if path.stat().st_mtime < now - 3_600:
                path.unlink()


def size() -> int:
    """Bytes of all versions' kernels."""
    if BASE is None:
        return 0
    with contextlib.suppress(OSError):
        return sum(path.stat().st_size for path in BASE.glob("kernels-*/**/*") if path.is_file())
    return 0


class Store(_Cache):
    """What Numba asks for the compiled code of a kernel, and gives it to."""

    def __init__(self, kernel: str) -> None:
        self._kernel = kernel

    def file_name(self, signature: Any, target: Any) -> str:
        """The file for these types of arguments and this CPU."""
        about = f"{signature} {target.codegen().magic_tuple()}"
        return f"{self._kernel}-{hashlib.sha256(about.encode()).hexdigest()[:16]}"

    def has(self, signature: Any, target: Any) -> bool:
        """Whether it can be loaded."""
        name = self.file_name(signature, target)
        return name in _received or read(name) is not None

    def load_overload(self, signature: Any, target: Any) -> Any:
        """The compiled code; None if it must be compiled."""
        name = self.file_name(signature, target)
        payload = _received.pop(name, None) or read(name)
        if payload is None:
            return None
        try:
            return CompileResult._rebuild(target, *pickle.loads(payload))
        except Exception:  # written by something else, whatever it was
            forget(name)
            return None

    def save_overload(self, signature: Any, result: Any) -> None:
        """Store compiled code."""
        payload = serialize.dumps(result._reduce())
        write(self.file_name(signature, result.target_context), payload)

    @property
    def cache_path(self) -> str:
        """Where the files are."""
        return str(FOLDER)

    def enable(self) -> None: ...

    def disable(self) -> None: ...

    def flush(self) -> None: ...
