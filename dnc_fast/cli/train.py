"""`dnc-fast train`: one run, or several seeds of it, begun or continued."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import torch

from ..backends import primitives, resolve_backend
from ..checks import check_integer, check_number
from ..config import DNCConfig
from ..tasks import TASKS, Preset, Task
from ..training import (
    Outcome,
    Trainer,
    TrainingConfig,
    describe,
    held_out_size,
    load_run,
    outcome,
    summary_table,
)
from ..training.checkpoint import CHECKPOINT
from ..training.metrics import FORMATS
from ..training.progress import KINDS
from .look import draw
from .options import UserError, add_fields, check_device, given

MODEL_OPTIONS = (
    "controller",
    "hidden_size",
    "num_layers",
    "dropout",
    "num_cells",
    "cell_size",
    "num_read_heads",
    "num_write_heads",
    "activation_clip",
    "input_gain",
    "usage_order",
    "linkage",
    "link_fan_out",
    "link_threshold",
    "link_history",
    "read_topk",
    "write_topk",
    "backend",
)


def add_train_options(parser: argparse.ArgumentParser, name: str, task: type[Task]) -> None:
    """The options of `dnc-fast train NAME`."""
    add_fields(parser.add_argument_group("task"), task)
    model = parser.add_argument_group("model", "The defaults follow the task's options.")
    preset = task().model_preset()
    add_fields(model, DNCConfig, MODEL_OPTIONS, preset)
    training = parser.add_argument_group("training")
    controller = preset.get("controller", DNCConfig.controller)
    add_fields(training, TrainingConfig, defaults=task().training_preset(controller))
    run = parser.add_argument_group("run")
    if task.presets():
        run.add_argument(
            "--preset",
            choices=tuple(task.presets()),
            help="a published set of options, which others given here change",
        )
    run.add_argument(
        "--out",
        type=Path,
        default=Path("runs") / name,
        metavar="FOLDER",
        help=f"where checkpoint, metrics and pictures go (default: runs/{name})",
    )
    run.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in that folder; only --max-steps may change",
    )
    run.add_argument(
        "--max-minutes",
        type=float,
        metavar="FLOAT",
        help="stop and save after so many minutes; --resume goes on",
    )
    run.add_argument(
        "--seeds",
        type=int,
        metavar="INT",
        help="train so many seeds, from --seed on, each in a folder of its own, and show a table",
    )
    run.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, ... (default: cpu)")
    run.add_argument(
        "--threads",
        type=int,
        default=1,
        metavar="INT",
        help="CPU threads (default: 1, the fastest for models as small as the presets)",
    )
    run.add_argument(
        "--metrics", choices=FORMATS, default="jsonl", help="format of metrics (default: jsonl)"
    )
    run.add_argument("--tensorboard", action="store_true", help="also write curves for TensorBoard")
    run.add_argument(
        "--progress", choices=KINDS, default="auto", help="what to show meanwhile (default: auto)"
    )
    run.add_argument("--no-pictures", action="store_true", help="draw none at the end")
    run.set_defaults(run=_train, task_name=name)


def _train(options: argparse.Namespace) -> int:
    check_integer("--threads", options.threads, minimum=1)
    if options.max_minutes is not None:
        check_number("--max-minutes", options.max_minutes, 0.0, above=True)
    torch.set_num_threads(options.threads)
    check_device(options.device)
    if options.seeds is None:
        return _train_one(options)
    check_integer("--seeds", options.seeds, minimum=1)
    return _train_several(options)


def _train_one(options: argparse.Namespace) -> int:
    """Train one run and say how it went."""
    wanted = _wanted(options)
    trainer = (_continue if options.resume else _begin)(options, options.out, wanted)
    _run(trainer, options, options.max_minutes)
    if not trainer.finished:
        return _stopped(trainer, options)
    found = "solved" if trainer.solved else "not solved"
    print(
        f"{found} after {trainer.step} steps, {trainer.seconds:.0f} s of training, "
        f"{100 * trainer.waited / max(trainer.seconds, 1e-9):.1f} % of it waiting for batches"
    )
    sequences = held_out_size(trainer.task, trainer.config.evaluation_size)
    print(f"{sequences} held-out sequences: {describe(trainer.task, trainer.held_out())}")
    if not trainer.solved:
        print(f"to go on: {_again(options)} --max-steps {2 * trainer.step}")
    if not options.no_pictures:
        draw(trainer.model, trainer.task, trainer.config.seed, trainer.folder, trainer.folder)
    return 0


def _train_several(options: argparse.Namespace) -> int:
    """Train or continue the runs of several seeds, and show their table."""
    begun = time.monotonic()
    outcomes: list[Outcome] = []
    wanted = _wanted(options)
    first = wanted["training"].pop("seed", 0)
    for seed in range(first, first + options.seeds):
        folder = options.out / f"seed-{seed}"
        asked = {**wanted, "training": {**wanted["training"], "seed": seed}}
        resumed = options.resume and (folder / CHECKPOINT).exists()
        trainer = (_continue if resumed else _begin)(options, folder, asked)
        minutes = options.max_minutes
        if minutes is not None:
            minutes = max(minutes - (time.monotonic() - begun) / 60, 1e-6)
        _run(trainer, options, minutes)
        if not trainer.finished:
            return _stopped(trainer, options)
        outcomes.append(outcome(trainer))
        print(f"seed {seed}: {describe(trainer.task, outcomes[-1].held_out)}", file=sys.stderr)
        if not options.no_pictures:
            draw(trainer.model, trainer.task, seed, folder, folder)
    table = summary_table(trainer.task, outcomes)
    (options.out / "summary.md").write_text(table + "\n")
    print(table)
    return 0


def _run(trainer: Trainer, options: argparse.Namespace, minutes: float | None) -> None:
    """Train, after a word on why the first step of the first run takes so long."""
    device, backend = trainer.device, trainer.model.config.backend
    if (
        options.progress != "off"
        and resolve_backend(backend, device, torch.float32) == "cpu"
        and not primitives("cpu").is_compiled(torch.float32)
    ):
        print("compiling the CPU kernels, this once (about 40 s)", file=sys.stderr)
    trainer.train(options.progress, max_minutes=minutes, tensorboard=options.tensorboard)


def _again(options: argparse.Namespace) -> str:
    """The command that goes on with a run."""
    several = f" --seeds {options.seeds}" if options.seeds else ""
    out = shlex.quote(str(options.out))
    return f"dnc-fast train {options.task_name} --out {out}{several} --resume"


def _stopped(trainer: Trainer, options: argparse.Namespace) -> int:
    """Say that a run was cut off; returns the exit status."""
    reason = "stopped" if trainer.interrupted else "out of time"
    print(f"{reason} at step {trainer.step} and saved; to go on: {_again(options)}")
    return 128 + trainer.interrupted if trainer.interrupted else 0


def _wanted(options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What the user asks for of task, model and training, under a checkpoint's words."""
    kind = TASKS[options.task_name]
    name = getattr(options, "preset", None)
    preset = kind.presets()[name] if name else Preset({}, {}, {})
    return {
        "task": {**preset.task, **given(options, kind)},
        "model": {**preset.model, **given(options, DNCConfig, MODEL_OPTIONS)},
        "training": {**preset.training, **given(options, TrainingConfig)},
    }


def _begin(options: argparse.Namespace, folder: Path, wanted: dict[str, dict[str, Any]]) -> Trainer:
    """A new run, the task's presets changed by what the user asks for."""
    task = TASKS[options.task_name](**wanted["task"])
    model = DNCConfig(
        input_size=task.input_size,
        output_size=task.output_size,
        **{**task.model_preset(), **wanted["model"]},
    )
    preset = task.training_preset(str(model.controller))
    training = TrainingConfig(**{**preset, **wanted["training"]})
    try:
        return Trainer(
            task, model, training, folder, device=options.device, metrics_format=options.metrics
        )
    except FileExistsError:
        raise UserError(
            f"{folder} holds a run already; continue it with --resume, or train in another folder "
            "with --out FOLDER"
        ) from None


def _continue(
    options: argparse.Namespace, folder: Path, wanted: dict[str, dict[str, Any]]
) -> Trainer:
    """The run of a folder, after a check that the user asks for no other one."""
    content = load_run(folder)
    if content["task"]["name"] != options.task_name:
        raise UserError(
            f"{folder} holds a run of the task {content['task']['name']!r}, got "
            f"{options.task_name!r}"
        )
    training = dict(wanted["training"])
    max_steps = training.pop("max_steps", None)
    for kind, asked, held in (
        (TASKS[options.task_name], wanted["task"], content["task"]["options"]),
        (DNCConfig, wanted["model"], content["model"]),
        (TrainingConfig, training, content["training"]),
    ):
        for name, value in asked.items():
            was = held.get(name, getattr(kind, name, None))  # older runs lack what is newer
            if was != value:
                flag = "--" + name.replace("_", "-")
                raise UserError(
                    f"{flag} must stay {was} when a run is resumed, got {value}; leave it "
                    "out, or train in another folder"
                )
    return Trainer.resume(folder, max_steps=max_steps, device=options.device)
