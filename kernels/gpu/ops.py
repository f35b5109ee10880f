"""How the ops of the kernels get their gradients, and refuse second ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.library import CustomOpDef


def differentiate(
    op: CustomOpDef,
    backward: CustomOpDef,
    saved: Callable[[Any, Any], Any] = lambda inputs, output: inputs,
) -> None:
    """Give an op its gradient.

    Args:
        op: all its inputs are tensors.
        backward: the op of its gradient, given the gradients of the outputs and what was saved.
        saved: the tensors to save, by default the inputs.
    """

    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        ctx.save_for_backward(*saved(inputs, output))

    def through(ctx: Any, *d_output: Tensor) -> Any:
        return backward(*d_output, *ctx.saved_tensors)

    op.register_autograd(through, setup_context=setup_context)
    refuse_second_gradient(backward)


def refuse_second_gradient(backward: CustomOpDef) -> None:
    """Make it an error to record an op that is a gradient, to differentiate it again."""
    backward.register_autograd(_refuse, setup_context=_refuse)


def _refuse(*arguments: Any, **named: Any) -> None:
    raise RuntimeError(
        "gradients of kernels cannot be differentiated again (create_graph=True); "
        'backend="reference" can do that'
    )
