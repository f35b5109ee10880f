"""Character language model: read a text file and predict the next character at each step."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_choice, check_integer
from ..options import option
from .base import Batch, ClassTask, uniform

PARTS = {"train": (0.0, 0.9), "held-out": (0.9, 1.0)}
"""Where each part of the text begins and ends."""


class Text(NamedTuple):
    """A text as numbers. alphabet: its characters, sorted. codes: (length of the text) int64."""

    alphabet: str
    codes: Tensor


@dataclass(frozen=True)
class CharactersTask(ClassTask):
    """Passages of num_chunks x chunk_length characters from random places of a text, in order.

    Characters are one-hot in the text's own alphabet; the answer at every step is the next
    character. Training takes one chunk at a time and carries the state from chunk to chunk. The
    first nine tenths of the text are for training, the last tenth is held out. Without a `file` the
    text is the language reference that comes with Python, about 700,000 characters, which differ
    slightly between Python versions. The file must not change during a run: a checkpoint holds only
    its name.
    """

    unit = "character"
    goal = "right"
    published = ("bits", "right")

    file: str = option("", "text file, UTF-8 (default: the help that comes with Python)")
    chunk_length: int = option(50, "characters in a chunk: how far a training step backpropagates")
    num_chunks: int = option(10, "chunks in a passage")
    part: str = option("train", "part of the text to read", tuple(PARTS))

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
                    f"its part {part!r}, got {characters}; use shorter passages or a longer text"
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

    def words(self, steps: Tensor) -> list[str]:
        """The character of each step; white space as signs that can be seen."""
        signs = {
            " ": "\N{OPEN BOX}",
            "\n": "\N{RETURN SYMBOL}",
            "\t": "\N{RIGHTWARDS ARROW TO BAR}",
        }
        found = [self.alphabet[int(step.argmax())] if step.any() else "" for step in steps]
        return [signs.get(one, one) for one in found]

    def held_out(self) -> CharactersTask:
        """The last tenth of the text."""
        return replace(self, part="held-out")

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
    """The text of a file, or of Python's help for an empty name; read only once.

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
