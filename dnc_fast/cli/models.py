"""The model on the command line: `--model`, and the options of all models, each once."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..config import OPTION_NAMES, DNCConfig
from ..models import MODELS, config_type
from .options import UserError, add_fields


def option_names(model: str) -> list[str]:
    """The options of a model that the command line has."""
    kind = config_type(model)
    fields = {one.name: one for one in dataclasses.fields(kind)}
    order = OPTION_NAMES if kind is DNCConfig else list(fields)
    return [name for name in order if "help" in fields[name].metadata]


def add_models(
    parser: argparse.ArgumentParser, defaults: Mapping[str, Any], models: Sequence[str]
) -> None:
    """Add the options of models, and `--model` to choose one if there are several.

    The first is a DNC, whose defaults are shown where others have the same option.
    """
    first, *others = models
    group = parser.add_argument_group(
        "model", "The defaults follow the task's options; those shown are a DNC's."
    )
    parser.set_defaults(model=None)
    if others:
        group.add_argument("--model", choices=models, help=f"what is trained (default: {first})")
    add_fields(group, config_type(first), option_names(first), defaults)
    owners: dict[str, list[str]] = {}
    for model in others:
        for name in option_names(model):
            if name not in option_names(first):
                owners.setdefault(name, []).append(model)
    for having in dict.fromkeys(map(tuple, owners.values())):
        names = [name for name, models_with in owners.items() if tuple(models_with) == having]
        only = parser.add_argument_group(f"only of {', '.join(having)}")
        add_fields(only, config_type(having[0]), names)


def given_model_options(options: argparse.Namespace) -> dict[str, Any]:
    """The options of models that the user gave."""
    names = {name for model in MODELS for name in option_names(model)}
    return {name: value for name, value in vars(options).items() if name in names}


def check_model_options(model: str, names: Iterable[str]) -> None:
    """Raise unless a model has all of these options."""
    for name in names:
        if name not in option_names(model):
            has = ", ".join(flag(one) for one in option_names(model))
            raise UserError(f"{flag(name)} is no option of --model {model}; it has {has}")


def flag(name: str) -> str:
    """An option as it is typed."""
    return "--" + name.replace("_", "-")
