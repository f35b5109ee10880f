"""A directed graph whose nodes and edges have names."""

from __future__ import annotations

from typing import NamedTuple


class KnownGraph(NamedTuple):
    """Nodes by name, and edges as triples of names (source, edge, destination).

    No node has two edges of the same name.
    """

    nodes: tuple[str, ...]
    triples: tuple[tuple[str, str, str], ...]

    @classmethod
    def of(cls, triples: list[tuple[str, str, str]]) -> KnownGraph:
        """The graph of these triples, with its nodes sorted.

        Raises:
            ValueError: a node has two edges of the same name.
        """
        seen: dict[tuple[str, str], str] = {}
        for source, edge, end in triples:
            if seen.setdefault((source, edge), end) != end:
                raise ValueError(
                    f"({source}, {edge}) must lead to one node, got {seen[source, edge]} and {end}"
                )
        nodes = {name for source, _, end in triples for name in (source, end)}
        return cls(tuple(sorted(nodes)), tuple(sorted(set(triples))))

    @property
    def edge_names(self) -> tuple[str, ...]:
        """The names that edges have, sorted."""
        return tuple(sorted({edge for _, edge, _ in self.triples}))

    def tables(self) -> tuple[list[list[int]], list[list[int]]]:
        """For each node the ends and names of its edges, as places in `nodes` and `edge_names`.

        Shorter rows are filled up with -1.
        """
        names = self.edge_names
        ends: list[list[int]] = [[] for _ in self.nodes]
        labels: list[list[int]] = [[] for _ in self.nodes]
        for source, edge, end in self.triples:
            place = self.nodes.index(source)
            ends[place].append(self.nodes.index(end))
            labels[place].append(names.index(edge))
        most = max(map(len, ends))
        filled = [[row + [-1] * (most - len(row)) for row in table] for table in (ends, labels)]
        return filled[0], filled[1]
