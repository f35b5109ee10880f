"""The graph tasks: encodings decoded back and verified, answers by searches of their own, names."""

import csv
import itertools
import os
from collections import Counter, deque
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from runs import generator, trained

from dnc_fast import DNC
from dnc_fast.cli import main
from dnc_fast.presets import PUBLISHED
from dnc_fast.tasks import TASKS, InferenceTask, ShortestPathTask, TraversalTask, read_episode
from dnc_fast.tasks.graphs.family import FAMILY
from dnc_fast.tasks.graphs.graph import distinct, random_graphs, share_names
from dnc_fast.tasks.graphs.inference import relations
from dnc_fast.tasks.graphs.known import KnownGraph
from dnc_fast.tasks.graphs.shortest_path import PathAnswerer
from dnc_fast.tasks.graphs.triples import BLANK, decode_triples, encode_triples
from dnc_fast.tasks.graphs.underground import UNDERGROUND
from dnc_fast.training import Trainer, answered, evaluate
from dnc_fast.training.random import stream_generator

LISTS = os.environ.get("DNC_FAST_GRAPHS", "")


# A plain reading of one sequence: numbers out of one-hot digits, phases by their cues. It shares no
# code with the tasks.


def read_label(values):
    if not any(values):
        return None
    digits = [values[10 * place : 10 * place + 10] for place in range(3)]
    assert all(sorted(digit) == [0] * 9 + [1] for digit in digits)
    hundreds, tens, ones = (digit.index(1) for digit in digits)
    return 100 * hundreds + 10 * tens + ones


def read_triple(values):
    return tuple(read_label(values[30 * place : 30 * place + 30]) for place in range(3))


def read_phases(batch, place):
    """Phases of a sequence: a list of (heard, answer wanted, target or None) for each step."""
    length = int(batch.lengths[place])
    for part in (batch.inputs, batch.targets, batch.mask):
        assert not part[length:, place].any()
    phases = [[]]
    for step in range(length):
        *heard, phase_cue, answer_cue = batch.inputs[step, place].tolist()
        assert phase_cue in (0, 1) and answer_cue in (0, 1)
        if phase_cue:
            phases.append([])
        counts = bool(batch.mask[step, place])
        target = read_triple(batch.targets[step, place].tolist()) if counts else None
        assert counts or not batch.targets[step, place].any()
        phases[-1].append((read_triple(heard), bool(answer_cue), target))
    return phases


def read_graph(task, phase):
    """{source: {edge: destination}} of the description, checked against the task's ranges."""
    edges = {}
    for triple, answer, target in phase:
        assert None not in triple and not answer and target is None
        source, edge, end = triple
        assert source != end and edge not in edges.setdefault(source, {})
        edges[source][edge] = end
    if task.graph == "random":
        nodes = len(edges)
        assert task.min_nodes <= nodes <= task.max_nodes
        for out in edges.values():
            assert min(task.min_degree, nodes - 1) <= len(out) <= task.max_degree
            assert len(set(out.values())) == len(out) and set(out.values()) <= set(edges)
    return edges


def distances(edges, source):
    """Breadth first: how many edges to each node."""
    found, waiting = {source: 0}, deque([source])
    while waiting:
        node = waiting.popleft()
        for end in edges.get(node, {}).values():
            if end not in found:
                found[end] = found[node] + 1
                waiting.append(end)
    return found


END = (0, 0, 0)

TRAVERSALS = [
    TraversalTask(),
    TraversalTask(min_nodes=2, max_nodes=2, min_degree=1, max_degree=1, max_path=1),
    TraversalTask(min_nodes=3, max_nodes=30, min_degree=1, max_degree=6, max_path=9),
    TraversalTask(graph="underground", min_path=7, max_path=7),
]


@pytest.mark.parametrize("task", TRAVERSALS, ids=str)
def test_traversal_asks_for_paths_of_its_graphs(task):
    batch = task.batch(40, generator())
    assert batch.inputs.shape == (int(batch.lengths.max()), 40, 92)
    assert batch.targets.shape == (*batch.inputs.shape[:2], 90)
    lengths = set()
    for place in range(40):
        description, query, answer = read_phases(batch, place)
        edges = read_graph(task, description)
        node, path = query[0][0][0], []
        for number, ((source, edge, end), wanted, _) in enumerate(query):
            assert (source is None) == (number > 0) and end is None and not wanted
            path.append((node, edge, edges[node][edge]))
            node = edges[node][edge]
        assert [target for _, _, target in answer] == [*path, END]
        assert all(heard == (None,) * 3 and wanted for heard, wanted, _ in answer)
        lengths.add(len(path))
    assert lengths == set(range(task.min_path, task.max_path + 1))


INFERENCES = [
    InferenceTask(),
    InferenceTask(max_nodes=12, max_degree=4, max_relation=5, num_queries=2, planning_steps=1),
    InferenceTask(graph="family", min_relation=4, max_relation=4),
    InferenceTask(min_relation=1),
]


@pytest.mark.parametrize("task", INFERENCES, ids=str)
def test_inference_asks_where_relations_lead(task):
    table = [[part for part in row if part >= 0] for row in relations().tolist()]
    batch = task.batch(40, generator())
    asked = Counter()
    for place in range(40):
        description, *exchanges = read_phases(batch, place)
        edges = read_graph(task, description)
        assert all(edge < 10 for out in edges.values() for edge in out)
        assert len(exchanges) == 3 * task.num_queries
        for query, planning, answer in zip(*[iter(exchanges)] * 3, strict=True):
            (((source, relation, end), _, _),) = query
            assert end is None and len(planning) == task.planning_steps
            assert all(heard == (None,) * 3 and not wanted for heard, wanted, _ in planning)
            node = source
            for edge in table[relation]:
                node = edges[node][edge]
            assert [target for _, _, target in answer] == [(source, relation, node), END]
            asked[len(table[relation])] += 1
    assert set(asked) <= set(range(min(task.min_relation, 2), task.max_relation + 1))
    wanted = sum(asked[length] for length in range(task.min_relation, task.max_relation + 1))
    assert wanted > 0.9 * asked.total()


def test_guidance_asks_for_the_edges_on_the_way_in_training_only():
    options = {"max_nodes": 6, "max_degree": 4, "min_relation": 1, "max_relation": 3}
    plain = InferenceTask(**options, planning_steps=2)
    guided = replace(plain, guided=1.0)
    batch = guided.batch(20, generator())
    table = relations().tolist()
    for place in range(20):
        description, *exchanges = read_phases(batch, place)
        edges = read_graph(guided, description)
        for query, planning, _ in zip(*[iter(exchanges)] * 3, strict=True):
            (((node, relation, _), _, _),) = query
            expected = []
            for edge in table[relation]:
                if edge >= 0:
                    expected.append((node, edge, edges[node][edge]))
                    node = expected[-1][-1]
            assert [target for _, _, target in planning] == [*expected, None, None][:2]
    for part in (guided.validation(), guided.held_out()):
        assert part == plain
    asked = replace(plain, guided=0.5).batch(40, generator()).mask.sum(0)
    assert 10 < int((asked == 6).sum()) < 30  # three answers of two steps, where not guided


def test_relations_are_fixed_and_differ():
    table = relations()
    lengths = (table >= 0).sum(1)
    counts = [int((lengths == length).sum()) for length in (1, 2, 3, 4, 5)]
    assert counts == [10, 100, 100, 100, 100]
    assert len({tuple(row) for row in table.tolist()}) == 410
    assert table[:10, 0].tolist() == list(range(10))
    assert sorted(table[10:110, :2].tolist()) == [[a, b] for a in range(10) for b in range(10)]
    # Drawn once and for all: another draw would make every checkpoint worthless.
    assert table[210].tolist() == [0, 1, 8, 2, -1] and table[409].tolist() == [9, 9, 9, 3, 0]


PATHS = [
    ShortestPathTask(),
    ShortestPathTask(min_nodes=10, max_nodes=25, min_degree=2, max_degree=6, max_path=5, slack=0),
    ShortestPathTask(graph="underground", min_path=4, max_path=4, planning_steps=2),
]


@pytest.mark.parametrize("task", PATHS, ids=str)
def test_shortest_path_shows_best_actions(task):
    batch = task.batch(40, generator())
    found = set()
    for place in range(40):
        description, query, planning, answer = read_phases(batch, place)
        edges = read_graph(task, description)
        (((source, edge, end), _, _),) = query
        assert edge is None and len(planning) == task.planning_steps
        length = distances(edges, source)[end]
        assert length <= task.max_path
        found.add(length)
        node = source
        assert len(answer) == length + task.slack + 1
        answer, rest = answer[: length + 1], answer[length + 1 :]
        assert all(each == ((None,) * 3, True, None) for each in rest)
        for step, (heard, wanted, target) in enumerate(answer):
            assert wanted and heard == ((None,) * 3 if step == 0 else answer[step - 1][2])
            if node == end:
                assert target == END
                continue
            assert target[0] == node and edges[node][target[1]] == target[2]
            assert distances(edges, target[2])[end] == distances(edges, node)[end] - 1
            node = target[2]
        assert node == end
    assert found >= set(range(task.min_path, task.max_path + 1))
    score = task.score(9 * batch.targets, batch)
    assert score.wrong.sum() == 0 and (score.counted == 1).all()
    digits = task.losses(9 * batch.targets, batch.targets).sum((0, 2))
    assert torch.allclose(score.loss, digits)


def test_a_pair_without_the_wanted_path_gets_the_longest_there_is():
    task = ShortestPathTask(min_nodes=2, max_nodes=2, min_degree=1, max_degree=1, min_path=2)
    batch = task.batch(5, generator())
    for place in range(5):
        *_, answer = read_phases(batch, place)
        assert [target is None for _, _, target in answer] == [False, False, True]


def answer_all(task, batch, choose, chance=None, mixing=0.0):
    """A batch answered by outputs that `choose(step)` gives."""
    answerer = PathAnswerer(batch, chance, mixing)
    for step in range(answerer.first, answerer.last + 1):
        answerer.take(step, choose(step))
    return answerer.batch()


@pytest.mark.parametrize("seed", range(3))
def test_actions_are_edges_of_the_graph_whatever_the_outputs_say(seed):
    task = ShortestPathTask(min_nodes=8, max_degree=4, max_path=4, slack=3)
    batch = task.batch(30, generator(seed))
    noise = 20 * torch.randn(len(batch.inputs), 30, 90, generator=generator(seed))
    own = answer_all(task, batch, lambda step: noise[step], mixing=0.0)
    assert torch.equal(own.inputs[..., 91], own.inputs[..., 91] * own.inputs[..., 91])
    lost = 0
    for place in range(30):
        description, query, _, answer = read_phases(own, place)
        edges = read_graph(task, description)
        source, _, end = query[0][0]
        start = int(own.lengths[place]) - len(answer)
        node = source
        for step, (_, _, target) in enumerate(answer):
            if node == end:
                assert target == END
                assert all(each == ((None,) * 3, True, None) for each in answer[step + 1 :])
                break
            ways = distances(edges, node)
            if end in ways:
                best = [
                    (node, e, n)
                    for e, n in edges[node].items()
                    if distances(edges, n).get(end) == ways[end] - 1
                ]
                scores = noise[start + step, place].view(9, 10).log_softmax(-1)
                likely = max(best, key=lambda triple: likelihood(scores, triple))
                assert target == likely
            else:
                assert target is None
            if step == len(answer) - 1:
                break
            action = answer[step + 1][0]
            assert action[0] == node and edges[node][action[1]] == action[2]
            scores = noise[start + step, place].view(9, 10).log_softmax(-1)
            every = [(node, e, n) for e, n in edges[node].items()]
            assert action == max(every, key=lambda triple: likelihood(scores, triple))
            node = action[2]
        arrived = node == end
        lost += not arrived
        assert task.score(noise, own).wrong[place] == int(not arrived)
        assert len(answer) - 1 == distances(edges, source)[end] + task.slack
    assert 0 < lost < 30


def likelihood(scores, triple):
    """The logarithm of the probability of nine digits, by (9, 10) scores."""
    digits = [int(digit) for label in triple for digit in f"{label:03d}"]
    return sum(float(scores[place, digit]) for place, digit in enumerate(digits))


def test_slack_decides_what_is_right():
    task = ShortestPathTask(min_nodes=8, min_degree=2, max_degree=4, max_path=3, slack=3)
    batch = task.batch(200, generator())
    noise = 20 * torch.randn(len(batch.inputs), 200, 90, generator=generator())
    rights = []
    for slack in (0, 1, 3):
        each = ShortestPathTask(min_nodes=8, min_degree=2, max_degree=4, max_path=3, slack=slack)
        found = each.batch(200, generator())
        own = answer_all(each, found, lambda step: noise[step], mixing=0.0)
        rights.append(int((each.score(noise[: len(own.inputs)], own).wrong == 0).sum()))
    assert 0 < rights[0] < rights[1] < rights[2] < 200
    assert list(task.parts()) == ["at most one step", "not at all"]


def test_mixing_takes_the_best_action_in_its_share_of_steps():
    task = ShortestPathTask(
        min_nodes=10, max_nodes=10, min_degree=4, max_degree=4, min_path=3, max_path=3
    )
    batch = task.batch(400, generator())
    zeros = torch.zeros(400, 90)

    def share(mixing):
        own = answer_all(task, batch, lambda step: zeros, generator(1), mixing)
        best = total = 0
        for place in range(400):
            *_, answer = read_phases(own, place)
            for (_, _, target), (action, _, _) in itertools.pairwise(answer):
                if action[0] is not None:
                    total += 1
                    best += action == target
        return best / total

    by_chance = share(0.0)
    assert by_chance < 0.45
    assert share(0.8) == pytest.approx(0.8 + 0.2 * by_chance, abs=0.05)
    assert share(1.0) == 1.0


def test_a_model_answers_the_batch_that_it_is_scored_on():
    task = ShortestPathTask(min_nodes=6, max_degree=3, max_path=3)
    model = DNC(92, 16, num_cells=8, cell_size=4, num_read_heads=2, output_size=90)
    batch = task.batch(12, generator())
    own = answered(model, task, batch)
    outputs, _ = model(own.inputs)
    again = PathAnswerer(own, None, 0.0)
    for step in range(again.first, again.last + 1):
        again.take(step, outputs[step].detach())
    for first, second in zip(own, again.batch(), strict=True):
        assert torch.equal(first, second)  # with the whole batch in one call, the same actions
    assert not torch.equal(own.inputs, batch.inputs)
    assert model.training
    assert answered(model, TraversalTask(), batch) is batch


# Random and known graphs


def test_numbers_drawn_apart_are_apart_and_even():
    for count, below in ((3, 10), (6, 1000), (20, 30)):
        drawn = distinct((4000,), count, below, generator())
        assert drawn.min() == 0 and drawn.max() == below - 1
        assert (drawn.sort(-1).values.diff(dim=-1) > 0).all()
    pairs = Counter(map(tuple, distinct((6000,), 2, 3, generator()).tolist()))
    assert len(pairs) == 6 and min(pairs.values()) > 850


def test_few_names_are_shared_but_not_by_the_edges_out_of_a_node():
    plain = random_graphs(60, (10, 30), (2, 4), generator())
    graphs = share_names(plain, 0.5, generator(1))
    changed = 0
    for one, other in zip(plain.edges, graphs.edges, strict=True):
        assert torch.equal(one == BLANK, other == BLANK)
        names = other[other != BLANK]
        for row in other.tolist():
            out = [name for name in row if name != BLANK]
            assert len(set(out)) == len(out)
        if not torch.equal(one, other):
            changed += 1
            assert 4 <= len(names.unique()) <= 16
            assert 0 <= int(names.min()) <= int(names.max()) < 1000
    assert 15 < changed < 45
    task = TraversalTask(few_names=1.0)
    assert task.held_out() == task.validation() == TraversalTask()
    assert all(lesson.few_names == 1.0 for lesson in task.lessons())


def test_random_graphs_join_the_nearest():
    graphs = random_graphs(50, (4, 9), (1, 3), generator())
    assert set(graphs.sizes.tolist()) == set(range(4, 10))
    degrees = graphs.degrees[graphs.nodes >= 0]
    assert set(degrees.tolist()) == {1, 2, 3}
    joined = graphs.ends[..., 0]  # the nearest: mutual for one pair of each graph at least
    for ends, size in zip(joined.tolist(), graphs.sizes.tolist(), strict=True):
        assert any(ends[ends[node]] == node for node in range(size))


def test_triples_encode_and_decode():
    triples = torch.tensor([[0, 7, 999], [-1, 42, -1], [100, -1, 305], [-1, -1, -1]])
    vectors = encode_triples(triples)
    assert vectors.shape == (4, 90) and torch.equal(decode_triples(vectors), triples)
    assert [read_triple(row) for row in vectors.tolist()] == [
        (0, 7, 999),
        (None, 42, None),
        (100, None, 305),
        (None,) * 3,
    ]


@pytest.mark.parametrize("graph", [UNDERGROUND, FAMILY])
def test_known_graphs_name_one_end_for_each_edge_and_go_both_ways(graph):
    assert len({(source, edge) for source, edge, _ in graph.triples}) == len(graph.triples)
    pairs = {(source, end) for source, _, end in graph.triples}
    assert pairs == {(end, source) for source, end in pairs}
    assert graph.nodes == tuple(sorted({name for name, _ in pairs}))


def test_an_edge_that_leads_to_two_nodes_is_refused():
    with pytest.raises(ValueError, match=r"\(a, x\) must lead to one node, got b and c"):
        KnownGraph.of([("a", "x", "b"), ("a", "x", "c")])


def test_the_underground_is_as_one_knows_it():
    ways = {(source, edge): end for source, edge, end in UNDERGROUND.triples}
    assert ways["Bank", "Central East"] == "Liverpool Street"
    assert ways["Victoria", "Victoria North"] == "Green Park"
    assert ways["Green Park", "Victoria South"] == "Victoria"
    assert ways["Paddington", "Circle Anticlockwise"] == "Notting Hill Gate"
    assert (len(UNDERGROUND.nodes), len(UNDERGROUND.triples)) == (26, 106)
    assert (len(FAMILY.nodes), len(FAMILY.triples)) == (21, 54)


@pytest.mark.skipif(not LISTS, reason="DNC_FAST_GRAPHS names no other lists of the graphs")
def test_known_graphs_are_those_of_other_lists():
    def rows(name):
        with open(Path(LISTS) / name, newline="") as file:
            return [tuple(row) for row in csv.reader(file)][1:]

    assert {(a, edge, b) for a, b, edge in rows("family/family_tree.csv")} == set(FAMILY.triples)

    def line(edge):
        return "Waterloo & City" if edge.startswith("Waterloo") else edge.split()[0]

    theirs = Counter((a, line(e), b) for a, b, e in rows("london/zone1_interchange_triples.csv"))
    ours = Counter((a, line(e), b) for a, e, b in UNDERGROUND.triples)
    assert ours == theirs


@pytest.mark.parametrize(
    ("task", "graph"),
    [(TRAVERSALS[3], UNDERGROUND), (INFERENCES[2], FAMILY), (PATHS[2], UNDERGROUND)],
    ids=["traversal", "inference", "shortest path"],
)
def test_answers_are_rendered_by_name(task, graph):
    batch = task.batch(6, generator(3))
    names = task.names(6, generator(3))
    for place in range(6):
        length = batch.lengths[place]
        inputs, targets = (part[:length, place] for part in (batch.inputs, batch.targets))
        episode = read_episode(inputs, targets, targets, names[place])
        assert set(episode.told.values()) == set(graph.triples)
        for asked, wanted, found in episode.exchanges:
            assert wanted == found and asked[0][0] == wanted[0][0]
            if isinstance(task, InferenceTask):
                ((source, relation, end),) = found
                assert relation.count("'s ") == 3
                for edge in relation.split("'s "):
                    (source,) = (e for s, name, e in graph.triples if (s, name) == (source, edge))
                assert source == end
            else:
                assert set(found) <= set(graph.triples)
                assert all(a[2] == b[0] for a, b in itertools.pairwise(found))
        assert str(episode).count("answered: ") == len(episode.exchanges)
        heard, wanted, answered = episode.words(int(length))
        assert len(heard) == len(wanted) == length and wanted == answered
        assert heard[0] == ", ".join(episode.told[0]) and wanted[0] == ""
        assert wanted.count("end") == len(episode.exchanges)
        answers = [", ".join(triple) for triple in episode.wanted]
        assert [text for text in wanted if text not in ("", "end")] == answers
        assert episode.wanted == episode.answered


def test_a_label_that_stands_for_nothing_is_shown_as_a_number():
    task = TRAVERSALS[3]
    batch, (names,) = task.batch(1, generator()), task.names(1, generator())
    free = next(label for label in range(1, 1000) if label not in names.nodes)
    outputs = encode_triples(torch.tensor([free] * 3)).expand(len(batch.inputs), -1)
    episode = read_episode(batch.inputs[:, 0], outputs, batch.targets[:, 0], names)
    assert episode.exchanges[0].answered[0][0] == f"#{free}"


# Lessons, training, commands


@pytest.mark.parametrize(
    ("name", "count", "first"),
    [
        ("traversal", 14, (3, 10, 2, 4, 1, 1)),
        ("inference", 15, (3, 3, 2, 2, 2, 2)),
        ("shortest-path", 14, (5, 10, 1, 2, 2, 2)),
    ],
)
def test_the_paper_s_lessons_lead_to_its_last(name, count, first):
    (preset,) = PUBLISHED[name].values()
    kind = TASKS[name]
    lessons = kind(**preset.task).lessons()
    assert len(lessons) == count
    names = [name for ends in kind.RANGES for name in ends]
    assert tuple(getattr(lessons[0], name) for name in names) == first
    assert lessons[-1] == kind(**preset.task)
    assert lessons[0].batch(2, generator()).inputs.shape[-1] == 92


@pytest.mark.parametrize("name", ["traversal", "inference", "shortest-path"])
def test_training_is_reproducible_and_resumes(name, tmp_path):
    task = TASKS[name](max_nodes=5)
    options = {"task": task, "model": {"num_cells": 8}, "batch_size": 3, "evaluate_every": 3}
    options |= {"curriculum": "on", "lesson_every": 2}
    whole = trained(tmp_path / "whole", **options, max_steps=6)
    trained(tmp_path / "parts", **options, max_steps=3)
    Trainer.resume(tmp_path / "parts", max_steps=6).train("off")
    rows = [(tmp_path / run / "metrics.jsonl").read_bytes() for run in ("whole", "parts")]
    assert rows[0] == rows[1]
    again = evaluate(whole.model, task, 9, 0)
    assert again == evaluate(whole.model, task, 9, 0) and 0 <= again.solved <= 1


def test_training_on_own_answers_uses_the_step_s_own_chance(tmp_path):
    task = ShortestPathTask(min_nodes=10, min_degree=3, max_degree=4, max_path=3, mixing=0.0)
    model = DNC(92, 16, num_cells=8, cell_size=4, num_read_heads=1, output_size=90)
    batch = task.batch(30, generator())
    first, again, other = (
        answered(model, task, batch, stream_generator(0, "answers", index)).inputs
        for index in (5, 5, 6)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)


TINY = "--hidden-size 8 --num-cells 6 --cell-size 3 --num-read-heads 2 --batch-size 2 --max-steps 3"


@pytest.mark.parametrize(
    ("name", "known", "words"),
    [
        ("traversal", ["graph=underground"], ["106 triples told", "asked:", "Bank"]),
        (
            "shortest-path",
            ["graph=underground"],
            ["right path may be:\n\n|", "| not at all |", " to "],
        ),
        ("inference", ["graph=family"], ["54 triples told", "'s "]),
    ],
)
def test_train_eval_show(name, known, words, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    few = [*TINY.split(), "--evaluation-size", "4", "--no-pictures", "--out", str(tmp_path)]
    assert main(["train", name, *few]) == 0
    assert main(["eval", str(tmp_path), "--task", *known]) == 0
    assert main(["show", str(tmp_path), "--task", *known]) == 0
    printed = capsys.readouterr().out
    for word in words:
        assert word in printed
    assert {path.stem for path in (tmp_path / "show").glob("*.png")} == {
        "contents",
        "learning_curve",
        "memory",
        "hidden",
        "gates",
        "graph",
        "reads",
    }


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TraversalTask("paris"), "graph must be one of .*got 'paris'"),
        (lambda: TraversalTask(min_nodes=1), "min_nodes must be at least 2, got 1"),
        (lambda: TraversalTask(max_nodes=1001), "max_nodes must be at most 1000"),
        (lambda: TraversalTask(min_path=4), "max_path must be at least 4, got 3"),
        (lambda: InferenceTask(max_degree=11), "max_degree must be at most 10, .* got 11"),
        (lambda: InferenceTask(max_relation=6), "max_relation must be from 1 to 5, got 6"),
        (lambda: InferenceTask("underground"), "graph must have at most 10 names .* with 18"),
        (lambda: InferenceTask(planning_steps=0), "planning_steps must be at least 1, got 0"),
        (lambda: InferenceTask(guided=-0.5), "guided must be finite, at least 0 and at most 1"),
        (lambda: ShortestPathTask(mixing=1.1), "mixing must be finite, at least 0 and at most 1"),
        (lambda: ShortestPathTask(slack=-1), "slack must be at least 0, got -1"),
    ],
)
def test_bad_options_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
