"""Temporal memory linkage: link matrix, precedence, forward and backward weightings."""

from __future__ import annotations

import oracle
import torch
from hypothesis import given
from states import (
    HAS_NUMBA,
    SEEDS,
    SMALL_SIZES,
    arrays,
    assert_backward_equals_autograd,
    assert_close,
    normal,
    random_weighting,
    require_grad,
    separated_state,
)
from torch import Tensor

from dnc_fast import functional
from dnc_fast.linkages.dense import directional_weightings, update_link
from dnc_fast.reference import update_precedence, update_precedence_backward
from dnc_fast.state import MemorySizes

SIZES = MemorySizes(batch_size=2, num_cells=4, cell_size=1, num_read_heads=3, num_write_heads=2)


def linkage(sizes: MemorySizes, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random link, precedence and read weightings of the step before, and new write weightings."""
    state = separated_state(sizes, seed)
    torch.manual_seed(seed)
    return (
        state.link,
        state.precedence,
        state.read_weights,
        random_weighting(*state.write_weights.shape),
    )


def write_in_turn(cells: list[int], num_cells: int) -> tuple[Tensor, Tensor]:
    """Link and precedence (B = Hw = 1) after writing wholly to one cell after another."""
    link = torch.zeros(1, 1, num_cells, num_cells)
    precedence = torch.zeros(1, 1, num_cells)
    for cell in cells:
        write_weights = torch.eye(num_cells)[cell].expand(1, 1, -1)
        link = update_link(link, precedence, write_weights)
        precedence = update_precedence(precedence, write_weights)
    return link, precedence


@given(SMALL_SIZES, SEEDS)
def test_equals_the_oracle(sizes: MemorySizes, seed: int) -> None:
    link, precedence, read_weights, write_weights = linkage(sizes, seed)
    assert_close(
        update_link(link, precedence, write_weights),
        oracle.batched(oracle.update_link, *arrays((link, precedence, write_weights))),
        "float64",
    )
    assert_close(
        update_precedence(precedence, write_weights),
        oracle.batched(oracle.update_precedence, *arrays((precedence, write_weights))),
        "float64",
    )
    assert_close(
        directional_weightings(link, read_weights),
        oracle.batched(oracle.directional_weightings, *arrays((link, read_weights))),
        "float64",
    )


def test_links_lead_along_the_order_of_writing() -> None:
    """Writing to 2, 0, 3 links 2 -> 0 -> 3: L[i, j] = 1 where i was written right after j."""
    link, precedence = write_in_turn([2, 0, 3], num_cells=4)
    expected = torch.zeros(4, 4)
    expected[0, 2] = expected[3, 0] = 1
    assert torch.equal(link[0, 0], expected)
    assert torch.equal(precedence[0, 0], torch.eye(4)[3])
    forward, backward = directional_weightings(link, torch.eye(4)[[0, 2]].unsqueeze(0))
    assert torch.equal(forward[0, :, 0], torch.eye(4)[[3, 0]])
    # Nothing was written before 2: the way back leads nowhere, not everywhere.
    assert torch.equal(backward[0, :, 0], torch.stack([torch.eye(4)[2], torch.zeros(4)]))


def test_overwriting_a_cell_cuts_its_old_links() -> None:
    link, _ = write_in_turn([0, 1, 2, 1], num_cells=3)
    expected = torch.zeros(3, 3)
    expected[1, 2] = 1
    assert torch.equal(link[0, 0], expected)


def test_writing_nothing_changes_nothing() -> None:
    link, precedence, _, write_weights = linkage(SIZES)
    nothing = torch.zeros_like(write_weights)
    assert torch.equal(update_link(link, precedence, nothing), link)
    assert torch.equal(update_precedence(precedence, nothing), precedence)


def test_diagonal_is_zero_whatever_it_was() -> None:
    link, precedence, _, write_weights = linkage(SIZES)
    new = update_link(link + torch.eye(4), precedence, write_weights)
    assert not new.diagonal(dim1=-2, dim2=-1).any()


def test_empty_links_lead_nowhere() -> None:
    _, _, read_weights, _ = linkage(SIZES)
    for weights in directional_weightings(torch.zeros(2, 2, 4, 4).double(), read_weights):
        assert weights.shape == (2, 3, 2, 4)
        assert not weights.any()


def test_gradients() -> None:
    link, precedence, read_weights, write_weights = linkage(SIZES)
    inputs = require_grad((link, precedence, write_weights))
    assert torch.autograd.gradcheck(update_link, inputs)
    assert torch.autograd.gradcheck(update_precedence, inputs[1:])
    assert torch.autograd.gradcheck(directional_weightings, require_grad((link, read_weights)))


@given(SMALL_SIZES, SEEDS)
def test_backward_equals_autograd(sizes: MemorySizes, seed: int) -> None:
    link, precedence, read_weights, write_weights = linkage(sizes, seed)
    assert_backward_equals_autograd(
        update_precedence_backward, update_precedence, (precedence, write_weights)
    )
    inputs = require_grad((link, precedence, write_weights, read_weights))
    expected = functional.linkage(*inputs, backend="reference")
    cotangents = [normal(*part.shape) for part in expected]
    gradients = torch.autograd.grad(expected, inputs, cotangents)
    for backend in ["eager", "cpu"] if HAS_NUMBA else ["eager"]:
        found = functional.linkage(*inputs, backend=backend)
        assert_close(list(found), list(expected), "float64", backend)
        actual = torch.autograd.grad(found, inputs, cotangents)
        assert_close(list(actual), list(gradients), "float64", backend)


def test_follows_a_permutation_of_the_cells() -> None:
    link, precedence, read_weights, write_weights = linkage(SIZES)
    cells = torch.randperm(4)
    new = update_link(link, precedence, write_weights)
    permuted = update_link(
        link[..., cells, :][..., cells], precedence[..., cells], write_weights[..., cells]
    )
    assert_close(permuted, new[..., cells, :][..., cells], "float64")
    expected = [part[..., cells] for part in directional_weightings(new, read_weights)]
    assert_close(
        list(directional_weightings(permuted, read_weights[..., cells])), expected, "float64"
    )


def test_float32_is_close_to_float64() -> None:
    link, precedence, read_weights, write_weights = linkage(SIZES)
    new = update_link(link, precedence, write_weights)
    single = update_link(link.float(), precedence.float(), write_weights.float())
    assert single.dtype == torch.float32
    assert_close(single, new, "float32")
    assert_close(
        directional_weightings(single, read_weights.float()),
        directional_weightings(new, read_weights),
        "float32",
    )
