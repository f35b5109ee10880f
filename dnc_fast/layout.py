"""Which rows of a buffer hold each step of a batch of sequences."""

from __future__ import annotations


class Layout:
    """The rows of each step: first those of the initial state, then those after each step.

    Step t has `batch_sizes[t]` sequences, the longest first. When nothing is kept for
    backpropagation, two blocks of B rows alternate.

    Args:
        batch_sizes: number of sequences at each step; never increases.
        keep: whether every step has its own rows.

    Attributes:
        last_steps: the steps at which some sequence ends, in increasing order.
    """

    def __init__(self, batch_sizes: list[int], keep: bool) -> None:
        self.batch_sizes = batch_sizes
        self.keep = keep
        self.batch_size = batch_sizes[0]
        self.steps = len(batch_sizes)
        self.total = sum(batch_sizes)
        starts = [0]
        for size in [self.batch_size, *batch_sizes]:
            starts.append(starts[-1] + size)
        self._starts = starts
        self.last_steps = [
            t
            for t in range(self.steps)
            if t + 1 == self.steps or batch_sizes[t + 1] < batch_sizes[t]
        ]

    @property
    def num_state_rows(self) -> int:
        """Rows of a buffer that holds states."""
        return self._starts[-1] if self.keep else 2 * self.batch_size

    @property
    def num_step_rows(self) -> int:
        """Rows of a buffer that holds data of steps, such as interface vectors."""
        return self.total if self.keep else self.batch_size

    def before(self, t: int) -> slice:
        """Rows of a state buffer before step t, only for the sequences in step t."""
        start = self._starts[t] if self.keep else t % 2 * self.batch_size
        return slice(start, start + self.batch_sizes[t])

    def after(self, t: int) -> slice:
        """Rows of a state buffer after step t."""
        start = self._starts[t + 1] if self.keep else (t + 1) % 2 * self.batch_size
        return slice(start, start + self.batch_sizes[t])

    def step(self, t: int) -> slice:
        """Rows of a step buffer at step t."""
        start = self._starts[t + 1] - self.batch_size if self.keep else 0
        return slice(start, start + self.batch_sizes[t])

    def output(self, t: int) -> slice:
        """Rows of the whole output at step t, kept or not."""
        start = self._starts[t + 1] - self.batch_size
        return slice(start, start + self.batch_sizes[t])

    def rows_before(self) -> list[tuple[slice, slice]]:
        """Where a step buffer has the sequences of a step, and where those of the step before.

        As few pairs as there are different numbers of sequences, for all steps but the first; only
        for buffers that keep all steps.
        """
        pairs: list[tuple[slice, slice]] = []
        for t in range(1, self.steps):
            place, start = self.step(t), self.step(t - 1).start
            before = slice(start, start + self.batch_sizes[t])
            if pairs and pairs[-1][0].stop == place.start and pairs[-1][1].stop == before.start:
                last = pairs.pop()
                place, before = slice(last[0].start, place.stop), slice(last[1].start, before.stop)
            pairs.append((place, before))
        return pairs

    def ending(self, t: int) -> slice:
        """Batch indices of the sequences whose last step is t; may be empty."""
        following = self.batch_sizes[t + 1] if t + 1 < self.steps else 0
        return slice(following, self.batch_sizes[t])
