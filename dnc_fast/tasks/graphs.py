"""Directed graphs by the batch: random ones (Graves et al. 2016, Methods), and known ones by name.

Letters: B graphs, V nodes of the largest, K edges out of a node at most, E edges in all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from ..checks import check_choice, check_integer
from .base import SMALL_STEPS, Preset, random_shares, uniform
from .family import FAMILY
from .known_graph import KnownGraph
from .triples import BLANK, NUM_LABELS, Phase, TripleTask
from .underground import UNDERGROUND

KNOWN_GRAPHS: dict[str, KnownGraph] = {"underground": UNDERGROUND, "family": FAMILY}


class Graphs(NamedTuple):
    """A batch of graphs; `BLANK` where a graph has no such node, or a node no such edge.

    | field  | shape     | dtype | meaning                                     |
    |--------|-----------|-------|---------------------------------------------|
    | nodes  | (B, V)    | int64 | the label of each node                      |
    | edges  | (B, V, K) | int64 | the label of each edge out of a node        |
    | ends   | (B, V, K) | int64 | the place in `nodes` that the edge leads to |
    """

    nodes: Tensor
    edges: Tensor
    ends: Tensor

    @property
    def sizes(self) -> Tensor:
        """(B) how many nodes each graph has."""
        return (self.nodes != BLANK).sum(-1)

    @property
    def degrees(self) -> Tensor:
        """(B, V) how many edges lead out of each node."""
        return (self.ends != BLANK).sum(-1)

    def triples(self) -> Tensor:
        """(B, V, K, 3) the labels of source, edge and destination of each edge, or `BLANK`."""
        rows = torch.arange(len(self.nodes), device=self.nodes.device).view(-1, 1, 1)
        ends = self.nodes[rows, self.ends.clamp(min=0)]
        triples = torch.stack([self.nodes.unsqueeze(-1).expand_as(ends), self.edges, ends], -1)
        return torch.where(self.ends.unsqueeze(-1) == BLANK, BLANK, triples)

    def describe(self, generator: torch.Generator) -> Phase:
        """All triples of each graph, in random order."""
        triples = self.triples().flatten(1, 2)
        missing = triples[..., 0] == BLANK
        lengths = (~missing).sum(-1)
        order = (random_shares(tuple(missing.shape), generator) + missing).argsort(-1)
        triples = triples.gather(1, order.unsqueeze(-1).expand_as(triples))
        return Phase(triples[:, : int(lengths.max())], lengths)


def distinct(shape: tuple[int, ...], count: int, below: int, generator: torch.Generator) -> Tensor:
    """Random numbers, no two of a row's `count` alike, every choice as likely; (*shape, count)."""
    if count > 8:
        return random_shares((*shape, below), generator).topk(count, -1).indices
    chosen = uniform(0, below - 1, (*shape, 1), generator)
    for number in range(1, count):
        drawn = uniform(0, below - 1 - number, (*shape, 1), generator)
        for earlier in chosen.sort(-1).values.split(1, -1):  # count past those that are taken
            drawn = drawn + (drawn >= earlier)
        chosen = torch.cat([chosen, drawn], -1)
    return chosen


def random_graphs(
    batch_size: int,
    num_nodes: tuple[int, int],
    degree: tuple[int, int],
    generator: torch.Generator,
    num_edge_labels: int = NUM_LABELS,
) -> Graphs:
    """Points uniform in the unit square, each with edges to those nearest to it.

    Node labels are random and differ, so do the labels of the edges out of one node.

    Args:
        num_nodes: least and most nodes, uniform for each graph.
        degree: least and most edges out of a node, uniform for each node; in a graph with too few
            nodes, to all others.
        num_edge_labels: labels of edges are below.
    """
    most, device = num_nodes[1], generator.device
    out = min(degree[1], most - 1)
    labels = distinct((batch_size,), most, NUM_LABELS, generator)
    sizes = uniform(*num_nodes, (batch_size, 1), generator)
    there = torch.arange(most, device=device) < sizes
    places = random_shares((batch_size, most, 2), generator)
    apart = (places.unsqueeze(1) - places.unsqueeze(2)).square().sum(-1)
    itself = torch.eye(most, dtype=torch.bool, device=device)
    apart = apart.masked_fill(itself | ~there.unsqueeze(1), torch.inf)
    ends = apart.topk(out, -1, largest=False).indices
    degrees = uniform(*degree, (batch_size, most, 1), generator)
    degrees = torch.minimum(degrees, sizes.unsqueeze(-1) - 1)
    kept = (torch.arange(out, device=device) < degrees) & there.unsqueeze(-1)
    edges = distinct((batch_size, most), out, num_edge_labels, generator)
    return Graphs(
        torch.where(there, labels, BLANK),
        torch.where(kept, edges, BLANK),
        torch.where(kept, ends, BLANK),
    )


class Labels(NamedTuple):
    """The labels that a batch of one known graph was given. nodes: (B, V). edges: (B, names)."""

    nodes: Tensor
    edges: Tensor


def draw_labels(
    known: KnownGraph, batch_size: int, generator: torch.Generator, num_edge_labels: int
) -> Labels:
    """A label for each node and each name of edges, all different, for each sequence anew."""
    return Labels(
        distinct((batch_size,), len(known.nodes), NUM_LABELS, generator),
        distinct((batch_size,), len(known.edge_names), num_edge_labels, generator),
    )


def label_graph(known: KnownGraph, labels: Labels) -> Graphs:
    """A known graph with the labels that each sequence has for it."""
    device = labels.nodes.device
    ends, names = (torch.tensor(table, device=device) for table in known.tables())
    edges = labels.edges[:, names.clamp(min=0)]
    ends = ends.expand(len(labels.nodes), -1, -1)
    return Graphs(labels.nodes, torch.where(names == BLANK, BLANK, edges), ends)


class Names(NamedTuple):
    """What a sequence's labels stand for: nodes, edges, and of inference relations."""

    nodes: Mapping[int, str]
    edges: Mapping[int, str]


@dataclass(frozen=True)
class GraphTask(TripleTask):
    """Hear the triples of a graph in random order, then be asked about it."""

    LESSONS: ClassVar[tuple[tuple[tuple[int, int], ...], ...]]
    """Least and most of nodes, out-degree and length, for each lesson of the paper."""

    RANGES: ClassVar[tuple[tuple[str, str], ...]]
    """The options that a lesson sets, in the same order."""

    PRESET: ClassVar[tuple[str, Preset]]
    """The paper's options by name, but for those of its last lesson."""

    num_edge_labels: ClassVar[int] = NUM_LABELS

    graph: str = field(
        default="random",
        metadata={
            "choices": ("random", *KNOWN_GRAPHS),
            "help": "random graphs, or a known one with random labels",
        },
    )
    min_nodes: int = field(default=5, metadata={"help": "fewest nodes of a random graph"})
    max_nodes: int = field(default=10, metadata={"help": "most nodes of a random graph"})
    min_degree: int = field(default=2, metadata={"help": "fewest edges out of a node"})
    max_degree: int = field(default=4, metadata={"help": "most edges out of a node"})

    def __post_init__(self) -> None:
        check_choice("graph", self.graph, ("random", *KNOWN_GRAPHS))
        check_integer("min_nodes", self.min_nodes, minimum=2)
        check_integer("min_degree", self.min_degree, minimum=1)
        for low, high in self.RANGES:
            check_integer(low, getattr(self, low), minimum=1)
            check_integer(high, getattr(self, high), minimum=getattr(self, low))
        if self.max_nodes > NUM_LABELS:
            raise ValueError(
                f"max_nodes must be at most {NUM_LABELS}, the number of labels, got "
                f"{self.max_nodes}"
            )
        if self.max_degree > self.num_edge_labels:
            raise ValueError(
                f"max_degree must be at most {self.num_edge_labels}, the number of edge labels, "
                f"got {self.max_degree}"
            )
        if self.known and len(self.known.edge_names) > self.num_edge_labels:
            raise ValueError(
                f"graph must have at most {self.num_edge_labels} names of edges, got "
                f"{self.graph!r} with {len(self.known.edge_names)}"
            )

    @property
    def known(self) -> KnownGraph | None:
        """The known graph, if it is one."""
        return KNOWN_GRAPHS.get(self.graph)

    @property
    def place(self) -> str:
        """The graphs in words."""
        if self.known:
            return f"the {self.graph}"
        return f"random graphs of {self.min_nodes} to {self.max_nodes} nodes"

    @classmethod
    def presets(cls) -> dict[str, Preset]:
        """The paper's, at its last lesson."""
        name, preset = cls.PRESET
        return {name: preset._replace(task={**ranges(cls, cls.LESSONS[-1]), **preset.task})}

    def lessons(self) -> tuple[GraphTask, ...]:
        """Those of the paper's lessons that ask for no more than the task, and then the task."""
        present = self._ranges()
        earlier = [
            lesson
            for lesson in dict.fromkeys(self.LESSONS)
            if lesson != present
            and all(high <= most for (_, high), (_, most) in zip(lesson, present, strict=True))
        ]
        if self.known:
            earlier = []
        return (*(self.with_ranges(lesson) for lesson in earlier), self)

    def with_ranges(self, values: tuple[tuple[int, int], ...]) -> GraphTask:
        """The task with other ranges, in the order of `RANGES`."""
        return replace(self, **ranges(type(self), values))

    def _ranges(self) -> tuple[tuple[int, int], ...]:
        return tuple((getattr(self, low), getattr(self, high)) for low, high in self.RANGES)

    def model_preset(self) -> dict[str, Any]:
        """Room for every triple of the largest graph."""
        edges = self.max_nodes * self.max_degree
        cells = 16 * -(-(edges + 8) // 16)
        return {"hidden_size": 128, "num_cells": cells, "cell_size": 32, "num_read_heads": 4}

    def training_preset(self, controller: str) -> dict[str, Any]:
        """Lessons in small steps."""
        return {
            **SMALL_STEPS,
            "learning_rate": 2e-3,
            "batch_size": 32,
            "curriculum": "on",
            "max_steps": 100_000,
            "evaluate_every": 500,
            "evaluation_size": 500,
            "solved_at": 0.95,
        }

    def draw_graphs(self, batch_size: int, generator: torch.Generator) -> Graphs:
        """The graphs of a batch: the first that is drawn of it."""
        check_integer("batch_size", batch_size, minimum=1)
        if self.known:
            labels = draw_labels(self.known, batch_size, generator, self.num_edge_labels)
            return label_graph(self.known, labels)
        nodes, degree = (self.min_nodes, self.max_nodes), (self.min_degree, self.max_degree)
        return random_graphs(batch_size, nodes, degree, generator, self.num_edge_labels)

    def names(self, batch_size: int, generator: torch.Generator) -> list[Names]:
        """What the labels stand for in each sequence of the batch that the generator gives.

        Of random graphs labels stand for themselves.
        """
        if not self.known:
            numbers = {label: str(label) for label in range(NUM_LABELS)}
            return [Names(numbers, numbers)] * batch_size
        labels = draw_labels(self.known, batch_size, generator, self.num_edge_labels)
        return [
            Names(
                dict(zip(nodes, self.known.nodes, strict=True)),
                dict(zip(edges, self.known.edge_names, strict=True)),
            )
            for nodes, edges in zip(labels.nodes.tolist(), labels.edges.tolist(), strict=True)
        ]


def ranges(kind: type[GraphTask], values: tuple[tuple[int, int], ...]) -> dict[str, Any]:
    """The options of a graph task that a lesson sets."""
    pairs = zip(kind.RANGES, values, strict=True)
    return {name: end for names, ends in pairs for name, end in zip(names, ends, strict=True)}
