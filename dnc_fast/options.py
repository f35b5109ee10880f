"""The options of a memory step: where it may differ from the paper."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any, Concatenate, ParamSpec, TypeVar

from .checks import check_choice, check_flag, check_integer, check_number

Function = TypeVar("Function", bound=Callable[..., Any])
Options = TypeVar("Options")
P = ParamSpec("P")

USAGE_ORDERS = ("exact", "robust")
"""`exact`: by usage. `robust`: by usage rounded to a coarse grid. Ties by index in both."""


def option(default: Any, help: str, choices: Any = None) -> Any:
    """A dataclass field for an option, with its help text for the command line."""
    return field(default=default, metadata={"help": help, "choices": choices})


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    """The options of a memory step; the linkage follows from the state's link.

    | option          | meaning                                                                   |
    |-----------------|---------------------------------------------------------------------------|
    | usage_order     | one of `USAGE_ORDERS`: how cells are ordered for allocation               |
    | read_topk       | entries kept of a read weighting, see `keep_largest`; None for all        |
    | write_topk      | likewise for a write weighting                                            |
    | link_threshold  | entries of a sparse link matrix below this are dropped; None for 1 / K,   |
    |                 | 0 drops none                                                              |
    | link_unit_sums  | whether a sparse link matrix is updated with weightings scaled to sum to  |
    |                 | one, as in the paper, even when the write gate is closed                  |
    | link_history    | maximum number of writes that a separable link holds                      |

    Raises:
        TypeError, ValueError: a value is invalid.
    """

    usage_order: str = option("exact", "how cells are ordered for allocation", choices=USAGE_ORDERS)
    read_topk: int | None = option(None, "keep only this many entries of a read weighting")
    write_topk: int | None = option(None, "keep only this many entries of a write weighting")
    link_threshold: float | None = option(
        None, "drop entries of a sparse link matrix below this (default: 1 / K)"
    )
    link_unit_sums: bool = False
    link_history: int = option(1024, "maximum number of writes that a separable link holds")

    def __post_init__(self) -> None:
        check_choice("usage_order", self.usage_order, USAGE_ORDERS)
        for name in ("read_topk", "write_topk"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), minimum=1)
        if self.link_threshold is not None:
            check_number("link_threshold", self.link_threshold, 0.0, 1.0)
        check_flag("link_unit_sums", self.link_unit_sums)
        check_integer("link_history", self.link_history, minimum=1)

    @property
    def step_options(self) -> StepOptions:
        """The step options alone, without those that a subclass adds."""
        return StepOptions(**{one.name: getattr(self, one.name) for one in fields(StepOptions)})

    @property
    def cut_weightings(self) -> bool:
        """Whether any weighting keeps only its largest entries."""
        return self.read_topk is not None or self.write_topk is not None


PAPER = StepOptions()
"""The step of the paper."""


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
