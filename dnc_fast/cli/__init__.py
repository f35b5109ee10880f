"""The command line: it parses arguments and calls the rest of the package."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from .. import __version__
from ..tasks import TASKS, summary
from ..training import CheckpointError, TrainingError
from .ask import add_ask_options
from .info import show_info, show_tasks
from .look import add_eval_options, add_show_options
from .options import UserError
from .train import add_train_options

EXAMPLES = """examples:
  dnc-fast tasks                                   what can be trained on
  dnc-fast train copy                              copy sequences of 1 to 8 vectors of 6 bits
  dnc-fast train copy --controller feedforward --out runs/feedforward
  dnc-fast train copy --resume                     continue after Ctrl-C
  dnc-fast train echo --seeds 5                    five seeds and a table
  dnc-fast train priority-sort --max-minutes 60    for an hour; --resume for another
  dnc-fast eval runs/copy --task min_length=16 max_length=16 --num-cells 32
  dnc-fast train copy --linkage sparse --link-fan-out 5 --out runs/sparse
  dnc-fast show runs/copy                          draw its pictures again
  dnc-fast ask runs/babi "Mary went to the garden. Where is Mary?"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0: done. 1: training failed. 2: the user's mistake. 128 + n: saved and stopped by signal n.
    """
    options = _parser().parse_args(arguments)
    try:
        status = options.run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader has had enough, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1
    except KeyboardInterrupt:
        print("dnc-fast: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except TrainingError as error:
        print(f"dnc-fast: training stopped: {error}", file=sys.stderr)
        return 1
    except (UserError, CheckpointError, TypeError, ValueError, OSError, ImportError) as error:
        print(f"dnc-fast: error: {error}", file=sys.stderr)
        return 2


class Parser(argparse.ArgumentParser):
    """A parser whose messages name the nearest option or command."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See argparse; options that nobody knows are refused here, with this command's usage."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unknown argument{'s' * (len(unknown) > 1)} {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.+?)' \(choose from (.+)\)", message)
        if choice:
            words, names = [choice[1]], re.findall(r"[\w-]+", choice[2])
        else:
            words = [word.partition("=")[0] for word in message.split() if word.startswith("--")]
            names = [name for name in self._option_string_actions if name.startswith("--")]
        for word in words:
            near = difflib.get_close_matches(word, names, n=1)
            if near and word.rstrip(":") not in names:
                message = f"{message}; did you mean {near[0]}?"
        hint = f"`{self.prog} --help` lists what there is"
        self.exit(2, f"{self.prog}: error: {message}\n{hint}\n")


def _parser() -> Parser:
    parser = Parser(
        prog="dnc-fast",
        description="Train, score and look into a Differentiable Neural Computer.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dnc_fast {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = commands.add_parser("train", help="train a DNC on a task")
    tasks = train.add_subparsers(title="tasks", required=True, metavar="TASK")
    for name, kind in TASKS.items():
        command = tasks.add_parser(
            name,
            help=summary(kind),
            usage=f"dnc-fast train {name} [OPTION ...]",
            description=(kind.__doc__ or "").strip().splitlines()[0],
        )
        add_train_options(command, name, kind)

    add_eval_options(
        commands.add_parser("eval", help="score a trained model on held-out sequences")
    )
    add_show_options(commands.add_parser("show", help="draw a trained model's pictures"))
    add_ask_options(commands.add_parser("ask", help="ask a model trained on bAbI about a story"))
    commands.add_parser("tasks", help="the tasks, a line each").set_defaults(run=show_tasks)
    commands.add_parser("info", help="versions, devices, backends").set_defaults(run=show_info)
    return parser
