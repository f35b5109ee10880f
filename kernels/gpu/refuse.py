"""What the ops of the kernels cannot do, said clearly."""

from __future__ import annotations

from typing import Any

from torch.library import CustomOpDef


def second_gradient(backward: CustomOpDef) -> None:
    """Make it an error to record an op that is a gradient, to differentiate it again."""
    backward.register_autograd(_refuse, setup_context=_refuse)


def _refuse(*arguments: Any, **named: Any) -> None:
    raise RuntimeError(
        "gradients of kernels cannot be differentiated again (create_graph=True); "
        'backend="reference" can do that'
    )
