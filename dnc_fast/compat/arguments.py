"""The constructors' arguments, in the order of `dnc` 1.1.0, and the models that they describe."""

from __future__ import annotations

import warnings
from dataclasses import KW_ONLY, dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import torch

from ..checks import check_choice, check_flag, check_integer, check_number
from ..config import DNCConfig
from .controllers import ClippedController

RNN_TYPES = ("lstm", "gru", "rnn")
SIZES = ("num_layers", "num_hidden_layers", "nr_cells", "read_heads", "cell_size")


@dataclass(frozen=True)
class First:
    """The arguments up to the number of cells."""

    input_size: int
    hidden_size: int
    rnn_type: str = "lstm"
    num_layers: int = 1
    num_hidden_layers: int = 2
    bias: bool = True
    batch_first: bool = True
    dropout: float = 0
    bidirectional: bool = False
    nr_cells: int = 5


@dataclass(frozen=True)
class Last:
    """The arguments from the number of read heads on; by name alone, those of pytorch-dnc 2.0."""

    read_heads: int = 2
    cell_size: int = 10
    nonlinearity: str = "tanh"
    gpu_id: int = -1
    independent_linears: bool = False
    share_memory: bool = True
    debug: bool = False
    clip: float = 20
    _: KW_ONLY
    share_memory_between_layers: bool | None = None
    device: torch.device | str | None = None


@dataclass(frozen=True)
class DNCArguments(Last, First):  # the fields of the last base come first
    """The arguments of `DNC`, which documents them.

    Raises:
        TypeError, ValueError: a value is invalid.
    """

    def __post_init__(self) -> None:
        if not isinstance(self.bidirectional, bool):
            raise TypeError(
                f"bidirectional must be False, got {self.bidirectional!r}; pytorch-dnc 2.0 does "
                "not have it, so give nr_cells and what follows by name"
            )
        if self.bidirectional:
            raise ValueError(
                "bidirectional must be False, got True, which pytorch-dnc accepts and ignores; "
                "dnc_fast.DNC(..., bidirectional=True) has two directions"
            )
        if not isinstance(self.rnn_type, str) or self.rnn_type.lower() not in RNN_TYPES:
            raise ValueError(f"rnn_type must be one of {RNN_TYPES}, got {self.rnn_type!r}")
        check_choice("nonlinearity", self.nonlinearity, ("tanh", "relu"))
        for name in SIZES:
            check_integer(name, getattr(self, name), minimum=1)
        for name in ("independent_linears", "share_memory", "debug"):
            check_flag(name, getattr(self, name))
        check_number("clip", self.clip, 0.0)
        if self.share_memory_between_layers is not None:
            check_flag("share_memory_between_layers", self.share_memory_between_layers)
        self._check_device()

    def _check_device(self) -> None:
        check_integer("gpu_id", self.gpu_id, minimum=-1)
        if self.gpu_id >= torch.cuda.device_count():
            raise ValueError(
                f"gpu_id must be -1 for the CPU, or below {torch.cuda.device_count()}, the number "
                f"of CUDA devices, got {self.gpu_id}"
            )
        if self.gpu_id >= 0 and self.device is not None:
            raise ValueError(
                "gpu_id must be -1 where device is given, got "
                f"gpu_id={self.gpu_id} and device={self.device!r}"
            )

    @property
    def parameter_device(self) -> torch.device:
        """The device that `device` or `gpu_id` names."""
        if self.device is not None:
            return torch.device(self.device)
        return torch.device("cpu") if self.gpu_id < 0 else torch.device("cuda", self.gpu_id)

    @property
    def one_memory(self) -> bool:
        """Whether all layers share a memory; `share_memory_between_layers` wins if it is given."""
        given = self.share_memory_between_layers
        return self.share_memory if given is None else given

    @property
    def memory_list(self) -> bool:
        """Whether states have a list of memories: several, or as always in pytorch-dnc 2.0."""
        newer = self.share_memory_between_layers is not None or self.device is not None
        return newer or not self.one_memory

    def warn_of_idle_arguments(self) -> None:
        """Warn about arguments without effect, at the line that builds the model."""
        if self.dropout and self.num_hidden_layers == 1:
            warnings.warn(
                "dropout acts between the hidden layers of a controller, so it has no effect with "
                f"num_hidden_layers=1; got dropout={self.dropout}",
                stacklevel=4,
            )
        if self.nonlinearity != "tanh" and self.rnn_type.lower() != "rnn":
            warnings.warn(
                'nonlinearity is an argument of rnn_type="rnn", so it has no effect with '
                f"rnn_type={self.rnn_type!r}; got nonlinearity={self.nonlinearity!r}",
                stacklevel=4,
            )

    def layers(self) -> list[DNCConfig]:
        """The configuration of each layer: X features in, H between layers, X out."""
        sizes = [self.input_size, *[self.hidden_size] * (self.num_layers - 1), self.input_size]
        return [
            DNCConfig(
                input_size,
                self.hidden_size,
                output_size=output_size,
                bias=self.bias,
                num_cells=self.nr_cells,
                cell_size=self.cell_size,
                num_read_heads=self.read_heads,
                **self._controller(),
                **self._linkage(),
            )
            for input_size, output_size in pairwise(sizes)
        ]

    def _controller(self) -> dict[str, Any]:
        """The options of a layer's controller."""
        kind = self.rnn_type.lower()
        options = {"num_layers": self.num_hidden_layers, "dropout": self.dropout}
        relu = kind == "rnn" and self.nonlinearity == "relu"
        if not relu and (self.clip == 0 or self.clip >= 1):  # the outputs are within [-1, 1]
            return {"controller": kind, **options}
        options |= {"hidden_size": self.hidden_size, "bias": self.bias}
        return {
            "controller": partial(
                ClippedController,
                kind="relu" if relu else kind,
                clip=self.clip,
                options=options,
                device=self.parameter_device,
            )
        }

    def _linkage(self) -> dict[str, Any]:
        """The options of a layer's memory, sizes aside."""
        return {"linkage": "dense"}


@dataclass(frozen=True)
class SparseReads:
    """What SAM and SDNC have before the number of read heads."""

    sparse_reads: int = 4


@dataclass(frozen=True)
class SAMArguments(DNCArguments, Last, SparseReads, First):
    """The arguments of `SAM`."""

    nr_cells: int = 5000
    read_heads: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("sparse_reads", self.sparse_reads, minimum=1)

    def _linkage(self) -> dict[str, Any]:
        kept = self.sparse_reads
        return {
            "linkage": "none",
            "read_topk": kept,
            "write_topk": self.read_heads * kept + 1,
        }


@dataclass(frozen=True)
class TemporalReads:
    """The arguments that only SDNC has."""

    temporal_reads: int = 4


@dataclass(frozen=True)
class SDNCArguments(SAMArguments, Last, TemporalReads, SparseReads, First):
    """The arguments of `SDNC`."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_integer("temporal_reads", self.temporal_reads, minimum=1)

    def _linkage(self) -> dict[str, Any]:
        around = 2 * self.temporal_reads  # ahead and behind
        return {
            "linkage": "sparse",
            "read_topk": self.sparse_reads + around,
            "write_topk": self.read_heads * self.sparse_reads + around + 1,
            "link_fan_out": self.temporal_reads,
            "link_threshold": 0.0,
        }
