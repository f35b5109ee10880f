"""Where it is reported that kernels are compiled: to a watcher, otherwise to the log, once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOG = logging.getLogger("dnc_fast")

Watch = Callable[[str, int, int], None]
"""Is told what is compiled, how many parts of it are done, and of how many: first 0, last all."""


def _log_first(what: str, done: int, total: int) -> None:
    """Say once that kernels are compiled, for those who use this as a library."""
    if done == 0 and what not in _said:
        _said.add(what)
        LOG.warning("compiling %s, only this once", what)


_said: set[str] = set()
_watches: list[Watch] = [_log_first]


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Within it, `watch` gets the progress of compiling, and nothing is logged."""
    _watches.append(watch)
    try:
        yield
    finally:
        _watches.remove(watch)


def tell(what: str, done: int, total: int) -> None:
    """Report to the watcher, if there is one."""
    _watches[-1](what, done, total)
