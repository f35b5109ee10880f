"""Pictures: their panels, their edge cases, and writing them to disk."""

from __future__ import annotations

import math
import os
import sys

import pytest
import torch
from states import python

from dnc_fast import DNC, Trace
from dnc_fast.pictures import (
    contents_view,
    hidden_view,
    learning_curve,
    memory_view,
    save_picture,
)

matplotlib = pytest.importorskip("matplotlib")


def random_trace(T, N, R=1, Hw=1):
    """The trace of one random sequence and model."""
    torch.manual_seed(0)
    dnc = DNC(3, 4, num_cells=N, cell_size=4, num_read_heads=R, num_write_heads=Hw)
    return dnc(3 * torch.randn(T, 3), return_trace=True)[2]


def sequence(T=12, X=5, Y=3, N=8, R=1, Hw=1):
    """Arguments of memory_view: the answer counts in the second half, and all bits are right."""
    generator = torch.Generator().manual_seed(1)
    targets = (torch.rand(T, Y, generator=generator) > 0.5).float()
    return {
        "inputs": torch.rand(T, X, generator=generator),
        "outputs": 0.1 + 0.8 * targets,
        "targets": targets,
        "mask": (torch.arange(T) >= T // 2).float(),
        "trace": random_trace(T, N, R, Hw),
        "title": "Copy",
    }


def panels(figure):
    """The axes of each panel by its title, with the panels of a group under the first one's."""
    groups, name = {}, None
    for axes in figure.axes:
        if axes.get_xaxis().get_label().get_text() or axes in linked(figure):
            name = axes.get_title(loc="left") or name
            groups.setdefault(name, []).append(axes)
    return groups


def linked(figure):
    """The panels, which share the first one's horizontal axis; colour bars do not."""
    return figure.axes[0].get_shared_x_axes().get_siblings(figure.axes[0])


def shown(axes):
    """The values of a panel's image, (rows, T)."""
    return torch.as_tensor(axes.images[0].get_array().data)


def right_title(axes):
    return axes.get_title(loc="right")


def crosses(axes):
    """Where wrong answers are marked: (step, row) of each."""
    marks = next(line for line in axes.lines if line.get_marker() == "x")
    return list(zip(*marks.get_data(), strict=True))


def pixels(figure, tmp_path, name="picture.png"):
    """The figure saved and read back, (height, width, RGBA)."""
    from matplotlib.image import imread

    return imread(save_picture(figure, tmp_path / name))


def assert_drawn(figure, tmp_path):
    """Saved, it is a PNG of the figure's size and not blank; nothing is cropped by the edge."""
    image = pixels(figure, tmp_path)
    width, height = figure.get_size_inches()
    assert image.shape == (round(height * 150), round(width * 150), 4)
    colours = torch.as_tensor(image[::15, ::15].copy()).flatten(0, 1).unique(dim=0)
    assert len(colours) > 8
    box = figure.get_tightbbox(figure.canvas.get_renderer())
    assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height


# The memory view.


def test_memory_view_has_all_panels(tmp_path):
    figure = memory_view(**sequence())
    weightings = ["write weighting", "read weighting", "usage"]
    gates = ["write and allocation gate", "free gate", "read modes", "strengths"]
    assert list(panels(figure)) == ["inputs", "targets", "outputs", *weightings, *gates]
    assert all(axes.get_ylabel() for axes in linked(figure))
    assert panels(figure)["strengths"][-1].get_xlabel() == "time step"
    bars = [axes.get_ylabel() for axes in figure.axes if axes not in linked(figure)]
    assert bars == ["value", "value", "probability", "weight", "weight", "usage"]
    assert figure.texts[0].get_text() == "Copy"
    assert_drawn(figure, tmp_path)


def test_memory_view_panels_share_one_time_axis():
    figure = memory_view(**sequence(T=7, R=3))
    edges = {(axes.get_position().x0, axes.get_position().x1) for axes in linked(figure)}
    assert len(edges) == 1
    assert {axes.get_xlim() for axes in linked(figure)} == {(-0.5, 6.5)}


def test_memory_view_shows_the_weightings_cell_by_cell():
    arguments = sequence(N=8, R=2)
    groups = panels(memory_view(**arguments))
    trace = arguments["trace"]
    for axes, head in zip(groups["read weighting"], range(2), strict=True):
        assert torch.equal(shown(axes), trace.read_weights[:, head].T)
        assert axes.get_ylabel() == f"head {head}\ncell"
    assert torch.equal(shown(groups["usage"][0]), trace.usage.T)
    # Row 0 is at the top.
    assert groups["usage"][0].get_ylim() == (7.5, -0.5)


def test_memory_view_counts_wrong_bits_only_where_the_answer_counts():
    arguments = sequence(T=12, Y=3)
    arguments["outputs"][1] = 1 - arguments["outputs"][1]
    arguments["outputs"][7, 2] = 1 - arguments["outputs"][7, 2]
    arguments["outputs"][9, 0] = math.nan
    axes = panels(memory_view(**arguments))["outputs"][0]
    assert right_title(axes) == "\N{MULTIPLICATION SIGN} wrong bits: 2 of 18"
    assert crosses(axes) == [(7, 2), (9, 0)]
    (hatched,) = (patch for patch in axes.patches if patch.get_hatch())
    box = hatched.get_extents().transformed(axes.transData.inverted())
    assert (box.x0, box.x1) == pytest.approx((-0.5, 5.5))


def test_memory_view_marks_classes_that_were_chosen_wrongly():
    arguments = sequence(T=4, Y=3)
    arguments["targets"] = torch.eye(3)[[0, 1, 2, 0]]
    arguments["outputs"] = torch.tensor(
        [[0.2, 0.5, 0.3], [0.3, 0.4, 0.3], [0.4, 0.3, 0.3], [0.4, 0.3, 0.3]]
    )
    arguments["mask"] = torch.tensor([0, 1, 1, 1])
    axes = panels(memory_view(**arguments, num_classes=3))["outputs"][0]
    assert right_title(axes) == "\N{MULTIPLICATION SIGN} wrong answers: 1 of 3"
    assert crosses(axes) == [(2, 0)]


def test_memory_view_marks_where_the_answer_begins_and_ends():
    arguments = sequence(T=6)
    arguments["mask"] = torch.tensor([False, True, True, False, False, True])
    figure = memory_view(**arguments)
    for axes in linked(figure):
        edges = {tuple(line.get_xdata()) for line in axes.lines if line.get_linewidth() == 0.9}
        assert edges == {(0.5, 0.5), (2.5, 2.5), (4.5, 4.5)}


@pytest.mark.parametrize("mask", [0.0, 1.0])
def test_memory_view_without_or_with_only_counting_steps(mask):
    arguments = sequence(T=4, Y=3)
    arguments["mask"] = torch.full((4,), mask)
    figure = memory_view(**arguments)
    axes = panels(figure)["outputs"][0]
    assert right_title(axes).endswith(f"0 of {int(mask) * 12}")
    assert len(axes.patches) == 1 - mask


@pytest.mark.parametrize(
    "sizes",
    [
        {"T": 1, "N": 1, "X": 1, "Y": 1},
        {"T": 1, "N": 5, "R": 5, "Hw": 5},
        {"T": 100, "N": 256, "R": 2, "Hw": 2, "X": 92, "Y": 90},
    ],
    ids=str,
)
def test_memory_view_of_other_sizes(sizes, tmp_path):
    figure = memory_view(**sequence(**sizes))
    assert_drawn(figure, tmp_path)
    for axes in linked(figure):
        low, high = sorted(axes.get_ylim())
        inside = [tick for tick in axes.get_yticks() if low <= tick <= high]
        assert 1 <= len(inside) <= 10
        if axes.images:
            assert all(float(tick).is_integer() for tick in inside)


def test_memory_view_shows_many_heads_together():
    arguments = sequence(N=8, R=6, Hw=5)
    trace = arguments["trace"]
    groups = panels(memory_view(**arguments))
    read, write = (
        groups["read weighting, sum of 6 heads"],
        groups["write weighting, sum of 5 heads"],
    )
    torch.testing.assert_close(shown(read[0]), trace.read_weights.sum(1).T)
    torch.testing.assert_close(shown(write[0]), trace.write_weights.sum(1).T)
    assert len(groups["read modes, mean of 6 heads"]) == 1
    mean = torch.as_tensor(groups["free gates"][0].lines[0].get_ydata())
    torch.testing.assert_close(mean, trace.free_gates.mean(1))


@pytest.mark.parametrize(
    ("write_heads", "expected"),
    [
        (1, {"strengths": 5, "free gates": 4, "write and allocation gate": 2}),
        (4, {"write strengths": 4, "read strengths": 4, "free gates": 4, "write gates": 4}),
    ],
)
def test_memory_view_draws_a_line_for_every_head(write_heads, expected):
    groups = panels(memory_view(**sequence(R=4, Hw=write_heads)))
    for name, count in expected.items():
        labels = [line.get_label() for line in groups[name][0].lines]
        assert sum(not label.startswith("_") for label in labels) == count


def test_memory_view_keeps_single_writes_visible_in_large_memories():
    arguments = sequence(N=300)
    weights = torch.zeros(12, 1, 300)
    weights[3, 0, 299] = 1.0
    arguments["trace"] = arguments["trace"]._replace(write_weights=weights)
    axes = panels(memory_view(**arguments))["write weighting"][0]
    values = shown(axes)
    assert values.shape == (100, 12)
    assert values[99, 3] == 1.0 and values.sum() == 1.0
    assert right_title(axes) == "each row the largest of 3 cells"


def test_memory_view_stacks_the_read_modes_of_all_links():
    arguments = sequence(R=2, Hw=2)
    modes = arguments["trace"].read_modes
    axes = panels(memory_view(**arguments))["read modes"][1]
    tops = [torch.as_tensor(patch.get_data().values) for patch in axes.patches]
    torch.testing.assert_close(tops[0], modes[:, 1, :2].sum(-1))
    torch.testing.assert_close(tops[1], modes[:, 1, :3].sum(-1))
    torch.testing.assert_close(tops[2], torch.ones(12))


def test_memory_view_shows_signed_inputs_around_zero():
    arguments = sequence()
    arguments["inputs"] = torch.linspace(-3, 1, 60).reshape(12, 5)
    image = panels(memory_view(**arguments))["inputs"][0].images[0]
    assert image.get_clim() == (-3.0, 3.0)


def test_memory_view_of_a_diverged_model(tmp_path):
    arguments = sequence(R=2)
    nans = [torch.full_like(part, math.nan) for part in arguments["trace"]]
    arguments["trace"] = Trace(*nans)
    arguments["outputs"] = torch.full_like(arguments["outputs"], math.nan)
    figure = memory_view(**arguments)
    assert right_title(panels(figure)["outputs"][0]).endswith("18 of 18")
    assert_drawn(figure, tmp_path)


def test_memory_view_of_a_model(tmp_path):
    torch.manual_seed(0)
    dnc = DNC(5, 16, num_cells=10, cell_size=4, num_read_heads=2, output_size=3)
    arguments = sequence(X=5, Y=3)
    inputs = torch.stack([arguments["inputs"]] * 2, dim=1)
    outputs, _, trace = dnc(inputs, return_trace=True)
    arguments["outputs"] = outputs[:, 1].sigmoid()  # with a gradient to detach
    arguments["targets"] = arguments["targets"].bool()
    with pytest.raises(ValueError, match=r"trace must be of one sequence, .* of 2; .*part\[:, b\]"):
        memory_view(**{**arguments, "trace": trace})
    arguments["trace"] = Trace(*(part[:, 1] for part in trace))
    assert_drawn(memory_view(**arguments), tmp_path)


@pytest.mark.parametrize(
    "name, value, message",
    [
        ("inputs", torch.zeros(12), r"inputs must have shape \(T, X\).* got \(12,\)"),
        ("inputs", torch.zeros(0, 5), r"inputs must have shape \(T, X\).* got \(0, 5\)"),
        ("inputs", [[1.0]], "inputs must be a tensor, got list"),
        ("outputs", torch.zeros(11, 3), r"outputs must .* \(T, Y\).* T=12, got \(11, 3\)"),
        ("outputs", torch.full((12, 3), -2.5), r"outputs must be probabilities.*-2\.5.*sigmoid"),
        ("targets", torch.zeros(12, 2), r"targets must .* \(T, Y\).* T=12, Y=3, got \(12, 2\)"),
        ("mask", torch.zeros(12, 1), r"mask must have shape \(T\).* T=12, got \(12, 1\)"),
        ("num_classes", 2, "num_classes must divide the 3 outputs of a step, got 2"),
        ("trace", (1, 2), r"trace must be a dnc_fast\.Trace, got tuple.*direction"),
        ("usage", torch.zeros(12, 7), r"trace\.usage .* \(T, N\).* N=8, got \(12, 7\)"),
        ("free_gates", torch.zeros(12, 2), r"trace\.free_gates .* R=1, got \(12, 2\)"),
        ("read_modes", torch.zeros(12, 1, 5), r"trace\.read_modes .* 1 \+ 2 Hw = 3 modes, got 5"),
    ],
)
def test_memory_view_refuses_what_does_not_fit(name, value, message):
    arguments = sequence()
    if name in Trace._fields:
        name, value = "trace", arguments["trace"]._replace(**{name: value})
    with pytest.raises((TypeError, ValueError), match=message):
        memory_view(**{**arguments, name: value})


# The learning curve.

CURVE_PANELS = ["loss", "wrong bits per sequence", "share right"]


def train_rows(count, loss=0.5):
    return [{"step": 10 * (row + 1), "loss": loss / (row + 1)} for row in range(count)]


def evaluation_rows(count):
    return [
        {
            "step": 1000 * (row + 1),
            "loss": 0.5 / (row + 1),
            "wrong": float(count - 1 - row),
            "right": 0.5 + 0.5 * row / max(count - 1, 1),
            "solved": row / max(count - 1, 1),
        }
        for row in range(count)
    ]


def test_learning_curve_has_all_panels(tmp_path):
    figure = learning_curve(train_rows(500), evaluation_rows(5), "Copy")
    groups = panels(figure)
    assert list(groups) == CURVE_PANELS
    assert all(axes.get_ylabel() for axes in linked(figure))
    loss, wrong, right = (groups[name][0] for name in CURVE_PANELS)
    assert loss.get_yscale() == "log" and wrong.get_yscale() == "symlog"
    assert [line.get_label() for line in loss.lines] == [
        "training",
        "running median",
        "evaluation",
    ]
    bits, solved, line = right.lines
    assert list(bits.get_ydata()) == [50, 62.5, 75, 87.5, 100] and bits.get_label() == "bits"
    assert list(solved.get_ydata()) == [0, 25, 50, 75, 100]
    assert solved.get_label() == "sequences, first at 99.5 % in step 5,000"
    assert line.get_ydata()[0] == pytest.approx(99.5)
    assert right.texts[0].get_text() == "99.5 %"
    assert right.get_xlabel() == "training step"
    assert right.xaxis.get_major_formatter()(12000) == "12,000"
    assert_drawn(figure, tmp_path)


def test_learning_curve_smooths_with_a_median():
    rows = train_rows(200)
    for row in rows:
        row["loss"] = 100.0 if row["step"] % 70 == 0 else 1.0
    raw, median = learning_curve(rows, [], "").axes[0].lines
    assert max(raw.get_ydata()) == 100.0
    assert set(median.get_ydata()) == {1.0}


NAN_ROW = {"step": 7, "loss": math.nan, "wrong": None, "right": None, "solved": math.nan}


@pytest.mark.parametrize(
    "train, evaluations",
    [
        ([], []),
        (train_rows(1), []),
        (train_rows(3), evaluation_rows(1)),
        ([], evaluation_rows(2)),
        (train_rows(9000), evaluation_rows(200)),
        ([{"step": 1, "loss": 0.0}, {"step": 2, "loss": 0.0}], evaluation_rows(1)),
        ([{"step": 1, "loss": -3.0}, {"step": 2, "loss": 5.0}], []),
        ([*train_rows(60), NAN_ROW], [*evaluation_rows(4), NAN_ROW]),
        ([NAN_ROW] * 50, [NAN_ROW]),
        ([{"step": math.nan, "loss": math.inf}], []),
        ([{"step": step, "loss": 0.69 + 1e-4 * step} for step in range(9)], evaluation_rows(3)),
    ],
    ids=range(11),
)
def test_learning_curve_edge_cases(train, evaluations, tmp_path, recwarn):
    figure = learning_curve(train, evaluations, "A title\nof two lines, with $ and _")
    assert list(panels(figure)) == (CURVE_PANELS if evaluations else ["loss"])
    assert_drawn(figure, tmp_path)
    assert not recwarn.list
    for axes in linked(figure):
        low, high = axes.get_ylim()
        empty = any(text.get_text() == "no values" for text in axes.texts)
        assert empty or any(low <= tick <= high for tick in axes.get_yticks())


def test_learning_curve_breaks_at_missing_values():
    rows = train_rows(5)
    rows[2]["loss"] = math.nan
    line = learning_curve(rows, [], "").axes[0].lines[0]
    assert [math.isnan(value) for value in line.get_ydata()] == [False, False, True, False, False]
    assert line.get_marker() == "."  # so that a point between two gaps is seen


def test_learning_curve_takes_the_last_of_equal_steps_in_their_order():
    rows = [{"step": 3, "loss": 3.0}, {"step": 1, "loss": 9.0}, {"step": 1, "loss": 1.0}]
    line = learning_curve(rows, [], "").axes[0].lines[0]
    assert list(line.get_xdata()) == [1, 3] and list(line.get_ydata()) == [1, 3]


EVALUATION = {"step": 1, "loss": 1.0, "wrong": 0.0, "right": 1.0, "solved": 1.0}
LESSON = {"step": 1, "lesson": 1, "share": 2.0}


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("train", {"step": 2}, r"train\[0\] must have the keys \('step', 'loss'\), got"),
        ("train", {"step": 1, "loss": "low"}, r"train\[0\]\['loss'\] must be a number, got 'low'"),
        ("evaluations", {**EVALUATION, "solved": 99.5}, r"solved in \[0, 1\].* got 99\.5"),
        ("evaluations", {**EVALUATION, "right": -1.0}, r"right in \[0, 1\].* got -1"),
        ("lessons", LESSON, r"lessons must have share in \[0, 1\].* got 2"),
    ],
)
def test_learning_curve_refuses_bad_rows(name, row, message):
    with pytest.raises(ValueError, match=message):
        learning_curve(**{"train": [], "evaluations": [], "title": "", name: [row]})


def test_learning_curve_draws_the_tests_of_each_lesson(tmp_path):
    shares = {10: (1, 0.5), 20: (1, 0.9), 30: (2, 0.0), 40: (2, 1.0)}
    tests = [
        {"step": step, "lesson": lesson, "share": share} for step, (lesson, share) in shares.items()
    ]
    figure = learning_curve(train_rows(4), evaluation_rows(2), "Copy", tests, "symbol")
    groups = panels(figure)
    assert list(groups) == ["loss", "wrong symbols per sequence", "share right", "tests of lessons"]
    axes = groups["tests of lessons"][0]
    lines = [(list(line.get_xdata()), list(line.get_ydata())) for line in axes.lines]
    assert lines[::2] == [([10, 20], [50, 90]), ([30, 40], [0, 100])]
    assert [steps for steps, _ in lines[1::2]] == [[10, 10], [30, 30]]
    assert [text.get_text() for text in axes.texts] == ["1", "2"]
    assert_drawn(figure, tmp_path)


# The hidden state.


def hidden_arguments(H=6, **sizes):
    arguments = sequence(**sizes)
    del arguments["targets"]
    steps = len(arguments["inputs"])
    generator = torch.Generator().manual_seed(2)
    return {**arguments, "hidden": 2 * torch.rand(steps, H, generator=generator) - 1}


def test_hidden_view_orders_units_by_their_largest_change(tmp_path):
    arguments = hidden_arguments(T=4, H=3)
    arguments["hidden"] = torch.tensor(
        [[0.0, 0.1, 0.9], [0.0, 0.2, 0.8], [0.1, 0.8, 0.7], [0.9, 0.9, 0.6]]
    )
    figure = hidden_view(**arguments)
    groups = panels(figure)
    title = "hidden state, units in the order of their largest change"
    assert list(groups) == ["inputs", title, "write weighting", "read weighting", "outputs"]
    assert torch.equal(shown(groups[title][0]), arguments["hidden"][:, [2, 1, 0]].T)
    assert_drawn(figure, tmp_path)


@pytest.mark.parametrize("sizes", [{"H": 0}, {"T": 1, "N": 1, "X": 1, "Y": 1, "H": 1}, {"R": 5}])
def test_hidden_view_of_other_sizes(sizes, tmp_path):
    figure = hidden_view(**hidden_arguments(**sizes))
    assert_drawn(figure, tmp_path)
    assert len(panels(figure)) == (4 if sizes.get("H") == 0 else 5)


def test_hidden_view_refuses_bad_arguments():
    arguments = hidden_arguments()
    with pytest.raises(ValueError, match=r"hidden must .* \(T, H\).* T=12, got \(3, 2\)"):
        hidden_view(**{**arguments, "hidden": torch.zeros(3, 2)})
    with pytest.raises(TypeError, match=r"trace must be a dnc_fast\.Trace, got Tensor"):
        hidden_view(**{**arguments, "trace": torch.zeros(3)})


def test_hidden_view_of_a_model_without_a_memory_has_no_weightings():
    figure = hidden_view(**{**hidden_arguments(), "trace": None})
    assert len(panels(figure)) == 3


def test_cell_state_has_the_order_of_the_hidden_state(tmp_path):
    arguments = hidden_arguments(T=4, H=3)
    arguments["hidden"] = torch.tensor(
        [[0.0, 0.1, 0.9], [0.0, 0.2, 0.8], [0.1, 0.8, 0.7], [0.9, 0.9, 0.6]]
    )
    cells = torch.arange(12.0).view(4, 3)
    figure = hidden_view(**arguments, cells=cells)
    assert torch.equal(shown(panels(figure)["cell state, likewise"][0]), cells[:, [2, 1, 0]].T)
    assert_drawn(figure, tmp_path)


# Words.


@pytest.mark.parametrize("words", [list("abcdefghijkl"), ["mary", "went", "home", "."] * 3])
def test_words_stand_on_the_time_axis(words, tmp_path):
    hidden = hidden_arguments()
    for figure in (memory_view(**sequence(), words=words), hidden_view(**hidden, words=words)):
        lowest = min(figure.axes, key=lambda axes: (axes.get_position().y0, axes.get_position().x0))
        assert [label.get_text() for label in lowest.get_xticklabels()] == words
        assert_drawn(figure, tmp_path)


def test_words_must_be_one_for_each_step():
    with pytest.raises(ValueError, match="words must be one for each of 12 steps, got 2"):
        memory_view(**sequence(), words=["a", "b"])


# The contents.


@pytest.mark.parametrize("links", [None, torch.rand(3, 2, 5, 5)])
def test_contents_view_shows_each_moment(links, tmp_path):
    memories = torch.randn(3, 5, 4)
    figure = contents_view([0, 4, 9], memories, links, "title")
    matrices = [axes for axes in figure.axes if axes.images and axes.get_title(loc="left")]
    assert len(matrices) == (3 if links is None else 6)
    titles = [axes.get_title(loc="left") for axes in matrices]
    assert titles[:3] == ["cells after step 0", "step 4", "step 9"]
    for axes, memory in zip(matrices, memories, strict=False):
        assert torch.equal(torch.as_tensor(axes.images[0].get_array().data), memory)
    assert_drawn(figure, tmp_path)


def test_contents_view_refuses_bad_arguments():
    with pytest.raises(ValueError, match=r"links must have shape .*N=5.*got \(3, 1, 4, 4\)"):
        contents_view([0, 1, 2], torch.zeros(3, 5, 4), torch.zeros(3, 1, 4, 4), "")
    with pytest.raises(ValueError, match="steps must be 3 numbers, as many as memories"):
        contents_view([0, 1], torch.zeros(3, 5, 4), None, "")
    with pytest.raises(TypeError, match="memories must be a tensor, got list"):
        contents_view([0], [], None, "")


# To disk.


def test_save_picture_makes_folders_and_returns_the_path(tmp_path):
    path = save_picture(learning_curve(train_rows(5), [], ""), str(tmp_path / "a" / "b.png"))
    assert path == tmp_path / "a" / "b.png"
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert os.listdir(path.parent) == ["b.png"]


def test_save_picture_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "b.png"
    path.write_bytes(b"the old picture")
    figure = learning_curve(train_rows(5), [], "")
    seen = []

    def fail(file, **options):
        file.write(b"half a picture")
        file.flush()
        seen.extend(os.listdir(tmp_path))
        raise OSError("disk full")

    monkeypatch.setattr(figure, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        save_picture(figure, path)
    assert len(seen) == 2  # written beside the old picture, in the same folder
    assert os.listdir(tmp_path) == ["b.png"]
    assert path.read_bytes() == b"the old picture"


def test_save_picture_refuses_other_formats(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.png.*b\.pdf"):
        save_picture(learning_curve(train_rows(5), [], ""), tmp_path / "b.pdf")


# The user's matplotlib.


def test_user_settings_are_neither_followed_nor_changed(tmp_path):
    def draw(name):
        return pixels(learning_curve(train_rows(50), evaluation_rows(3), "Copy"), tmp_path, name)

    plain = draw("plain.png")
    with matplotlib.rc_context({"figure.facecolor": "black", "font.size": 30, "lines.marker": "*"}):
        before = dict(matplotlib.rcParams)
        styled = draw("styled.png")
        assert dict(matplotlib.rcParams) == before
    assert (plain == styled).all()


def test_missing_matplotlib_is_named_with_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for draw in (lambda: learning_curve([], [], ""), lambda: memory_view(**sequence())):
        with pytest.raises(ImportError, match=r"matplotlib.*pip install matplotlib"):
            draw()


def test_matplotlib_is_imported_late_and_pyplot_never(tmp_path):
    code = f"""
import sys
import dnc_fast
from dnc_fast.pictures import learning_curve, save_picture
assert "matplotlib" not in sys.modules
figure = learning_curve([{{"step": 1, "loss": 1.0}}], [], "")
save_picture(figure, {str(tmp_path / "picture.png")!r})
assert "matplotlib" in sys.modules and "matplotlib.pyplot" not in sys.modules
"""
    python(code)
