"""The examples run, at tiny size."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
ARGUMENTS = {
    "own_training_loop.py": ["--steps", "2"],
    "carried_state.py": ["--streams", "1"],
    "training_in_parts.py": ["--steps", "3", "--minutes", "1e-9"],
    "large_memory.py": ["--steps", "2", "--items", "40"],
    "character_model.py": ["--steps", "3", "--hidden-size", "8"],
}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_example_runs(path):
    command = [sys.executable, str(path), *ARGUMENTS.get(path.name, [])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout
