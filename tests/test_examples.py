"""The examples and the README's Python run, at tiny size."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from runs import trained

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


SNIPPETS = re.findall(r"```python\n(.*?)```", (EXAMPLES.parent / "README.md").read_text(), re.S)


@pytest.mark.parametrize("code", SNIPPETS, ids=lambda code: code.split("\n")[-2][:30])
def test_snippet_runs(code, tmp_path, monkeypatch):
    if "runs/copy" in code:
        trained(tmp_path / "runs/copy", max_steps=1)
    monkeypatch.chdir(tmp_path)
    exec(code, {})
