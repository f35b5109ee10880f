"""Traversal: read a graph, then follow a sequence of edges through it (Graves et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ...options import option
from ..base import random_shares, span, uniform
from ..batch import Batch
from .graph import Graphs
from .task import GraphTask
from .triples import BLANK, Phase, answer_phase, join_phases


@dataclass(frozen=True)
class TraversalTask(GraphTask):
    """A graph's triples in random order, then the edges of a path; answer: the path's triples.

    The query is (source, edge, -), then (-, edge, -) for each further step. The answer, with a
    blank input, is the triples of the path one by one and (0, 0, 0) for its end. The path is a
    random walk.
    """

    LESSONS: ClassVar = (
        ((3, 10), (2, 4), (1, 1)), ((3, 10), (2, 4), (1, 2)), ((5, 10), (2, 4), (1, 3)),
        ((5, 10), (2, 4), (1, 4)), ((10, 15), (2, 4), (1, 4)), ((10, 15), (2, 4), (1, 5)),
        ((10, 20), (2, 4), (1, 5)), ((10, 20), (2, 4), (1, 6)), ((10, 30), (2, 4), (1, 6)),
        ((10, 30), (2, 4), (1, 7)), ((10, 30), (2, 4), (1, 8)), ((10, 30), (2, 4), (1, 9)),
        ((10, 40), (2, 6), (1, 10)), ((10, 40), (2, 6), (1, 20)),
    )  # fmt: skip

    MILESTONES: ClassVar = ("underground", (1, 3, 5, 7))

    min_path: int = option(1, "fewest edges of a path")
    max_path: int = option(3, "most edges of a path")

    def __str__(self) -> str:
        edges = f"{span(self.min_path, self.max_path)} edge{'s' * (self.max_path > 1)}"
        return f"paths of {edges} in {self.place}"

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B episodes, see `Batch`."""
        graphs = self.draw_graphs(batch_size, generator)
        description = graphs.describe(generator)
        lengths = uniform(self.min_path, self.max_path, (batch_size,), generator)
        path = random_walk(graphs, self.max_path, generator)
        query = path.clone()
        query[:, 1:, 0] = BLANK
        query[..., 2] = BLANK
        return join_phases([description, Phase(query, lengths), answer_phase(path, lengths)])


def random_walk(graphs: Graphs, steps: int, generator: torch.Generator) -> Tensor:
    """A walk from a random node along random edges, as triples of labels, (B, steps, 3)."""
    batch_size = len(graphs.nodes)
    rows = torch.arange(batch_size, device=graphs.nodes.device)
    triples, degrees = graphs.triples(), graphs.degrees
    shares = random_shares((steps + 1, batch_size), generator)
    node = (shares[0] * graphs.sizes).long()
    path = []
    for share in shares[1:]:
        edge = (share * degrees[rows, node]).long()
        path.append(triples[rows, node, edge])
        node = graphs.ends[rows, node, edge]
    return torch.stack(path, 1)
