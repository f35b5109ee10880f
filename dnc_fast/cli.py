"""The command line: words to calls, nothing else."""

from __future__ import annotations

import argparse
import dataclasses
import os
import platform
import shlex
import signal
import sys
import types
import typing
import warnings
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata, util
from pathlib import Path
from typing import Any

import torch

from . import __version__
from .backends import (
    BACKENDS,
    VARIABLE,
    numba_installed,
    primitives,
    resolve_backend,
    triton_problem,
)
from .checks import check_integer
from .config import DNCConfig
from .tasks import TASKS, Task
from .training import (
    CheckpointError,
    Trainer,
    TrainingConfig,
    TrainingError,
    describe,
    evaluate,
    load_run,
    read_metrics,
    restore_model,
    restore_task,
)
from .training.metrics import FORMATS
from .training.progress import KINDS
from .training.random import stream_generator

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
    "usage_order",
    "backend",
)

EXAMPLES = """examples:
  dnc-fast train copy                              copy sequences of 1 to 8 vectors of 6 bits
  dnc-fast train copy --controller feedforward --out runs/feedforward
  dnc-fast train copy --resume                     go on after Ctrl-C
  dnc-fast eval runs/copy --task min_length=16 max_length=16 --num-cells 32
  dnc-fast show runs/copy                          draw its pictures again
"""


class UserError(Exception):
    """A mistake of the user, told without a traceback."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0: done. 1: training failed. 2: a mistake in what was asked. 128 + n: saved on signal n.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("dnc-fast: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except TrainingError as error:
        print(f"dnc-fast: training stopped: {error}", file=sys.stderr)
        return 1
    except (UserError, CheckpointError, TypeError, ValueError, OSError, ImportError) as error:
        print(f"dnc-fast: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dnc-fast",
        description="Train, score and look into a Differentiable Neural Computer.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dnc_fast {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a DNC on a task")
    tasks = train.add_subparsers(title="tasks", required=True, metavar="TASK")
    for name, kind in TASKS.items():
        summary = (kind.__doc__ or "").strip().splitlines()[0]
        command = tasks.add_parser(
            name,
            help=_module_summary(kind),
            usage=f"dnc-fast train {name} [OPTION ...]",
            description=summary,
        )
        _add_train_options(command, name, kind)

    evaluation = commands.add_parser("eval", help="score a trained model on held-out sequences")
    _add_checkpoint_options(evaluation)
    evaluation.add_argument(
        "--sequences", type=int, default=1000, metavar="INT", help="how many (default: 1000)"
    )
    evaluation.set_defaults(run=_evaluate)

    show = commands.add_parser("show", help="draw a trained model's pictures")
    _add_checkpoint_options(show)
    show.add_argument(
        "--out", type=Path, metavar="FOLDER", help="where to (default: the checkpoint's folder)"
    )
    show.set_defaults(run=_show)

    info = commands.add_parser("info", help="versions, devices, backends")
    info.set_defaults(run=_info)
    return parser


def _module_summary(kind: type) -> str:
    """First line of the docstring of a task's module."""
    return (sys.modules[kind.__module__].__doc__ or "").strip().splitlines()[0].rstrip(".")


def _add_train_options(parser: argparse.ArgumentParser, name: str, task: type) -> None:
    _add_fields(parser.add_argument_group("task"), task)
    model = parser.add_argument_group("model", "The defaults follow the task's options.")
    _add_fields(model, DNCConfig, MODEL_OPTIONS, task().model_preset())
    _add_fields(parser.add_argument_group("training"), TrainingConfig)
    run = parser.add_argument_group("run")
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
    run.add_argument(
        "--progress", choices=KINDS, default="auto", help="what to show meanwhile (default: auto)"
    )
    run.add_argument(
        "--max-minutes", type=float, metavar="FLOAT", help="stop and save after this many minutes"
    )
    run.add_argument("--no-pictures", action="store_true", help="draw none at the end")
    run.set_defaults(run=_train, task_name=name)


def _add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", type=Path, help="a run's folder, or the checkpoint in it")
    parser.add_argument(
        "--task",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="options of the task to change, such as max_length=16",
    )
    parser.add_argument(
        "--num-cells", type=int, metavar="INT", help="memory cells (default: as trained)"
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    parser.add_argument(
        "--seed", type=int, metavar="INT", help="seed of the sequences (default: the run's)"
    )


def _add_fields(
    group: Any,
    options: type,
    names: Iterable[str] | None = None,
    defaults: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """An option for each field of a dataclass; only those that the user gives reach the result."""
    for field in _fields(options, names):
        kind = _field_type(options, field.name)
        choices = field.metadata.get("choices")
        default = defaults.get(field.name, field.default)
        shown = "" if default in (dataclasses.MISSING, None) else f" (default: {default})"
        group.add_argument(
            "--" + field.name.replace("_", "-"),
            dest=field.name,
            type=kind,
            choices=choices,
            metavar=None if choices else kind.__name__.upper(),
            default=argparse.SUPPRESS,
            help=field.metadata["help"] + shown,
        )


def _fields(options: type, names: Iterable[str] | None = None) -> list[dataclasses.Field[Any]]:
    fields = {field.name: field for field in dataclasses.fields(options)}
    return [fields[name] for name in (fields if names is None else names)]


def _field_type(options: type, name: str) -> type:
    """The type of a field's values: int, float or str, the first of a union."""
    hint = typing.get_type_hints(options)[name]
    if isinstance(hint, types.UnionType):
        hint = typing.get_args(hint)[0]
    return hint


def _given(
    options: argparse.Namespace, kind: type, names: Iterable[str] | None = None
) -> dict[str, Any]:
    """The options of a dataclass that the user gave."""
    given = vars(options)
    return {f.name: given[f.name] for f in _fields(kind, names) if f.name in given}


def _train(options: argparse.Namespace) -> int:
    check_integer("--threads", options.threads, minimum=1)
    torch.set_num_threads(options.threads)
    _check_device(options.device)
    kind = TASKS[options.task_name]
    task_options = _given(options, kind)
    model_options = _given(options, DNCConfig, MODEL_OPTIONS)
    training_options = _given(options, TrainingConfig)
    if options.resume:
        trainer = _resume(options, task_options, model_options, training_options)
    else:
        task = kind(**task_options)
        model = DNCConfig(
            input_size=task.input_size,
            output_size=task.output_size,
            **{**task.model_preset(), **model_options},
        )
        preset = task.training_preset(str(model.controller))
        try:
            trainer = Trainer(
                task,
                model,
                TrainingConfig(**{**preset, **training_options}),
                options.out,
                device=options.device,
                metrics_format=options.metrics,
            )
        except FileExistsError:
            raise UserError(
                f"{options.out} holds a run already; continue it with --resume, or train in "
                "another folder with --out FOLDER"
            ) from None
    _announce_compilation(trainer.model.config.backend, options)
    trainer.train(options.progress, max_minutes=options.max_minutes)
    return _report(trainer, options)


def _announce_compilation(backend: str, options: argparse.Namespace) -> None:
    """Say why the first step of the first run takes so long."""
    device = torch.device(options.device)
    if options.progress == "off" or resolve_backend(backend, device, torch.float32) != "cpu":
        return
    if not primitives("cpu").is_compiled(torch.float32):
        print("compiling the CPU kernels, this once (about 40 s)", file=sys.stderr)


def _resume(
    options: argparse.Namespace,
    task_options: dict[str, Any],
    model_options: dict[str, Any],
    training_options: dict[str, Any],
) -> Trainer:
    """The run to continue, after a check that the user asks for no other one."""
    content = load_run(options.out)
    if content["task"]["name"] != options.task_name:
        raise UserError(
            f"{options.out} holds a run of the task {content['task']['name']!r}, got "
            f"{options.task_name!r}"
        )
    max_steps = training_options.pop("max_steps", None)
    for given, held in (
        (task_options, content["task"]["options"]),
        (model_options, content["model"]),
        (training_options, content["training"]),
    ):
        for name, value in given.items():
            if held[name] != value:
                flag = "--" + name.replace("_", "-")
                raise UserError(
                    f"{flag} must stay {held[name]} when a run is resumed, got {value}; leave it "
                    "out, or train in another folder"
                )
    return Trainer.resume(options.out, max_steps=max_steps, device=options.device)


def _report(trainer: Trainer, options: argparse.Namespace) -> int:
    """Say how a run went; returns the exit status."""
    again = f"dnc-fast train {options.task_name} --out {shlex.quote(str(options.out))} --resume"
    if trainer.interrupted:
        print(f"stopped at step {trainer.step} and saved; to go on: {again}")
        return 128 + trainer.interrupted
    outcome = "solved" if trainer.solved else "not solved"
    print(f"{outcome} after {trainer.step} steps, {trainer.seconds:.0f} s of training")
    held_out = trainer.held_out()
    print(f"{trainer.config.evaluation_size} held-out sequences: {describe(trainer.task, held_out)}")
    if not trainer.solved:
        print(f"to go on: {again} --max-steps {2 * trainer.step}")
    if not options.no_pictures:
        _draw(trainer.model, trainer.task, trainer.config.seed, trainer.folder, trainer.folder)
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    check_integer("--sequences", options.sequences, minimum=1)
    model, task, seed, _ = _restore(options)
    result = evaluate(model, task, options.sequences, seed)
    print(f"{task}; {model.config.num_cells} cells, seed {seed}")
    print(
        f"{options.sequences} held-out sequences: {describe(task, result)}, "
        f"loss {result.loss:.5f} nats per bit"
    )
    return 0


def _show(options: argparse.Namespace) -> int:
    model, task, seed, folder = _restore(options)
    _draw(model, task, seed, folder, options.out or folder)
    return 0


def _restore(options: argparse.Namespace) -> tuple[Any, Task, int, Path]:
    """The model, task, seed and folder that `eval` and `show` are asked for."""
    _check_device(options.device)
    content = load_run(options.checkpoint)
    kind = type(restore_task(content))
    task = restore_task(content, **dict(_parse_change(kind, change) for change in options.task))
    cells = {} if options.num_cells is None else {"num_cells": options.num_cells}
    model = restore_model(content, **cells).to(options.device)
    sizes = (model.config.input_size, model.config.output_size)
    if sizes != (task.input_size, task.output_size):
        raise UserError(
            f"--task must leave the model's input and output sizes {sizes}, got "
            f"{(task.input_size, task.output_size)}"
        )
    seed = content["training"]["seed"] if options.seed is None else options.seed
    check_integer("--seed", seed, minimum=0)
    path = options.checkpoint
    return model, task, seed, path if path.is_dir() else path.parent


def _parse_change(kind: type, change: str) -> tuple[str, Any]:
    """NAME=VALUE for an option of a task."""
    name, separator, value = change.partition("=")
    name = name.replace("-", "_")
    names = tuple(field.name for field in _fields(kind))
    if not separator or name not in names:
        raise UserError(f"--task takes NAME=VALUE with a name of {names}, got {change!r}")
    value_type = _field_type(kind, name)
    try:
        return name, value_type(value)
    except ValueError:
        raise UserError(f"--task {name} takes {value_type.__name__}, got {value!r}") from None


def _draw(model: Any, task: Task, seed: int, run: Path, out: Path) -> None:
    """Draw the learning curve of a run and the memory during one held-out sequence."""
    if util.find_spec("matplotlib") is None:
        print("no pictures: they need matplotlib, `pip install matplotlib` brings it")
        return
    from .pictures import learning_curve, memory_view, save_picture

    metrics = [path for path in run.glob("metrics.*") if path.suffix[1:] in FORMATS]
    if metrics:
        rows = read_metrics(max(metrics, key=lambda path: path.stat().st_mtime))
        figure = learning_curve(
            [row for row in rows if row["kind"] == "train"],
            [row for row in rows if row["kind"] == "evaluation"],
            str(task),
        )
        print(save_picture(figure, out / "learning_curve.png"))
    device = next(model.parameters()).device
    batch = task.batch(16, stream_generator(seed, "held-out")).to(device)
    longest = int(batch.lengths.argmax())
    inputs, targets, mask = (part[:, longest] for part in batch[:3])
    model.eval()
    with torch.no_grad():
        logits, _, trace = model(inputs, return_trace=True)
    figure = memory_view(inputs, task.probabilities(logits), targets, mask, trace, str(task))
    print(save_picture(figure, out / "memory.png"))


def _check_device(name: str) -> None:
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--device must name a device that torch can use, got {name!r}: {reason}"
        ) from None


def _info(options: argparse.Namespace) -> int:
    print(f"dnc_fast   {__version__}")
    print(f"python     {platform.python_version()} on {platform.machine()}")
    for package in ("torch", "numpy", "triton", "numba", "tqdm", "matplotlib"):
        try:
            print(f"{package:<10} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            print(f"{package:<10} not installed")
    print(f"cpu        {torch.get_num_threads()} threads")
    for index in range(torch.cuda.device_count()):
        print(f"cuda:{index}     {torch.cuda.get_device_name(index)}")
    print(f"backends   {', '.join(BACKENDS)}")
    gpus = [f"cuda:{index}" for index in range(torch.cuda.device_count())]
    for device in ["cpu", *gpus]:
        print(f"           auto on {device} is {_auto_and_why(torch.device(device))}")
    if not gpus:
        print("           triton has no CUDA or ROCm device to run on")
    return 0


def _auto_and_why(device: torch.device) -> str:
    """What `auto` is on a device, and what keeps it from a faster one."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # said here in full
            chosen = resolve_backend("auto", device, torch.float32)
    except (ImportError, RuntimeError, ValueError) as error:
        return f"an error ({error})"
    if os.environ.get(VARIABLE):
        return f"{chosen} ({VARIABLE} says so)"
    if device.type == "cpu":
        return chosen if numba_installed() else f"{chosen} (the faster cpu backend needs numba)"
    problem = triton_problem(device)
    return chosen if problem is None else f"{chosen} ({problem})"
