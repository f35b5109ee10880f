"""A DNC in whatever surroundings its user puts it: layouts, modes, devices, wrappers."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path
from typing import Any

import pytest
import torch
from states import assert_close, lively_dnc, lively_state, normal, require_grad, weighed_sum
from torch import Tensor, nn

from dnc_fast import DNC, DNCState
from dnc_fast.linkages import LINKAGES
from dnc_fast.state import map_tensors, tensors

every_linkage = pytest.mark.parametrize("linkage", LINKAGES)
every_backend = pytest.mark.parametrize("backend", ["reference", "eager", "cpu"])
X = normal(4, 2, 3)


# Layouts of tensors


def transposed(tensor: Tensor) -> Tensor:
    return tensor.mT.contiguous().mT if tensor.dim() > 1 else strided(tensor)


def strided(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, torch.zeros_like(tensor)], dim=-1)[..., 0]


def shifted(tensor: Tensor) -> Tensor:
    """Beginning one element after an allocation, as a part of a larger buffer does."""
    return torch.cat([tensor.new_zeros(1), tensor.flatten()])[1:].view(tensor.shape)


def results(model: DNC, x: Tensor, state: DNCState) -> list[Tensor]:
    """Outputs, final state, and every gradient."""
    leaves = [x, *(part for part in tensors(state) if part.is_floating_point())]
    leaves = [leaf.detach().requires_grad_() for leaf in leaves]
    given = iter(leaves[1:])
    state = map_tensors(lambda part: next(given) if part.is_floating_point() else part, state)
    output, final = model(leaves[0], state)
    total = output.square().sum()
    for part in tensors(final):
        total = total + (part.square().sum() if part.is_floating_point() else 0)
    gradients = torch.autograd.grad(total, [*leaves, *model.parameters()], materialize_grads=True)
    return [output, *tensors(final), *gradients]


@every_linkage
@every_backend
@pytest.mark.parametrize("layout", [transposed, strided, shifted])
def test_layouts_of_input_and_state_do_not_matter(
    layout: Callable[[Tensor], Tensor], backend: str, linkage: str
) -> None:
    model = lively_dnc(linkage=linkage, backend=backend)
    state = lively_state(model, 2)
    expected = results(model, X, state)
    assert_close(results(model, layout(X), map_tensors(layout, state)), expected, "float64")


@every_backend
def test_states_that_are_expanded_stay_as_they_are(backend: str) -> None:
    model = lively_dnc(backend=backend)
    one = lively_state(model, 1)
    both = map_tensors(lambda part: part.expand(2, *part.shape[1:]), one)
    expected = results(model, X, map_tensors(torch.clone, both))
    assert_close(results(model, X, both), expected, "float64")
    assert_close(one, lively_state(model, 1), "equal")


# Modes and default devices, in the first calls of a process


FIRST_CALL = """
import torch
from dnc_fast import DNC
with {context}:
    model = DNC(5, 8, linkage={linkage!r}, device="cpu")
    output, state = model(torch.ones(3, 2, 5, device="cpu"))
assert output.device.type == "cpu" and output.isfinite().all(), output
"""


@pytest.mark.parametrize("context", ["torch.inference_mode()", 'torch.device("meta")'])
@pytest.mark.parametrize("linkage", ["dense", "sparse"])
def test_first_call_of_a_process(context: str, linkage: str) -> None:
    """It loads kernels, which must not depend on what is set around it."""
    code = FIRST_CALL.format(context=context, linkage=linkage)
    subprocess.run([sys.executable, "-c", code], check=True)


@every_linkage
@every_backend
def test_default_device_is_not_used(backend: str, linkage: str) -> None:
    """Every tensor that is made says where."""
    model = lively_dnc(linkage=linkage, backend=backend)
    state = lively_state(model, 2)
    expected = results(model, X, state)
    with torch.device("meta"):
        found = results(model, X, state)
    assert_close(found, expected, "equal")


@every_linkage
@every_backend
def test_inference_mode(backend: str, linkage: str) -> None:
    model = lively_dnc(linkage=linkage, backend=backend)
    state = lively_state(model, 2)
    with torch.inference_mode():
        found = model(X, state)
        found = model(X, found[1])
    with torch.no_grad():
        expected = model(X, model(X, state)[1])
    assert_close(found, expected, "equal")


# Wrappers


@every_linkage
def test_parameters_stay_resizable(linkage: str) -> None:
    """As fully sharded training (FSDP) wants, which frees them between passes."""
    model = lively_dnc(linkage=linkage, backend="cpu")
    model(X)[0].sum().backward()
    assert all(parameter.untyped_storage().resizable() for parameter in model.parameters())


def test_parameters_may_move_between_the_passes() -> None:
    """As with fully sharded training, where their storage is made anew."""
    model = lively_dnc(backend="cpu")
    expected = torch.autograd.grad(model(X)[0].square().sum(), list(model.parameters()))
    output, _ = model(X)
    for parameter in model.parameters():
        values, storage = parameter.detach().clone(), parameter.untyped_storage()
        size = storage.size()
        storage.resize_(0)
        storage.resize_(size)
        parameter.data.copy_(values)
    found = torch.autograd.grad(output.square().sum(), list(model.parameters()))
    assert_close(found, expected, "equal")


@pytest.mark.parametrize("controller", ["lstm", "gru", "rnn", "feedforward"])
@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_gradients_of_each_sample(controller: str, backend: str) -> None:
    model = lively_dnc(controller=controller, backend=backend)
    parameters = dict(model.named_parameters())

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        output, _ = torch.func.functional_call(model, parameters, (x.unsqueeze(1),))
        return output.square().sum()

    found = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 1))(parameters, X)
    for sample in range(2):
        expected = torch.autograd.grad(loss(parameters, X[:, sample]), list(parameters.values()))
        assert_close([part[sample] for part in found.values()], list(expected), "float64")


def test_batched_backward_is_refused_with_the_remedy() -> None:
    def run(backend: str) -> Any:
        model = lively_dnc(backend=backend)
        function = lambda x: model(x)[0]  # noqa: E731
        return torch.autograd.functional.jacobian(function, X, vectorize=True)

    with pytest.raises(RuntimeError, match=r'cannot be batched.*backend="reference"'):
        run("eager")
    assert run("reference").shape == (4, 2, 4, 4, 2, 3)


@pytest.mark.filterwarnings("ignore")  # torch has moved quantization to another package
@pytest.mark.parametrize("controller", ["lstm", "gru", "rnn", "feedforward"])
@pytest.mark.parametrize("kinds", [{nn.Linear}, None], ids=["linear", "all"])
def test_dynamic_quantization(controller: str, kinds: Any) -> None:
    torch.manual_seed(0)
    model, x = DNC(3, 8, controller=controller), torch.randn(4, 2, 3)
    with torch.no_grad():
        expected, _ = model(x)
        quantized = torch.ao.quantization.quantize_dynamic(model, kinds)
        output, state = quantized(x)
        quantized(x, state)
    assert (output - expected).abs().max() < 0.1 * expected.abs().max()


@pytest.mark.skipif(not hasattr(torch.compiler, "is_exporting"), reason="torch 2.6 does not tell")
def test_export_takes_the_reference() -> None:
    model = lively_dnc()
    exported = torch.export.export(model, (X,), strict=False).module()
    assert_close(exported(X)[0], model(X)[0], "float64")


@every_linkage
def test_saved_states_load_without_running_code(linkage: str) -> None:
    model = lively_dnc(linkage=linkage)
    _, state = model(X)
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    assert_close(torch.load(file, weights_only=True), state, "equal")


def test_torch_load_knows_states_where_torch_was_imported_first(tmp_path: Path) -> None:
    torch.save(lively_dnc()(X)[1], tmp_path / "state.pt")
    code = "import torch, dnc_fast, sys; print(type(torch.load(sys.argv[1])).__name__)"
    command = [sys.executable, "-c", code, str(tmp_path / "state.pt")]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "DNCState\n"


# No sequences; no memory


@every_linkage
@every_backend
def test_no_sequences(backend: str, linkage: str) -> None:
    """An empty batch in, an empty batch out, as with nn.LSTM; and parameters with gradients."""
    model = lively_dnc(linkage=linkage, backend=backend)
    output, state = model(X[:, :0])
    assert output.shape == (4, 0, 4) and {len(part) for part in tensors(state)} == {0}
    output, state = model(X[:, :0], state)
    output.sum().backward()
    assert not any(part.grad.any() for part in model.parameters())
    assert model.cell(X[0, :0], state)[0].shape == (0, 4)


@every_linkage
def test_without_memory(linkage: str) -> None:
    """Nothing is read or written, and what the memory held has no effect."""
    model = lively_dnc(linkage=linkage)
    state = lively_state(model, 2)
    output, final = model(X, state, memory=False)
    assert_close(final.memory, state.memory, "equal")
    assert not final.read_vectors.any()
    alone, _ = model(X, DNCState(state.controller), memory=False)
    assert_close(alone, output, "equal")
    hidden, own = [], state.controller
    for x in X:
        zeros = torch.zeros(2, model.config.read_size, dtype=x.dtype)
        step, own = model.cell.controller(torch.cat([x, zeros], dim=-1), own)
        hidden.append(model.cell.output(torch.cat([step, zeros], dim=-1)))
    assert_close(output, torch.stack(hidden), "float64")
    cell, _ = model.cell(X[0], state, memory=False)
    assert_close(cell, output[0], "float64")


def test_without_memory_there_is_no_trace() -> None:
    model = lively_dnc()
    with pytest.raises(ValueError, match=r"return_trace=True needs memory=True.*memory=False"):
        model(X, memory=False, return_trace=True)
    with pytest.raises(ValueError, match=r"at least one sequence, got.*B=0"):
        model(X[:, :0], return_trace=True)
    for flag in ("memory", "return_trace"):
        with pytest.raises(TypeError, match=f"{flag} must be True or False, got 1"):
            model(X, **{flag: 1})


# Sequences that begin anew


@every_linkage
def test_reset_rows_begin_anew_and_others_go_on(linkage: str) -> None:
    model = lively_dnc(linkage=linkage)
    _, state = model(X, lively_state(model, 2))
    found, final = model(X, state.reset_rows(torch.tensor([True, False])))
    went_on, rest = model(X, state)
    anew, _ = model(X)
    assert_close(found, torch.stack([anew[:, 0], went_on[:, 1]], dim=1), "float64")
    second = slice(1, 2)
    assert_close(final.slice_batch(second), rest.slice_batch(second), "float64")


def test_reset_rows_cuts_gradients_of_those_rows_only() -> None:
    model = lively_dnc()
    state = require_grad(lively_state(model, 2))
    model(X, state.reset_rows(torch.tensor([True, False])))[0].sum().backward()
    gradient = state.memory.memory.grad
    assert not gradient[0].any() and gradient[1].any()


@every_linkage
@every_backend
@pytest.mark.parametrize("single", [True, False], ids=["DNCCell", "DNC"])
def test_episodes_that_end_within_a_rollout(single: bool, backend: str, linkage: str) -> None:
    """Step by step, each episode has the outputs and gradients of a sequence by itself."""
    model = lively_dnc(linkage=linkage, backend=backend)
    x = normal(7, 2, 3).requires_grad_()
    episodes = (2, 3, 2), (4, 3)  # their lengths, in each row of the batch
    ends = [set(accumulate(lengths)) for lengths in episodes]
    outputs, state = [], model.zero_state(2)
    for t, inputs in enumerate(x, start=1):
        output, state = model.cell(inputs, state) if single else model(inputs.unsqueeze(0), state)
        outputs.append(output.view(2, 4))
        state = state.reset_rows(torch.tensor([t in row for row in ends]))
    alone = [
        torch.cat([model(part)[0] for part in row.split(lengths)])
        for row, lengths in zip(x.unbind(1), episodes, strict=True)
    ]
    found, expected = torch.stack(outputs), torch.stack(alone, dim=1)
    assert_close(found, expected, "float64")
    leaves = [x, *model.parameters()]
    gradients = [torch.autograd.grad(weighed_sum(one), leaves) for one in (found, expected)]
    assert_close(*gradients, "float64")


@pytest.mark.parametrize(
    "mask", [torch.tensor([1, 0]), torch.ones(3, dtype=torch.bool), [True, False], None]
)
def test_reset_rows_names_a_bad_mask(mask: Any) -> None:
    state = lively_dnc().zero_state(2)
    with pytest.raises(ValueError, match=r"mask must be a bool tensor of shape \(2,\).*got"):
        state.reset_rows(mask)


# Controllers of one's own


class Decaying(nn.Module):
    """A controller without parameters, which so cannot know the model's device and dtype."""

    output_size = 4

    def zero_state(self, batch_size: int, *, device: Any = None, dtype: Any = None) -> Any:
        return torch.zeros(batch_size, 4, device=device, dtype=dtype)

    def forward(self, inputs: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        state = 0.5 * state + inputs[:, :4].tanh()
        return state, state


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_own_controller_is_told_device_and_dtype(device: str, dtype: torch.dtype) -> None:
    model = DNC(3, 4, controller=Decaying(), device=device, dtype=dtype)
    output, state = model(torch.ones(2, 1, 3, device=device, dtype=dtype))
    assert output.dtype == state.controller.dtype == dtype
    assert output.device.type == state.controller.device.type == device


# Shown to people


@every_linkage
def test_printed_state_fits_on_a_screen(linkage: str) -> None:
    model = lively_dnc(linkage=linkage)
    _, state = model(X)
    shown = str(state)
    assert len(shown.splitlines()) < 12 and "5 cells of 3 numbers" in shown
    assert f"linkage       {linkage}" in shown and "2 sequences, torch.float64 on cpu" in shown
    assert str(DNCState()) == "DNCState: zeros"
    alone = str(model(X[:, 0])[1])
    assert "DNCState of one sequence, without a batch axis" in alone and "5 cells of 3" in alone
    assert "5 cells" in repr(state.to("meta").memory)
