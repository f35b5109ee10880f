"""Training steps of very large memories: `python -m bench.large_memory`.

Time and peak memory of one step (forward and backward) by linkage as N grows to a million cells,
each in a process of its own, after outputs and gradients were compared with the float64 reference.
Writes a table, the records and a picture; exponents are fitted to the last points.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dnc_fast import DNC
from dnc_fast.pictures import style

from .harness.peak import give_back, run_module, start_mark, status
from .harness.provenance import ROOT, facts, folder_name, provenance
from .harness.results import write_whole
from .reports.growth import LAST, exponent

CELLS = tuple(2**power for power in range(12, 21, 2))
DENSE_UP_TO = 2**14
B, W, R, H, X = 1, 32, 4, 64, 8
TOPK = 8
TOLERANCE = 1e-3
"""Of gradients in float32, relative to the largest: torch's own are 1e-5 to 1e-3 away too."""


class Kind(NamedTuple):
    """What is measured: a linkage, and how many entries weightings keep; None for all."""

    linkage: str
    topk: int | None

    def __str__(self) -> str:
        return self.linkage if self.topk is None else f"{self.linkage}, top {self.topk}"

    @classmethod
    def parse(cls, name: str) -> Kind:
        linkage, _, count = name.partition(", top ")
        return cls(linkage, int(count) if count else None)


KINDS = tuple(
    Kind(linkage, topk)
    for linkage, topk in (
        *((name, TOPK) for name in ("none", "sparse", "separable")),
        *((name, None) for name in ("none", "sparse", "separable", "dense")),
    )
)


def model(kind: Kind, N: int, device: str, **options: Any) -> DNC:
    torch.manual_seed(0)
    cut = {} if kind.topk is None else {"read_topk": kind.topk, "write_topk": kind.topk}
    return DNC(
        X, H, num_cells=N, cell_size=W, num_read_heads=R, linkage=kind.linkage, device=device,
        **cut, **options,
    )  # fmt: skip


def train(dnc: DNC, x: Tensor) -> tuple[Tensor, list[Tensor], float]:
    """One step: output, gradients, seconds of the forward pass."""
    started = time.perf_counter()
    output, _ = dnc(x)
    seconds = time.perf_counter() - started
    gradients = torch.autograd.grad(output.square().mean(), list(dnc.parameters()))
    if output.is_cuda:
        torch.cuda.synchronize()
    return output.detach(), list(gradients), seconds


def check(kind: Kind, device: str) -> float:
    """The largest error against the float64 reference, relative to the largest number.

    Raises:
        RuntimeError: it is not small: what would be measured is wrong.
    """
    x = torch.randn(4, B, X, device=device, dtype=torch.float64)
    N = CELLS[0] + 1 if kind.linkage != "dense" else 256
    # Two segments, so that steps are made anew as they are in a long run.
    ours = model(kind, N, device, usage_order="robust", checkpoint_interval=2)
    exact = model(kind, N, device, usage_order="robust", backend="reference").double()
    exact.load_state_dict(ours.state_dict())
    found, expected = train(ours, x.float()), train(exact, x)
    worst = 0.0
    for mine, true in zip((found[0], *found[1]), (expected[0], *expected[1]), strict=True):
        worst = max(worst, ((mine - true).norm() / true.norm().clamp(min=1e-12)).item())
    if not worst < TOLERANCE:
        raise RuntimeError(f"{kind} is {worst:.1e} away from the float64 reference; not measured")
    return worst


def measure(kind: Kind, N: int, steps: int, rounds: int, device: str) -> dict[str, Any]:
    """One record, of this process."""
    error = check(kind, device)
    x = torch.randn(steps, B, X, device=device)
    dnc = model(kind, N, device)
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
    else:
        give_back()
        before = start_mark()
    times, forwards = [], []
    for _ in range(rounds):
        started = time.perf_counter()
        forwards.append(train(dnc, x)[2])
        times.append(time.perf_counter() - started)
    peak = (torch.cuda.max_memory_allocated() if device == "cuda" else status("VmHWM")) - before
    return {
        "kind": str(kind), "N": N, "T": steps, "seconds": times, "forward_seconds": forwards,
        "peak_bytes": peak, "memory_bytes": B * N * W * 4, "error": error,
        "foretold_bytes": dnc.memory_report(B, steps).total,
    }  # fmt: skip


def in_a_process(options: argparse.Namespace, kind: Kind, N: int) -> dict[str, Any]:
    try:
        return run_module(
            "bench.large_memory", "--one", str(kind), "--cells", str(N),
            "--steps", str(options.steps), "--rounds", str(options.rounds),
            "--threads", str(options.threads), "--device", options.device,
        )  # fmt: skip
    except RuntimeError as error:
        return {"kind": str(kind), "N": N, "T": options.steps, "failed": str(error)}


def table(records: list[dict[str, Any]]) -> str:
    """Markdown: milliseconds per time step, peak, and peak over the memory matrix."""
    lines = [
        "| linkage | N | ms a time step | of it forward | peak MiB | memories | foretold MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for record in records:
        if "failed" in record:
            lines.append(f"| {record['kind']} | {record['N']:,} | {record['failed']} | | | | |")
            continue
        ms, forward = (
            1e3 * min(record[key]) / record["T"] for key in ("seconds", "forward_seconds")
        )
        lines.append(
            f"| {record['kind']} | {record['N']:,} | {ms:.1f} | {forward:.1f} | "
            f"{record['peak_bytes'] / 2**20:,.0f} | "
            f"{record['peak_bytes'] / record['memory_bytes']:.1f} | "
            f"{record['foretold_bytes'] / 2**20:,.0f} |"
        )
    return "\n".join(lines)


def curve(records: list[dict[str, Any]], kind: str, what: str) -> tuple[list[int], list[float]]:
    """Points of a kind: N, and "seconds" a time step or "peak_bytes"."""
    found = [record for record in records if record["kind"] == kind and "failed" not in record]
    values = [
        min(record["seconds"]) / record["T"] if what == "seconds" else float(record[what])
        for record in found
    ]
    return [record["N"] for record in found], values


def fitted(records: list[dict[str, Any]]) -> str:
    """The exponents of all kinds that have points enough."""
    lines = ["| linkage | time ~ N^ | peak ~ N^ |", "|---|---|---|"]
    for kind in dict.fromkeys(record["kind"] for record in records):
        points = [curve(records, kind, what) for what in ("seconds", "peak_bytes")]
        if len(points[0][0]) > LAST:
            slopes = [exponent(x[-LAST:], y[-LAST:]) for x, y in points]
            lines.append(f"| {kind} | {slopes[0]:.2f} | {slopes[1]:.2f} |")
    return "\n".join(lines)


def picture(records: list[dict[str, Any]], told: str, path: Path) -> Path:
    with style.house_style():
        title = f"A training step by linkage as N grows\n{told}"
        figure, stacked = style.stack_panels(title, [[2.4], [2.4]], right=0.15)
        kinds = [k for k in dict.fromkeys(r["kind"] for r in records) if curve(records, k, "N")[0]]
        linkages = dict.fromkeys(Kind.parse(kind).linkage for kind in kinds)
        looks = dict(zip(linkages, style.LOOKS, strict=False))
        for kind in kinds:
            linkage, topk = Kind.parse(kind)
            look = looks[linkage]
            for [axes], what, scale in zip(
                stacked, ("seconds", "peak_bytes"), (1e3, 2**-20), strict=True
            ):
                x, y = curve(records, kind, what)
                axes.loglog(
                    x, [value * scale for value in y], label=kind, color=look.color,
                    linestyle="-" if topk else "--", marker=look.marker, markersize=4,
                )  # fmt: skip
        cells, matrix = curve(records, kinds[0], "memory_bytes")
        stacked[1][0].loglog(
            cells, [value * 2**-20 for value in matrix], color=style.GREY, linestyle=":",
            label="the memory itself",
        )  # fmt: skip
        stacked[0][0].set_ylabel("ms a time step")
        stacked[1][0].set_ylabel("peak MiB")
        for [axes] in stacked:
            axes.grid(True)
            axes.legend(fontsize=7, ncols=2, frameon=False)
        stacked[1][0].set_xlabel(f"memory cells N; W = {W}, R = {R}, B = {B}")
        return style.save_picture(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--one", metavar="KIND", help="measure it in this process")
    parser.add_argument("--cells", type=int, nargs="+", default=CELLS, metavar="N")
    parser.add_argument("--steps", type=int, default=32, metavar="T")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--out", type=Path, help="a folder; default: bench/results/<device>/large_memory"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.one:
        [N] = options.cells
        kind = Kind.parse(options.one)
        print(json.dumps(measure(kind, N, options.steps, options.rounds, options.device)))
        return
    out = options.out or ROOT / "bench/results" / folder_name(options.device) / "large_memory"
    records: list[dict[str, Any]] = []
    for kind in KINDS:
        for N in options.cells:
            if kind.linkage != "dense" or N <= DENSE_UP_TO:
                records.append(in_a_process(options, kind, N))
                print(table(records[-1:]).splitlines()[-1], flush=True)
    found = facts(options.device)
    text = f"{provenance()}\n\n{table(records)}\n\n{fitted(records)}\n"
    write_whole(out / "table.md", text)
    lines = [json.dumps(record) for record in (found, *records)]
    write_whole(out / "records.jsonl", "\n".join(lines) + "\n")
    told = f"{found['device']}, T = {options.steps}"
    print(text, picture(records, told, out / "large_memory.png"))


if __name__ == "__main__":
    main()
