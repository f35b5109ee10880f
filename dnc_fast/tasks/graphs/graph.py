"""Directed graphs by the batch: random ones (Graves et al. 2016, Methods), and known ones by name.

Letters: B graphs, V nodes of the largest, K edges out of a node at most.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..base import random_shares, uniform
from .known import KnownGraph
from .triples import BLANK, NUM_LABELS, Phase


class Graphs(NamedTuple):
    """A batch of graphs; `BLANK` where a graph has fewer nodes, or a node has fewer edges.

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
    """`count` different random numbers in each row, all choices equally likely; (*shape, count)."""
    if count > 8:
        return random_shares((*shape, below), generator).topk(count, -1).indices
    chosen = uniform(0, below - 1, (*shape, 1), generator)
    for number in range(1, count):
        drawn = uniform(0, below - 1 - number, (*shape, 1), generator)
        for earlier in chosen.sort(-1).values.split(1, -1):  # skip the numbers already taken
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
    """Points uniform in the unit square, each with edges to the nearest others.

    Node labels are random and all different, and so are those of the edges out of one node.

    Args:
        num_nodes: range of the number of nodes, uniform for each graph.
        degree: range of the number of edges out of a node, uniform for each node; where a graph has
            too few nodes, edges lead to all others.
        num_edge_labels: labels of edges are below this.
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


def share_names(
    graphs: Graphs, share: float, generator: torch.Generator, num_edge_labels: int = NUM_LABELS
) -> Graphs:
    """Graphs of which a share have few names of edges, as the lines of the Underground.

    With K edges out of a node at most, such a graph has K to 4 K names; the edges out of one node
    still have different ones.
    """
    batch_size, num_nodes, out = graphs.edges.shape
    device, most = graphs.edges.device, min(4 * out, num_edge_labels)
    names = distinct((batch_size,), most, num_edge_labels, generator)
    counts = uniform(out, most, (batch_size, 1, 1), generator)
    ranks = random_shares((batch_size, num_nodes, most), generator)
    ranks = ranks.masked_fill(torch.arange(most, device=device) >= counts, -1)
    edges = names.unsqueeze(1).expand_as(ranks).gather(-1, ranks.topk(out, -1).indices)
    few = random_shares((batch_size, 1, 1), generator) < share
    return graphs._replace(edges=torch.where(few & (graphs.edges != BLANK), edges, graphs.edges))


class Labels(NamedTuple):
    """The labels of a batch of one known graph. nodes: (B, V). edges: (B, names)."""

    nodes: Tensor
    edges: Tensor


def draw_labels(
    known: KnownGraph, batch_size: int, generator: torch.Generator, num_edge_labels: int
) -> Labels:
    """For each sequence, new labels of the nodes and of the names of edges, all different."""
    return Labels(
        distinct((batch_size,), len(known.nodes), NUM_LABELS, generator),
        distinct((batch_size,), len(known.edge_names), num_edge_labels, generator),
    )


def label_graph(known: KnownGraph, labels: Labels) -> Graphs:
    """A known graph with the labels of each sequence."""
    device = labels.nodes.device
    ends, names = (torch.tensor(table, device=device) for table in known.tables())
    edges = labels.edges[:, names.clamp(min=0)]
    ends = ends.expand(len(labels.nodes), -1, -1)
    return Graphs(labels.nodes, torch.where(names == BLANK, BLANK, edges), ends)
