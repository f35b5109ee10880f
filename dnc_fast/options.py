"""How options are declared as fields of a dataclass, and how functions take and show them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import field
from typing import Any, Concatenate, ParamSpec, TypeVar

Function = TypeVar("Function", bound=Callable[..., Any])
Options = TypeVar("Options")
P = ParamSpec("P")


def option(default: Any, help: str, choices: Any = None) -> Any:
    """A dataclass field for an option, with its help text for the command line."""
    return field(default=default, metadata={"help": help, "choices": choices})


def read_options(kind: Callable[..., Options], *values: Any, **given: Any) -> Options:
    """Build a dataclass of options from a function's arguments.

    Raises:
        TypeError: an option is unknown or missing.
        TypeError, ValueError: a value is invalid.
    """
    names = tuple(inspect.signature(kind).parameters)
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(names)}"
            raise TypeError(f"there is no option {name!r}; {hint}")
    return kind(*values, **given)


def arguments_of(
    kind: Callable[P, Any],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Give a method the signature of a dataclass, with its types and defaults."""

    def complete(method: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        own = list(inspect.signature(method).parameters.values())[:1]  # self
        arguments = inspect.signature(kind).parameters.values()
        signature = inspect.Signature([*own, *arguments], return_annotation=None)
        method.__signature__ = signature  # type: ignore[attr-defined]
        return method

    return complete


def takes_options(kind: Callable[..., Any], *without: str) -> Callable[[Function], Function]:
    """Show the options of a dataclass in the signature of a function with `**options`.

    Options that the function names itself stay in place; those in `without` are left out.
    """

    def complete(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {*without, *(parameter.name for parameter in own)}
        added = [
            parameter.replace(kind=parameter.KEYWORD_ONLY)
            for parameter in inspect.signature(kind).parameters.values()
            if parameter.name not in names
        ]
        complete_one: Any = function
        complete_one.__signature__ = signature.replace(parameters=[*own, *added])
        return function

    return complete
