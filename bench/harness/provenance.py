"""Where and with what a figure was measured."""

from __future__ import annotations

import platform
import re
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

import dnc_fast

ROOT = Path(__file__).resolve().parents[2]

GENERATED = ("bench/results", "docs", "README.md")
"""What commands write; changes there do not make it different code."""


def processor() -> str:
    """The processor's name, as the system tells it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@cache
def commit() -> str:
    """The commit of this tree, followed by + if the code has changed since."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    but = [f":!{path}" for path in GENERATED]
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *but)
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def device_name(device: str) -> str:
    """The name of the GPU, or of the processor with the number of threads."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{processor()}, {torch.get_num_threads()} threads"


def folder_name(device: str) -> str:
    """The device's name as the name of a folder."""
    return re.sub(r"[^a-z0-9]+", "-", device_name(device).lower()).strip("-")


def version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def facts(device: str) -> dict[str, Any]:
    """Device, versions and commit, for a result file."""
    packages = {name: version(name) for name in ("torch", "numpy", "numba", "triton", "dnc")}
    found: dict[str, Any] = {
        "device": device_name(device),
        "kind": device,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: number for name, number in packages.items() if number is not None},
        "dnc_fast": dnc_fast.__version__,
        "commit": commit(),
    }
    if device == "cuda":
        found["cuda"] = torch.version.cuda or torch.version.hip
        found["device_bytes"] = torch.cuda.get_device_properties(0).total_memory
    return found


def told(facts: dict[str, Any]) -> str:
    """Facts in one line."""
    versions = ("python", "torch", "numba", "triton", "dnc", "cuda")
    known = ", ".join(f"{name} {facts[name]}" for name in versions if name in facts)
    return f"{facts['device']}; {known}; commit {facts['commit']}"


def command() -> str:
    """The command that runs."""
    module = sys.modules["__main__"].__spec__
    name = module.name.removesuffix(".__main__") if module else ""
    return " ".join(["python -m", name, *sys.argv[1:]]) if module else "in a session"


def provenance() -> str:
    """Command, device, versions and commit, in one line."""
    return f"`{command()}`; {told(facts('cuda' if torch.cuda.is_available() else 'cpu'))}"
