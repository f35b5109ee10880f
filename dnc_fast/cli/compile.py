"""`dnc-fast compile`: a model's GPU kernels, compiled without a GPU into a portable folder."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from ..backends import load_backend
from ..backends.triton import interpreted
from ..checks import check_integer
from ..config import DNCConfig
from ..dnc import DNC
from ..training import TrainingConfig, read_run
from ..training.checkpoint import model_kind
from .compiling import shown_compiling
from .models import option_names
from .options import HALVES, UserError, add_fields, given

MODEL_OPTIONS = tuple(name for name in option_names("dnc") if name != "backend")
TRAINING_OPTIONS = ("batch_size", "precision")
X, H = 64, 128
"""Sizes of input and hidden layer where none are given."""


def add_compile_options(parser: argparse.ArgumentParser) -> None:
    """The options of `dnc-fast compile`."""
    parser.add_argument(
        "checkpoint",
        nargs="?",
        type=Path,
        help="a run's folder, for its sizes and options; without one, those given here",
    )
    parser.add_argument(
        "--target",
        action="append",
        required=True,
        metavar="NAME",
        help="what to compile for, such as sm_90 (H100, H200) or gfx942 (MI300); may be repeated",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for the compiled kernels"
    )
    parser.add_argument(
        "--input-size", type=int, metavar="INT", help=f"size of each step's input (default: {X})"
    )
    add_fields(parser.add_argument_group("model"), DNCConfig, MODEL_OPTIONS, {"hidden_size": H})
    add_fields(parser.add_argument_group("training"), TrainingConfig, TRAINING_OPTIONS)
    parser.set_defaults(run=_compile)


def _compile(options: argparse.Namespace) -> int:
    model, training = _wanted(options)
    load_backend("triton")  # says what is missing
    if interpreted():
        raise UserError("TRITON_INTERPRET must not be set: the interpreter compiles nothing")
    from ..backends.triton.compiling import builds_of_rehearsal
    from ..backends.triton.travelling import compile_folder

    batch_size, half = training.batch_size, HALVES[training.precision]

    def rehearse() -> None:
        for cell in model.cells:
            cell.rehearse(batch_size, half)

    builds = builds_of_rehearsal(rehearse)
    with shown_compiling():
        errors = compile_folder(builds, options.target, options.out)
    for (build, target), error in errors.items():
        print(f"{build} for {target}: {error}", file=sys.stderr)
    count = len(builds) * len(options.target)
    print(
        f"{count - len(errors)} of {count} kernels for {', '.join(options.target)} are in "
        f"{options.out}; TRITON_CACHE_DIR={options.out} uses them, with the same Triton and Python"
    )
    return 1 if errors else 0


def _wanted(options: argparse.Namespace) -> tuple[DNC, TrainingConfig]:
    """The model, on tensors without data, and the options of training that matter here."""
    sizes: dict[str, Any] = {"input_size": X, "hidden_size": H}
    training: dict[str, Any] = {}
    if options.checkpoint is not None:
        content = read_run(options.checkpoint)
        if model_kind(content) != "dnc":
            raise UserError(
                "checkpoint must be of a DNC, whose kernels are compiled, got a run of the model "
                f"{model_kind(content)!r}"
            )
        sizes, training = content["model"], content["training"]
    changes = {**given(options, DNCConfig, MODEL_OPTIONS)}
    if options.input_size is not None:
        check_integer("--input-size", options.input_size, minimum=1)
        changes["input_size"] = options.input_size
    config = DNCConfig(**{**sizes, **changes})
    if not isinstance(config.controller, str):
        raise UserError("a model with a controller of your own compiles as it is run")
    chosen = {**training, **given(options, TrainingConfig, TRAINING_OPTIONS)}
    return DNC.from_config(config, device="meta", dtype=torch.float32), TrainingConfig(**chosen)
