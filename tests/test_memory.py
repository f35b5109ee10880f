"""Writing to the cells and reading from them."""

from __future__ import annotations

import oracle
import torch
from hypothesis import given
from states import (
    SEEDS,
    SMALL_SIZES,
    arrays,
    assert_backward_equals_autograd,
    assert_close,
    normal,
    random_weighting,
    require_grad,
    uniform,
)
from torch import Tensor

from dnc_fast.reference import read_memory, write_memory
from dnc_fast.reference.memory import read_memory_backward, write_memory_backward
from dnc_fast.state import MemorySizes

SIZES = MemorySizes(batch_size=2, num_cells=4, cell_size=3, num_read_heads=2, num_write_heads=2)


def write(sizes: MemorySizes, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Random memory, write weightings, erase vectors and write vectors."""
    torch.manual_seed(seed)
    B, N, W, _, Hw = sizes
    return normal(B, N, W), random_weighting(B, Hw, N), uniform(B, Hw, W), normal(B, Hw, W)


@given(SMALL_SIZES, SEEDS)
def test_equals_the_oracle(sizes: MemorySizes, seed: int) -> None:
    inputs = write(sizes, seed)
    expected = oracle.batched(oracle.write_memory, *arrays(inputs))
    assert_close(write_memory(*inputs), expected, "float64")
    memory = inputs[0]
    read_weights = random_weighting(sizes.batch_size, sizes.num_read_heads, sizes.num_cells)
    expected = oracle.batched(oracle.read_memory, *arrays((memory, read_weights)))
    assert_close(read_memory(memory, read_weights), expected, "float64")


def test_by_hand() -> None:
    """Head 0 wipes and fills cell 0; head 1 halves the first number of cells 0 and 1."""
    memory = torch.tensor([[[4.0, 8.0], [4.0, 8.0], [4.0, 8.0]]])
    new = write_memory(
        memory,
        write_weights=torch.tensor([[[1.0, 0.0, 0.0], [0.5, 0.5, 0.0]]]),
        erase_vectors=torch.tensor([[[1.0, 1.0], [1.0, 0.0]]]),
        write_vectors=torch.tensor([[[1.0, 2.0], [0.0, 10.0]]]),
    )
    assert new.tolist() == [[[1.0, 7.0], [2.0, 13.0], [4.0, 8.0]]]
    read_weights = torch.tensor([[[0.0, 0.0, 1.0], [0.5, 0.25, 0.0]]])
    assert read_memory(new, read_weights).tolist() == [[[4.0, 8.0], [1.0, 6.75]]]


def test_writing_nothing_changes_nothing() -> None:
    memory, weights, erase, vectors = write(SIZES)
    assert torch.equal(write_memory(memory, torch.zeros_like(weights), erase, vectors), memory)


def test_order_of_write_heads_does_not_matter() -> None:
    memory, *heads = write(SIZES)
    flipped = write_memory(memory, *(part.flip(1) for part in heads))
    assert_close(flipped, write_memory(memory, *heads), "float64")


def test_leaves_its_input_alone() -> None:
    inputs = write(SIZES)
    copies = [part.clone() for part in inputs]
    write_memory(*inputs)
    assert all(map(torch.equal, inputs, copies))


def test_gradients() -> None:
    """Also where erasing is complete, so that a factor of the product is zero."""
    memory, weights, erase, vectors = write(SIZES)
    weights[0, 0] = torch.tensor([0.0, 1.0, 0.0, 0.0])
    erase[0, 0, :2] = 1
    inputs = require_grad((memory, weights, erase, vectors))
    assert torch.autograd.gradcheck(write_memory, inputs)
    assert torch.autograd.gradcheck(read_memory, require_grad((memory, random_weighting(2, 3, 4))))


@given(SMALL_SIZES, SEEDS)
def test_backward_equals_autograd(sizes: MemorySizes, seed: int) -> None:
    """Also where erasing is complete, so that nothing may be divided by what is left."""
    memory, weights, erase, vectors = write(sizes, seed)
    weights[0, :, 0] = erase[0] = 1
    inputs = (memory, weights, erase, vectors)
    assert_backward_equals_autograd(write_memory_backward, write_memory, inputs)
    read_weights = random_weighting(sizes.batch_size, sizes.num_read_heads, sizes.num_cells)
    assert_backward_equals_autograd(read_memory_backward, read_memory, (memory, read_weights))


def test_float32_is_close_to_float64() -> None:
    inputs = write(SIZES)
    single = write_memory(*(part.float() for part in inputs))
    assert single.dtype == torch.float32
    assert_close(single, write_memory(*inputs), "float32")
