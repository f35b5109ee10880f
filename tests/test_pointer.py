"""Pointer network: its answers are places of its source; it learns to sort."""

import numpy as np
import pytest
import torch
from plain_baselines import sigmoid, softmax

from dnc_fast.baselines import PointerNetwork
from dnc_fast.models import build_model
from dnc_fast.presets import model_config
from dnc_fast.tasks import CopyTask, SortTask
from dnc_fast.training.evaluation import evaluate


def model_of():
    torch.manual_seed(0)
    model = PointerNetwork(2, 5, hidden_size=4, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


def shown(*lengths, steps=7):
    x = torch.zeros(steps, len(lengths), 2, dtype=torch.float64)
    for row, length in enumerate(lengths):
        x[:length, row] = torch.randn(length, 2, dtype=torch.float64)
    return x


def plain_pointer(model, source, steps):
    """Logits of the places of one source (S, X), a step and a place at a time."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}

    def lstm(name, end, x, hidden, cell):
        gates = w[f"{name}.weight_ih{end}"] @ x + w[f"{name}.bias_ih{end}"]
        gates = gates + w[f"{name}.weight_hh{end}"] @ hidden + w[f"{name}.bias_hh{end}"]
        i, f, g, o = np.split(gates, 4)
        i, f, o = (np.array([sigmoid(a) for a in part]) for part in (i, f, o))
        cell = f * cell + i * np.tanh(g)
        return o * np.tanh(cell), cell

    hidden = cell = np.zeros(4)
    encoded, found, said = [], [], np.zeros(2)
    for x in source:
        hidden, cell = lstm("encoder", "_l0", x, hidden, cell)
        encoded.append(hidden)
    for _ in range(steps):
        hidden, cell = lstm("decoder", "", said, hidden, cell)
        base = w["attention.state.weight"] @ hidden + w["attention.state.bias"]
        scores = [
            w["attention.score.weight"][0] @ np.tanh(base + w["attention.source.weight"] @ e)
            for e in encoded
        ]
        said = sum(share * x for share, x in zip(softmax(scores), source, strict=True))
        found.append(scores)
    return np.array(found)


def test_it_equals_a_plain_one_and_points_only_at_inputs():
    model, lengths = model_of(), (5, 3)
    x = shown(*lengths)
    output, _ = model(x)
    for row, length in enumerate(lengths):
        expected = plain_pointer(model, x[:length, row].numpy(), 7 - length)
        found = output[length:, row].detach()
        np.testing.assert_allclose(found[:, :length], expected, rtol=1e-9, atol=1e-12)
        assert (found.softmax(-1)[:, length:] == 0).all()
    first, state = model(x[:6])
    torch.testing.assert_close(first[5:], output[5:6])
    torch.testing.assert_close(model(x[6:], state)[0], output[6:])


def test_gradients():
    model, x = model_of(), shown(3, 2, steps=5)
    source = x[:3].requires_grad_()
    lengths = torch.tensor([3, 2])

    def shares(source):
        return model.respond(source, lengths, 2).softmax(-1)

    torch.autograd.gradcheck(shares, source)
    shares(source).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def test_what_is_wrong_is_named():
    with pytest.raises(ValueError, match=r"source must have at most output_size=5 steps.*got 6"):
        model_of()(shown(6))
    with pytest.raises(ValueError, match="model 'pointer' answers with places, so task must be"):
        model_config(CopyTask(), "pointer")


def test_it_learns_to_sort_three_numbers():
    torch.manual_seed(0)
    task, generator = SortTask(2, 3), torch.Generator().manual_seed(0)
    model = build_model(model_config(task, "pointer", hidden_size=32))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        batch = task.batch(32, generator)
        optimizer.zero_grad()
        task.loss(model(batch.inputs)[0], batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert evaluate(model, task, 200, 0).right > 0.85
