"""Time to solve copy, beside other models in the same loop: `python -m bench.time_to_solve`.

All see the same batches, optimizer, evaluations and end: three evaluations in a row with all of
1,000 validation sequences right, or the steps or minutes of the options. Then 1,000 held-out
sequences of the trained lengths and 1,000 of twice the longest, memories with twice the cells.

- ours: `DNC` with the fastest backend; reference: the same with autograd through the equations.
- lstm: nn.LSTM and a linear layer, with as many parameters as ours.
- dnc: the PyPI package of that name, `pip install -e ".[bench]"`. It never feeds what it read back
  to its controller, so it does less work.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dnc_fast import DNC, DNCConfig
from dnc_fast.tasks import Batch, CopyTask
from dnc_fast.training.random import stream_generator, stream_seed

from .provenance import provenance

TASK = CopyTask()
CLIP_NORM = 10.0


class Model(NamedTuple):
    """A model in the loop. answer: from inputs (T, B, X) to outputs (T, B, Y)."""

    module: nn.Module
    answer: Callable[[Tensor], Tensor]


def our_model(backend: str, cells: int) -> Model:
    sizes = {**TASK.model_preset(), "num_cells": cells}
    config = DNCConfig(
        input_size=TASK.input_size, output_size=TASK.output_size, backend=backend, **sizes
    )
    dnc = DNC.from_config(config)
    return Model(dnc, lambda inputs: dnc(inputs)[0])


def lstm_model(parameters: int) -> Model:
    """The LSTM whose number of parameters, with its output layer, is the nearest."""

    def build(hidden: int) -> nn.Module:
        return nn.ModuleDict(
            {"lstm": nn.LSTM(TASK.input_size, hidden), "out": nn.Linear(hidden, TASK.output_size)}
        )

    module = build(min(range(1, 500), key=lambda size: abs(count(build(size)) - parameters)))
    return Model(module, lambda inputs: module["out"](module["lstm"](inputs)[0]))


def peer_model(cells: int) -> Model:
    import dnc

    sizes = TASK.model_preset()
    module = dnc.DNC(
        TASK.input_size,
        sizes["hidden_size"],
        num_hidden_layers=1,
        nr_cells=cells,
        cell_size=sizes["cell_size"],
        read_heads=sizes["num_read_heads"],
        batch_first=False,
    )

    def answer(inputs: Tensor) -> Tensor:
        return module(inputs, reset_experience=True)[0][..., : TASK.output_size]

    return Model(module, answer)


def count(module: nn.Module) -> int:
    """Numbers that are learned."""
    return sum(parameter.numel() for parameter in module.parameters())


def make(name: str, cells: int) -> Model:
    """The model of a name, with so many cells where it has any."""
    if name == "lstm":
        return lstm_model(count(our_model("auto", cells).module))
    return peer_model(cells) if name == "dnc" else our_model(NAMES[name], cells)


NAMES = {"ours": "auto", "reference": "reference", "lstm": "", "dnc": ""}


def share_right(model: Model, task: CopyTask, seed: int, stream: str) -> float:
    """The share of 1,000 sequences that are entirely right."""
    generator = stream_generator(seed, stream)
    right = []
    with torch.no_grad():
        for _ in range(4):
            batch: Batch = task.batch(250, generator)
            right.append(task.score(model.answer(batch.inputs), batch).wrong == 0)
    return torch.cat(right).double().mean().item()


def learn(name: str, seed: int, rate: float, max_steps: int, max_minutes: float) -> str:
    """Train and score one model; returns its row."""
    cells = TASK.model_preset()["num_cells"]
    torch.manual_seed(stream_seed(seed, "parameters"))
    model = make(name, cells)
    optimizer = torch.optim.Adam(model.module.parameters(), lr=rate)
    model.answer(TASK.batch(2, torch.Generator()).inputs).sum().backward()  # compiled, if ever
    started, worked = time.perf_counter(), time.process_time()
    step, in_a_row = 0, 0
    while in_a_row < 3 and step < max_steps and time.perf_counter() - started < 60 * max_minutes:
        batch = TASK.batch(16, stream_generator(seed, "train", step))
        optimizer.zero_grad()
        TASK.loss(model.answer(batch.inputs), batch).backward()
        nn.utils.clip_grad_norm_(model.module.parameters(), CLIP_NORM)
        optimizer.step()
        step += 1
        if step % 100 == 0:
            right = share_right(model, TASK, seed, "validation")
            in_a_row = in_a_row + 1 if right == 1.0 else 0
    seconds, worked = time.perf_counter() - started, time.process_time() - worked
    twice = make(name, 2 * cells)
    twice.module.load_state_dict(copy.deepcopy(model.module.state_dict()))
    length = 2 * TASK.max_length
    held_out = share_right(model, TASK, seed, "held-out")
    longer = share_right(twice, CopyTask(length, length), seed, "held-out")
    return (
        f"| {name} | {count(model.module):,} | {rate:g} | {seed} | "
        f"{'yes' if in_a_row == 3 else 'no'} | {step} | {seconds:.0f} | "
        f"{worked:.0f} | {1000 * worked / step:.1f} | {100 * held_out:.1f} % | "
        f"{100 * longer:.1f} % |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=tuple(NAMES), default=list(NAMES))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=3e-3)
    parser.add_argument("--max-steps", type=int, default=10_000)
    parser.add_argument("--max-minutes", type=float, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(provenance())
    print(
        "\n| model | parameters | learning rate | seed | solved | steps | seconds | "
        "CPU seconds | CPU ms a step, evaluations included | right | right at length 16 |"
    )
    print(f"|{11 * '---|'}", flush=True)
    for name in options.models:
        if name == "dnc" and importlib.util.find_spec("dnc") is None:
            print('(the package dnc is missing: `pip install -e ".[bench]"` brings it)')
            continue
        for seed in range(options.seeds):
            limits = options.max_steps, options.max_minutes
            print(learn(name, seed, options.learning_rate, *limits), flush=True)


if __name__ == "__main__":
    main()
