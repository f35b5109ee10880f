"""Every size and option of a DNC, named and checked in one place."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import KW_ONLY, MISSING, dataclass, fields
from typing import Any

import torch
from torch import nn

from .backends import backend_names
from .checks import check_choice, check_flag, check_integer, check_number
from .controllers import CONTROLLERS, check_controller
from .linkages import LINKAGES
from .options import option
from .state import MemorySizes
from .step_options import StepOptions

OF_ONE_KIND = {
    "link_fan_out": ("linkage", "sparse"),
    "link_threshold": ("linkage", "sparse"),
    "link_unit_sums": ("linkage", "sparse"),
    "link_history": ("linkage", "separable"),
    "checkpoint_dtype": ("linkage", "dense"),
    "usage_order": ("allocation", "sorted"),
    "allocation_power": ("allocation", "proportional"),
    "allocation_temperature": ("allocation", "softmax"),
    "mask_floor": ("masked_lookup", True),
}
"""Options that have an effect only with one value of another, and which."""

STATE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class DNCConfig(StepOptions):
    """The options of `DNC` and `DNCCell`; `DNC` documents them.

    Those with a help text are command-line options too.

    Raises:
        TypeError, ValueError: a value is invalid.
    """

    input_size: int
    hidden_size: int = option(MISSING, "size of each controller layer")
    num_layers: int = option(1, "controller layers")
    bias: bool = True
    batch_first: bool = False
    dropout: float = option(0.0, "dropout between controller layers")
    bidirectional: bool = False
    _: KW_ONLY
    num_cells: int = option(64, "memory cells")
    cell_size: int = option(32, "size of a memory cell")
    num_read_heads: int = option(4, "read heads")
    num_write_heads: int = option(1, "write heads")
    output_size: int | None = None
    controller: str | nn.Module | Callable[[int], nn.Module] = option(  # noqa: RUF009
        "lstm", "controller", choices=CONTROLLERS
    )
    activation_clip: float | None = option(None, "clip gradients of controller activations to this")
    value_clip: float | None = option(None, "clip controller activations and outputs to this")
    input_gain: float = option(1.0, "factor for the controller's initial input weights")
    bidirectional_controller: bool = option(False, "a second controller, from the end of the input")
    interface_norm: bool = option(False, "normalise interface vectors")
    bypass_dropout: float = option(0.0, "dropout on the way from the controller to the output")
    linkage: str = option("dense", "how writes are linked in time", choices=LINKAGES)
    link_fan_out: int = option(8, "entries in each row of a sparse link matrix")
    state_dtype: torch.dtype | None = None
    checkpoint_interval: int | None = None
    checkpoint_dtype: torch.dtype | None = None
    backend: str = option("auto", "what computes the memory step", choices=backend_names)
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "input_size",
            "hidden_size",
            "num_layers",
            "num_cells",
            "cell_size",
            "num_read_heads",
            "num_write_heads",
            "link_fan_out",
        ):
            check_integer(name, getattr(self, name), minimum=1)
        for name in ("output_size", "checkpoint_interval"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), minimum=1)
        flags = "bias", "batch_first", "bidirectional", "bidirectional_controller", "interface_norm"
        for name in (*flags, "cuda_graphs"):
            check_flag(name, getattr(self, name))
        for name in ("dropout", "bypass_dropout"):
            check_number(name, getattr(self, name), 0.0, 1.0)
        for name in ("activation_clip", "value_clip"):
            if getattr(self, name) is not None:
                check_number(name, getattr(self, name), 0.0, above=True)
        self._check_controller()
        check_choice("linkage", self.linkage, LINKAGES)
        sparse = self.linkage == "sparse" and self.link_threshold is None
        if sparse and self.link_fan_out == 1 and not self.link_unit_sums:
            raise ValueError(
                "link_threshold must be given with link_fan_out=1, got None, which is 1 / K = 1: "
                "no link is that strong; give a smaller one or a larger link_fan_out"
            )
        for name in ("state_dtype", "checkpoint_dtype"):
            dtype = getattr(self, name)
            if dtype is not None and dtype not in STATE_DTYPES:
                raise ValueError(f"{name} must be None or one of {STATE_DTYPES}, got {dtype!r}")
        check_choice("backend", self.backend, backend_names())

    def _check_controller(self) -> None:
        if isinstance(self.controller, str):
            check_choice("controller", self.controller, CONTROLLERS)
        elif not callable(self.controller):
            raise TypeError(
                f"controller must be one of {tuple(CONTROLLERS)}, a module, or a function from the "
                f"input size to a module, got {self.controller!r}"
            )
        elif isinstance(self.controller, nn.Module):
            for name in ("bidirectional", "bidirectional_controller"):
                if getattr(self, name):
                    raise ValueError(
                        f"controller must be a name or a function when {name}=True, because each "
                        "direction needs its own controller; got one module"
                    )
        check_number("input_gain", self.input_gain, 0.0, above=True)
        if self.input_gain != 1 and not isinstance(self.controller, str):
            raise ValueError(
                "input_gain must be 1 with a controller of your own, which sets its own weights; "
                f"got {self.input_gain}"
            )

    @property
    def read_size(self) -> int:
        """Total length of a step's read vectors, R W."""
        return self.num_read_heads * self.cell_size

    @property
    def interface_size(self) -> int:
        """Length of a step's raw interface vector."""
        return self.interface_length(self.cell_size, self.num_read_heads, self.num_write_heads)

    def make_controller(self, input_size: int, **where: Any) -> Any:
        """A controller for inputs of this size, on a `device` and in a `dtype`."""
        if isinstance(self.controller, str):
            clips = self.activation_clip, self.value_clip
            options = self.num_layers, self.bias, self.dropout, *clips
            kind = CONTROLLERS[self.controller]
            return check_controller(kind(input_size, self.hidden_size, *options, **where))
        if isinstance(self.controller, nn.Module):
            return check_controller(self.controller)
        return check_controller(self.controller(input_size))

    def memory_sizes(self, batch_size: int, num_cells: int | None = None) -> MemorySizes:
        """The sizes of the memory; `num_cells`, if given, replaces the model's own."""
        return MemorySizes(
            batch_size,
            self.num_cells if num_cells is None else num_cells,
            self.cell_size,
            self.num_read_heads,
            self.num_write_heads,
        )

    @property
    def in_place(self) -> bool:
        """Whether each step changes few cells, in place in a single memory."""
        few = self.write_topk is not None and not self.deallocate
        return few and not LINKAGES[self.linkage].is_matrix

    def idle_options(self) -> list[str]:
        """A sentence for each option that is set but has no effect."""
        found = []
        if self.dropout and self.num_layers == 1:
            found.append(
                "dropout acts between controller layers, so it has no effect with num_layers=1; "
                f"got dropout={self.dropout}"
            )
        if not isinstance(self.controller, str):
            for name in ("num_layers", "dropout", "activation_clip", "input_gain"):
                if getattr(self, name) != getattr(DNCConfig, name):
                    found.append(
                        f"{name} is an option of the built-in controllers, so it has no effect "
                        f"with a controller of your own; got {name}={getattr(self, name)}"
                    )
        for name, (of, kind) in OF_ONE_KIND.items():
            value, default = getattr(self, name), DNCConfig.__dataclass_fields__[name].default
            if value != default and getattr(self, of) != kind:
                found.append(
                    f"{name} is an option of {of}={_quoted(kind)}, so it has no effect with "
                    f"{of}={_quoted(getattr(self, of))}; got {name}={value}"
                )
        if self.link_sharpness and self.linkage == "none":
            found.append(
                "link_sharpness sharpens what is linked in time, so it has no effect with "
                f'linkage="none"; got link_sharpness={self.link_sharpness}'
            )
        return found

    def warn_of_idle_options(self) -> None:
        """Warn about options without effect, at the line of the caller's caller."""
        for sentence in self.idle_options():
            warnings.warn(sentence, stacklevel=3)


def _quoted(value: object) -> str:
    """An option's value as it is written in Python."""
    return f'"{value}"' if isinstance(value, str) else repr(value)


OPTION_NAMES = sorted(
    (one.name for one in fields(DNCConfig)), key=StepOptions.__dataclass_fields__.__contains__
)
"""As they are shown: the model's own options, then those of its memory steps."""


def describe(config: DNCConfig) -> str:
    """The sizes and the non-default options, for a module's repr."""
    shown = [f"{config.input_size}, {config.hidden_size}"]
    defaults = DNCConfig.__dataclass_fields__
    for name in OPTION_NAMES:
        value = getattr(config, name)
        changed = name not in ("input_size", "hidden_size") and value != defaults[name].default
        if changed or name in ("num_cells", "cell_size", "num_read_heads"):
            shown.append(f"{name}={value!r}")
    return ", ".join(shown)
