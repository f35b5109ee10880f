"""Batches drawn ahead in a background thread, each addressed by number, so in no other order."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

AHEAD = 2
"""Draws that are ready or under way beyond the one taken."""

Drawn = TypeVar("Drawn")


class Prefetcher(Generic[Drawn]):
    """Calls `draw(number, lesson)` for the numbers to come while the caller works.

    What is drawn depends on the number and the lesson alone, so it is the same as without a
    prefetcher. Use it as a context; its thread ends with it.

    Args:
        draw: from number and lesson to what `take` returns; called in another thread.
    """

    def __init__(self, draw: Callable[[int, int], Drawn]) -> None:
        self._draw = draw
        self._pending: deque[tuple[int, int, Future[Drawn]]] = deque()
        self._thread = ThreadPoolExecutor(
            1, "dnc_fast batches", torch.set_num_threads, (torch.get_num_threads(),)
        )
        self.waited = 0.0
        """Seconds that `take` waited in all."""

    def __enter__(self) -> Prefetcher[Drawn]:
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.shutdown(cancel_futures=True)

    def take(self, number: int, lesson: int) -> Drawn:
        """`draw(number, lesson)`; the numbers after it are begun.

        Raises:
            Exception: what `draw` raised.
        """
        started = time.perf_counter()
        if self._pending and self._pending[0][:2] != (number, lesson):
            for _, _, draw in self._pending:
                draw.cancel()
            self._pending.clear()
        for next_number in range(number + len(self._pending), number + AHEAD + 1):
            draw = self._thread.submit(self._draw, next_number, lesson)
            self._pending.append((next_number, lesson, draw))
        drawn = self._pending.popleft()[2].result()
        self.waited += time.perf_counter() - started
        return drawn
