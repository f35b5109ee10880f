"""nn.LSTM and `MemoryLSTM` through the same user code, a test for each row of docs/like_nn_lstm.md.

A test's docstring is its row's first column. What only `MemoryLSTM` has comes last.
"""

from __future__ import annotations

import copy
import inspect
import io
import pickle
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from states import assert_close, lively_states, normal, outcome, require_grad
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.nn.utils.parametrizations import weight_norm
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from dnc_fast import DNC, DNCState, MemoryLSTM
from dnc_fast.controllers import ProjectedLSTMController
from dnc_fast.linkages import LINKAGES
from dnc_fast.state import map_tensors, tensors

PAGE = Path(__file__).parent.parent / "docs/like_nn_lstm.md"
# The robust order, because from the zero state the exact one depends on the last bits.
SIZES = {"num_cells": 5, "cell_size": 3, "num_read_heads": 2, "usage_order": "robust"}


def memory_lstm(*arguments: Any, **options: Any) -> MemoryLSTM:
    return MemoryLSTM(*arguments, **{**SIZES, **options})


both = pytest.mark.parametrize("LSTM", [nn.LSTM, memory_lstm], ids=["nn.LSTM", "MemoryLSTM"])
every_linkage = pytest.mark.parametrize("linkage", LINKAGES)
F64 = {"dtype": torch.float64}


def test_rows_of_the_page_are_the_tests() -> None:
    rows = re.findall(r"^\| (.+?) \| ", PAGE.read_text(), re.M)[1:]
    named = [test for test in globals().values() if getattr(test, "pytestmark", None)]
    of_both = [test.__doc__ for test in named if both.mark in test.pytestmark]
    assert rows == of_both


# The call


@both
def test_constructor(LSTM: Any) -> None:
    """`LSTM(...)`: all arguments, by position or name"""
    rnn = LSTM(3, 4, 2, False, True, 0.5, True, 2, "cpu", torch.float64)
    named = LSTM(input_size=3, hidden_size=4, proj_size=2, **F64)
    found = [rnn.input_size, rnn.hidden_size, rnn.num_layers, rnn.bias, rnn.batch_first]
    assert found == [3, 4, 2, False, True]
    assert [rnn.dropout, rnn.bidirectional, rnn.proj_size, rnn.mode] == [0.5, True, 2, "LSTM"]
    assert {p.dtype for p in [*rnn.parameters(), *named.parameters()]} == {torch.float64}
    assert named.proj_size == 2 and not named.bidirectional


@both
def test_type(LSTM: Any) -> None:
    """`isinstance(rnn, nn.LSTM)`"""
    assert isinstance(LSTM(3, 4), nn.LSTM) and isinstance(LSTM(3, 4), nn.RNNBase)


@both
def test_call(LSTM: Any) -> None:
    """`output, (h, c) = rnn(x)`"""
    output, (h, c) = LSTM(3, 4, 2)(torch.randn(5, 6, 3))
    assert output.shape == (5, 6, 4) and h.shape == (2, 6, 4) and c.shape[:2] == (2, 6)
    assert h.is_contiguous() and c.is_contiguous()


@both
def test_initial_state(LSTM: Any) -> None:
    """`rnn(x, (h0, c0))`, `rnn(x, hx=(h0, c0))`"""
    rnn, x, h0 = LSTM(3, 4, 2), torch.randn(5, 6, 3), torch.randn(2, 6, 4)
    _, hx = rnn(x, (h0, torch.randn(2, 6, 4)))
    assert_close(rnn(x, hx=hx), rnn(x, list(hx)), "equal")
    assert not torch.equal(rnn(x, hx)[0], rnn(x)[0])
    for row in range(2):  # each layer's h0 counts
        other = hx[0].clone()
        other[row] += 1
        assert not torch.equal(rnn(x, (other, hx[1]))[0], rnn(x, hx)[0])


@both
def test_last_output(LSTM: Any) -> None:
    """`h[-1]` is `output[-1]`"""
    output, (h, _) = LSTM(3, 4, 2)(torch.randn(5, 6, 3))
    assert torch.equal(output[-1], h[-1])


@both
def test_batch_first(LSTM: Any) -> None:
    """`batch_first=True`"""
    rnn, x = LSTM(3, 4, 2, batch_first=True, **F64), normal(6, 5, 3)
    output, (h, c) = rnn(x)
    assert output.shape == (6, 5, 4) and h.shape == (2, 6, 4) and c.shape[:2] == (2, 6)
    assert torch.equal(output[:, -1], h[-1])
    assert_close(rnn(x, (h, c)), rnn(x, (h.clone(), c.clone())), "equal")


@both
def test_unbatched(LSTM: Any) -> None:
    """unbatched `x` (T, X) and states without B"""
    rnn, x = LSTM(3, 4, 2, **F64), normal(5, 1, 3)
    _, (h, c) = rnn(x[:, 0])
    again, (h_again, c_again) = rnn(x[:, 0], (h, c))
    assert again.shape == (5, 4) and h_again.shape == (2, 4) and c_again.shape == c.shape
    expected = rnn(x, rnn(x)[1])
    assert_close(again, expected[0][:, 0], "float64")
    assert_close((h_again, c_again), tuple(part[:, 0] for part in expected[1]), "float64")


@both
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("lengths", [[5, 3, 3, 1], [1, 3, 5, 3]])
def test_packed(LSTM: Any, lengths: list[int], bidirectional: bool) -> None:
    """`PackedSequence`, `enforce_sorted=True` or `False`"""
    rnn = LSTM(3, 4, 2, batch_first=True, bidirectional=bidirectional, **F64)
    x, hx = normal(4, 5, 3), rnn(normal(4, 5, 3))[1]
    kind = {"batch_first": True, "enforce_sorted": lengths[0] == 5}
    output, (h, c) = rnn(pack_padded_sequence(x, torch.tensor(lengths), **kind), hx)
    padded, found = pad_packed_sequence(output, batch_first=True)
    assert found.tolist() == lengths
    for b, length in enumerate(lengths):
        alone = rnn(x[b : b + 1, :length], tuple(part[:, b : b + 1] for part in hx))
        together = padded[b : b + 1, :length], (h[:, b : b + 1], c[:, b : b + 1])
        assert_close(together, alone, "float64")
        assert torch.equal(padded[b, length - 1, :4], h[-2 if bidirectional else -1, b])


@both
def test_no_sequences(LSTM: Any) -> None:
    """an empty batch"""
    rnn = LSTM(3, 4, 2, bidirectional=True)
    output, hx = rnn(torch.randn(5, 0, 3))
    output, (h, c) = rnn(torch.randn(5, 0, 3), hx)
    assert output.shape == (5, 0, 8) and h.shape == (4, 0, 4) and c.shape[:2] == (4, 0)


@both
def test_layers(LSTM: Any) -> None:
    """`num_layers`, `dropout` between them; `rnn.train()`, `rnn.eval()`"""
    rnn, x = LSTM(3, 4, 2, dropout=0.5), torch.randn(5, 6, 3)
    assert rnn.training and not torch.equal(rnn(x)[0], rnn(x)[0])
    rnn = nn.ModuleDict({"rnn": rnn}).eval()["rnn"]
    assert not rnn.training and torch.equal(rnn(x)[0], rnn(x)[0])
    assert not torch.equal(rnn.train()(x)[0], rnn(x)[0])


@both
def test_bidirectional(LSTM: Any) -> None:
    """`bidirectional=True`: `torch.cat([h[-2], h[-1]], 1)`"""
    output, (h, c) = LSTM(3, 4, 2, bidirectional=True)(torch.randn(5, 6, 3))
    assert output.shape == (5, 6, 8) and h.shape == (4, 6, 4) and c.shape[:2] == (4, 6)
    layers = h.view(2, 2, 6, 4)  # layers, directions
    assert torch.equal(torch.cat([output[-1, :, :4], output[0, :, 4:]], 1), torch.cat([*h[-2:]], 1))
    assert torch.equal(layers[-1, 1], output[0, :, 4:])


@both
def test_projection(LSTM: Any) -> None:
    """`proj_size`"""
    rnn = LSTM(3, 4, 2, proj_size=2, **F64)
    output, (h, c) = rnn(normal(5, 6, 3), (normal(2, 6, 2), normal(2, 6, 4)))
    assert output.shape == (5, 6, 2) and h.shape == (2, 6, 2)
    assert torch.equal(output[-1], h[-1])
    assert rnn.weight_hh_l1.shape == (16, 2) and rnn.weight_hr_l1.shape == (2, 4)
    output.sum().backward()
    assert all(p.grad is not None for p in rnn.parameters())
    rnn(normal(5, 6, 3), (h, c))


@both
def test_without_bias(LSTM: Any) -> None:
    """`bias=False`"""
    rnn = LSTM(3, 4, bias=False)
    assert all("weight" in name for name, _ in rnn.named_parameters())
    assert not rnn(torch.zeros(5, 6, 3))[0].any()


# The state


@both
def test_zeros(LSTM: Any) -> None:
    """`h0 = c0 = torch.zeros(L * D, B, H)`"""
    rnn, x = LSTM(3, 4, 2, bidirectional=True), torch.randn(5, 6, 3)
    zeros = torch.zeros(4, 6, 4)
    assert_close(rnn(x, (zeros, zeros)), rnn(x), "equal")
    assert not torch.equal(rnn(x, (zeros, zeros + 1))[0], rnn(x)[0])


@both
def test_zeros_like(LSTM: Any) -> None:
    """`torch.zeros_like(c)`, `h * mask`, `c * mask`: sequences start over"""
    rnn, x = LSTM(3, 4, 2, **F64), normal(5, 6, 3)
    _, (h, c) = rnn(x)
    assert_close(rnn(x, (torch.zeros_like(h), torch.zeros_like(c))), rnn(x), "equal")
    mask = torch.tensor([1.0, 0.0, 1.0, 0.0, 0.0, 1.0], **F64)[:, None]
    output, _ = rnn(x, (h * mask, c * mask))
    assert_close(output, torch.where(mask == 0, rnn(x)[0], rnn(x, (h, c))[0]), "float64")


@both
def test_parts(LSTM: Any) -> None:
    """a sequence in parts: outputs and full gradients"""
    rnn, whole = LSTM(3, 4, 2, bias=True, **F64), normal(8, 6, 3)
    x, hx, outputs = whole.clone().requires_grad_(), None, []
    for part in x.split(3):
        output, hx = rnn(part, hx)
        outputs.append(output)
    found = torch.autograd.grad(torch.cat(outputs).square().sum(), [x, *rnn.parameters()])
    y = whole.clone().requires_grad_()
    assert_close(torch.cat(outputs), rnn(y)[0], "float64")
    expected = torch.autograd.grad(rnn(y)[0].square().sum(), [y, *rnn.parameters()])
    assert_close(list(found), list(expected), "float64")


@both
def test_detach(LSTM: Any) -> None:
    """`h.detach()`, `c.detach()`: truncated backpropagation"""
    rnn, x = LSTM(3, 4, 2), torch.randn(5, 6, 3, requires_grad=True)
    hx = tuple(part.detach() for part in rnn(x)[1])
    output, (h, c) = rnn(torch.randn(5, 6, 3), hx)
    (output.sum() + h.sum() + c.sum()).backward()
    assert x.grad is None


@both
def test_gradients(LSTM: Any) -> None:
    """gradients into `h0` and `c0`, and out of `h` and `c`"""
    rnn, x = LSTM(3, 4, 2, **F64), normal(5, 6, 3)
    h0, c0 = (normal(2, 1, 4).requires_grad_() for _ in range(2))  # learned, for all sequences
    output, (h, c) = rnn(x, (h0.expand(2, 6, 4), c0.expand(2, 6, 4)))
    for result in (output, h, c):
        found = torch.autograd.grad(result.square().sum(), [h0, c0], retain_graph=True)
        assert all((gradient.abs().sum(-1) > 0).all() for gradient in found)

    def run(*hx: Tensor) -> Any:
        output, (h, c) = rnn(x[:2, :1], hx)
        return output, h, c[..., :4]

    assert torch.autograd.gradcheck(run, (h0, c0))


@both
def test_indexing(LSTM: Any) -> None:
    """`h[:, rows]`, `c[:, rows]`, `index_select`, `cat`, `stack`"""
    rnn, x, y = LSTM(3, 4, 2, **F64), normal(5, 6, 3), normal(5, 6, 3)
    output, (h, c) = rnn(y, rnn(x)[1])
    order = torch.tensor([4, 0, 0, 5])
    _, hx = rnn(x)
    picked = tuple(part.index_select(1, order) for part in hx)
    assert_close(rnn(y[:, order], picked)[0], output[:, order], "float64")
    one = tuple(part[:, 2:3].contiguous() for part in hx)
    joined = tuple(torch.cat(parts, dim=1) for parts in zip(one, picked, strict=True))
    assert_close(rnn(y[:, [2, 4, 0, 0, 5]], joined)[1][0], h[:, [2, 4, 0, 0, 5]], "float64")
    history = torch.stack([hx[1], c])
    assert_close(rnn(y, (hx[0], history[0]))[0], output, "equal")


@both
def test_saved_state(LSTM: Any) -> None:
    """`torch.save((h, c), file)`, `c.to(...)`"""
    rnn, x, file = LSTM(3, 4, 2), torch.randn(5, 6, 3), io.BytesIO()
    _, hx = rnn(x)
    torch.save(hx, file)
    file.seek(0)
    assert_close(rnn(x, torch.load(file, weights_only=True)), rnn(x, hx), "equal")
    output, double = rnn(x, hx)[0], tuple(part.to(torch.float64) for part in hx)
    assert_close(rnn.double()(x.double(), double)[0], output, "float32")


@both
@pytest.mark.parametrize(
    "hx",
    [
        (torch.zeros(2, 5, 4), torch.zeros(2, 5, 4)),  # B
        (torch.zeros(1, 6, 4), torch.zeros(1, 6, 4)),  # L
        (torch.zeros(2, 6, 4), torch.zeros(2, 6, 3)),  # H
        (torch.zeros(2, 4), torch.zeros(2, 4)),  # without B
        (torch.zeros(2, 6, 4, **F64), torch.zeros(2, 6, 4, **F64)),
        (torch.zeros(2, 6, 4),),
        torch.zeros(2, 6, 4),
    ],
    ids=["B", "L", "H", "unbatched", "dtype", "one", "tensor"],
)
def test_wrong_state(LSTM: Any, hx: Any) -> None:
    """a wrong `hx`"""
    with pytest.raises((TypeError, ValueError, RuntimeError, IndexError)):
        LSTM(3, 4, 2)(torch.randn(5, 6, 3), hx)


# Parameters


@both
def test_names(LSTM: Any) -> None:
    """`rnn.weight_ih_l0`, `rnn.bias_hh_l1_reverse`, `rnn.all_weights`, `rnn._flat_weights`"""
    rnn = LSTM(3, 4, 2, bidirectional=True)
    kinds = ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]
    ends = [f"l{layer}{way}" for layer in range(2) for way in ("", "_reverse")]
    rows = [[f"{kind}_{end}" for kind in kinds] for end in ends]
    names = [name for row in rows for name in row]
    of_gates = [id(getattr(rnn, name)) for name in names]
    assert list(rnn.state_dict())[:16] == names
    assert list(map(id, rnn.parameters()))[:16] == of_gates
    assert rnn._all_weights == rows and rnn._flat_weights_names == names
    assert [id(weight) for row in rnn.all_weights for weight in row] == of_gates
    assert list(map(id, rnn._flat_weights)) == of_gates
    assert rnn.weight_hh_l1_reverse.shape == (16, 4) and rnn.bias_hh_l1.shape == (16,)
    with pytest.raises(AttributeError):
        _ = rnn.weight_ih_l2


@both
def test_initialisation(LSTM: Any) -> None:
    """loops over names that set orthogonal weights and forget gates"""
    rnn = LSTM(3, 4, 2)
    before = {name: p.clone() for name, p in rnn.named_parameters()}
    for name, p in rnn.named_parameters():
        if "weight_ih" in name:
            nn.init.xavier_uniform_(p)
        elif "weight_hh" in name:
            nn.init.orthogonal_(p)
        elif "bias" in name:
            n = p.size(0)
            p.data.fill_(0)
            p.data[n // 4 : n // 2].fill_(20.0)
    assert_close(rnn.weight_hh_l1.T @ rnn.weight_hh_l1, torch.eye(4), "float32")
    gates = "_l0", "_l1"
    same = [n for n, p in rnn.named_parameters() if torch.equal(p, before[n])]
    assert not [name for name in same if name.endswith(gates)]
    assert same == [name for name in before if not name.endswith(gates)]
    with torch.no_grad():  # nothing forgotten, nothing added: c stays
        for layer in range(2):
            for kind in ("weight_ih", "weight_hh"):
                getattr(rnn, f"{kind}_l{layer}").zero_()
            getattr(rnn, f"bias_ih_l{layer}")[:4] = -40.0
        _, (_, c) = rnn(torch.zeros(5, 6, 3), (torch.zeros(2, 6, 4), torch.ones(2, 6, 4)))
    assert_close(c[..., :4], torch.ones(2, 6, 4), "float32")


@both
def test_initialisation_by_all_weights(LSTM: Any) -> None:
    """`for names in rnn._all_weights: for name in names: ...`"""
    rnn = LSTM(3, 4, 2)
    for names in rnn._all_weights:
        for name in filter(lambda name: "bias" in name, names):
            bias = getattr(rnn, name)
            bias.data[bias.size(0) // 4 : bias.size(0) // 2].fill_(1.0)
    assert [rnn.bias_hh_l1[n].item() == 1.0 for n in (3, 4, 7, 8)] == [False, True, True, False]


@both
def test_reset(LSTM: Any) -> None:
    """`rnn.reset_parameters()`, `rnn.flatten_parameters()`"""
    rnn, x = LSTM(3, 4), torch.randn(5, 6, 3)
    output, before = rnn(x)[0], [p.clone() for p in rnn.parameters()]
    assert rnn.flatten_parameters() is None and torch.equal(rnn(x)[0], output)
    rnn.reset_parameters()
    assert not any(map(torch.equal, before, rnn.parameters()))
    assert not torch.equal(rnn(x)[0], output)


@both
def test_replaced_weights(LSTM: Any) -> None:
    """`rnn.weight_hh_l0 = nn.Parameter(...)`, also shared with another module"""
    rnn, other, x = LSTM(3, 4, **F64), LSTM(3, 4, **F64), normal(5, 6, 3)
    output = rnn(x)[0]
    other.weight_hh_l0 = rnn.weight_hh_l0 = nn.Parameter(torch.zeros_like(rnn.weight_hh_l0))
    assert not torch.equal(rnn(x)[0], output)
    (rnn(x)[0].sum() + other(x)[0].sum()).backward()
    assert (
        len({id(p) for p in [*rnn.parameters(), *other.parameters()]})
        == 2 * len(list(rnn.parameters())) - 1
    )
    assert rnn.weight_hh_l0.grad.any()


@both
def test_computed_weights(LSTM: Any) -> None:
    """`prune`, `weight_norm` and the like on `"weight_hh_l0"`"""
    rnn, x = LSTM(3, 4, 2, **F64), normal(5, 6, 3)
    output = rnn(x)[0]
    weight_norm(rnn, "weight_hh_l0")
    assert_close(rnn(x)[0], output, "float64")
    prune.l1_unstructured(rnn, "weight_ih_l1", amount=0.5)
    assert not torch.equal(rnn(x)[0], output)
    rnn(x)[0].sum().backward()
    assert rnn.weight_ih_l1_orig.grad[rnn.weight_ih_l1_mask == 0].eq(0).all()
    assert rnn.parametrizations.weight_hh_l0.original1.grad.any()


@both
def test_functional_call(LSTM: Any) -> None:
    """`torch.func.functional_call(rnn, parameters, x)`"""
    rnn, other, x = LSTM(3, 4, 2), LSTM(3, 4, 2), torch.randn(5, 6, 3)
    output = rnn(x)[0]
    computed = {name: 1 * parameter for name, parameter in other.named_parameters()}
    with_other = torch.func.functional_call(rnn, computed, (x,))
    assert_close(with_other, other(x), "equal")
    assert torch.equal(copy.deepcopy(rnn)(x)[0], output)


# The module


@both
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes(LSTM: Any, dtype: torch.dtype) -> None:
    """`rnn.double()`, `rnn.bfloat16()`, `dtype=`"""
    made, cast = LSTM(3, 4, 2, dtype=dtype), LSTM(3, 4, 2).to(dtype)
    cast.load_state_dict(made.state_dict())
    x = torch.randn(5, 6, 3, dtype=dtype)
    output, (h, c) = made(x)
    assert output.dtype == h.dtype == dtype and torch.equal(output[-1], h[-1])
    assert_close(made(x, (h, c)), cast(x, (h, c)), "equal")
    zeros = torch.zeros(2, 6, 4, dtype=dtype)
    assert_close(made(x, (zeros, zeros)), (output, (h, c)), "equal")


@both
def test_autocast(LSTM: Any) -> None:
    """`torch.autocast`"""
    rnn, x = LSTM(3, 4, 2), torch.randn(5, 6, 3)
    with torch.autocast("cpu", torch.bfloat16):
        output, hx = rnn(x)
        again, _ = rnn(x, hx)
        rnn(x, tuple(part.bfloat16() for part in hx))
    assert output.dtype == again.dtype == torch.bfloat16
    assert_close(hx[0][-1], output[-1], "equal")
    again.float().sum().backward()
    assert rnn.weight_hh_l0.grad.any()


@both
def test_state_dict(LSTM: Any) -> None:
    """`state_dict`, `load_state_dict`, `assign=True`"""
    rnn, x = LSTM(3, 4, 2, bidirectional=True), torch.randn(5, 6, 3)
    output = rnn(x)[0]
    state = rnn.state_dict()
    assert list(state) == [name for name, _ in rnn.named_parameters()]
    for assign in (False, True):
        other = LSTM(3, 4, 2, bidirectional=True)
        other.load_state_dict(state, assign=assign)
        assert torch.equal(other(x)[0], output)


@both
def test_copies(LSTM: Any) -> None:
    """`copy.deepcopy`, `pickle`, `torch.save(rnn, file)`"""
    rnn, x = LSTM(3, 4, 2, proj_size=2), torch.randn(5, 6, 3)
    output = rnn(x)[0]
    for other in (copy.deepcopy(rnn), pickle.loads(pickle.dumps(rnn))):
        assert torch.equal(other(x)[0], output)
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.zero_()
        assert not other(x)[0].any() and torch.equal(rnn(x)[0], output)


@both
def test_replicas(LSTM: Any) -> None:
    """replicas, as of `nn.DataParallel`"""
    rnn, x = LSTM(3, 4, 2), torch.randn(5, 6, 3)
    replica = rnn._replicate_for_data_parallel()
    for name, parameter in rnn.named_parameters():  # as torch.nn.parallel.replicate does
        setattr(replica, name, 0 * parameter)
    output = rnn(x)[0]
    assert not replica(x)[0].any() and torch.equal(rnn(x)[0], output)
    replica(x)[0].sum().backward()
    assert all(parameter.grad is not None for parameter in rnn.parameters())


@both
def test_without_data(LSTM: Any) -> None:
    """`device="meta"`, `rnn.to_empty(...)`, `torch.nn.utils.skip_init`"""
    rnn = LSTM(3, 4, 2, device="meta")
    assert rnn(torch.empty(5, 6, 3, device="meta"))[1][0].shape == (2, 6, 4)
    rnn.to_empty(device="cpu").reset_parameters()
    assert rnn(torch.randn(5, 6, 3))[0].isfinite().all()


@both
def test_repr(LSTM: Any) -> None:
    """`print(rnn)`"""
    assert "LSTM(3, 4, num_layers=2, batch_first=True" in repr(LSTM(3, 4, 2, batch_first=True))
    assert "proj_size=2" in repr(LSTM(3, 4, proj_size=2))


@both
def test_modules(LSTM: Any) -> None:
    """`rnn.modules()`, hooks, `rnn.apply(...)`"""
    rnn, seen = LSTM(3, 4), []
    assert list(rnn.modules()) == [rnn]
    rnn.register_forward_hook(lambda module, given, result: seen.append(result[0]))
    output, _ = rnn(torch.randn(5, 6, 3))
    assert seen[0] is output


# What only a `MemoryLSTM` has


def pairs(*batch: int, size: int, **kind: Any) -> tuple[Tensor, Tensor]:
    """Zeros for a model of two layers of 4 units."""
    return torch.zeros(2, *batch, 4, **kind), torch.zeros(2, *batch, size, **kind)


def test_it_is_a_dnc() -> None:
    """With the same parameters from the same seed, which it shares with its `dnc`."""
    options = {"num_layers": 2, "bidirectional": True, "interface_norm": True, **SIZES}
    torch.manual_seed(1)
    rnn = MemoryLSTM(3, 4, **options)
    torch.manual_seed(1)
    dnc, x = DNC(3, 4, **options), torch.randn(5, 6, 3)
    output, state = dnc(x)
    assert torch.equal(rnn(x)[0], output)
    assert_close(rnn.unpack_state(rnn(x)[1]), state, "equal")
    dnc.reset_parameters()
    rnn.dnc.load_state_dict(dnc.state_dict())
    assert torch.equal(rnn(x)[0], dnc(x)[0])
    assert len(list(rnn.dnc.parameters())) == len(list(rnn.parameters())) == 28


@every_linkage
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
def test_states_survive_packing(linkage: str, bidirectional: bool, num_layers: int) -> None:
    options = {"linkage": linkage, "bidirectional": bidirectional, "num_write_heads": 2}
    rnn = memory_lstm(3, 4, num_layers, **F64, **options)
    x, state = normal(5, 6, 3), lively_states(rnn.dnc, 6)
    hx = rnn.pack_state(state)
    links = [one.memory.link for one in (state if bidirectional else [state])]
    writes = links[0].write_weights.shape[-2] if linkage == "separable" else 0
    assert hx[1].shape == (len(links) * num_layers, 6, rnn.state_size(writes))
    for d, one in enumerate(state if bidirectional else [state]):
        hidden, cells = zip(*one.controller, strict=True)
        assert_close(hx[0][d :: len(links)], torch.stack(hidden), "equal")
        assert_close(hx[1][d :: len(links), ..., :4], torch.stack(cells), "equal")
    assert_close(rnn.unpack_state(hx), state, "equal")
    assert {part.dtype for part in tensors(rnn.unpack_state(hx))} == {
        part.dtype for part in tensors(state)
    }
    output, final = rnn.dnc(x, state)
    assert_close(rnn(x, hx), (output, rnn.pack_state(final, ends(output, bidirectional))), "equal")
    alone = map_tensors(lambda tensor: tensor[2], state)
    assert_close(rnn.pack_state(alone), tuple(part[:, 2] for part in hx), "equal")
    assert_close(rnn.unpack_state(rnn.pack_state(alone)), alone, "equal")


def ends(output: Tensor, bidirectional: bool) -> Tensor:
    """The last output of each direction, side by side."""
    return torch.cat([output[-1, :, :4], output[0, :, 4:]], -1) if bidirectional else output[-1]


@every_linkage
def test_zeros_are_the_zero_state(linkage: str) -> None:
    rnn = memory_lstm(3, 4, 2, linkage=linkage, bidirectional=True)
    h, c = torch.zeros(4, 6, 4), torch.zeros(4, 6, rnn.state_size())
    assert_close(rnn.unpack_state((h, c)), rnn.dnc.zero_state(6), "equal")
    assert_close(rnn.pack_state(rnn.dnc.zero_state(6)), (h, c), "equal")


@every_linkage
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_parts_are_carried_without_rounding(linkage: str, dtype: torch.dtype) -> None:
    """To the last bit as a `DNCState` is, also where the memory is wider than the model."""
    rnn = memory_lstm(3, 4, 2, linkage=linkage, dtype=dtype)
    hx = state = None
    for x in torch.randn(3, 4, 2, 3, dtype=dtype):
        output, hx = rnn(x, hx)
        expected, state = rnn.dnc(x, state)
        assert torch.equal(output, expected)
    assert hx is not None and hx[1].dtype == torch.float32
    assert_close(rnn.unpack_state(hx), state, "equal")


@every_linkage
def test_gradients_cross_parts(linkage: str) -> None:
    rnn, x = memory_lstm(3, 4, 2, linkage=linkage, **F64), normal(6, 2, 3)
    found = []
    for lengths in ([6], [4, 2], [1] * 6):
        leaf, hx, outputs = require_grad(x), None, []
        for part in leaf.split(lengths):
            output, hx = rnn(part, hx)
            outputs.append(output)
        leaves = {"x": leaf, "parameters": dict(rnn.named_parameters())}
        found.append(outcome({"output": torch.cat(outputs), "hx": hx}, leaves))
    assert_close(found[1:], [found[0]] * 2, "float64")


def test_a_change_of_the_top_row_of_h_changes_the_top_layer() -> None:
    rnn = memory_lstm(3, 4, 2, **F64)
    output, (h, c) = rnn(normal(5, 6, 3))
    change = torch.zeros_like(h)
    change[1] = normal(6, 4)
    state, other = rnn.unpack_state((h, c)), rnn.unpack_state((h + change, c))
    assert_close(other.controller[1][0], state.controller[1][0] + change[1], "float64")
    assert not torch.equal(state.controller[1][0], output[-1])
    assert_close(other.reset("controller"), state.reset("controller"), "equal")


def test_state_of_a_separable_link_grows() -> None:
    rnn = memory_lstm(3, 4, 2, linkage="separable")
    _, (h, c) = rnn(torch.randn(5, 6, 3))
    assert c.shape[-1] == rnn.state_size(5) == rnn.state_size() + 2 * 5 * 5 / 2
    assert rnn(torch.randn(2, 6, 3), (h, c))[1][1].shape[-1] == rnn.state_size(7)


def test_numbers_of_cells_are_exact_or_refused() -> None:
    half = {"linkage": "sparse", "dtype": torch.bfloat16, "state_dtype": torch.bfloat16}
    rnn = memory_lstm(3, 4, **half, num_cells=256)
    state = rnn.dnc.zero_state(1)
    state.memory.link.columns[..., :2] = torch.tensor([254, 255])
    assert_close(rnn.unpack_state(rnn.pack_state(state)), state, "equal")
    message = r"linkage=.sparse. keeps numbers of cells.*bfloat16 .* up to 256, got num_cells=257"
    with pytest.raises(ValueError, match=message):
        memory_lstm(3, 4, **half, num_cells=257)(torch.zeros(5, 1, 3, dtype=torch.bfloat16))
    rnn = memory_lstm(3, 4, linkage="sparse", num_cells=257, dtype=torch.bfloat16)
    x = torch.zeros(5, 1, 3, dtype=torch.bfloat16)
    _, (h, c) = rnn(x)
    rnn(x, (h, c))
    rnn(x, (h, torch.zeros_like(h)))
    with pytest.raises(ValueError, match=message):
        rnn(x, (h, c.bfloat16()))


@pytest.mark.parametrize(
    ("hx", "error", "message"),
    [
        (torch.zeros(2, 6, 4), TypeError, r"hx must be a pair \(h, c\).*got a Tensor; pack_state"),
        (DNCState(), TypeError, "hx must be a pair .* got a DNCState"),
        ((None, torch.zeros(1)), TypeError, "got a tuple of NoneType, Tensor"),
        (pairs(5, size=44), ValueError, r"hx\[0\], h, .* \(2, 6, 4\), got \(2, 5, 4\)"),
        (pairs(size=44), ValueError, r"hx\[0\], h, .* \(2, 6, 4\), got \(2, 4\)"),
        (
            pairs(6, size=45),
            ValueError,
            r"hx\[1\], c, .* \(2, 6, 44\), .*state_size\(\).* \(2, 6, 4\), .*got \(2, 6, 45\)",
        ),
        (pairs(6, size=44, **F64), ValueError, r"h, must be torch\.float32 .*got torch\.float64"),
        (
            pairs(6, size=4, device="meta"),
            ValueError,
            r"must be on cpu .*got meta; .*\.to\('cpu'\)",
        ),
        (pairs(6, size=4, dtype=torch.int64), ValueError, r"must be torch\.float32 .*torch\.int64"),
    ],
)
def test_messages_name_the_state(hx: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        memory_lstm(3, 4, 2)(torch.zeros(5, 6, 3), hx)


def test_a_wrong_input_is_named_before_the_state() -> None:
    rnn = memory_lstm(3, 4, 2)
    for x in (torch.zeros(3), [0.0], torch.zeros(5, 6, 2)):
        with pytest.raises((TypeError, ValueError), match="input must"):
            rnn(x, pairs(6, size=4))


def test_messages_of_packing() -> None:
    rnn = memory_lstm(3, 4, 2)
    state = rnn.dnc.zero_state(6)
    for given, error, message in (
        (state.reset("controller"), ValueError, "must not contain None; dnc.zero_state"),
        (None, ValueError, "must not contain None"),
        (rnn.dnc.zero_state(6, num_cells=7), ValueError, "num_cells=5 like the model .* got 7"),
        (state._replace(read_vectors=torch.zeros(6, 2, 4)), ValueError, "state.read_vectors must"),
        (tuple(state), TypeError, "state must be a DNCState"),
    ):
        with pytest.raises(error, match=message):
            rnn.pack_state(given)
    with pytest.raises(ValueError, match=r"output must have shape \(6, 4\), got \(5, 4\)"):
        rnn.pack_state(state, torch.zeros(5, 4))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"output_size": 5}, TypeError, "there is no option 'output_size'"),
        ({"controller": "gru"}, TypeError, "there is no option 'controller'"),
        ({"bidirectional_controller": True}, TypeError, "no option 'bidirectional_controller'"),
        ({"num_cell": 5}, TypeError, "did you mean 'num_cells'"),
        ({"proj": 2}, TypeError, "did you mean 'proj_size'"),
        ({"proj_size": 4}, ValueError, "proj_size must be smaller than hidden_size=4, got 4"),
        ({"proj_size": -1}, ValueError, "proj_size must be at least 0, got -1"),
        ({"proj_size": 2, "input_gain": 2.0}, ValueError, "input_gain must be 1 with proj_size"),
    ],
)
def test_messages_name_the_option(options: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        MemoryLSTM(3, 4, **options)


def test_signature_begins_with_that_of_nn_lstm() -> None:
    shown = inspect.signature(MemoryLSTM).parameters
    names = inspect.signature(nn.RNNBase.__init__).parameters
    assert list(shown)[:10] == list(names)[2:]  # after self and mode
    assert {"num_cells", "linkage", "backend"} < shown.keys()


def test_idle_dropout_warns_once() -> None:
    with pytest.warns(UserWarning, match="dropout") as warned:
        MemoryLSTM(3, 4, dropout=0.5)
    assert len(warned) == 1 and warned[0].filename == __file__


def test_projected_layer_is_that_of_nn_lstm() -> None:
    controller = ProjectedLSTMController(3, cell_size=4, proj_size=2, **F64)
    lstm, x = nn.LSTM(3, 4, proj_size=2, **F64), normal(5, 6, 3)
    names = {name: f"layers.0.{name.removesuffix('_l0')}" for name, _ in lstm.named_parameters()}
    assert list(names.values()) == [name for name, _ in controller.named_parameters()]
    parameters = dict(controller.named_parameters())
    lstm.load_state_dict({name: parameters[home] for name, home in names.items()})
    outputs, state = [], controller.zero_state(6)
    for step in x:
        output, state = controller(step, state)
        outputs.append(output)
    expected, (h, c) = lstm(x)
    assert_close((torch.stack(outputs), state), (expected, ((h[0], c[0]),)), "float64")


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_projected_model_equals_its_reference(clip: float | None) -> None:
    found = [projected_outcome(clip, backend) for backend in ("eager", "reference")]
    assert_close(found[0], found[1], "float64")
    other = projected_outcome(1.0, "eager")
    same = all(torch.equal(other[name], part) for name, part in found[0].items())
    assert same == (clip is None)


def projected_outcome(clip: float | None, backend: str) -> dict[str, Tensor]:
    """Outputs, state and gradients of a small model with projections; none of them exceeds 1."""
    torch.manual_seed(0)
    options = {"proj_size": 2, "activation_clip": clip, "backend": backend}
    rnn, x = memory_lstm(3, 4, 2, **options, **F64), require_grad(normal(5, 6, 3))
    output, hx = rnn(x)
    leaves = {"x": x, "parameters": dict(rnn.named_parameters())}
    return outcome({"output": output, "hx": hx}, leaves, (output.sum() + hx[0].sum()) / 100)


def test_projected_values_are_clipped() -> None:
    rnn = memory_lstm(3, 4, proj_size=2, value_clip=0.01, **F64)
    _, ((h, c),) = rnn.dnc.cell.controller(
        normal(5, 3 + rnn.config.read_size), rnn.dnc.zero_state(5).controller
    )
    assert h.abs().max() == c.abs().max() == 0.01


def test_replicas_have_parameters_of_their_own_at_the_same_time() -> None:
    """As their threads need them."""
    rnn = memory_lstm(3, 4)
    dncs = []
    for factor in (2, 3):
        replica = rnn._replicate_for_data_parallel()
        for name, parameter in rnn.named_parameters():
            setattr(replica, name, factor * parameter)
        dncs.append(replica.dnc)
    for dnc, factor in zip([rnn.dnc, *dncs], (1, 2, 3), strict=True):
        assert torch.equal(dnc.cell.interface.weight, factor * rnn.weight_interface)


def test_training_mode_reaches_the_dnc() -> None:
    rnn = memory_lstm(3, 4, 2)
    assert not rnn.eval().dnc.training and rnn.train().dnc.cell.controller.training
