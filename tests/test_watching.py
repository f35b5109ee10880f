"""What is seen inside models: gates, attention, how far gradients reach; and its pictures."""

import math

import numpy as np
import plain_baselines as plain
import pytest
import torch
from torch import nn

from dnc_fast.baselines import GRU, LSTM, MemN2N, Seq2Seq, Transformer
from dnc_fast.models import build_model
from dnc_fast.presets import model_config
from dnc_fast.tasks import BabiTask, CopyTask, EchoTask, SortTask
from dnc_fast.training import probe
from dnc_fast.training.answering import inference
from dnc_fast.training.reach import gradient_by_lag
from dnc_fast.training.watching import attended, gated_layer, sentences, watched_gates

TASK = CopyTask(1, 4, num_bits=2)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def model_of(name, task=TASK, **options):
    model = build_model(model_config(task, name, hidden_size=8, **options))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model.eval()


@pytest.mark.parametrize(
    ("name", "options"),
    [("lstm", {}), ("lstm", {"num_layers": 2}), ("ntm", {}), ("dnc", {"num_layers": 2})],
)
def test_gates_of_an_lstm_explain_its_state(name, options):
    seen = probe(model_of(name, **options), TASK, seed=1)
    assert list(seen.gates) == ["input gate", "forget gate", "output gate"]
    enter, keep, leave = seen.gates.values()
    assert enter.shape == seen.hidden.shape == (len(seen.inputs), 8)
    torch.testing.assert_close(leave * seen.cells.tanh(), seen.hidden, rtol=1e-4, atol=1e-6)
    # What the cell gained is the input gate times a tanh: no other two gates leave so little.
    gained = seen.cells[1:] - keep[1:] * seen.cells[:-1]
    assert (gained.abs() <= enter[1:] + 1e-6).all()
    assert (enter - keep).abs().max() > 0.1


def test_gates_equal_the_equations():
    x, wanted = torch.randn(5, 1, 3), {"lstm": [], "gru": []}
    models = {"lstm": LSTM(3, 2, hidden_size=4), "gru": GRU(3, 2, hidden_size=4)}
    for name, model in models.items():
        w = {label: value.numpy() for label, value in model.layers.state_dict().items()}
        hidden, state = np.zeros(4), None
        with torch.no_grad(), watched_gates(model) as seen:
            for step in x:
                sums = w["weight_ih_l0"] @ step[0].numpy() + w["bias_ih_l0"]
                sums = sums + w["weight_hh_l0"] @ hidden + w["bias_hh_l0"]
                wanted[name].append([plain.sigmoid(number) for number in sums])
                _, state = model(step.unsqueeze(0), state)
                hidden = state.parts["hidden"][0, -1].numpy()
        expected = np.array(wanted[name])
        places = {"lstm": (0, 4, 12), "gru": (0, 4)}[name]
        for gate, place in zip(seen.values(), places, strict=True):
            np.testing.assert_allclose(torch.cat(gate), expected[:, place : place + 4], rtol=1e-4)
        assert not model.layers._forward_hooks


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("rnn", {}),
        ("deltanet", {}),
        ("transformer", {}),
        ("dnc", {"controller": "layer_norm_lstm"}),
    ],
)
def test_other_layers_have_no_gates(name, options):
    model = model_of(name, **options)
    assert gated_layer(model) is None and probe(model, TASK, 0).gates == {}


def test_attention_of_a_transformer_equals_the_equation():
    model, x = Transformer(3, 2, hidden_size=8, num_heads=2).double().eval(), torch.randn(6, 3)
    x = x.double()
    with torch.no_grad():
        before = model(x)[0]
        looks = attended(model, x)
        torch.testing.assert_close(model(x)[0], before)
        layer = model.layers.layers[0]
        hidden = layer.norm1(model.input(x) + first_positions(6))
        parts = hidden @ layer.self_attn.in_proj_weight.T + layer.self_attn.in_proj_bias
    query, key = parts[:, :8].unflatten(1, (2, 4)), parts[:, 8:16].unflatten(1, (2, 4))
    assert looks.weights.shape == (2, 2, 6, 6)
    for head in range(2):
        for step in range(6):
            scores = [float(query[step, head] @ key[at, head]) / 2 for at in range(step + 1)]
            expected = plain.softmax(scores) + [0.0] * (5 - step)
            assert looks.weights[0, head, step].tolist() == pytest.approx(expected, abs=1e-6)
    assert not any(module._forward_hooks for module in model.modules())


def first_positions(steps):
    place = torch.arange(steps, dtype=torch.float64).unsqueeze(1)
    angles = place * torch.tensor([10_000.0 ** -(k / 8) for k in range(0, 8, 2)]).double()
    return torch.cat([angles.sin(), angles.cos()], 1)


def test_attention_of_an_encoder_and_decoder_is_that_of_its_steps():
    model, x = Seq2Seq(3, 2, hidden_size=4).eval(), torch.randn(7, 3)
    x[4:] = 0
    with torch.no_grad():
        looks = attended(model, x)
        at = model.encode(x[:4].unsqueeze(1), torch.tensor([4]))
        said = torch.zeros(1, 2)
        for answer in range(3):
            _, shares = model.attention(at.hidden, at.values, at.known)
            torch.testing.assert_close(looks.weights[0, 0, answer], shares[:, 0])
            output, at = model.step(said, at)
            said = output.sigmoid()
    assert looks.weights.shape == (1, 1, 3, 4) and looks.place == "step of the source"
    assert attended(model, x[:4]) is None, "nothing is answered yet"


@pytest.mark.parametrize("name", ["memn2n", "dmn"])
def test_attention_to_facts_has_their_words(name):
    task = BabiTask()
    seen = probe(model_of(name, task), task, seed=2)
    weights, head, asked, place, questions, facts = seen.looks
    assert (head, asked, place) == ("read", "answer", "fact")
    assert weights.shape == (1, 3, len(questions), len(facts))
    told, answer = 0, 0
    for word in seen.words:
        told += word == "."
        if word == "?":
            torch.testing.assert_close(weights[0, :, answer].sum(-1), torch.ones(3))
            assert (weights[0, :, answer, told:] == 0).all()
            answer += 1
    assert answer == len(questions) and all(text.startswith("where is") for text in questions)
    story = " ".join(seen.words)
    assert all(f"{fact} ." in story for fact in facts)


def test_sentences_are_facts_and_questions():
    words = ["a", "b", ".", "c", "?", "-", "-", "d", ".", "e", "f", "?", "-"]
    facts, questions = sentences(words, torch.tensor([word == "-" for word in words]))
    assert facts == ["a b", "d"] and questions == ["c", "c", "e f"]


def test_shares_have_no_parameters():
    """So that models trained before they were watched can still be read."""
    assert not any("shares" in name for name in MemN2N(9, 6, hidden_size=8).state_dict())


# How far gradients reach


class Leaky(nn.Module):
    """Outputs (1 - leak) times the last output, plus the input."""

    def __init__(self, leak):
        super().__init__()
        self.keep = nn.Parameter(torch.tensor(1 - leak))

    def forward(self, inputs, state=None):
        total, outputs = torch.zeros(inputs.shape[1:]), []
        for step in inputs:
            total = self.keep * total + step
            outputs.append(total)
        return torch.stack(outputs), total


def test_a_leaky_sum_loses_its_gradient_step_by_step():
    task = EchoTask(delay=2, chunk_length=10, num_chunks=2)
    found = gradient_by_lag(Leaky(0.25), task, seed=0)
    assert len(found) == 20
    torch.testing.assert_close(found[1:] / found[:-1], torch.full((19,), 0.75))
    assert 0 < found[0] < 1  # of cross-entropy by a logit


def test_gradients_of_short_and_long_sequences_end_with_their_beginnings():
    found = gradient_by_lag(model_of("lstm"), TASK, seed=0)
    assert len(found) == 10 and (found > 0).all()  # a start, 4 vectors, an end, and 4 answers
    words = BabiTask()
    assert gradient_by_lag(model_of("memn2n", words), words, seed=0) is None
    assert gradient_by_lag(model_of("pointer", SortTask()), SortTask(), seed=0).shape == (10,)


def test_gradients_are_those_of_a_model_without_dropout():
    model = model_of("dnc", bypass_dropout=0.5)
    expected = gradient_by_lag(model, TASK, seed=0)
    torch.testing.assert_close(gradient_by_lag(model.train(), TASK, seed=0), expected)
    assert model.training


def test_a_model_trains_on_after_an_answer_that_failed():
    model = model_of("gru").train()
    with pytest.raises(KeyboardInterrupt), inference(model):
        raise KeyboardInterrupt
    assert model.training


# Pictures


@pytest.fixture
def pictures():
    pytest.importorskip("matplotlib")
    from dnc_fast import pictures

    return pictures


def test_gates_are_drawn_in_the_order_of_the_hidden_state(pictures):
    hidden = torch.zeros(6, 3)
    hidden[4:, 0], hidden[1:, 1], hidden[2:, 2] = 1, 1, 1
    gates = {"input gate": torch.rand(6, 3), "output gate": torch.rand(6, 3)}
    data = (torch.rand(6, 2), torch.rand(6, 4), hidden, gates, torch.ones(6))
    figure = pictures.gates_view(*data, "title")
    shown = [axes for axes in figure.axes if axes.images]
    names = [axes.get_title(loc="left").partition(",")[0] for axes in shown]
    assert names == ["inputs", "input gate", "output gate", "outputs"]
    for axes, gate in zip(shown[1:3], gates.values(), strict=True):
        drawn = torch.as_tensor(axes.images[0].get_array().data)
        torch.testing.assert_close(drawn, gate[:, [1, 2, 0]].T)
    with pytest.raises(ValueError, match="gates must have shape"):
        pictures.gates_view(*data[:3], {"gate": torch.rand(6, 4)}, data[4], "")


def test_attention_is_drawn_a_panel_for_each_head(pictures, tmp_path):
    weights = torch.rand(2, 3, 4, 5).softmax(-1)
    words = {"asked_words": ["where is mary"] * 4, "place_words": ["mary went to the garden"] * 5}
    for more in ({}, words):
        figure = pictures.attention_view(weights, "title", **more)
        shown = [axes for axes in figure.axes if axes.get_title(loc="left")]
        assert [axes.get_title(loc="left") for axes in shown][:2] == [
            "layer 0, head 0",
            "layer 0, head 1",
        ]
        for axes, values in zip(shown, weights.flatten(0, 1), strict=True):
            torch.testing.assert_close(torch.as_tensor(axes.images[0].get_array().data), values)
        pictures.save_picture(figure, tmp_path / "attention.png")
        box, size = figure.get_tightbbox(figure.canvas.get_renderer()), figure.get_size_inches()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= size[0] and box.y1 <= size[1]
    with pytest.raises(ValueError, match=r"weights must have shape \(L, K, A, S\), got \(4, 5\)"):
        pictures.attention_view(weights[0, 0], "")
    with pytest.raises(ValueError, match="place_words must be 5 words, got 4"):
        pictures.attention_view(weights, "", place_words=["fact"] * 4)


def test_gradients_are_drawn_down_to_a_billionth(pictures):
    falling = 0.1 ** torch.arange(15.0)
    figure = pictures.comparison_of_gradients(
        {"rnn": [falling, 3 * falling], "lstm": [torch.ones(12)], "memn2n": []}, "title"
    )
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["rnn", "lstm"]
    assert axes.get_yscale() == "log"
    assert 1e-9 < axes.get_ylim()[0] < 3e-9 and math.isclose(axes.get_ylim()[1], 6, rel_tol=1e-5)
    np.testing.assert_allclose(axes.lines[0].get_ydata(), 2 * falling, rtol=1e-5)
    pictures.comparison_of_gradients({"rnn": []}, "")
