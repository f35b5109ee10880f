"""Runs that earlier versions wrote can still be loaded and continued."""

import shutil
from pathlib import Path

from dnc_fast.tasks import CopyTask
from dnc_fast.training import Trainer, read_metrics

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
