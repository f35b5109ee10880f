"""Peak memory of one training step, each in a fresh process: `python -m bench.peak`.

The peak is the high-water mark of the resident set in one training step, less the resident set
after a tiny warm-up step of the same model class. Linux only.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from dnc_fast import DNC
from dnc_fast.pictures import panels, style

from .provenance import provenance
from .sizes import SIZES, Size, peer_model

LONG = {f"N=1024 T={T}": Size(1, T, 1024, 64, 4, 256, 64) for T in (64, 128, 256, 512)}


def status(field: str) -> int:
    """A figure of this process, in bytes."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(f"the system tells no {field}")


def measure(provider: str, size: Size) -> dict[str, float]:
    """Peak bytes and seconds of one training step in this process."""

    def make(size: Size) -> torch.nn.Module:
        if provider == "dnc":
            return peer_model(size)
        return DNC(
            size.X, size.H, num_cells=size.N, cell_size=size.W, num_read_heads=size.R,
            backend=provider,
        )  # fmt: skip

    def step(model: torch.nn.Module, size: Size) -> float:
        x = torch.randn(size.T, size.B, size.X)
        started = time.perf_counter()
        model(x, None)[0].square().mean().backward()
        return time.perf_counter() - started

    tiny = size._replace(B=1, T=2, N=4)
    step(make(tiny), tiny)
    model = make(size)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = status("VmRSS")
    seconds = step(model, size)
    result = {"peak": float(status("VmHWM") - before), "seconds": seconds}
    if provider != "dnc":
        result["report"] = float(model.memory_report(size.B, size.T).total)
    return result


def slope(points: list[tuple[int, float]]) -> float:
    """The exponent of y ~ T^exponent, by least squares on the logarithms."""
    x, y = torch.tensor(points, dtype=torch.float64).log().T
    x, y = x - x.mean(), y - y.mean()
    return ((x * y).sum() / x.square().sum()).item()


def draw(peaks: dict[str, list[tuple[int, float]]], path: str) -> Path:
    """Peak bytes against T on logarithmic axes, a line for each provider, with its exponent."""
    with style.house_style():
        title = "Peak memory of a training step, N = 1024"
        figure, [[axes]] = style.stack_panels(title, [[2.4]], right=0.15)
        for look, (provider, points) in zip(style.LOOKS, peaks.items(), strict=False):
            steps, values = zip(*points, strict=True)
            label = f"{provider}, as T to the {slope(points):.2f}"
            axes.loglog(
                steps, [value / 2**20 for value in values], label=label, color=look.color,
                linestyle=look.linestyle, marker=look.marker, markersize=4,
            )  # fmt: skip
        axes.set_xticks(steps, [str(T) for T in steps])
        axes.minorticks_off()
        axes.set_xlabel("steps T of one sequence; W = 64, R = 4, H = 256")
        axes.set_ylabel("MiB")
        panels.legend_above(axes)
        return style.save_picture(figure, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--providers", nargs="+", default=["cpu", "eager", "dnc"])
    parser.add_argument("--sizes", nargs="+", default=["c3", "c4", *LONG])
    parser.add_argument("--plot", metavar="FILE", help="draw the peak against T")
    parser.add_argument("--one", nargs=2, metavar=("PROVIDER", "SIZE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    sizes = {**SIZES, **LONG, "N=8192 T=64": Size(1, 64, 8192, 64, 4, 256, 64)}
    if options.one:
        torch.set_num_threads(2)
        print(json.dumps(measure(options.one[0], sizes[options.one[1]])))
        return
    print(provenance())
    print("\n| size | provider | peak MiB | foretold MiB | seconds |\n|---|---|---|---|---|")
    peaks: dict[str, list[tuple[int, float]]] = {}
    for name in options.sizes:
        for provider in options.providers:
            command = [sys.executable, "-m", "bench.peak", "--one", provider, name]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
                print(f"| {name} | {provider} | failed: {reason} | | |", flush=True)
                continue
            result = json.loads(done.stdout.splitlines()[-1])
            if name in LONG:
                peaks.setdefault(provider, []).append((LONG[name].T, result["peak"]))
            report = f"{result['report'] / 2**20:.0f}" if "report" in result else ""
            print(
                f"| {name} | {provider} | {result['peak'] / 2**20:.0f} | {report} | "
                f"{result['seconds']:.2f} |",
                flush=True,
            )
    for provider, points in peaks.items():
        if len(points) > 1:
            print(f"\n{provider}: the peak grows as T to the {slope(points):.2f}")
    if options.plot:
        print(draw({p: points for p, points in peaks.items() if len(points) > 1}, options.plot))


if __name__ == "__main__":
    main()
