"""The models that a DNC is compared with: maths against plain second versions, state, learning."""

import math

import numpy as np
import plain_baselines as plain
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_sequence

from dnc_fast.baselines import (
    BASELINES,
    LSTM,
    NTM,
    ActorCritic,
    AnswersLast,
    BaselineState,
    DeltaNet,
    StoryModel,
    Transformer,
    dntm,
)
from dnc_fast.baselines.deltanet import delta_rule
from dnc_fast.baselines.ntm import Addressing, address, write
from dnc_fast.baselines.transformer import positions
from dnc_fast.state import tensors
from dnc_fast.tasks import CopyTask

X, Y, B, T = 3, 5, 4, 7
SMALL = {"hidden_size": 8, "dtype": torch.float64}
HEADS = {"num_cells": 5, "cell_size": 3, "num_read_heads": 2}
WRITERS = {**HEADS, "num_write_heads": 2}
CELLS = {"ntm": WRITERS, "dntm": {**WRITERS, "address_size": 2}, "actor-critic": HEADS}

SPECIAL = (AnswersLast, StoryModel)  # test_seq2seq.py and test_story_models.py have these
ANY_INPUT = [name for name, kind in BASELINES.items() if not issubclass(kind, SPECIAL)]

every_baseline = pytest.mark.parametrize("name", ANY_INPUT)


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def model_of(name, **options):
    """A small model in float64, with weights large enough for its state to matter."""
    model = BASELINES[name](X, Y, **SMALL, **CELLS.get(name, {}), **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(2)
    return model


@every_baseline
def test_forms_of_input(name):
    model, x = model_of(name), normal(T, B, X)
    output, state = model(x)
    assert output.shape == (T, B, Y)
    assert all(part.shape[0] == B for part in state.parts.values())
    alone, its_state = model(x[:, 1])
    torch.testing.assert_close(alone, output[:, 1])
    more, _ = model(x[:2, 1], its_state)
    first = BASELINES[name].from_config(type(model.config)(**vars(model.config)))
    assert [p.shape for p in first.parameters()] == [p.shape for p in model.parameters()]
    torch.testing.assert_close(more, model(x[:2], state)[0][:, 1])
    turned = model_of(name, batch_first=True)
    turned.load_state_dict(model.state_dict())
    torch.testing.assert_close(turned(x.transpose(0, 1))[0].transpose(0, 1), output)
    assert model(x[:, :0])[0].shape == (T, 0, Y)


@every_baseline
def test_a_cut_sequence_goes_on_from_its_state(name):
    model, x = model_of(name), normal(T, B, X)
    whole, final = model(x)
    first, state = model(x[:3])
    second, end = model(x[3:], state)
    torch.testing.assert_close(torch.cat([first, second]), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(end.parts, final.parts, rtol=1e-12, atol=1e-12)
    forgetful, _ = model(x[3:])
    assert (forgetful - whole[3:]).abs().max() > 1e-3, "the state matters"


@every_baseline
def test_rows_that_are_reset_begin_anew_and_others_go_on(name):
    model, x = model_of(name), normal(T, B, X)
    _, state = model(x)
    mask = torch.tensor([True, False, True, False])
    output, after = model(x, state.reset_rows(mask))
    fresh, going_on = model(x)[0], model(x, state)[0]
    torch.testing.assert_close(output[:, mask], fresh[:, mask])
    torch.testing.assert_close(output[:, ~mask], going_on[:, ~mask])
    again, _ = model(x, after)
    torch.testing.assert_close(again[:, mask], model(x, model(x)[1])[0][:, mask])
    with pytest.raises(ValueError, match=r"mask must be a bool tensor of shape \(4,\)"):
        state.reset_rows(mask[:2])


@every_baseline
def test_no_output_depends_on_later_inputs(name):
    model, x = model_of(name), normal(T, B, X)
    changed = torch.cat([x[:4], normal(T - 4, B, X)])
    before, after = model(x)[0], model(changed)[0]
    torch.testing.assert_close(after[:4], before[:4], rtol=0, atol=0)
    assert (after[4:] - before[4:]).abs().amax((1, 2)).min() > 1e-3


@every_baseline
def test_gradients_reach_every_parameter_and_the_state(name):
    model, x = model_of(name), normal(T, B, X)
    state = model(x)[1].detach()
    for part in state.parts.values():
        part.requires_grad_()
    output, _ = model(x, state)
    output.square().sum().backward()
    for label, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, label
    for label, part in state.parts.items():
        if label != "seen":
            assert part.grad.abs().sum() > 0, label


@every_baseline
def test_what_is_wrong_is_named(name):
    model = model_of(name)
    with pytest.raises(ValueError, match=r"input must have shape \(T, B, X\).*X=3.*got \(7, 4, 2"):
        model(normal(T, B, 2))
    with pytest.raises(TypeError, match="must be a tensor, got a PackedSequence; pad it"):
        model(pack_sequence([normal(3, X), normal(2, X)]))
    with pytest.raises(TypeError, match="state must be a BaselineState with the parts"):
        model(normal(T, B, X), BaselineState({"other": normal(B, 3)}))
    with pytest.raises(ValueError, match=r"state must have 4 sequences.*got \[2\]"):
        model(normal(T, B, X), model.zero_state(2))
    with pytest.raises(ValueError, match="hidden_size must be at least 1, got 0"):
        BASELINES[name](X, Y, hidden_size=0)
    with pytest.raises(TypeError, match="there is no option 'hiden_size'; did you mean"):
        BASELINES[name](X, Y, hiden_size=3)
    if name not in CELLS:
        with pytest.raises(ValueError, match="num_cells must be None for a"):
            model.zero_state(2, num_cells=3)


def test_sizes_of_heads_are_checked():
    with pytest.raises(ValueError, match="hidden_size must be a multiple of 6 for these heads"):
        Transformer(X, Y, hidden_size=9, num_heads=3)
    with pytest.raises(ValueError, match="hidden_size must be a multiple of 3 for these heads"):
        DeltaNet(X, Y, hidden_size=8, num_heads=3)


@pytest.mark.parametrize("controller", ["lstm", "gru", "feedforward"])
def test_an_actor_critic_is_two_dncs(controller):
    model, x = model_of("actor-critic", controller=controller), normal(T, B, X)
    output, state = model(x)
    policy, its_state = model.policy(x)
    value, _ = model.value(x)
    torch.testing.assert_close(output, torch.cat([policy, value], -1))
    units = tensors(its_state.controller[-1]) if its_state.controller else ()
    torch.testing.assert_close(model.units(state), tuple(units))
    with pytest.raises(ValueError, match=r"output_size must be at least 2, .* got 1"):
        ActorCritic(X, 1)


def test_a_state_is_saved_and_loaded(tmp_path):
    _, state = model_of("lstm")(normal(T, B, X))
    torch.save(state, tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt")
    torch.testing.assert_close(loaded.parts, state.parts)
    assert loaded.to(torch.float32).parts["cell"].dtype == torch.float32
    torch.testing.assert_close(loaded.slice_batch(slice(1, 3)).parts["cell"].shape[0], 2)


# NTM


@pytest.mark.parametrize(("name", "part"), [("ntm", "memory"), ("dntm", "content")])
def test_memories_equal_scalar_loops(name, part):
    model, x = model_of(name), normal(6, 2, X)
    output, state = model(x)
    for row in range(2):
        expected, memory = getattr(plain, name)(model, x[:, row].numpy())
        np.testing.assert_allclose(output[:, row].detach(), expected, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(state.parts[part][row].detach(), memory, rtol=1e-10)


def test_ntm_addresses_by_content_and_by_shift():
    memory = torch.eye(5, dtype=torch.float64).unsqueeze(0)
    last = torch.tensor([[[0.0, 0, 0, 0, 1]]], dtype=torch.float64)

    def said(gate, shift):
        number = torch.ones(1, 1, 1, dtype=torch.float64)
        shares = torch.tensor([[shift]], dtype=torch.float64)
        return Addressing(memory[:, 2:3], 50 * number, gate * number, shares, 20 * number)

    assert address(said(1.0, [0.0, 1.0, 0.0]), memory, last).argmax() == 2
    assert address(said(1.0, [1.0, 0.0, 0.0]), memory, last).argmax() == 1
    assert address(said(0.0, [0.0, 0.0, 1.0]), memory, last).argmax() == 0, "cells are in a ring"


def test_ntm_gradients():
    sizes = [(2, 2, 3), (2, 2, 1), (2, 2, 1), (2, 2, 3), (2, 2, 1)]
    said = [normal(*size).sigmoid().requires_grad_() for size in sizes]
    memory, last = normal(2, 4, 3).requires_grad_(), normal(2, 2, 4).softmax(-1).requires_grad_()
    torch.autograd.gradcheck(lambda *parts: address(Addressing(*parts[:5]), *parts[5:]),
                             (*said, memory, last))  # fmt: skip
    vectors = [normal(2, 2, 3).sigmoid().requires_grad_() for _ in range(2)]
    torch.autograd.gradcheck(write, (memory, last, *vectors))


def test_ntm_runs_with_another_number_of_cells():
    model = model_of("ntm")
    output, state = model(normal(T, B, X), model.zero_state(B, num_cells=9))
    assert state.parts["memory"].shape == (B, 9, 3) and output.shape == (T, B, Y)


# Dynamic NTM


def test_dntm_finds_cells_by_address_and_turns_from_those_it_looked_at():
    memory = torch.eye(4, dtype=torch.float64).unsqueeze(0)  # as addresses; contents are empty
    key, nothing = 9 * memory[:, 2:3], torch.zeros(1, 1, 4, dtype=torch.float64)

    def said(turn):
        return torch.cat([key, torch.tensor([[[20.0, turn]]], dtype=torch.float64)], -1)

    weights, average = dntm.address(said(-20.0), memory, nothing)
    assert weights[0, 0, 2] > 0.99 and average[0, 0].argmax() == 2
    assert dntm.address(said(-20.0), memory, average)[0][0, 0, 2] > 0.99, "it may stay"
    turned = dntm.address(said(20.0), memory, 3 * average)[0]
    assert turned[0, 0, 2] < 0.01, "or turn to what it has not looked at"


def test_dntm_reads_and_writes_nothing_where_the_last_cell_is_chosen():
    model, x = model_of("dntm"), normal(T, B, X)
    with torch.no_grad():
        model.addresses.zero_()
        model.addresses[-1] = 1.0
        for heads in (model.read_heads, model.write_heads):
            heads.weight.zero_()
            said = heads.bias.unflatten(0, (2, -1))
            said[:, :2], said[:, 2:5], said[:, 5], said[:, 6] = 1.0, 0.0, 99.0, -99.0
        state = model.zero_state(B)
        state.parts["content"].fill_(0.5)
        after = model(x, state)[1]
    torch.testing.assert_close(after.parts["content"], state.parts["content"])


def test_dntm_gradients():
    said, memory = normal(2, 2, 7).requires_grad_(), normal(2, 4, 5).requires_grad_()
    torch.autograd.gradcheck(dntm.address, (said, memory, normal(2, 2, 4).requires_grad_()))
    model = model_of("dntm")
    names, parameters = zip(*model.named_parameters(), strict=True)
    state = model(normal(3, 2, X))[1].detach().parts

    def outputs(x, *values):
        given = dict(zip(names, values[: len(names)], strict=True))
        parts = dict(zip(state, values[len(names) :], strict=True))
        return torch.func.functional_call(model, given, (x, BaselineState(parts)))[0]

    parts = [part.requires_grad_() for part in state.values()]
    torch.autograd.gradcheck(outputs, (normal(2, 2, X), *parameters, *parts), fast_mode=True)


def test_dntm_has_as_many_cells_as_addresses():
    model = model_of("dntm")
    assert model.zero_state(2, num_cells=5).parts["content"].shape == (2, 5, 3)
    with pytest.raises(ValueError, match=r"num_cells must be None or 5 for this DNTM.* got 9"):
        model.zero_state(2, num_cells=9)


# DeltaNet


def test_delta_rule_equals_products_of_matrices():
    query, key, value = normal(6, 2, 2, 3), normal(6, 2, 2, 3), normal(6, 2, 2, 3)
    keep, strength = normal(6, 2, 2).sigmoid(), normal(6, 2, 2).sigmoid()
    reads, memory = delta_rule(query, key, value, keep, strength, torch.zeros(2, 2, 3, 3).double())
    for row in range(2):
        for head in range(2):
            parts = [part[:, row, head].numpy() for part in (query, key, value, keep, strength)]
            expected = plain.delta_rule(*parts)
            np.testing.assert_allclose(reads[:, row, head], expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close((query[-1].unsqueeze(-2) @ memory).squeeze(-2), reads[-1])


def test_delta_rule_replaces_what_a_key_held():
    one, full = torch.eye(3).expand(1, 1, 3, 3)[..., :1].mT, torch.ones(2, 1, 1)
    key, value = one.expand(2, 1, 1, 3), torch.tensor([[4.0, 5.0, 6.0], [7.0, 8.0, 9.0]])
    reads, _ = delta_rule(key, key, value.view(2, 1, 1, 3), full, full, torch.zeros(1, 1, 3, 3))
    torch.testing.assert_close(reads.view(2, 3), value)


def test_delta_rule_gradients():
    parts = [normal(3, 1, 2, 2).requires_grad_() for _ in range(3)]
    gates = [normal(3, 1, 2).sigmoid().requires_grad_() for _ in range(2)]
    torch.autograd.gradcheck(delta_rule, (*parts, *gates, normal(1, 2, 2, 2).requires_grad_()))


# Transformer


def test_transformer_equals_attention_written_out():
    model, x = model_of("transformer", num_layers=1, num_heads=2), normal(T, 1, X)
    layer, size = model.layers.layers[0], 4

    def array(tensor):
        return tensor.detach().numpy()

    hidden = model.input(x[:, 0]) + positions(torch.arange(T), 8).double()
    query, key, value = (
        array(part) for part in (layer.norm1(hidden) @ layer.self_attn.in_proj_weight.T
                                 + layer.self_attn.in_proj_bias).chunk(3, -1)
    )  # fmt: skip
    heads = [slice(0, size), slice(size, 2 * size)]
    read = np.concatenate([plain.attention(query[:, h], key[:, h], value[:, h]) for h in heads], 1)
    hidden = hidden + layer.self_attn.out_proj(torch.from_numpy(read))
    hidden = hidden + layer.linear2(nn.functional.gelu(layer.linear1(layer.norm2(hidden))))
    expected = model.output(model.layers.norm(hidden))
    for training in (True, False):  # torch has another path without gradients
        with torch.set_grad_enabled(training):
            output, _ = model.train(training)(x)
        torch.testing.assert_close(output[:, 0], expected, rtol=1e-8, atol=1e-8)


def test_positions_are_sines_and_cosines():
    found = positions(torch.tensor([0, 3]), 4)
    wanted = [[0, 0, 1, 1], [math.sin(3), math.sin(0.03), math.cos(3), math.cos(0.03)]]
    torch.testing.assert_close(found, torch.tensor(wanted, dtype=torch.float32))


# Learning


@every_baseline
def test_it_learns_to_copy_two_vectors(name):
    task = CopyTask(1, 2, num_bits=2)
    sizes = {"num_cells": 6, "cell_size": 6} if name in ("ntm", "dntm") else {}
    model = BASELINES[name](task.input_size, task.output_size, hidden_size=32, **sizes)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    generator, losses = torch.Generator().manual_seed(1), []
    for _ in range(150):
        batch = task.batch(16, generator)
        optimizer.zero_grad()
        loss = task.loss(model(batch.inputs)[0], batch)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[:5]) > 5 * 0.5
    assert sum(losses[-5:]) < 5 * 0.1, f"guessing has {math.log(2):.2f}, got {losses[-5:]}"


def test_dropout_acts_between_layers_in_training_alone():
    model, x = LSTM(X, Y, num_layers=2, dropout=0.5, **SMALL), normal(T, B, X)
    assert not torch.equal(model(x)[0], model(x)[0])
    model.eval()
    torch.testing.assert_close(model(x)[0], model(x)[0], rtol=0, atol=0)
    assert NTM(X, Y, **SMALL).config.num_cells == 64
