"""The interface layer of a run: its tensors, and its normalisation with a hand-derived backward."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

layer_norm, layer_norm_backward = (
    torch.ops.aten.native_layer_norm,
    torch.ops.aten.native_layer_norm_backward,
)


class InterfaceForm(NamedTuple):
    """Which tensors an interface layer has besides its weight, see `InterfaceTensors`."""

    bias: bool = True
    ahead: bool = False
    norm: bool = False

    @property
    def size(self) -> int:
        """How many tensors it has."""
        return 1 + self.bias + self.ahead + 2 * self.norm

    @property
    def plain(self) -> bool:
        """Whether it is a linear layer and no more, which kernels know."""
        return not (self.ahead or self.norm)


class InterfaceTensors(NamedTuple):
    """What a run is given of the interface layer; None where it lacks one.

    | field       | shape                                                                        |
    |-------------|------------------------------------------------------------------------------|
    | weight      | (interface size, controller's output size)                                   |
    | bias        | (interface size)                                                             |
    | ahead       | (outputs, interface size), what the controller from the end adds             |
    | gain, shift | (interface size), of the normalisation                                       |
    """

    weight: Tensor
    bias: Tensor | None = None
    ahead: Tensor | None = None
    gain: Tensor | None = None
    shift: Tensor | None = None

    @classmethod
    def of(
        cls, layer: nn.Linear, norm: nn.LayerNorm | None, ahead: Tensor | None
    ) -> InterfaceTensors:
        """From the modules and what the controller from the end has put out, (outputs, size)."""
        weight, bias = layer.weight, layer.bias
        gain, shift = (None, None) if norm is None else (norm.weight, norm.bias)
        if ahead is None:
            return cls(weight, bias, None, gain, shift)
        size = weight.shape[1] - ahead.shape[1]
        added = nn.functional.linear(ahead, weight[:, size:])
        return cls(weight[:, :size], bias, added, gain, shift)

    @classmethod
    def parse(cls, form: InterfaceForm, given: Sequence[Tensor]) -> InterfaceTensors:
        """The inverse of `given`."""
        parts = iter(given)
        others = (form.bias, form.ahead, form.norm, form.norm)
        return cls(next(parts), *(next(parts) if has else None for has in others))

    # Methods, because torch 2.6 cannot compile properties of a named tuple.
    def form(self) -> InterfaceForm:
        """Which tensors it has."""
        return InterfaceForm(*(part is not None for part in (self.bias, self.ahead, self.gain)))

    def given(self) -> list[Tensor]:
        """Those that it has."""
        return [part for part in self if part is not None]


class Normalization:
    """The normalisation of the interface vectors of all steps, in place.

    Args:
        tensors: of the layer, with gain and shift.
        vectors: (step rows, interface size), the raw vectors are put there and normalised.
        keep: whether there will be a backward pass.
    """

    EPSILON = 1e-5  # nn.LayerNorm's

    def __init__(self, tensors: InterfaceTensors, vectors: Tensor, keep: bool) -> None:
        assert tensors.gain is not None and tensors.shift is not None
        self._vectors = vectors
        self._norm = [part.to(vectors.dtype) for part in (tensors.gain, tensors.shift)]
        self._before = torch.empty_like(vectors) if keep else None
        self._d_norm = list(map(torch.empty_like, self._norm))

    def forward(self, rows: slice) -> None:
        """Normalise the vectors of a step."""
        vectors = self._vectors[rows]
        if self._before is not None:
            self._before[rows] = vectors
        vectors.copy_(self._normal(vectors)[0])

    def _normal(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised vectors (b, size), their means and inverse deviations."""
        return layer_norm(vectors, vectors.shape[1:], *self._norm, self.EPSILON)

    def begin_backward(self) -> None:
        """Begin a backward pass."""
        for part in self._d_norm:
            part.zero_()

    def backward(self, rows: slice, d_vectors: Tensor) -> None:
        """Turn gradients of the normalised vectors of a step into those of the raw ones."""
        assert self._before is not None
        vectors = self._before[rows]
        _, mean, rstd = self._normal(vectors)
        d_before, d_gain, d_shift = layer_norm_backward(
            d_vectors, vectors, vectors.shape[1:], mean, rstd, *self._norm, [True, True, True]
        )
        d_vectors.copy_(d_before)
        for part, more in zip(self._d_norm, (d_gain, d_shift), strict=True):
            part.add_(more)

    def gradients(self, tensors: InterfaceTensors) -> list[Tensor | None]:
        """Of gain and shift, in their dtypes."""
        pairs = zip(self._d_norm, (tensors.gain, tensors.shift), strict=True)
        return [d if part is None else d.to(part.dtype) for d, part in pairs]
