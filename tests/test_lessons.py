"""Lessons, schedules, accumulation, precision, and batches drawn ahead."""

import math
import threading

import pytest
import torch
from runs import COPY, ECHO, generator, judge_by, rows, trained, trainer_of, watch

from dnc_fast.tasks import CopyTask, EchoTask
from dnc_fast.training import Evaluation, Trainer, TrainingConfig
from dnc_fast.training.batches import Prefetcher
from dnc_fast.training.curriculum import Curriculum
from dnc_fast.training.random import stream_generator
from dnc_fast.training.schedules import SCHEDULES, rate_factor


def test_curriculum_goes_on_when_a_lesson_is_passed():
    task = CopyTask(1, 4)
    curriculum = Curriculum(task, TrainingConfig(curriculum="on", lesson_pass=0.8))
    assert [lesson.max_length for lesson in curriculum.lessons] == [1, 2, 4]
    assert not curriculum.tested(0.79) and curriculum.present == 0
    assert curriculum.tested(0.8) and curriculum.present == 1
    assert curriculum.test_is_due(100) and not curriculum.test_is_due(150)
    assert curriculum.tested(1.0) and not curriculum.test_is_due(200)  # the last is the task
    off = Curriculum(task, TrainingConfig())
    assert off.lessons == (task,) and not off.test_is_due(100)


def test_tests_of_lessons_wait_for_the_end_of_a_stream():
    config = TrainingConfig(curriculum="on", lesson_every=10)
    curriculum = Curriculum(EchoTask(delay=2, num_chunks=4), config)
    due = [step for step in range(1, 50) if curriculum.test_is_due(step)]
    assert due == [12, 20, 32, 40]


@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_share_of_earlier_lessons(share):
    config = TrainingConfig(curriculum="on", lesson_share=share)
    curriculum = Curriculum(CopyTask(1, 4), config)
    source = generator()
    chosen = [curriculum.choose(2, source).max_length for _ in range(3000)]
    earlier = [length for length in chosen if length < 4]
    assert len(earlier) / 3000 == pytest.approx(share, abs=0.02)
    assert not earlier or earlier.count(1) / len(earlier) == pytest.approx(0.5, abs=0.1)
    before = source.get_state()
    assert curriculum.choose(0, source).max_length == 1
    assert torch.equal(source.get_state(), before)  # without a choice there is no draw


def test_a_run_by_lessons_trains_and_reports_on_them(tmp_path, monkeypatch):
    shares = iter([0.5, 0.9, 0.9])

    def judge(model, task, size, seed, stream, index, ranks):
        share = next(shares) if stream == "lesson" else 0.0
        tested.append((stream, task.max_length, index))
        return Evaluation(1.0, 1.0, 1.0, share)

    tested = []
    judge_by(monkeypatch, judge)
    lessons = {"curriculum": "on", "lesson_every": 4, "lesson_pass": 0.9, "lesson_share": 0.0}
    trainer = trainer_of(tmp_path, **lessons, evaluate_every=100, max_steps=20)
    longest = []
    draw = trainer.curriculum.choose
    trainer.curriculum.choose = lambda *a: longest.append(draw(*a).max_length) or draw(*a)
    trainer.train("off")
    assert tested == [("lesson", 1, 4), ("lesson", 1, 8), ("lesson", 2, 12)]
    assert [(row["step"], row["lesson"], row["share"]) for row in rows(trainer, "lesson")] == [
        (4, 1, 0.5),
        (8, 1, 0.9),
        (12, 2, 0.9),
    ]
    assert set(longest) == {1, 2, 4} and trainer.curriculum.present == 2


def test_schedules_by_hand():
    def factors(name, warm_up, decay, steps):
        return [rate_factor(step, name, warm_up, decay) for step in steps]

    assert factors("constant", 0, 10, (0, 5, 99)) == [1, 1, 1]
    assert factors("linear", 0, 10, (0, 5, 10, 99)) == [1, 0.5, 0, 0]
    assert factors("cosine", 0, 12, (0, 4, 6, 12)) == pytest.approx([1, 0.75, 0.5, 0])
    assert factors("linear", 4, 14, (0, 3, 4, 9)) == pytest.approx([0.2, 0.8, 1.0, 0.5])


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_of_each_step_is_the_schedule_s(tmp_path, name):
    changes = {"schedule": name, "warm_up": 2, "decay_steps": 8, "learning_rate": 0.5}
    trainer = trainer_of(tmp_path, **changes, max_steps=10)
    used = []
    trainer.optimization.optimizer.register_step_pre_hook(
        lambda optimizer, *_: used.append(optimizer.param_groups[0]["lr"])
    )
    trainer.train("off")
    expected = [0.5 * rate_factor(step, name, 2, 8) for step in range(10)]
    assert used == pytest.approx(expected)
    assert [row["learning_rate"] for row in rows(trainer, "train")] == pytest.approx(expected)


@pytest.mark.parametrize("task", [COPY, ECHO], ids=str)
def test_accumulated_gradient_is_the_mean_of_the_batches(tmp_path, task):
    trainer = trainer_of(tmp_path, task, accumulate=3, max_steps=1, clip_norm=1e9)
    start = [parameter.detach().clone() for parameter in trainer.model.parameters()]
    trainer.train("off")
    found = [parameter.grad.clone() for parameter in trainer.model.parameters()]
    with torch.no_grad():
        for parameter, value in zip(trainer.model.parameters(), start, strict=True):
            parameter.copy_(value)
    trainer.model.zero_grad()
    batches = [chunks[0] for chunks in trainer.curriculum.draw(0, 0)]
    losses = [task.loss(trainer.model(batch.inputs)[0], batch) for batch in batches]
    torch.stack(losses).mean().backward()
    for gradient, parameter in zip(found, trainer.model.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-4, atol=1e-6)
    assert not torch.equal(batches[0].inputs, batches[1].inputs)


def test_bfloat16_is_used_and_learns(tmp_path):
    losses, task = {}, CopyTask(1, 1, num_bits=1)
    for precision in ("float32", "bfloat16"):
        changes = {"batch_size": 8, "learning_rate": 0.02, "max_steps": 60}
        trainer = trained(tmp_path / precision, task, precision=precision, **changes)
        losses[precision] = [row["loss"] for row in rows(trainer, "train")]
        assert next(trainer.model.parameters()).dtype == torch.float32
    assert losses["float32"][0] != losses["bfloat16"][0]
    assert losses["float32"][0] == pytest.approx(losses["bfloat16"][0], rel=0.02)
    assert sum(losses["bfloat16"][-10:]) < 0.5 * sum(losses["bfloat16"][:10])


def test_float16_scales_and_leaves_out_steps_that_overflow(tmp_path):
    trainer = trainer_of(tmp_path, precision="float16", max_steps=3)
    scaler = trainer.optimization.scaler
    assert scaler.is_enabled()
    poisoned = trainer.model.cell.output.bias
    handle = poisoned.register_hook(lambda gradient: gradient * math.inf)
    before = poisoned.detach().clone()
    trainer.train("off")
    assert torch.equal(poisoned, before)
    assert [row["gradient_norm"] for row in rows(trainer, "train")] == [None] * 3
    assert scaler.get_scale() < 2.0**16
    handle.remove()
    again = Trainer.resume(tmp_path, max_steps=6)
    assert again.optimization.scaler.get_scale() == scaler.get_scale()
    again.train("off")
    assert rows(again, "train")[-1]["gradient_norm"] > 0
    assert not torch.equal(again.model.cell.output.bias, before)


def test_prefetcher_draws_ahead_in_order_in_one_other_thread():
    calls = []

    def draw(number, lesson):
        calls.append((number, lesson, threading.current_thread().name))
        return number, lesson

    with Prefetcher(draw) as batches:
        assert [batches.take(number, 0) for number in range(5)] == [(n, 0) for n in range(5)]
        assert [batches.take(number, 1) for number in (5, 6)] == [(5, 1), (6, 1)]
        assert batches.take(40, 1) == (40, 1)  # as after a resume
        assert batches.waited > 0
    assert [number for number, lesson, _ in calls if lesson == 0][:5] == [0, 1, 2, 3, 4]
    assert {thread for _, _, thread in calls} == {"dnc_fast batches_0"}
    assert threading.current_thread().name not in {thread for _, _, thread in calls}


def test_prefetcher_hands_on_errors_and_ends_its_thread():
    def draw(number, lesson):
        raise ValueError(f"no batch {number}")

    with Prefetcher(draw) as batches, pytest.raises(ValueError, match="no batch 3"):
        batches.take(3, 0)
    assert not [thread for thread in threading.enumerate() if "dnc_fast batches" in thread.name]


def test_batches_are_those_of_their_seed_and_number(tmp_path):
    """Drawn ahead or not: the data a run trains on is what a plain loop would draw."""
    trainer = trainer_of(tmp_path, max_steps=5)
    seen = []
    watch(trainer, lambda inputs, state: seen.append(inputs))
    trainer.train("off")
    for number, inputs in enumerate(seen):
        expected = COPY.batch(2, stream_generator(0, "train", number))
        ((batch,),) = trainer.curriculum.draw(number, 0)
        assert torch.equal(inputs, expected.inputs)
        assert all(torch.equal(a, b) for a, b in zip(batch, expected, strict=True))
    assert len(seen) == 5
