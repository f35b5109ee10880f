"""exp, sigmoid and tanh that the compiler can vectorise, unlike those of the C library.

e^x = 2^n e^r with n = x / ln 2 rounded and |r| <= ln 2 / 2: e^r by its Taylor series, 2^n by the
bits of the exponent. Errors are within two units in the last place, for float32 and float64; NaN
stays NaN. x is first clipped to where e^x is a normal number, so that e^-inf is the smallest of
these, not zero, and e^inf nearly the largest.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic, overload

from .compile import kernel


@intrinsic
def _times_power(typingctx: Any, value: Any, shifted: Any) -> Any:
    """value 2^n, where the lowest bits of `shifted` hold n; adds n to the bits of the exponent."""
    mantissa_bits = 23 if value == types.float32 else 52

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        integer = ir.IntType(value.bitwidth)
        bits, power = (builder.bitcast(argument, integer) for argument in arguments)
        power = builder.shl(power, ir.Constant(integer, mantissa_bits))
        return builder.bitcast(builder.add(bits, power), arguments[0].type)

    return value(value, shifted), generate


def _make_reduce(
    number: Any, least: float, greatest: float, ln2: tuple[float, float], terms: int, shift: float
) -> Callable[..., Any]:
    """`_reduce` for a dtype.

    Args:
        number: the dtype.
        least, greatest: bounds that x is clipped to.
        ln2: ln 2 as a sum of two numbers: its first bits, so few that n times them is exact, and
            the rest.
        terms: how many terms of the series to use.
        shift: adding this to a number rounds it to an integer, held in the lowest bits.
    """
    least, greatest, shift = map(number, (least, greatest, shift))
    log2_e, high, low = map(number, (math.log2(math.e), *ln2))
    first, *others = (number(1 / math.factorial(k)) for k in range(terms, 0, -1))
    series = tuple(others)

    # No reassociation, which would turn (x + shift) - shift into x.
    @numba.njit(nogil=True, fastmath={"contract"}, error_model="numpy")
    def reduce(x):
        if x < least:
            x = least
        if x > greatest:
            x = greatest
        shifted = x * log2_e + shift
        n = shifted - shift
        r = x - n * high - n * low
        total = first
        for term in series:
            total = total * r + term
        return total * r + (x - x), shifted  # x - x is NaN if x is, otherwise 0

    return reduce


_reduce_float32 = _make_reduce(
    np.float32, -87.3, 88.3, (0.693145751953125, 1.42860682030941723e-6), 7, 1.5 * 2**23
)
_reduce_float64 = _make_reduce(
    np.float64, -708.3, 709.4, (6.93147180369123816e-1, 1.90821492927058770e-10), 13, 1.5 * 2**52
)


def _reduce(x):
    """e^r - 1, and a number whose lowest bits hold n."""
    raise NotImplementedError("only for compiled code")


@overload(_reduce)
def _reduce_by_dtype(x):
    reduce = _reduce_float32 if x == types.float32 else _reduce_float64
    return lambda x: reduce(x)


@kernel
def exp(x):
    """e^x."""
    rest, shifted = _reduce(x)
    return _times_power(rest + type(x)(1), shifted)


@kernel
def sigmoid(x):
    """1 / (1 + e^-x)."""
    one = type(x)(1)
    return one / (one + exp(-x))


@kernel
def tanh(x):
    """(e^2|x| - 1) / (e^2|x| + 1) with the sign of x; accurate to the last bits near zero too."""
    one = type(x)(1)
    size = min(abs(x), type(x)(20))  # beyond that, tanh is 1 to the last bit; NaN stays NaN
    rest, shifted = _reduce(size + size)
    power = _times_power(one, shifted)
    grown = power * rest + (power - one)
    return math.copysign(grown / (grown + (one + one)), x)
