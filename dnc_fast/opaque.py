"""What torch.compile and torch.export record as one operation.

They cannot look into compiled kernels, nor into what a forward pass keeps for its backward pass.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from .kernels.gpu.ops import refuse_second_gradient
from .untraced import constant

Function = Callable[[list[Tensor], str], list[Tensor]]
"""Maps tensors, and a text that says what to do, to tensors."""


def is_traced() -> bool:
    """Whether torch.compile or torch.export records operations, to be run later."""
    return torch.compiler.is_compiling()


@constant  # torch.compile of torch 2.11 would trace it to a yes, whoever asks
def is_exported() -> bool:
    """Whether torch.export (or torch.onnx) records them, for use elsewhere."""
    if hasattr(torch.compiler, "is_exporting"):
        return torch.compiler.is_exporting()
    # Before torch 2.7; with strict=True it exports what torch.compile records, and cannot be told.
    return torch.compiler.is_compiling()


def refuse_jit_trace() -> None:
    """Raise if torch.jit.trace is at work, which makes tensors of all sizes."""
    if torch.jit.is_tracing():
        raise RuntimeError(
            "torch.jit.trace (and torch.onnx.export with dynamo=False) cannot follow a DNC; export "
            "it first: torch.jit.trace(torch.export.export(model, args).module(), args)"
        )


def refuse_jit_script(module: Any) -> Any:
    """Raise: for `__prepare_scriptable__`, which torch.jit.script calls."""
    raise RuntimeError(
        f"torch.jit.script cannot compile a {type(module).__name__}; torch.export can, and then "
        "torch.jit.trace(torch.export.export(model, args).module(), args)"
    )


def as_one_operation(name: str, function: Function, fake: Function) -> Function:
    """A function that is recorded as one operation, `torch.ops.dnc_fast.<name>`.

    From its forward to its backward pass, the operation holds autograd's graph of the function.

    Args:
        name: of the operation; its gradient's is <name>_backward.
        function: what it does: differentiable once, draws no random numbers.
        fake: gives tensors of the same shapes and dtypes, without data.
    """

    def forward(given: list[Tensor], text: str, keep: bool) -> list[Tensor]:
        held: Any = given[0].new_zeros(1, dtype=torch.uint8)
        graph = _Graph(function, given, text, keep)
        if keep:
            held.graph = graph  # it lives as long as this tensor, which autograd saves
        return [*map(_copied, graph.results), held]

    def backward(
        gradients: list[Tensor | None], given: list[Tensor], held: Any, text: str
    ) -> list[Tensor]:
        graph = held.__dict__.pop("graph", None)
        if graph is None:  # it was not kept, or an earlier backward pass used it up
            graph = _Graph(function, given, text, keep=True)
        return [*map(_copied, graph.backward(gradients))]

    def fake_forward(given: list[Tensor], text: str, keep: bool) -> list[Tensor]:
        return [*fake(given, text), given[0].new_empty(1, dtype=torch.uint8)]

    def fake_backward(gradients: Any, given: list[Tensor], held: Tensor, text: str) -> list[Tensor]:
        whole = torch.contiguous_format
        return [torch.empty_like(one, memory_format=whole) for one in _floats(given)]

    def setup_context(ctx: Any, inputs: Any, output: list[Tensor]) -> None:
        given, ctx.text, _ = inputs
        ctx.save_for_backward(*given, output[-1])

    def through(ctx: Any, gradients: list[Tensor | None]) -> Any:
        *given, held = ctx.saved_tensors
        found = iter(of_gradient(gradients[:-1], given, held, ctx.text))
        return [next(found) if one.is_floating_point() else None for one in given], None, None

    operation = _define(name, "(Tensor[] given, str text, bool keep) -> Tensor[]", forward)
    operation.register_fake(fake_forward)
    operation.register_autograd(through, setup_context=setup_context)
    of_gradient = _define(
        f"{name}_backward",
        "(Tensor?[] gradients, Tensor[] given, Tensor held, str text) -> Tensor[]",
        backward,
    )
    of_gradient.register_fake(fake_backward)
    refuse_second_gradient(of_gradient)

    def call(given: list[Tensor], text: str) -> list[Tensor]:
        keep = torch.is_grad_enabled() and any([one.requires_grad for one in given])
        can_hold = not is_exported() and (HOLDS_ON_CUDA or given[0].device.type != "cuda")
        return operation(given, text, keep and can_hold)[:-1]

    return call


HOLDS_ON_CUDA = (
    hasattr(torch.Tag, "cudagraph_unsafe")
    and "tags" in inspect.signature(torch.library.custom_op).parameters
)
"""Whether torch can be told to leave an operation out of its CUDA graphs, which know nothing of
what it holds. Otherwise it holds nothing on a CUDA device, and repeats the forward pass."""


def _define(name: str, schema: str, function: Callable[..., Any]) -> Any:
    tags: Any = {"tags": [torch.Tag.cudagraph_unsafe]} if HOLDS_ON_CUDA else {}
    name = f"dnc_fast::{name}"
    return torch.library.custom_op(name, function, mutates_args=(), schema=schema, **tags)


class _Graph:
    """The results of a function, and autograd's graph of them if it is to be kept."""

    def __init__(self, function: Function, given: list[Tensor], text: str, keep: bool) -> None:
        # Copies: torch.compile may use the memory of what it gives, or gets, for something else.
        self.leaves = [one.detach().clone() if keep else one.detach() for one in given]
        for leaf in _floats(self.leaves):
            leaf.requires_grad_(keep)
        with _differentiated(keep):
            self.results = function(self.leaves, text)

    def backward(self, gradients: list[Tensor | None]) -> tuple[Tensor, ...]:
        """The gradients of all floats that were given, from those of the results."""
        known = [
            (result, gradient)
            for result, gradient in zip(self.results, gradients, strict=True)
            if result.requires_grad and gradient is not None
        ]
        results, given = zip(*known, strict=True)
        with _differentiated(False):
            leaves = [*_floats(self.leaves)]
            return torch.autograd.grad(results, leaves, given, materialize_grads=True)


@contextmanager
def _differentiated(keep: bool) -> Iterator[None]:
    """Within an operation: autograd is at work again, as it is outside; it records if `keep`."""
    key, guard = torch._C.DispatchKey, torch._C._SetExcludeDispatchKeyGuard
    with (
        guard(key.AutogradFunctionality, False),
        guard(key.ADInplaceOrView, False),
        torch.set_grad_enabled(keep),
    ):
        yield


def _floats(tensors: list[Tensor]) -> Iterator[Tensor]:
    return (one for one in tensors if one.is_floating_point())


def _copied(tensor: Tensor) -> Tensor:
    """A result that shares no memory with anything."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)
