"""NAC and NALU: the equations in loops, and what they learn outside the range of training."""

import math
import sys

import pytest
import torch
from torch import nn

from bench import arithmetic
from dnc_fast.baselines import LSTM, NAC, NALU


def set_weights(layer, wanted):
    """tanh(20) and sigmoid(20) are one to nine digits; sigmoid(-40) is next to nothing."""
    wanted = torch.tensor(wanted)
    with torch.no_grad():
        layer.signs.copy_(20 * wanted)
        layer.sizes.copy_(torch.where(wanted == 0, -40.0, 20.0))


@pytest.mark.parametrize("kind", [NAC, NALU])
def test_layers_equal_loops_and_have_the_right_gradients(kind):
    torch.manual_seed(0)
    layer, x = kind(3, 2).double(), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    found = layer(x)
    sums = layer if kind is NAC else layer.sums
    layer.requires_grad_(False)
    numbers = x.tolist()
    for row in range(4):
        for out in range(2):
            weights = [
                math.tanh(sums.signs[out, i]) / (1 + math.exp(-sums.sizes[out, i]))
                for i in range(3)
            ]
            expected = sum(w * numbers[row][i] for i, w in enumerate(weights))
            if kind is NALU:
                gate = sum(float(layer.gate.weight[out, i]) * numbers[row][i] for i in range(3))
                gate = 1 / (1 + math.exp(-gate))
                logs = [w * math.log(abs(numbers[row][i]) + 1e-7) for i, w in enumerate(weights)]
                expected = gate * expected + (1 - gate) * math.exp(sum(logs))
            assert found[row, out].item() == pytest.approx(expected, rel=1e-12)
    names, parameters = zip(*layer.requires_grad_(True).named_parameters(), strict=True)

    def with_parameters(x, *values):
        return torch.func.functional_call(layer, dict(zip(names, values, strict=True)), x)

    torch.autograd.gradcheck(with_parameters, (x, *parameters))


def test_weights_of_minus_one_zero_and_one_calculate():
    layer, x = NALU(3, 2), torch.tensor([[2000.0, 30.0, 7.0]])
    set_weights(layer.sums, [[1.0, -1.0, 0.0], [1.0, 0.0, 1.0]])
    with torch.no_grad():
        layer.gate.weight.copy_(torch.tensor([[1.0, 0, 0], [1.0, 0, 0]]))
        torch.testing.assert_close(layer(x), torch.tensor([[1970.0, 2007.0]]))
        layer.gate.weight.neg_()
        torch.testing.assert_close(
            layer(x), torch.tensor([[2000 / 30, 14000.0]]), rtol=1e-5, atol=0
        )


def test_a_sum_is_learned_for_larger_numbers_too():
    torch.manual_seed(0)
    layer, line = NAC(4, 1), torch.tensor([1.0, 0.0, 1.0, -1.0])
    optimizer = torch.optim.Adam(layer.parameters(), 0.1)
    for _ in range(800):
        x = torch.rand(32, 4)
        optimizer.zero_grad()
        nn.functional.mse_loss(layer(x)[:, 0], x @ line).backward()
        optimizer.step()
    x = 1000 * torch.rand(32, 4)
    # Weights come near to -1, 0 and 1, but slowly, as where tanh and sigmoid are flat.
    assert (layer(x)[:, 0] - x @ line).abs().max() < 60


@pytest.mark.parametrize(("head", "kind"), [("nac", NAC), ("nalu", NALU), ("linear", nn.Linear)])
def test_they_are_output_layers_of_recurrent_models(head, kind):
    model = LSTM(3, 2, hidden_size=4, head=head)
    assert type(model.output) is kind
    model(torch.randn(5, 2, 3))[0].sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    with pytest.raises(ValueError, match=r"head must be one of \('linear', 'nac', 'nalu'\)"):
        LSTM(3, 2, head="other")


def test_arithmetic_is_measured_in_both_ranges(monkeypatch, capsys):
    generator = torch.Generator().manual_seed(0)
    for number, calculate in enumerate(arithmetic.OPERATIONS.values()):
        a, b = 12.25, 4.0
        expected = (16.25, 8.25, 49.0, 3.0625, 150.0625, 3.5)[number]
        assert calculate(torch.tensor(a), torch.tensor(b)) == expected
    x, answers = arithmetic.examples("a - b", 500, 10.0, generator)
    assert 10 <= x.min() < 10.1 and 19.9 < x.max() < 20
    torch.testing.assert_close(answers, x[:, :1] - x[:, 1:2])
    trained = arithmetic.learn("a + b", "NAC", 0, 500)
    assert all(error < 0.05 for error in trained), "sums of larger numbers are right too"
    monkeypatch.setattr(sys, "argv", ["arithmetic", "--seeds", "2", "--steps", "1"])
    arithmetic.main()
    rows = capsys.readouterr().out.splitlines()[4:]
    assert sum("| 10 to 20 |" in row for row in rows) == 6 and len(rows) == 12


def test_bounded_activations_are_lost_outside_their_training(monkeypatch, tmp_path):
    pytest.importorskip("matplotlib")
    numbers, tanh = arithmetic.identity_errors(torch.tanh, 300)
    _, relu = arithmetic.identity_errors(torch.relu, 300)
    inside, outside = numbers.abs() <= 5, numbers.abs() > 15
    assert tanh[inside].mean() < 0.3 and relu[inside].mean() < 0.3
    assert tanh[outside].mean() > 2 * relu[outside].mean() and tanh[outside].mean() > 5
    picture = tmp_path / "identity.png"
    monkeypatch.setattr(sys, "argv", ["arithmetic", "--steps", "1", "--identity", str(picture)])
    arithmetic.main()
    assert picture.stat().st_size > 10_000
