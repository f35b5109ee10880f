"""One training run: a model, a task, and a folder with its checkpoint and its metrics."""

from __future__ import annotations

import dataclasses
import math
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import check_choice, check_integer, check_number
from ..config import DNCConfig
from ..dnc import DNC
from ..state import DNCState, map_tensors, tensors
from ..tasks import Batch, Task, task_name
from .answering import answered
from .batches import Prefetcher
from .checkpoint import save_checkpoint
from .config import TrainingConfig
from .curriculum import TEST_SIZE, Curriculum
from .evaluation import Evaluation, evaluate, held_out_size
from .folder import alone_in
from .health import first_bad_tensor
from .interrupts import Interrupts
from .metrics import FORMATS, MetricsWriter
from .precision import autocast, make_scaler
from .progress import make_progress
from .random import random_state, restore_random_state, stream_generator, stream_seed
from .runs import CHECKPOINT, load_run, reading, restore_task
from .schedules import make_schedule
from .tensorboard import TensorBoard


class TrainingError(RuntimeError):
    """Training cannot go on; what was reached before is in the last checkpoint."""


def make_optimizer(model: DNC, config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimizer of a run; Adam's decay is decoupled (AdamW), RMSProp's is torch's own."""
    kind = {"adam": torch.optim.AdamW, "rmsprop": torch.optim.RMSprop}[config.optimizer]
    return kind(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)


class Trainer:
    """Trains a `DNC` on a task until it is solved, out of steps or time, or interrupted.

    A run that is cut into parts takes the very steps of an unbroken one: batches are addressed by
    seed and number, and the checkpoint holds all else (parameters, optimizer, schedule, lesson,
    carried state, random state, length of the metrics file).

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
        self.waited = 0.0
        self.solved_in_a_row = 0
        self.interrupted: int | None = None
        self.out_of_time = False
        torch.manual_seed(stream_seed(config.seed, "parameters"))
        self.device = torch.device(device)
        self.model = DNC.from_config(model, dtype=torch.float32).to(self.device)
        torch.manual_seed(stream_seed(config.seed, "dropout"))
        self.optimizer = make_optimizer(self.model, config)
        self.schedule = make_schedule(
            self.optimizer, config.schedule, config.warm_up, config.decay_steps
        )
        self.scaler = make_scaler(config.precision, self.device)
        self.curriculum = Curriculum(task, config)
        self._board: TensorBoard | None = None
        self._drawn: list[list[Batch]] = []
        self._carried: list[DNCState | None] = [None] * config.accumulate

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
        with reading(folder / CHECKPOINT):
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
            trainer.schedule.load_state_dict(content["schedule"])
            trainer.scaler.load_state_dict(content["scaler"])
            trainer._carried = [trainer._rebuild_state(parts) for parts in content["carried"]]
            trainer.curriculum.present = progress["lesson"]
            restore_random_state(content["random"])
        if max_steps is not None:
            check_integer("max_steps", max_steps, minimum=progress["step"])
            trainer.config = dataclasses.replace(config, max_steps=max_steps)
        trainer.step = progress["step"]
        trainer.seconds = progress["seconds"]
        trainer.waited = progress["waited"]
        trainer.solved_in_a_row = progress["solved_in_a_row"]
        trainer._metrics = MetricsWriter(trainer.metrics_path, progress["metrics_size"])
        return trainer

    def train(
        self,
        progress: str = "auto",
        *,
        max_minutes: float | None = None,
        tensorboard: bool = False,
    ) -> None:
        """Train until solved, out of steps or minutes, or interrupted by Ctrl-C or SIGTERM.

        Afterwards `step`, `solved`, `out_of_time`, `interrupted` (the signal's number or None),
        `seconds` (wall time, evaluations included) and `waited` (those of them spent waiting for
        batches) say how it went; the checkpoint holds the state in every case.

        Args:
            progress: "auto", "bar", "lines" or "off".
            max_minutes: of this call; None for no end.
            tensorboard: whether to write curves for TensorBoard into the run's folder.

        Raises:
            TrainingError: loss or gradient is not finite; names the tensor that it began in.
            BlockingIOError: another process trains in the folder.
            ModuleNotFoundError: tensorboard, or tqdm for a bar, is not installed.
        """
        if max_minutes is not None:
            check_number("max_minutes", max_minutes, 0.0, above=True)
        self._display = make_progress(progress, self.task, self.step, self.config.max_steps)
        self.interrupted, self.out_of_time = None, False
        begun = time.monotonic()
        with ExitStack() as stack:
            stack.callback(self._display.close)
            stack.enter_context(alone_in(self.folder))
            interrupts = stack.enter_context(Interrupts())
            self._board = None
            if tensorboard:
                self._board = TensorBoard(self.folder / "tensorboard", self.step + 1)
                stack.callback(self._board.close)
            self._batches = stack.enter_context(Prefetcher(self._draw))
            self._drawn = []
            while self.step < self.config.max_steps and not self.solved:
                evaluated = self._timed_step()
                self.interrupted = interrupts.received
                minutes = (time.monotonic() - begun) / 60
                self.out_of_time = max_minutes is not None and minutes >= max_minutes
                if self.interrupted or self.out_of_time:
                    break
                if evaluated:
                    self.save()
            self.save()

    def _timed_step(self) -> bool:
        """A training step and what is due after it; returns whether the model was evaluated."""
        started, waited = time.perf_counter(), self._batches.waited
        self._display.stepped(self.step + 1, self._training_step())
        if self.curriculum.test_is_due(self.step):
            self._test_lesson()
        evaluated = self.step % self.config.evaluate_every == 0
        if evaluated:
            self._display.evaluated(self.step, self._evaluate())
        self.seconds += time.perf_counter() - started
        self.waited += self._batches.waited - waited
        return evaluated

    def _draw(self, number: int, lesson: int) -> list[list[Batch]]:
        """The batches of a draw, `accumulate` of them, each as its chunks."""
        drawn = []
        for index in range(number * self.config.accumulate, (number + 1) * self.config.accumulate):
            generator = stream_generator(self.config.seed, "train", index)
            task = self.curriculum.choose(lesson, generator)
            drawn.append(task.batch(self.config.batch_size, generator).split(task.num_chunks))
        return drawn

    def _next_batches(self) -> list[Batch]:
        """The batches of the next step; where new ones begin, no state is carried on."""
        number, chunk = divmod(self.step, self.task.num_chunks)
        if chunk == 0 or not self._drawn:
            self._drawn = self._batches.take(number, self.curriculum.present)
        if chunk == 0:
            self._carried = [None] * self.config.accumulate
        first = number * self.config.accumulate
        return [
            self._answered(chunks[chunk].to(self.device), first + place)
            for place, chunks in enumerate(self._drawn)
        ]

    def _answered(self, batch: Batch, index: int) -> Batch:
        """A batch with the inputs that the model's own answers lead to, where they do."""
        generator = stream_generator(self.config.seed, "answers", index)
        return answered(self.model, self.task, batch, generator)

    def _training_step(self) -> float:
        """Take one step; returns its loss."""
        batches = self._next_batches()
        before, self._carried = self._carried, []
        losses = []
        self.optimizer.zero_grad()
        for batch, state in zip(batches, before, strict=True):
            batch_loss, carried = self._forward(batch, state)
            self.scaler.scale(batch_loss / len(batches)).backward()
            losses.append(batch_loss.item())
            self._carried.append(carried)
        self.scaler.unscale_(self.optimizer)
        parameters = list(self.model.parameters())
        total_norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        norm, loss = total_norm.item(), sum(losses) / len(losses)
        overflow = not math.isfinite(norm) and self.scaler.is_enabled()
        if not math.isfinite(loss) or not (math.isfinite(norm) or overflow):
            self._tell_what_is_not_finite(loss, norm, batches, before)
        nn.utils.clip_grads_with_norm_(parameters, self.config.clip_norm, total_norm)
        rate = self.schedule.get_last_lr()[0]
        self.scaler.step(self.optimizer)  # left out where float16 overflowed
        self.scaler.update()
        if not overflow:
            self.schedule.step()
        self.step += 1
        self._record(
            "train", loss=loss, gradient_norm=None if overflow else norm, learning_rate=rate
        )
        return loss

    def _forward(self, batch: Batch, state: DNCState | None) -> tuple[Tensor, DNCState | None]:
        """The loss of a batch, and the state to carry on where a batch is trained on in chunks."""
        with autocast(self.config.precision, self.device):
            outputs, state = self.model(batch.inputs, state)
        carried = None
        if self.task.num_chunks > 1:
            carried = map_tensors(lambda tensor: tensor.detach().float(), state)
        return self.task.loss(outputs.float(), batch), carried

    def _tell_what_is_not_finite(
        self, loss: float, norm: float, batches: list[Batch], states: list[DNCState | None]
    ) -> None:
        """Raise with the first tensor that is not finite."""
        pairs = zip(batches, states, strict=True)
        found = (first_bad_tensor(self.model, batch, state) for batch, state in pairs)
        first = next(filter(None, found), "no tensor of a second run of the step is to blame")
        raise TrainingError(
            f"loss and gradient norm must be finite, got {loss:g} and {norm:g} at step "
            f"{self.step + 1}: {first}; the last checkpoint is in {self.folder}; a smaller "
            "learning rate or clip_norm may help"
        )

    def _test_lesson(self) -> None:
        """Test the present lesson on new sequences of it; the next follows if it is passed."""
        lesson = self.curriculum.lessons[self.curriculum.present]
        number = self.curriculum.present + 1
        evaluation = evaluate(self.model, lesson, TEST_SIZE, self.config.seed, "lesson", self.step)
        share = self._share_right(evaluation)
        self.curriculum.tested(share)
        self._record("lesson", lesson=number, share=share)
        self._display.tested(self.step, number, share)

    def _evaluate(self) -> Evaluation:
        """Score the model on the validation sequences."""
        config = self.config
        evaluation = evaluate(
            self.model, self.task, config.evaluation_size, config.seed, "validation"
        )
        solved = self._share_right(evaluation) >= config.solved_at
        self.solved_in_a_row = self.solved_in_a_row + 1 if solved else 0
        self._record("evaluation", **evaluation._asdict())
        return evaluation

    def _share_right(self, evaluation: Evaluation) -> float:
        """The share that decides whether the task is learned."""
        return getattr(evaluation, self.task.goal)

    def _record(self, kind: str, **values: Any) -> None:
        """A row for this step, in the metrics and in TensorBoard."""
        self._metrics.add(kind, step=self.step, **values)
        if self._board:
            self._board.add(kind, step=self.step, **values)

    @property
    def solved(self) -> bool:
        """Whether enough evaluations in a row were solved."""
        return self.solved_in_a_row >= self.config.solved_evaluations

    @property
    def finished(self) -> bool:
        """Whether the run is solved or out of steps, so that there is nothing to go on with."""
        return self.solved or self.step >= self.config.max_steps

    def held_out(self) -> Evaluation:
        """The score on all held-out sequences, or as many as an evaluation has if endless."""
        size = held_out_size(self.task, self.config.evaluation_size)
        return evaluate(self.model, self.task, size, self.config.seed)

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
                "schedule": self.schedule.state_dict(),
                "scaler": self.scaler.state_dict(),
                "carried": [state and list(tensors(state)) for state in self._carried],
                "random": random_state(),
                "progress": {
                    "step": self.step,
                    "lesson": self.curriculum.present,
                    "seconds": self.seconds,
                    "waited": self.waited,
                    "solved_in_a_row": self.solved_in_a_row,
                    "metrics_format": self.metrics_path.suffix[1:],
                    "metrics_size": self._metrics.flush(),
                },
            },
        )

    def _rebuild_state(self, parts: list[Tensor] | None) -> DNCState | None:
        """The carried state of the tensors that a checkpoint lists."""
        if parts is None:
            return None
        rest = iter(parts)
        zeros = self.model.zero_state(self.config.batch_size)
        return map_tensors(lambda tensor: next(rest).to(tensor), zeros)
