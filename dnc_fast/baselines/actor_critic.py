"""Two DNCs that share nothing: one for the actions, one for the value (Graves et al. 2016)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from ..controllers import CONTROLLERS
from ..dnc import DNC
from ..options import option
from ..state import DNCState, map_tensors, tensors
from .base import Baseline, BaselineConfig, BaselineState

GAIN = {"help": "factor for the initial weights of the controller's inputs", "choices": None}


@dataclass(frozen=True)
class ActorCriticConfig(BaselineConfig):
    """The options of `ActorCritic`; both networks have the same sizes."""

    num_layers: int = option(1, "controller layers")
    num_cells: int = option(64, "memory cells")
    cell_size: int = option(32, "size of a memory cell")
    num_read_heads: int = option(1, "read heads")
    controller: str = option("lstm", "controller", CONTROLLERS)
    input_gain: float = field(default=1.0, metadata={**GAIN, "maximum": math.inf})
    linkage: str = option("dense", "how writes are linked in time", ("dense", "none"))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.output_size < 2:
            raise ValueError(
                "output_size must be at least 2, for an action and the value, got "
                f"{self.output_size}"
            )


class ActorCritic(Baseline):
    """The last output is the value network's, the others are the policy's."""

    Config = ActorCriticConfig

    def build(self, config: ActorCriticConfig) -> None:
        options = {one.name: getattr(config, one.name) for one in fields(config)}
        sizes = {"policy": config.output_size - 1, "value": 1}
        for name, size in sizes.items():
            network = DNC(**{**options, "output_size": size, "batch_first": False})
            setattr(self, name, network)

    def _networks(self) -> dict[str, Any]:
        return {"policy": self.policy, "value": self.value}

    def state_shapes(self, num_cells: int | None) -> dict[str, tuple[int, ...]]:
        return {
            f"{name}_{number}": tuple(part.shape[1:])
            for name, network in self._networks().items()
            for number, part in enumerate(tensors(network.zero_state(1, num_cells)))
        }

    def run(self, x: Tensor, parts: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        rest, outputs = iter(parts.values()), []
        after: list[Tensor] = []
        for network in self._networks().values():
            output, state = network(x, _filled(network, rest))
            outputs.append(output)
            after += tensors(state)
        return torch.cat(outputs, -1), dict(zip(parts, after, strict=True))

    def units(self, state: BaselineState) -> tuple[Tensor, ...]:
        """Those of the policy; none of a feed-forward controller."""
        layers = _filled(self.policy, iter(state.parts.values())).controller
        return tuple(tensors(layers[-1])) if layers else ()


def _filled(network: Any, parts: Iterator[Tensor]) -> DNCState:
    """A network's state with its tensors taken from `parts`."""
    return map_tensors(lambda _: next(parts), network.zero_state(1))
