"""Compiles kernels in several processes, for the process that started this one.

It is given builds through its standard input (see `compiling._compile_in_processes`), and writes a
line for each that is done: its index and its error, or null. It never touches a GPU.
"""

from __future__ import annotations

import json
import multiprocessing
import pickle
import sys
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from typing import Any

from ...kernels.gpu import compile as compiler
from .compiling import compile_one


def main() -> None:
    builds, target, processes, launchers = pickle.load(sys.stdin.buffer)
    compiler.without_device(target)
    for build in builds:
        build.function()  # imports its module before the processes are forked
    work = partial(compile_one, target=target, launcher=launchers)
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
        # The backward kernels come last, and take longest.
        futures: dict[Any, int] = {}
        for index in reversed(range(len(builds))):
            futures[pool.submit(work, builds[index])] = index
        for future in as_completed(futures):
            print(json.dumps((futures[future], future.result())), flush=True)
