"""Character language model: read a text file and foretell the next character at each step."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_choice, check_integer
from .base import Batch, ClassTask, uniform

PARTS = {"train": (0.0, 0.9), "held-out": (0.9, 1.0)}
"""Where each part of the text begins and ends."""


class Text(NamedTuple):
    """A text as numbers. alphabet: its characters, sorted. codes: (characters) int64."""

    alphabet: str
    codes: Tensor


@dataclass(frozen=True)
class CharactersTask(ClassTask):
    """Passages of num_chunks x chunk_length characters from random places of a text, in order.

    Characters are one-hot of the text's own alphabet; the answer is the next character, at every
    step. Training takes a chunk at a time and carries the state from chunk to chunk of a passage.
    The first nine tenths of the text are for training, the last tenth is held out. Without a `file`
    the text is the language reference that comes with Python itself, some 700,000 characters, which
    differ a little from one Python version to the next. The file must stay as it is while a run
    goes on: a checkpoint holds its name only.
    """

    unit = "character"
    goal = "right"
    published = ("bits", "right")

    file: str = field(default="", metadata={"help": "text file, UTF-8; default: Python's own help"})
    chunk_length: int = field(
        default=50, metadata={"help": "characters of a chunk: a training step's backpropagation"}
    )
    num_chunks: int = field(default=10, metadata={"help": "chunks in a passage"})
    part: str = field(
        default="train", metadata={"choices": tuple(PARTS), "help": "part of the text to read"}
    )

    def __post_init__(self) -> None:
        for name in ("chunk_length", "num_chunks"):
            check_integer(name, getattr(self, name), minimum=1)
        check_choice("part", self.part, PARTS)
        steps = self.chunk_length * self.num_chunks
        for part in PARTS:
            characters = len(self._codes(part))
            if characters <= steps:
                raise ValueError(
                    f"file must have more than {steps} characters (chunk_length x num_chunks) in "
                    f"its part {part!r}, got {characters}; take shorter passages or a longer text"
                )

    def __str__(self) -> str:
        return f"characters of {Path(self.file).name if self.file else 'the Python help'}"

    @property
    def alphabet(self) -> str:
        """The characters of the text, sorted; character i is one-hot at i."""
        return read_text(self.file).alphabet

    @property
    def input_size(self) -> int:
        return len(self.alphabet)

    @property
    def output_size(self) -> int:
        return len(self.alphabet)

    def held_out(self) -> CharactersTask:
        """The same on the last tenth of the text."""
        return replace(self, part="held-out")

    def model_preset(self) -> dict[str, Any]:
        """A larger controller, which carries most of a language."""
        return {"hidden_size": 128, "num_cells": 32, "cell_size": 16, "num_read_heads": 1}

    def training_preset(self, controller: str) -> dict[str, Any]:
        """Passages are long, so fewer of them are enough for an evaluation."""
        return {"evaluation_size": 50}

    def _codes(self, part: str) -> Tensor:
        codes = read_text(self.file).codes
        first, last = (round(share * len(codes)) for share in PARTS[part])
        return codes[first:last]

    def batch(self, batch_size: int, generator: torch.Generator) -> Batch:
        """Draw B passages, see `Batch`."""
        check_integer("batch_size", batch_size, minimum=1)
        codes = self._codes(self.part).to(generator.device)
        steps = self.chunk_length * self.num_chunks
        places = uniform(0, len(codes) - steps - 1, (batch_size,), generator)
        read = codes[places + torch.arange(steps + 1, device=codes.device).unsqueeze(1)]
        one_hot = F.one_hot(read, len(self.alphabet)).float()
        return Batch(
            inputs=one_hot[:-1],
            targets=one_hot[1:],
            mask=torch.ones(steps, batch_size, dtype=torch.bool, device=codes.device),
            lengths=torch.full((batch_size,), steps, device=codes.device),
        )


@lru_cache(maxsize=8)
def read_text(file: str) -> Text:
    """The text of a file, or of Python's help for an empty name, read once.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8.
    """
    if not file:
        from pydoc_data.topics import topics

        text = "\n".join(topics[name] for name in sorted(topics))
    else:
        path = Path(file)
        if not path.is_file():
            raise FileNotFoundError(f"file must name a text file, got {file!r}")
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"file must be UTF-8 text, got {file!r}: {error}") from None
    alphabet = "".join(sorted(set(text)))
    numbers = {character: number for number, character in enumerate(alphabet)}
    return Text(alphabet, torch.tensor([numbers[character] for character in text], device="cpu"))
