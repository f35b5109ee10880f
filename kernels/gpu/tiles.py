"""What kernels over tiles of cells share: loads, softmax in parts, sums over programs and parts."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def load_numbers(pointer, n, N: tl.constexpr, DTYPE: tl.constexpr, OTHER: tl.constexpr = 0.0):
    """Cells n of (N), OTHER outside."""
    if N // n.shape[0] * n.shape[0] == N:
        found = tl.load(pointer + n)
    else:
        found = tl.load(pointer + n, mask=n < N, other=OTHER)
    return found.to(DTYPE)


@triton.jit
def load_norms(pointer, n, N: tl.constexpr, DTYPE: tl.constexpr):
    """Lengths of cells n, 1 outside: they are divided by."""
    return load_numbers(pointer, n, N, DTYPE, 1.0)


@triton.jit
def store_numbers(pointer, numbers, n, N: tl.constexpr):
    """Store cells n of (N)."""
    if N // n.shape[0] * n.shape[0] == N:
        tl.store(pointer + n, numbers)
    else:
        tl.store(pointer + n, numbers, mask=n < N)


@triton.jit
def load_vector(pointer, w, W: tl.constexpr, DTYPE: tl.constexpr):
    """A vector (W), padded with zeros."""
    if w.shape[0] == W:
        found = tl.load(pointer + w)
    else:
        found = tl.load(pointer + w, mask=w < W, other=0.0)
    return found.to(DTYPE)


@triton.jit
def store_vector(pointer, vector, w, W: tl.constexpr):
    """Store a padded vector (W)."""
    if w.shape[0] == W:
        tl.store(pointer + w, vector)
    else:
        tl.store(pointer + w, vector, mask=w < W)


@triton.jit
def softmax_terms(alike, strength, top):
    """e^(strength * (similarity - the largest similarity)).

    The difference comes first: the term of the largest is exactly 1, which it is not where a
    rounded product is subtracted from one that is fused with the subtraction. So if one cell has
    all the weight, its weight is exactly 1, and the gradients that vanish there do so exactly.
    """
    return tl.exp(strength * (alike - top))


@triton.jit
def store_softmax_part(parts, tile, alike, strength, n, N: tl.constexpr, TILES: tl.constexpr):
    """Store what a tile adds to a softmax over all cells: largest similarity, sum of the terms.

    parts: (2, TILES), of one key.
    """
    found = alike
    if N // n.shape[0] * n.shape[0] != N:
        found = tl.where(n < N, alike, -float("inf"))
    top = tl.max(found, 0)
    tl.store(parts + tile, top)
    tl.store(parts + TILES + tile, tl.sum(softmax_terms(found, strength, top), 0))


@triton.jit
def softmax_total(parts, strength, TILES: tl.constexpr, BT: tl.constexpr):
    """Largest similarity and sum of the terms of all tiles, from the parts (2, TILES) of a key."""
    t = tl.arange(0, BT)
    tops = tl.load(parts + t, mask=t < TILES, other=-float("inf"))
    sums = tl.load(parts + TILES + t, mask=t < TILES, other=0.0)
    top = tl.max(tops, 0)
    return top, tl.sum(sums * softmax_terms(tops, strength, top), 0)


@triton.jit
def softmax_totals(
    parts, strengths,
    H: tl.constexpr, BH: tl.constexpr, TILES: tl.constexpr, BT: tl.constexpr,
):  # fmt: skip
    """`softmax_total` of all keys, given their strengths (BH): (BH) each; 0 and 1 beyond."""
    h, t = tl.arange(0, BH)[:, None], tl.arange(0, BT)[None, :]
    place, inside = parts + h * 2 * TILES + t, (h < H) & (t < TILES)
    tops = tl.load(place, mask=inside, other=-float("inf"))
    sums = tl.load(place + TILES, mask=inside, other=0.0)
    if H != BH:
        tops = tl.where(h < H, tops, 0.0)
        sums = tl.where((h < H) | (t > 0), sums, 1.0)
    top = tl.max(tops, 1)
    return top, tl.sum(sums * softmax_terms(tops, strengths[:, None], top[:, None]), 1)


@triton.jit
def load_total(parts, STRIDE: tl.constexpr, TILES: tl.constexpr, BT: tl.constexpr):
    """The sum of what all tiles stored, numbers STRIDE apart."""
    t = tl.arange(0, BT)
    return tl.sum(tl.load(parts + t * STRIDE, mask=t < TILES, other=0.0), 0)


@triton.jit
def spread_sums(
    partials, n, COUNT: tl.constexpr, STRIDE: tl.constexpr, N: tl.constexpr, R: tl.constexpr,
    BR: tl.constexpr, LANES: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """Adds up COUNT partial sums (R, N) of cells n, which lie STRIDE apart: (BR, n), 0 outside.

    LANES of them are loaded at a time, by neighbouring threads.
    """
    r, lane = tl.arange(0, BR)[None, :, None], tl.arange(0, LANES)[:, None, None]
    place = partials + lane * STRIDE + r * N + n[None, None, :]
    inside = (r < R) & (n[None, None, :] < N)
    found = tl.zeros([LANES, BR, n.shape[0]], DTYPE)
    for index in tl.range((COUNT + LANES - 1) // LANES, loop_unroll_factor=8):
        start = index * LANES
        if COUNT % LANES == 0 and R == BR and N // n.shape[0] * n.shape[0] == N:
            found += tl.load(place + start * STRIDE)
        else:
            found += tl.load(
                place + start * STRIDE, mask=inside & (start + lane < COUNT), other=0.0
            )
    return tl.sum(found, 0)


@triton.jit
def last_arrived(counter, count):
    """Whether this program is the last one of `count` to come here.

    The last one sees all that the others stored before they came. It must reset the counter.
    """
    tl.debug_barrier()  # all threads of this program have stored what they had to
    return tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == count - 1


@triton.jit
def stored_sum(
    parts, k, first, count,
    K: tl.constexpr, MOST: tl.constexpr, LANES: tl.constexpr, DTYPE: tl.constexpr,
):  # fmt: skip
    """The sum over `count` parts (K) from `first` on, in order, of numbers k; count: at most MOST.

    For parts that other programs of the same launch stored: they are not read from a cache that is
    not shared.
    """
    lane = tl.arange(0, LANES)[:, None]
    found = tl.zeros([LANES, k.shape[0]], DTYPE)
    for start in tl.static_range(0, MOST, LANES):
        part = start + lane
        found += tl.load(
            parts + (first + part) * K + k[None, :], mask=(part < count) & (k < K)[None, :],
            other=0.0, cache_modifier=".cg",
        )  # fmt: skip
    return tl.sum(found, 0)
