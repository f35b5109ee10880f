"""One training run: a model, a task, and a folder with its checkpoint and its metrics."""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

try:
    import fcntl
except ModuleNotFoundError:  # Windows
    fcntl = None  # type: ignore[assignment]

from ..checks import check_choice, check_integer
from ..config import DNCConfig
from ..dnc import DNC
from ..tasks import TASKS, Task, bit_loss
from .checkpoint import CheckpointError, load_checkpoint, save_checkpoint
from .config import TrainingConfig
from .evaluation import Evaluation, evaluate
from .interrupts import Interrupts
from .metrics import FORMATS, MetricsWriter
from .progress import make_progress
from .random import random_state, restore_random_state, stream_generator, stream_seed

CHECKPOINT = "checkpoint.pt"

RUN_PARTS = ("task", "model", "training", "parameters", "optimizer", "random", "progress")


class TrainingError(RuntimeError):
    """Training cannot go on; what was reached before is in the last checkpoint."""


class Trainer:
    """Trains a `DNC` on a task until it is solved, out of steps, or interrupted.

    A run that is interrupted and resumed takes the very steps of an unbroken one: batches are
    addressed by seed and step, and the checkpoint holds all else (parameters, optimizer, random
    state, length of the metrics file).

    Torch's global random state is set from the seed.

    Args:
        task: one of the tasks of `TASKS`.
        model: sizes and options; the task sets input_size and output_size.
        config: how to train.
        folder: where checkpoint.pt and metrics go; made if missing.
        device: where to train.
        metrics_format: one of `FORMATS`.

    Raises:
        FileExistsError: the folder holds a run already; `Trainer.resume` continues it.
        ValueError: an option does not fit.
    """

    def __init__(
        self,
        task: Task,
        model: DNCConfig,
        config: TrainingConfig,
        folder: Path | str,
        *,
        device: torch.device | str = "cpu",
        metrics_format: str = "jsonl",
    ) -> None:
        check_choice("metrics_format", metrics_format, FORMATS)
        if not isinstance(model.controller, str):
            raise ValueError(
                "controller must be a name so that a checkpoint can hold it, got "
                f"{model.controller!r}; train a model with your own controller in your own loop"
            )
        if (model.input_size, model.output_size) != (task.input_size, task.output_size):
            raise ValueError(
                f"the model must have input_size {task.input_size} and output_size "
                f"{task.output_size} for this task, got {model.input_size} and {model.output_size}"
            )
        folder = Path(folder)
        if (folder / CHECKPOINT).exists():
            raise FileExistsError(
                f"{folder} holds a run already; continue it with Trainer.resume, or train in "
                "another folder"
            )
        folder.mkdir(parents=True, exist_ok=True)
        self._build(task, model, config, folder, device, metrics_format)
        self._metrics = MetricsWriter(self.metrics_path)

    def _build(
        self,
        task: Task,
        model: DNCConfig,
        config: TrainingConfig,
        folder: Path,
        device: torch.device | str,
        metrics_format: str,
    ) -> None:
        self.task = task
        self.config = config
        self.folder = folder
        self.metrics_path = folder / f"metrics.{metrics_format}"
        self.step = 0
        self.seconds = 0.0
        self.solved_in_a_row = 0
        self.interrupted: int | None = None
        torch.manual_seed(stream_seed(config.seed, "parameters"))
        self.model = DNC.from_config(model, dtype=torch.float32).to(device)
        self.device = device
        torch.manual_seed(stream_seed(config.seed, "dropout"))
        optimizer = {"adam": torch.optim.Adam, "rmsprop": torch.optim.RMSprop}[config.optimizer]
        self.optimizer: torch.optim.Optimizer = optimizer(
            self.model.parameters(), lr=config.learning_rate
        )

    @classmethod
    def resume(
        cls,
        folder: Path | str,
        *,
        max_steps: int | None = None,
        device: torch.device | str = "cpu",
    ) -> Trainer:
        """The run of a folder, as its checkpoint left it.

        Args:
            folder: of an earlier run.
            max_steps: a new bound on the steps; None for the run's own.
            device: where to train.

        Raises:
            FileNotFoundError, CheckpointError: there is no checkpoint that can be read.
            ValueError: the metrics file is shorter than the checkpoint says.
        """
        folder = Path(folder)
        content = load_run(folder / CHECKPOINT)
        trainer = cls.__new__(cls)
        with _reading(folder / CHECKPOINT):
            config = TrainingConfig(**content["training"])
            progress = content["progress"]
            trainer._build(
                restore_task(content),
                DNCConfig(**content["model"]),
                config,
                folder,
                device,
                progress["metrics_format"],
            )
            trainer.model.load_state_dict(content["parameters"])
            trainer.optimizer.load_state_dict(content["optimizer"])
            restore_random_state(content["random"])
        if max_steps is not None:
            check_integer("max_steps", max_steps, minimum=progress["step"])
            trainer.config = dataclasses.replace(config, max_steps=max_steps)
        trainer.step = progress["step"]
        trainer.seconds = progress["seconds"]
        trainer.solved_in_a_row = progress["solved_in_a_row"]
        trainer._metrics = MetricsWriter(trainer.metrics_path, progress["metrics_size"])
        return trainer

    def train(self, progress: str = "auto") -> None:
        """Train until solved, out of steps, or interrupted by Ctrl-C or SIGTERM.

        Afterwards `step`, `solved`, `interrupted` (the signal's number or None) and `seconds` (wall
        time, evaluations included) say how it went; the checkpoint holds the state in every case.

        Args:
            progress: "auto", "bar", "lines" or "off".

        Raises:
            TrainingError: the loss or its gradient is not finite.
            BlockingIOError: another process trains in the folder.
        """
        display = make_progress(progress, self.step, self.config.max_steps)
        self.interrupted = None
        try:
            with _alone_in(self.folder), Interrupts() as interrupts:
                while self.step < self.config.max_steps and not self.solved:
                    started = time.perf_counter()
                    display.stepped(self.step + 1, self._training_step())
                    evaluated = self.step % self.config.evaluate_every == 0
                    if evaluated:
                        display.evaluated(self.step, self._evaluate())
                    self.seconds += time.perf_counter() - started
                    self.interrupted = interrupts.received
                    if evaluated or self.interrupted:
                        self.save()
                    if self.interrupted:
                        break
                else:
                    self.save()
        finally:
            display.close()

    def _training_step(self) -> float:
        """Take one step; returns its loss."""
        generator = stream_generator(self.config.seed, "train", self.step)
        batch = self.task.batch(self.config.batch_size, generator).to(self.device)
        self.optimizer.zero_grad()
        logits, _ = self.model(batch.inputs)
        loss = bit_loss(logits, batch)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip_norm)
        values = {"loss": loss.item(), "gradient_norm": norm.item()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise TrainingError(
                    f"{name.replace('_', ' ')} must be finite, got {value} at step "
                    f"{self.step + 1}; the last checkpoint is in {self.folder}; a smaller "
                    "learning rate or clip_norm may help"
                )
        self.optimizer.step()
        self.step += 1
        self._metrics.add("train", step=self.step, **values)
        return values["loss"]

    def _evaluate(self) -> Evaluation:
        """Score the model on the validation sequences."""
        config = self.config
        evaluation = evaluate(
            self.model, self.task, config.evaluation_size, config.seed, "validation"
        )
        solved = evaluation.solved >= config.solved_at
        self.solved_in_a_row = self.solved_in_a_row + 1 if solved else 0
        self._metrics.add("evaluation", step=self.step, **evaluation._asdict())
        return evaluation

    @property
    def solved(self) -> bool:
        """Whether enough evaluations in a row were solved."""
        return self.solved_in_a_row >= self.config.solved_evaluations

    def save(self) -> None:
        """Write the checkpoint; the metrics up to here are on disk before it."""
        save_checkpoint(
            self.folder / CHECKPOINT,
            {
                "task": {"name": task_name(self.task), "options": dataclasses.asdict(self.task)},
                "model": dataclasses.asdict(self.model.config),
                "training": dataclasses.asdict(self.config),
                "parameters": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "random": random_state(),
                "progress": {
                    "step": self.step,
                    "seconds": self.seconds,
                    "solved_in_a_row": self.solved_in_a_row,
                    "metrics_format": self.metrics_path.suffix[1:],
                    "metrics_size": self._metrics.flush(),
                },
            },
        )


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Hold the folder against other processes; given back also when this one is killed."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(
                f"another process trains in {folder}; train in another folder"
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _reading(path: Path | str) -> Iterator[None]:
    """Tell of a checkpoint that lacks a part or does not fit itself."""
    try:
        yield
    except CheckpointError:
        raise
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{path} does not hold a run that this dnc_fast can read ({error}); use the dnc_fast "
            "that wrote it"
        ) from error


def load_run(path: Path) -> dict[str, Any]:
    """The checkpoint of a run, with all its parts.

    Raises:
        FileNotFoundError, CheckpointError: there is none that can be read.
    """
    content = load_checkpoint(path)
    missing = [part for part in RUN_PARTS if part not in content]
    if missing:
        raise CheckpointError(
            f"{path} does not hold a run that this dnc_fast can read (it lacks {missing}); use the "
            "dnc_fast that wrote it"
        )
    return content


def task_name(task: Task) -> str:
    """The name of a task in `TASKS`."""
    for name, kind in TASKS.items():
        if type(task) is kind:
            return name
    raise ValueError(f"task must be one of {tuple(TASKS)}, got {type(task).__name__}")


def restore_task(content: dict[str, Any], **changes: Any) -> Task:
    """The task of a checkpoint, with some options changed.

    Raises:
        CheckpointError: this version has no such task.
    """
    with _reading("the checkpoint"):
        name = content["task"]["name"]
        options = content["task"]["options"]
    if name not in TASKS:
        raise CheckpointError(f"the checkpoint's task {name!r} is not one of {tuple(TASKS)}")
    return TASKS[name](**{**options, **changes})


def restore_model(content: dict[str, Any], **changes: Any) -> DNC:
    """The model of a checkpoint with its parameters, with some options changed.

    num_cells may change, the parameters do not depend on it; so may backend and usage_order.
    """
    with _reading("the checkpoint"):
        config = DNCConfig(**{**content["model"], **changes})
        model = DNC.from_config(config, dtype=torch.float32)
        model.load_state_dict(content["parameters"])
    return model
