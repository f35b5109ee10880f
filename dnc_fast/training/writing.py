"""A language model writes: each symbol is drawn from what the model expects next."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..checks import check_integer, check_number
from ..tasks import CharactersTask
from .answering import inference
from .model import option_to_look_ahead
from .random import stream_generator


def write(
    model: Any,
    task: CharactersTask,
    prompt: str = "",
    length: int = 400,
    temperature: float = 1.0,
    seed: int = 0,
) -> str:
    """The prompt, as the model reads it, and what the model writes after it.

    Args:
        model: any model trained on the task; its state is carried from symbol to symbol.
        task: the language model's.
        prompt: what the model reads first; without one, a symbol drawn from the text.
        length: symbols to write, characters or words.
        temperature: the logits are divided by this; 0 for always the most likely symbol.
        seed: of all random draws; the same seed writes the same text.

    Raises:
        TypeError, ValueError: an argument has the wrong type or value, or the model also reads
            from the end.
    """
    check_integer("length", length, minimum=1)
    check_number("temperature", temperature, 0.0)
    if name := option_to_look_ahead(model.config):
        raise ValueError(f"{name} must be False in a model that writes: a text has no end yet")
    generator = stream_generator(seed, "writing")
    read = task.encode(prompt) if prompt else task.batch(1, generator).inputs[:1, 0]
    if not len(read):
        raise ValueError(f"prompt must have a {task.unit}, got {prompt!r}")
    written, state, step = [read], None, read
    with inference(model) as device:
        for _ in range(length):
            outputs, state = model(step.unsqueeze(1).to(device), state)
            step = F.one_hot(_choose(outputs[-1], temperature, generator), read.shape[1]).float()
            written.append(step)
    return task.decode(torch.cat(written))


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """A symbol (B) for each row of logits (B, Y)."""
    logits = logits.double().cpu()
    if temperature == 0:
        return logits.argmax(-1)
    # The largest is subtracted first, so that a small temperature does not overflow.
    shares = ((logits - logits.amax(-1, keepdim=True)) / temperature).softmax(-1)
    return torch.multinomial(shares, 1, generator=generator).squeeze(-1)
