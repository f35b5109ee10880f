"""What the GPU kernels compile to, found without a GPU: `python -m bench.compile_kernels`.

The launchers run on meta tensors at the sizes below, which records their launches and does nothing
else. Each distinct launch is compiled for each target, and what the compiler made is read with the
tools inside of Triton: registers and stack by cuobjdump from an NVIDIA binary, all from the
metadata of an AMD one. One JSON object a line; `--markdown` for tables.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

if os.environ.get("TRITON_INTERPRET", "0") not in {"", "0", "false", "off"}:
    sys.exit("bench.compile_kernels compiles; unset TRITON_INTERPRET, with which Triton does not")

import torch
import triton
from dnc_fast.kernels import gpu
from dnc_fast.kernels.arrays import Adjoint, Step
from dnc_fast.kernels.gpu import launch
from dnc_fast.kernels.gpu.interface import interface_size
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}

ORDERS = ("exact", "robust")

SORTED_FROM = 1024
"""Cells from which sorting is compiled; below, `launch.sorts` asks for a batch of thousands."""

if tuple(map(int, triton.__version__.split(".")[:2])) < (3, 3):
    sys.exit("bench.compile_kernels needs Triton 3.3 or newer")

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


class Size(NamedTuple):
    """B batch, N cells, W cell size, R read heads, Hw write heads."""

    B: int
    N: int
    W: int
    R: int
    Hw: int

    def __str__(self) -> str:
        return ",".join(map(str, self))


POINTERS = {
    torch.float64: "*fp64",
    torch.float32: "*fp32",
    torch.float16: "*fp16",
    torch.bfloat16: "*bf16",
    torch.int64: "*i64",
    torch.int32: "*i32",
    torch.int16: "*i16",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.bool: "*i1",
}
"""Triton's names of pointers."""

SIZES = {
    str(size): size
    for size in (
        Size(16, 16, 16, 1, 1),
        Size(16, 32, 32, 4, 1),
        Size(16, 64, 32, 4, 1),
        Size(32, 64, 64, 4, 1),
        Size(32, 128, 64, 4, 1),
        Size(32, 256, 64, 4, 1),
        Size(8, 1024, 64, 4, 1),
        Size(1, 4096, 64, 4, 1),
        Size(1, 16384, 64, 4, 1),
        Size(16, 64, 32, 4, 2),
        Size(8, 256, 64, 4, 2),
        Size(1, 1 << 16, 64, 4, 1),
        Size(1, 1 << 20, 32, 4, 1),
    )
}

MOST_DENSE, FIRST_COMPOSED = 16384, 1024
"""Cells up to which steps with the dense link matrix are compiled, and from which composed ones."""

FAN_OUT, WRITES = 8, 100
"""Entries of a row of a sparse link, and weights that are kept; writes of a separable link."""

HIDDEN = (100, 256)
"""Hidden units of the LSTM layers; the first are no multiple of what is loaded at once."""


class Call(NamedTuple):
    """Something that launches kernels."""

    name: str
    backward: bool
    function: Callable[..., Any]
    arguments: tuple[Any, ...]


def module(name: str) -> Any:
    """A module of the GPU kernels."""
    return importlib.import_module(f"{gpu.__name__}.{name}")


def meta(dtype: torch.dtype, *shape: int) -> Tensor:
    """A tensor that has no numbers."""
    return torch.empty(shape, dtype=dtype, device="meta")


def op_calls(size: Size, dtype: torch.dtype) -> Iterator[Call]:
    """The custom ops."""
    B, N, W, R, Hw = size

    def function(file: str, name: str, *arguments: Any) -> Call:
        called = getattr(module(file), name)
        # An op of meta tensors makes empty ones; what launches is the function that it was made of.
        called = getattr(called, "_init_fn", called)
        given = [meta(dtype, *one) if isinstance(one, tuple) else one for one in arguments]
        return Call(name, name.endswith("_backward"), called, tuple(given))

    read, written, reads = (B, R, N), (B, Hw, N), (B, R, W)
    look_up = (reads, (B, R), (B, N, W))
    writing = ((B, N, W), written, (B, Hw, W), (B, Hw, W))
    linked = ((B, Hw, N, N), written, written, read)
    ways = ((B, R, Hw, N), (B, R, Hw, N))
    yield function("content", "content_weighting", *look_up)
    yield function("content", "content_weighting_backward", read, read, *look_up)
    yield function("memory", "write_memory", *writing)
    yield function("memory", "write_memory_backward", (B, N, W), *writing)
    yield function("memory", "read_memory", (B, N, W), read)
    yield function("memory", "read_memory_backward", reads, (B, N, W), read)
    yield function("linkage", "linkage", *linked)
    yield function("linkage", "linkage_backward", (B, Hw, N, N), written, *ways, *linked)
    for sort in (False, True) if SORTED_FROM <= N <= launch.SORT_CELLS else (False,):
        yield function("allocation", "allocate", (B, N), False, sort)
        yield function("allocation", "allocate_backward", (B, N), (B, N), (B, N), False, sort)


def step_calls(size: Size, dtype: torch.dtype, orders: Iterable[str]) -> Iterator[Call]:
    """The whole step, with some orders of usages."""
    B, N, W, R, Hw = size
    kernels = module("step")
    state = ((B, N, W), (B, N), (B, Hw, N), (B, Hw, N, N), (B, Hw, N), (B, R, N))
    vector, reads = meta(dtype, B, interface_size(W, R, Hw)), meta(dtype, B, R, W)
    step = Step(vector, *(meta(dtype, *shape) for shape in state for _ in range(2)), reads)
    adjoint = Adjoint(vector, *(meta(dtype, *shape) for shape in state))
    scratch = kernels.make_scratch(*size, dtype, torch.device("meta"))
    for order in orders:
        robust = order == "robust"
        yield Call(f"{order} step", False, kernels.forward, (step, scratch, robust))
        yield Call(f"{order} step", True, kernels.backward, (step, adjoint, scratch, robust))
    yield Call("rebuild", False, kernels.rebuild, (step, scratch, True))


def composed_calls(size: Size, dtype: torch.dtype) -> Iterator[Call]:
    """The parts of a composed step."""
    B, N, W, R, Hw = size
    content, cells = module("content"), module("memory")
    sparse, separable = module("sparse_linkage"), module("separable_linkage")
    rows, read, vectors = meta(dtype, B, N), meta(dtype, B, R, N), meta(dtype, B, R, W)
    memory, strengths = meta(dtype, B, N, W), meta(dtype, B, R)
    found = (read, read, vectors, strengths, memory, memory, True)
    yield Call("look up", False, content.launch_look_up, (vectors, strengths, memory, read))
    yield Call("look up", True, content.launch_look_up_backward, found)
    words = meta(dtype, B, Hw, W)
    writing = (memory, meta(dtype, B, Hw, N), words, words, memory)
    yield Call("write", False, cells.launch_write, writing)
    yield Call("write", True, cells.launch_write_backward, (memory, *writing))
    order, allocation = meta(torch.int64, B, N), module("allocation_in_order")
    given = (rows, rows, order, rows)
    yield Call("allocation in order", False, allocation.allocate, (rows, order))
    yield Call("allocation in order", True, allocation.allocate_backward, given)
    if dtype != torch.float64:
        yield Call("keep largest", False, module("selection").largest_cells, (rows, FAN_OUT))
    link = meta(dtype, B, Hw, N, FAN_OUT), meta(torch.int32, B, Hw, N, FAN_OUT)
    written, marked = meta(dtype, B, Hw, N), meta(torch.int8, B, Hw, N)
    kept = meta(torch.int64, B, Hw, FAN_OUT), meta(dtype, B, Hw, FAN_OUT)
    entry, modes = sparse.Entry(written, marked, *kept, meta(dtype, 1)), meta(dtype, B, R, Hw)
    yield Call("sparse update", False, sparse.touched, (*link, entry))
    yield Call("sparse update", False, sparse.merge, (meta(torch.int64, 100, 3), *link, entry))
    yield Call("sparse products", False, sparse.products, (*link, read))
    yield Call("sparse products", True, sparse.add_backward, (*link, read, read, modes, modes))
    writes, ways = meta(dtype, B, Hw, WRITES, N), meta(dtype, B, Hw, R, N)
    yield Call("separable products", False, separable.products, (writes, writes, read))
    given = (ways, ways, writes, writes, read)
    yield Call("separable products", True, separable.products_backward, given)


def lstm_calls(B: int, dtype: torch.dtype) -> Iterator[Call]:
    """A step of LSTM layers, with products in half precision too."""
    kernels = module("lstm")
    for H in HIDDEN:
        state = meta(dtype, B, H)
        for products in (dtype, torch.bfloat16):
            gates = meta(products, B, 4 * H)
            given, kept = (gates, gates, state), (gates, state, state)
            hidden, clip = meta(products, B, H), 20.0
            yield Call("lstm", False, kernels.forward, (*given, *kept, hidden))
            yield Call("lstm", True, kernels.backward, (*kept, hidden, state, clip, state, gates))


class TorchKernels(TorchDispatchMode):
    """Counts torch's operations that launch a kernel: all but views and empty tensors."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        aliases = [result.alias_info for result in func._schema.returns]
        view = any(alias is not None and not alias.is_write for alias in aliases)
        self.count += not (view or "empty" in func._schema.name)
        return func(*args, **(kwargs or {}))


def recorded(call: Call) -> tuple[list[launch.Launch], int]:
    """The launches of a call, and how many kernels of torch it runs besides."""
    with torch.no_grad(), TorchKernels() as torch_kernels, launch.recorded() as launches:
        call.function(*call.arguments)
    return launches, torch_kernels.count


class Job(NamedTuple):
    """A kernel to compile; equal jobs compile to the same."""

    file: str
    kernel: str
    types: tuple[str, ...]
    known: tuple[str, ...]
    constants: tuple[tuple[str, Any], ...]
    options: tuple[tuple[str, Any], ...]

    def __str__(self) -> str:
        return f"{self.file}.{self.kernel}"


def argument_type(value: Any) -> tuple[str, str]:
    """An argument's type, and what the compiler may know of it, in Triton's letters.

    D: a multiple of 16. S: within 2 GiB, which makes a difference on AMD.
    """
    if isinstance(value, Tensor):
        known = "D" if value.storage_offset() * value.element_size() % 16 == 0 else ""
        within = value.untyped_storage().nbytes() < 2**31
        return POINTERS[value.dtype], known + ("S" if within else "")
    if isinstance(value, int):
        return "i32" if -(2**31) <= value < 2**31 else "i64", "D" if value % 16 == 0 else ""
    raise TypeError(f"a kernel was given {value!r}; teach argument_type what that becomes")


def job_of(found: launch.Launch) -> Job:
    """What a launch has compiled."""
    kernel = found.kernel
    types, known = zip(*map(argument_type, found.arguments), strict=True)
    options = {"num_warps": found.num_warps, "enable_fp_fusion": found.enable_fp_fusion}
    constants = {}
    for name, value in found.constants.items():
        (constants if name in kernel.arg_names else options)[name] = value
    file = kernel.__module__.rpartition(".")[2]
    return Job(
        file, kernel.__name__, types, known, tuple(constants.items()), tuple(options.items())
    )


def compiled(job: Job, target: str) -> Any:
    """A kernel compiled for a target; it comes from Triton's cache where that has it."""
    kernel, machine = getattr(module(job.file), job.kernel), TARGETS[target]
    constants = dict(job.constants)
    signature = dict(zip(kernel.arg_names, job.types, strict=False)) | dict.fromkeys(
        constants, "constexpr"
    )
    parse = make_backend(machine).parse_attr
    attributes = {(place,): parse(known) for place, known in enumerate(job.known)}
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=machine, options=dict(job.options))


def nvidia_figures(binary: bytes, code: bool) -> dict[str, int]:
    """Figures of an NVIDIA binary; its stack holds nothing but what registers do not."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        command = [str(CUOBJDUMP), "-res-usage", *["-sass"] * code, file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    used = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL):(\d+)", text)}
    found = {"registers": used["REG"], "spilled": used["STACK"] + used["LOCAL"]}
    if code:
        names = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z]\w*)", text, re.M)
        found["instructions"] = sum(name != "NOP" for name in names)
        found["spill_instructions"] = sum(name in {"LDL", "STL"} for name in names)
    return found


def amd_figures(assembly: str, code: bool) -> dict[str, int]:
    """Figures of AMD assembly; registers are vector ones."""
    fields = r"\.(vgpr_count|vgpr_spill_count|sgpr_spill_count|private_segment_fixed_size): +(\d+)"
    used = {name: int(number) for name, number in re.findall(fields, assembly)}
    found = {
        "registers": used["vgpr_count"],
        "spilled": used["private_segment_fixed_size"],
        "spilled_registers": used["vgpr_spill_count"] + used["sgpr_spill_count"],
    }
    if code:
        names = re.findall(r"^\t((?:s|v|ds|global|flat|buffer|scratch)_\w+)", assembly, re.M)
        found["instructions"] = sum(name not in {"s_nop", "s_code_end"} for name in names)
        found["spill_instructions"] = sum(name.startswith("scratch_") for name in names)
    return found


def figures(job: Job, target: str, code: bool) -> dict[str, Any]:
    """What a kernel compiles to for a target, its code counted if asked; or why it does not."""
    try:
        binary = compiled(job, target)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if target.startswith("sm_"):
        found = nvidia_figures(binary.asm["cubin"], code)
    else:
        found = amd_figures(binary.asm["amdgcn"], code)
    return {"warps": binary.metadata.num_warps, "shared": binary.metadata.shared, **found}


class Collection(NamedTuple):
    """The distinct jobs with where each is used, and the launches of a step at each size."""

    uses: dict[Job, dict[str, Any]]
    launches: list[dict[str, Any]]


def collect(sizes: Iterable[Size], dtype: torch.dtype, orders: Iterable[str]) -> Collection:
    """Record everything that is called at some sizes, what compiles longest first."""
    uses: dict[Job, dict[str, Any]] = {}
    counts = []
    for size in sizes:
        calls = [lstm_calls(size.B, dtype)]
        if size.N >= FIRST_COMPOSED:
            calls.append(composed_calls(size, dtype))
        if size.N <= MOST_DENSE:
            calls += [step_calls(size, dtype, orders), op_calls(size, dtype)]
        for call in chain(*calls):
            launches, torch_kernels = recorded(call)
            for job in map(job_of, launches):
                use = uses.setdefault(job, {"backward": call.backward, "calls": [], "sizes": []})
                use["backward"] &= call.backward  # a kernel of both is held to the stricter rule
                for field, value in (("calls", call.name), ("sizes", str(size))):
                    if value not in use[field]:
                        use[field].append(value)
            counts.append(
                {
                    "call": call.name,
                    "backward": call.backward,
                    "size": str(size),
                    "launches": len(launches),
                    "torch_kernels": torch_kernels,
                }
            )
    return Collection(uses, counts)


def measured(
    uses: dict[Job, dict[str, Any]], targets: list[str], processes: int, code: bool
) -> Iterator[dict[str, Any]]:
    """A record of each job for each target, as they are done."""
    work = [(job, target) for job in uses for target in targets]
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(processes, context) as pool:
        jobs = zip(*work, strict=True)
        found = pool.map(figures, *jobs, [code] * len(work)) if work else ()
        for (job, target), result in zip(work, found, strict=True):
            constants = {name: value_of(value) for name, value in job.constants}
            yield {
                "kernel": str(job), "target": target, **uses[job], "constants": constants, **result
            }  # fmt: skip


def value_of(constant: Any) -> Any:
    """A constant as JSON takes it."""
    return constant if isinstance(constant, (bool, int, float, type(None))) else str(constant)


FIGURES = {
    "registers": "registers of a thread",
    "spilled": "bytes of a thread in local memory (spills)",
    "shared": "bytes of shared memory",
    "instructions": "machine instructions",
}


def worst(records: list[dict[str, Any]]) -> str:
    """The cell of a table: the most of everything over all sizes."""
    if any("error" in record for record in records):
        return "does not compile"
    return ", ".join(
        str(max(record[field] for record in records))
        for field in FIGURES
        if all(field in record for record in records)
    )


def kernel_table(records: list[dict[str, Any]], targets: list[str]) -> Iterator[str]:
    """A row for each kernel, a column for each target."""
    yield f"| kernel | compiled | warps | {' | '.join(targets)} |"
    yield "|---" * (3 + len(targets)) + "|"
    for name in sorted({record["kernel"] for record in records}):
        rows = [record for record in records if record["kernel"] == name]
        cells = [[record for record in rows if record["target"] == target] for target in targets]
        warps = ", ".join(str(count) for count in sorted({row.get("warps", 0) for row in rows}))
        yield f"| {name} | {len(cells[0])} | {warps} | {' | '.join(map(worst, cells))} |"


def launch_table(launches: list[dict[str, Any]]) -> Iterator[str]:
    """A row for each size: how many kernels a memory step launches, torch's among them."""
    yield "| B, N, W, R, Hw | forward | backward |"
    yield "|---|---|---|"
    steps = [count for count in launches if count["call"] == "exact step"]
    for size in dict.fromkeys(count["size"] for count in steps):
        total = {
            count["backward"]: count["launches"] + count["torch_kernels"]
            for count in steps
            if count["size"] == size
        }
        yield f"| {size.replace(',', ', ')} | {total[False]} | {total[True]} |"


def markdown(
    records: list[dict[str, Any]], launches: list[dict[str, Any]], targets: list[str]
) -> Iterator[str]:
    """The tables of docs/kernels.md."""
    yield (
        f"Triton {triton.__version__}, torch {torch.__version__}. For each target the most over "
        f"all sizes of: {', '.join(FIGURES.values())}.\n"
    )
    yield from kernel_table(records, targets)
    yield "\nKernels that a memory step launches, those of torch included:\n"
    yield from launch_table(launches)


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--kernel", nargs="+", metavar="FILE.NAME")
    parser.add_argument("--size", nargs="+", choices=SIZES, default=list(SIZES))
    parser.add_argument("--order", nargs="+", choices=ORDERS, default=ORDERS, help="of usages")
    parser.add_argument("--dtype", default="float32", help="torch's name of it")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    parser.add_argument("--no-code", action="store_true", help="count no instructions; faster")
    parser.add_argument("--markdown", action="store_true", help="print tables instead of JSON")
    return parser.parse_args()


def main() -> None:
    options = parse_options()
    sizes = [SIZES[name] for name in options.size]
    uses, launches = collect(sizes, getattr(torch, options.dtype), options.order)
    if options.kernel:
        known = {str(job) for job in uses}
        if not known.issuperset(options.kernel):
            sys.exit(f"--kernel knows {', '.join(sorted(known))}; not all of {options.kernel}")
        uses = {job: use for job, use in uses.items() if str(job) in options.kernel}
    records = []
    for record in measured(uses, options.target, options.processes, not options.no_code):
        records.append(record)
        if not options.markdown:
            print(json.dumps(record), flush=True)
    if options.markdown:
        print("\n".join(markdown(records, launches, options.target)))
    else:
        print("\n".join(map(json.dumps, launches)))
    if any("error" in record for record in records):
        sys.exit(1)


if __name__ == "__main__":
    main()
