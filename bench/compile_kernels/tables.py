"""The tables of docs/kernels.md."""

from __future__ import annotations

from typing import Any

import torch
import triton

from ..reports.tables import grid
from .calls import OF_VARIANT

FIGURES = {
    "registers": "registers of a thread",
    "spilled": "bytes of a thread in local memory (spills)",
    "shared": "bytes of shared memory",
    "instructions": "machine instructions",
}


def worst(records: list[dict[str, Any]]) -> str:
    """A cell: the maximum of each figure over all sizes."""
    if any("error" in record for record in records):
        return "does not compile"
    return ", ".join(
        str(max(record[field] for record in records))
        for field in FIGURES
        if all(field in record for record in records)
    )


def kernel_table(records: list[dict[str, Any]], targets: list[str]) -> str:
    """A row for each kernel, a column for each target."""
    lines = []
    for name in sorted({record["kernel"] for record in records}):
        rows = [record for record in records if record["kernel"] == name]
        cells = [[record for record in rows if record["target"] == target] for target in targets]
        warps = ", ".join(str(count) for count in sorted({row.get("warps", 0) for row in rows}))
        lines.append([name, str(len(cells[0])), warps, *map(worst, cells)])
    return grid(["kernel", "compiled", "warps", *targets], lines)


def of_variant(record: dict[str, Any]) -> bool:
    """Whether a kernel is compiled for a variant of the step alone."""
    return all(call.endswith(OF_VARIANT) for call in record["calls"])


def launch_table(launches: list[dict[str, Any]]) -> str:
    """A row for each size: the number of kernels in a memory step, torch's included."""
    totals: dict[str, dict[bool, int]] = {}
    for count in launches:
        if count["call"] == "exact step":
            total = count["launches"] + count["torch_kernels"]
            totals.setdefault(count["size"], {})[count["backward"]] = total
    lines = [
        [size.replace(",", ", "), str(total[False]), str(total[True])]
        for size, total in totals.items()
    ]
    return grid(["B, N, W, R, Hw", "forward", "backward"], lines)


def markdown(
    records: list[dict[str, Any]], launches: list[dict[str, Any]], targets: list[str]
) -> str:
    """All tables."""
    varied = [record for record in records if of_variant(record)]
    paper = [record for record in records if record not in varied]
    return (
        f"Triton {triton.__version__}, torch {torch.__version__}. For each target the most over "
        f"all sizes of: {', '.join(FIGURES.values())}.\n\n{kernel_table(paper, targets)}\n"
        f"The same with everything of docs/variants.md:\n\n{kernel_table(varied, targets)}\n"
        f"Kernels that a memory step launches, those of torch included:\n\n"
        f"{launch_table(launches)}"
    )
