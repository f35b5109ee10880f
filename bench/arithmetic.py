"""What NAC, NALU and plain networks learn of arithmetic: `python -m bench.arithmetic`.

Given four numbers, a network is to add, subtract, and so on, the first two, a and b. It is trained
on numbers from 1 to 2, and tested on others from 1 to 2 and from 10 to 20. Prints a Markdown table
of mean absolute errors as shares of the mean absolute answer: medians over seeds, and the range.

`--identity FILE` draws instead the errors of networks with several activations that were trained to
return their input, numbers from -5 to 5; FILE must end in .png.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dnc_fast.baselines import NAC, NALU
from dnc_fast.pictures import save_picture
from dnc_fast.pictures.comparison import MANY_LOOKS
from dnc_fast.pictures.panels import legend_above
from dnc_fast.pictures.style import PALE, house_style, stack_panels

from .harness.provenance import provenance
from .reports.tables import print_head, print_row

OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "a + b": torch.add,
    "a - b": torch.sub,
    "a b": torch.mul,
    "a / b": torch.div,
    "a squared": lambda a, b: a.square(),
    "square root of a": lambda a, b: a.sqrt(),
}

MODELS: dict[str, Callable[[], nn.Module]] = {
    "NAC": lambda: NAC(4, 1),
    "NALU": lambda: NALU(4, 1),
    "two NALUs": lambda: nn.Sequential(NALU(4, 2), NALU(2, 1)),
    "MLP": lambda: nn.Sequential(nn.Linear(4, 32), nn.ReLU(), nn.Linear(32, 1)),
}

RANGES = {"1 to 2": 1.0, "10 to 20": 10.0}
"""The numbers of each test, and the factor between them and those of training."""


def examples(
    operation: str, count: int, factor: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Numbers (count, 4), uniform from `factor` to twice that, and the answers (count, 1)."""
    x = factor * (1 + torch.rand(count, 4, generator=generator))
    return x, OPERATIONS[operation](x[:, :1], x[:, 1:2])


def learn(operation: str, model: str, seed: int, steps: int) -> list[float]:
    """Train a model; returns its error in each of the ranges."""
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    network = MODELS[model]()
    optimizer = torch.optim.Adam(network.parameters(), 0.03)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x, answers = examples(operation, 64, 1.0, generator)
        optimizer.zero_grad()
        F.mse_loss(network(x), answers).backward()
        optimizer.step()
        schedule.step()
    errors = []
    with torch.no_grad():
        for factor in RANGES.values():
            x, answers = examples(operation, 10_000, factor, generator)
            errors.append(float((network(x) - answers).abs().mean() / answers.abs().mean()))
    return errors


def print_errors(seeds: int, steps: int) -> None:
    """Print the table, a row for each operation and range."""
    print_head(provenance(), "operation", "numbers", *MODELS)
    for operation in OPERATIONS:
        columns = []
        for model in MODELS:
            runs = [learn(operation, model, seed, steps) for seed in range(seeds)]
            columns.append([_spread(errors) for errors in zip(*runs, strict=True)])
        for name, row in zip(RANGES, zip(*columns, strict=True), strict=True):
            print_row(operation, name, *row)


def _spread(errors: tuple[float, ...]) -> str:
    """The median, and the range."""
    median, least, most = statistics.median(errors), min(errors), max(errors)
    return f"{100 * median:.3g} % ({100 * least:.3g} to {100 * most:.3g})"


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "softsign": F.softsign,
    "ReLU6": F.relu6,
    "ELU": F.elu,
    "ReLU": torch.relu,
}

NETWORKS, WIDTHS = 20, (1, 8, 8, 8, 1)
TRAINED, TESTED = 5.0, 20.0
"""The largest numbers in training and in tests."""


def identity_errors(activation: Callable[[Tensor], Tensor], steps: int) -> tuple[Tensor, Tensor]:
    """Numbers (P), and for each the mean error of `NETWORKS` networks trained to give it back."""
    torch.manual_seed(0)
    layers = []
    for before, after in itertools.pairwise(WIDTHS):
        weight = torch.randn(NETWORKS, before, after) * (1 / before) ** 0.5
        layers.append((weight.requires_grad_(), torch.zeros(NETWORKS, 1, after).requires_grad_()))

    def answers(x: Tensor) -> Tensor:
        for number, (weight, bias) in enumerate(layers):
            x = torch.baddbmm(bias, activation(x) if number else x, weight)
        return x

    optimizer = torch.optim.Adam([part for layer in layers for part in layer], 0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        x = TRAINED * (2 * torch.rand(NETWORKS, 64, 1) - 1)
        optimizer.zero_grad()
        F.mse_loss(answers(x), x).backward()
        optimizer.step()
        schedule.step()
    numbers = torch.linspace(-TESTED, TESTED, 161)
    with torch.no_grad():
        x = numbers.view(1, -1, 1).expand(NETWORKS, -1, -1)
        return numbers, (answers(x) - x).abs().mean((0, 2))


@house_style()
def identity_view(errors: dict[str, tuple[Tensor, Tensor]]) -> Any:
    """Draw the error of each activation over the numbers."""
    title = f"{len(WIDTHS) - 2} layers of {WIDTHS[1]} trained to give back numbers from -5 to 5"
    figure, ((axes,),) = stack_panels(title, [[2.8]], 0.25)
    axes.axvspan(-TRAINED, TRAINED, color=PALE, alpha=0.5, linewidth=0)
    for (name, (numbers, error)), look in zip(errors.items(), MANY_LOOKS, strict=False):
        style: dict[str, Any] = {**look._asdict(), "marker": ""}
        axes.plot(numbers.numpy(), error.numpy(), label=name, **style)
    axes.set_yscale("log")
    axes.set_ylim(3e-4, 2 * TESTED)
    axes.set_xlim(-TESTED, TESTED)
    axes.set_title("absolute error")
    axes.set_ylabel("mean")
    axes.set_xlabel("number; those of training in grey")
    axes.grid(True)
    axes.set_axisbelow(True)
    legend_above(axes)
    return figure


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5000)
    parser.add_argument("--identity", type=Path, metavar="FILE", help="draw this picture instead")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.identity is None:
        print_errors(options.seeds, options.steps)
        return
    errors = {name: identity_errors(one, options.steps) for name, one in ACTIVATIONS.items()}
    print(save_picture(identity_view(errors), options.identity))


if __name__ == "__main__":
    main()
