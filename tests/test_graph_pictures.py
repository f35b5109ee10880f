"""Pictures of graphs: what is drawn where, and what is refused."""

from itertools import pairwise

import pytest
import torch

pytest.importorskip("matplotlib")

from dnc_fast import Trace
from dnc_fast.pictures import graph_view, read_view, save_picture
from dnc_fast.pictures.graph import spread_out
from dnc_fast.pictures.reads import triples_read

TRIPLES = [("a", "x", "b"), ("b", "x", "a"), ("b", "y", "c"), ("c", "x", "a")]


def texts(figure):
    return {text.get_text() for axes in figure.axes for text in axes.texts}


def test_a_graph_shows_all_nodes_and_the_answer_s_edges(tmp_path):
    figure = graph_view(TRIPLES, [TRIPLES[0], TRIPLES[2]], [TRIPLES[0], ("b", "z", "#7")], "title")
    assert texts(figure) >= {"a", "b", "c", "#7", "1: x", "2: z"}
    by_text = {text.get_text(): text for axes in figure.axes for text in axes.texts}
    assert by_text["1: x"].get_color() != by_text["2: z"].get_color()  # no such edge
    assert by_text["a"].get_fontweight() == by_text["c"].get_fontweight() == "bold"
    assert by_text["b"].get_fontweight() == "normal"
    assert save_picture(figure, tmp_path / "graph.png").stat().st_size > 10_000


def test_a_graph_without_edges_is_refused():
    with pytest.raises(ValueError, match="triples must hold at least one edge, got none"):
        graph_view([], [], [], "title")


def test_nodes_are_spread_out_and_neighbours_near():
    ring = [(node, (node + 1) % 12) for node in range(12)]
    places = spread_out(12, ring)
    apart = torch.cdist(places, places)
    assert places.min() == 0 and places.max() == 1
    assert apart[~torch.eye(12, dtype=torch.bool)].min() > 0.1
    near = torch.stack([apart[a, b] for a, b in ring]).mean()
    assert near < 0.7 * apart[~torch.eye(12, dtype=torch.bool)].mean()
    assert torch.equal(places, spread_out(12, ring))
    assert torch.isfinite(spread_out(1, [])).all()


def one_hot(rows, cells):
    """(T, cells) with a one in each row, or none for None."""
    weights = torch.zeros(len(rows), cells)
    for step, cell in enumerate(rows):
        if cell is not None:
            weights[step, cell] = 1.0
    return weights


def test_read_shares_follow_what_the_cells_hold():
    write = one_hot([0, 1, 0, None, 2], 3)  # triple 2 takes the cell of triple 0; step 4 takes 2
    read = torch.stack([one_hot([None, None, None, 1, 2], 3), torch.full((5, 3), 0.25)], 1)
    shares = triples_read(read, write, 3)
    assert shares.shape == (2, 2, 4)
    assert shares[0, 0].tolist() == [0, 1, 0, 0]  # triple 1 is in cell 1
    assert shares[1, 0].tolist() == [0, 0, 0, 1]  # what was written after the triples is none
    assert shares[0, 1].tolist() == [0, 0.25, 0.25, 0.5]  # cell 2 is empty; a quarter is unread
    assert torch.allclose(shares.sum(-1), torch.ones(2, 2))


def trace(steps, heads, cells):
    """A trace in which head h reads cell (t + h) % cells, and step t writes cell t."""
    empty = {name: torch.zeros(steps, 1) for name in Trace._fields}
    read = [
        one_hot([(step + head) % cells for step in range(steps)], cells) for head in range(heads)
    ]
    write = one_hot([step if step < cells else None for step in range(steps)], cells)
    return Trace(**{**empty, "read_weights": torch.stack(read, 1), "write_weights": write[:, None]})


def test_each_head_points_at_its_triple(tmp_path):
    told = {step: f"triple {step}" for step in range(4)}
    figure = read_view(told, trace(7, 2, 4), "title")
    *heads, bar = figure.axes
    assert len(heads) == 2 and bar.get_ylabel() == "share of the weighting"
    for head, axes in enumerate(heads):
        labels = [label.get_text() for label in axes.get_yticklabels()]
        assert labels[-1] == "(no triple)" and sorted(labels[:-1]) == sorted(told.values())
        (dots,) = axes.lines
        pointed = {int(x): labels[int(y)] for x, y in zip(*dots.get_data(), strict=True)}
        assert pointed == {step: f"triple {(step + head) % 4}" for step in (4, 5, 6)}
    assert save_picture(figure, tmp_path / "reads.png").stat().st_size > 5_000
    *_, axes, _ = read_view(told, trace(7, 2, 4), "title", "constraint").axes
    words = [axes.get_title("left"), axes.get_xlabel(), axes.get_yticklabels()[-1].get_text()]
    assert all("constraint" in text and "triple" not in text for text in words)


@pytest.mark.parametrize(
    ("told", "given", "error", "message"),
    [
        ({0: "a"}, "trace", TypeError, "trace must be a dnc_fast.Trace, got str"),
        ({}, trace(3, 1, 2), ValueError, "told must end before the last of 3 steps and hold one"),
        ({2: "a"}, trace(3, 1, 2), ValueError, "got 3 steps"),
    ],
)
def test_mistakes_are_named(told, given, error, message):
    with pytest.raises(error, match=message):
        read_view(told, given, "title")


def test_labels_do_not_cover_each_other():
    """Of nodes in a crowd, and of the edges of a long answer."""
    names = [f"a long name {number}" for number in range(14)]
    told = [(a, "line", b) for a in names for b in names if a < b]
    answered = [(a, f"line {a[-2:]}", b) for a, b in pairwise(names)]
    figure = graph_view(told, answered, answered, "title")
    figure.draw_without_rendering()
    labels = [text for text in figure.axes[0].texts if text.get_text()]
    assert len(labels) == 14 + 13
    boxes = [label.get_window_extent() for label in labels]
    covered = [
        (labels[i].get_text(), labels[j].get_text())
        for i, one in enumerate(boxes)
        for j, other in enumerate(boxes[:i])
        if one.overlaps(other)
    ]
    assert not covered
