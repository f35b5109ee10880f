"""Graphs in words: stories against a solver that only reads them, known graphs, commands."""

import itertools
import re
from random import Random

import pytest
import torch
from runs import generator

from dnc_fast.cli import main
from dnc_fast.tasks import GraphsInWordsTask
from dnc_fast.tasks.graphs.known import KnownGraph
from dnc_fast.tasks.graphs.task import KNOWN_GRAPHS
from dnc_fast.tasks.graphs_in_words.family import MEN, PEOPLE, WOMEN
from dnc_fast.tasks.graphs_in_words.railway import LINES, STATIONS
from dnc_fast.tasks.stories import ANSWER, StoryError, Vocabulary
from dnc_fast.training import guess

VOCABULARY = GraphsInWordsTask.vocabulary
BACK = {"north": "south", "east": "west", "clockwise": "anticlockwise"}
BACK |= {back: way for way, back in BACK.items()}
NUMBERS = ["none", "one", "two", "three", "four"]


def read(story):
    """The facts of a story, and each question with its answer, as lists of words."""
    answers = iter(story.answers)
    facts, questions = [], []
    for line in story.lines():
        if line[-1] == ".":
            facts.append(list(line[:-1]))
        else:
            asked = [word for word in line[:-1] if word != ANSWER]
            assert asked.pop() == "?"
            questions.append((asked, [next(answers) for word in line if word == ANSWER]))
    assert next(answers, None) is None
    return facts, questions


# A solver: it goes by the words of a story alone.


def railway(facts):
    """Where each direction on each line leads from each station."""
    leads = {}
    for there, _is, way, _of, here, _on, line in facts:
        assert (_is, _of, _on) == ("is", "of", "on") and {here, there} <= set(STATIONS)
        for key, end in (((here, way, line), there), ((there, BACK[way], line), here)):
            assert leads.setdefault(key, end) == end
    return leads


def distances(leads):
    """Between all pairs of stations, by Floyd and Warshall."""
    stations = {key[0] for key in leads}
    far = {pair: 99 for pair in itertools.product(stations, stations)}
    far |= {(here, there): 1 for (here, _, _), there in leads.items()}
    far |= {(here, here): 0 for here in stations}
    for middle, a, b in itertools.product(stations, stations, stations):
        far[a, b] = min(far[a, b], far[a, middle] + far[middle, b])
    return far


def solve_railway(asked, leads):
    if asked[0] == "how":
        assert asked[:4] + asked[5:6] == ["how", "many", "stops", "is", "from"]
        far = distances(leads)[asked[4], asked[6]]
        return [NUMBERS[far]], far
    _what, _is, way, _of, here, _on, line = asked[:7]
    legs = [(way, line), *((part[1], part[3]) for part in zip(*[iter(asked[7:])] * 4, strict=True))]
    way = []
    for leg in legs:
        here = leads[(here, *leg)]
        way.append(here)
    return way, len(way)


def parents_of(facts):
    parents = {}
    for one, _is, _the, word, _of, other in facts:
        assert (_is, _the, _of) == ("is", "the", "of")
        if word in ("mother", "father"):
            child, parent = other, one
        else:
            assert word in ("daughter", "son")
            child, parent = one, other
        assert (word in ("mother", "daughter")) == (one in WOMEN)
        parents.setdefault(child, set()).add(parent)
    return parents


def solve_family(asked, parents):
    """What `one` is to `other`, by definitions of the words."""
    how, _is, one, related, to, other = asked
    assert (how, _is, related, to) == ("how", "is", "related", "to")

    def up(people):
        return set().union(*(parents.get(person, set()) for person in people))

    mine, its = up([one]), up([other])
    sister = bool(mine & its) and one != other
    woman = one in WOMEN
    if one in its:
        return "mother" if woman else "father", 1
    if other in mine:
        return "daughter" if woman else "son", 1
    if sister:
        return "sister" if woman else "brother", 2
    if one in up(its):
        return "grandmother" if woman else "grandfather", 2
    if other in up(mine):
        return "granddaughter" if woman else "grandson", 2
    if mine & up(its):
        return "aunt" if woman else "uncle", 3
    if up(mine) & its:
        return "niece" if woman else "nephew", 3
    assert up(mine) & up(its)
    return "cousin", 4


def links_in(known):
    """How many links a solver found; it knows those of a railway from both ends."""
    if all(isinstance(there, str) for there in known.values()):
        return len(known) // 2
    return sum(map(len, known.values()))


@pytest.mark.parametrize("graph", ["random", "known"])
@pytest.mark.parametrize("told", ["twice", "once"])
@pytest.mark.parametrize("kind", ["path", "distance", "relation", "path,distance"])
def test_every_answer_follows_from_the_story(graph, told, kind):
    task = GraphsInWordsTask(kinds=kind, graph=graph, told=told, max_nodes=12, max_links=4)
    random, links, names = Random(1), set(), set()
    for number in range(100):
        size = 3 + number % 10
        facts, questions = read(task.story(size, random))
        assert len(questions) == task.num_questions
        known = parents_of(facts) if kind == "relation" else railway(facts)
        assert len(facts) == (2 if told == "twice" else 1) * links_in(known)
        nodes = {word for fact in facts for word in fact} & {*STATIONS, *PEOPLE}
        assert len(nodes) == size
        for asked, answer in questions:
            if kind == "relation":
                word, far = solve_family(asked, known)
                assert answer == [word]
            else:
                right, far = solve_railway(asked, known)
                assert answer == right
                assert task.answer_length(asked) == len(answer)
            links.add(far)
        names |= nodes
    assert links == {1, 2, 3, 4}
    assert names == set(PEOPLE if kind == "relation" else STATIONS)


@pytest.mark.parametrize("kind", ["path", "distance", "relation"])
def test_questions_have_as_many_links_as_are_wanted(kind):
    task = GraphsInWordsTask(kinds=kind, min_nodes=8, max_nodes=8, min_links=3, max_links=3)
    random = Random(0)
    for _ in range(20):
        facts, questions = read(task.story(8, random))
        for asked, _ in questions:
            if kind == "relation":
                assert solve_family(asked, parents_of(facts))[1] == 3
            else:
                assert solve_railway(asked, railway(facts))[1] == 3


def links_of(known: KnownGraph, names):
    """The edges of a known graph in lower case, of those whose names are of one form."""
    return {
        tuple(part.lower() for part in triple)
        for triple in known.triples
        if triple[1].split()[-1] in names
    }


def test_the_known_graphs_are_those_of_the_other_tasks():
    """The whole Underground, and all parents of the family."""
    told, _ = read(GraphsInWordsTask(kinds="path", graph="known").story(26, Random(0)))
    edges = links_of(KNOWN_GRAPHS["underground"], {way.capitalize() for way in BACK})
    assert len(told) == len(edges) == 106
    found = {
        (here, f"{line.removeprefix('the ').removesuffix(' line')} {way}", end)
        for (here, way, line), end in railway(told).items()
    }
    assert found == edges
    told, _ = read(GraphsInWordsTask(kinds="relation", graph="known").story(21, Random(0)))
    edges = links_of(KNOWN_GRAPHS["family"], {"Mother", "Father"})
    assert {(child, parent) for child, pair in parents_of(told).items() for parent in pair} == {
        (child, parent) for child, _, parent in edges
    }
    assert len(told) == 2 * len(edges)
    assert {*MEN, *WOMEN} == {name.lower() for name in KNOWN_GRAPHS["family"].nodes}


def test_parts_of_known_graphs_are_true_and_random_graphs_are_not():
    """So that a model cannot answer about the known graphs from what it was trained on."""
    edges = links_of(KNOWN_GRAPHS["underground"], {way.capitalize() for way in BACK})
    ends = {(here, there) for here, _, there in edges}
    random = Random(0)
    for graph in ("known", "random"):
        task, shares = GraphsInWordsTask(kinds="path", graph=graph), []
        for _ in range(60):
            told, _ = read(task.story(6, random))
            shares += [(here, there) in ends for there, _, _, _, here, _, _ in told]
        share = sum(shares) / len(shares)
        assert share == 1.0 if graph == "known" else share < 0.25


def test_a_batch_holds_graphs_of_one_size():
    task = GraphsInWordsTask()
    batch, again = (task.batch(40, generator(3)) for _ in range(2))
    assert all(map(torch.equal, batch, again))
    counts = set()
    for row in range(40):
        words = set(task.words(batch.inputs[: int(batch.lengths[row]), row]))
        counts.add(len(words & {*STATIONS, *PEOPLE}))
    assert len(counts) == 1
    assert int(task.score(batch.targets, batch).counted.sum()) == 40 * task.num_questions
    topics = {"on" in task.words(batch.inputs[:, row]) for row in range(40)}
    assert topics == {True, False}


def test_lessons_grow_and_parts_are_the_kinds():
    task = GraphsInWordsTask(min_nodes=4, max_nodes=8, max_links=3)
    sizes = [(one.max_nodes, one.max_links) for one in task.lessons()]
    assert sizes == [(4, 1), (6, 1), (6, 2), (8, 2), (8, 3)] and task.lessons()[-1] is task
    parts = task.parts()
    assert list(parts) == [
        *("path of 1 link", "path of 2 links", "path of 3 links", "distance", "relation")
    ]
    assert (parts["path of 2 links"].min_links, parts["path of 2 links"].max_links) == (2, 2)
    milestones = task.milestones()
    assert milestones["known graphs, relation"].graph == "known" and len(milestones) == len(parts)
    assert list(task.lessons()[0].parts()) == ["path of 1 link", "relation"]  # all are one link


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kinds": "route"}, "kinds must be one of .*'path', 'distance', 'relation'.*got 'route'"),
        ({"told": "often"}, "told must be one of .*got 'often'"),
        ({"graph": "family"}, "graph must be one of .*got 'family'"),
        ({"max_nodes": 22}, "max_nodes must be at most 21 for 'relation', got 22"),
        ({"kinds": "path", "max_nodes": 27}, "max_nodes must be at most 26 for 'path', got 27"),
        ({"max_links": 5}, "max_links must be at most 4 for 'relation', got 5"),
        ({"min_nodes": 1}, "min_nodes must be .*2.*got 1"),
        ({"min_links": 3}, "max_links must be .*3.*got 2"),
        ({"num_questions": 0}, "num_questions must be .*got 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        GraphsInWordsTask(**options)


def test_graphs_that_are_too_small_for_the_links_are_refused():
    task = GraphsInWordsTask(kinds="relation", max_nodes=3, min_links=4, max_links=4)
    with pytest.raises(ValueError, match="min_links must be no more than graphs of 3 nodes allow"):
        task.batch(1, generator())


def test_guesses_are_right_as_often_as_the_most_frequent_answer():
    task = GraphsInWordsTask(kinds="distance", min_nodes=6)
    assert abs(guess(task, 100, seed=0).right - 1 / 2) < 0.06


# Names of several words


def test_names_of_several_words_are_found_whole():
    text = (
        "King\u2019s Cross  St. Pancras is north of Euston on the Northern (Bank) line, then Bank?"
    )
    assert VOCABULARY.split(text) == [
        *("king's cross st. pancras", "is", "north", "of", "euston", "on"),
        *("the northern (bank) line", "then", "bank", "?"),
    ]
    assert VOCABULARY.split("Banks.Bank. bond streets") == [
        *("banks", ".", "bank", ".", "bond", "streets")
    ]
    longer = Vocabulary("tests", ["a b", "a b c", "c"])
    assert longer.split("a b c a b c.") == ["a b c", "a b c", "."]
    assert longer.words == ("-", ".", "?", "a b", "a b c", "c")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Viktoria is", "here: 'viktoria' is not one of the 99 words of .*similar words: victoria"),
        ("Green Parc is", "'green' is not .*similar words: .*green park"),
        ("Kings Cross is", "'kings' is not .*: king's cross st. pancras"),
        ("on the Jubile line", "'the' is|'jubile' is not .*the jubilee line"),
        ("Xylophone", "'xylophone' is not one of the 99 words of railways and families$"),
        ("how - ", "'-' is not"),
    ],
)
def test_unknown_words_are_refused_with_what_is_like_them(text, message):
    with pytest.raises(StoryError, match=message):
        VOCABULARY.check(VOCABULARY.split(text), "here")


def test_lines_and_stations_are_different_words():
    assert not set(LINES) & set(STATIONS) and len(STATIONS) == 26 and len(LINES) == 9
    assert len(VOCABULARY) == 100


# The commands


def test_train_eval_and_ask(tmp_path, capsys):
    def run(*arguments, status=0):
        assert main([*map(str, arguments)]) == status, capsys.readouterr().err
        return capsys.readouterr()

    tiny = "--hidden-size 8 --num-cells 4 --cell-size 3 --num-read-heads 1 --batch-size 2"
    few = "--max-steps 3 --evaluation-size 4 --evaluate-every 2 --milestone-every 2 --no-pictures"
    run("train", "graphs-in-words", *tiny.split(), *few.split(), "--out", tmp_path)
    printed = run("eval", tmp_path, "--task", "graph=known").out
    assert "questions right, by kind:" in printed and "| path of 2 links | " in printed
    shown = run("eval", tmp_path, "--show", 1).out
    assert re.search(r"what is|how many|how is", shown)

    told = "Green Park is north of Victoria on the Victoria line."
    asked = "What is south of Green Park on the Victoria line then north on the Victoria line?"
    printed = run("ask", tmp_path, f"{told} {asked}").out
    first = asked[:-1].lower()
    assert re.match(rf"{first} \? [^,]+,[^,]+  \(.*; .*\)\n$", printed)
    one = run("ask", tmp_path, "Jane is the mother of Bob. How is Bob related to Jane?").out
    assert re.match(r"how is bob related to jane \? [^,;]+  \([^;]+\)\n$", one)
    error = run("ask", tmp_path, "Jain is the mother of Bob.", status=2).err
    assert "text: 'jain' is not one of the 99 words of railways and families; similar" in error
