"""What a person sees while kernels are compiled: a bar in a terminal, otherwise two lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..compiling import watched
from ..training.progress import takes_bar


@contextmanager
def shown_compiling(wanted: bool = True) -> Iterator[None]:
    """Within it, compiling is shown on standard error; or nothing is said, if not wanted."""
    display = _Display()
    with watched(display if wanted else lambda what, done, total: None):
        try:
            yield
        finally:
            display.close()


class _Display:
    """Shows how many of what is compiled."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._begun = 0.0

    def __call__(self, what: str, done: int, total: int) -> None:
        if done == 0 and self._bar is None:
            self._begun = time.monotonic()
            if takes_bar(sys.stderr):
                from tqdm import tqdm

                text = f"compiling {what}, only this once"
                shape = "{desc}: {percentage:3.0f}%|{bar:20}| {elapsed}"
                self._bar = tqdm(total=total, desc=text, bar_format=shape, leave=False)
            else:
                print(f"compiling {what}, only this once", file=sys.stderr)
        elif self._bar is not None:
            self._bar.update(done - self._bar.n)
            self._bar.refresh()
        if done == total:
            self.close()
            seconds = time.monotonic() - self._begun
            print(f"compiled {what} in {seconds:.0f} s", file=sys.stderr)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
