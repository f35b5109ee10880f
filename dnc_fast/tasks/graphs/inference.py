"""Inference: read a graph, then name who stands in a relation to a node (Graves et al. 2016)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checks import check_integer, check_number
from ...options import option
from ..base import random_shares, span, uniform
from ..batch import Batch
from .graph import Graphs
from .task import GraphTask, Names
from .triples import BLANK, Phase, answer_phase, join_phases, silence

EDGE_LABELS = 10
RELATION_LENGTHS = (2, 3, 4, 5)
OF_EACH_LENGTH = 100

RELATION_SEED = 2016


@lru_cache(maxsize=1)
def relations() -> Tensor:
    """(410, 5) int64: the edge labels that each label stands for, in order; `BLANK` past them.

    The labels 0 to 9 are edges themselves; then come 100 relations of each length from 2 to 5,
    drawn with a fixed seed. There are only 100 of length 2, so all of them are included.
    """
    generator = torch.Generator("cpu").manual_seed(RELATION_SEED)
    edges = torch.arange(EDGE_LABELS, device="cpu").unsqueeze(1)
    rows = [F.pad(edges, (0, RELATION_LENGTHS[-1] - 1), value=BLANK)]
    for length in RELATION_LENGTHS:
        numbers = torch.randperm(EDGE_LABELS**length, generator=generator, device="cpu")
        places = EDGE_LABELS ** torch.arange(length, device="cpu")
        digits = numbers[:OF_EACH_LENGTH].sort().values.unsqueeze(1) // places.flip(0) % EDGE_LABELS
        rows.append(F.pad(digits, (0, RELATION_LENGTHS[-1] - length), value=BLANK))
    return torch.cat(rows)


@dataclass(frozen=True)
class InferenceTask(GraphTask):
    """A graph's triples, then queries (node, relation, -), each with time to plan and an answer.

    Edges have the labels 0 to 9. A relation stands for a fixed sequence of 2 to 5 edges that the
    description never gives: it has to be learned. There are 400, with the labels 10 to 409. The
    answer is (node, relation, the node that the edges lead to), then (0, 0, 0). Where no relation
    of the drawn length leads anywhere, one of another length is asked for.

    With `min_relation` 1, which the paper does not have, single edges are asked for too.
    """

    # The paper's 17, of which 3 and 4 are the same, and 10 and 11
    LESSONS: ClassVar = (
        ((3, 3), (2, 2), (2, 2)), ((3, 5), (2, 2), (2, 2)), ((4, 6), (2, 4), (2, 2)),
        ((6, 12), (2, 4), (2, 2)), ((12, 18), (2, 4), (2, 2)), ((4, 6), (2, 4), (2, 3)),
        ((6, 12), (2, 4), (2, 3)), ((12, 18), (2, 4), (2, 3)), ((4, 6), (2, 4), (2, 4)),
        ((6, 12), (2, 4), (2, 4)), ((12, 18), (2, 4), (2, 4)), ((4, 6), (2, 4), (2, 5)),
        ((6, 12), (2, 4), (2, 5)), ((12, 18), (2, 4), (2, 5)), ((20, 25), (2, 4), (2, 5)),
    )  # fmt: skip
    MILESTONES: ClassVar = ("family", (2, 3, 4))
    RANGES: ClassVar = (
        ("min_nodes", "max_nodes"),
        ("min_degree", "max_degree"),
        ("min_relation", "max_relation"),
    )
    num_edge_labels: ClassVar[int] = EDGE_LABELS

    min_nodes: int = option(3, "fewest nodes of a random graph")
    max_nodes: int = option(3, "most nodes of a random graph")
    min_degree: int = option(2, "fewest edges out of a node")
    max_degree: int = option(2, "most edges out of a node")
    min_relation: int = option(2, "fewest edges of a relation; 1: a single edge")
    max_relation: int = option(2, "most edges of a relation")
    num_queries: int = option(3, "queries in an episode")
    planning_steps: int = option(10, "steps between query and answer")
    guided: float = option(
        0.0, "share of training episodes whose planning steps ask for the edges of the relation"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_relation > RELATION_LENGTHS[-1]:
            raise ValueError(
                f"max_relation must be from 1 to {RELATION_LENGTHS[-1]}, got {self.max_relation}"
            )
        for name in ("num_queries", "planning_steps"):
            check_integer(name, getattr(self, name), minimum=1)
        check_number("guided", self.guided, 0.0, 1.0)

    def __str__(self) -> str:
        return f"relations of {span(self.min_relation, self.max_relation)} edges in {self.place}"

    def held_out(self) -> InferenceTask:
        """The same without guidance."""
        return replace(self, guided=0.0, few_names=0.0)

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B episodes, see `Batch`."""
        graphs = self.draw_graphs(batch_size, generator)
        phases = [graphs.describe(generator)]
        answers = self._answers(graphs, generator)
        hints = self._hints(graphs, answers, generator) if self.guided else None
        for number in range(self.num_queries):
            one = torch.ones(batch_size, dtype=torch.int64, device=answers.device)
            answer = answers[:, number : number + 1]
            query = answer.clone()
            query[..., 2] = BLANK
            planning = silence(self.planning_steps, batch_size, answers.device)
            if hints is not None:
                planning = planning._replace(hints=hints[:, number])
            phases += [Phase(query, one), planning, answer_phase(answer, one)]
        return join_phases(phases)

    def _answers(self, graphs: Graphs, generator: torch.Generator) -> Tensor:
        """For each query a node, a relation and the node it leads to: labels (B, Q, 3)."""
        batch_size, num_nodes = graphs.nodes.shape
        first = 0 if self.min_relation == 1 else EDGE_LABELS
        last = EDGE_LABELS + OF_EACH_LENGTH * (self.max_relation - 1)
        rows = relations()[first:last, : self.max_relation].to(graphs.nodes.device)
        batch, start, row, ends = follow(graphs, rows)
        lengths = (rows != BLANK).sum(1)[row].unsqueeze(1)
        shape = (batch_size, self.num_queries)
        wanted = uniform(self.min_relation, self.max_relation, (*shape, 1, 1), generator)
        shares = random_shares((*shape, num_nodes * len(rows)), generator)
        rank = shares[batch, :, start * len(rows) + row]  # (F, Q)
        rank = rank + (lengths == wanted.flatten(1)[batch])
        found = batch.bincount(minlength=batch_size)
        before = found.cumsum(0) - found
        place = torch.arange(len(batch), device=batch.device) - before[batch]
        ranks = rank.new_full((batch_size, int(found.max()), self.num_queries), -1.0)
        ranks[batch, place] = rank
        chosen = before.unsqueeze(1) + ranks.argmax(1)
        nodes = graphs.nodes.gather(1, start[chosen])
        reached = graphs.nodes.gather(1, ends[chosen])
        return torch.stack([nodes, first + row[chosen], reached], -1)

    def _hints(self, graphs: Graphs, answers: Tensor, generator: torch.Generator) -> Tensor:
        """The triple for each planning step of each query, `BLANK` for none: (B, Q, S, 3)."""
        edges = triples_on_the_way(graphs, answers)
        edges = F.pad(edges, (0, 0, 0, self.planning_steps), value=BLANK)
        guided = random_shares((len(answers), 1, 1, 1), generator) < self.guided
        return torch.where(guided, edges[:, :, : self.planning_steps], BLANK)

    def names(self, batch_size: int, generator: torch.Generator) -> list[Names]:
        """As in other graph tasks; a relation is named after its edges."""
        return [
            names._replace(edges={**names.edges, **relation_names(names.edges)})
            for names in super().names(batch_size, generator)
        ]


def relation_names(edges: Mapping[int, str]) -> dict[int, str]:
    """Names of the relations whose edges all have names."""
    named = {}
    for label, row in enumerate(relations().tolist()):
        parts = [part for part in row if part != BLANK]
        if all(part in edges for part in parts):
            named[label] = "'s ".join(edges[part] for part in parts)
    return named


def follow(graphs: Graphs, rows: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Where sequences of edges lead from each node.

    Args:
        graphs: B graphs of V nodes.
        rows: (relations, edges) labels of edges, `BLANK` past the last.

    Returns:
        Four (F) int64, in the order of the first three, for each sequence that leads somewhere: the
        graph, the place in its nodes that it starts from, the row, and the place it leads to.
    """
    batch_size, num_nodes = graphs.nodes.shape
    device = graphs.nodes.device
    # The place after the last node means nowhere; every edge out of it leads back to it.
    next_node = torch.full((batch_size, num_nodes + 1, EDGE_LABELS + 1), num_nodes, device=device)
    edges = torch.where(graphs.edges == BLANK, EDGE_LABELS, graphs.edges)
    next_node[:, :num_nodes].scatter_(2, edges, graphs.ends)
    next_node[..., EDGE_LABELS] = torch.arange(num_nodes + 1, device=device)  # no edge: stay
    next_node[:, :num_nodes][graphs.nodes == BLANK] = num_nodes
    rows = F.pad(torch.where(rows == BLANK, EDGE_LABELS, rows), (0, 1), value=EDGE_LABELS)
    graph = torch.arange(batch_size, device=device).view(-1, 1, 1)
    second = next_node[graph, next_node[:, :num_nodes]].flatten(2)  # (B, V, two labels)
    pair = rows[:, 0] * (EDGE_LABELS + 1) + rows[:, 1]
    batch, start, row = (second < num_nodes).index_select(2, pair).nonzero().unbind(1)
    place = second[batch, start, pair[row]]
    for labels in rows.unbind(1)[2:]:
        place = next_node[batch, place, labels[row]]
        kept = (place < num_nodes).nonzero().squeeze(1)
        batch, start, row, place = (part[kept] for part in (batch, start, row, place))
    return batch, start, row, place


def triples_on_the_way(graphs: Graphs, answers: Tensor) -> Tensor:
    """The triples along a relation.

    Args:
        graphs: B graphs of V nodes.
        answers: (B, Q, 3) labels of a node, a relation, and the node it leads to.

    Returns:
        (B, Q, edges, 3) labels, `BLANK` past the last.
    """
    batch = torch.arange(len(answers), device=answers.device).unsqueeze(1)
    rows = relations().to(answers.device)[answers[..., 1]]
    place = (graphs.nodes.unsqueeze(1) == answers[..., :1]).long().argmax(-1)
    triples = []
    for labels in rows.unbind(-1):
        edge = (graphs.edges[batch, place] == labels.unsqueeze(-1)).long().argmax(-1)
        end = graphs.ends[batch, place, edge]
        triple = torch.stack([graphs.nodes[batch, place], labels, graphs.nodes[batch, end]], -1)
        there = labels != BLANK
        triples.append(torch.where(there.unsqueeze(-1), triple, BLANK))
        place = torch.where(there, end, place)
    return torch.stack(triples, 2)
