"""What is measured: the parts of a memory step, the whole of it, and a model over a sequence.

A case is an op at a size by a provider; `work` makes it callable, with the same numbers for all
providers and in each dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dnc_fast import DNCState, MemoryState, functional, memory_step, reference
from dnc_fast.interface import interface_size
from dnc_fast.state import MemorySizes, memory_state_shapes

from . import providers
from .providers import Provider
from .sizes import Size

PARTS = ("content", "allocation", "linkage")
OPS = (*PARTS, "memory_step", "model")
PASSES = ("forward", "forward+backward")
"""Forward is without gradients. Of a model the two are an inference and a training step."""

TITLES = {
    ("model", "forward"): "inference step",
    ("model", "forward+backward"): "training step",
    ("memory_step", "forward"): "memory step, forward",
    ("memory_step", "forward+backward"): "memory step, forward and backward",
    **{
        (part, passes): f"{part}{' weighting' * (part != 'linkage')}, {words}"
        for part in PARTS
        for passes, words in zip(PASSES, ("forward", "forward and backward"), strict=True)
    },
}
"""What an op and its passes are called."""


class Case(NamedTuple):
    """op and passes: of `OPS` and `PASSES`; device: "cpu" or "cuda"."""

    op: str
    passes: str
    size: Size
    provider: Provider
    device: str


class Work(NamedTuple):
    """A case that can be called. outputs: calculates them; leaves: what gradients are of."""

    outputs: Callable[[], Sequence[Tensor]]
    leaves: dict[str, Tensor]
    half: bool = False

    def run(self, passes: str) -> Sequence[Tensor]:
        """A forward pass, and one back from random gradients if asked for, cleared before."""
        if passes == "forward":
            with torch.no_grad():
                return self._forward()
        for leaf in self.leaves.values():
            leaf.grad = None
        outputs = self._forward()
        torch.autograd.backward(outputs, [cotangent(output) for output in outputs])
        return outputs

    def _forward(self) -> Sequence[Tensor]:
        if not self.half:
            return self.outputs()
        with torch.autocast(next(iter(self.leaves.values())).device.type, torch.bfloat16):
            return self.outputs()


_cotangents: dict[tuple[Any, ...], Tensor] = {}


def cotangent(output: Tensor) -> Tensor:
    """The gradient of an output: random, but always the same for a shape."""
    key = (tuple(output.shape), output.dtype, output.device)
    if key not in _cotangents:
        generator = torch.Generator().manual_seed(1)
        drawn = torch.randn(output.shape, generator=generator)
        _cotangents[key] = drawn.to(output.dtype).to(output.device)
    return _cotangents[key]


def release() -> None:
    """Forget the gradients of outputs, which a peak must not count."""
    _cotangents.clear()


def takes_part(provider: Provider, op: str) -> bool:
    """Whether a provider has an op; backends without parts of their own have the whole step."""
    if op == "model":
        return True
    if provider.steps_only:
        return False
    if op == "memory_step" or provider.kind == "compiled":
        return True
    return provider.kind == "ours" and provider.backend in functional.BACKENDS


def memory_sizes(size: Size) -> MemorySizes:
    return MemorySizes(size.B, size.N, size.W, size.R, 1)


def random_state(sizes: MemorySizes) -> MemoryState:
    """A memory in the middle of a run, float32 on the CPU, its usages apart.

    Apart, for where two usages are as good as equal their order, and with it the results, would
    depend on rounding.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    shapes = memory_state_shapes(sizes)
    B, N = shapes["usage"]
    fields = {name: draw(*shape) / N for name, shape in shapes.items()}
    fields["memory"] = draw(*shapes["memory"]) - 0.5
    fields["usage"] = (draw(B, N).argsort(-1) + 0.5) / N
    fields["link"].diagonal(dim1=-2, dim2=-1).zero_()
    return MemoryState(**fields)


def normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2))


def part_inputs(op: str, size: Size) -> dict[str, Tensor]:
    """The arguments of an op that is no model, by name; float32 on the CPU."""
    B, _, _, W, R, _, _ = size
    state = random_state(memory_sizes(size))
    if op == "content":
        strengths = 1 + torch.rand(B, R, generator=torch.Generator().manual_seed(3))
        return {"keys": normal(B, R, W), "strengths": strengths, "memory": state.memory}
    if op == "allocation":
        return {"usage": state.usage}
    if op == "linkage":
        fields = ("link", "precedence", "write_weights", "read_weights")
        return {field: getattr(state, field) for field in fields}
    return {"interface": normal(B, interface_size(W, R, 1)), **state._asdict()}


def part_function(provider: Provider, op: str, device: str) -> Callable[..., Sequence[Tensor]]:
    """What calculates an op from its arguments in order."""
    function: Callable[..., Any]
    if op == "memory_step":
        if provider.kind == "peer":
            return peer_memory_step

        def function(vector: Tensor, *state: Tensor) -> Sequence[Tensor]:
            options = {"backend": "reference"} | provider.options
            reads, new = memory_step(vector, MemoryState(*state), **options)
            return reads, *new

    elif provider.backend == "reference":
        function = {
            "content": lambda *given: (reference.content_weighting(*given),),
            "allocation": lambda usage: (reference.allocation_weighting(usage),),
            "linkage": reference_linkage,
        }[op]
    else:
        called = {
            "content": functional.content_weighting,
            "allocation": functional.allocation_weighting,
            "linkage": functional.linkage,
        }[op]

        def function(*given: Tensor) -> Sequence[Tensor]:
            results = called(*given, **provider.options)
            return results if isinstance(results, tuple) else (results,)

    return providers.compiled(function, device) if provider.kind == "compiled" else function


def reference_linkage(
    link: Tensor, precedence: Tensor, write_weights: Tensor, read_weights: Tensor
) -> Sequence[Tensor]:
    """The reference of `functional.linkage`, without its checks."""
    link = reference.update_link(link, precedence, write_weights)
    new_precedence = reference.update_precedence(precedence, write_weights)
    return link, new_precedence, *reference.directional_weightings(link, read_weights)


def peer_memory_step(vector: Tensor, *state: Tensor) -> Sequence[Tensor]:
    """The memory step of the package `dnc`, without the linear layer before it."""
    from dnc.memory import Memory

    memory, usage, precedence, link, write_weights, read_weights = state
    (_, N, W), R = memory.shape, read_weights.shape[1]
    gpu = 0 if vector.device.type == "cuda" else -1
    module = Memory(1, N, W, R, gpu, independent_linears=False)
    module.interface_weights = torch.nn.Identity()
    module.I = 1 - torch.eye(N, device=vector.device).unsqueeze(0)
    hidden = {
        "memory": memory,
        "usage_vector": usage,
        "precedence": precedence,
        "link_matrix": link,
        "write_weights": write_weights,
        "read_weights": read_weights,
    }
    reads, hidden = module(vector, hidden)
    return reads, *hidden.values()


def work(case: Case, dtype: torch.dtype = torch.float32, in_the_middle: bool = False) -> Work:
    """A case made callable. in_the_middle: a model starts from a state in the middle of a run."""
    provider, size, device = case.provider, case.size, torch.device(case.device)
    if case.op == "model":
        model = providers.build(provider, size, case.device).to(dtype)
        x = normal(size.T, size.B, size.X).to(dtype).to(device)
        state = None
        if in_the_middle:
            memory = random_state(memory_sizes(size)).to(dtype).to(device)
            state = DNCState(None, memory, None)
        return Work(
            lambda: [model(x, state)[0].to(dtype)], dict(model.named_parameters()), provider.half
        )
    leaves = {
        name: tensor.to(dtype).to(device).requires_grad_()
        for name, tensor in part_inputs(case.op, size).items()
    }
    function = part_function(provider, case.op, case.device)
    return Work(lambda: function(*leaves.values()), leaves)


def truth(case: Case) -> Case:
    """The reference of a case, with the same options but for those of the engine."""
    options = case.provider.options | {"backend": "reference"}
    options.pop("cuda_graphs", None)
    return case._replace(provider=Provider("truth", options))


def least_bytes(op: str, passes: str, size: Size) -> int:
    """Bytes that must move at the least, each argument and result once, in float32.

    Back: arguments again, gradients of results in, gradients of arguments out. Of a model, the
    memory steps alone; a share of a bandwidth above 100 % says that caches hold the state.
    """
    if op == "model":
        return size.T * least_bytes("memory_step", passes, size)
    B, _, N, W, R, _, _ = size
    state = B * (N * W + N + N + N * N + N + R * N)
    given, results = {
        "content": (B * (R * W + R + N * W), B * R * N),
        "allocation": (B * N, B * N),
        "linkage": (B * (N * N + 2 * N + R * N), B * (N * N + N + 2 * R * N)),
        "memory_step": (state + B * interface_size(W, R, 1), state + B * R * W),
    }[op]
    backward = 2 * given + results if passes == "forward+backward" else 0
    return 4 * (given + results + backward)
