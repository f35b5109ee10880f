"""What a person sees while a model trains: a bar in a terminal, lines elsewhere, or nothing."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from .evaluation import Evaluation

KINDS = ("auto", "bar", "lines", "off")


def describe(evaluation: Evaluation) -> str:
    """An evaluation in words."""
    return (
        f"{evaluation.wrong_bits:.2f} bits wrong per sequence, "
        f"{100 * evaluation.solved:.1f} % of sequences right"
    )


class Progress:
    """Shows nothing; the other kinds show more."""

    def stepped(self, step: int, loss: float) -> None:
        """A training step is done. loss: nats per bit."""

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        """An evaluation is done."""

    def close(self) -> None:
        """Training has ended."""


class Lines(Progress):
    """A line for each evaluation."""

    def stepped(self, step: int, loss: float) -> None:
        self._loss = loss

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        print(f"step {step}: loss {self._loss:.4f}, {describe(evaluation)}", file=sys.stderr)


class Bar(Progress):
    """A tqdm bar with the loss, and wrong bits and right sequences of the last evaluation."""

    def __init__(self, first_step: int, max_steps: int) -> None:
        from tqdm import tqdm

        self._bar: Any = tqdm(
            initial=first_step, total=max_steps, unit="step", dynamic_ncols=True, smoothing=0.1
        )
        self._validation: dict[str, str] = {}

    def stepped(self, step: int, loss: float) -> None:
        shown = {"loss": f"{loss:.4f}", **self._validation}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update()

    def evaluated(self, step: int, evaluation: Evaluation) -> None:
        self._validation = {
            "wrong bits": f"{evaluation.wrong_bits:.2f}",
            "right": f"{100 * evaluation.solved:.1f}%",
        }

    def close(self) -> None:
        self._bar.close()


def make_progress(kind: str, first_step: int, max_steps: int) -> Progress:
    """The display of a kind.

    Args:
        kind: one of `KINDS`; "auto" is a bar in a terminal where tqdm is installed, else lines.
        first_step: how many steps are done already.
        max_steps: how many there are at most.

    Raises:
        ModuleNotFoundError: kind is "bar" and tqdm is not installed.
    """
    has_tqdm = importlib.util.find_spec("tqdm") is not None
    if kind == "bar" and not has_tqdm:
        raise ModuleNotFoundError("progress 'bar' needs tqdm; `pip install tqdm` brings it")
    if kind == "auto":
        kind = "bar" if has_tqdm and sys.stderr.isatty() else "lines"
    if kind == "bar":
        return Bar(first_step, max_steps)
    return Lines() if kind == "lines" else Progress()
