"""The command line as a user runs it: in a process of its own."""

import os
import re
import signal
import subprocess
import sys
import time

import pytest

from dnc_fast.training import load_checkpoint, read_metrics

SMALL = {
    "--max-length": 2,
    "--num-bits": 2,
    "--hidden-size": 8,
    "--cell-size": 3,
    "--batch-size": 2,
    "--evaluate-every": 5,
    "--evaluation-size": 4,
    "--threads": 1,
    "--progress": "off",
}
TINY = [word for option in SMALL.items() for word in option]


def command(*arguments):
    return [sys.executable, "-m", "dnc_fast", *map(str, arguments)]


def run(*arguments, status=0):
    """Run a command; returns what it printed, errors included."""
    done = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_train_eval_show(tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "run"
    printed = run("train", "copy", *TINY, "--max-steps", 10, "--out", out)
    assert "not solved after 10 steps" in printed
    assert re.search(r"1000 held-out sequences: [\d.]+ bits wrong per sequence", printed)
    assert f"--out {out} --resume --max-steps 20" in printed
    assert {path.name for path in out.iterdir()} == {
        "checkpoint.pt",
        "metrics.jsonl",
        "learning_curve.png",
        "memory.png",
    }

    printed = run("train", "copy", "--out", out, "--resume", "--max-steps", 15, "--no-pictures")
    assert "after 15 steps" in printed
    assert [row["step"] for row in read_metrics(out / "metrics.jsonl")][-1] == 15

    printed = run("eval", out, "--task", "min_length=3", "max_length=3", "--num-cells", 9)
    assert "copy 3 to 3 vectors of 2 bits; 9 cells" in printed and "1000 held-out" in printed

    pictures = tmp_path / "pictures"
    run("show", out / "checkpoint.pt", "--out", pictures)
    assert {path.name for path in pictures.iterdir()} == {"learning_curve.png", "memory.png"}


def test_interrupt_saves_and_exits_cleanly(tmp_path):
    arguments = ("train", "copy", *TINY, "--solved-at", 2, "--max-steps", 10**6, "--out", tmp_path)
    with subprocess.Popen(
        command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGINT, errors
    assert errors == ""
    step = load_checkpoint(tmp_path)["progress"]["step"]
    assert f"stopped at step {step} and saved; to go on: dnc-fast train copy" in printed
    assert "--resume" in printed


def test_info_names_versions_and_backends():
    printed = run("info")
    for word in ("dnc_fast", "python", "torch", "triton", "threads", "backends", "reference"):
        assert word in printed


@pytest.mark.parametrize("arguments", [(), ("train",), ("train", "copy"), ("eval",), ("show",)])
def test_help(arguments):
    printed = run(*arguments, "--help")
    assert "usage: dnc-fast" in printed and "None" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("train", "sort"), "invalid choice: 'sort'"),
        (("train", "copy", "--max-length", 0), "max_length must be at least 1, got 0"),
        (("train", "copy", "--learning-rate", "nan"), "learning_rate must be finite"),
        (("train", "copy", "--device", "gpu"), "--device must name a device"),
        (("train", "copy", "--resume"), "there is no checkpoint"),
        (("eval", "nowhere"), "there is no checkpoint nowhere"),
        (("show", "setup.cfg"), "setup.cfg is not a dnc_fast checkpoint"),
    ],
)
def test_mistakes_are_told_without_a_traceback(tmp_path, monkeypatch, arguments, message):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "setup.cfg").write_text("[metadata]\n")
    assert message in run(*arguments, status=2)
    assert not (tmp_path / "runs").exists()


def test_resume_refuses_another_run(tmp_path):
    run("train", "copy", *TINY, "--max-steps", 1, "--no-pictures", "--out", tmp_path)
    again = ("train", "copy", "--out", tmp_path)
    assert "holds a run already; continue it with --resume" in run(*again, status=2)
    changed = run(*again, "--resume", "--hidden-size", 9, status=2)
    assert "--hidden-size must stay 8 when a run is resumed, got 9" in changed
    other = run("train", "mapping", "--out", tmp_path, "--resume", status=2)
    assert "holds a run of the task 'copy', got 'mapping'" in other
    wrong = run("eval", tmp_path, "--task", "max_length=long", status=2)
    assert "--task max_length takes int, got 'long'" in wrong
    unknown = run("eval", tmp_path, "--task", "bits=3", status=2)
    assert "--task takes NAME=VALUE" in unknown
