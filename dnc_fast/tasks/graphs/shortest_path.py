"""Shortest path: read a graph, then find the shortest way to a node (Graves et al. 2016)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checks import check_integer, check_number
from ...options import option
from ..answerer import Answerer
from ..base import Task, random_shares, span, uniform
from ..batch import Batch, Score
from .graph import Graphs
from .task import GraphTask
from .triples import (
    BLANK,
    END,
    TRIPLE_SIZE,
    Phase,
    decode_triples,
    encode_triples,
    join_phases,
    phase_numbers,
    silence,
)

FAR = 10**6
"""Longer than any distance in a graph."""


@dataclass(frozen=True)
class ShortestPathTask(GraphTask):
    """A graph's triples, then (source, -, destination) and time to plan; answer: a path of triples.

    During the answer the input is the last action, a triple. An action is the edge out of the
    current node that is the most likely by the outputs; at the destination the end, (0, 0, 0), is
    expected. A path is right if it arrives and is at most `slack` steps longer than the shortest.
    In training, a share `mixing` of the actions are the best ones; the others are drawn from the
    probabilities that the outputs give the edges. The target is always the best action at the
    current node; of several, the most likely by the outputs. An answer has as many steps as a right
    path may take; those after the end are blank.

    `batch` takes the best actions throughout; an `answerer` replaces them by the model's own.
    """

    unit = "path"
    parts_by = "how much longer than the shortest a right path may be"

    # The paper's 15, of which 10 and 11 are the same
    LESSONS: ClassVar = (
        ((5, 10), (1, 2), (2, 2)), ((5, 20), (1, 2), (2, 2)), ((10, 20), (1, 2), (2, 2)),
        ((10, 20), (1, 2), (2, 3)), ((10, 20), (1, 3), (2, 3)), ((10, 20), (2, 3), (2, 3)),
        ((10, 20), (2, 3), (2, 4)), ((10, 20), (2, 4), (2, 4)), ((10, 25), (2, 4), (2, 4)),
        ((10, 25), (2, 4), (2, 5)), ((15, 25), (2, 4), (2, 5)), ((15, 25), (2, 5), (2, 5)),
        ((20, 25), (2, 5), (2, 5)), ((20, 25), (2, 6), (2, 5)),
    )  # fmt: skip

    MILESTONES: ClassVar = ("underground", (2, 3, 4))

    min_degree: int = option(1, "fewest edges out of a node")
    max_degree: int = option(2, "most edges out of a node")
    min_path: int = option(2, "fewest edges between the two nodes")
    max_path: int = option(2, "most edges between the two nodes")
    planning_steps: int = option(10, "steps between query and answer")
    slack: int = option(1, "steps by which a right path may be longer than the shortest")
    mixing: float = option(0.8, "share of best actions in the answers, in training")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("planning_steps", self.planning_steps, minimum=1)
        check_integer("slack", self.slack, minimum=0)
        check_number("mixing", self.mixing, 0.0, 1.0)

    def __str__(self) -> str:
        paths = f"shortest paths of {span(self.min_path, self.max_path)} edges"
        return f"{paths}, {self.slack} more allowed, in {self.place}"

    def parts(self) -> dict[str, Task]:
        """By the paper's two rules: at most one step longer (Methods), or none (its tables)."""
        return {
            "at most one step": replace(self, slack=1),
            "not at all": replace(self, slack=0),
        }

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B episodes with the best actions, see `Batch`."""
        graphs = self.draw_graphs(batch_size, generator)
        description = graphs.describe(generator)
        wanted = uniform(self.min_path, self.max_path, (batch_size,), generator)
        query, lengths = draw_pairs(graphs, wanted, generator)
        path = shortest_walk(description.heard, query, lengths)
        actions = F.pad(path, (0, 0, 1, self.slack), value=BLANK)
        steps = torch.arange(actions.shape[1], device=query.device).unsqueeze(-1)
        end = torch.tensor(END, device=query.device)
        targets = F.pad(path, (0, 0, 0, 1 + self.slack), value=BLANK)
        targets = torch.where(steps == lengths.view(-1, 1, 1), end, targets)
        return join_phases(
            [
                description,
                Phase(query.unsqueeze(1), torch.ones_like(lengths)),
                silence(self.planning_steps, batch_size, query.device),
                Phase(actions, lengths + self.slack + 1, targets),
            ]
        )

    def answerer(self, batch: Batch, generator: torch.Generator | None) -> PathAnswerer:
        """Replaces the actions of the batch by the model's own."""
        return PathAnswerer(batch, generator, self.mixing)

    def score(self, outputs: Tensor, batch: Batch) -> Score:
        """Whether each path in the batch arrives; the batch must be answered by the model.

        The loss is the sum over the digits of all actions.
        """
        digits = super().score(outputs, batch)
        arrived = arrivals(batch.inputs).any(0)
        loss = digits.loss * digits.counted
        return Score(loss, (~arrived).long(), torch.ones_like(digits.counted))


def draw_pairs(graphs: Graphs, wanted: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Two nodes whose shortest path has `wanted` (B) edges, or if there are none, the next fewer.

    Returns:
        (B, 3) labels, with `BLANK` for the edge; (B) the length of the path.
    """
    batch_size, num_nodes = graphs.nodes.shape
    most = int(wanted.max())
    kind: Any = {"dtype": torch.float32, "device": wanted.device}
    step = torch.zeros(batch_size, num_nodes, num_nodes + 1, **kind)
    ends = torch.where(graphs.ends == BLANK, num_nodes, graphs.ends)
    step = step.scatter(2, ends, 1.0)[..., :-1]
    reached = torch.eye(num_nodes, **kind).expand(batch_size, -1, -1)
    distance = torch.zeros(batch_size, num_nodes, num_nodes, **kind)
    frontier = reached
    for length in range(1, most + 1):
        frontier = ((frontier @ step) > 0).float() * (1 - reached)
        distance = distance + length * frontier
        reached = reached + frontier
    # The longest up to `wanted`, ties broken at random.
    usable = distance * (distance <= wanted.view(-1, 1, 1))
    rank = usable + random_shares(tuple(usable.shape), generator) * (usable > 0) * 0.5
    chosen = rank.flatten(1).argmax(1, keepdim=True)
    lengths = distance.flatten(1).gather(1, chosen).long().squeeze(1)
    source = graphs.nodes.gather(1, chosen // num_nodes)
    destination = graphs.nodes.gather(1, chosen % num_nodes)
    return torch.cat([source, torch.full_like(source, BLANK), destination], 1), lengths


def shortest_walk(edges: Tensor, query: Tensor, lengths: Tensor) -> Tensor:
    """A shortest path along edges, of several that which takes the first edges.

    Args:
        edges: (B, E, 3) triples of labels, `BLANK` past the last.
        query: (B, 3) labels of source, `BLANK` and destination.
        lengths: (B) of the path.

    Returns:
        (B, longest, 3) triples of labels, `BLANK` past the last.
    """
    rows, node = torch.arange(len(edges), device=edges.device), query[:, 0]
    to_go = distances(edges, query[:, 2]).gather(1, edges[..., 2].clamp(min=0))
    path = []
    for left in lengths - torch.arange(int(lengths.max()), device=edges.device).unsqueeze(-1):
        leads = (edges[..., 0] == node.unsqueeze(1)) & (to_go == left.unsqueeze(1) - 1)
        triple = edges[rows, leads.int().argmax(1)]
        path.append(torch.where((left > 0).unsqueeze(1), triple, BLANK))
        node = triple[:, 2]
    return torch.stack(path, 1)


def arrivals(inputs: Tensor) -> Tensor:
    """At which steps (T, B) of inputs (T, B, 92) the action leads to the destination."""
    heard, phase = decode_triples(inputs[..., :TRIPLE_SIZE]), phase_numbers(inputs)
    destination = torch.where(phase == 1, heard[..., 2], BLANK).amax(0)
    return (phase == 3) & (heard[..., 2] == destination)


class PathAnswerer(Answerer):
    """Walks where the outputs lead; see `ShortestPathTask`.

    The graph is read from the inputs, as the model hears it.

    Args:
        batch: of a `ShortestPathTask`; its answers are ignored.
        generator: of random actions in training; None takes the most likely edge at every step.
        mixing: share of best actions in training; without a generator there are none.
    """

    def __init__(
        self, batch: Batch, generator: torch.Generator | None = None, mixing: float = 0.0
    ) -> None:
        inputs = batch.inputs
        heard, phase = decode_triples(inputs[..., :TRIPLE_SIZE]), phase_numbers(inputs)
        answering = phase == 3
        steps = torch.arange(len(inputs), device=inputs.device).unsqueeze(1)
        answering &= steps < batch.lengths
        self._lengths = batch.lengths
        self._start = answering.long().argmax(0)
        self.first, self.last = int(self._start.min()), int(batch.lengths.max()) - 1
        self._generator, self._mixing = generator, mixing

        edges = torch.where((phase == 0).unsqueeze(-1), heard, BLANK).transpose(0, 1)
        self._edges = edges[:, : int((phase == 0).sum(0).max())]  # (B, E, 3)
        asked = torch.where((phase == 1).unsqueeze(-1), heard, BLANK).amax(0)
        self._node, self._destination = asked[:, 0], asked[:, 2]
        self._distance = distances(self._edges, self._destination)
        self._choices = encode_triples(self._edges)  # (B, E, 90)
        self._end = torch.tensor(END, device=inputs.device)

        self._inputs, self._targets = inputs.clone(), torch.zeros_like(batch.targets)
        self._inputs[..., :TRIPLE_SIZE][answering] = 0.0
        self._mask = torch.zeros_like(batch.mask)
        self._done = torch.zeros_like(asked[:, 0], dtype=torch.bool)

    def inputs(self, first: int, last: int) -> Tensor:
        return self._inputs[first : last + 1]

    def take(self, step: int, outputs: Tensor) -> None:
        answers = (step >= self._start) & (step < self._lengths) & ~self._done
        arrived = answers & (self._node == self._destination)
        valid = (self._edges[..., 0] == self._node.unsqueeze(1)) & (answers & ~arrived).unsqueeze(1)
        likely = outputs.float().unflatten(-1, (-1, 10)).log_softmax(-1).flatten(-2)
        likely = (self._choices @ likely.unsqueeze(-1)).squeeze(-1)  # (B, E) of whole triples
        rows = torch.arange(len(outputs), device=outputs.device)

        to_go = self._distance.gather(1, self._edges[..., 2].clamp(min=0))
        to_go = torch.where(valid, to_go, FAR)
        fewest = to_go.amin(1, keepdim=True)
        known = fewest.squeeze(1) < FAR  # the destination can still be reached
        best = likely.masked_fill(~(valid & (to_go == fewest)), -torch.inf).argmax(1)
        chosen = likely.masked_fill(~valid, -torch.inf)
        if self._generator is not None:
            shares = random_shares(tuple(chosen.shape), self._generator).clamp(min=1e-12)
            chosen = chosen - torch.log(-torch.log(shares.to(chosen.device)))  # Gumbel-max sampling
        chosen = chosen.argmax(1)
        chosen = torch.where(self._takes_best(known), best, chosen)

        walks = valid.any(1)
        target = torch.where(arrived.unsqueeze(1), self._end, self._edges[rows, best])
        counts = arrived | (walks & known)
        self._mask[step] = counts
        self._targets[step] = encode_triples(target) * counts.unsqueeze(1)
        action = self._edges[rows, chosen]
        self._node = torch.where(walks, action[:, 2], self._node)
        if step < self.last:
            goes_on = walks & (step + 1 < self._lengths)
            self._inputs[step + 1, :, :TRIPLE_SIZE] += encode_triples(action) * goes_on.unsqueeze(1)
        self._done |= arrived | (answers & ~walks)

    def _takes_best(self, known: Tensor) -> Tensor:
        """(B) in which sequences the best action is taken, whatever the outputs are."""
        if self._generator is None:
            return torch.zeros_like(known)
        shares = random_shares(tuple(known.shape), self._generator).to(known.device)
        return known & (shares < self._mixing)

    def batch(self) -> Batch:
        return Batch(self._inputs, self._targets, self._mask, self._lengths)


def distances(edges: Tensor, destination: Tensor) -> Tensor:
    """The number of edges from each label to a destination, `FAR` if there is no path.

    Args:
        edges: (B, E, 3) triples of labels, `BLANK` past the last.
        destination: (B) labels.

    Returns:
        (B, 1000) int64.
    """
    far = torch.full((len(edges), 1001), FAR, device=edges.device)  # the last one is for `BLANK`
    far.scatter_(1, destination.unsqueeze(1), 0)
    source, end = (torch.where(edges[..., side] < 0, 1000, edges[..., side]) for side in (0, 2))
    while True:
        nearer = far.scatter_reduce(1, source, far.gather(1, end) + 1, "amin")
        nearer = nearer.clamp(max=FAR)
        if torch.equal(nearer, far):
            return far[:, :1000]
        far = nearer
