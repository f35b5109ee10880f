"""What the tasks on graphs have in common: their graphs, their lessons, names for labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, NamedTuple

import torch

from ...checks import check_choice, check_integer, check_number
from ...options import option
from ..base import Task, count, span
from ..lessons import RangedTask
from .family import FAMILY
from .graph import Graphs, draw_labels, label_graph, random_graphs, share_names
from .known import KnownGraph
from .triples import NUM_LABELS, TripleTask
from .underground import UNDERGROUND

KNOWN_GRAPHS: dict[str, KnownGraph] = {"underground": UNDERGROUND, "family": FAMILY}


class Names(NamedTuple):
    """What a sequence's labels stand for: nodes, and edges or (in inference) relations."""

    nodes: Mapping[int, str]
    edges: Mapping[int, str]


@dataclass(frozen=True)
class GraphTask(RangedTask, TripleTask):
    """Read the triples of a graph in random order, then answer questions about it."""

    RANGES: ClassVar[tuple[tuple[str, str], ...]] = (
        ("min_nodes", "max_nodes"),
        ("min_degree", "max_degree"),
        ("min_path", "max_path"),
    )
    """Of nodes, of edges out of a node, and of the length of an answer."""

    MILESTONES: ClassVar[tuple[str, tuple[int, ...]]]
    """A known graph, and lengths of an answer to ask for in it."""

    num_edge_labels: ClassVar[int] = NUM_LABELS

    graph: str = option(
        "random", "random graphs, or a known one with random labels", ("random", *KNOWN_GRAPHS)
    )
    min_nodes: int = option(5, "fewest nodes of a random graph")
    max_nodes: int = option(10, "most nodes of a random graph")
    min_degree: int = option(2, "fewest edges out of a node")
    max_degree: int = option(4, "most edges out of a node")
    few_names: float = option(
        0.0, "share of random graphs, in training, whose edges share few names, as lines do"
    )

    def __post_init__(self) -> None:
        check_choice("graph", self.graph, ("random", *KNOWN_GRAPHS))
        check_integer("min_nodes", self.min_nodes, minimum=2)
        check_integer("min_degree", self.min_degree, minimum=1)
        self.check_ranges()
        for name, most in (("max_nodes", NUM_LABELS), ("max_degree", self.num_edge_labels)):
            if (value := getattr(self, name)) > most:
                raise ValueError(
                    f"{name} must be at most {most}, the number of labels, got {value}"
                )
        check_number("few_names", self.few_names, 0.0, 1.0)
        if self.known and len(self.known.edge_names) > self.num_edge_labels:
            raise ValueError(
                f"graph must have at most {self.num_edge_labels} names of edges, got "
                f"{self.graph!r} with {len(self.known.edge_names)}"
            )

    @property
    def known(self) -> KnownGraph | None:
        """The known graph; None for random ones."""
        return KNOWN_GRAPHS.get(self.graph)

    @property
    def place(self) -> str:
        """The graphs in words."""
        if self.known:
            return f"the {self.graph}"
        return f"random graphs of {span(self.min_nodes, self.max_nodes)} nodes"

    def lessons(self) -> tuple[Task, ...]:
        """See `RangedTask.lessons`; a known graph has none before it."""
        return (self,) if self.known else super().lessons()

    def held_out(self) -> GraphTask:
        """The same with names as in the paper."""
        return replace(self, few_names=0.0)

    def milestones(self) -> dict[str, Task]:
        """Answers of some lengths in a known graph, which is never trained on."""
        (graph, lengths), (low, high) = self.MILESTONES, self.RANGES[-1]
        return {
            f"the {graph}, {count(length, 'edge')}": replace(
                self, graph=graph, **{low: length, high: length}
            )
            for length in lengths
        }

    @property
    def memory_load(self) -> int:
        return self.max_nodes * self.max_degree

    def draw_graphs(self, batch_size: int, generator: torch.Generator) -> Graphs:
        """The graphs of a batch; nothing else of a batch is drawn before them."""
        check_integer("batch_size", batch_size, minimum=1)
        if self.known:
            labels = draw_labels(self.known, batch_size, generator, self.num_edge_labels)
            return label_graph(self.known, labels)
        nodes, degree = (self.min_nodes, self.max_nodes), (self.min_degree, self.max_degree)
        graphs = random_graphs(batch_size, nodes, degree, generator, self.num_edge_labels)
        if self.few_names:
            graphs = share_names(graphs, self.few_names, generator, self.num_edge_labels)
        return graphs

    def names(self, batch_size: int, generator: torch.Generator) -> list[Names]:
        """What the labels stand for in each sequence of the batch drawn with this generator.

        In random graphs, labels stand for themselves.
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
