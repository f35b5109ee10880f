"""What is measured: each part of a memory step, the whole step, and a model over a sequence.

A case is an op at a size by a provider. `work` makes it callable, with the same input numbers for
every provider and dtype.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dnc_fast import DNCState, MemoryState, functional, memory_step
from dnc_fast.interface import interface_size
from dnc_fast.state import MemorySizes

from . import providers
from .providers import Provider
from .sizes import Size

PARTS = {
    "content": (functional.content_weighting, "content weighting"),
    "allocation": (functional.allocation_weighting, "allocation weighting"),
    "linkage": (functional.linkage, "linkage"),
    "write": (functional.write_memory, "memory write"),
    "read": (functional.read_memory, "memory read"),
}
"""The parts of a memory step: the function of each, and what tables call it."""

OPS = (*PARTS, "memory_step", "model")
PASSES = ("forward", "forward+backward")
"""Forward is without gradients. For a model these are an inference and a training step."""

TITLES = {
    ("model", "forward"): "inference step",
    ("model", "forward+backward"): "training step",
    **{
        (op, passes): f"{title}, {passes.replace('+', ' and ')}"
        for op, title in [*((op, title) for op, (_, title) in PARTS.items()),
                          ("memory_step", "memory step")]
        for passes in PASSES
    },
}  # fmt: skip
"""What tables call an op and its passes."""


class Case(NamedTuple):
    """op and passes: of `OPS` and `PASSES`; device: "cpu" or "cuda"."""

    op: str
    passes: str
    size: Size
    provider: Provider
    device: str


class Work(NamedTuple):
    """A callable case. outputs: computes them; leaves: the tensors that gradients are taken of."""

    outputs: Callable[[], Sequence[Tensor]]
    leaves: dict[str, Tensor]
    half: bool = False

    def run(self, passes: str) -> Sequence[Tensor]:
        """A forward pass and, if asked for, a backward pass from random gradients.

        Gradients of earlier calls are cleared first.
        """
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
        _cotangents[key] = normal(1, *output.shape).to(output.dtype).to(output.device)
    return _cotangents[key]


def release() -> None:
    """Drop the cached gradients of outputs, which must not count towards a peak."""
    _cotangents.clear()


def takes_part(provider: Provider, op: str) -> bool:
    """Whether a provider implements an op."""
    if provider.linkage != "dense":
        return op == "model" and provider.kind == "ours" and not provider.steps_only
    if op == "model":
        return True
    if provider.steps_only:
        return False
    return op == "memory_step" or (provider.checked and provider.backend in functional.BACKENDS)


def memory_sizes(size: Size) -> MemorySizes:
    return MemorySizes(size.B, size.N, size.W, size.R, 1)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_state(sizes: MemorySizes) -> MemoryState:
    """A dense memory as in the middle of a run, in float32 on the CPU, with well separated usages.

    Where two usages are almost equal, their order, and with it the results, would depend on
    rounding.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator)

    zeros = MemoryState.zeros(*sizes)
    B, N = zeros.usage.shape
    fields = {name: draw(*zero.shape) / N for name, zero in zeros._asdict().items()}
    fields["memory"] = draw(*zeros.memory.shape) - 0.5
    fields["usage"] = (draw(B, N).argsort(-1) + 0.5) / N
    fields["link"].diagonal(dim1=-2, dim2=-1).zero_()
    return MemoryState(**fields)


def inputs_of(op: str, size: Size) -> dict[str, Tensor]:
    """The arguments of an op other than "model", by name; in float32 on the CPU."""
    B, _, _, W, R, _, _ = size
    state = random_state(memory_sizes(size))._asdict()

    def fields(*names: str) -> dict[str, Tensor]:
        return {name: state[name] for name in names}

    if op == "content":
        strengths = 1 + torch.rand(B, R, generator=torch.Generator().manual_seed(3))
        return {"keys": normal(2, B, R, W), "strengths": strengths, **fields("memory")}
    if op == "allocation":
        return fields("usage")
    if op == "linkage":
        return fields("link", "precedence", "write_weights", "read_weights")
    if op == "write":
        vectors = {"erase": normal(2, B, 1, W).sigmoid(), "write": normal(3, B, 1, W)}
        return fields("memory", "write_weights") | vectors
    if op == "read":
        return fields("memory", "read_weights")
    return {"interface": normal(2, B, interface_size(W, R, 1)), **state}


def function_of(provider: Provider, op: str, device: str) -> Callable[..., Sequence[Tensor]]:
    """The function that computes an op from its arguments, in their order."""
    function: Callable[..., Any]
    if op == "memory_step":
        if provider.kind == "peer":
            return peer_memory_step

        def function(vector: Tensor, *state: Tensor) -> Sequence[Tensor]:
            options = {"backend": "reference"} | provider.options
            reads, new = memory_step(vector, MemoryState(*state), **options)
            return reads, *new

    else:
        called, _ = PARTS[op]

        def function(*given: Tensor) -> Sequence[Tensor]:
            results = called(*given, backend=provider.backend)
            return results if isinstance(results, tuple) else (results,)

    return providers.compiled(function, device) if provider.kind == "compiled" else function


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


def work(
    case: Case, dtype: torch.dtype = torch.float32, in_the_middle: bool = False,
    keep_state: bool = False,
) -> Work:  # fmt: skip
    """Make a case callable.

    in_the_middle: a model starts from a random state instead of zeros; the links of a linkage that
        is not dense start empty.
    keep_state: a model's final state is held until the next call, as by a user who carries it on.
    """
    provider, size, device = case.provider, case.size, torch.device(case.device)
    if case.op == "model":
        model = providers.build(provider, size, case.device).to(dtype)
        x = normal(2, size.T, size.B, size.X).to(dtype).to(device)
        state = None
        if in_the_middle:
            memory = random_state(memory_sizes(size)).to(dtype).to(device)
            if provider.options.get("linkage", "dense") != "dense":
                memory = memory._replace(link=model.zero_state(size.B).memory.link)
            state = DNCState(None, memory, None)
        held: list[Any] = []

        def outputs() -> list[Tensor]:
            held.clear()
            output, final = model(x, state)
            if keep_state:
                held.append(final)
            return [output.to(dtype)]

        return Work(outputs, dict(model.named_parameters()), provider.half)
    leaves = {
        name: tensor.to(dtype).to(device).requires_grad_()
        for name, tensor in inputs_of(case.op, size).items()
    }
    function = function_of(provider, case.op, case.device)
    return Work(lambda: function(*leaves.values()), leaves)


def truth(case: Case) -> Case:
    """The same case by the reference, with every option that changes results."""
    options = case.provider.options | {"backend": "reference"}
    options.pop("cuda_graphs", None)
    return case._replace(provider=Provider("truth", options))


def least_bytes(op: str, passes: str, size: Size) -> int:
    """The fewest bytes that an op must move: each argument and result once, in float32.

    A backward pass reads the arguments again and the gradients of results, and writes the gradients
    of arguments. For a model, only its memory steps count. If this makes more than 100 % of the
    bandwidth of a copy, the state stays in caches.
    """
    if op == "model":
        return size.T * least_bytes("memory_step", passes, size)
    B, _, N, W, R, _, _ = size
    state = N * W + N * N + 3 * N + R * N
    given, results = {
        "content": (R * W + R + N * W, R * N),
        "allocation": (N, N),
        "linkage": (N * N + 2 * N + R * N, N * N + N + 2 * R * N),
        "write": (N * W + N + 2 * W, N * W),
        "read": (N * W + R * N, R * W),
        "memory_step": (state + interface_size(W, R, 1), state + R * W),
    }[op]
    backward = 2 * given + results if passes == "forward+backward" else 0
    return 4 * B * (given + results + backward)
