"""Graphs of a DNC by torch.compile, torch.export, torch.onnx and torch.jit: docs/export.md."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from states import (
    HAS_NUMBA,
    assert_close,
    every_backend,
    lively_dnc,
    lively_state,
    lively_states,
    needs_numba,
    normal,
    outcome,
    parameters,
    python,
    random_interfaces,
    require_grad,
    separated_state,
    with_link,
)
from test_engine import Own
from torch import Tensor, nn
from torch.export import Dim

from dnc_fast import DNC, MemoryState, memory_step
from dnc_fast.linkages import LINKAGES
from dnc_fast.linkages.selection import largest_cells
from dnc_fast.portable import cumulative_product, stable_order
from dnc_fast.state import MemorySizes, map_tensors, tensors

PAGE = Path(__file__).parents[1] / "docs/export.md"
OLD = torch.__version__ < "2.8"
NOT_SAVED = "torch 2.6 cannot save plain torch with an open batch"
T, B = 4, 2
X = normal(T, B, 3)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # torch's own
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

every_linkage = pytest.mark.parametrize("linkage", LINKAGES)


def in_full(first: str, *others: str) -> list[Any]:
    """Parameters: the first is always tested, the others by `pytest -m full`."""
    return [first, *(pytest.param(one, marks=pytest.mark.full) for one in others)]


@pytest.fixture(autouse=True)
def _nothing_is_compiled() -> None:
    torch._dynamo.reset()


def operations(graph: torch.fx.GraphModule) -> list[str]:
    """The names of our own operations in a graph."""
    targets = [str(node.target) for node in graph.graph.nodes if node.op == "call_function"]
    return re.findall(r"\bdnc_fast(?:\.|::)(\w+)", " ".join(targets))


class Graphs(list[torch.fx.GraphModule]):
    """A backend of torch.compile that keeps the graphs."""

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.append(graph)
        return graph.forward


# torch.compile


def results(call: Any, module: Any, x: Tensor, state: Any) -> dict[str, Tensor]:
    """Outputs, final state and every gradient."""
    x, state = require_grad((x, state))
    output, final = call(x, state)
    leaves = {**parameters(module), "input": x, "state": state}
    return outcome({"output": output, "final": final}, leaves)


def assert_compiles(model: DNC, *inputs: Tensor, by: Any = "aot_eager", step: bool = False) -> None:
    """Outputs, gradients and inference of one graph, called with each input in turn."""
    module = model.cell if step else model
    compiled = torch.compile(module, fullgraph=True, backend=by)
    for x in inputs:
        batch_size = x.shape[0 if step or model.config.batch_first else 1]
        state = lively_states(model, batch_size)
        found, expected = (results(call, module, x, state) for call in (compiled, module))
        assert_close(found, expected, "float64")
        with torch.no_grad():
            assert_close(compiled(x), module(x), "float64")


@every_linkage
def test_sequences_compile_to_one_operation(linkage: str) -> None:
    model, graphs = lively_dnc(backend="eager", linkage=linkage), Graphs()
    assert_compiles(model, X, normal(5, 3, 3), by=graphs)
    assert {tuple(operations(graph)) for graph in graphs} == {("sequences",)}


@pytest.mark.parametrize("backend", in_full("cpu" if HAS_NUMBA else "eager", "eager"))
@pytest.mark.parametrize("linkage", in_full("sparse", "dense", "separable", "none"))
def test_sequences_compile_through_aot_autograd(backend: str, linkage: str) -> None:
    """Which all compilers use: it wants functions that share no memory with anything."""
    assert_compiles(lively_dnc(backend=backend, linkage=linkage), X, normal(5, 3, 3))


@pytest.mark.full
@pytest.mark.parametrize("backend", ["reference", "cpu"])
@every_linkage
def test_sequences_compile_by_inductor(backend: str, linkage: str) -> None:
    assert_compiles(lively_dnc(backend=backend, linkage=linkage), X[:2], by="inductor")


def test_auto_compiles_sequences_to_the_fastest_and_a_step_to_the_reference() -> None:
    model = lively_dnc(linkage="none")
    for module, x, expected in ((model, X, ["sequences"]), (model.cell, X[0], [])):
        graphs = Graphs()
        found = torch.compile(module, fullgraph=True, backend=graphs)(x)
        assert_close(found, module(x), "float64")
        assert operations(graphs[0]) == expected


@pytest.mark.skipif(OLD, reason="torch 2.6 takes options of a model for sizes that may change")
def test_any_length_and_batch_take_one_graph() -> None:
    model, graphs = lively_dnc(backend="eager"), Graphs()
    compiled = torch.compile(model, fullgraph=True, backend=graphs, dynamic=True)
    for steps, batch_size in ((4, 2), (3, 5), (9, 3)):
        x = normal(steps, batch_size, 3)
        assert_close(compiled(x), model(x), "float64")
    assert len(graphs) == 1


@every_backend
@pytest.mark.parametrize("linkage", in_full("sparse", "dense", "separable", "none"))
def test_a_step_compiles(backend: str, linkage: str) -> None:
    model, graphs = lively_dnc(backend=backend, linkage=linkage), Graphs()
    assert_compiles(model, X[0], normal(5, 3), by=graphs, step=True)
    assert {tuple(operations(graph)) for graph in graphs} == {("step",)}


@pytest.mark.parametrize("linkage", in_full("none", "dense", "sparse", "separable"))
def test_the_reference_compiles_step_by_step(linkage: str) -> None:
    model, graphs = lively_dnc(backend="reference", linkage=linkage), Graphs()
    assert_compiles(model, X[:2], X[:1], by=graphs)
    assert not any(map(operations, graphs))


def test_triton_compiles() -> None:
    pytest.importorskip("triton", minversion="3.6")
    options = {"num_cells": 2, "cell_size": 1, "num_read_heads": 1}
    model, graphs = lively_dnc(backend="triton", **options), Graphs()
    if torch.cuda.is_available():
        model = model.cuda()
    x = X[:1].to(model.cell.like.device)
    found, _ = torch.compile(model, fullgraph=True, backend=graphs)(x)
    assert_close(found, model(x)[0], "float64")
    assert operations(graphs[0]) == ["sequences"]


@pytest.mark.parametrize(
    "options",
    [
        {"bidirectional": True, "batch_first": True},
        {"num_layers": 2, "activation_clip": 0.01, "controller": "gru"},
        {"controller": "feedforward", "bias": False, "checkpoint_interval": 2},
        {"write_topk": 2, "read_topk": 2, "linkage": "sparse", "link_threshold": 0.01},
        {"num_write_heads": 2, "usage_order": "robust", "checkpoint_dtype": torch.float32},
        {"similarity": "euclidean", "allocation": "softmax", "allocation_temperature": 0.3},
        {"masked_lookup": True, "mask_floor": 0.2, "deallocate": True, "link_sharpness": True},
        {"interface_norm": True, "controller": "layer_norm_lstm", "bias": False},
        {"bidirectional_controller": True, "interface_norm": True},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options_reach_the_operation(options: dict[str, Any]) -> None:
    assert_compiles(lively_dnc(backend="eager", **options), X, by="eager")


def test_what_draws_or_is_not_ours_runs_step_by_step() -> None:
    dropping = lively_dnc(backend="eager", num_layers=2, dropout=0.5)
    own = DNC(3, 4, controller=Own, num_cells=5, cell_size=3, backend="eager", dtype=torch.float64)
    for model in (dropping, own):
        graphs = Graphs()
        output, _ = torch.compile(model, fullgraph=True, backend=graphs)(X)
        assert output.shape == (T, B, 4) and operations(graphs[0]) == ["step"] * T
    assert_close(output, own(X)[0], "float64")
    graphs = Graphs()
    torch.compiler.reset()  # torch 2.6 fails to compile a model again that has changed its mode
    torch.compile(dropping.eval(), fullgraph=True, backend=graphs)(X)
    assert operations(graphs[0]) == ["sequences"]


@pytest.mark.parametrize("autocast", [True, False])
def test_half_precision(autocast: bool) -> None:
    half = torch.bfloat16
    model = lively_dnc(backend="eager").to(torch.float32 if autocast else half)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.autocast("cpu", half) if autocast else nullcontext():
        x = X.to(model.cell.like.dtype)
        found, expected = (results(call, model, x, None) for call in (compiled, model))
    assert_close(found, expected, "equal")


def test_a_second_backward_pass_repeats_the_forward_pass() -> None:
    model = lively_dnc(backend="eager")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    total, leaves = compiled(X)[0].square().sum(), [*model.parameters()]
    first = torch.autograd.grad(total, leaves, retain_graph=True)
    assert_close(torch.autograd.grad(total, leaves, retain_graph=True), first, "equal")
    with pytest.raises(RuntimeError, match=r'differentiated again.*backend="reference"'):
        torch.autograd.grad(total, leaves, create_graph=True)[0].sum().backward()


@pytest.mark.parametrize("by", ["eager", "aot_eager"])
def test_a_training_step_runs_forward_once(engine_runs: Any, by: str) -> None:
    """The operation holds from forward to backward what the engine keeps."""
    compiled = torch.compile(lively_dnc(backend="eager"), fullgraph=True, backend=by)
    compiled(X)[0].sum().backward()
    assert [one.layout.keep for one in engine_runs] == [True]


def test_packed_sequences_break_the_graph() -> None:
    model = lively_dnc(backend="eager")
    packed = nn.utils.rnn.pack_sequence([X[:4, 0], X[:2, 1]])
    output, _ = torch.compile(model, backend="eager")(packed)
    assert_close(output.data, model(packed)[0].data, "float64")


@pytest.mark.parametrize("name", ["sequences", "step"])
def test_operations_pass_opcheck(name: str) -> None:
    model, kept = lively_dnc(backend="eager", num_cells=2), []

    def keep(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        class Kept(torch.fx.Interpreter):
            def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
                if operations(graph) == [name] and "dnc_fast" in str(target):
                    kept.append(args)
                return super().call_function(target, args, kwargs)

        return lambda *given: Kept(graph).run(*given)

    step = name == "step"
    torch.compile(model.cell if step else model, backend=keep)(X[0] if step else X[:2])
    given, text, _ = kept[0]
    given = [one.detach().requires_grad_() for one in given]
    torch.library.opcheck(getattr(torch.ops.dnc_fast, name), (given, text, False))


# torch.export


def dims(**places: int) -> Any:
    """Which sizes of an input (T, B, X) may change. (Torch 2.6 needs a bound.)"""
    return ({place: Dim(name, max=512) for name, place in places.items()},)


def round_trip(program: torch.export.ExportedProgram) -> Any:
    """Saved and loaded."""
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    return torch.export.load(file).module()


@every_backend
@every_linkage
def test_any_number_of_sequences_of_any_length_is_exported(backend: str, linkage: str) -> None:
    model = lively_dnc(backend=backend, linkage=linkage)
    program = torch.export.export(model, (X,), dynamic_shapes=dims(T=0, B=1), strict=False)
    assert operations(program.graph_module) == ["sequences"]
    loaded = round_trip(program)
    for x in (X, normal(7, 3, 3)):
        assert_close(loaded(x), model(x), "float64")
    with pytest.raises(ValueError, match="at least one sequence, got B=0"):
        loaded(X[:, :0])


def test_a_state_can_be_an_input() -> None:
    model = lively_dnc(backend="eager", linkage="sparse")
    state, batch = lively_state(model, B), Dim("B", max=512)
    shapes = {"input": {1: batch}, "state": map_tensors(lambda tensor: {0: batch}, state)}
    program = torch.export.export(model, (X, state), dynamic_shapes=shapes, strict=False)
    given = normal(T, 3, 3), lively_state(model, 3, seed=1)
    assert_close(round_trip(program)(*given), model(*given), "float64")


@pytest.mark.skipif(OLD, reason=NOT_SAVED)
@pytest.mark.parametrize("linkage", in_full("dense", "sparse", "separable", "none"))
def test_auto_exports_plain_torch(linkage: str) -> None:
    model, x = lively_dnc(linkage=linkage), normal(2, 3, 3)
    program = torch.export.export(model, (X[:2],), dynamic_shapes=dims(B=1), strict=False)
    assert not operations(program.graph_module)
    assert_close(round_trip(program)(x), model(x), "float64")


needs_scan = pytest.mark.skipif(OLD, reason="torch has no scan for it")


@needs_scan
@pytest.mark.parametrize("linkage", in_full("none", "dense", "sparse"))
def test_any_number_of_steps_is_exported_as_a_scan(linkage: str) -> None:
    model = lively_dnc(linkage=linkage)
    program = torch.export.export(model, (X,), dynamic_shapes=dims(T=0, B=1), strict=False)
    assert "higher_order.scan" in program.graph_module.print_readable(print_output=False)
    x = normal(7, 3, 3)
    assert_close(round_trip(program)(x), model(x), "float64")


def test_a_state_that_grows_cannot_be_scanned() -> None:
    model = lively_dnc(linkage="separable")
    with pytest.raises(ValueError, match=r"got 'separable'; export a fixed number of steps, or"):
        torch.export.export(model, (X,), dynamic_shapes=dims(T=0), strict=False)


@pytest.mark.parametrize("backend", ["auto", "eager", pytest.param("cpu", marks=needs_numba)])
@pytest.mark.parametrize("linkage", in_full("sparse", "dense", "separable", "none"))
def test_a_step_is_exported(backend: str, linkage: str) -> None:
    model = lively_dnc(backend=backend, linkage=linkage)
    given = X[0], lively_state(model, B)
    program = torch.export.export(model.cell, given, strict=False)
    assert operations(program.graph_module) == ([] if backend == "auto" else ["step"])
    given = X[1], lively_state(model, B, seed=1)
    assert_close(round_trip(program)(*given), model.cell(*given), "float64")


class MemoryAlone(nn.Module):
    def __init__(self, backend: str) -> None:
        super().__init__()
        self.backend = backend

    def forward(self, interface: Tensor, state: MemoryState) -> tuple[Tensor, MemoryState]:
        return memory_step(interface, state, backend=self.backend)


@pytest.mark.parametrize("backend", ["auto", "eager", pytest.param("cpu", marks=needs_numba)])
def test_a_memory_step_is_exported(backend: str) -> None:
    sizes, module = MemorySizes(B, 5, 3, 2, 1), MemoryAlone(backend)
    state = with_link(separated_state(sizes), "sparse")
    first, second = random_interfaces(2, sizes)
    program = torch.export.export(module, (first, state), strict=False)
    assert_close(round_trip(program)(second, state), module(second, state), "float64")


def test_an_exported_program_runs_in_another_process(tmp_path: Path) -> None:
    model = lively_dnc(backend="eager", linkage="sparse")
    torch.export.save(torch.export.export(model, (X,), strict=False), tmp_path / "dnc.pt2")
    code = f"""
import torch
from dnc_fast import DNC
program = torch.export.load({str(tmp_path / "dnc.pt2")!r}).module()
output, state = program(torch.ones({T}, {B}, 3, dtype=torch.float64))
print(type(state).__name__, output.sum().item())
"""
    name, total = python(code).split()
    assert name == "DNCState"
    assert float(total) == pytest.approx(model(torch.ones_like(X))[0].sum().item(), rel=1e-12)


# ONNX


def onnx_outputs(module: nn.Module, args: Any, given: Any, shapes: Any = None) -> list[Tensor]:
    """What onnxruntime computes, of a model exported with `args`, when it is given others."""
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    program = torch.onnx.export(module, args, dynamo=True, dynamic_shapes=shapes, verbose=False)
    session = runtime.InferenceSession(program.model_proto.SerializeToString())
    names = [one.name for one in session.get_inputs()]
    arrays = [tensor.numpy() for tensor in tensors(given)]
    return [*map(torch.as_tensor, session.run(None, dict(zip(names, arrays, strict=True))))]


needs_flag = pytest.mark.skipif(OLD, reason="torch.onnx does not tell")


class Ordered(nn.Module):
    """All that is written differently for ONNX."""

    def forward(self, keys: Tensor) -> tuple[Tensor, ...]:
        whole = (8 * keys).to(torch.int32)
        products = [cumulative_product(keys, dim) for dim in (-1, -2)]
        orders = [stable_order(one, falling) for one in (keys, whole) for falling in (False, True)]
        return largest_cells(keys, 3), *orders, *products


@needs_flag
def test_onnx_orders_equal_numbers_by_index() -> None:
    keys = torch.randint(4, (16, 9), generator=torch.Generator().manual_seed(0)) / 4
    found = onnx_outputs(Ordered(), (torch.rand(16, 9),), (keys,))
    expected = Ordered()(keys)
    assert_close(found[:5], expected[:5], "equal")
    assert_close(found[5:], expected[5:], "float32")
    assert (keys.diff() == 0).any()


@needs_flag
@pytest.mark.parametrize("linkage", in_full("sparse", "dense", "separable", "none"))
def test_a_step_in_onnxruntime(linkage: str) -> None:
    """The first writes to an empty memory, whose usages are all equal."""
    model = lively_dnc(linkage=linkage).float()
    states = model.zero_state(B), lively_state(model.double(), B).to(torch.float32)
    cell = model.float().cell
    for state in states:
        found = onnx_outputs(cell, (X[0].float(), states[0]), (X[1].float(), state))
        assert_close(found, [*tensors(cell(X[1].float(), state))], "float32")
        if linkage == "separable":  # a state with another number of writes is another model
            break


@needs_flag
@pytest.mark.parametrize("linkage", in_full("dense", "sparse", "separable", "none"))
def test_sequences_in_onnxruntime(linkage: str) -> None:
    model, x = lively_dnc(linkage=linkage).float(), normal(2, 3, 3).float()
    found = onnx_outputs(model, (X[:2].float(),), (x,), dims(B=1))
    assert_close(found, [*tensors(model(x))], "float32")


@needs_scan
@pytest.mark.parametrize("linkage", in_full("none", "dense", "sparse"))
def test_any_number_of_steps_in_onnxruntime(linkage: str) -> None:
    model, x = lively_dnc(linkage=linkage).float(), normal(7, B, 3).float()
    found = onnx_outputs(model, (X.float(),), (x,), dims(T=0))
    assert_close(found, [*tensors(model(x))], "float32")


def test_products_for_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    factors = normal(3, 11, 2)
    expected = factors.cumprod(1)
    monkeypatch.setattr("dnc_fast.portable._to_onnx", lambda: True)
    assert_close(cumulative_product(factors, 1), expected, "float64")


# torch.jit


@pytest.mark.parametrize("backend", ["auto", "eager", pytest.param("cpu", marks=needs_numba)])
def test_an_exported_program_can_be_traced(backend: str) -> None:
    model = lively_dnc(backend=backend)
    program = torch.export.export(model, (X,), strict=False).module()
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(program, (X,)), file)
    file.seek(0)
    x = normal(T, B, 3)
    assert_close([*tensors(torch.jit.load(file)(x))], [*tensors(model(x))], "float64")


def test_torch_jit_is_refused_with_the_way_that_can() -> None:
    model = lively_dnc()
    for module, x in ((model, X), (model.cell, X[0])):
        with pytest.raises(RuntimeError, match=r"torch\.jit\.trace.*cannot follow a DNC; export"):
            torch.jit.trace(module, (x,))
        name = type(module).__name__
        with pytest.raises(RuntimeError, match=rf"script cannot compile a {name}; torch\.export"):
            torch.jit.script(module)
    with pytest.raises(RuntimeError, match=r"torch\.jit\.script cannot compile a DNC"):
        torch.jit.script(nn.Sequential(model))


# The page

SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)


@pytest.mark.parametrize("place", range(len(SNIPPETS)))
def test_examples_in_the_docs_run(
    place: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each after the first, which makes the model."""
    if OLD and "export.save" in SNIPPETS[place]:
        pytest.skip(NOT_SAVED)
    if "onnx" in SNIPPETS[place]:
        pytest.importorskip("onnxscript"), pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    code = SNIPPETS[0] + (SNIPPETS[place] if place else "")
    exec(compile(code, PAGE.name, "exec"), {})
