"""Several tensors of one shape at a time, with the barriers of one: sums, layouts, stores.

A tensor of a tuple is `xs[k]`, and K says how many there are. Packs hold two, four or eight of them
along new last axes, which lie in the registers of a thread: item i + 2 j + 4 k stands at [i, j, k].
"""

from __future__ import annotations

import os

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(os.environ.get("TRITON_INTERPRET") == "1")
"""Whether Triton's interpreter runs the kernels; it takes seconds for a reduction of a tuple."""


@triton.jit
def no_tensors():
    """An empty tuple, to add tensors to."""
    return ()


@triton.jit
def add2(a0, a1, b0, b1):
    return a0 + b0, a1 + b1


@triton.jit
def add3(a0, a1, a2, b0, b1, b2):
    return a0 + b0, a1 + b1, a2 + b2


@triton.jit
def add4(a0, a1, a2, a3, b0, b1, b2, b3):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3


@triton.jit
def add5(a0, a1, a2, a3, a4, b0, b1, b2, b3, b4):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4


@triton.jit
def add6(a0, a1, a2, a3, a4, a5, b0, b1, b2, b3, b4, b5):
    return a0 + b0, a1 + b1, a2 + b2, a3 + b3, a4 + b4, a5 + b5


@triton.jit
def sums(xs, K: tl.constexpr, axis: tl.constexpr):
    """The sums of K tensors along an axis: a tuple. Up to six share their barriers."""
    if INTERPRETED or K == 1:
        found = no_tensors()
        for k in tl.static_range(K):
            found = found + (tl.sum(xs[k], axis),)
    elif K == 2:
        found = tl.reduce(xs, axis, add2)
    elif K == 3:
        found = tl.reduce(xs, axis, add3)
    elif K == 4:
        found = tl.reduce(xs, axis, add4)
    elif K == 5:
        found = tl.reduce(xs, axis, add5)
    elif K == 6:
        found = tl.reduce(xs, axis, add6)
    else:
        found = tl.reduce(xs[:6], axis, add6) + sums(xs[6:], K - 6, axis)
    return found


@triton.jit
def padded(xs, K: tl.constexpr, TO: tl.constexpr):
    """A tuple of TO tensors: the first again for those missing."""
    for _ in tl.static_range(K, TO):
        xs = xs + (xs[0],)
    return xs


@triton.jit
def pack(xs, K: tl.constexpr):
    """A pack of K tensors, at most eight."""
    if K == 1:
        packed = xs[0]
    elif K == 2:
        packed = tl.join(xs[0], xs[1])
    elif K <= 4:
        xs = padded(xs, K, 4)
        packed = tl.join(tl.join(xs[0], xs[1]), tl.join(xs[2], xs[3]))
    else:
        xs = padded(xs, K, 8)
        first = tl.join(tl.join(xs[0], xs[1]), tl.join(xs[2], xs[3]))
        packed = tl.join(first, tl.join(tl.join(xs[4], xs[5]), tl.join(xs[6], xs[7])))
    return packed


@triton.jit
def places(K: tl.constexpr):
    """Which of K tensors stands where in a pack, with a first axis of one."""
    i = tl.arange(0, 2)
    if K == 1:
        found = tl.arange(0, 1)
    elif K == 2:
        found = i[None, :]
    elif K <= 4:
        found = (i[:, None] + 2 * i[None, :])[None]
    else:
        found = (i[:, None, None] + 2 * i[None, :, None] + 4 * i[None, None, :])[None]
    return found


@triton.jit
def beside(n, K: tl.constexpr):
    """An index (n) with the axes of a pack of K."""
    if K == 1:
        found = n
    elif K == 2:
        found = n[:, None]
    elif K <= 4:
        found = n[:, None, None]
    else:
        found = n[:, None, None, None]
    return found


@triton.jit
def store_packed(
    to, xs, n, LENGTH: tl.constexpr, STRIDE: tl.constexpr, STEP: tl.constexpr, K: tl.constexpr
):
    """Store K vectors (n) of LENGTH numbers: number n of vector k at k * STEP + n * STRIDE."""
    if K > 8:
        store_packed(to, xs[:8], n, LENGTH, STRIDE, STEP, 8)
        store_packed(to + 8 * STEP, xs[8:], n, LENGTH, STRIDE, STEP, K - 8)
    else:
        k, at = places(K), beside(n, K)
        mask = at < tl.where(k < K, LENGTH, 0)
        tl.store(to + k * STEP + at * STRIDE, pack(xs, K), mask=mask)


@triton.jit
def store_rows(to, xs, n, N: tl.constexpr, K: tl.constexpr):
    """Store K vectors (n) as rows of (K, N)."""
    store_packed(to, xs, n, N, 1, N, K)


@triton.jit
def store_columns(to, xs, n, N: tl.constexpr, K: tl.constexpr):
    """Store K vectors (n) as columns of (N, K)."""
    store_packed(to, xs, n, N, K, 1, K)


@triton.jit
def unpacked(packed, K: tl.constexpr):
    """The tensors of a pack of K, at most four, and what it is padded with."""
    if K == 1:
        found = (packed,)
    elif K == 2:
        found = tl.split(packed)
    else:
        first, second = tl.split(packed)
        found = tl.split(first) + tl.split(second)
    return found


# Vectors that come in another layout than the tensors that they meet change it together, four at a
# time, because they meet while they are packed.


@triton.jit
def times(xs, vectors, K: tl.constexpr):
    """K tensors (i, n) times a vector (n) each."""
    if K > 4:
        found = times(xs[:4], vectors[:4], 4) + times(xs[4:], vectors[4:], K - 4)
    else:
        found = unpacked(pack(xs, K) * pack(vectors, K)[None], K)
    return found


@triton.jit
def carried(vectors, like, K: tl.constexpr):
    """K vectors (n), each repeated in all rows of a tensor (i, n), in its layout."""
    if K > 4:
        found = carried(vectors[:4], like, 4) + carried(vectors[4:], like, K - 4)
    else:
        anchor = pack(padded((like,), 1, K), K)
        found = unpacked(tl.where(anchor == anchor, pack(vectors, K)[None], 0.0), K)
    return found
