"""`dnc-fast info`: what is installed, what runs where, and where compiled kernels are."""

from __future__ import annotations

import argparse
import os
import platform
import warnings
from importlib import metadata

import torch

from .. import __version__
from ..backends import VARIABLE, backend_names, backend_problem, resolve_backend


def add_info_options(parser: argparse.ArgumentParser) -> None:
    """There are none."""
    parser.set_defaults(run=_show_info)


def _show_info(options: argparse.Namespace) -> int:
    """Versions, devices, backends."""
    print(f"dnc_fast    {__version__}")
    print(f"python      {platform.python_version()} on {platform.machine()}")
    for package in ("torch", "numpy", "triton", "numba", "tqdm", "matplotlib", "tensorboard"):
        try:
            print(f"{package:<11} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            print(f"{package:<11} not installed")
    print(f"cpu         {torch.get_num_threads()} threads")
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    for gpu in gpus:
        print(f"{gpu:<11} {torch.cuda.get_device_name(gpu)}")
    print(f"backends    {', '.join(backend_names())}")
    for device in ["cpu", *gpus]:
        print(f"            auto on {device} is {_auto_and_why(torch.device(device))}")
    if not gpus:
        print("            triton has no CUDA or ROCm device to run on")
    print(f"cpu kernels {_where_kernels_are()}")
    return 0


def _where_kernels_are() -> str:
    """Where compiled CPU kernels are kept, and how much that is."""
    try:
        from ..kernels.cpu import store
    except Exception:  # said above
        return "none, without Numba"
    if store.FOLDER is None:
        return "compiled by every process: there is no home folder; NUMBA_CACHE_DIR can name one"
    size = f"{store.FOLDER}, {store.size() / 1e6:.1f} MB in all"
    if store.is_writable():
        return size
    return f"{size}; it is not writable, so every process compiles what is missing"


def _auto_and_why(device: torch.device) -> str:
    """What `auto` chooses on a device, and why it is not a faster backend."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said here in full
            chosen = resolve_backend("auto", device, torch.float32)
    except (ImportError, RuntimeError, ValueError) as error:
        return f"an error ({error})"
    if os.environ.get(VARIABLE):
        return f"{chosen} ({VARIABLE} says so)"
    fastest = "cpu" if device.type == "cpu" else "triton"
    problem = backend_problem(fastest, device, torch.float32)
    return chosen if problem is None else f"{chosen} ({problem})"
