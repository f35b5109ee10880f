"""One training run: a model, a task, and a folder with its checkpoint and its metrics."""

from __future__ import annotations

import dataclasses
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checks import check_choice, check_integer, check_number
from ..models import build_model, model_name
from ..state import map_tensors, tensors
from ..tasks import Batch, Task, task_name
from .answering import answered
from .batches import Prefetcher, rounded, suitable_workers
from .checkpoint import (
    CHECKPOINT,
    read_run,
    reading,
    restore_config,
    restore_task,
    save_checkpoint,
    task_part,
)
from .config import TrainingConfig
from .curriculum import TEST_SIZE, Curriculum
from .distributed import ALONE, Ranks
from .evaluation import Evaluation, evaluate, evaluate_by_part, held_out_size
from .metrics import FORMATS, MetricsWriter, TensorBoard
from .model import check_model, compile_kernels
from .optimization import Optimization
from .process import locked, signals_noted
from .progress import Progress, make_progress
from .random import random_state, restore_random_state, stream_generator, stream_seed
from .steps import Report, Steps


class Trainer:
    """Trains a model on a task until it is solved, out of steps or time, or interrupted.

    A run in several parts takes exactly the steps of an uninterrupted one: batches are addressed by
    seed and number, and the checkpoint holds everything else (parameters, optimizer, schedule,
    lesson, carried state, random state, length of the metrics file).

    Torch's global random state is set from the seed.

    Args:
        task: one of the tasks of `TASKS`.
        model: sizes and options of a DNC or of another of `MODELS`; input_size and output_size
            must be the task's.
        config: how to train.
        folder: for checkpoint.pt and the metrics; made if missing.
        device: where to train.
        metrics_format: one of `FORMATS`.
        ranks: the processes that train together, each with a trainer of the same options.
        checkpoint: what the folder's checkpoint holds, for a run to continue; `resume` passes it.

    Raises:
        FileExistsError: the folder holds a run already; `Trainer.resume` continues it.
        IsADirectoryError: there is a folder where the checkpoint belongs.
        ValueError: an option does not fit.
    """

    def __init__(
        self,
        task: Task,
        model: Any,
        config: TrainingConfig,
        folder: Path | str,
        *,
        device: torch.device | str = "cpu",
        metrics_format: str = "jsonl",
        ranks: Ranks = ALONE,
        checkpoint: dict[str, Any] | None = None,
    ) -> None:
        check_choice("metrics_format", metrics_format, FORMATS)
        task_name(task)
        ranks.check(config.batch_size)
        check_model(model, task)
        self.folder = Path(folder)
        if (self.folder / CHECKPOINT).is_dir():
            raise IsADirectoryError(
                f"{self.folder / CHECKPOINT} must be a checkpoint, a file, but is a folder; remove "
                "it, or train in another folder"
            )
        if checkpoint is None and (self.folder / CHECKPOINT).exists():
            raise FileExistsError(
                f"{self.folder} holds a run already; continue it with Trainer.resume, or train in "
                "another folder"
            )
        self.folder.mkdir(parents=True, exist_ok=True)
        self.task = task
        self.config = config
        self.ranks = ranks
        self.step = 0
        self.seconds = 0.0
        self.waited = 0.0
        self.solved_in_a_row = 0
        self.interrupted: int | None = None
        self.out_of_time = False
        self.device = torch.device(device)
        torch.manual_seed(stream_seed(config.seed, "parameters"))
        self.model = build_model(model, dtype=torch.float32).to(self.device)
        torch.manual_seed(stream_seed(config.seed, "dropout"))
        self.optimization = Optimization(self.model, config, self.device)
        self.curriculum = Curriculum(task, config)
        self._steps = Steps(self.model, task, config, self.optimization, ranks, self.folder)
        self.metrics_path = self.folder / f"metrics.{metrics_format}"
        self._metrics = MetricsWriter(self.metrics_path)
        self._board: TensorBoard | None = None
        self._display = Progress()
        if checkpoint is not None:
            self._restore(checkpoint)

    @classmethod
    def resume(
        cls,
        folder: Path | str,
        *,
        max_steps: int | None = None,
        learning_rate: float | None = None,
        device: torch.device | str = "cpu",
        ranks: Ranks = ALONE,
    ) -> Trainer:
        """The run of a folder, as its checkpoint left it.

        Args:
            folder: of an earlier run.
            max_steps: a new limit of the steps; None for the run's own.
            learning_rate: a new one, from here on; None for the run's own.
            device: where to train.
            ranks: the processes that train together; there may be another number of them.

        Raises:
            FileNotFoundError, CheckpointError: there is no checkpoint that can be read.
            ValueError: the metrics file is shorter than the checkpoint says, or more than
                `max_steps` steps were taken.
        """
        path = Path(folder) / CHECKPOINT
        content = read_run(path)
        with reading(path):
            progress = content["progress"]
            trainer = cls(
                restore_task(content),
                restore_config(content),
                TrainingConfig(**content["training"]),
                folder,
                device=device,
                metrics_format=progress["metrics_format"],
                ranks=ranks,
                checkpoint=content,
            )
        if max_steps is not None:
            check_integer("max_steps", max_steps, minimum=trainer.step)
            trainer.config = dataclasses.replace(trainer.config, max_steps=max_steps)
        if learning_rate is not None:
            check_number("learning_rate", learning_rate, 0.0, above=True)
            trainer.optimization.scale_rate(learning_rate / trainer.config.learning_rate)
            trainer.config = dataclasses.replace(trainer.config, learning_rate=learning_rate)
        trainer._metrics = MetricsWriter(trainer.metrics_path, progress["metrics_size"])
        return trainer

    def _restore(self, content: dict[str, Any]) -> None:
        """Take the state of a run from its checkpoint, in which `save` wrote it."""
        self.model.load_state_dict(content["parameters"])
        self.optimization.load_state_dict(content)
        self._steps.carried = [
            None if parts is None else self._carried_state(parts) for parts in content["carried"]
        ]
        progress = content["progress"]
        self.curriculum.present = progress["lesson"]
        self.step = progress["step"]
        self.seconds = progress["seconds"]
        self.waited = progress["waited"]
        self.solved_in_a_row = progress["solved_in_a_row"]
        self._steps.usual_norm.state = tuple(progress.get("usual_norm", (0.0, 0)))
        restore_random_state(content["random"])

    def _carried_state(self, parts: list[Tensor]) -> Any:
        """This rank's rows of the state of which a checkpoint lists the tensors."""
        rest, rows = iter(parts), self.ranks.rows(self.config.batch_size)
        zeros = self.model.zero_state(self.config.batch_size)
        return map_tensors(lambda zero: next(rest)[rows].to(zero), zeros)

    def save(self) -> None:
        """Write the checkpoint; the metrics up to here are on disk before it.

        The first rank writes; until then no rank continues, or exits and so ends the others.
        """
        self._tell(self._steps.settle())
        carried = [
            state and list(tensors(self.ranks.whole(state))) for state in self._steps.carried
        ]
        if self.ranks.is_first:
            self._write(carried)
        self.ranks.wait()

    def _write(self, carried: list[list[Tensor] | None]) -> None:
        """Write the checkpoint, with the tensors of the states that are carried over."""
        save_checkpoint(
            self.folder / CHECKPOINT,
            {
                "task": task_part(self.task),
                "kind": model_name(self.model.config),
                "model": dataclasses.asdict(self.model.config),
                "training": dataclasses.asdict(self.config),
                "parameters": self.model.state_dict(),
                **self.optimization.state_dict(),
                "carried": carried,
                "random": random_state(),
                "progress": {
                    "step": self.step,
                    "lesson": self.curriculum.present,
                    "seconds": self.seconds,
                    "waited": self.waited,
                    "solved_in_a_row": self.solved_in_a_row,
                    "usual_norm": self._steps.usual_norm.state,
                    "metrics_format": self.metrics_path.suffix[1:],
                    "metrics_size": self._metrics.flush(),
                },
            },
        )

    @property
    def solved(self) -> bool:
        """Whether enough evaluations in a row were solved."""
        return self.solved_in_a_row >= self.config.solved_evaluations

    @property
    def finished(self) -> bool:
        """Whether the run is solved or out of steps, so that nothing is left to do."""
        return self.solved or self.step >= self.config.max_steps

    def held_out(self) -> Evaluation:
        """The score on all held-out sequences; on as many as an evaluation has if endless."""
        return self.held_out_by_part()[0]

    def held_out_by_part(self) -> tuple[Evaluation, dict[str, Evaluation]]:
        """The same, and the scores by part, see `evaluate_by_part`."""
        self._tell(self._steps.settle())
        size = held_out_size(self.task, self.config.evaluation_size)
        return evaluate_by_part(self.model, self.task, size, self.config.seed, self.ranks)

    def train(
        self,
        progress: str = "auto",
        *,
        max_minutes: float | None = None,
        tensorboard: bool = False,
        data_workers: int | None = 0,
    ) -> None:
        """Train until solved, out of steps or minutes, or interrupted by Ctrl-C or SIGTERM.

        Afterwards `step`, `solved`, `out_of_time`, `interrupted` (the signal's number or None),
        `seconds` (wall time, evaluations included) and `waited` (the part of it spent waiting for
        batches) say how it went; the checkpoint is written in every case.

        Args:
            progress: "auto", "bar", "lines" or "off".
            max_minutes: of this call; None for no limit.
            tensorboard: whether to write curves for TensorBoard into the run's folder.
            data_workers: processes that draw batches; 0 for a thread, None for what suits task and
                device. The batches are the same. They need a program whose main module begins
                nothing when it is imported (`if __name__ == "__main__":`).

        Raises:
            TrainingError: loss or gradient is not finite; names the tensor in which this started.
                Or another rank has ended.
            BlockingIOError: another process trains in the folder.
            ModuleNotFoundError: tensorboard, or tqdm for a bar, is not installed.
        """
        if max_minutes is not None:
            check_number("max_minutes", max_minutes, 0.0, above=True)
        if data_workers is None:
            hardest = len(self.curriculum.lessons) - 1
            data_workers = suitable_workers(self.curriculum.draw, hardest, self.device)
        check_integer("data_workers", data_workers, minimum=0)
        if not self.finished:
            compile_kernels(self.model)
        seen = self.ranks.is_first
        self._display = make_progress(
            progress if seen else "off", self.task, self.step, self.config.max_steps
        )
        self._board = None
        self.interrupted, self.out_of_time = None, False
        started = time.monotonic()
        with ExitStack() as stack:
            stack.callback(self._display.close)
            if seen:
                stack.enter_context(locked(self.folder))
            signals = stack.enter_context(signals_noted())
            if tensorboard and seen:
                self._board = TensorBoard(self.folder / "tensorboard", self.step + 1)
                stack.callback(self._board.close)
            prefetcher = Prefetcher(self.curriculum.draw, data_workers, self.device.type == "cuda")
            draws = stack.enter_context(prefetcher)
            while not self.finished:
                evaluated = self._step_and_tests(draws)
                minutes = (time.monotonic() - started) / 60
                signal, out_of_time = self.ranks.most(
                    signals[0] if signals else 0, max_minutes is not None and minutes >= max_minutes
                )
                self.interrupted, self.out_of_time = int(signal) or None, bool(out_of_time)
                if self.interrupted or self.out_of_time:
                    break
                if evaluated:
                    self.save()
            if self.solved:
                self._display.solved(self.step)
            self.save()

    def _step_and_tests(self, draws: Prefetcher) -> bool:
        """A training step and what is due after it; returns whether the model was evaluated."""
        started, waited = time.perf_counter(), draws.waited
        self._tell(self._steps.take(self.step + 1, self._next_batches(draws)))
        self.step += 1
        if self.curriculum.test_is_due(self.step):
            self._test_lesson()
        if self.config.milestone_every and self.step % self.config.milestone_every == 0:
            self._test_milestones()
        evaluated = self.step % self.config.evaluate_every == 0
        if evaluated:
            self._evaluate()
        self.seconds += time.perf_counter() - started
        self.waited += draws.waited - waited
        return evaluated

    def _next_batches(self, draws: Prefetcher) -> list[Batch]:
        """The batches of the next step; where new ones begin, no state is carried over."""
        number, chunk = divmod(self.step, self.task.num_chunks)
        if chunk == 0:
            self._steps.carried = [None] * self.config.accumulate
        first = number * self.config.accumulate
        batches = []
        for index, chunks in enumerate(draws.take(number, self.curriculum.present), first):
            generator = stream_generator(self.config.seed, "answers", index)
            batch = chunks[chunk].to(self.device, non_blocking=self.device.type == "cuda")
            batch = answered(self.model, self.task, batch, generator)
            # A state that is carried over must not have taken steps that are no part of a batch.
            batches.append(rounded(batch) if self.task.num_chunks == 1 else batch)
        return batches

    def _tell(self, reports: list[Report]) -> None:
        """Record how steps went, and show it."""
        for step, loss, norm, rate, spike in reports:
            if spike is not None and norm is not None:
                self._record("spike", step, gradient_norm=norm, **spike._asdict())
                self._display.spiked(step, norm, *spike, self.config.spikes == "skip")
            self._record("train", step, loss=loss, gradient_norm=norm, learning_rate=rate)
            self._display.stepped(loss)

    def _test_lesson(self) -> None:
        """Test the present lesson on new sequences; if it is passed, the next one starts."""
        lesson = self.curriculum.lessons[self.curriculum.present]
        number = self.curriculum.present + 1
        evaluation = self._score(lesson, TEST_SIZE, "lesson", self.step)
        share = getattr(evaluation, self.task.goal)
        self.curriculum.tested(share)
        self._record("lesson", lesson=number, share=share)
        self._display.tested(self.step, number, share)

    def _test_milestones(self) -> None:
        """Test the task's milestones on new sequences."""
        shares = {}
        for name, task in self.task.milestones().items():
            evaluation = self._score(task, TEST_SIZE, "milestone", self.step)
            shares[name] = getattr(evaluation, task.goal)
            self._record("milestone", name=name, share=shares[name])
        self._display.reached(self.step, shares)

    def _evaluate(self) -> None:
        """Score the model on the validation sequences."""
        config = self.config
        evaluation = self._score(self.task, config.evaluation_size, "validation")
        solved = getattr(evaluation, self.task.goal) >= config.solved_at
        self.solved_in_a_row = self.solved_in_a_row + 1 if solved else 0
        self._record("evaluation", **evaluation._asdict())
        self._display.evaluated(self.step, evaluation)

    def _score(self, task: Task, size: int, stream: str, index: int = 0) -> Evaluation:
        """The score of the model on sequences that the ranks share."""
        self._tell(self._steps.settle())
        seed = self.config.seed
        return evaluate(self.model, task, size, seed, stream, index, ranks=self.ranks)

    def _record(self, kind: str, step: int | None = None, **values: Any) -> None:
        """Add a row for a step, the present one if none is given, to metrics and TensorBoard."""
        if not self.ranks.is_first:
            return
        for rows in (self._metrics, self._board):
            if rows is not None:
                rows.add(kind, step=self.step if step is None else step, **values)
