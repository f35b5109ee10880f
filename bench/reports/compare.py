"""Two result files, ratio by ratio: `python -m bench compare A B`.

A ratio is B's median over A's, with the range that the quartiles around the medians allow. B is
slower or faster if the quartile ranges do not overlap and the ratio exceeds `--least`; everything
else is noise. For peaks, only `--least` counts as noise.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ..harness.clock import spread
from ..harness.results import Record, Results, read

LEAST = 1.03
SAME = ("device", "threads", "torch", "python", "kind")
"""What must be equal in two files for their ratios to depend on the code alone."""


class Ratio(NamedTuple):
    """B over A. lower, upper: its range; verdict: "slower", "faster", "more", "less" or ""."""

    what: str
    a: float
    b: float
    ratio: float
    lower: float
    upper: float
    verdict: str


def key(record: Record) -> tuple[object, ...]:
    """What was measured: records of equal keys can be compared."""
    sizes = tuple(record["sizes"].values())
    return *(record[field] for field in NAMED), record.get("linkage", "dense"), sizes


def time_ratio(what: str, a: Record, b: Record, least: float) -> Ratio:
    first, second = spread(a["seconds"]), spread(b["seconds"])
    ratio = second.median / first.median
    lower, upper = second.lower / first.upper, second.upper / first.lower
    verdict = ""
    if lower > 1 and ratio >= least:
        verdict = "slower"
    elif upper < 1 and ratio <= 1 / least:
        verdict = "faster"
    return Ratio(what, first.median, second.median, ratio, lower, upper, verdict)


def peak_ratio(what: str, a: Record, b: Record, least: float) -> Ratio:
    first, second = max(a["peak_bytes"], 1), max(b["peak_bytes"], 1)
    ratio = second / first
    verdict = "more" if ratio >= least else "less" if ratio <= 1 / least else ""
    return Ratio(what, first, second, ratio, ratio, ratio, verdict)


NAMED = ("kind", "op", "passes", "size", "provider")
FIGURES = {"time": "seconds", "peak": "peak_bytes"}
"""The kinds of records that are compared, and the field of their figures."""


def pairs(a: Results, b: Results) -> Iterator[tuple[str, Record, Record]]:
    """Everything that both files tried to measure: its name, and the record of each."""
    of_b = {key(record): record for record in b.records if record["kind"] in FIGURES}
    for record in a.records:
        if record["kind"] in FIGURES and key(record) in of_b:
            what = " ".join(record[field] for field in NAMED)
            what += f" {record['linkage']}" if "linkage" in record else ""
            yield what, record, of_b[key(record)]


def ratios(a: Results, b: Results, least: float = LEAST) -> list[Ratio]:
    """The ratios of everything that both files have."""
    found = []
    for what, record, other in pairs(a, b):
        if "seconds" in record and "seconds" in other:
            found.append(time_ratio(what, record, other, least))
        elif "peak_bytes" in record and "peak_bytes" in other:
            found.append(peak_ratio(what, record, other, least))
    return found


def lost(a: Results, b: Results) -> list[str]:
    """What A has a figure of, and B tried to measure without success."""
    found = []
    for what, record, other in pairs(a, b):
        figure = FIGURES[record["kind"]]
        if figure in record and figure not in other:
            why = other.get("refused") or other.get("failed") or other.get("absent") or "no figure"
            found.append(f"{what}: {why}")
    return found


def differences(a: Results, b: Results) -> list[str]:
    """Reasons why the ratios do not depend on the code alone."""
    first, second = a.provenance, b.provenance
    found = [
        f"{name}: {first.get(name)} against {second.get(name)}"
        for name in SAME
        if first.get(name) != second.get(name)
    ]
    return found + [f"{name} is a dry run" for name, r in (("A", a), ("B", b)) if r.dry]


def table(found: list[Ratio]) -> str:
    lines = ["| | A | B | B / A | range | |", "|---|---|---|---|---|---|"]
    for one in found:
        scale, unit = (2**-20, "MiB") if one.what.startswith("peak") else (1e3, "ms")
        lines.append(
            f"| {one.what} | {one.a * scale:.4g} {unit} | {one.b * scale:.4g} {unit} | "
            f"{one.ratio:.2f} | {one.lower:.2f} to {one.upper:.2f} | {one.verdict} |"
        )
    return "\n".join(lines)


def run(options: argparse.Namespace) -> int:
    a, b = read(options.a), read(options.b)
    for difference in differences(a, b):
        print(f"careful, {difference}", file=sys.stderr)
    found = ratios(a, b, options.least)
    if not found:
        print("the two have nothing in common", file=sys.stderr)
        return 2
    print(table(found))
    worse = [one for one in found if one.verdict in ("slower", "more")]
    gone = lost(a, b)
    for one in gone:
        print(f"not in B: {one}")
    print(f"\n{len(found)} compared, {len(worse)} slower or larger than noise, {len(gone)} lost")
    return 1 if (worse or gone) and options.fail else 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (__doc__ or "").splitlines()[0]
    parser.add_argument("a", type=Path, help="a result file, or its folder")
    parser.add_argument("b", type=Path)
    parser.add_argument("--least", type=float, default=LEAST, help="smaller ratios are noise")
    parser.add_argument("--fail", action="store_true", help="exit with 1 if anything got worse")
    parser.set_defaults(function=run)
