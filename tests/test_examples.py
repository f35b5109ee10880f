"""The examples run, at tiny size; what examples promise holds."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from runs import contents_equal

EXAMPLES = Path(__file__).parent.parent / "examples"
ARGUMENTS = {
    "own_training_loop.py": ["--steps", "2"],
    "carried_state.py": ["--streams", "1"],
    "training_in_parts.py": ["--steps", "3", "--minutes", "1e-9"],
    "large_memory.py": ["--steps", "2", "--items", "40"],
    "character_model.py": ["--steps", "3", "--hidden-size", "8"],
    "recurrent_policy.py": ["--updates", "2", "--corridor", "2"],
    "lightning_module.py": ["--epochs", "1", "--epoch-steps", "2"],
    "accelerate_loop.py": ["--steps", "2", "--precision", "bf16"],
}
NEEDS = {"lightning_module.py": "lightning", "accelerate_loop.py": "accelerate"}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_runs(path, tmp_path):
    pytest.importorskip(NEEDS.get(path.name, "torch"))
    command = [sys.executable, str(path), *ARGUMENTS.get(path.name, [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_the_page_of_examples_lists_them_all():
    listed = re.findall(r"^\| `(\w+\.py)` ", (EXAMPLES / "README.md").read_text(), re.M)
    assert sorted(listed) == sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.fixture
def run_here(monkeypatch):
    """Run an example in this process, and return its global names."""
    threads = torch.get_num_threads()

    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        return runpy.run_path(str(EXAMPLES / name), run_name="__main__")

    yield run
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("name", "length", "model"),
    [
        ("lightning_module.py", ("--epoch-steps", 2, "--epochs"), "model"),
        ("accelerate_loop.py", ("--steps",), "dnc"),
    ],
)
def test_resumed_example_ends_as_an_unbroken_one(name, length, model, tmp_path, run_here):
    pytest.importorskip(NEEDS[name])
    parts = "--folder", tmp_path / "parts"
    whole = run_here(name, *length, 3, "--folder", tmp_path / "whole")
    run_here(name, *length, 2, *parts)
    # Another seed, so that the same parameters can only come from the checkpoint.
    resumed = run_here(name, *length, 3, *parts, "--resume", "--seed", 1)
    assert contents_equal(*(run[model].state_dict() for run in (whole, resumed)))


def walked(env, act):
    """Rewards, terminated and truncated (60, B); `act` maps a sign to the action at its turn."""
    seen, _ = env.reset(seed=0)
    signs = [[] for _ in seen]  # of each row, still to be followed
    happened = []
    for _ in range(60):
        actions = torch.zeros(len(seen), dtype=torch.long)
        for row, kind in enumerate(seen.argmax(-1).tolist()):
            if kind < 2:
                signs[row].append(1 + kind)
            elif kind == 3 and signs[row]:
                actions[row] = act(signs[row].pop(0))
        seen, *step, _ = env.step(actions)
        happened.append(step)
    return [torch.stack(part) for part in zip(*happened, strict=True)]


@pytest.mark.parametrize(
    ("act", "reward"), [(lambda sign: sign, 1), (lambda sign: 3 - sign, -1), (lambda sign: 0, -0.1)]
)
def test_maze_rewards_turns_as_the_signs_said(act, reward):
    maze = runpy.run_path(str(EXAMPLES / "recurrent_policy.py"))["TMaze"]
    rewards, terminated, truncated = walked(maze(8, corridor=3, junctions=2), act)
    turned = rewards != 0
    assert torch.equal(rewards[turned], torch.full_like(rewards[turned], reward))
    if reward == -0.1:  # waits at the first junction until the time is up, and then again
        assert truncated.nonzero()[:, 0].unique().tolist() == [19, 40] and not terminated.any()
    else:  # two turns in each maze, some of which are still to come in the last one
        left = turned.sum(0) - 2 * terminated.sum(0)
        assert (terminated.sum(0) >= 6).all() and ((left >= 0) & (left < 2)).all()
        assert not truncated.any()


@pytest.mark.full
def test_policy_learns_to_remember(capsys, run_here):
    run_here("recurrent_policy.py", "--junctions", 2, "--updates", 600)
    last = re.findall(r"update 600: (.*) % of turns right", capsys.readouterr().out)
    assert float(last[0]) > 95  # a policy that forgets has 50
