"""The pass over a link matrix, forward and backward, against its equations in float64."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from gpu import DEVICE, guarded
from states import assert_close, assert_near, normal, random_weighting, uniform
from torch import Tensor

pytest.importorskip("triton", minversion="3.6")

from dnc_fast.kernels.gpu import launch, linkage


class Given(NamedTuple):
    """What both passes are given, and the gradients that the backward pass is given besides."""

    write: Tensor  # (B, Hw, N)
    precedence: Tensor  # (B, Hw, N)
    read: Tensor  # (B, R, N)
    link: Tensor  # (B, Hw, N, N)
    d_link: Tensor  # (B, Hw, N, N)
    d_ahead: Tensor  # (B, R, N), or (B, R, Hw, N) without modes
    d_behind: Tensor
    modes: Tensor | None  # (B, R, 1 + 2 Hw)


def make(B: int, N: int, R: int, Hw: int, dtype: torch.dtype, scaled: bool) -> Given:
    heads = (R,) if scaled else (R, Hw)
    given = (
        *(random_weighting(B, Hw, N), random_weighting(B, Hw, N), random_weighting(B, R, N)),
        *(uniform(B, Hw, N, N) / N, normal(B, Hw, N, N)),
        *(normal(B, *heads, N), normal(B, *heads, N)),
    )
    modes = normal(B, R, 1 + 2 * Hw).softmax(-1).to(DEVICE, dtype) if scaled else None
    return Given(*(guarded(part.to(DEVICE, dtype)) for part in given), modes)


def passes(given: Given) -> dict[str, Tensor]:
    """All that both passes store, sums added up; what they leave out is NaN."""
    write, precedence, read, link, d_link, d_ahead, d_behind, modes = given
    (B, Hw, N), R = write.shape, read.shape[1]
    sizes = linkage.tiling(N, write.dtype)
    strips, chunks = sizes["STRIPS"], sizes["CHUNKS"]

    def new(*shape: int) -> Tensor:
        return write.new_full(shape, torch.nan)

    link1, rebuilt, precedence1 = new(B, Hw, N, N), new(B, Hw, N, N), new(B, Hw, N)
    rows, columns = new(B, Hw, chunks, R, N), new(B, Hw, strips, R, N)
    linkage.launch_pass(write, precedence, read, link, link1, precedence1, rows, columns)
    linkage.launch_pass(write, precedence, read, link, rebuilt)
    assert_close(rebuilt, link1, "equal")
    d_rows, d_columns = new(B, Hw, chunks, R + 1, N), new(B, Hw, strips, R + 2, N)
    d_link = d_link.clone()
    linkage.launch_pass_backward(
        write, precedence, read, link, d_link, d_ahead, d_behind, modes, d_rows, d_columns
    )
    found = (link1, precedence1, rows.sum(2), columns.sum(2), d_link, d_rows.sum(2))
    return dict(zip(NAMES, (*found, d_columns.sum(2)), strict=True))


NAMES = ("link", "precedence", "ahead", "behind", "d_link", "d_rows", "d_columns")


def equations(given: Given) -> dict[str, Tensor]:
    """The same by the equations of `pass_backward_kernel`."""
    w, p, r, link, d_link, a, c = (part.double() for part in given[:-1])
    (_, Hw, N), modes = w.shape, given.modes
    if modes is None:
        s = t = torch.ones_like(a[..., 0])
    else:
        a, c = (part[:, :, None].expand(-1, -1, Hw, -1) for part in (a, c))
        s, t = modes.double()[..., 1 + Hw :], modes.double()[..., :Hw]
    off_diagonal = 1 - torch.eye(N, dtype=torch.float64, device=w.device)
    kept = 1 - w[..., :, None] - w[..., None, :]
    new = (kept * link + w[..., :, None] * p[..., None, :]) * off_diagonal
    gradient = d_link + torch.einsum("brh,brhi,brj->bhij", s, a, r)
    gradient = (gradient + torch.einsum("brh,bri,brhj->bhij", t, r, c)) * off_diagonal
    x, y = torch.einsum("bhij,brhj->bhri", new, c), torch.einsum("bhij,brhi->bhrj", new, a)
    rows = (gradient * (p[..., None, :] - link)).sum(-1)
    columns = (gradient * link).sum(-2), (gradient * w[..., :, None]).sum(-2)
    found = (
        new,
        (1 - w.sum(-1, keepdim=True)) * p + w,
        torch.einsum("bhij,brj->bhri", new, r),
        torch.einsum("bhij,bri->bhrj", new, r),
        kept * gradient,
        torch.cat([x, rows[:, :, None]], 2),
        torch.cat([y, *(part[:, :, None] for part in columns)], 2),
    )
    return dict(zip(NAMES, found, strict=True))


def compare(given: Given) -> None:
    found, expected = passes(given), equations(given)
    if given.write.dtype == torch.float64:
        assert_close(found, expected, "float64")
    else:
        assert_near(found, expected, 2e-6)


@pytest.mark.parametrize(
    ("N", "R", "Hw", "dtype"),
    [
        (1, 1, 1, torch.float32),
        (65, 5, 1, torch.float32),  # odd: a thread loads one number at a time
        (127, 1, 2, torch.float64),
        (128, 4, 2, torch.float32),  # full tiles
        (128, 16, 1, torch.float32),
        (130, 2, 1, torch.float32),  # two at a time
        (200, 3, 1, torch.float32),  # four at a time, the last tiles not full
        (66, 16, 1, torch.float64),
        pytest.param(257, 4, 1, torch.float32, marks=pytest.mark.full),
        pytest.param(256, 4, 2, torch.float64, marks=pytest.mark.full),
        pytest.param(1024, 4, 1, torch.float32, marks=pytest.mark.full),
        pytest.param(1100, 2, 1, torch.float32, marks=pytest.mark.full),  # strips of many rows
    ],
)
def test_equals_its_equations(N: int, R: int, Hw: int, dtype: torch.dtype) -> None:
    compare(make(2 if N < 100 else 1, N, R, Hw, dtype, scaled=True))


def test_gradients_of_each_write_head() -> None:
    """Without read modes, each write head has gradients of its own."""
    compare(make(1, 66, 3, 2, torch.float32, scaled=False))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_the_link_matrix_may_be_narrower(dtype: torch.dtype) -> None:
    """Than the weightings, as those of checkpoints; it is rounded, nothing else is."""
    wide = torch.float64 if dtype == torch.float32 else torch.float32
    given = make(1, 72, 2, 1, wide, scaled=True)
    compare(given._replace(link=given.link.to(dtype)))


@pytest.mark.parametrize("largest_paired", [0, linkage.LARGEST_PAIRED])
@pytest.mark.parametrize("num_warps", [2, 4])
def test_strips_of_several_blocks(
    monkeypatch: pytest.MonkeyPatch, num_warps: int, largest_paired: int
) -> None:
    """As thousands of cells have them: two full blocks, and one that is not."""
    tiling, rows = linkage.tiling, 3 * 4 * num_warps
    of_blocks = {"BLOCKS": 3, "SLOTS": 4, "BM": num_warps, "num_warps": num_warps}
    monkeypatch.setattr(linkage, "LARGEST_PAIRED", largest_paired)
    monkeypatch.setattr(
        linkage,
        "tiling",
        lambda N, dtype: tiling(N, dtype) | of_blocks | {"STRIPS": launch.cdiv(N, rows)},
    )
    compare(make(1, 35, 2, 1, torch.float32, scaled=True))


def test_programs_cover_all_cells() -> None:
    """And of many cells few partial sums are stored, beside the N^2 numbers of the link matrix."""
    for N in (*range(1, 300), 1000, 1024, 4096, 4100, 16384):
        for dtype in (torch.float32, torch.float64):
            sizes: dict[str, Any] = linkage.tiling(N, dtype)
            rows = sizes["BLOCKS"] * sizes["SLOTS"] * sizes["BM"]
            assert (sizes["STRIPS"] - 1) * rows < N <= sizes["STRIPS"] * rows
            assert (sizes["CHUNKS"] - 1) * sizes["BN"] < N <= sizes["CHUNKS"] * sizes["BN"]
            if N >= 512 and dtype == torch.float32:
                assert sizes["STRIPS"] <= 32 and sizes["CHUNKS"] <= launch.cdiv(N, 128)
