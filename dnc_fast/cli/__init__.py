"""The command line: it parses arguments and calls the rest of the package."""

from __future__ import annotations

import argparse
import difflib
import os
import re
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

from .. import __version__

# What commands need is imported when they are named, because torch takes a second or more.
COMMANDS = {
    "train": ("train a DNC, or a model to compare it with, on a task", "train"),
    "compare": ("train several models on a task, with a table and curves", "compare"),
    "campaign": ("train the paper's flagship results", "campaign"),
    "eval": ("score a trained model on held-out sequences", "look"),
    "show": ("draw a trained model's pictures", "look"),
    "share": ("save a trained model in a folder for others", "share"),
    "ask": ("tell a trained model a story and ask about it", "ask"),
    "write": ("let a trained language model write", "write"),
    "compile": ("compile a model's GPU kernels, without a GPU", "compile"),
    "tasks": ("list the tasks, one line each", "tasks"),
    "info": ("show versions, devices, backends, compiled kernels", "info"),
}
"""Of each command, what it does, and the module whose `add_NAME_options` adds its options."""

EXAMPLES = """examples:
  dnc-fast tasks                                   what can be trained on
  dnc-fast train copy                              copy sequences of 1 to 8 vectors of 6 bits
  dnc-fast train copy --controller feedforward --out runs/feedforward
  dnc-fast train copy --model lstm --out runs/lstm    another model on the same data
  dnc-fast train copy --resume                     continue after Ctrl-C
  dnc-fast compare copy --models dnc,lstm,ntm --seeds 3 --budget steps=2000
  dnc-fast train echo --seeds 5                    five seeds and a table
  dnc-fast train priority-sort --max-minutes 60    for an hour; --resume for another
  torchrun --nproc-per-node 2 -m dnc_fast train copy    with two processes
  dnc-fast eval runs/copy --task min_length=16 max_length=16 --num-cells 32
  dnc-fast train copy --linkage sparse --link-fan-out 5 --out runs/sparse
  dnc-fast show runs/copy                          draw its pictures again
  dnc-fast compile runs/copy --target sm_90 --out kernels    for a GPU elsewhere
  dnc-fast show --pretrained traversal             a model that comes with dnc_fast
  dnc-fast ask runs/babi "Mary went to the garden. Where is Mary?"
  dnc-fast write runs/characters --prompt "The " --temperature 0.7
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status.

    0: done. 1: training failed. 2: the user's mistake. 128 + n: saved and stopped by signal n.
    """
    if "torch" not in sys.modules:
        # Threads that wait sleep, and do not take cores from those that they wait for.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        options = _parser(sys.argv[1:] if arguments is None else arguments).parse_args(arguments)
        status = options.run(options)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader has had enough, as with `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE if hasattr(signal, "SIGPIPE") else 1
    except KeyboardInterrupt:
        print("dnc-fast: interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        if _came_from_interrupt(error):  # a library made something else of it while it was imported
            print("dnc-fast: interrupted", file=sys.stderr)
            return 128 + signal.SIGINT
        return _say(error)


def _came_from_interrupt(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _say(error: Exception) -> int:
    """Say what went wrong if it is no fault of the program; returns the exit status."""
    from ..training import CheckpointError, TrainingError
    from .options import UserError

    if isinstance(error, TrainingError):
        print(f"dnc-fast: training stopped: {error}", file=sys.stderr)
        return 1
    known = (UserError, CheckpointError, TypeError, ValueError, OSError, ImportError)
    if isinstance(error, known):
        print(f"dnc-fast: error: {error}", file=sys.stderr)
        return 2
    raise error


class Parser(argparse.ArgumentParser):
    """A parser whose messages name the nearest option or command."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """See argparse; options that nobody knows are refused here, with this command's usage."""
        self._given = list(sys.argv[1:] if args is None else args)
        found, unknown = super().parse_known_args(args, namespace)
        # argparse takes positional arguments from one place only: those elsewhere continue a list.
        for name in (one.dest for one in self._get_positional_actions() if one.nargs == "*"):
            words = [word for word in unknown if not word.startswith("-")]
            setattr(found, name, getattr(found, name) + words)
            unknown = [word for word in unknown if word.startswith("-")]
        if unknown:
            self.error(f"unknown argument{'s' * (len(unknown) > 1)} {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        choice = re.search(r"invalid choice: '(.+?)' \(choose from (.+)\)", message)
        if choice:
            words, names = [choice[1]], re.findall(r"[\w-]+", choice[2])
        else:
            names = [name for name in self._option_string_actions if name.startswith("--")]
            # Something may be missing because its name is wrong.
            missing = message.startswith("the following arguments are required")
            told = self._given if missing else message.split()
            words = [word.partition("=")[0].rstrip(":") for word in told if word.startswith("--")]
        for word in words:
            near = difflib.get_close_matches(word, names, n=1, cutoff=0.7)
            if near and word not in names:
                message = f"{message}; did you mean {near[0]}?"
        hint = f"`{self.prog} --help` lists what there is"
        self.exit(2, f"{self.prog}: error: {message}\n{hint}\n")


def _parser(arguments: Sequence[str]) -> Parser:
    """The parser; of the commands, only the one that the arguments name has options."""
    parser = Parser(
        prog="dnc-fast",
        description="Train, score and inspect a Differentiable Neural Computer.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dnc_fast {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    named = next((word for word in arguments if not word.startswith("-")), None)
    for name, (what, module) in COMMANDS.items():
        command = commands.add_parser(name, help=what)
        if name == named:
            getattr(import_module(f".{module}", __name__), f"add_{name}_options")(command)
    return parser
