"""Time until copy is solved, compared with other models: `python -m bench run solve`.

All models get the same batches, optimizer and evaluations, on one CPU thread or on the GPU, until
an evaluation has 99 % of 1,000 validation sequences entirely right, or until their minutes are
over. They are then scored on 1,000 held-out sequences of the trained lengths and 1,000 of twice the
longest, the latter in memories with twice the cells. The LSTM has as many parameters as our DNC.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dnc_fast import DNC
from dnc_fast.presets import model_config
from dnc_fast.tasks import Batch, CopyTask
from dnc_fast.training.random import stream_generator, stream_seed

from .harness.jobs import Job, Settings, attempt
from .harness.providers import PROVIDERS, Provider, peer_model
from .harness.results import Record
from .harness.sizes import Size

TASK = CopyTask()
GOAL = 0.99
CLIP_NORM, RATE, BATCH, EVERY = 10.0, 3e-3, 16, 100
MODELS = ("triton", "cpu", "reference", "lstm", "dnc")


class Limits(NamedTuple):
    """When to stop, and how many sequences an evaluation has."""

    minutes: float
    steps: int = 20_000
    evaluated: int = 1000


class Model(NamedTuple):
    """A model in the loop. answer: from inputs (T, B, X) to outputs (T, B, Y)."""

    module: nn.Module
    answer: Callable[[Tensor], Tensor]


def count(module: nn.Module) -> int:
    """The number of learned parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def our_model(provider: Provider, cells: int, device: str) -> Model:
    config = model_config(TASK, **{"num_cells": cells, **provider.options})
    dnc = DNC.from_config(config, device=device)
    return Model(dnc, lambda inputs: dnc(inputs)[0])


def lstm_model(parameters: int, device: str) -> Model:
    """The LSTM with an output layer that has the nearest number of parameters."""

    def build(hidden: int) -> nn.Module:
        return nn.ModuleDict(
            {"lstm": nn.LSTM(TASK.input_size, hidden), "out": nn.Linear(hidden, TASK.output_size)}
        )

    with torch.device("meta"):  # nothing is allocated, only counted
        nearest = min(range(1, 500), key=lambda size: abs(count(build(size)) - parameters))
    module = build(nearest).to(device)
    return Model(module, lambda inputs: module["out"](module["lstm"](inputs)[0]))


def dnc_model(cells: int, device: str) -> Model:
    config = model_config(TASK)
    W, R, H = config.cell_size, config.num_read_heads, config.hidden_size
    module = peer_model(Size(1, 1, cells, W, R, H, TASK.input_size), device)

    def answer(inputs: Tensor) -> Tensor:
        return module(inputs, reset_experience=True)[0][..., : TASK.output_size]

    return Model(module, answer)


def make(provider: Provider, cells: int, device: str) -> Model:
    """The model of a provider, with this many memory cells if it has any."""
    if provider.kind == "floor":
        reference = our_model(PROVIDERS["reference"], cells, "cpu")
        return lstm_model(count(reference.module), device)
    if provider.kind == "peer":
        return dnc_model(cells, device)
    return our_model(provider, cells, device)


def share_right(
    model: Model, task: CopyTask, stream: str, seed: int, sequences: int, device: str
) -> float:
    """The share of sequences that are entirely right."""
    generator = stream_generator(seed, stream)
    right = []
    with torch.no_grad():
        for _ in range(4):
            batch: Batch = task.batch(sequences // 4, generator).to(device)
            right.append(task.score(model.answer(batch.inputs), batch).wrong == 0)
    return torch.cat(right).double().mean().item()


def learn(provider: Provider, seed: int, limits: Limits, device: str) -> Record:
    """Train and score one model."""
    cells = model_config(TASK).num_cells
    torch.manual_seed(stream_seed(seed, "parameters"))
    model = make(provider, cells, device)
    optimizer = torch.optim.Adam(model.module.parameters(), lr=RATE)
    warm_up = TASK.batch(2, torch.Generator()).to(device)
    model.answer(warm_up.inputs).sum().backward()  # compile outside the timed loop
    started, worked = time.perf_counter(), time.process_time()
    step, right = 0, 0.0
    while right < GOAL and step < limits.steps:
        if time.perf_counter() - started > 60 * limits.minutes:
            break
        batch = TASK.batch(BATCH, stream_generator(seed, "train", step)).to(device)
        optimizer.zero_grad()
        TASK.loss(model.answer(batch.inputs), batch).backward()
        nn.utils.clip_grad_norm_(model.module.parameters(), CLIP_NORM)
        optimizer.step()
        step += 1
        if step % EVERY == 0:
            right = share_right(model, TASK, "validation", seed, limits.evaluated, device)
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    twice = make(provider, 2 * cells, device)
    twice.module.load_state_dict(copy.deepcopy(model.module.state_dict()))
    length = 2 * TASK.max_length
    held_out = (seed, limits.evaluated, device)
    return {
        "parameters": count(model.module),
        "solved": right >= GOAL,
        "steps": step,
        "wall_seconds": seconds,
        "cpu_seconds": worked,
        "right": share_right(model, TASK, "held-out", *held_out),
        "right_twice": share_right(twice, CopyTask(length, length), "held-out", *held_out),
    }


def solve_job(settings: Settings, name: str, seed: int, limits: Limits) -> Job:
    provider = PROVIDERS[name]
    row: Record = {"kind": "solve", "provider": name, "seed": seed, "goal": GOAL,
                   "learning_rate": RATE, "threads": 1, "minutes": limits.minutes}  # fmt: skip

    def run() -> list[Record]:
        torch.set_num_threads(1)
        try:
            measure = partial(learn, provider, seed, limits, settings.device)
            return [attempt(row, provider, settings.device, measure)]
        finally:
            torch.set_num_threads(settings.threads)

    return Job(f"solve {name} seed {seed}", run)


def solve_jobs(settings: Settings, seeds: int, minutes: float) -> list[Job]:
    """Every model with every seed."""
    limits = Limits(0.01, 4, 8) if settings.dry else Limits(minutes)
    interpreted = {"triton"} if settings.dry else set()  # it would take minutes for a batch
    chosen = [name for name in MODELS if name in settings.chosen() and name not in interpreted]
    return [solve_job(settings, name, seed, limits) for name in chosen for seed in range(seeds)]
