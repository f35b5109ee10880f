"""What a user adds from outside, through the public ways, trains like what is built in."""

from dataclasses import dataclass
from typing import NamedTuple

import pytest
import torch
from states import HAS_NUMBA, assert_close, lively_dnc, normal, run
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from dnc_fast import DNC
from dnc_fast.backends import REGISTRY, Backend, Registered, memory_step
from dnc_fast.baselines import Baseline, BaselineConfig
from dnc_fast.cli import main
from dnc_fast.controllers import CONTROLLERS, LayeredController
from dnc_fast.linkages import LINKAGES, Linkage, LinkGradients, LinkRun
from dnc_fast.models import MODELS
from dnc_fast.presets import model_config, model_options, training_options
from dnc_fast.state import MemoryState, tensors
from dnc_fast.tasks import TASKS, Batch, BitTask
from dnc_fast.training import Trainer, TrainingConfig, load_checkpoint, read_metrics

BACKENDS = ["eager", "cpu"] if HAS_NUMBA else ["eager"]


def losses(folder):
    """The mean training loss at the beginning and at the end of a run."""
    rows = [row for row in read_metrics(folder / "metrics.jsonl") if row["kind"] == "train"]
    found = [row["loss"] for row in rows]
    return sum(found[:5]) / 5, sum(found[-5:]) / 5


# A task: its class, and one line in TASKS.


@dataclass(frozen=True)
class Toy(BitTask):
    """See a bit, answer it some steps later."""

    delay: int = 2

    input_size = 1
    output_size = 1

    def batch(self, batch_size, generator):
        inputs = torch.zeros(self.delay + 1, batch_size, 1)
        inputs[0] = torch.randint(0, 2, (batch_size, 1), generator=generator)
        mask = torch.zeros(self.delay + 1, batch_size, dtype=torch.bool)
        mask[-1] = True
        lengths = torch.full((batch_size,), self.delay + 1)
        return Batch(inputs, inputs.flip(0), mask, lengths)


def test_a_task_trains(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "toy", Toy)
    task = Toy(delay=3)
    model = model_config(task, hidden_size=16, num_cells=4, cell_size=4)
    training = TrainingConfig(learning_rate=0.02, max_steps=60, evaluate_every=60)
    trainer = Trainer(task, model, training, tmp_path)
    trainer.train("off")
    first, last = losses(tmp_path)
    assert last < 0.2 * first
    again = Trainer.resume(tmp_path)
    assert again.task == task and again.held_out().right > 0.95


def test_a_task_is_trained_and_scored_by_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(TASKS, "toy", Toy)
    options = ["--delay", "1", "--learning-rate", "0.02", "--max-steps", "60", "--no-pictures"]
    assert main(["train", "toy", *options, "--out", str(tmp_path)]) == 0
    first, last = losses(tmp_path)
    assert last < 0.2 * first
    content = load_checkpoint(tmp_path)
    assert content["task"] == {"name": "toy", "options": {"delay": 1}}
    assert main(["eval", str(tmp_path), "--task", "delay=2"]) == 0
    assert main(["tasks"]) == 0
    assert "\ntoy " in capsys.readouterr().out


def test_a_task_without_defaults_of_its_own_gets_common_ones():
    assert training_options(Toy(), model_config(Toy())) == {}
    sizes = {"hidden_size": 64, "cell_size": 16, "num_read_heads": 1}
    assert model_options(Toy()) == {**sizes, "num_cells": 16}

    class Loaded(Toy):
        memory_load = 5

    assert model_options(Loaded()) == {**sizes, "num_cells": 10}


def train_copy(folder, *options):
    """Train the copy task of one vector by command; the loss at the beginning and at the end."""
    sizes = ["--max-length", "1", "--num-bits", "2", "--hidden-size", "16", "--num-cells", "4"]
    steps = ["--learning-rate", "0.02", "--max-steps", "60", "--no-pictures"]
    assert main(["train", "copy", *sizes, *steps, *options, "--out", str(folder)]) == 0
    return losses(folder)


def results(model, x, state=None):
    """Outputs, final state and all gradients, through sequences of different lengths."""
    return run(model, pack_sequence([x, 2 * x[:2]]), state, sum_of_squares)


def sum_of_squares(output, final):
    return sum(part.square().sum() for part in tensors((output, final)))


# A model: its options, its class, and one line in MODELS.


@dataclass(frozen=True)
class MeanConfig(BaselineConfig):
    pass


class Mean(Baseline):
    """A layer on the sum of the inputs so far."""

    Config = MeanConfig

    def build(self, config):
        sizes = (config.input_size, config.hidden_size, config.output_size)
        self.layers = nn.Sequential(nn.Linear(*sizes[:2]), nn.Tanh(), nn.Linear(*sizes[1:]))

    def state_shapes(self, num_cells):
        return {"sum": (self.config.input_size,)}

    def run(self, x, parts):
        sums = parts["sum"] + x.cumsum(0)
        return self.layers(sums), {"sum": sums[-1]}


def test_a_model_trains(tmp_path, monkeypatch):
    monkeypatch.setitem(MODELS, "mean", Mean)
    monkeypatch.setitem(TASKS, "toy", Toy)
    options = ["--learning-rate", "0.02", "--max-steps", "60", "--no-pictures"]
    command = ["train", "toy", "--model", "mean", *options, "--out", str(tmp_path)]
    assert main(command) == 0
    first, last = losses(tmp_path)
    assert last < 0.2 * first
    assert main(["eval", str(tmp_path), "--task", "delay=3"]) == 0
    assert type(Trainer.resume(tmp_path).model) is Mean


# A linkage: its class, and one entry in LINKAGES.


class LastLink(NamedTuple):
    """The newest write: ww_t and p_{t-1}, (B, Hw, N) each."""

    write_weights: Tensor
    precedence: Tensor


class LastRun(LinkRun):
    """L_t = ww_t p_{t-1}^T: what was written before the newest write is not linked."""

    def __init__(self, link, options, steps, keep):
        super().__init__(link, options, steps, keep)
        self.last = LastLink(*(part.detach().clone() for part in link))
        self.ended = 0

    def forward(self, step):
        self.last.write_weights[: len(step.write1)] = step.write1
        self.last.precedence[: len(step.write1)] = step.precedence0
        return products(step.write1, step.precedence0, step.read0)

    def final(self, matrix):
        return self.last

    def begin_backward(self, d_final):
        self.d_final = d_final

    def backward(self, step, d_link, d_read, modes_ahead, modes_behind):
        x, y = products(step.write1, step.precedence0, d_read)
        ahead, behind = (modes.mT.unsqueeze(-1) for modes in (modes_ahead, modes_behind))
        d, last = d_read.unsqueeze(1), step.read0.unsqueeze(1)
        weights, precedence = step.write1.unsqueeze(2), step.precedence0.unsqueeze(2)

        def dot(a, b):
            return (a * b).sum(-1, keepdim=True)

        d_write = (ahead * d * dot(last, precedence) + behind * last * dot(d, precedence)).sum(2)
        d_precedence = (ahead * last * dot(d, weights) + behind * d * dot(last, weights)).sum(2)
        ending = slice(self.ended, len(d_write))
        for gradient, given in zip((d_write, d_precedence), self.d_final, strict=True):
            if given is not None:
                gradient[ending] += given[ending]
        self.ended = len(d_write)
        return LinkGradients(x, y, d_write, d_precedence)

    def gradient(self, d_matrix):
        return [torch.zeros_like(part) for part in self.last]


def products(weights, precedence, vectors):
    """L v and L^T v of vectors (B, R, N)."""
    weights, precedence, v = weights.unsqueeze(2), precedence.unsqueeze(2), vectors.unsqueeze(1)
    return (
        weights * (precedence * v).sum(-1, keepdim=True),
        precedence * (weights * v).sum(-1, keepdim=True),
    )


class LastLinkage(Linkage):
    name = "last"
    link_type = LastLink
    run_type = LastRun

    def empty(self, sizes, dtype, device):
        return LastLink(*(torch.zeros(*sizes[:3], dtype=dtype, device=device) for _ in range(2)))

    def shapes(self, link, sizes):
        return dict.fromkeys(("link.write_weights", "link.precedence"), tuple(sizes[:3]))

    def step(self, link, precedence, write_weights, read_weights, options):
        both = products(write_weights, precedence, read_weights)
        return LastLink(write_weights, precedence), *(part.transpose(1, 2) for part in both)

    def bytes(self, sizes, budget):
        return 4 * sizes.batch_size * sizes.num_write_heads * sizes.num_cells * budget.itemsize


@pytest.fixture
def last_linkage(monkeypatch):
    monkeypatch.setitem(LINKAGES, "last", LastLinkage())


@pytest.mark.parametrize("options", [{}, {"num_write_heads": 2, "write_topk": 2}], ids=str)
def test_a_linkage_is_the_same_by_every_backend(last_linkage, options):
    x, found = normal(4, 3), []
    for backend in ("reference", *BACKENDS):
        model = lively_dnc(linkage="last", backend=backend, **options)
        state = model(normal(3, 2, 3, generator=torch.Generator().manual_seed(1)))[1].detach()
        found.append(results(model, x, state))
    for other in found[1:]:
        assert_close(other, found[0], "float64")


def test_a_linkage_trains(last_linkage, tmp_path):
    first, last = train_copy(tmp_path, "--linkage", "last")
    assert last < 0.9 * first
    assert DNC(2, 3, linkage="last", backend="eager").memory_report(2, 5).link_matrices > 0
    state = MemoryState.zeros(2, 4, 3, linkage="last")
    with pytest.raises(ValueError, match=r"state\.link\.precedence must have shape \(2, 1, 4\)"):
        wrong = state._replace(link=state.link._replace(precedence=torch.zeros(2, 1, 5)))
        memory_step(torch.zeros(2, 23), wrong)


# A controller: its class, and one entry in CONTROLLERS.


class ReluController(LayeredController):
    """Layers of relu units; without a tape, the engine calls the module."""

    make_layer = nn.Linear

    def zero_state(self, batch_size):
        return ((),) * len(self.layers)

    def layer_step(self, layer, inputs, state):
        return self.clip(torch.relu(layer(inputs))), ()


def test_a_controller_trains(tmp_path, monkeypatch):
    monkeypatch.setitem(CONTROLLERS, "relu", ReluController)
    x, found = normal(4, 3), []
    for backend in ("reference", *BACKENDS):
        model = lively_dnc(controller="relu", num_layers=2, backend=backend)
        found.append(results(model, 0.1 * x))  # relu units do not saturate
    for other in found[1:]:
        assert_close(other, found[0], "float64")
    first, last = train_copy(tmp_path, "--controller", "relu")
    assert last < 0.9 * first


def test_a_tape_that_kernels_do_not_know_goes_step_by_step(monkeypatch):
    """Not by the kernel of another kind of layer."""
    tape = CONTROLLERS["gru"].tape
    unknown = type("UnknownTape", (tape,), {"kernel": None})
    monkeypatch.setattr(CONTROLLERS["gru"], "tape", unknown)
    x = normal(4, 3)
    expected = results(lively_dnc(controller="gru", backend="reference"), x)
    for backend in BACKENDS:
        assert_close(results(lively_dnc(controller="gru", backend=backend), x), expected, "float64")


# A backend: its class, and one line in REGISTRY.


class CountingBackend(Backend):
    """Plain torch, with one part of its own."""

    name = "counting"
    calls = 0

    def problem(self, device, dtype):
        if dtype != torch.float64:
            return ValueError(f'backend "counting" takes float64, got {dtype}')
        return super().problem(device, dtype)

    def look_up(self, *query, **options):
        CountingBackend.calls += 1
        return super().look_up(*query, **options)


def test_a_backend_trains(monkeypatch):
    monkeypatch.setitem(REGISTRY, "counting", Registered(CountingBackend))
    x = normal(4, 3)
    expected = results(lively_dnc(backend="eager"), x)
    before = CountingBackend.calls
    assert_close(results(lively_dnc(backend="counting"), x), expected, "equal")
    # Two look-ups a step forward and two backward.
    assert CountingBackend.calls - before == 4 * 4
    with pytest.raises(ValueError, match=r'"counting" takes float64, got torch\.float32'):
        DNC(3, 4, backend="counting")(torch.zeros(2, 1, 3))
    model = lively_dnc(backend="counting")
    optimizer, trained = torch.optim.Adam(model.parameters(), 0.02), []
    for _ in range(20):
        optimizer.zero_grad()
        loss = (model(x.unsqueeze(1))[0] - 0.5).square().mean()
        loss.backward()
        optimizer.step()
        trained.append(loss.item())
    assert trained[-1] < 0.5 * trained[0]
