"""Registers, spills, shared memory and instructions of compiled kernels."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import triton

from dnc_fast.kernels.gpu.compile import Build

from .builds import compiled

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"


def nvidia_figures(binary: bytes, code: bool) -> dict[str, int]:
    """Figures of an NVIDIA binary. Everything on its stack is spilled registers."""
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
        loop = max(innermost_loops(text), key=len, default=[])
        found["loop_instructions"], found["loop_barriers"] = len(loop), loop.count("BAR")
        found["barriers"] = text.count("BAR.SYNC")
    return found


def innermost_loops(text: str) -> list[list[str]]:
    """The instructions of each loop of NVIDIA's machine code that has no loop inside."""
    pattern = r"^\s+/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?([A-Z]\w*)([^;]*);"
    code = [(int(place, 16), name, rest) for place, name, rest in re.findall(pattern, text, re.M)]
    spans = []
    for place, name, rest in code:
        target = re.search(r"0x([0-9a-f]+)", rest)
        if name == "BRA" and target and int(target[1], 16) < place:
            spans.append(range(int(target[1], 16), place + 1))
    inner = [
        span for span in spans if not any(other[0] in span for other in spans if other != span)
    ]
    return [[name for place, name, _ in code if place in span] for span in inner]


def amd_figures(assembly: str, code: bool) -> dict[str, int]:
    """Figures of AMD assembly. Registers are vector registers."""
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
        found["barriers"] = names.count("s_barrier")
    return found


def figures(build: Build, target: str, code: bool) -> dict[str, Any]:
    """What a kernel compiles to, or why it does not. code: also count instructions."""
    try:
        binary = compiled(build, target)
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if target.startswith("sm_"):
        found = nvidia_figures(binary.asm["cubin"], code)
    else:
        found = amd_figures(binary.asm["amdgcn"], code)
    return {"warps": binary.metadata.num_warps, "shared": binary.metadata.shared, **found}
