"""Two ranks on gloo, each a process: `python ranks.py NAME FOLDER` calls one of these in both.

What must equal one process is compared here, or by test_distributed.py from what is in FOLDER.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from runs import COPY, ECHO, LESSONS, at_step, trainer_of
from states import (
    assert_close,
    lively_dnc,
    normal,
    outcome,
    random_interfaces,
    require_grad,
    separated_state,
    weighed_sum,
    with_link,
)
from torch import Tensor

from dnc_fast import memory_step
from dnc_fast.interface import parse_interface
from dnc_fast.state import MemorySizes
from dnc_fast.training import Ranks, Trainer, TrainingError, joined, load_checkpoint, trainer

ROOT = Path(__file__).parent.parent

COPY_RUN: dict[str, Any] = {
    "task": COPY,
    "batch_size": 6,
    "max_steps": 50,
    "evaluate_every": 25,
    "evaluation_size": 11,
    # Adam divides a gradient by its own size. So one of 1e-7 whose rounding differs by 1e-8 moves
    # its parameter by a tenth of a step more or less; at this rate that stays below 1e-6.
    "learning_rate": 3e-4,
}
"""Lengths differ, and so do the answers that the ranks' sequences count."""

ECHO_RUN: dict[str, Any] = {
    "task": ECHO,
    "model": {"linkage": "sparse", "link_fan_out": 2},
    "batch_size": 4,
    "max_steps": 12,
    "evaluation_size": 1,  # none for rank 0
    "learning_rate": 3e-4,
    **LESSONS,
    "lesson_pass": 0.01,
}
"""The state is carried from step to step; step 7 is in the middle of a stream."""


def training(folder: Path) -> None:
    with joined("cpu") as ranks:
        if not ranks.is_first:  # it writes nothing
            trainer.save_checkpoint = trainer.MetricsWriter.flush = None
        for part in (whole_run, signal_to_one, clock_of_one, not_finite, lost):
            part(ranks, folder)


def whole_run(ranks: Ranks, folder: Path) -> None:
    run = trainer_of(folder / "copy", **COPY_RUN, ranks=ranks)
    run.train("off")
    assert run.finished


def signal_to_one(ranks: Ranks, folder: Path) -> None:
    """Both stop after the same step."""
    run = trainer_of(folder / "two-one", **ECHO_RUN, ranks=ranks)
    if not ranks.is_first:
        at_step(run, 7, lambda *_: signal.raise_signal(signal.SIGTERM))
    run.train("off")
    assert run.interrupted == signal.SIGTERM and run.step == 7
    # None goes on before the first has saved: torchrun ends the others when one ends.
    assert load_checkpoint(run.folder)["progress"]["step"] == 7


def clock_of_one(ranks: Ranks, folder: Path) -> None:
    """The same with the time, in a run that one process began."""
    run = Trainer.resume(folder / "one-two", max_steps=12, ranks=ranks)
    run.train("off", max_minutes=None if ranks.is_first else 1e-9)
    assert run.out_of_time and run.step == 8
    run.train("off")
    assert run.finished


def not_finite(ranks: Ranks, folder: Path) -> None:
    """A bad gradient on one rank ends both, with the same message."""
    run = trainer_of(folder / "bad", **ECHO_RUN, ranks=ranks)
    if not ranks.is_first:
        run.model.cell.output.bias.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(TrainingError, match=r"got 0\.\d+ and nan at step 1: gradient of cell"):
        run.train("off")


def lost(ranks: Ranks, folder: Path) -> None:
    """One rank is killed; the other ends at once."""
    run, died = trainer_of(folder / "lost", **COPY_RUN, ranks=ranks), []

    def die(*_: Any) -> None:
        died.append(time.monotonic())
        if not ranks.is_first:
            os.kill(os.getpid(), signal.SIGKILL)

    at_step(run, 30, die)
    with pytest.raises(
        TrainingError, match=r"rank 0 of 2 has lost another rank.* --resume continues"
    ):
        run.train("off")
    assert time.monotonic() - died[0] < 10
    assert load_checkpoint(folder / "lost")["progress"]["step"] == 25


def models(folder: Path) -> None:
    """The examples of the docs, torch's own wrappers around a model, and a memory in pieces."""
    os.chdir(folder)
    page = (ROOT / "docs/distributed.md").read_text()
    first, last = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(first, {})
    # A port of its own: the rank that is through first may find the store of the first example.
    os.environ["MASTER_PORT"] = os.environ["SECOND_PORT"]
    exec(last, {})  # leaves torch.distributed initialised
    ranks = Ranks(dist.get_rank(), 2)
    for backend in ("reference", "eager", "cpu"):
        for wrap in (torch.nn.parallel.DistributedDataParallel, fully_sharded):
            wrapped(ranks, wrap, backend)
    for linkage in ("dense", "sparse"):
        sharded_memory(linkage)
    dist.destroy_process_group()


def fully_sharded(model: torch.nn.Module) -> torch.nn.Module:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    return fully_shard(model, mesh=init_device_mesh("cpu", (2,)))


def wrapped(ranks: Ranks, wrap: Callable[[Any], Any], backend: str) -> None:
    """Each rank takes two of four sequences; the wrappers take the mean of the gradients."""
    x = normal(5, 4, 3)
    model = lively_dnc(backend=backend)
    expected, _ = model(x)
    weighed_sum(expected).backward()
    gradients = {name: part.grad for name, part in model.named_parameters()}

    inner = lively_dnc(backend=backend)
    model, rows = wrap(inner), ranks.rows(4)
    for _ in range(2):  # a second pass finds what the first one left
        inner.zero_grad()
        output, _ = model(x[:, rows])
        assert_close(output, expected[:, rows], "float64")
        padded = torch.zeros_like(expected)
        padded[:, rows] = output
        (2 * weighed_sum(padded)).backward()
        found = {
            name: getattr(part.grad, "full_tensor", lambda part=part: part.grad)()
            for name, part in inner.named_parameters()
        }
        assert_close(found, gradients, "float64", f"{wrap.__name__} {backend}")


def sharded_memory(linkage: str) -> None:
    """Outputs, state and gradients of the steps of examples/sharded_memory.py."""
    sys.path.insert(0, str(ROOT / "examples"))
    from sharded_memory import own_cells, sharded, sharded_step

    sizes = MemorySizes(2, 6, 3, 2, 2)
    own = own_cells(sizes.num_cells)
    vectors = random_interfaces(4, sizes)
    start = with_link(separated_state(sizes), linkage)

    def run(
        step: Callable[..., Any], rows: Callable[[Any], Any], share: float
    ) -> dict[str, Tensor]:
        leaves = {"vectors": require_grad(vectors), "state": require_grad(start)}
        state, outputs = rows(leaves["state"]), []
        for vector in leaves["vectors"]:
            read, state = step(vector, state)
            outputs.append(read)
        total = share * weighed_sum(outputs)
        return outcome({"outputs": outputs, "state": state}, leaves, total)

    def pieces(vector: Tensor, state: Any) -> Any:
        return sharded_step(parse_interface(vector, 3, 2, 2), state)

    expected = run(lambda *given: memory_step(*given, backend="reference"), lambda state: state, 1)
    found = run(pieces, sharded, 0.5)
    for name, value in found.items():
        wanted = expected[name]
        if name.startswith("gradient"):  # each rank has the part that went through its cells
            dist.all_reduce(value)
        elif name == "state.memory":
            wanted = wanted[:, own]
        elif name.startswith("state.link"):
            wanted = wanted[:, :, own]
        assert_close(value, wanted, "float64", f"{linkage} {name}")


def _rank(number: int, ports: list[str], name: str, folder: Path) -> None:
    os.environ |= {"RANK": str(number), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost"}
    os.environ["MASTER_PORT"], os.environ["SECOND_PORT"] = ports
    torch.set_num_threads(1)
    globals()[name](folder)


def main(name: str, folder: str) -> None:
    """Start both; prints their exit statuses, after two minutes at the most."""
    with socket.socket() as one, socket.socket() as other:
        ports = []
        for free in (one, other):
            free.bind(("localhost", 0))
            ports.append(str(free.getsockname()[1]))
    fork = multiprocessing.get_context("fork")  # spares them the imports
    processes = [fork.Process(target=_rank, args=(i, ports, name, Path(folder))) for i in range(2)]
    for process in processes:
        process.start()
    until = time.monotonic() + 120
    for process in processes:
        process.join(max(until - time.monotonic(), 0))
        process.kill()
        process.join()
    print(*(process.exitcode for process in processes))


if __name__ == "__main__":
    main(*sys.argv[1:])
