"""How options are declared as fields of a dataclass, and how functions take and show them."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Sequence
from dataclasses import field
from typing import Any, Concatenate, ParamSpec, TypeVar

OTHER_NAMES = {"memory_size": "num_cells", "word_size": "cell_size", "clip_value": "value_clip"}
"""What options are called in google-deepmind/dnc, where no likeness of names leads to ours."""

Function = TypeVar("Function", bound=Callable[..., Any])
Options = TypeVar("Options")
P = ParamSpec("P")


def option(default: Any, help: str, choices: Any = None) -> Any:
    """A dataclass field for an option, with its help text for the command line."""
    return field(default=default, metadata={"help": help, "choices": choices})


def read_options(
    kind: Callable[..., Options],
    *values: Any,
    given: dict[str, Any],
    also: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
) -> Options:
    """Build a dataclass of options from a function's arguments.

    Args:
        kind: the dataclass.
        values, given: positional and keyword arguments.
        also, without: further arguments of the function, and options that it does not take.

    Raises:
        TypeError: an option is unknown or missing.
        TypeError, ValueError: a value is invalid.
    """
    if not without or given.keys().isdisjoint(without):
        try:
            return kind(*values, **given)
        except TypeError:  # a wrong name, or a value of a wrong type
            pass
    signature = inspect.signature(kind)
    names = [name for name in (*signature.parameters, *also) if name not in without]
    for name in given:
        if name not in names:
            near = difflib.get_close_matches(OTHER_NAMES.get(name, name), names, 1)
            hint = f"did you mean {near[0]!r}?" if near else f"the options are {', '.join(names)}"
            raise TypeError(f"there is no option {name!r}; {hint}")
    first = [p.name for p in signature.parameters.values() if p.kind is not p.KEYWORD_ONLY]
    if len(values) > len(first):
        raise TypeError(
            f"only {len(first)} arguments may be given by position ({', '.join(first)}), the "
            f"others by name; got {len(values)}"
        )
    signature.bind(*values, **given)  # its error names the argument, and not the dataclass
    return kind(*values, **given)


def arguments_of(
    kind: Callable[P, Any], order: Sequence[str]
) -> Callable[[Callable[..., None]], Callable[Concatenate[Any, P], None]]:
    """Give a method the signature of a dataclass, with its types and defaults.

    Keyword arguments are shown in the given order, those that it does not name last.
    """

    def complete(method: Callable[..., None]) -> Callable[Concatenate[Any, P], None]:
        own = list(inspect.signature(method).parameters.values())[:1]  # self
        shown: Any = method
        shown.__signature__ = inspect.Signature(
            [*own, *_in_order(kind, order)], return_annotation=None
        )
        return method

    return complete


def takes_options(
    kind: Callable[..., Any], order: Sequence[str], without: Sequence[str] = ()
) -> Callable[[Function], Function]:
    """Show the options of a dataclass in the signature of a function with `**options`.

    Arguments that the function names itself stay in place; those in `without` are left out.
    """

    def complete(function: Function) -> Function:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        names = {*without, *(parameter.name for parameter in own)}
        first = [p for p in own if p.kind is not p.KEYWORD_ONLY]
        options = [
            parameter.replace(kind=parameter.KEYWORD_ONLY)
            for parameter in _in_order(kind, order)
            if parameter.name not in names
        ]
        last = [p for p in own if p.kind is p.KEYWORD_ONLY]
        shown: Any = function
        shown.__signature__ = signature.replace(parameters=[*first, *options, *last])
        return function

    return complete


def _in_order(kind: Callable[..., Any], order: Sequence[str]) -> list[inspect.Parameter]:
    """The parameters of a dataclass: positional ones, then the others in the given order."""
    places = {name: place for place, name in enumerate(order)}
    return sorted(
        inspect.signature(kind).parameters.values(),
        key=lambda p: places.get(p.name, len(places)) if p.kind is p.KEYWORD_ONLY else -1,
    )
