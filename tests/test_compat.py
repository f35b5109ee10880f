"""`dnc_fast.compat`: the interface of pytorch-dnc, on the models of this package."""

from __future__ import annotations

import inspect
import io
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.utils.rnn import pack_sequence, pad_packed_sequence

import dnc_fast
from dnc_fast import compat, memory_step
from dnc_fast.compat.arguments import DNCArguments
from dnc_fast.state import map_tensors

MODELS = (compat.DNC, compat.SAM, compat.SDNC)
SIZES: dict[str, Any] = {"nr_cells": 7, "cell_size": 4, "read_heads": 2}
LAYERS: dict[str, dict[str, Any]] = {
    "one layer": {},
    "one memory": {"num_layers": 2},
    "two memories": {"num_layers": 2, "share_memory": False},
}
every_model = pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
every_stack = pytest.mark.parametrize("stack", LAYERS.values(), ids=LAYERS)

SCRIPT = """
import torch
import torch.nn.functional as F
from {package} import DNC

torch.manual_seed(7)
bits, length = 4, 3
sizes = dict(input_size=bits + 1, hidden_size=24, rnn_type="lstm", num_layers=1,
             num_hidden_layers=1, nr_cells=6, cell_size=6, read_heads=1,
             batch_first=True, gpu_id=-1)
rnn = DNC(**sizes)
optimizer = torch.optim.Adam(rnn.parameters(), lr=0.02)
losses = []
memory = None
for step in range(40):
    sequence = torch.randint(0, 2, (8, length, bits)).float()
    x = torch.zeros(8, 2 * length + 1, bits + 1)
    x[:, :length, :bits] = sequence
    x[:, length, bits] = 1
    target = torch.zeros_like(x)
    target[:, length + 1 :, :bits] = sequence

    optimizer.zero_grad()
    output, (controller_hidden, memory, read_vectors) = \\
        rnn(x, (None, memory, None), reset_experience=True, pass_through_memory=True)
    loss = F.binary_cross_entropy_with_logits(output, target)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(rnn.parameters(), 10)
    optimizer.step()
    losses.append(loss.item())
    memory = {{k: v.detach() if torch.is_tensor(v) else v for k, v in memory.items()}}

watched = DNC(debug=True, **sizes)
watched.load_state_dict(rnn.state_dict())
with torch.no_grad():
    (controller_hidden, memory, read_vectors) = (None, None, None)
    output, (controller_hidden, memory, read_vectors), debug_memory = \\
        watched(x, (controller_hidden, memory, read_vectors), reset_experience=True)
    output, (controller_hidden, memory, read_vectors), debug_memory = \\
        watched(x, (controller_hidden, memory, read_vectors), reset_experience=False)

deep = DNC(input_size=64, hidden_size=16, rnn_type="gru", num_layers=3, nr_cells=10, cell_size=8,
           read_heads=4, batch_first=True, gpu_id=-1, clip=20, independent_linears=True)
deep_output, (deep_hidden, deep_memory, deep_reads) = \\
    deep(torch.randn(10, 4, 64), (None, None, None), reset_experience=True)
"""


@pytest.mark.parametrize("package", ["dnc_fast.compat", "dnc"])
def test_a_script_runs_with_either_package(package):
    """A copy task, debug output and several layers, as in the README of `dnc`."""
    pytest.importorskip(package)
    names: dict[str, Any] = {}
    exec(SCRIPT.format(package=package), names)
    assert names["losses"][-1] < 0.75 * names["losses"][0]
    assert names["output"].shape == (8, 7, 5)
    (hidden,), memory = names["controller_hidden"], names["memory"]
    assert [part.shape for part in hidden] == [(1, 8, 24)] * 2
    shapes = {name: tuple(part.shape) for name, part in memory.items()}
    assert {**shapes, "read_vectors": 0} == {
        "memory": (8, 6, 6),
        "link_matrix": (8, 1, 6, 6),
        "precedence": (8, 1, 6),
        "read_weights": (8, 1, 6),
        "write_weights": (8, 1, 6),
        "usage_vector": (8, 6),
        "read_vectors": 0,  # ours only
    }
    assert names["read_vectors"].shape == (8, 6)
    debug = {name: part.shape for name, part in names["debug_memory"].items()}
    assert {**debug, "read_vectors": 0} == {
        "memory": (7, 36),
        "link_matrix": (7, 36),
        "precedence": (7, 6),
        "read_weights": (7, 6),
        "write_weights": (7, 6),
        "usage_vector": (7, 6),
        "read_vectors": 0,
    }
    assert names["deep_output"].shape == (10, 4, 64)
    assert [part.shape for part in names["deep_hidden"]] == [(2, 10, 16)] * 3
    assert names["deep_memory"]["memory"].shape == (10, 10, 8)
    assert names["deep_reads"].shape == (10, 32)


PAGE = Path(__file__).parent.parent / "docs/migration.md"
AFTER = re.findall(r"After:\n\n```python\n(.*?)```", PAGE.read_text(), re.S)


@pytest.mark.parametrize("code", AFTER, ids=["LSTM", "pytorch-dnc", "deepmind", "NTM"])
def test_the_new_code_of_the_page_runs(code):
    names: dict[str, Any] = {}
    exec(code, names)
    assert names["output"].isfinite().all()


@pytest.mark.parametrize("name", ["DNC", "SAM", "SDNC"])
def test_signatures_are_those_of_the_package(name):
    package = pytest.importorskip("dnc")

    def signature(function):
        return [(one.name, one.default) for one in inspect.signature(function).parameters.values()]

    theirs, ours = signature(getattr(package, name)), signature(getattr(compat, name))
    assert ours == [*theirs, ("share_memory_between_layers", None), ("device", None)]
    forward = signature(getattr(package, name).forward)
    assert forward[2] == ("hx", (None, None, None))
    forward[2] = ("hx", None)
    assert signature(getattr(compat, name).forward) == forward


def model(kind: Any = compat.DNC, input_size: int = 3, **options: Any) -> Any:
    return kind(input_size, 5, **{**SIZES, **options}).double()


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def close(one: Any, other: Any) -> None:
    torch.testing.assert_close(one, other, rtol=0, atol=1e-10)


def plain(layer: Any, **options: Any) -> dnc_fast.DNC:
    """The DNC of this package that a layer is."""
    config = layer.config
    twin = dnc_fast.DNC(
        config.input_size, config.hidden_size, num_layers=config.num_layers,
        num_cells=config.num_cells, cell_size=config.cell_size,
        num_read_heads=config.num_read_heads, output_size=config.output_size,
        batch_first=True, **options,
    ).double()  # fmt: skip
    twin.cell.load_state_dict(layer.state_dict())
    return twin


LINKAGE = {
    compat.DNC: {"linkage": "dense"},
    compat.SAM: {"linkage": "none", "read_topk": 2, "write_topk": 5},
    compat.SDNC: {
        "linkage": "sparse", "read_topk": 4, "write_topk": 7, "link_fan_out": 1,
        "link_threshold": 0.0,
    },
}  # fmt: skip
SPARSE = {compat.DNC: {}, compat.SAM: {"sparse_reads": 2}, compat.SDNC: {"sparse_reads": 2}}
SPARSE[compat.SDNC]["temporal_reads"] = 1


@every_model
def test_layers_with_memories_of_their_own_are_dncs_one_after_another(kind):
    ours = model(kind, num_layers=2, share_memory=False, **SPARSE[kind])
    x = inputs(2, 4, 3)
    output, (hidden, memory, read_vectors) = ours(x)
    expected = x
    for place, stage in enumerate(ours.stages):
        expected, state = plain(stage.layers[0], **LINKAGE[kind])(expected)
        close(memory[place]["memory"], state.memory.memory)
        close(memory[place]["read_weights"], state.memory.read_weights)
        close(memory[place]["read_vectors"], state.read_vectors)
        close(hidden[place], tuple(map(torch.stack, zip(*state.controller, strict=True))))
    close(output, expected)
    close(read_vectors, state.read_vectors.flatten(1))


def test_layers_of_one_memory_take_turns():
    ours = model(num_layers=3)
    x = inputs(2, 4, 3)
    output, (_, memory, read_vectors) = ours(x)
    cells = ours.stages[0].layers
    state = cells[0].zero_state(2)
    controllers, reads, memory_state = [state.controller] * 3, state.read_vectors, state.memory
    for t in range(4):
        seen = x[:, t]
        for place, cell in enumerate(cells):
            hidden, controllers[place] = cell.controller(
                torch.cat([seen, reads.flatten(1)], 1), controllers[place]
            )
            reads, memory_state = memory_step(
                cells[0].interface(hidden), memory_state, backend="reference"
            )
            seen = cell.output(torch.cat([hidden, reads.flatten(1)], 1))
        close(output[:, t], seen)
    close(memory["memory"], memory_state.memory)
    close(memory["link_matrix"], memory_state.link)
    close(read_vectors, reads.flatten(1))


@every_model
@every_stack
@pytest.mark.parametrize("rnn_type", ["LSTM", "gru", "rnn"])
def test_a_sequence_in_parts_is_the_whole(kind, stack, rnn_type):
    ours = model(kind, rnn_type=rnn_type, **stack)
    x = inputs(2, 6, 3)
    whole, (hidden, memory, reads) = ours(x)
    first, state = ours(x[:, :2])
    second, state = ours(x[:, 2:], state)
    close(torch.cat([first, second], 1), whole)
    close(state, (hidden, memory, reads))
    loss = second.square().sum() + state[2].sum()
    assert all(torch.any(one != 0) for one in torch.autograd.grad(loss, list(ours.parameters())))


@every_model
@every_stack
def test_batch_first_and_packed_sequences(kind, stack):
    ours = model(kind, **stack, debug=True)
    time_first = model(kind, **stack, batch_first=False)
    time_first.load_state_dict(ours.state_dict())
    x = inputs(3, 5, 3)
    output = ours(x)[0]
    close(time_first(x.transpose(0, 1))[0].transpose(0, 1), output)

    lengths = [2, 5, 3]
    sequences = [one[:length] for one, length in zip(x, lengths, strict=True)]
    packed, state, looks = ours(pack_sequence(sequences, enforce_sorted=False))
    padded, counts = pad_packed_sequence(packed, batch_first=True)
    assert counts.tolist() == lengths
    for place, one in enumerate(sequences):
        output, alone, alone_looks = ours(one.unsqueeze(0))
        close(padded[place, : len(one)], output[0])
        hidden = [[part[:, place] for part in layer] for layer in state[0]]
        close(hidden, [[part[:, 0] for part in layer] for layer in alone[0]])
        for many, single in zip(memories(state[1]), memories(alone[1]), strict=True):
            close(
                {key: part[place] for key, part in many.items()},
                {key: part[0] for key, part in single.items()},
            )
        close(state[2][place], alone[2][0])
        if place == 0:
            assert looks["memory"].shape[0] == lengths[0] * ours.num_layers
            close(looks, alone_looks)


def memories(memory: Any) -> list[dict[str, Tensor]]:
    return [memory] if isinstance(memory, dict) else memory


@every_model
@every_stack
def test_the_state_holds_plain_tensors(kind, stack):
    ours = model(kind, **stack)
    x = inputs(2, 3, 3)
    _, state = ours(x)
    assert [tuple(part.shape) for part in state[0][-1]] == [(2, 2, 5)] * 2  # hidden layers, B, H
    assert isinstance(state[1], list) == (stack.get("share_memory") is False)
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    expected, _ = ours(x, state)
    for other in (
        torch.load(buffer, weights_only=True),
        (state[0], memories(state[1]), state[2]),  # as in 2.0: a list of one
        map_tensors(Tensor.detach, state),
    ):
        close(ours(x, other)[0], expected)


@every_model
@every_stack
def test_what_of_a_state_is_kept(kind, stack):
    ours = model(kind, **stack)
    x = inputs(2, 3, 3)
    _, (hidden, memory, reads) = ours(x)
    expected, _ = ours(x, (hidden, None, reads))
    if not isinstance(memory, list):  # of several, each holds what was read from it
        close(ours(x, (hidden, memory, reads), reset_experience=True)[0], expected)
    close(ours(x, (None, memory, None), reset_experience=True)[0], ours(x)[0])
    close(ours(x, (None, None, None))[0], ours(x)[0])
    assert not torch.allclose(
        ours(x, (hidden, memory, None))[0], ours(x, (hidden, memory, reads))[0]
    )

    before = map_tensors(Tensor.clone, memory)
    output, (_, after, zeros) = ours(x, (hidden, memory, reads), pass_through_memory=False)
    assert not zeros.any() and not torch.allclose(output, expected)
    for one, same in zip(memories(after), memories(before), strict=True):
        close(one["memory"], same["memory"])
    close(memory, before)  # what the caller gave


@every_model
@every_stack
@torch.no_grad()
def test_debug_shows_each_layer_of_each_step(kind, stack):
    watched, ours = model(kind, **stack, debug=True), model(kind, **stack)
    ours.load_state_dict(watched.state_dict())
    x, rows = inputs(2, 3, 3), 3 * ours.num_layers
    output, state, looks = watched(x)
    close((output, state), ours(x))
    for from_end, memory in enumerate(reversed(memories(state[1])), 1):
        for key, part in memory.items():
            assert looks[key].shape == (rows, part[0].numel())
            close(looks[key][-from_end], part[0].flatten().numpy())
    assert abs(looks["memory"][0] - looks["memory"][-1]).max() > 1e-3
    _, state, looks = watched(x, state, pass_through_memory=False)
    for key, part in memories(state[1])[-1].items():
        assert looks[key].shape[0] == rows
        close(looks[key][-1], part[0].flatten().numpy())


@pytest.mark.parametrize(("kind", "kept", "written"), [(compat.SAM, 2, 5), (compat.SDNC, 4, 7)])
def test_sparse_models_read_and_write_few_cells(kind, kept, written):
    ours = model(kind, nr_cells=20, **SPARSE[kind], debug=True)
    _, (_, memory, _), looks = ours(inputs(2, 6, 3))
    assert (memory["read_weights"] != 0).sum(-1).max() == kept
    assert (memory["write_weights"] != 0).sum(-1).max() == written
    assert memory["memory"].any(-1).sum(-1).max() < 20
    assert looks["read_positions"].shape == (6, 2 * kept + 1)
    cells = torch.tensor(looks["read_positions"][-1])
    close(torch.tensor(looks["visible_memory"][-1]), memory["memory"][0, cells].flatten())
    assert set(memory["read_weights"][0].nonzero()[:, 1].tolist()) <= set(cells.tolist())
    assert looks["least_used_mem"][-1] == cells[-1] == memory["usage"][0].argmin()
    assert ("link_matrix" in memory) == (kind is compat.SDNC)
    if kind is compat.SDNC:
        assert memory["link_matrix"].shape == memory["link_positions"].shape == (2, 1, 20, 1)


def test_sparse_models_may_keep_more_entries_than_there_are_cells():
    for kind in (compat.SAM, compat.SDNC):
        output, (_, memory, _) = model(kind, nr_cells=2)(inputs(2, 3, 3))
        assert output.shape == (2, 3, 3) and memory["memory"].shape == (2, 2, 4)


@pytest.mark.parametrize("options", [{"rnn_type": "rnn", "nonlinearity": "relu"}, {}])
def test_controllers_are_clipped(options):
    free, clipped = (model(clip=clip, num_hidden_layers=1, **options) for clip in (0, 0.01))
    (cell,), (clipped_cell,) = free.stages[0].layers, clipped.stages[0].layers
    x, zeros = inputs(2, 11), cell.zero_state(2).controller
    expected, state = cell.controller(x, zeros)
    clipped_cell.controller.unclipped.load_state_dict(
        getattr(cell.controller, "unclipped", cell.controller).state_dict()
    )
    found, clipped_state = clipped_cell.controller(x, zeros)
    assert expected.abs().max() > 0.01
    close(found, expected.clamp(-0.01, 0.01))
    close(clipped_state, state)
    if options:
        layer = cell.controller.unclipped.layers[0]
        weights = layer.weight_ih, layer.bias_ih + layer.bias_hh
        close(expected, torch.relu(torch.nn.functional.linear(x, *weights)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bidirectional": True}, r"bidirectional must be False, got True.*dnc_fast.DNC\("),
        ({"bidirectional": 16}, "bidirectional must be False, got 16.*nr_cells .* by name"),
        ({"rnn_type": "cnn"}, "rnn_type must be one of .*'lstm'.* got 'cnn'"),
        ({"nonlinearity": "gelu"}, "nonlinearity must be one of .* got 'gelu'"),
        ({"nr_cells": 0}, "nr_cells must be at least 1, got 0"),
        ({"num_hidden_layers": 1.5}, "num_hidden_layers must be an integer, got 1.5"),
        ({"clip": -1}, "clip must be finite, at least 0, got -1"),
        ({"share_memory": 1}, "share_memory must be True or False, got 1"),
        ({"gpu_id": -2}, "gpu_id must be at least -1, got -2"),
        ({"gpu_id": 99}, "gpu_id must be -1 for the CPU, or below .* CUDA devices, got 99"),
        ({"nr_cell": 3}, "there is no option 'nr_cell'; did you mean 'nr_cells'?"),
        ({"sparse_reads": 3}, "there is no option 'sparse_reads'"),
    ],
)
def test_refused_arguments(options, message):
    with pytest.raises((TypeError, ValueError), match=message):
        compat.DNC(3, 5, **options)


@pytest.mark.parametrize(("kind", "name"), [(compat.SAM, "sparse"), (compat.SDNC, "temporal")])
def test_refused_sparse_sizes(kind, name):
    with pytest.raises(ValueError, match=f"{name}_reads must be at least 1, got 0"):
        kind(3, 5, **{f"{name}_reads": 0})


def test_idle_arguments_cause_a_warning():
    with pytest.warns(UserWarning, match="dropout acts between .* num_hidden_layers=1") as seen:
        compat.DNC(3, 5, dropout=0.5, num_hidden_layers=1)
    assert seen[0].filename == __file__
    with pytest.warns(UserWarning, match="nonlinearity is an argument of rnn_type") as seen:
        compat.SAM(3, 5, nonlinearity="relu", **SIZES)
    assert seen[0].filename == __file__


def test_names_of_the_newer_version(monkeypatch):
    for shared, memories in ((True, 1), (False, 2)):
        newer = model(num_layers=2, share_memory_between_layers=shared, device="cpu")
        output, (_, memory, _) = newer(inputs(1, 2, 3))
        assert isinstance(memory, list) and len(memory) == memories
        assert not torch.allclose(newer(output, (None, memory, None))[0], newer(output)[0])
    assert compat.DNC(3, 5, device="meta").stages[0].layers[0].like.device.type == "meta"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert DNCArguments(3, 5, gpu_id=1).parameter_device == torch.device("cuda:1")
    assert DNCArguments(3, 5, rnn_type="RNN", nonlinearity="relu", gpu_id=1).layers()
    with pytest.raises(ValueError, match="gpu_id must be -1 where device is given"):
        compat.DNC(3, 5, gpu_id=1, device="cpu")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda hidden, memory, reads: (hidden, memory), r"hx must be \(controller_hidden"),
        (lambda hidden, memory, reads: (hidden * 2, memory, reads), "list of 1.* got a list of 2"),
        (lambda hidden, memory, reads: ([hidden[0][0]], memory, reads), r"hold \(h, c\), each"),
        (lambda hidden, memory, reads: (hidden, reads, None), "memory must be a list of 1"),
        (lambda hidden, memory, reads: (hidden, [reads], None), "memory must hold dicts"),
        (lambda hidden, memory, reads: (hidden, {"memory": reads}, None), "but lacks .*'usage'"),
        (lambda hidden, memory, reads: (hidden, memory, reads[:1]), r"read_vectors .* \(2, 8\)"),
        (
            lambda hidden, memory, reads: (hidden, {**memory, "memory": reads}, reads),
            r"state.memory must have shape \(B, N, W\)",
        ),
    ],
)
def test_refused_states(change, message):
    ours = model()
    x = inputs(2, 3, 3)
    with pytest.raises((TypeError, ValueError), match=message):
        ours(x, change(*ours(x)[1]))


def test_refused_inputs():
    with pytest.raises(ValueError, match=r"input must have a batch axis.* \(4, 3\)"):
        model()(inputs(4, 3))
    with pytest.raises(ValueError, match="debug=True at least one sequence"):
        model(debug=True)(inputs(0, 4, 3))
    assert model()(inputs(0, 4, 3))[0].shape == (0, 4, 3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_model
@every_stack
def test_gpu_id_is_a_device(kind, stack):
    cpu, gpu = model(kind, **stack, debug=True), model(kind, **stack, debug=True, gpu_id=0)
    gpu.load_state_dict(cpu.state_dict())
    x = inputs(2, 3, 3)
    output, state, looks = gpu(x.cuda())
    expected, expected_state, expected_looks = cpu(x)
    close(output.cpu(), expected)
    close(map_tensors(Tensor.cpu, state), expected_state)
    close(looks, expected_looks)
    quiet = model(kind, **stack, gpu_id=0)
    quiet.load_state_dict(cpu.state_dict())
    close(quiet(x.cuda())[0].cpu(), expected)
