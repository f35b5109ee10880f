"""Sparse, separable and no linkage, and weightings cut to their largest entries."""

import pytest
import torch
from states import (
    TOLERANCES,
    assert_backward_equals_autograd,
    assert_close,
    lively_dnc,
    lively_state,
    needs_numba,
    normal,
    random_interfaces,
    random_weighting,
    require_grad,
    run,
    separated_state,
    separated_usage,
    weighed_sum,
    with_link,
)

from dnc_fast import DNC, DNCCell, DNCState, MemoryState, memory_step
from dnc_fast.linkages import LINKAGES, SeparableLink, SparseLink, linkage_of
from dnc_fast.linkages.dense import directional_weightings, update_link
from dnc_fast.linkages.selection import Kept, keep_largest, keep_largest_backward
from dnc_fast.linkages.separable import (
    extend_separable_link,
    separable_directional_weightings,
    separable_directional_weightings_backward,
)
from dnc_fast.linkages.sparse import (
    link_write,
    link_write_backward,
    sparse_products,
    touched_rows,
    update_sparse_link,
    update_sparse_link_backward,
)
from dnc_fast.reference import update_precedence
from dnc_fast.state import MemorySizes, tensors
from dnc_fast.step_options import StepOptions

SIZES = MemorySizes(2, 6, 3, 2, 2)
NEW = ("sparse", "separable", "none")

every_new_linkage = pytest.mark.parametrize("linkage", NEW)


# Whole sequences; test_engine.py compares them with the reference


@needs_numba
@every_new_linkage
def test_many_cells_equal_the_plain_step(linkage):
    """More cells than a strip, few and all of them used."""
    N, B, Hw = 4200, 2, 2
    options = {"num_cells": N, "linkage": linkage, "num_write_heads": Hw, "link_fan_out": 4}
    generator = torch.Generator().manual_seed(7)

    def weights(*shape):
        return random_weighting(*shape, N, generator=generator)

    for lowest in (0.0, 0.99):
        for cut in ({}, {"read_topk": 5, "write_topk": 4}):
            link = None
            if linkage == "sparse":
                steps = torch.randint(1, N // 4, (B, Hw, N, 4), generator=generator)
                columns = steps.cumsum(-1).to(torch.int32)
                values = torch.rand(columns.shape, generator=generator, dtype=torch.float64)
                empty = torch.rand(B, Hw, N, 1, generator=generator) < 0.3
                link = SparseLink(values.masked_fill(empty, 0), columns.masked_fill(empty, -1))
            elif linkage == "separable":
                link = SeparableLink(weights(B, Hw, 3), weights(B, Hw, 3))
            usage = lowest + (1 - lowest) * separated_usage(B, N, generator)
            memory = MemoryState(
                normal(B, N, 3, generator=generator),
                *(usage, weights(B, Hw), link, weights(B, Hw), weights(B, 2)),
            )
            state = DNCState(None, memory, None)
            models = (lively_dnc(backend=name, **options, **cut) for name in ("eager", "cpu"))
            x = normal(2, 2, 3, generator=generator)
            assert_close(*(run(model, x, state) for model in models), "float64")


def test_a_separable_link_that_was_changed_is_refused_in_the_backward_pass():
    """Links of other linkages may be changed, see test_engine.py."""
    model = lively_dnc(linkage="separable", num_cells=6)
    output, state = model(normal(4, 2, 3))
    for part in tensors(state.detach().memory):
        part[:1] = 0
    with pytest.raises(RuntimeError, match=r"state.memory.link was modified in place"):
        output.square().sum().backward()


@needs_numba
def test_nan_stays_within_its_rows():
    from dnc_fast.backends.cpu.links import CpuSparseRun

    N, K = 12, 3
    values, columns = torch.full((N * K + 64,), 777.0), torch.full((N * K + 64,), 777).int()
    link = SparseLink(*(part[: N * K].view(1, 1, N, K) for part in (values, columns)))
    link.values.fill_(1 / 3)
    for i in range(N):
        link.columns[0, 0, i] = torch.tensor([j for j in range(4) if j != i][:K])
    weights, precedence = torch.zeros(2, 1, 1, N)
    weights[..., 11], precedence[..., 4:7] = torch.nan, 0.3
    run = CpuSparseRun(link, StepOptions(), steps=1, keep=False)
    run.update(link, link_write(precedence, weights, K), 0.0)
    assert (values[N * K :] == 777).all() and (columns[N * K :] == 777).all()


@every_new_linkage
def test_both_directions_train_in_float32(linkage):
    model = DNC(3, 4, num_cells=6, cell_size=3, linkage=linkage, bidirectional=True)
    output, states = model(torch.randn(4, 2, 3))
    output.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
    assert [linkage_of(state.memory.link).name for state in states] == [linkage, linkage]


def test_trace_and_reference_of_every_linkage():
    x = normal(3, 2, 3)
    for linkage in LINKAGES:
        model = lively_dnc(linkage=linkage, num_cells=6, read_topk=3)
        output, _, trace = model(x, return_trace=True)
        assert_close([output], [model(x)[0]], "float64")
        assert (trace.read_weights.count_nonzero(dim=-1) <= 3).all()


def test_results_do_not_depend_on_threads():
    model = DNC(3, 4, num_cells=5000, cell_size=3, linkage="sparse", write_topk=4, read_topk=4)
    x, threads, found = torch.randn(3, 1, 3), torch.get_num_threads(), []
    try:
        for number in (1, 2):
            torch.set_num_threads(number)
            output, _ = model(x)
            found.append([output, *torch.autograd.grad(output.sum(), list(model.parameters()))])
    finally:
        torch.set_num_threads(threads)
    assert_close(*found, "equal")


# What each linkage is


@pytest.mark.parametrize("K", [6, 8])
def test_sparse_with_every_entry_is_dense(K):
    dense = separated_state(SIZES)
    found = []
    for link in (dense.link, SparseLink.from_dense(dense.link, K)):
        vectors = random_interfaces(5, SIZES).requires_grad_()
        first = state = require_grad(dense._replace(link=link))
        reads = []
        for vector in vectors:
            read, state = memory_step(vector, state, link_threshold=0.0, read_topk=6, write_topk=9)
            reads.append(read)
        end = state.link if isinstance(state.link, torch.Tensor) else state.link.to_dense()
        loss = weighed_sum([*reads, state.memory, state.precedence, end])
        *gradients, d_link = torch.autograd.grad(
            loss,
            [vectors, *first[:3], *first[4:], first.link if link is dense.link else first.link[0]],
        )
        if link is not dense.link:
            d_link = SparseLink(d_link, link.columns).to_dense()
        diagonal = torch.eye(6, dtype=torch.bool)
        found.append([*reads, end, *gradients, d_link.masked_fill(diagonal, 0)])
    assert_close(found[0], found[1], "float64")


def test_rows_of_a_sparse_link_stay_in_order_and_below_their_size():
    model = lively_dnc(linkage="sparse", link_fan_out=3, link_threshold=0.05, num_cells=8)
    link = model(normal(20, 2, 3, generator=torch.Generator().manual_seed(0)))[1].memory.link
    held = link.columns >= 0
    assert held.any() and not held.all()
    assert (link.values[held] >= 0.05).all() and (link.values[~held] == 0).all()
    assert (link.columns[held] < 8).all()
    later = link.columns[..., 1:] > link.columns[..., :-1]
    assert (later | ~held[..., 1:]).all()
    assert (held[..., :-1] | ~held[..., 1:]).all()  # empty places come last
    rows = torch.arange(8).view(1, 1, 8, 1)
    assert (link.columns != rows).all()


def test_the_largest_of_too_many_entries_stay_ties_by_column():
    values = torch.tensor([[0.3, 0.2, 0.2], [0.0, 0.0, 0.0]], dtype=torch.float64)
    columns = torch.tensor([[2, 3, 4], [-1, -1, -1]], dtype=torch.int32)
    link = SparseLink(*(torch.zeros(1, 1, 6, 3, dtype=part.dtype) for part in (values, columns)))
    link = SparseLink(link.values, link.columns - 1)
    link.values[0, 0, :2], link.columns[0, 0, :2] = values, columns
    precedence = torch.tensor([[[0.0, 0.0, 0.0, 0.0, 0.0, 0.8]]], dtype=torch.float64)
    write = torch.tensor([[[0.25, 0.0, 0.0, 0.0, 0.0, 0.0]]], dtype=torch.float64)
    entry = link_write(precedence, write, 3)
    row = update_sparse_link(link, entry, 0.0)
    # 0.75 of the old entries, and 0.25 * 0.8 = 0.2 new: of 0.225, 0.15, 0.15, 0.2 and zeros
    assert row.columns[0, 0, 0].tolist() == [2, 3, 5]
    torch.testing.assert_close(
        row.values[0, 0, 0], torch.tensor([0.225, 0.15, 0.2], dtype=torch.float64)
    )


def test_separable_is_dense_where_each_write_is_to_one_cell():
    generator = torch.Generator().manual_seed(0)
    link = torch.zeros(1, 1, 6, 6, dtype=torch.float64)
    precedence = link[..., 0, :]
    writes = SeparableLink(link[..., :0, :], link[..., :0, :])
    for _ in range(12):
        write = torch.zeros(1, 1, 6, dtype=torch.float64)
        cell = torch.randint(6, (), generator=generator)
        write[0, 0, cell] = torch.rand((), generator=generator, dtype=torch.float64)
        link = update_link(link, precedence, write)
        writes = extend_separable_link(writes, precedence, write)
        precedence = update_precedence(precedence, write)
        read = random_weighting(1, 2, 6, generator=generator)
        assert_close(
            list(separable_directional_weightings(writes, read)),
            list(directional_weightings(link, read)),
            "float64",
        )
    assert link.count_nonzero() > 10


def test_forgetting_the_oldest_writes():
    writes = with_link(separated_state(MemorySizes(2, 5, 1, 1, 1)), "separable").link
    assert writes.last(2).write_weights.shape == (2, 1, 2, 5)
    assert_close(list(writes.last(9)), list(writes), "equal")
    assert_close([writes.last(1).precedence], [writes.precedence[:, :, 2:]], "equal")


def test_no_linkage_is_a_link_matrix_of_zeros():
    none, dense = (lively_dnc(linkage=name, num_cells=6) for name in ("none", "dense"))
    x = normal(1, 2, 3)
    state = lively_state(dense, 2)
    empty = state.memory._replace(link=torch.zeros_like(state.memory.link))
    empty = empty._replace(precedence=torch.zeros_like(empty.precedence))
    found, _ = none(x, state._replace(memory=empty._replace(link=None)))
    assert_close([found], [dense(x, state._replace(memory=empty))[0]], "float64")


# Hand-derived gradients of the parts


def test_keep_largest_keeps_the_sum_and_breaks_ties_by_cell():
    kept = keep_largest(torch.tensor([0.1, 0.2, 0.1, 0.2, 0.1]), 3)
    assert kept.cells.tolist() == [0, 1, 3]
    torch.testing.assert_close(kept.values.sum(), torch.tensor(0.7))
    assert keep_largest(torch.zeros(4), 2).values.tolist() == [0, 0]
    torch.testing.assert_close(keep_largest(torch.rand(9), 2, True).values.sum(), torch.tensor(1.0))
    assert (keep_largest(torch.rand(99, 9), 1, True).values == 1).all()  # not nearly


@pytest.mark.parametrize("unit_sums", [False, True])
@pytest.mark.parametrize("count", [1, 3, 4, 6, 9])
@pytest.mark.parametrize("zeros", [False, True])
def test_keep_largest_backward(count, unit_sums, zeros):
    weights = random_weighting(2, 2, 6)
    if zeros:  # the kept entries are all there is, and yet the others have a gradient
        weights = (256 * weights).round() / 256  # so that sums are exact
        weights[..., ::3] = 0
    else:
        torch.autograd.gradcheck(
            lambda w: keep_largest(w, count, unit_sums).spread(6), weights.clone().requires_grad_()
        )
    weights.requires_grad_()
    kept = keep_largest(weights, count, unit_sums)
    d_values = normal(*kept.values.shape)
    expected = torch.autograd.grad((kept.values * d_values).sum(), weights)
    kept = Kept(*(part.detach() for part in kept))
    found = keep_largest_backward(d_values, kept, 6, unit_sums)
    assert_close([found], list(expected), "float64")


@pytest.mark.parametrize("threshold", [None, 0.0, 0.05])
def test_update_sparse_link_backward(threshold):
    dense = separated_state(SIZES)
    link = SparseLink.from_dense(dense.link, 3)
    values, write, precedence = require_grad((link.values, dense.write_weights, dense.precedence))
    entry = link_write(precedence, write, 3)
    new = update_sparse_link(SparseLink(values, link.columns), entry, threshold)
    d_new = normal(*new.values.shape).masked_fill(new.columns < 0, 0)
    expected = torch.autograd.grad((new.values * d_new).sum(), (values, precedence, write))
    with torch.no_grad():
        rows = touched_rows(link, entry, threshold)
        places = tuple(rows.T)
        before, after = (SparseLink(*(part[places] for part in one)) for one in (link, new))
        d_rows, *d_entry = update_sparse_link_backward(d_new[places], before, after, rows, entry)
        d_values = d_new.clone()
        d_values[places] = d_rows
        found = [d_values, *link_write_backward(*d_entry, entry)]
    assert_close(found, list(expected), "float64")
    untouched = torch.ones(new.columns.shape[:-1], dtype=torch.bool)
    untouched[places] = False
    assert (new.columns[untouched] == link.columns[untouched]).all()


def test_directional_weightings_are_those_of_the_matrix():
    state = separated_state(SIZES)
    link = SparseLink.from_dense(state.link, 4)
    expected = directional_weightings(link.to_dense(), state.read_weights)
    found = [part.transpose(1, 2) for part in sparse_products(link, state.read_weights)]
    assert_close(list(found), list(expected), "float64")


def test_separable_directional_weightings_backward():
    read = random_weighting(2, 2, 6)

    def backward(d_forward, d_backward, *link):
        link = SeparableLink(*link)
        return separable_directional_weightings_backward(d_forward, d_backward, link, read)

    assert_backward_equals_autograd(
        backward,
        lambda *link: separable_directional_weightings(SeparableLink(*link), read),
        list(with_link(separated_state(SIZES), "separable").link),
    )


# States and errors


@every_new_linkage
def test_states_move_and_slice(linkage):
    model = DNC(3, 4, num_cells=6, cell_size=3, linkage=linkage)
    _, state = model(torch.randn(3, 2, 3))
    double = state.to(torch.float64)
    floats = [part for part in tensors(double) if part.is_floating_point()]
    assert {part.dtype for part in floats} == {torch.float64}
    if linkage == "sparse":
        assert double.memory.link.columns.dtype == torch.int32
    one = state.slice_batch(slice(1, 2))
    assert {len(part) for part in tensors(one)} == {1}
    model(torch.randn(2, 1, 3), one)
    model.double()(torch.randn(2, 2, 3, dtype=torch.float64), model.zero_state(2))


def test_a_state_of_another_linkage_is_refused():
    sparse, dense = (DNC(3, 4, num_cells=6, linkage=name) for name in ("sparse", "dense"))
    with pytest.raises(ValueError, match="linkage 'dense' like the model, got 'sparse'"):
        dense(torch.randn(2, 1, 3), sparse.zero_state(1))


def test_a_full_separable_link_says_what_to_do():
    model = DNC(3, 4, num_cells=6, linkage="separable", link_history=4)
    _, state = model(torch.randn(4, 1, 3))
    with pytest.raises(ValueError, match=r"link_history=4 writes, got 4 .*link.last\(count\)"):
        model(torch.randn(1, 1, 3), state)
    memory = state.memory._replace(link=state.memory.link.last(3))
    model(torch.randn(1, 1, 3), state._replace(memory=memory))
    with pytest.raises(ValueError, match=r"got 0 .* 5 more .*give the sequence in parts"):
        model(torch.randn(5, 1, 3))


def test_counts_of_links_are_checked():
    with pytest.raises(ValueError, match="fan_out must be at least 1, got 0"):
        SparseLink.from_dense(torch.zeros(1, 1, 4, 4), 0)
    with pytest.raises(ValueError, match="count must be at least 0, got -1"):
        SeparableLink(torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4)).last(-1)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"columns": 9}, ValueError, "cells from 0 to 5, or -1"),
        ({"columns": 2}, ValueError, "must increase along each row, each cell once, -1 last"),
        ({"columns": [5, 2, 1]}, ValueError, "must increase along each row"),
        ({"columns": [-1, 2, 5]}, ValueError, "must increase along each row"),
        ({"columns": torch.int64}, TypeError, "state.link.columns must be an int32 tensor"),
        ({"values": torch.float64}, ValueError, "state.link.values must be torch.float32"),
        ({"values": 3}, ValueError, r"state.link.values must have shape \(1, 1, 6, 3\)"),
    ],
)
def test_bad_sparse_links_are_refused(change, error, message):
    cell = DNCCell(3, 4, num_cells=6, linkage="sparse", link_fan_out=8)
    state = cell.zero_state(1)
    link = state.memory.link
    for name, value in change.items():
        part = getattr(link, name)
        if isinstance(value, torch.dtype):
            part = part.to(value)
        elif name == "columns":
            row = value if isinstance(value, list) else [value] * part.shape[-1]
            row = torch.tensor(row + [-1] * (part.shape[-1] - len(row)), dtype=torch.int32)
            part = row.expand_as(part).clone()
        else:
            part = part[..., 0, :value]
            message = "state.link.values must have shape"
        link = link._replace(**{name: part})
    state = state._replace(memory=state.memory._replace(link=link))
    with pytest.raises(error, match=message):
        cell(torch.randn(1, 3), state)


def test_tolerances_are_those_of_the_issue():
    """Equal to the reference to 1e-10; the tests above ask for more."""
    assert max(TOLERANCES["float64"]) <= 1e-10


def test_a_sparse_link_of_another_fan_out_is_refused():
    """With K = 1 the least link is 1 by default: every link would be dropped."""
    few = lively_dnc(linkage="sparse", link_fan_out=1, link_threshold=0.01)
    many = lively_dnc(linkage="sparse", link_fan_out=3)
    _, state = few(normal(3, 2, 3))
    with pytest.raises(
        ValueError, match=r"state\.memory must have shapes.*link.values': \(2, 1, 5, 3"
    ):
        many(normal(3, 2, 3), state)


@pytest.mark.parametrize("linkage", ["dense", "separable", "none"])
def test_single_steps_by_auto_can_be_compiled(linkage):
    """Where kernels cannot be part of a graph, the reference is."""
    cell = DNCCell(3, 4, num_cells=5, cell_size=3, linkage=linkage)
    x, state = torch.randn(2, 3), cell.zero_state(2)
    with torch.no_grad():
        found = torch.compile(cell, backend="eager", fullgraph=True)(x, state)
        assert_close(found[0], cell(x, state)[0], "float32")


def test_states_that_were_pickled_before_can_be_loaded():
    from dnc_fast import links

    assert (links.SparseLink, links.SeparableLink) == (SparseLink, SeparableLink)
