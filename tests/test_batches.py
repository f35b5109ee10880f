"""Batches drawn by other processes: the same as by a thread; errors, and ends of all kinds."""

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
import traceback

import pytest
import torch
from runs import TINY_OPTIONS, assert_same_checkpoint, generator, trained, trainer_of

from dnc_fast import DNC
from dnc_fast.presets import model_config
from dnc_fast.state import tensors
from dnc_fast.tasks import Batch, CopyTask
from dnc_fast.training import TrainingConfig
from dnc_fast.training.batches import Prefetcher, suitable_workers
from dnc_fast.training.curriculum import Curriculum
from dnc_fast.workers import cores

TASK = CopyTask(1, 4, num_bits=2)
FAULTY, DEADLY = 13, 14
"""Lessons that draw an error, and that kill a process which draws them for another one."""


def draw(number, lesson):
    """A batch of as many sequences as there are threads; in place of lengths who drew it."""
    if lesson == FAULTY:
        raise ValueError(f"no batch {number}")
    if lesson == DEADLY and multiprocessing.parent_process() is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    batch = TASK.batch(torch.get_num_threads(), generator(number))
    return [[batch._replace(lengths=torch.tensor([os.getpid()]))]]


def equal(first, second):
    """Whether two draws, of unchunked batches, are the same."""
    pairs = zip(first, second, strict=True)
    return all(all(map(torch.equal, ours[0], theirs[0])) for ours, theirs in pairs)


def test_batches_are_the_same_whoever_draws_them():
    config = TrainingConfig(batch_size=3, accumulate=2, curriculum="on", lesson_share=0.5)
    curriculum = Curriculum(TASK, config)
    with Prefetcher(curriculum.draw, workers=2) as batches:
        for number, lesson in ((0, 0), (1, 0), (1, 0), (2, 2), (3, 2), (40, 1)):
            taken = batches.take(number, lesson)
            assert equal(taken, curriculum.draw(number, lesson))
            assert all(tensor.is_shared() for chunks in taken for tensor in chunks[0])
        assert batches.waited > 0
    assert not multiprocessing.active_children()


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_a_process_hands_on_errors_outlives_ctrl_c_and_can_be_done_without():
    with Prefetcher(draw, workers=1) as batches:
        ((batch,),) = batches.take(0, 0)
        assert batch.inputs.shape[1] == 1, "one thread"
        process = int(batch.lengths)
        assert process != os.getpid()
        os.kill(process, signal.SIGINT)
        ((batch,),) = batches.take(30, 0)
        assert int(batch.lengths) == process
        with pytest.raises(ValueError, match="no batch 31") as caught:
            batches.take(31, FAULTY)
        said = "".join(traceback.format_exception(caught.value))
        assert 'raise ValueError(f"no batch {number}")' in said, "where it was raised"
        batches.take(32, DEADLY)
        with pytest.warns(RuntimeWarning, match="was killed"):
            ((batch,),) = batches.take(60, DEADLY)
        assert int(batch.lengths) == os.getpid()
        expected = TASK.batch(torch.get_num_threads(), generator(60))
        assert torch.equal(batch.inputs, expected.inputs)
    assert not multiprocessing.active_children()
    assert not [one for one in threading.enumerate() if "dnc_fast batches" in one.name]


@pytest.mark.skipif(os.name != "posix", reason="there is no SIGKILL")
def test_processes_end_when_their_parent_is_killed():
    script = (
        "from test_batches import *\n"
        "if __name__ == '__main__':\n"
        "    with Prefetcher(draw, workers=1) as batches:\n"
        "        print(int(batches.take(0, 0)[0][0].lengths), flush=True)\n"
        "        time.sleep(600)\n"
    )
    path = os.pathsep.join([os.path.dirname(__file__), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
    parent = subprocess.Popen(
        [sys.executable, "-c", script], env=environment, stdout=subprocess.PIPE, text=True
    )
    process = int(parent.stdout.readline())
    assert is_alive(process)
    parent.kill()
    parent.communicate()  # returns when nobody holds its output any more
    until = time.monotonic() + 30
    while is_alive(process) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_alive(process)


@pytest.mark.skipif(os.name != "posix", reason="there are no process groups")
@pytest.mark.parametrize(
    "number", [pytest.param(signal.SIGINT, marks=pytest.mark.full), signal.SIGTERM]
)
def test_a_run_that_is_stopped_with_its_processes_saves(tmp_path, number):
    """As a terminal's Ctrl-C and a scheduler do it: the signal goes to every process at once."""
    options = {**TINY_OPTIONS, "--out": tmp_path, "--data-workers": 1, "--max-steps": 10**6}
    words = [str(word) for option in options.items() for word in option]
    command = [sys.executable, "-m", "dnc_fast", "train", "copy", "--no-pictures", *words]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    run = subprocess.Popen([*command, "--solved-at", "2"], start_new_session=True, **pipes)
    until = time.monotonic() + 100
    while not (tmp_path / "checkpoint.pt").exists() and time.monotonic() < until:
        time.sleep(0.05)
    os.killpg(run.pid, number)
    printed, _ = run.communicate(timeout=60)  # until no process holds its output any more
    assert run.returncode == 128 + number, printed
    assert "and saved; to continue" in printed and "Traceback" not in printed


def is_alive(process):
    """Whether a process works: one that has ended may stay as a zombie (Z), also in `ps`."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(process)], capture_output=True)
    return found.stdout.strip()[:1] not in (b"", b"Z")


def test_a_run_does_not_depend_on_who_draws(tmp_path):
    trained(tmp_path / "thread", accumulate=2)
    trainer = trainer_of(tmp_path / "processes", accumulate=2)
    trainer.train("off", data_workers=1)
    assert 0 < trainer.waited < trainer.seconds
    assert_same_checkpoint(tmp_path / "thread", tmp_path / "processes")
    with pytest.raises(ValueError, match="data_workers must be"):
        trainer_of(tmp_path / "none").train("off", data_workers=-1)


def test_processes_draw_where_a_gpu_trains_and_draws_take_long():
    def slow(number, lesson):
        time.sleep(0.005)

    gpu = torch.device("cuda")
    assert suitable_workers(slow, 0, gpu) == min(2, cores() - 1)
    assert suitable_workers(lambda number, lesson: None, 0, gpu) == 0
    assert suitable_workers(slow, 0, torch.device("cpu")) == 0


def test_memory_is_pinned_ahead_in_the_thread(monkeypatch):
    pinned_by = []

    def pin(batch):
        pinned_by.append(threading.current_thread().name)
        return batch._replace(lengths=batch.lengths + 1)

    monkeypatch.setattr(Batch, "pin_memory", pin)
    with Prefetcher(draw, pin_memory=True) as batches:
        ((batch,),) = batches.take(0, 0)
    assert int(batch.lengths) == os.getpid() + 1
    assert set(pinned_by) == {"dnc_fast batches_0"}
    with Prefetcher(draw) as batches:
        ((batch,),) = batches.take(0, 0)
    assert int(batch.lengths) == os.getpid()


def test_the_host_reads_once_in_a_step_before_it_updates(tmp_path, monkeypatch):
    trainer = trainer_of(tmp_path, model={"backend": "eager"}, accumulate=3)
    batches = [chunks[0] for chunks in trainer.curriculum.draw(0, 0)]
    reads, step = [], trainer.optimization.step
    # which reads values on a CPU only
    monkeypatch.setattr("dnc_fast.sequences.check_tensor", lambda *args: None)

    def reading(name, read):
        def noted(tensor, *args):
            reads.append(name)
            return read(tensor, *args)

        return noted

    for name in ("item", "tolist", "__float__", "__int__", "__bool__"):
        monkeypatch.setattr(torch.Tensor, name, reading(name, getattr(torch.Tensor, name)))

    def update(norm, skip):
        monkeypatch.undo()
        step(norm, skip)

    monkeypatch.setattr(trainer.optimization, "step", update)
    (report,) = trainer._steps.take(1, batches)
    assert report.loss > 0
    assert reads == ["tolist"]


def test_empty_steps_at_the_end_do_not_count():
    task = CopyTask()
    model = DNC.from_config(model_config(task, num_cells=6, hidden_size=8)).double()
    batch = task.batch(5, torch.Generator().manual_seed(0))
    batch = batch._replace(inputs=batch.inputs.double(), targets=batch.targets.double())
    longer = batch.padded(8)
    assert len(longer.inputs) % 8 == 0 and len(longer.inputs) > len(batch.inputs)
    found, expected = (
        (task.loss(model(one.inputs)[0], one), task.score(model(one.inputs)[0], one))
        for one in (longer, batch)
    )
    for one, other in zip(tensors(found), tensors(expected), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    assert batch.padded(len(batch.inputs)).inputs.shape == batch.inputs.shape
