"""A portable folder of compiled kernels: made without a GPU, used as Triton's cache elsewhere.

Triton finds a kernel there if its own version and that of Python are the same, and if its list of
the kernel's files holds absolute paths. So the lists are rewritten where the folder arrives.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import triton

from ...kernels.gpu import compile as compiler
from ...kernels.gpu.compile import Build
from .compiling import FOLDER, cache_folder, compile_anywhere, marker

MANIFEST = "manifest.json"
NEEDED = (".json", ".cubin", ".hsaco")
"""The files that a launch needs of a compiled kernel; the compiler's drafts stay behind."""

log = logging.getLogger("dnc_fast")


def compile_folder(
    builds: Sequence[Build], targets: Sequence[str], folder: Path
) -> dict[tuple[Build, str], str]:
    """Compile builds for targets into a portable folder; returns errors, by build and target.

    Compiling for more targets, or more builds, into the same folder adds to it.

    Raises:
        ValueError: a target has no such name, or the folder is of another version.
    """
    wanted = {name: compiler.target_named(name) for name in targets}
    folder = folder.resolve()
    known = _read(folder)
    if known and known["compiler"] != compiler.compiler_identity():
        raise ValueError(
            f"{folder} must hold kernels of the same Triton and Python, got {_versions(known)}, "
            f"here {_versions(_manifest(folder, []))}; take another folder"
        )
    folder.mkdir(parents=True, exist_ok=True)
    errors = {}
    with _as_cache(folder):
        for name, target in wanted.items():
            todo = [build for build in builds if not marker(build, target).exists()]
            for build, error in compile_anywhere(todo, target).items():
                errors[build, name] = error
    _list_files(folder)
    before = known["targets"] if known else []
    _write(folder / FOLDER / MANIFEST, _manifest(folder, sorted({*before, *wanted})))
    return errors


@contextmanager
def _as_cache(folder: Path) -> Iterator[None]:
    """Inside the context, Triton's cache is a folder."""
    before = os.environ.get("TRITON_CACHE_DIR")
    os.environ["TRITON_CACHE_DIR"] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ["TRITON_CACHE_DIR"]
        else:
            os.environ["TRITON_CACHE_DIR"] = before


def _list_files(folder: Path) -> None:
    """Drop what no launch needs, and list the rest by where it lies now."""
    for listing in folder.glob("*/__grp__*.json"):
        files = json.loads(listing.read_text())["child_paths"]
        for name in files:
            if not name.endswith(NEEDED):
                listing.with_name(name).unlink(missing_ok=True)
        here = {name: str(listing.with_name(name)) for name in files if name.endswith(NEEDED)}
        _write(listing, {"child_paths": here})


def arrive() -> None:
    """If Triton's cache is a portable folder, make its kernels known where it lies now."""
    folder = cache_folder()
    manifest = _read(folder)
    if manifest is None or manifest["place"] == str(folder.resolve()):
        return
    if manifest["compiler"] != compiler.compiler_identity():
        log.warning(
            "the kernels in %s are of %s and compiled again here, with %s",
            *(folder, _versions(manifest), _versions(_manifest(folder, []))),
        )
    try:
        _list_files(folder.resolve())
        _write(folder / FOLDER / MANIFEST, {**manifest, "place": str(folder.resolve())})
    except OSError as error:
        log.warning("the kernels in %s are compiled again: %s", folder, error)


def _manifest(folder: Path, targets: list[str]) -> dict[str, Any]:
    return {
        "place": str(folder.resolve()), "compiler": compiler.compiler_identity(),
        "triton": triton.__version__, "python": platform.python_version(), "targets": targets,
    }  # fmt: skip


def _versions(manifest: dict[str, Any]) -> str:
    return f"Triton {manifest['triton']} for Python {manifest['python']}"


def _read(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None if it is not a portable one."""
    path = folder / FOLDER / MANIFEST
    return json.loads(path.read_text()) if path.is_file() else None


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write a file completely or not at all."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    draft.write_text(json.dumps(content))
    os.replace(draft, path)
