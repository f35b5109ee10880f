"""Training and models on two processes equal those in one; what happens when one of them ends.

What the processes do is in ranks.py.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from ranks import COPY_RUN, ECHO_RUN
from runs import COPY, TINY_OPTIONS, generator, rows, trained, trainer_of
from states import needs_numba

from dnc_fast.training import Ranks, Trainer, load_checkpoint, read_metrics

pytestmark = pytest.mark.skipif(os.name != "posix", reason="processes are forked")


def run_ranks(name, folder):
    """The exit statuses of both ranks, and what they said."""
    command = [sys.executable, str(Path(__file__).parent / "ranks.py"), name, str(folder)]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    return [int(status) for status in done.stdout.split()], done.stderr


def assert_same_run(found, expected):
    """Two runs differ by rounding at the most: parameters, carried states, every row of metrics."""
    contents = [load_checkpoint(folder) for folder in (found, expected)]
    for part in ("parameters", "carried"):
        torch.testing.assert_close(*(content[part] for content in contents), rtol=0, atol=1e-6)
    assert contents[0]["progress"]["lesson"] == contents[1]["progress"]["lesson"]
    found, expected = (read_metrics(folder / "metrics.jsonl") for folder in (found, expected))
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.pop("kind") == other.pop("kind")
        assert one == pytest.approx(other, rel=1e-6, abs=1e-6)


def test_two_ranks_train_as_one_process_does(tmp_path):
    trained(tmp_path / "copy one", **COPY_RUN)
    whole = trained(tmp_path / "echo one", **ECHO_RUN)
    assert rows(whole, "lesson")
    trained(tmp_path / "one-two", **ECHO_RUN | {"max_steps": 7})

    statuses, said = run_ranks("training", tmp_path)
    assert statuses == [0, -signal.SIGKILL], said
    assert_same_run(tmp_path / "copy", tmp_path / "copy one")
    assert_same_run(tmp_path / "one-two", tmp_path / "echo one")
    Trainer.resume(tmp_path / "two-one").train("off")
    assert_same_run(tmp_path / "two-one", tmp_path / "echo one")


@needs_numba
@pytest.mark.skipif(torch.__version__ < "2.7", reason="torch's fully_shard fails on a CPU")
def test_wrapped_models_and_a_memory_in_pieces(tmp_path):
    statuses, said = run_ranks("models", tmp_path)
    assert statuses == [0, 0], said


def test_ctrl_c_in_torchrun_saves(tmp_path):
    options = [str(word) for option in TINY_OPTIONS.items() for word in option]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m"]
    command += ["dnc_fast", "train", "copy", "--out", str(tmp_path), *options]
    with subprocess.Popen(
        [*command, "--max-steps", "1000000", "--solved-at", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        deadline = time.monotonic() + 60
        while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        printed, errors = process.communicate(timeout=60)
    step = load_checkpoint(tmp_path)["progress"]["step"]
    said = re.findall(r"stopped at step (\d+) and saved", printed)
    assert said == [str(step)], errors  # once, and of the last step
    steps = [
        row["step"] for row in read_metrics(tmp_path / "metrics.jsonl") if row["kind"] == "train"
    ]
    assert steps == list(range(1, step + 1))


def test_shares_of_a_batch_add_up_to_its_loss():
    batch = COPY.batch(6, generator())
    outputs = torch.randn(*batch.targets.shape, generator=generator(1))
    shares = [Ranks(rank, 3).share(batch) for rank in range(3)]
    counts = {int(share.mask.sum()) for share, _ in shares}
    assert len(counts) > 1, "the ranks count different numbers of answers"
    parts = zip(shares, outputs.split(2, dim=1), strict=True)
    total = sum(weight * COPY.loss(part, share) for (share, weight), part in parts)
    torch.testing.assert_close(total, COPY.loss(outputs, batch))
    for number, name in enumerate(batch._fields):
        joined = torch.cat(
            [share[number] for share, _ in shares], dim=-1 if name == "lengths" else 1
        )
        assert torch.equal(joined, batch[number])


def test_dropout_depends_on_seed_step_and_rank():
    def drawn(rank, *where):
        Ranks(rank, 2).begin_step(*where)
        return torch.rand(1).item()

    different = {drawn(rank, step, seed) for rank in (0, 1) for step in (0, 1) for seed in (0, 1)}
    assert len(different) == 8
    assert drawn(1, 1, 0) == drawn(1, 1, 0)
    before = torch.get_rng_state()
    Ranks().begin_step(1, 0)
    assert torch.equal(torch.get_rng_state(), before), "one process draws on"


@pytest.mark.parametrize("size", [0, 1, 5, 250])
def test_every_sequence_is_one_rank_s(size):
    taken = [range(size)[Ranks(rank, 4).rows(size)] for rank in range(4)]
    assert [number for part in taken for number in part] == list(range(size))
    assert max(map(len, taken)) - min(map(len, taken)) <= 1


@pytest.mark.parametrize(
    ("count", "size", "remedy"), [(3, 16, "take 15 or 18"), (4, 2, "take 4"), (2, 7, "take 6 or 8")]
)
def test_a_batch_that_the_ranks_cannot_share(tmp_path, count, size, remedy):
    message = (
        f"batch_size must be a multiple of the {count} ranks .*got {size}; {remedy}, or another"
    )
    with pytest.raises(ValueError, match=message):
        trainer_of(tmp_path, batch_size=size, ranks=Ranks(1, count))
