"""Every table of README.md, docs/ and bench/results/, made from results."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..harness.cases import OPS, PASSES, TITLES
from ..harness.clock import spread
from ..harness.providers import PROVIDERS
from ..harness.results import Record, Results
from ..harness.sizes import LARGE, in_a_study
from . import growth

PROBLEMS = {"absent": "not here", "refused": "WRONG", "failed": "failed"}


def ours(results: Results) -> str:
    """Our fastest backend on the device."""
    return "triton" if results.provenance["kind"] == "cuda" else "cpu"


def grid(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines) + "\n"


def print_head(heading: str, *columns: str) -> None:
    """Begin a table that is printed row by row."""
    print(f"{heading}\n\n{grid(list(columns), [])}", end="", flush=True)


def print_row(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:,.1f}" if value >= 1 else f"{value:.3f}"


def problem(record: Record | None) -> str:
    """What a cell shows if there is no figure."""
    known = [word for name, word in PROBLEMS.items() if record is not None and name in record]
    return known[0] if known else ""


def time_cell(record: Record | None, quarters: bool = True) -> str:
    if record is None or "seconds" not in record:
        return problem(record)
    found = spread(record["seconds"])
    text = milliseconds(found.median)
    if quarters:
        text += f" ({milliseconds(found.lower)} to {milliseconds(found.upper)})"
    return text


def ratio_cell(numerator: Record | None, denominator: Record | None, what: str) -> str:
    """How many times as much; both from one run."""
    if numerator is None or denominator is None or not (what in numerator and what in denominator):
        return ""
    top, bottom = (
        spread(r[what]).median if what == "seconds" else r[what] for r in (numerator, denominator)
    )
    return f"{top / max(bottom, 1e-12):.1f} x"


class Row(dict[str, Record]):
    """The latest record of each provider; `all`: those before it too."""

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Record] = []

    def add(self, record: Record) -> None:
        self[record["provider"]] = record
        self.all.append(record)

    def beside(self, mine: str, rival: str) -> Record | None:
        """Our record of the job in which a rival was measured, so that both took turns."""
        job = self[rival]["job"] if rival in self else None
        found = (one for one in self.all if one["job"] == job and one["provider"] == mine)
        return next(found, self.get(mine))


def by_provider(records: list[Record], linked: bool = False) -> dict[str, Row]:
    """Records of the named sizes, by size and then by provider; the latest where there are several.

    linked: those of linkages other than the dense one instead, by size and linkage.
    """
    found: dict[str, Row] = {}
    for record in records:
        if not in_a_study(record["size"]) and ("linkage" in record) == linked:
            row = record["size"] + (f", {record['linkage']}" if linked else "")
            found.setdefault(row, Row()).add(record)
    return dict(sorted(found.items()))


def columns(rows: dict[str, dict[str, Record]]) -> list[str]:
    """The providers of all rows, in the order of the registry."""
    return [name for name in PROVIDERS if any(name in row for row in rows.values())]


LETTERS = "B T N W R H X"


def sizes_cell(row: dict[str, Record]) -> str:
    return " ".join(str(value) for value in next(iter(row.values()))["sizes"].values())


def times(results: Results, op: str, passes: str, linked: bool = False) -> str:
    """The times of an op at all sizes, median and quartiles, followed by ratios."""
    rows = by_provider(results.of_kind("time", op=op, passes=passes), linked)
    who, mine = columns(rows), ours(results)
    if mine not in who:
        mine = "triton" if "triton" in who else "reference"
    rivals = [name for name in who if name in ("dnc", "torch.compile") and name != mine]
    head = ["", LETTERS, *who, *(f"{mine} is faster than {rival}" for rival in rivals)]
    lines = [
        [
            name, sizes_cell(row), *(time_cell(row.get(provider)) for provider in who),
            *(ratio_cell(row.get(rival), row.beside(mine, rival), "seconds") for rival in rivals),
        ]
        for name, row in rows.items()
    ]  # fmt: skip
    return grid(head, lines) if lines else ""


def all_times(results: Results, *ops: str, linked: bool = False) -> str:
    """The times of several ops, a table for each op and its passes."""
    found = []
    for op in ops:
        for passes in PASSES:
            if table := times(results, op, passes, linked):
                title = TITLES[op, passes]
                found.append(f"{title[0].upper()}{title[1:]}:\n\n{table}")
    return "\n".join(found)


def counts(results: Results) -> str:
    """Errors, launches and bandwidths of training steps."""
    rows = by_provider(results.of_kind("time", op="model", passes="forward+backward"))
    head = ["", "provider", "worst error", "launches", "rounds", "GB/s", "share of a copy's"]
    lines = []
    for name, row in rows.items():
        for provider, record in row.items():
            if "seconds" not in record:
                continue
            error = record["error"]
            launched = ", ".join(f"{n:,} {what}" for what, n in record["launches"].items())
            shown = ["", ""]
            if PROVIDERS[provider].kind != "floor":
                share = f"{100 * record['share_of_copy']:.0f} %"
                shown = [f"{record['bytes_per_second'] / 1e9:.2f}", share]
            lines.append(
                [name, provider, "not comparable" if error is None else f"{error:.0e}",
                 launched, str(len(record["seconds"])), *shown]
            )  # fmt: skip
    return grid(head, lines) if lines else ""


def mebibytes(record: Record | None, what: str = "peak_bytes") -> str:
    if record is None or what not in record:
        return problem(record)
    return f"{record[what] / 2**20:,.1f}"


def peaks(results: Results) -> str:
    """Peak memory of training steps: measured, estimated, and how much more the peer takes."""
    rows = by_provider(results.of_kind("peak", passes="forward+backward"))
    who, mine = columns(rows), ours(results)
    head = ["", LETTERS, *(f"{name}, MiB" for name in who), "estimated, MiB", "dnc takes"]
    lines = [
        [
            name, sizes_cell(row), *(mebibytes(row.get(provider)) for provider in who),
            mebibytes(row.get(mine), "foretold_bytes"),
            ratio_cell(row.get("dnc"), row.get(mine), "peak_bytes"),
        ]
        for name, row in rows.items()
    ]  # fmt: skip
    return grid(head, lines) if lines else ""


def exponents(results: Results) -> str:
    """How time and memory grow with each letter, over all points and over the last ones."""
    head = ["letter", "from, to", "provider", "time grows as", "its last three", "peak grows as",
            "its last three"]  # fmt: skip
    lines = []
    for letter in growth.letters(results):
        of_peaks = {c.name: c for c in growth.curves(results, letter, "peak_bytes")}
        for curve in growth.curves(results, letter, "seconds"):
            cells = []
            for found in (curve, of_peaks.get(curve.name)):
                fitted = found.exponents() if found is not None else None
                cells += [f"{letter}^{e:.2f}" for e in fitted] if fitted else ["", ""]
            lines.append([letter, f"{curve.x[0]:,}, {curve.x[-1]:,}", curve.name, *cells])
    return grid(head, lines) if lines else ""


def large(results: Results, what: str) -> str:
    """Times or peaks of large memories: a row for each linkage, a column for each N."""
    curves = growth.curves(results, LARGE, what)
    sizes = sorted({N for curve in curves for N in curve.x})
    scale, form = (1e3, ",.1f") if what == "seconds" else (2**-20, ",.0f")
    lines = []
    for curve in curves:
        cells = {N: f"{y * scale:{form}}" for N, y in zip(curve.x, curve.y, strict=True)}
        fitted = curve.exponents()
        grows = f"N^{fitted[1]:.2f}" if fitted else ""
        lines.append([curve.name, *(cells.get(N, "") for N in sizes), grows])
    return grid(["linkage", *(f"N = {N:,}" for N in sizes), "grows as"], lines) if lines else ""


def large_peaks(results: Results) -> str:
    """Peaks of large memories: measured, estimated, and as a multiple of the memory matrix."""
    head = ["linkage", "N", "peak MiB", "estimated MiB", "memory matrices"]
    lines = []
    for record in results.of_kind("peak"):
        if record["size"].startswith(LARGE) and "peak_bytes" in record:
            sizes, peak = record["sizes"], record["peak_bytes"]
            matrices = peak / (4 * sizes["B"] * sizes["N"] * sizes["W"])
            lines.append(
                [record.get("linkage", "dense"), f"{sizes['N']:,}", f"{peak / 2**20:,.0f}",
                 f"{record['foretold_bytes'] / 2**20:,.0f}", f"{matrices:,.1f}"]
            )  # fmt: skip
    return grid(head, lines) if lines else ""


def solved(results: Results) -> str:
    """Time until copy is solved."""
    head = ["model", "parameters", "seed", "solved", "steps", "seconds", "CPU seconds",
            "right", "right at twice the length"]  # fmt: skip
    lines = [
        [
            r["provider"], f"{r['parameters']:,}", str(r["seed"]), "yes" if r["solved"] else "no",
            f"{r['steps']:,}", f"{r['wall_seconds']:.1f}", f"{r['cpu_seconds']:.1f}",
            f"{100 * r['right']:.1f} %", f"{100 * r['right_twice']:.1f} %",
        ]
        for r in results.of_kind("solve")
        if "solved" in r
    ]  # fmt: skip
    return grid(head, lines) if lines else ""


def short(results: Results) -> str:
    """The table of README.md: time and peak of a training step, compared with others."""
    mine = ours(results)
    rows = by_provider(results.of_kind("time", op="model", passes="forward+backward"))
    if not any("seconds" in row.get(mine, {}) for row in rows.values()):
        return ""
    memory = by_provider(results.of_kind("peak", passes="forward+backward"))
    shown = [mine, "reference", "torch.compile", "dnc", "lstm"]
    head = ["", LETTERS, *(f"{name}, ms" for name in shown), f"{mine}, MiB", "dnc, MiB",
            "faster than dnc", "than torch.compile", "less memory than dnc"]  # fmt: skip
    lines = []
    for name, row in rows.items():
        held = memory.get(name, {})
        lines.append(
            [
                name, sizes_cell(row), *(time_cell(row.get(who), False) for who in shown),
                mebibytes(held.get(mine)), mebibytes(held.get("dnc")),
                *(
                    ratio_cell(row.get(rival), row.beside(mine, rival), "seconds")
                    for rival in ("dnc", "torch.compile")
                ),
                ratio_cell(held.get("dnc"), held.get(mine), "peak_bytes"),
            ]
        )  # fmt: skip
    return grid(head, lines)


def headline(results: Results) -> str:
    """A sentence with the smallest and largest ratios."""
    mine = ours(results)
    rows = by_provider(results.of_kind("time", op="model", passes="forward+backward"))
    memory = by_provider(results.of_kind("peak", passes="forward+backward"))

    def ratios(table: dict[str, Row], rival: str, what: str) -> list[float]:
        cells = (
            ratio_cell(row.get(rival), row.beside(mine, rival), what) for row in table.values()
        )
        return [float(cell.removesuffix(" x")) for cell in cells if cell]

    def between(found: list[float]) -> str:
        return " to ".join(f"{end:.1f}" for end in sorted({min(found), max(found)})) + " times"

    than_peer = ratios(rows, "dnc", "seconds")
    if not than_peer:
        return ""
    date = results.header.get("date")
    when = f" (commit {results.provenance['commit']}, {date})" if date else ""
    text = (
        f"On {results.provenance['device']}{when}, at {len(than_peer)} sizes, a training step with "
        f"the package `dnc` takes {between(than_peer)} as long as with our backend `{mine}`"
    )
    if than_compiled := ratios(rows, "torch.compile", "seconds"):
        text += f", and with torch.compile of our reference {between(than_compiled)}"
    if less := ratios(memory, "dnc", "peak_bytes"):
        text += f"; `dnc` takes {between(less)} as much memory"
    return text + ".\n"


def session(results: Results) -> str:
    """How the parts of `python -m bench gpu` ended."""
    lines = [[r["part"], r["outcome"], str(r["took_seconds"])] for r in results.of_kind("part")]
    return grid(["part", "outcome", "seconds"], lines) if lines else ""


def tests(results: Results) -> str:
    """How the tests on the device ended."""
    lines = [[r["job"], r["outcome"]] for r in results.of_kind("tests")]
    return grid(["tests", "outcome"], lines) if lines else ""


def kernels(results: Results) -> str:
    """Time and bandwidth of each launch by itself."""
    head = ["", "direction", "kernel", "us", "GB/s", "share of a copy's"]
    rows = []
    for r in (r for r in results.of_kind("kernel") if "seconds" in r):
        median = spread(r["seconds"]).median
        rows.append(
            [r["size"], r["direction"], r["kernel"], f"{1e6 * median:.1f}",
             f"{r['least_bytes'] / median / 1e9:.1f}", f"{100 * r['share_of_copy']:.0f} %"]
        )  # fmt: skip
    return grid(head, rows) if rows else ""


Table = Callable[[Results], str]

TABLES: dict[str, Table] = {
    "headline": headline,
    "short": short,
    "training": partial(times, op="model", passes="forward+backward"),
    "inference": partial(times, op="model", passes="forward"),
    "peaks": peaks,
    "growth": exponents,
    "large-time": partial(large, what="seconds"),
    "large-peak": partial(large, what="peak_bytes"),
    "large-peaks": large_peaks,
    "counts": counts,
    "parts": lambda results: all_times(results, *(op for op in OPS if op != "model")),
    "linkages": lambda results: all_times(results, "model", linked=True),
    "solved": solved,
    "tests": tests,
    "session": session,
    "kernels": kernels,
}
"""By the names that markers use."""
