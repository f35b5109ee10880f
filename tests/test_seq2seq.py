"""Encoder and decoder with attention: maths, padding, greedy decoding, beams, learning."""

import numpy as np
import plain_seq2seq as plain
import pytest
import torch
import torch.nn.functional as F

from dnc_fast.baselines import Seq2Seq, beam_search, greedy
from dnc_fast.models import build_model
from dnc_fast.presets import model_config
from dnc_fast.presets.defaults import _answers_last
from dnc_fast.tasks import TASKS, AutoencodingTask, CopyTask
from dnc_fast.training.evaluation import evaluate

X, Y = 3, 4
ATTENTIONS = ("bahdanau", "luong")
every_attention = pytest.mark.parametrize("attention", ATTENTIONS)


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def model_of(attention="bahdanau"):
    torch.manual_seed(0)
    model = Seq2Seq(X, Y, hidden_size=6, attention=attention, dtype=torch.float64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


@every_attention
def test_decoder_equals_a_plain_one_with_right_answers_fed(attention):
    model, source = model_of(attention), normal(5, 2, X)
    lengths = torch.tensor([5, 3])
    wanted = F.one_hot(torch.randint(Y, (4, 2)), Y).double()
    at = model.encode(source, lengths)
    found = model.decode(at, 4, wanted)
    for row, length in enumerate(lengths.tolist()):
        encoded = at.values[:length, row].detach().numpy()
        first = at.hidden[row].detach().numpy()
        expected = plain.outputs(model, encoded, first, wanted[:, row].numpy())
        np.testing.assert_allclose(found[:, row].detach(), expected, rtol=1e-9, atol=1e-12)


@every_attention
def test_padding_of_sources_changes_nothing(attention):
    model, source = model_of(attention), normal(5, 3, X)
    padded = torch.cat([source[:3], torch.full((2, 3, X), 9.0)])
    alone = model.decode(model.encode(source[:3], torch.tensor([3, 3, 3])), 4)
    beside = model.decode(model.encode(padded, torch.tensor([5, 3, 3])), 4)
    torch.testing.assert_close(beside[:, 1:], alone[:, 1:])
    read, shares = model.attention(
        normal(3, 6), normal(5, 3, 12), torch.tensor([[True]] * 2 + [[False]] * 3).expand(5, 3)
    )
    torch.testing.assert_close(shares.sum(0), torch.ones(3).double())
    assert not shares[2:].any() and read.shape == (3, 12)


@every_attention
def test_called_like_a_dnc_it_answers_after_the_last_input(attention):
    model, lengths = model_of(attention), (4, 2)
    x = torch.zeros(7, 2, X, dtype=torch.float64)
    for row, length in enumerate(lengths):
        x[:length, row] = normal(length, X)
    output, state = model(x)
    for row, length in enumerate(lengths):
        at = model.encode(x[:length, row : row + 1], torch.tensor([length]))
        expected = model.decode(at, 7 - length)[:, 0]
        torch.testing.assert_close(output[length:, row], expected)
        assert not output[:length, row].any()
    first, half = model(x[:5])
    second, _ = model(x[5:], half)
    torch.testing.assert_close(torch.cat([first, second])[4:], output[4:])
    fresh, _ = model(x, state.reset_rows(torch.tensor([True, True])))
    torch.testing.assert_close(fresh, output)
    one, _ = model(x, state.reset_rows(torch.tensor([True, False])))
    torch.testing.assert_close(one[:, 0], output[:, 0])
    assert (one[5:, 1] - output[5:, 1]).abs().max() > 1e-4, "all that was shown is the source"
    assert model(x[:, :0])[0].shape == (7, 0, Y)
    model(x[:2])[0].sum().backward()  # with nothing to answer too


@every_attention
def test_gradients(attention):
    model, source = model_of(attention), normal(3, 2, X).requires_grad_()
    lengths = torch.tensor([3, 2])
    torch.autograd.gradcheck(lambda x: model.decode(model.encode(x, lengths), 2), source)
    model.decode(model.encode(source, lengths), 3).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


def start_of(model):
    return model.encode(normal(4, 3, X), torch.tensor([4, 2, 3])), torch.zeros(3, Y).double()


@every_attention
def test_greedy_takes_the_likeliest_and_ends(attention):
    model = model_of(attention)
    at, first = start_of(model)
    for end in range(Y):
        symbols = greedy(model.step, at, first, end, most_steps=6, pad=(end + 1) % Y)
        for row in range(3):
            said, state, expected = first[row : row + 1], at.choose(torch.tensor([row])), []
            while len(expected) < 6 and end not in expected:
                logits, state = model.step(said, state)
                expected.append(int(logits.argmax()))
                said = F.one_hot(torch.tensor(expected[-1:]), Y).double()
            pads = [(end + 1) % Y] * (len(symbols) - len(expected))
            assert symbols[:, row].tolist() == expected + pads
        beam, _ = beam_search(model.step, at, first, end, 6, width=1, pad=(end + 1) % Y)
        assert beam.tolist() == symbols.tolist()


@every_attention
def test_a_wide_beam_finds_the_likeliest_sequence(attention):
    model = model_of(attention)
    at, first = start_of(model)
    symbols, scores = beam_search(model.step, at, first, end=1, most_steps=3, width=Y**3)
    _, narrow = beam_search(model.step, at, first, end=1, most_steps=3, width=2)
    assert (narrow <= scores + 1e-12).all()
    for row in range(3):

        def log_probability(sequence, row=row):
            said, state, total = first[row : row + 1], at.choose(torch.tensor([row])), 0.0
            for symbol in sequence:
                logits, state = model.step(said, state)
                total += logits.log_softmax(-1)[0, symbol].item()
                said = F.one_hot(torch.tensor([symbol]), Y).double()
            return total

        best, score = plain.best_sequence(log_probability, Y, 1, 3)
        assert symbols[:, row].tolist() == best + [0] * (len(symbols) - len(best))
        assert scores[row].item() == pytest.approx(score, rel=1e-9)


@every_attention
def test_digits_are_learned(attention):
    torch.manual_seed(0)
    task, generator = AutoencodingTask(2, 4), torch.Generator().manual_seed(0)
    model = build_model(model_config(task, "seq2seq", hidden_size=32, attention=attention))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(200):
        batch = task.batch(16, generator)
        optimizer.zero_grad()
        task.loss(model(batch.inputs)[0], batch).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    assert evaluate(model, task, 100, 0).right > 0.9


def test_it_fits_tasks_that_show_a_sequence_first():
    for name, kind in TASKS.items():
        if name == "characters":  # needs a file
            continue
        task = kind()
        batch = task.batch(16, torch.Generator().manual_seed(0))
        steps = torch.arange(len(batch.inputs)).unsqueeze(1)
        last = (steps * batch.inputs.any(-1)).amax(0)
        first = torch.where(batch.mask, steps, len(steps)).amin(0)
        assert _answers_last(task) == bool((first == last + 1).all()), name
    for task in (TASKS["echo"](), CopyTask(num_sequences=2)):
        with pytest.raises(ValueError, match="model 'seq2seq' answers after the last input"):
            model_config(task, "seq2seq")
