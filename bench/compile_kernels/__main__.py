"""`python -m bench.compile_kernels`: one JSON object a line, or tables with --markdown."""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch

from dnc_fast.kernels.gpu.compile import TARGETS, Build

from .builds import collect
from .calls import ORDERS, SIZES
from .figures import figures
from .tables import markdown


def measured(
    uses: dict[Build, dict[str, Any]], targets: list[str], processes: int, code: bool
) -> Iterator[dict[str, Any]]:
    """A record of each build for each target, as they finish."""
    work = [(build, target) for build in uses for target in targets]
    with ProcessPoolExecutor(processes, multiprocessing.get_context("fork")) as pool:
        found = [pool.submit(figures, build, target, code) for build, target in work]
        for (build, target), future in zip(work, found, strict=True):
            constants = {
                name: value if isinstance(value, (bool, int, float, type(None))) else str(value)
                for name, value in build.constants
            }
            yield {
                "kernel": str(build), "target": target, **uses[build], "constants": constants,
                **future.result(),
            }  # fmt: skip


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What the GPU kernels compile to.")
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
    uses, launches = collect(options.size, getattr(torch, options.dtype), options.order)
    if options.kernel:
        known = {str(build) for build in uses}
        if not known.issuperset(options.kernel):
            sys.exit(f"--kernel knows {', '.join(sorted(known))}; not all of {options.kernel}")
        uses = {build: use for build, use in uses.items() if str(build) in options.kernel}
    records = []
    for record in measured(uses, options.target, options.processes, not options.no_code):
        records.append(record)
        if not options.markdown:
            print(json.dumps(record), flush=True)
    if options.markdown:
        print(markdown(records, launches, options.target), end="")
    else:
        print("\n".join(map(json.dumps, launches)))
    if any("error" in record for record in records):
        sys.exit(1)


if __name__ == "__main__":
    main()
