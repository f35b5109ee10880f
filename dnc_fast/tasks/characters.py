"""Language model: read a text file and predict the next character, or word, at each step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_choice, check_integer
from ..options import option
from .base import ClassTask, uniform
from .batch import Batch
from .text import SIGNS, SYMBOLS, UNKNOWN, Text, join_text, read_text, split_text

PARTS = {"train": (0.0, 0.9), "held-out": (0.9, 1.0)}
"""Where each part of the text begins and ends."""


@dataclass(frozen=True)
class CharactersTask(ClassTask):
    """Passages of num_chunks x chunk_length characters from random places of a text, in order.

    Characters are one-hot in the text's own alphabet; the answer at every step is the next
    character. Training takes one chunk at a time and carries the state from chunk to chunk. The
    first nine tenths of the text are for training, the last tenth is held out. Without a `file` the
    text is the language reference that comes with Python, about 700,000 characters, which differ
    slightly between Python versions. The file must not change during a run: a checkpoint holds only
    its name, and a digest of its alphabet, so that a text with another one is refused.

    With `symbols` "words", each step is a word or a punctuation mark instead, one of the most
    frequent ones of the text or the unknown word; there is no white space.
    """

    goal = "right"
    published = ("bits", "right")

    file: str = option("", "text file, UTF-8 (default: the help that comes with Python)")
    chunk_length: int = option(50, "steps in a chunk: how far a training step backpropagates")
    num_chunks: int = option(10, "chunks in a passage")
    part: str = option("train", "part of the text to read", tuple(PARTS))
    symbols: str = option("characters", "what a step is, a character or a word", SYMBOLS)
    vocabulary: int = option(1000, "words known: the most frequent ones, and one for all others")

    def __post_init__(self) -> None:
        for name in ("chunk_length", "num_chunks"):
            check_integer(name, getattr(self, name), minimum=1)
        check_integer("vocabulary", self.vocabulary, minimum=2)
        check_choice("symbols", self.symbols, SYMBOLS)
        check_choice("part", self.part, PARTS)
        steps = self.chunk_length * self.num_chunks
        for part in PARTS:
            symbols = len(self._codes(part))
            if symbols <= steps:
                raise ValueError(
                    f"file must have more than {steps} {self.symbols} (chunk_length x num_chunks) "
                    f"in its part {part!r}, got {symbols}; use shorter passages or a longer text"
                )

    def __str__(self) -> str:
        return f"{self.symbols} of {Path(self.file).name if self.file else 'the Python help'}"

    @property
    def unit(self) -> str:
        return self.symbols.removesuffix("s")

    @property
    def text(self) -> Text:
        """The whole text."""
        return read_text(self.file, self.symbols, self.vocabulary)

    @property
    def alphabet(self) -> Sequence[str]:
        """The characters of the text, sorted, or the words; symbol i is one-hot at i."""
        return self.text.alphabet

    @property
    def alphabet_digest(self) -> str:
        """Of the symbols in their order."""
        return sha256("\0".join(self.alphabet).encode()).hexdigest()[:16]

    def encode(self, text: str) -> Tensor:
        """A text as one-hot symbols, (T, X); words that are not known become the unknown one.

        Raises:
            ValueError: there is a character that the alphabet lacks.
        """
        numbers = {symbol: number for number, symbol in enumerate(self.alphabet)}
        parts, unknown = split_text(text, self.symbols), numbers.get(UNKNOWN)
        missing = [part for part in dict.fromkeys(parts) if numbers.get(part, unknown) is None]
        if missing:
            raise ValueError(
                "text must have only characters of the file that the model was trained on, which "
                f"lacks {', '.join(map(repr, missing))}"
            )
        codes = torch.tensor([numbers.get(part, unknown) for part in parts], dtype=torch.long)
        return F.one_hot(codes, len(self.alphabet)).float()

    def decode(self, steps: Tensor) -> str:
        """The text of one-hot symbols (T, X)."""
        parts = (self.alphabet[number] for number in steps.argmax(-1).tolist())
        return join_text(parts, self.symbols)

    @property
    def input_size(self) -> int:
        return len(self.alphabet)

    def words(self, steps: Tensor) -> list[str]:
        """The symbol of each step; white space as signs that can be seen."""
        found = [self.alphabet[int(step.argmax())] if step.any() else "" for step in steps]
        return [SIGNS.get(one, one) for one in found]

    def held_out(self) -> CharactersTask:
        """The last tenth of the text."""
        return replace(self, part="held-out")

    def _codes(self, part: str) -> Tensor:
        codes = self.text.codes
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
