"""Texts as numbers: of their characters, or of their words and punctuation marks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

SYMBOLS = ("characters", "words")
"""What a text can be cut into."""

UNKNOWN = "<unknown>"
"""Stands for every word that is not in the vocabulary."""

SIGNS = {
    " ": "\N{OPEN BOX}",
    "\n": "\N{RETURN SYMBOL}",
    "\t": "\N{RIGHTWARDS ARROW TO BAR}",
}
"""Visible signs for white space."""

_WORD = re.compile(r"\w+(?:'\w+)*|[^\w\s]")
_NOTHING_BEFORE, _NOTHING_AFTER = frozenset(".,;:!?)]}"), frozenset("([{")


class Text(NamedTuple):
    """A text as numbers. alphabet: the symbols; codes: (length of the text) int64, their places."""

    alphabet: Sequence[str]
    codes: Tensor


def split_text(text: str, symbols: str) -> list[str]:
    """A text's characters; or its words and punctuation marks, without white space."""
    return list(text) if symbols == "characters" else _WORD.findall(text)


def join_text(parts: Iterable[str], symbols: str) -> str:
    """The text of characters; or of words, with spaces where English has them."""
    if symbols == "characters":
        return "".join(parts)
    text, last = "", "("
    for part in parts:
        together = part in _NOTHING_BEFORE or last in _NOTHING_AFTER
        text, last = text + ("" if together else " ") + part, part
    return text


@lru_cache(maxsize=8)
def read_text(file: str, symbols: str = "characters", vocabulary: int = 0) -> Text:
    """The text of a file, or of Python's help for an empty name; read only once.

    The alphabet of characters is sorted, a string; that of words begins with the unknown word and
    continues with the most frequent ones.

    Args:
        file: its name.
        symbols: one of `SYMBOLS`.
        vocabulary: the most words to know, the unknown one included.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not UTF-8.
    """
    parts = split_text(_read(file), symbols)
    alphabet: Sequence[str]
    if symbols == "characters":
        alphabet = "".join(sorted(set(parts)))
    else:  # of equally frequent words, those first that come first in the text
        alphabet = (UNKNOWN, *(word for word, _ in Counter(parts).most_common(vocabulary - 1)))
    numbers = {symbol: number for number, symbol in enumerate(alphabet)}
    codes = torch.tensor([numbers.get(part, 0) for part in parts], device="cpu")
    return Text(alphabet, codes)


def _read(file: str) -> str:
    if not file:
        from pydoc_data.topics import topics

        return "\n".join(topics[name] for name in sorted(topics))
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"file must name a text file, got {file!r}")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"file must be UTF-8 text, got {file!r}: {error}") from None
