"""Tasks: what a batch holds, that it is seeded, and what losses and scores count."""

import pytest
import torch

from dnc_fast.tasks import TASKS, CopyTask, MappingTask, bit_loss, bit_score


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def reread_copy(task, inputs, mask):
    """The answers of one copy episode, worked out step by step from its inputs alone."""
    heard, answers, listening = [], [], False
    for step in range(len(inputs)):
        bits, (start, recall) = inputs[step, : task.num_bits], inputs[step, task.num_bits :]
        if start:
            heard, listening = [], True
        elif recall:
            listening = False
        elif listening:
            heard.append(bits)
        elif mask[step]:
            answers.append(heard.pop(0))
    return torch.stack(answers)


@pytest.mark.parametrize(
    "task",
    [CopyTask(), CopyTask(2, 5, 3, 4), CopyTask(1, 1, 1, 1), CopyTask(7, 7, 8, 2)],
    ids=str,
)
def test_copy_targets_are_what_was_heard(task):
    batch = task.batch(9, generator())
    steps = int(batch.lengths.max())
    assert batch.inputs.shape == (steps, 9, task.input_size)
    assert batch.targets.shape == (steps, 9, task.output_size)
    for place, length in enumerate(batch.lengths):
        inputs, mask = batch.inputs[:, place], batch.mask[:, place]
        assert torch.equal(batch.targets[mask, place], reread_copy(task, inputs, mask))
        assert inputs[:, task.num_bits].sum() == task.num_sequences
        assert length == 2 * mask.sum() + 2 * task.num_sequences
        assert not inputs[mask].any() and not inputs[length:].any() and not mask[length:].any()
        assert not batch.targets[~mask, place].any()


def test_copy_lengths_cover_the_range_evenly():
    lengths = CopyTask(3, 6).batch(4000, generator()).mask.sum(0)
    counts = torch.bincount(lengths, minlength=7)
    assert counts[:3].sum() == 0 and (counts[3:] > 900).all()


def test_mapping_follows_its_fixed_permutation():
    task = MappingTask(num_symbols=6, length=5)
    batch = task.batch(50, generator())
    assert sorted(task.mapping().tolist()) == list(range(6))
    assert torch.equal(batch.targets.argmax(-1), task.mapping()[batch.inputs.argmax(-1)])
    assert not torch.equal(task.mapping(), MappingTask(6, map_seed=1).mapping())


@pytest.mark.parametrize("name", TASKS)
def test_batches_are_seeded(name):
    task = TASKS[name]()
    first, again, other = (task.batch(8, generator(seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first.inputs.shape != other.inputs.shape or not torch.equal(first.inputs, other.inputs)


def test_loss_and_score_count_only_masked_bits():
    batch = CopyTask(1, 4).batch(5, generator())
    right = torch.where(batch.targets > 0.5, 20.0, -20.0)
    noise = torch.randn(right.shape, generator=generator(1))
    logits = torch.where(batch.mask.unsqueeze(-1), right, noise)
    assert bit_loss(logits, batch) < 1e-6
    assert not bit_score(logits, batch).wrong_bits.any()

    first = batch.mask[:, 2].nonzero()[0]
    logits[first, 2, :2] *= -1
    assert bit_score(logits, batch).wrong_bits.tolist() == [0, 0, 2, 0, 0]


def test_loss_of_even_odds_is_one_bit_in_nats():
    batch = CopyTask().batch(3, generator())
    even = torch.zeros_like(batch.targets)
    assert bit_loss(even, batch).item() == pytest.approx(0.693147, abs=1e-5)
    assert bit_score(even, batch).loss.tolist() == pytest.approx([0.693147] * 3, abs=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CopyTask(min_length=0), "min_length must be at least 1, got 0"),
        (lambda: CopyTask(5, 4), "max_length must be at least 5, got 4"),
        (lambda: CopyTask(num_bits=2.0), "num_bits must be an integer, got 2.0"),
        (lambda: MappingTask(num_symbols=-1), "num_symbols must be at least 1, got -1"),
        (lambda: CopyTask().batch(0, generator()), "batch_size must be at least 1, got 0"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises((TypeError, ValueError), match=message):
        make()
