"""Content-based addressing: cosine similarity, and the softmax over cells."""

from __future__ import annotations

import math

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from states import (
    SEEDS,
    SMALL_SIZES,
    arrays,
    assert_backward_equals_autograd,
    assert_close,
    normal,
    require_grad,
    weighed_sum,
)

from dnc_fast.reference import content_weighting, cosine_similarity
from dnc_fast.reference.content import content_weighting_backward, look_up
from dnc_fast.state import MemorySizes

SIZES = MemorySizes(batch_size=2, num_cells=5, cell_size=3, num_read_heads=2, num_write_heads=1)


def lookup(sizes: MemorySizes, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Random keys (B, R, W), strengths (B, R) from 1 up, and memory (B, N, W)."""
    torch.manual_seed(seed)
    B, N, W, R, _ = sizes
    return normal(B, R, W), 1 + 5 * normal(B, R).abs(), normal(B, N, W)


@given(SMALL_SIZES, SEEDS)
def test_equals_the_oracle(sizes: MemorySizes, seed: int) -> None:
    def of_all_heads(keys: np.ndarray, strengths: np.ndarray, memory: np.ndarray) -> np.ndarray:
        heads = zip(keys, strengths, strict=True)
        return np.array([oracle.content_weighting(key, beta, memory) for key, beta in heads])

    inputs = lookup(sizes, seed)
    expected = oracle.batched(of_all_heads, *arrays(inputs))
    assert_close(content_weighting(*inputs), expected, "float64")


def test_cosine_by_hand() -> None:
    keys = torch.tensor([[[3.0, 4.0], [-6.0, -8.0]]], dtype=torch.float64)
    memory = torch.tensor([[[3.0, 4.0], [4.0, -3.0], [0.0, 0.0], [0.0, 2.0]]], dtype=torch.float64)
    similarities = cosine_similarity(keys, memory)
    # The epsilons take 6e-8 off a similarity of these lengths: not the float64 tolerance's matter.
    by_hand = torch.tensor([[[1, 0, 0, 0.8], [-1, 0, 0, -0.8]]], dtype=torch.float64)
    torch.testing.assert_close(similarities, by_hand, rtol=0, atol=1e-6)
    norms = math.sqrt(25 + 1e-6) * math.sqrt(25 + 1e-6)
    assert similarities[0, 0, 0].item() == pytest.approx(25 / (norms + 1e-6), rel=1e-15)


def test_gradients() -> None:
    assert torch.autograd.gradcheck(content_weighting, require_grad(lookup(SIZES)))


@given(SMALL_SIZES, SEEDS)
def test_backward_equals_autograd(sizes: MemorySizes, seed: int) -> None:
    def backward(d_weights: torch.Tensor, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return content_weighting_backward(d_weights, look_up(*inputs), *inputs)

    assert_backward_equals_autograd(backward, content_weighting, lookup(sizes, seed))


def test_sums_to_one_and_prefers_the_nearest() -> None:
    keys, _, memory = lookup(SIZES)
    keys[:, 0] = 2 * memory[:, 3]
    weights = content_weighting(keys, torch.full((2, 2), 200.0, dtype=torch.float64), memory)
    assert (weights >= 0).all()
    assert_close(weights.sum(-1), torch.ones(2, 2, dtype=torch.float64), "float64")
    assert (weights[:, 0].argmax(-1) == 3).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("zeroed", [(0,), (2,), (0, 2)], ids=["key", "memory", "both"])
def test_zeros_weigh_all_cells_alike(dtype: torch.dtype, zeroed: tuple[int, ...]) -> None:
    inputs = [part.to(dtype) for part in lookup(SIZES)]
    for index in zeroed:
        inputs[index].zero_()
    inputs = require_grad(inputs)
    weights = content_weighting(*inputs)
    assert_close(weights, torch.full_like(weights, 1 / SIZES.num_cells), "float64")
    weighed_sum(weights).backward()
    assert all(part.grad.isfinite().all() for part in inputs)


def test_follows_a_permutation_of_the_cells() -> None:
    keys, strengths, memory = lookup(SIZES)
    order = torch.randperm(SIZES.num_cells)
    expected = content_weighting(keys, strengths, memory)[..., order]
    assert_close(content_weighting(keys, strengths, memory[:, order]), expected, "float64")


def test_float32_is_close_to_float64() -> None:
    inputs = lookup(SIZES)
    single = content_weighting(*(part.float() for part in inputs))
    assert single.dtype == torch.float32
    assert_close(single, content_weighting(*inputs), "float32")
