"""`dnc-fast compare`: several models on one task, the same data, the same budget."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

import torch

from .. import pictures
from ..checks import check_integer
from ..files import write_text
from ..models import MODELS, count_parameters, matched, model_name
from ..presets import model_config, training_options
from ..tasks import TASKS, Task, summary
from ..tasks.base import count
from ..training import (
    Compared,
    Finished,
    Trainer,
    TrainingConfig,
    comparison_table,
    finished,
    models_table,
    read_metrics,
)
from ..training.checkpoint import CHECKPOINT
from ..training.progress import KINDS
from .compiling import shown_compiling
from .look import can_draw
from .options import UserError, add_device, add_fields, check_folder, chosen_device, given

BUDGETS = ("steps", "seconds", "parameters")

ENDLESS = 1_000_000_000
"""More steps than any number of seconds has."""

CLOSE = 0.2
"""A number of parameters is close to what was wanted if it differs by at most this share."""


def add_compare_options(parser: argparse.ArgumentParser) -> None:
    """The tasks of `dnc-fast compare`, each with its options."""
    tasks = parser.add_subparsers(title="tasks", required=True, metavar="TASK")
    for name, kind in TASKS.items():
        command = tasks.add_parser(
            name,
            help=summary(kind),
            usage=f"dnc-fast compare {name} --models NAME,NAME [OPTION ...]",
            description="Train several models on the same data with the same budget.",
        )
        _add_options(command, name, kind)


def _add_options(parser: argparse.ArgumentParser, name: str, task: type[Task]) -> None:
    """The options of `dnc-fast compare NAME`."""
    parser.add_argument(
        "--models",
        required=True,
        metavar="NAME,NAME",
        help=f"models to compare, of {', '.join(MODELS)}; the first sets the number of parameters",
    )
    parser.add_argument(
        "--seeds", type=int, default=3, metavar="INT", help="runs of each model (default: 3)"
    )
    parser.add_argument(
        "--budget",
        nargs="+",
        default=["steps", "parameters"],
        metavar="NAME[=NUMBER]",
        help="what is the same for all: steps, at most; seconds of a run, with its evaluations; "
        "parameters, by the choice of hidden_size, as many as the first model has by default "
        "(default: steps parameters)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("runs") / f"compare-{name}",
        metavar="FOLDER",
        help=f"for runs, table and pictures (default: runs/compare-{name})",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the comparison in that folder"
    )
    add_device(parser)
    parser.add_argument(
        "--threads", type=int, default=1, metavar="INT", help="CPU threads (default: 1)"
    )
    parser.add_argument(
        "--progress",
        choices=KINDS,
        default="auto",
        help="what to show while training (default: auto)",
    )
    add_fields(parser.add_argument_group("task"), task)
    training = parser.add_argument_group("training", "The same for all models, if given.")
    names = [one.name for one in dataclasses.fields(TrainingConfig) if one.name != "max_steps"]
    example = task()
    add_fields(training, TrainingConfig, names, training_options(example, model_config(example)))
    parser.set_defaults(run=_compare, task_name=name)


def _compare(options: argparse.Namespace) -> int:
    check_integer("--seeds", options.seeds, minimum=1)
    check_integer("--threads", options.threads, minimum=1)
    check_folder("--out", options.out)
    torch.set_num_threads(options.threads)
    options.device = chosen_device(options.device)
    task = TASKS[options.task_name](**given(options, TASKS[options.task_name]))
    budget = _budget(options.budget)
    configs = [model_config(task, name) for name in _names(options.models)]
    if "parameters" in budget:
        configs = _matched(configs, budget["parameters"])
    counts = [count_parameters(config) for config in configs]
    if "parameters" in budget:
        _warn_of_others(configs, counts, budget["parameters"] or counts[0])
    print(f"{task}\n\n{models_table(list(zip(configs, counts, strict=True)))}\n")
    first = given(options, TrainingConfig).get("seed", 0)
    compared = []
    for config, parameters in zip(configs, counts, strict=True):
        runs: list[Finished] = []
        for seed in range(first, first + options.seeds):
            trainer = _trained(options, task, config, seed, budget)
            if trainer.interrupted:
                print(f"stopped and saved in {options.out}; --resume continues")
                return 128 + trainer.interrupted
            runs.append(finished(trainer))
        compared.append(Compared(config, parameters, runs))
    _report(task, compared, options.out)
    return 0


def _matched(configs: list[Any], parameters: float | None) -> list[Any]:
    """The options of models with as many parameters as wanted, or as the first of them has."""
    if parameters is not None:
        return [matched(config, round(parameters)) for config in configs]
    first, *others = configs
    wanted = count_parameters(first)
    return [first, *(matched(config, wanted) for config in others)]


def _warn_of_others(configs: list[Any], counts: list[int], wanted: float) -> None:
    """Name the models that cannot come close to the number of parameters wanted."""
    for config, parameters in zip(configs, counts, strict=True):
        if abs(parameters - wanted) > CLOSE * wanted:
            print(
                f"dnc-fast: {model_name(config)} has {parameters:,} parameters, {wanted:,.0f} are "
                "wanted: no hidden_size comes closer",
                file=sys.stderr,
            )


def _trained(
    options: argparse.Namespace,
    task: Task,
    config: Any,
    seed: int,
    budget: dict[str, float | None],
) -> Trainer:
    """A run within the budget, begun or continued."""
    kind = model_name(config)
    folder = options.out / kind / f"seed-{seed}"
    chosen = {**training_options(task, config), **given(options, TrainingConfig), "seed": seed}
    limit = _limit(chosen.pop("max_steps", None), budget)
    training = TrainingConfig(**chosen, **limit)
    if (folder / CHECKPOINT).exists():
        if not options.resume:
            raise UserError(
                f"{folder} holds a run already; continue with --resume, or compare in another "
                "folder with --out FOLDER"
            )
        trainer = Trainer.resume(folder, max_steps=training.max_steps, device=options.device)
        if (trainer.task, trainer.model.config, trainer.config) != (task, config, training):
            raise UserError(
                f"{folder} must hold a run with these options to continue, got one with others; "
                "compare in another folder with --out FOLDER"
            )
    else:
        trainer = Trainer(task, config, training, folder, device=options.device)
    _train(trainer, budget.get("seconds"), options.progress)
    return trainer


def _limit(own: int | None, budget: dict[str, float | None]) -> dict[str, Any]:
    """The option for the most steps: of the budget, or the task's own unless seconds end a run."""
    steps = budget.get("steps")
    if steps is not None:
        return {"max_steps": round(steps)}
    if "seconds" in budget and "steps" not in budget:
        return {"max_steps": ENDLESS}
    return {} if own is None else {"max_steps": own}


def _train(trainer: Trainer, seconds: float | None, progress: str) -> None:
    """Train until a run is finished or interrupted, or has taken its seconds."""
    if progress != "off" and not trainer.finished:
        print(f"{model_name(trainer.model.config)}, seed {trainer.config.seed}", file=sys.stderr)
    with shown_compiling(progress != "off"):
        while not trainer.finished and not trainer.interrupted:
            # A call also takes time that does not count, such as for saving.
            left = None if seconds is None else (seconds - trainer.seconds) / 60
            if left is not None and left <= 0:
                break
            trainer.train(progress, max_minutes=left)


def _report(task: Task, compared: list[Compared], out: Path) -> None:
    """Print and write the table, and draw the curves."""
    table = comparison_table(task, compared)
    write_text(out / "comparison.md", f"{task}\n\n{table}\n")
    print(f"{table}\n\n{out / 'comparison.md'}")
    if not can_draw():
        return
    curves, shares, gradients = {}, {}, {}
    for one in compared:
        kind = model_name(one.config)
        paths = [out / kind / f"seed-{run.outcome.seed}" / "metrics.jsonl" for run in one.runs]
        curves[kind] = [
            [row for row in read_metrics(path) if row["kind"] == "evaluation"] for path in paths
        ]
        shares[kind] = [{1: run.outcome.held_out.right, **run.longer} for run in one.runs]
        gradients[kind] = [run.gradient for run in one.runs if run.gradient is not None]
    title = f"{task}, {count(len(compared[0].runs), 'seed')}"
    figures = {"curves": pictures.comparison_curves(curves, title)}
    if any(gradients.values()):
        figures["gradient"] = pictures.comparison_of_gradients(gradients, title)
    if any(run.longer for one in compared for run in one.runs):
        figures["longer"] = pictures.comparison_of_lengths(shares, title, task.unit)
    for name, figure in figures.items():
        print(pictures.save_picture(figure, out / f"{name}.png"))


def _names(text: str) -> list[str]:
    """The names of models in a list with commas."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in MODELS:
            raise UserError(f"--models takes names of {', '.join(MODELS)}, got {name!r}")
    if len(set(names)) < len(names):
        raise UserError(f"--models takes each name once, got {text!r}")
    return names


def _budget(words: list[str]) -> dict[str, float | None]:
    """From words such as steps=2000 to numbers by name; None where there is no number.

    Raises:
        UserError: a name is unknown or repeated, or a number is missing, out of range or no whole
            one where it counts.
    """
    budget: dict[str, float | None] = {}
    for word in words:
        name, separator, text = word.partition("=")
        if name not in BUDGETS:
            raise UserError(f"--budget takes {', '.join(BUDGETS)}, got {word!r}")
        if name in budget:
            raise UserError(f"--budget takes each name once, got {name} twice")
        try:
            number = float(text) if separator else None
        except ValueError:
            number = 0.0
        whole = name != "seconds"
        if number is not None and not (0 < number <= ENDLESS and not (whole and number % 1)):
            kind = "whole number" if whole else "number"
            raise UserError(
                f"--budget {name} takes a {kind} above 0, at most {ENDLESS:,}, got {text!r}"
            )
        if name == "seconds" and number is None:
            raise UserError("--budget seconds needs a number, such as seconds=60")
        budget[name] = number
    return budget
