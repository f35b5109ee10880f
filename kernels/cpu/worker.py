"""Compiles groups of kernels in a process of its own, for the process that started it."""

from __future__ import annotations

import gc
import os
import pickle
import sys

from . import compile as compiling
from . import groups, store


def main(dtype: str, *names: str) -> None:
    """Compile groups of kernels for a dtype; writes what is done to standard output.

    That is pickled: None for each part that is begun, and the name and content of each file.
    """
    gc.disable()  # it takes an eighth of the time, and this process ends soon
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing else may be written there

    def send(message: object) -> None:
        pickle.dump(message, output)
        output.flush()

    sys.stdout = sys.stderr
    store.sent_to.append(lambda *file: send(file))
    compiling.on_part.append(lambda: send(None))
    for name in names:
        for kernel, signature in groups.calls(name, dtype):
            kernel.compile(signature)
