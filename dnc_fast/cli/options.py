"""Options of the command line: from the fields of dataclasses, and those of several commands."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import sys
import types
import typing
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch

from ..pretrained import bundled

ANNOTATIONS = "__annotations__"

HALVES = {"float32": None, "float16": torch.float16, "bfloat16": torch.bfloat16}
"""The dtypes that a number can be narrowed to, by their names."""


class UserError(Exception):
    """A mistake of the user, reported without a traceback."""


def add_fields(
    group: Any,
    options: type,
    names: Iterable[str] | None = None,
    defaults: Mapping[str, Any] = types.MappingProxyType({}),
) -> None:
    """Add an option for each field of a dataclass; the result holds only those the user gives."""
    for field in fields(options, names):
        kind = field_type(options, field.name)
        choices = field.metadata.get("choices")
        if callable(choices):
            choices = choices()
        default = defaults.get(field.name, field.default)
        shown = "" if default in (dataclasses.MISSING, None, "") else f" (default: {default})"
        values: dict[str, Any] = {
            "type": kind,
            "choices": choices and tuple(choices),
            "metavar": None if choices else kind.__name__.upper(),
        }
        if kind is bool:
            values = {"action": argparse.BooleanOptionalAction}
        group.add_argument(
            "--" + field.name.replace("_", "-"),
            dest=field.name,
            default=argparse.SUPPRESS,
            help=field.metadata.get("help", "") + shown,
            **values,
        )


def fields(options: type, names: Iterable[str] | None = None) -> list[dataclasses.Field[Any]]:
    """The fields of a dataclass, or those of these names."""
    by_name = {field.name: field for field in dataclasses.fields(options)}
    return [by_name[name] for name in (by_name if names is None else names)]


@cache
def field_type(options: type, name: str) -> type:
    """The type of a field's values: int, float or str, the first of a union."""
    owner = next(kind for kind in options.__mro__ if name in kind.__dict__.get(ANNOTATIONS, ()))
    # Alone: of a whole class, Python 3.10 refuses the mark `_: KW_ONLY`.
    alone = types.SimpleNamespace(**{ANNOTATIONS: {name: owner.__dict__[ANNOTATIONS][name]}})
    hint = typing.get_type_hints(alone, vars(sys.modules[owner.__module__]))[name]
    if isinstance(hint, types.UnionType):
        hint = typing.get_args(hint)[0]
    return hint


def given(
    options: argparse.Namespace, kind: type, names: Iterable[str] | None = None
) -> dict[str, Any]:
    """The options of a dataclass that the user gave."""
    values = vars(options)
    return {f.name: values[f.name] for f in fields(kind, names) if f.name in values}


def parse_change(kind: type, change: str) -> tuple[str, Any]:
    """NAME=VALUE for an option of a task."""
    name, separator, value = change.partition("=")
    name = name.replace("-", "_")
    names = tuple(field.name for field in fields(kind))
    if not separator or name not in names:
        near = difflib.get_close_matches(name, names, 1)
        hint = f"; did you mean {near[0]}?" if near and name not in names else ""
        raise UserError(
            f"--task takes NAME=VALUE, where NAME is one of {', '.join(names)}; "
            f"got {change!r}{hint}"
        )
    value_type = field_type(kind, name)
    try:
        return name, value_type(value)
    except ValueError:
        raise UserError(f"--task {name} takes {value_type.__name__}, got {value!r}") from None


def add_checkpoint(parser: argparse.ArgumentParser) -> None:
    """The argument that names a trained model, see `chosen_checkpoint`."""
    parser.add_argument(
        "checkpoint",
        nargs="?",
        type=Path,
        help="a run's folder, the checkpoint in it, or a folder of `dnc-fast share`",
    )
    parser.add_argument(
        "--pretrained", choices=tuple(bundled()), help="instead, a model that comes with dnc_fast"
    )


def chosen_checkpoint(options: argparse.Namespace) -> Path:
    """Where the model is that the user wants."""
    if (options.checkpoint is None) == (options.pretrained is None):
        raise UserError("give a checkpoint, such as runs/copy, or --pretrained NAME")
    return options.checkpoint or bundled()[options.pretrained]


def add_device(group: Any) -> None:
    """The option for the device, see `chosen_device`."""
    group.add_argument(
        "--device",
        default="auto",
        help="cpu, cuda, cuda:1, ... (default: auto, which is cuda where there is one, or cpu)",
    )


def chosen_device(name: str) -> str:
    """The name of the device to use; raises unless torch can use it."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--device must name a device that torch can use, got {name!r}: {reason}"
        ) from None
    return name


def check_folder(option: str, folder: Path) -> None:
    """Raise if a folder to write into is something else."""
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise UserError(f"{option} must name a folder, got {folder}: {part} is a file")
