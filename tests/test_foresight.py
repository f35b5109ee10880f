"""Reading the first action from a memory before a goal is asked for."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from dnc_fast.cli.look import print_scores
from dnc_fast.models import build_model
from dnc_fast.presets import model_config
from dnc_fast.tasks import ShrdluTask
from dnc_fast.tasks.shrdlu.board import ACTIONS
from dnc_fast.tasks.shrdlu.episode import LETTERS, decode_boards, hear
from dnc_fast.tasks.shrdlu.search import best_actions
from dnc_fast.training import foresight

TWO_GOALS = ShrdluTask(
    min_goals=2, max_goals=2, min_blocks=3, max_blocks=3, max_constraints=1, max_moves=1,
    extra_moves=0, board="always",
)  # fmt: skip


class Planner(nn.Module):
    """Writes into cell t the first action towards the goal told at step t, or nothing, and takes
    it if that goal is asked for."""

    def __init__(self, notes: bool) -> None:
        super().__init__()
        self.notes = notes
        self.unused = nn.Parameter(torch.zeros(1))

    def forward(self, inputs, state=None, return_trace=False):
        if return_trace:
            asked = torch.zeros(2, *inputs.shape[1:])  # a question and a move, for `hear`
            asked[1, :, 42] = 1.0
            codes = hear(torch.cat([inputs, asked])).codes
            boards = decode_boards(inputs)
            plans = torch.stack([
                best_actions(board, goal.unsqueeze(1)).int().argmax(1)
                for board, goal in zip(boards, codes, strict=True)
            ])  # fmt: skip
            memory = nn.functional.one_hot(plans.T, ACTIONS).float() * self.notes
            steps, sequences = plans.shape
            writes = torch.eye(steps).view(steps, 1, 1, steps).expand(-1, sequences, -1, -1)
            names = inputs[..., :LETTERS].argmax(-1)
            state = SimpleNamespace(memory=SimpleNamespace(memory=memory), plans=plans, names=names)
            return None, state, SimpleNamespace(write_weights=writes)
        which = (state.names == inputs[0, :, :LETTERS].argmax(-1)).int().argmax(0)
        action = state.plans.gather(0, which.unsqueeze(0))
        outputs = nn.functional.one_hot(action, ACTIONS + 1).float()
        return outputs.expand(len(inputs), -1, -1), state


def test_a_plan_in_the_cells_of_its_goal_is_read_there_and_only_there():
    found = foresight(Planner(notes=True), TWO_GOALS, seed=0, episodes=1000)
    assert found.asked == 1.0
    assert found.frequent <= found.others < 0.6


def test_cells_without_a_plan_tell_no_more_than_the_most_frequent_action():
    found = foresight(Planner(notes=False), TWO_GOALS, seed=0, episodes=1000)
    assert found.asked == found.others == found.frequent < 0.4


def test_there_is_nothing_to_read_while_the_board_is_hidden():
    with pytest.raises(ValueError, match="board must be 'always', got 'moves'"):
        foresight(Planner(notes=True), ShrdluTask(), seed=0)


@pytest.mark.parametrize("shown", ["always", "moves"])
def test_eval_tells_it_of_a_dnc_that_sees_the_board(shown, capsys):
    task = replace(TWO_GOALS, board=shown)
    model = build_model(model_config(task, hidden_size=8))
    print_scores(model, task, {"seed": 0}, 10)
    assert ("first action, read from memory" in capsys.readouterr().out) == (shown == "always")
