"""Seeds: every use of randomness has its own stream, so that none affects another."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

STREAMS = (
    *("parameters", "train", "validation", "held-out", "dropout", "lesson", "answers"),
    *("milestone", "writing"),
)


def stream_seed(seed: int, stream: str, index: int = 0) -> int:
    """The seed of the `index`-th draw of a stream."""
    words = np.random.SeedSequence((seed, STREAMS.index(stream), index)).generate_state(
        2, np.uint32
    )
    return int(words[0]) << 31 | int(words[1]) >> 1


def stream_generator(seed: int, stream: str, index: int = 0) -> torch.Generator:
    """A generator for the `index`-th draw of a stream."""
    return torch.Generator("cpu").manual_seed(stream_seed(seed, stream, index))


def random_state() -> dict[str, Any]:
    """Torch's global random state, of the CPU and of each CUDA device."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any]) -> None:
    """Restore what `random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
