"""Where and with what a figure was measured."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import numpy
import torch

import dnc_fast

ROOT = Path(__file__).resolve().parent.parent


def processor() -> str:
    """The processor's name, as the system tells it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def commit() -> str:
    """The commit of this tree, with a + when it was changed since."""

    def git(*arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")


def provenance() -> str:
    """Command, device, versions and commit, in one line."""
    module = sys.modules["__main__"].__spec__
    command = " ".join(["python -m", module.name, *sys.argv[1:]]) if module else "in a session"
    gpu = f"{torch.cuda.get_device_name()}; " if torch.cuda.is_available() else ""
    return (
        f"`{command}`; {gpu}{processor()}, {torch.get_num_threads()} threads; "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"numpy {numpy.__version__}, dnc_fast {dnc_fast.__version__} at {commit()}"
    )
