"""Runs that earlier versions wrote can still be loaded and continued."""

import shutil
import warnings
from pathlib import Path

import pytest

from dnc_fast.tasks import CopyTask, ShrdluTask
from dnc_fast.training import Trainer, read_metrics
from dnc_fast.training.checkpoint import restore_task, task_part

DATA = Path(__file__).parent / "data"


def test_a_run_of_0_1_0_is_continued(tmp_path):
    """`dnc-fast train copy --max-length 2 --num-bits 2 ...`, six steps, at commit 4e9c650."""
    folder = tmp_path / "run"
    shutil.copytree(DATA / "run_of_0_1_0", folder)
    before = read_metrics(folder / "metrics.jsonl")
    trainer = Trainer.resume(folder, max_steps=9)
    assert trainer.step == 6 and trainer.task == CopyTask(1, 2, 2)
    assert trainer.model.config.num_cells == 4
    held = trainer.held_out()
    assert (held.wrong, held.solved) == (1.25, 0.25)  # as it said then
    trainer.train("off")
    after = read_metrics(folder / "metrics.jsonl")
    assert after[: len(before)] == before and len(after) > len(before)


def test_options_that_a_run_does_not_know_are_named():
    """As of a run of Mini-SHRDLU from before goals were asked for twice and taught."""
    task = ShrdluTask(max_goals=4)
    sizes = {"input_size": task.input_size, "output_size": task.output_size}
    content = {"task": task_part(task), "model": sizes}
    del content["task"]["options"]["asks"], content["task"]["options"]["imitate"]
    with pytest.warns(UserWarning, match=r"'shrdlu' was saved before .* imitate=1\.0, asks=2,"):
        assert restore_task(content) == task
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert restore_task(content, asks=1, imitate=0.0) == ShrdluTask(
            max_goals=4, asks=1, imitate=0.0
        )
