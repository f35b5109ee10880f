"""Markers for torch.compile that do not import it, which takes as long as importing torch."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def untraced(function: Function) -> Function:
    """`torch.compiler.disable`: torch.compile calls the function as it is."""
    disabled: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def call(*given: Any, **named: Any) -> Any:
        if "torch._dynamo" not in sys.modules:  # nobody compiles anything
            return function(*given, **named)
        if not disabled:
            disabled.append(torch.compiler.disable(function))
        return disabled[0](*given, **named)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    return call  # type: ignore[return-value]


def constant(function: Function) -> Function:
    """`torch.compiler.assume_constant_result`: torch.compile calls it once and for all."""
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
