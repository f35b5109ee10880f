"""Batches drawn ahead in a background thread. They are numbered, so their order cannot change."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch

from ..tasks import Batch

AHEAD = 2
"""Draws that are ready or under way beyond the one taken."""

Draw = list[list[Batch]]
"""The batches of one draw, each as its chunks."""


class Prefetcher:
    """Calls `draw(number, lesson)` for the next numbers while the caller works.

    What is drawn depends on number and lesson alone, so it is the same as without a prefetcher.
    Use it in a `with` statement, which ends its thread.

    Args:
        draw: from number and lesson to what `take` returns; called in another thread.
    """

    def __init__(self, draw: Callable[[int, int], Draw]) -> None:
        self._draw = draw
        self._pending: deque[tuple[tuple[int, int], Future[Draw]]] = deque()
        self._thread = ThreadPoolExecutor(
            1, "dnc_fast batches", torch.set_num_threads, (torch.get_num_threads(),)
        )
        self.waited = 0.0
        """Seconds that `take` waited in all."""

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def take(self, number: int, lesson: int) -> Draw:
        """`draw(number, lesson)`, once or again; the draws after it are started.

        Raises:
            Exception: whatever `draw` raised.
        """
        started = time.perf_counter()
        while self._pending and self._pending[0][0] != (number, lesson):
            self._pending.popleft()[1].cancel()
        for ahead in range(number + len(self._pending), number + AHEAD + 1):
            drawn = self._thread.submit(self._draw, ahead, lesson)
            self._pending.append(((ahead, lesson), drawn))
        result = self._pending[0][1].result()
        self.waited += time.perf_counter() - started
        return result
