"""The rows of the metrics as curves in TensorBoard, for those who have it."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class TensorBoard:
    """Writes each number of a row as a curve `kind/name`, such as train/loss.

    Args:
        folder: where the events go.
        first_step: steps from here on that an earlier part of the run wrote are dropped.

    Raises:
        ModuleNotFoundError: tensorboard is not installed.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ModuleNotFoundError(
                f"tensorboard could not be imported ({error}); `pip install tensorboard` brings it"
            ) from error
        self._writer: Any = SummaryWriter(folder, purge_step=first_step)

    def add(self, kind: str, step: int, **values: float | None) -> None:
        """Write a row; None is left out."""
        for name, value in values.items():
            if value is not None:
                self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Bring all to the disk."""
        self._writer.close()
