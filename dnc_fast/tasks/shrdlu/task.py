"""Mini-SHRDLU: hear goals for a board of blocks, then move blocks to reach the one asked for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from ...checks import check_choice, check_integer, check_number
from ...options import option
from ..answerer import Answerer
from ..base import Task, count, random_shares, uniform
from ..batch import Account, Batch, Score
from ..lessons import RangedTask
from .account import tell_story
from .board import ACTIONS, BLOCKS, all_states
from .episode import BOARD, INPUT_SIZE, LETTERS, SHOWN, Episodes, encode_boards, hear, tell
from .generator import draw_goals, draw_states, several
from .goals import NOTHING, satisfied
from .play import Costs, Play
from .search import best_actions, plan

MOST_NEIGHBOURS = {2: 1, 3: 2, 4: 4, 5: 5, 6: 7}
"""The most pairs of neighbours among so many blocks."""


@dataclass(frozen=True)
class ShrdluTask(RangedTask):
    """Goals, each of constraints on pairs of blocks, are told by name; then one is asked for.

    From then on the model moves blocks, and learns by reinforcement: its outputs are the log-odds
    of the seven actions, and the value of the present state. In training, actions are drawn by
    their probabilities; in tests the most likely is taken. An answer is a constraint of the goal,
    and right if it is satisfied in the end.

    The loss is the policy gradient with the advantage of the paper, sum over t' >= t of
    lambda^(t' - t) delta_t', where delta_t = r_t + V_(t+1) - V_t; half the squared error of the
    value; and less `entropy` times the entropy of the policy; the mean over steps. Added to it is
    `imitate` times the `disagreement` with a teacher, which is not from the paper.

    `batch` takes the best actions throughout; an `answerer` replaces them by the model's own.
    The targets of a batch are the actions taken, one-hot, and their rewards.
    """

    unit = "constraint"
    goal = "right"
    parts_goal = "solved"
    loss_unit = "of the constraints"
    published = ("right", "solved")

    LESSONS: ClassVar = (
        ((2, 2), (3, 3), (1, 1), (1, 1)), ((2, 3), (3, 4), (1, 2), (1, 1)),
        ((3, 3), (4, 4), (1, 2), (1, 2)), ((3, 4), (4, 5), (2, 2), (1, 2)),
        ((4, 4), (5, 5), (2, 2), (2, 2)), ((4, 5), (5, 6), (2, 3), (2, 2)),
        ((5, 5), (6, 6), (2, 3), (2, 3)), ((5, 6), (6, 6), (3, 3), (2, 3)),
        ((6, 6), (6, 6), (3, 3), (3, 3)), ((6, 7), (6, 6), (3, 4), (3, 3)),
        ((7, 7), (6, 6), (3, 4), (3, 4)), ((7, 8), (6, 6), (4, 4), (3, 4)),
        ((8, 8), (6, 6), (4, 4), (4, 4)), ((8, 9), (6, 6), (4, 5), (4, 4)),
        ((9, 9), (6, 6), (4, 5), (4, 5)), ((9, 10), (6, 6), (5, 5), (4, 5)),
        ((10, 10), (6, 6), (5, 5), (5, 5)), ((10, 10), (6, 6), (5, 6), (5, 5)),
        ((10, 10), (6, 6), (5, 6), (5, 6)), ((10, 10), (6, 6), (6, 6), (5, 6)),
        ((10, 10), (6, 6), (6, 6), (6, 6)), ((10, 10), (6, 6), (6, 6), (6, 7)),
        ((10, 10), (6, 6), (6, 6), (7, 7)), ((10, 10), (6, 6), (1, 6), (1, 7)),
    )  # fmt: skip
    """The paper's 26, of which 21 and 22, and 23 and 24, are the same: ranges of goals, blocks,
    constraints of a goal, and moves that a goal needs."""

    RANGES: ClassVar = tuple(
        (f"min_{what}", f"max_{what}") for what in ("goals", "blocks", "constraints", "moves")
    )

    min_goals: int = option(3, "fewest goals")
    max_goals: int = option(3, "most goals")
    min_blocks: int = option(4, "fewest blocks on the board")
    max_blocks: int = option(4, "most blocks on the board")
    min_constraints: int = option(1, "fewest constraints of a goal")
    max_constraints: int = option(2, "most constraints of a goal")
    min_moves: int = option(1, "smallest number of moves that a goal needs at least")
    max_moves: int = option(2, "largest number of moves that a goal needs at least")
    extra_moves: int = option(2, "moves beyond max_moves that an episode allows")
    invalid_cost: float = option(0.1, "what an invalid move takes from the reward")
    undo_cost: float = option(0.1, "what undoing all constraints takes from it, beside their share")
    decay: float = option(0.75, "lambda, by which surprises count less for earlier actions")
    entropy: float = option(0.05, "weight of the policy's entropy")
    imitate: float = option(1.0, "weight of a teacher that knows the best actions; 0: none")
    board: str = option("moves", "when the board is shown", SHOWN)
    asks: int = option(2, "episodes that tell the same goals and ask for different ones")

    def __post_init__(self) -> None:
        most = {"goals": LETTERS, "blocks": BLOCKS, "constraints": None, "moves": None}
        self.check_ranges()
        for (_, high), limit in zip(self.RANGES, most.values(), strict=True):
            if limit is not None and getattr(self, high) > limit:
                raise ValueError(f"{high} must be at most {limit}, got {getattr(self, high)}")
        check_integer("min_blocks", self.min_blocks, minimum=2)
        if self.min_constraints > (most_pairs := MOST_NEIGHBOURS[self.min_blocks]):
            raise ValueError(
                f"min_constraints must be at most {most_pairs}, the most pairs of neighbours among "
                f"{self.min_blocks} blocks, got {self.min_constraints}; take fewer, or more blocks "
                "with min_blocks"
            )
        check_integer("extra_moves", self.extra_moves, minimum=0)
        check_choice("board", self.board, SHOWN)
        check_integer("asks", self.asks, minimum=1)
        for name in ("invalid_cost", "undo_cost", "entropy", "imitate"):
            check_number(name, getattr(self, name), 0.0)
        check_number("decay", self.decay, 0.0, 1.0)

    def __str__(self) -> str:
        goals, blocks, constraints, moves = (
            several(getattr(self, low), getattr(self, high), what)
            for (low, high), what in zip(
                self.RANGES, ("goal", "block", "constraint", "move"), strict=True
            )
        )
        return f"{goals} of {constraints}, {moves} away, {blocks}"

    @property
    def input_size(self) -> int:
        return INPUT_SIZE

    @property
    def output_size(self) -> int:
        return ACTIONS + 1

    @property
    def memory_load(self) -> int:
        return self.max_goals * self.max_constraints

    @property
    def steps(self) -> int:
        """The actions of an episode."""
        return self.max_moves + self.extra_moves

    @property
    def costs(self) -> Costs:
        """What bad moves take from the reward."""
        return Costs(self.invalid_cost, self.undo_cost)

    def parts(self) -> dict[str, Task]:
        """By moves and constraints, without moves to spare: a goal reached is an optimal plan.

        Only those are listed that there are on boards of all shapes.
        """
        same = (self.min_goals, self.max_goals), (self.min_blocks, self.max_blocks)
        parts = {
            f"{moves},{constraints}": replace(
                self,
                extra_moves=0,
                **self.lesson_options((*same, (constraints, constraints), (moves, moves))),
            )
            for moves in range(self.min_moves, self.max_moves + 1)
            for constraints in range(self.min_constraints, self.max_constraints + 1)
            if constraints <= MOST_NEIGHBOURS[self.min_blocks]
        }
        return {name: part for name, part in parts.items() if part.suits_all_boards()}

    def suits_all_boards(self) -> bool:
        """Whether there are goals for boards of each shape with so many blocks."""
        states = all_states()
        numbers = (states.boards[states.starts] > 0).sum((1, 2))
        starts = states.starts[(numbers >= self.min_blocks) & (numbers <= self.max_blocks)]
        ranges = (self.min_moves, self.max_moves), (self.min_constraints, self.max_constraints)
        try:
            draw_goals(starts, *ranges, torch.Generator().manual_seed(0))
        except ValueError:
            return False
        return True

    def parts_table(self, shares: dict[str, float], guesses: dict[str, float]) -> str:
        """The share of goals reached in the fewest moves, by moves and constraints."""
        constraints = range(self.min_constraints, self.max_constraints + 1)
        head = "".join(f" {count(number, 'constraint')} |" for number in constraints)
        lines = [f"| moves |{head}", "|---" * (len(constraints) + 1) + "|"]
        for moves in range(self.min_moves, self.max_moves + 1):
            names = [f"{moves},{number}" for number in constraints]
            cells = [
                f" {100 * shares[name]:.1f} % ({100 * guesses[name]:.1f} %) |"
                if name in shares
                else " - |"
                for name in names
            ]
            lines.append(f"| {moves} |{''.join(cells)}")
        return "\n".join(["optimal plans (by guessing), by moves and constraints:", "", *lines])

    def draw(self, batch_size: int, generator: torch.Generator) -> Episodes:
        """Draw B episodes."""
        check_integer("batch_size", batch_size, minimum=1)
        device, asks = generator.device, min(self.asks, self.min_goals)
        stories = -(-batch_size // asks)
        starts = draw_states((self.min_blocks, self.max_blocks), stories, generator)
        letters = random_shares((stories, LETTERS), generator).argsort(1)[:, : self.max_goals]
        numbers = uniform(self.min_goals, self.max_goals, (stories,), generator)
        used = torch.arange(self.max_goals, device=device) < numbers.unsqueeze(1)
        goals = torch.full((*used.shape, self.max_constraints), NOTHING, device=device)
        moves = torch.zeros(used.shape, dtype=torch.int64, device=device)
        goals[used], moves[used] = draw_goals(
            starts.unsqueeze(1).expand(used.shape)[used],
            (self.min_moves, self.max_moves),
            (self.min_constraints, self.max_constraints),
            generator,
        )
        first = (random_shares((stories,), generator) * numbers).long()
        rows = torch.arange(stories, device=device).repeat_interleave(asks)[:batch_size]
        number = torch.arange(batch_size, device=device) % asks
        asked = (first[rows] + number) % numbers[rows]
        return Episodes(starts[rows], letters[rows], goals[rows], asked, moves[rows])

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B episodes with the best actions, see `Batch`."""
        episodes = self.draw(batch_size, generator)
        inputs = tell(episodes, self.steps, self.board)
        first = len(inputs) - self.steps
        targets = inputs.new_zeros(*inputs.shape[:2], self.output_size)
        mask = torch.zeros(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
        mask[first:] = True
        lengths = torch.full((batch_size,), len(inputs), device=inputs.device)
        player = ShrdluPlayer(Batch(inputs, targets, mask, lengths), None, self.costs)
        best = plan(episodes.starts, episodes.goal, self.steps)
        for step, actions in enumerate(best.T, first):
            player.play(step, actions)
        return player.batch()

    def answerer(self, batch: Batch, generator: torch.Generator | None) -> ShrdluPlayer:
        """Replaces the actions of the batch by the model's own."""
        return ShrdluPlayer(batch, generator, self.costs)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The loss of a batch that the model has answered, see the class."""
        counts = batch.mask.float()
        policy = outputs[..., :ACTIONS].log_softmax(-1)
        values, rewards = outputs[..., ACTIONS] * counts, batch.targets[..., ACTIONS] * counts
        with torch.no_grad():
            surprises = (rewards + F.pad(values[1:], (0, 0, 0, 1)) - values) * counts
            advantages = discounted(surprises, self.decay)
            returns = discounted(rewards, 1.0)
        taken = (policy * batch.targets[..., :ACTIONS]).sum(-1)
        entropy = -(policy * policy.exp()).sum(-1)
        losses = 0.5 * (returns - values).square() - advantages * taken - self.entropy * entropy
        loss = (losses * counts).sum() / counts.sum().clamp(min=1)
        return loss + self.imitate * self.disagreement(policy, batch) if self.imitate else loss

    def disagreement(self, policy: Tensor, batch: Batch) -> Tensor:
        """Minus the logarithm of the probability of taking one of the best actions, from where the
        model's own actions have led; the mean over the steps that count.

        Args:
            policy: (T, B, 7) logarithms of probabilities.
            batch: see `loss`.
        """
        heard = hear(batch.inputs)
        goals = heard.goal.sort(1).values[:, : self.max_constraints]  # `NOTHING` comes last
        goals = goals.repeat(len(heard.states), 1)
        best = best_actions(heard.states.flatten(), goals).view(*heard.states.shape, ACTIONS)
        moves = slice(heard.first, heard.last + 1)
        counts = batch.mask[moves].float()
        likely = policy[moves].masked_fill(~best, -torch.inf).logsumexp(-1)
        return -(likely * counts).sum() / counts.sum().clamp(min=1)

    def score(self, outputs: Tensor, batch: Batch) -> Score:
        """The constraints left unsatisfied by each episode that the model has answered.

        The loss is the share of them.
        """
        heard = hear(batch.inputs)
        actions = batch.targets[heard.last, :, :ACTIONS].argmax(-1)
        states = all_states(actions.device).following[heard.states[-1], actions]
        counted = (heard.goal != NOTHING).sum(1)
        wrong = counted - satisfied(states, heard.goal)
        return Score(wrong.float() / counted, wrong, counted)

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The cross-entropy of the actions taken, (..., 1)."""
        policy = outputs[..., :ACTIONS].log_softmax(-1)
        return -(policy * targets[..., :ACTIONS]).sum(-1, keepdim=True)

    def wrong(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Whether another action was taken than the most likely, (..., 1)."""
        likely = outputs[..., :ACTIONS].argmax(-1, keepdim=True)
        return likely != targets[..., :ACTIONS].argmax(-1, keepdim=True)

    def probabilities(self, outputs: Tensor) -> Tensor:
        """The probability of each action; then the value, between 0 and 1."""
        policy, value = outputs[..., :ACTIONS].softmax(-1), outputs[..., ACTIONS:]
        return torch.cat([policy, value.clamp(0, 1)], -1)

    def account(self, inputs: Tensor, targets: Tensor) -> Account:
        """The goals, a best plan, and the boards move by move."""
        return tell_story(inputs, targets[..., :ACTIONS])


class ShrdluPlayer(Answerer):
    """Moves blocks as the outputs say; the goals are read from the inputs, as the model hears them.

    Args:
        batch: of a `ShrdluTask`, whichever its options; its actions are ignored.
        generator: of the actions in training; None takes the most likely.
        costs: of bad moves.
    """

    def __init__(self, batch: Batch, generator: torch.Generator | None, costs: Costs) -> None:
        heard = hear(batch.inputs)
        self.first, self.last = heard.first, heard.last
        self._generator = generator
        self._given = batch
        self._inputs, self._targets = batch.inputs.clone(), torch.zeros_like(batch.targets)
        self._play = Play(heard.states[0], heard.goal, costs)

    def inputs(self, first: int, last: int) -> Tensor:
        return self._inputs[first : last + 1]

    def take(self, step: int, outputs: Tensor) -> None:
        likely = outputs[:, :ACTIONS].float().log_softmax(-1)
        if self._generator is not None:
            shares = random_shares(tuple(likely.shape), self._generator).clamp(min=1e-12)
            likely = likely - torch.log(-torch.log(shares.to(likely.device)))  # Gumbel-max sampling
        self.play(step, likely.argmax(-1))

    def play(self, step: int, actions: Tensor) -> None:
        """Take actions (B) at a step."""
        self._targets[step, :, :ACTIONS] = F.one_hot(actions, ACTIONS).float()
        self._targets[step, :, ACTIONS] = self._play.act(actions)
        if step < self.last:
            self._inputs[step + 1, :, BOARD:] = encode_boards(self._play.states)

    def batch(self) -> Batch:
        return Batch(self._inputs, self._targets, self._given.mask, self._given.lengths)


def discounted(numbers: Tensor, decay: float) -> Tensor:
    """The sum over t' >= t of decay^(t' - t) times numbers[t'], for numbers (T, B)."""
    steps = torch.arange(len(numbers), device=numbers.device)
    ahead = steps - steps.unsqueeze(1)
    weights = torch.where(ahead >= 0, decay ** ahead.clamp(min=0).to(numbers.dtype), 0.0)
    return weights @ numbers
