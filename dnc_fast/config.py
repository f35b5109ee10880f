"""Every size and option of a DNC, checked once, here."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import nn

from .backends import BACKENDS
from .checks import check_choice, check_flag, check_integer, check_number
from .controllers import CONTROLLERS
from .interface import interface_size
from .links import LINKAGES
from .reference import USAGE_ORDERS, StepOptions

STATE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True, kw_only=True)
class DNCConfig:
    """The options of `DNC` and `DNCCell`; see `DNC` for what each means."""

    input_size: int
    hidden_size: int = field(metadata={"help": "size of each controller layer"})
    num_layers: int = field(default=1, metadata={"help": "controller layers"})
    bias: bool = True
    batch_first: bool = False
    dropout: float = field(default=0.0, metadata={"help": "dropout between controller layers"})
    bidirectional: bool = False
    num_cells: int = field(default=64, metadata={"help": "memory cells"})
    cell_size: int = field(default=32, metadata={"help": "size of a memory cell"})
    num_read_heads: int = field(default=4, metadata={"help": "read heads"})
    num_write_heads: int = field(default=1, metadata={"help": "write heads"})
    output_size: int | None = None
    controller: str | nn.Module | Callable[[int], nn.Module] = field(
        default="lstm", metadata={"choices": tuple(CONTROLLERS), "help": "controller"}
    )
    activation_clip: float | None = field(
        default=None, metadata={"help": "clip gradients of controller activations to this"}
    )
    input_gain: float = field(
        default=1.0, metadata={"help": "initial controller weights of the inputs, times this"}
    )
    usage_order: str = field(
        default="exact",
        metadata={"choices": USAGE_ORDERS, "help": "how cells are ordered for allocation"},
    )
    linkage: str = field(
        default="dense", metadata={"choices": LINKAGES, "help": "how writes are linked in time"}
    )
    link_fan_out: int = field(
        default=8, metadata={"help": "entries in each row of a sparse link matrix"}
    )
    link_threshold: float | None = field(
        default=None,
        metadata={"help": "entries of a sparse link matrix below it are dropped (default: 1 / K)"},
    )
    link_unit_sums: bool = False
    link_history: int = field(
        default=1024, metadata={"help": "writes that a separable linkage holds at most"}
    )
    read_topk: int | None = field(
        default=None, metadata={"help": "keep only so many entries of a read weighting"}
    )
    write_topk: int | None = field(
        default=None, metadata={"help": "keep only so many entries of a write weighting"}
    )
    state_dtype: torch.dtype | None = None
    checkpoint_interval: int | None = None
    checkpoint_dtype: torch.dtype | None = None
    backend: str = field(
        default="auto", metadata={"choices": BACKENDS, "help": "what computes the memory step"}
    )
    cuda_graphs: bool = True

    def __post_init__(self) -> None:
        for name in (
            "input_size",
            "hidden_size",
            "num_layers",
            "num_cells",
            "cell_size",
            "num_read_heads",
            "num_write_heads",
            "link_fan_out",
            "link_history",
        ):
            check_integer(name, getattr(self, name), minimum=1)
        for name in ("output_size", "checkpoint_interval", "read_topk", "write_topk"):
            if getattr(self, name) is not None:
                check_integer(name, getattr(self, name), minimum=1)
        for name in ("bias", "batch_first", "bidirectional", "link_unit_sums", "cuda_graphs"):
            check_flag(name, getattr(self, name))
        check_number("dropout", self.dropout, 0.0, 1.0)
        if self.dropout and self.num_layers == 1:
            warnings.warn(
                "dropout acts between controller layers, so it does nothing with num_layers=1; "
                f"got dropout={self.dropout}",
                stacklevel=4,
            )
        if self.activation_clip is not None:
            check_number("activation_clip", self.activation_clip, 0.0, above=True)
        if isinstance(self.controller, str):
            check_choice("controller", self.controller, CONTROLLERS)
        elif not callable(self.controller):
            raise TypeError(
                f"controller must be one of {tuple(CONTROLLERS)}, a module, or a function from the "
                f"input size to a module, got {self.controller!r}"
            )
        elif isinstance(self.controller, nn.Module) and self.bidirectional:
            raise ValueError(
                "controller must be a name or a function when bidirectional=True, because each "
                "direction has a controller of its own; got one module"
            )
        check_number("input_gain", self.input_gain, 0.0, above=True)
        if self.input_gain != 1 and not isinstance(self.controller, str):
            raise ValueError(
                "input_gain must be 1 with a controller of your own, which draws its own weights; "
                f"got {self.input_gain}"
            )
        check_choice("usage_order", self.usage_order, USAGE_ORDERS)
        check_choice("linkage", self.linkage, LINKAGES)
        if self.link_threshold is not None:
            check_number("link_threshold", self.link_threshold, 0.0, 1.0)
        elif self.linkage == "sparse" and self.link_fan_out == 1 and not self.link_unit_sums:
            raise ValueError(
                "link_threshold must be given with link_fan_out=1, got None, so 1 / K = 1: no "
                "link is that strong; give a smaller one, or a larger link_fan_out"
            )
        for name in ("state_dtype", "checkpoint_dtype"):
            dtype = getattr(self, name)
            if dtype is not None and dtype not in STATE_DTYPES:
                raise ValueError(f"{name} must be None or one of {STATE_DTYPES}, got {dtype!r}")
        check_choice("backend", self.backend, BACKENDS)

    @property
    def read_size(self) -> int:
        """Length of all read vectors of a step together, R W."""
        return self.num_read_heads * self.cell_size

    @property
    def interface_size(self) -> int:
        """Length of the raw interface vector of a step."""
        return interface_size(self.cell_size, self.num_read_heads, self.num_write_heads)

    @property
    def dense_and_cut(self) -> bool:
        """Whether links are dense and weightings cut, for which there is autograd alone."""
        return self.linkage == "dense" and self.step_options.sparse_weightings

    @property
    def in_place(self) -> bool:
        """Whether steps write to few cells, in one memory for all of them."""
        return self.linkage != "dense" and self.write_topk is not None

    @property
    def step_options(self) -> StepOptions:
        """The options of a memory step."""
        return StepOptions(
            usage_order=self.usage_order,
            read_topk=self.read_topk,
            write_topk=self.write_topk,
            link_threshold=self.link_threshold,
            link_unit_sums=self.link_unit_sums,
            link_history=self.link_history,
        )
