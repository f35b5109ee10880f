"""`dnc-fast train`: start or continue one run, or the same run with several seeds."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from ..checks import check_integer, check_number
from ..config import DNCConfig
from ..files import write_text
from ..models import MODELS, config_type
from ..presets import PUBLISHED, Preset, model_config, model_options, training_options
from ..tasks import TASKS, Task, summary
from ..tasks.base import count
from ..training import (
    Outcome,
    Ranks,
    Trainer,
    TrainingConfig,
    describe,
    held_out_size,
    joined,
    outcome,
    read_run,
    read_trained,
    restore_model,
    summary_table,
)
from ..training.checkpoint import CHECKPOINT, model_kind
from ..training.metrics import FORMATS
from ..training.progress import KINDS
from ..training.threads import suitable_threads
from .compiling import shown_compiling
from .look import draw, print_parts
from .models import add_models, check_model_options, flag, given_model_options
from .options import UserError, add_device, add_fields, check_folder, chosen_device, given

MAY_CHANGE = ("max_steps", "learning_rate")
"""Options of training that may change when a run is resumed."""

NO_PRESET = Preset({}, {}, {})


def add_train_options(parser: argparse.ArgumentParser) -> None:
    """The tasks of `dnc-fast train`, each with its options."""
    tasks = parser.add_subparsers(title="tasks", required=True, metavar="TASK")
    for name, kind in TASKS.items():
        command = tasks.add_parser(
            name,
            help=summary(kind),
            usage=f"dnc-fast train {name} [OPTION ...]",
            description=(kind.__doc__ or "").strip().splitlines()[0],
        )
        _add_options(command, name, kind)


def _add_options(parser: argparse.ArgumentParser, name: str, task: type[Task]) -> None:
    """The options of `dnc-fast train NAME`."""
    example = task()
    training = training_options(example, model_config(example))
    defaults = Preset({}, model_options(example), training)
    add_run_options(parser, task, defaults, tuple(MODELS))
    run = parser.add_argument_group("run")
    if name in PUBLISHED:
        run.add_argument(
            "--preset",
            choices=tuple(PUBLISHED[name]),
            help="a published set of options; other options given here override it",
        )
    else:
        run.add_argument("--preset", type=_no_preset, help=argparse.SUPPRESS)
    run.add_argument(
        "--out",
        type=Path,
        default=Path("runs") / name,
        metavar="FOLDER",
        help=f"for checkpoint, metrics and pictures (default: runs/{name})",
    )
    run.add_argument(
        "--resume",
        action="store_true",
        help="continue the run in that folder; only --max-steps and --learning-rate may change",
    )
    run.add_argument(
        "--seeds",
        type=int,
        metavar="INT",
        help="train with this many seeds, from --seed on, each in its own folder; show a table",
    )
    add_way_options(run)
    run.set_defaults(run=_train, task_name=name, command=f"train {name}", resume_flag=" --resume")


def add_run_options(
    parser: argparse.ArgumentParser,
    task: type[Task],
    defaults: Preset,
    models: Sequence[str] = ("dnc",),
) -> None:
    """The options of task, model and training; of several models the user chooses one."""
    add_fields(parser.add_argument_group("task"), task, defaults=defaults.task)
    add_models(parser, defaults.model, models)
    add_fields(parser.add_argument_group("training"), TrainingConfig, defaults=defaults.training)


def add_way_options(run: Any) -> None:
    """The options that say where a run begins, and how it is carried out."""
    run.add_argument(
        "--from",
        dest="source",
        type=Path,
        metavar="RUN",
        help="begin with the parameters of a trained model, and its options: the folder of a run "
        "or of `dnc-fast share`",
    )
    run.add_argument(
        "--max-minutes",
        type=float,
        metavar="FLOAT",
        help="stop and save after this many minutes; it can be continued",
    )
    add_device(run)
    run.add_argument(
        "--threads",
        type=_integer_or_auto(1),
        metavar="INT",
        help="CPU threads (default: auto, which is 1 for small models, such as most presets', and "
        "otherwise as many as torch takes)",
    )
    run.add_argument(
        "--data-workers",
        type=_integer_or_auto(0),
        metavar="INT",
        help="processes that draw batches; 0: a thread (default: auto, which is up to 2 where a "
        "GPU trains and batches take long to draw, otherwise 0)",
    )
    run.add_argument("--metrics", choices=FORMATS, help="format of metrics (default: jsonl)")
    run.add_argument("--tensorboard", action="store_true", help="also write curves for TensorBoard")
    run.add_argument(
        "--progress",
        choices=KINDS,
        default="auto",
        help="what to show while training (default: auto)",
    )
    run.add_argument("--no-pictures", action="store_true", help="do not draw pictures at the end")


def check_way_options(options: argparse.Namespace) -> None:
    """Raise unless the time is a positive number and the output a folder, or can be one."""
    if options.max_minutes is not None:
        check_number("--max-minutes", options.max_minutes, 0.0, above=True)
    check_folder("--out", options.out)


def _train(options: argparse.Namespace) -> int:
    check_way_options(options)
    if options.seeds is not None:
        check_integer("--seeds", options.seeds, minimum=1)
    preset = PUBLISHED[options.task_name][options.preset] if options.preset else NO_PRESET
    with joined(chosen_device(options.device)) as ranks:
        return train_all(options, preset, ranks)


def train_all(options: argparse.Namespace, preset: Preset, ranks: Ranks) -> int:
    """Train one run, or one for each seed; returns the exit status."""
    most = options.threads or torch.get_num_threads()
    started = time.monotonic()
    outcomes: list[Outcome] = []
    for folder, wanted in _runs(options, preset).items():
        resumed = options.resume and (options.seeds is None or (folder / CHECKPOINT).exists())
        trainer = (_continue if resumed else _begin)(options, folder, wanted, ranks)
        torch.set_num_threads(most)
        if not options.threads:
            share = trainer.config.batch_size // ranks.count
            torch.set_num_threads(suitable_threads(trainer.model, share))
        if trainer.finished:
            print(f"nothing to train: {_why_finished(trainer)}", file=sys.stderr)
        minutes = options.max_minutes
        if minutes is not None:
            minutes = max(minutes - (time.monotonic() - started) / 60, 1e-6)
        _run(trainer, options, minutes)
        if trainer.interrupted:
            return _stopped(trainer, options)
        outcomes.append(outcome(trainer))
        _report(trainer, outcomes[-1], options)
        if ranks.is_first and not options.no_pictures:
            draw(trainer.model, trainer.task, trainer.config.seed, folder, folder)
        if not trainer.finished:  # out of time
            return _stopped(trainer, options)
    if options.seeds is not None:
        table = summary_table(trainer.task, outcomes)
        if ranks.is_first:
            write_text(options.out / "summary.md", f"{table}\n")
        print(table)
    return 0


def _no_preset(text: str) -> NoReturn:
    """Refuse a preset for a task that has none."""
    raise argparse.ArgumentTypeError(f"only {', '.join(PUBLISHED)} have presets, got {text}")


def _integer_or_auto(least: int) -> Callable[[str], int | None]:
    """From a text to an integer of at least this; None for "auto"."""

    def parse(text: str) -> int | None:
        if text == "auto":
            return None
        if not text.isdigit() or int(text) < least:
            raise argparse.ArgumentTypeError(
                f"must be auto, or an integer of at least {least}, got {text}"
            )
        return int(text)

    return parse


def _why_finished(trainer: Trainer) -> str:
    """Why a run that is resumed has no steps to take."""
    if trainer.solved:
        return (
            f"the run was solved at step {trainer.step} ({trainer.solved_in_a_row} solved "
            "evaluations in a row); to train beyond that, start a run with --solved-at 2 in "
            "another folder, --out FOLDER"
        )
    return (
        f"the run has already taken its {_steps(trainer.step)}; --max-steps {2 * trainer.step} "
        "allows more"
    )


def _runs(options: argparse.Namespace, preset: Preset) -> dict[Path, dict[str, dict[str, Any]]]:
    """The folders of the run, or of a run for each seed, and the options for each."""
    wanted = _wanted(options, preset)
    if options.seeds is None:
        return {options.out: wanted}
    first = wanted["training"].get("seed", 0)
    return {
        options.out / f"seed-{seed}": {**wanted, "training": {**wanted["training"], "seed": seed}}
        for seed in range(first, first + options.seeds)
    }


def _report(trainer: Trainer, result: Outcome, options: argparse.Namespace) -> None:
    """Say how a finished run went: in full, or in a line if it is one of several."""
    figures = describe(trainer.task, result.held_out)
    if options.seeds is not None:
        print(f"seed {result.seed}: {figures}", file=sys.stderr)
        return
    print(
        f"{'solved' if result.solved else 'not solved'} after {_steps(result.steps)}, "
        f"{result.seconds:.0f} s of training, "
        f"{100 * trainer.waited / max(result.seconds, 1e-9):.1f} % of it waiting for batches"
    )
    sequences = held_out_size(trainer.task, trainer.config.evaluation_size)
    print(f"{sequences} held-out sequences: {figures}")
    print_parts(trainer.task, result.parts, sequences, result.seed)
    print(f"to look again: dnc-fast show {shlex.quote(str(options.out))}")
    if trainer.finished and not result.solved:
        print(f"to continue: {_again(options)} --max-steps {2 * result.steps}")


def _steps(number: int) -> str:
    return count(number, "step")


def _run(trainer: Trainer, options: argparse.Namespace, minutes: float | None) -> None:
    """Train; what is to be done, and what must be compiled first, is shown."""
    if options.progress != "off" and not trainer.finished:
        print(_plan(trainer), file=sys.stderr)
    with shown_compiling(options.progress != "off"):
        trainer.train(
            options.progress,
            max_minutes=minutes,
            tensorboard=options.tensorboard,
            data_workers=options.data_workers,
        )


def _plan(trainer: Trainer) -> str:
    """What a run will do, in a line."""
    config = trainer.config
    numbers = sum(parameter.numel() for parameter in trainer.model.parameters())
    begin = f"from step {trainer.step:,} on, " if trainer.step else ""
    return (
        f"{trainer.task}: {numbers:,} parameters on {trainer.device}, {begin}at most "
        f"{_steps(config.max_steps)}, an evaluation every {_steps(config.evaluate_every)}"
    )


def _again(options: argparse.Namespace) -> str:
    """The command that continues a run."""
    several = f" --seeds {options.seeds}" if options.seeds else ""
    out = shlex.quote(str(options.out))
    return f"dnc-fast {options.command} --out {out}{several}{options.resume_flag}"


def _stopped(trainer: Trainer, options: argparse.Namespace) -> int:
    """Say that a run was stopped early; returns the exit status, of several ranks the first's."""
    reason = "stopped" if trainer.interrupted else "out of time"
    print(f"{reason} at step {trainer.step} and saved; to continue: {_again(options)}")
    return 128 + trainer.interrupted if trainer.interrupted and trainer.ranks.is_first else 0


def _wanted(options: argparse.Namespace, preset: Preset) -> dict[str, dict[str, Any]]:
    """The options of task, model and training that the user asks for."""
    kind = TASKS[options.task_name]
    return {
        "task": {**preset.task, **given(options, kind)},
        "model": {**preset.model, **given_model_options(options)},
        "training": {**preset.training, **given(options, TrainingConfig)},
    }


def _begin(
    options: argparse.Namespace, folder: Path, wanted: dict[str, dict[str, Any]], ranks: Ranks
) -> Trainer:
    """A new run: the defaults for the task, overridden by what the user asks for."""
    task = TASKS[options.task_name](**wanted["task"])
    source = None if options.source is None else read_trained(options.source)
    kind = options.model or ("dnc" if source is None else model_kind(source))
    if options.preset and kind != "dnc":
        raise UserError(f"--preset is a set of options of the DNC; leave it out for --model {kind}")
    check_model_options(kind, wanted["model"])
    trained = None
    if source is None:
        model = model_config(task, kind, **wanted["model"])
    else:
        if model_kind(source) != kind:
            raise UserError(f"{options.source} holds a {model_kind(source)!r}, got --model {kind}")
        trained = restore_model(source, **wanted["model"])
        model = trained.config
    if isinstance(model, DNCConfig):
        for sentence in model.idle_options():
            print(f"dnc-fast: note: {sentence}", file=sys.stderr)
    training = TrainingConfig(**{**training_options(task, model), **wanted["training"]})
    try:
        trainer = Trainer(
            task,
            model,
            training,
            folder,
            device=ranks.device,
            metrics_format=options.metrics or "jsonl",
            ranks=ranks,
        )
        if trained is not None:
            trainer.model.load_state_dict(trained.state_dict())
        return trainer
    except FileExistsError:
        raise UserError(
            f"{folder} holds a run already; continue it with --resume, or train in another folder "
            "with --out FOLDER"
        ) from None


def _continue(
    options: argparse.Namespace, folder: Path, wanted: dict[str, dict[str, Any]], ranks: Ranks
) -> Trainer:
    """The run of a folder, after a check that the user does not ask for a different one."""
    if options.source is not None:
        raise UserError(f"--from is for a new run, and {folder} holds one; leave it out")
    content = read_run(folder)
    if content["task"]["name"] != options.task_name:
        raise UserError(
            f"{folder} holds a run of the task {content['task']['name']!r}, got "
            f"{options.task_name!r}"
        )
    kind = model_kind(content)
    if options.model not in (None, kind):
        raise UserError(f"{folder} holds a run of the model {kind!r}, got {options.model!r}")
    check_model_options(kind, wanted["model"])
    kept = content["progress"]["metrics_format"]
    if options.metrics not in (None, kept):
        raise UserError(f"--metrics must stay {kept} when a run is resumed, got {options.metrics}")
    training = dict(wanted["training"])
    changed = {name: training.pop(name, None) for name in MAY_CHANGE}
    for owner, asked, held in (
        (TASKS[options.task_name], wanted["task"], content["task"]["options"]),
        (config_type(kind), wanted["model"], content["model"]),
        (TrainingConfig, training, content["training"]),
    ):
        for name, value in asked.items():
            was = held.get(name, getattr(owner, name, None))  # runs lack options that are newer
            if was != value:
                raise UserError(
                    f"{flag(name)} must stay {was or repr(was)} when a run is resumed, got "
                    f"{value}; leave it out, or train in another folder"
                )
    return Trainer.resume(folder, **changed, device=ranks.device, ranks=ranks)
