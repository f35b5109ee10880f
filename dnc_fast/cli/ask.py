"""`dnc-fast ask`: tell a trained model a story and ask it questions."""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from typing import Any

import torch

from ..checks import check_integer
from ..tasks import StoryTask, names_of
from ..tasks.stories import ANSWER, StoryError, hear
from ..training import read_trained, restore_model, restore_task
from ..training.checkpoint import task_kind
from .compiling import shown_compiling
from .options import UserError, add_checkpoint, add_device, chosen_checkpoint, chosen_device

SHOWN = 3
"""Words shown for each word of an answer, the most likely first."""


def add_ask_options(parser: argparse.ArgumentParser) -> None:
    """The options of `dnc-fast ask`."""
    add_checkpoint(parser)
    parser.add_argument(
        "text",
        nargs="*",
        help="sentences and questions, such as 'Mary went to the garden. Where is Mary?'; "
        "without any, they are read line by line, and an empty line starts a new story",
    )
    parser.add_argument(
        "--words",
        type=int,
        metavar="INT",
        help="words in an answer (default: 1, or one for each railway line in the question)",
    )
    add_device(parser)
    parser.set_defaults(run=_ask)


def _ask(options: argparse.Namespace) -> int:
    if options.words is not None:
        check_integer("--words", options.words, minimum=1)
    options.device = chosen_device(options.device)
    if options.pretrained is not None and options.checkpoint is not None:
        options.text.insert(0, str(options.checkpoint))  # all words are the story's
        options.checkpoint = None
    content = read_trained(chosen_checkpoint(options))
    kind = task_kind(content)
    if not issubclass(kind, StoryTask):
        known = names_of(StoryTask)
        raise UserError(
            f"checkpoint must be of a run of a task of stories ({', '.join(known)}), got "
            f"{content['task']['name']!r}; `dnc-fast train {known[0]}` makes one"
        )
    task = restore_task(content, **kind.without_files)
    assert isinstance(task, StoryTask)
    model = restore_model(content).to(options.device)
    model.eval()
    story: list[str] = []
    typed = not options.text and sys.stdin.isatty()
    if typed:
        print("Tell a story, ask a question; an empty line starts a new story, Ctrl-D ends.")
    asked = False
    for where, line in _lines(options.text, typed):
        words = task.vocabulary.split(line)
        try:
            task.vocabulary.check(words, where)
        except StoryError as error:
            if not typed:
                raise
            print(error)
            continue
        if not words:
            story.clear()
        for word in words:
            story.append(word)
            if word == "?":
                asked = True
                question = _last_sentence(story)
                length = options.words or task.answer_length(question)
                print(f"{' '.join(question)} {_answer(model, task, story, length)}")
                story += [ANSWER] * length
    if not asked and not typed:
        raise UserError("text must contain a question, which ends with a question mark; got none")
    return 0


def _lines(text: list[str], typed: bool) -> Iterator[tuple[str, str]]:
    """Where each line comes from, and the line."""
    if text:
        yield "text", " ".join(text)
        return
    for number in itertools.count(1):
        try:
            line = input("> ") if typed else input()
        except EOFError:
            return
        yield f"line {number}", line


def _last_sentence(story: list[str]) -> list[str]:
    """The words after the last full stop or answer."""
    ends = [place for place, word in enumerate(story[:-1]) if word in (".", ANSWER)]
    return story[ends[-1] + 1 if ends else 0 :]


def _answer(model: Any, task: StoryTask, story: list[str], words: int) -> str:
    """The most likely answer, and for each word of it the most likely ones with their shares."""
    inputs = hear([*story, *[ANSWER] * words], task.vocabulary).to(next(model.parameters()).device)
    with shown_compiling(), torch.no_grad():
        outputs, _ = model(inputs)
    shares = task.probabilities(outputs[-words:, 0])
    best, others = [], []
    for share, place in zip(*shares.topk(SHOWN), strict=True):
        said = [task.vocabulary.words[code] for code in place.tolist()]
        best.append(said[0])
        pairs = zip(said, share.tolist(), strict=True)
        others.append(", ".join(f"{word} {100 * part:.1f} %" for word, part in pairs))
    return f"{','.join(best)}  ({'; '.join(others)})"
