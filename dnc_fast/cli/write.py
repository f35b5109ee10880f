"""`dnc-fast write`: a trained language model continues a text."""

from __future__ import annotations

import argparse

from ..checks import check_integer
from ..tasks import CharactersTask
from ..training import read_trained, restore_model, restore_task, write
from .compiling import shown_compiling
from .options import UserError, add_checkpoint, add_device, chosen_checkpoint, chosen_device


def add_write_options(parser: argparse.ArgumentParser) -> None:
    """The options of `dnc-fast write`."""
    add_checkpoint(parser)
    parser.add_argument(
        "--prompt",
        default="",
        metavar="TEXT",
        help="text for the model to continue (default: one symbol drawn from its file)",
    )
    parser.add_argument(
        "--length",
        type=int,
        default=400,
        metavar="INT",
        help="characters or words to write (default: 400)",
    )
    parser.add_argument(
        "--temperature",
        type=float,
        default=1.0,
        metavar="FLOAT",
        help="below 1 for more predictable text, 0 for always the likeliest symbol (default: 1.0)",
    )
    parser.add_argument(
        "--seed", type=int, metavar="INT", help="seed of the random draws (default: the run's)"
    )
    add_device(parser)
    parser.set_defaults(run=_write)


def _write(options: argparse.Namespace) -> int:
    device = chosen_device(options.device)
    content = read_trained(chosen_checkpoint(options))
    if content["task"]["name"] != "characters":
        raise UserError(
            "checkpoint must be of a run of the task 'characters', got "
            f"{content['task']['name']!r}; `dnc-fast train characters` makes one"
        )
    task = restore_task(content)
    assert isinstance(task, CharactersTask)
    seed = content["training"]["seed"] if options.seed is None else options.seed
    check_integer("--seed", seed, minimum=0)
    model = restore_model(content).to(device)
    with shown_compiling():
        print(write(model, task, options.prompt, options.length, options.temperature, seed))
    return 0
