"""Checks of arguments: each message names the argument, what was expected and what was given."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor

from .opaque import is_traced


def check_integer(name: str, value: Any, minimum: int) -> None:
    """Raise unless `value` is an int (not a bool) or a traced one, of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (int, torch.SymInt)):
        raise TypeError(f"{name} must be an integer, got {value!r} ({type(value).__name__})")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}, got {value}")


def check_number(
    name: str, value: Any, minimum: float, maximum: float = math.inf, *, above: bool = False
) -> None:
    """Raise unless `value` is a finite number in [minimum, maximum], or in (minimum, maximum]."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be a number, got {value!r} ({type(value).__name__})")
    low = value <= minimum if above else value < minimum
    if not math.isfinite(value) or low or value > maximum:
        lower = f"above {minimum:g}" if above else f"at least {minimum:g}"
        upper = "" if maximum == math.inf else f" and at most {maximum:g}"
        raise ValueError(f"{name} must be finite, {lower}{upper}, got {value}")


def check_choice(name: str, value: Any, choices: Collection[str]) -> None:
    """Raise unless `value` is one of the names in `choices`."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {tuple(choices)}, got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Raise unless `value` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r} ({type(value).__name__})")


def check_tensor(
    name: str, tensor: Any, device: torch.device, dtype: torch.dtype | None = None
) -> None:
    """Raise unless `tensor` is a floating-point tensor on `device`, and finite.

    Values are checked on a CPU only: elsewhere the check would have to wait for the device.
    With `dtype`, the tensor must have that dtype, except under autocast, which casts as needed.
    """
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, got {type(tensor).__name__}")
    if tensor.is_nested or tensor.layout != torch.strided:
        kind, way = str(tensor.layout), f"{name}.to_dense() is one"
        if tensor.is_nested:
            kind = "a nested tensor"
            way = f"a model takes pack_sequence({name}.unbind(), enforce_sorted=False)"
        raise TypeError(f"{name} must be a dense tensor, got {kind}; {way}")
    if not tensor.is_floating_point():
        raise TypeError(
            f"{name} must be a floating-point tensor, got {tensor.dtype}; cast it with .float()"
        )
    if tensor.device != device:
        raise ValueError(
            f"{name} must be on {device}, got {tensor.device}; move it with .to({str(device)!r})"
        )
    if dtype not in (None, tensor.dtype) and not autocasts(device):
        raise TypeError(f"{name} must be {dtype}, got {tensor.dtype}; cast it with .to({dtype})")
    if not values_are_known(tensor):
        return
    finite = torch.isfinite(tensor)
    if not finite.all():
        where = tuple((~finite).nonzero()[0].tolist())
        raise ValueError(
            f"{name} must be finite, got {tensor[where].item()} at index {where}: "
            "one such value spreads through the whole memory and stays there"
        )


def values_are_known(tensor: Tensor) -> bool:
    """Whether the values of a tensor can be looked at without waiting for a device."""
    if tensor.device.type != "cpu" or is_traced():
        return False
    return not torch._C._are_functorch_transforms_active()  # vmap has no concrete values


def check_shapes(shapes: dict[str, str], **tensors: Tensor) -> dict[str, int]:
    """Raise unless tensors have these shapes, such as "B N W"; a letter is the same size in all.

    Returns:
        the size of each letter.
    """
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        letters, shape = shapes[name].split(), tuple(tensor.shape)
        known = dict(sizes)
        fits = len(letters) == len(shape) and 0 not in shape
        for letter, size in zip(letters, shape, strict=False):
            fits = fits and sizes.setdefault(letter, size) == size
        if not fits:
            given = ", ".join(f"{letter}={known[letter]}" for letter in letters if letter in known)
            raise ValueError(
                f"{name} must have shape ({', '.join(letters)}), no size 0"
                f"{' and ' + given if given else ''}, got {shape}"
            )
    return sizes


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)
