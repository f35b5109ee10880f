"""Tables and plots from results: `python -m bench tables`.

Each folder of bench/results/ gets a README.md and plots of its own. In README.md and docs/ the text
between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` is replaced by the table of that name;
where there are no results for it yet, it stays. `--check` writes nothing and fails where they
disagree.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from ..harness.cases import OPS, TITLES
from ..harness.clock import spread
from ..harness.provenance import ROOT, told
from ..harness.providers import FLOOR, PEER_FAULT, PROVIDERS
from ..harness.results import NAME, Record, Results, ResultsError, read, write_whole
from ..harness.sizes import in_a_study
from . import growth

MARKED = ("README.md", "docs/performance.md", "docs/results.md")
BLOCK = re.compile(r"(<!-- bench:([\w-]+) -->\n)(.*?)(<!-- /bench:\2 -->)", re.S)
PROBLEMS = {"absent": "not here", "refused": "WRONG", "failed": "failed"}


def ours(results: Results) -> str:
    """Our fastest backend on the device."""
    return "triton" if results.provenance["kind"] == "cuda" else "cpu"


def grid(head: list[str], rows: list[list[str]]) -> str:
    lines = [f"| {' | '.join(line)} |" for line in (head, *rows)]
    lines.insert(1, "|" + "---|" * len(head))
    return "\n".join(lines) + "\n"


def milliseconds(seconds: float) -> str:
    value = 1e3 * seconds
    return f"{value:,.1f}" if value >= 1 else f"{value:.3f}"


def problem(record: Record | None) -> str:
    """What stands where there is no figure."""
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


def by_provider(records: list[Record]) -> dict[str, dict[str, Record]]:
    """Records by size, then provider; studies of growth left out."""
    found: dict[str, dict[str, Record]] = {}
    for record in records:
        if not in_a_study(record["size"]):
            found.setdefault(record["size"], {})[record["provider"]] = record
    return dict(sorted(found.items()))


def columns(rows: dict[str, dict[str, Record]]) -> list[str]:
    """The providers that any row has, in the order of the registry."""
    return [name for name in PROVIDERS if any(name in row for row in rows.values())]


LETTERS = "B T N W R H X"


def sizes_cell(row: dict[str, Record]) -> str:
    return " ".join(str(value) for value in next(iter(row.values()))["sizes"].values())


def times(results: Results, op: str, passes: str) -> str:
    """A table of times of an op at all sizes: median and quarters, then ratios."""
    rows = by_provider(results.of_kind("time", op=op, passes=passes))
    who, mine = columns(rows), ours(results)
    if mine not in who:
        mine = "triton" if "triton" in who else "reference"
    rivals = [name for name in who if name in ("dnc", "torch.compile") and name != mine]
    head = ["", LETTERS, *who, *(f"{mine} is faster than {rival}" for rival in rivals)]
    lines = [
        [
            name, sizes_cell(row), *(time_cell(row.get(provider)) for provider in who),
            *(ratio_cell(row.get(rival), row.get(mine), "seconds") for rival in rivals),
        ]
        for name, row in rows.items()
    ]  # fmt: skip
    return grid(head, lines) if lines else ""


def training(results: Results) -> str:
    return times(results, "model", "forward+backward")


def inference(results: Results) -> str:
    return times(results, "model", "forward")


def parts(results: Results) -> str:
    """Every part of a step, a table each."""
    found = []
    for op in OPS:
        for passes in ("forward", "forward+backward"):
            if op != "model" and (table := times(results, op, passes)):
                title = TITLES[op, passes]
                found.append(f"{title[0].upper()}{title[1:]}:\n\n{table}")
    return "\n".join(found)


def counts(results: Results) -> str:
    """Launches, error and bandwidth of training steps."""
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
    """Peak memory of training steps, what was foretold, and how much more the peer takes."""
    rows = by_provider(results.of_kind("peak", passes="forward+backward"))
    who, mine = columns(rows), ours(results)
    head = ["", LETTERS, *(f"{name}, MiB" for name in who), "foretold, MiB", "dnc takes"]
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
        of_peaks = {c.provider: c for c in growth.curves(results, letter, "peak_bytes")}
        for curve in growth.curves(results, letter, "seconds"):
            cells = []
            for found in (curve, of_peaks.get(curve.provider)):
                fitted = found.exponents() if found is not None else None
                cells += [f"{letter}^{e:.2f}" for e in fitted] if fitted else ["", ""]
            lines.append([letter, f"{curve.x[0]:,}, {curve.x[-1]:,}", curve.provider, *cells])
    return grid(head, lines) if lines else ""


def picture_name(letter: str) -> str:
    return f"growth_{letter}.png"


def pictures(results: Results, folder: str) -> str:
    """Links to the plots of growth. folder: of the results, as the reader's file sees it."""
    return "\n".join(
        f"![A training step as {letter} grows]({folder}{picture_name(letter)})\n"
        for letter in growth.letters(results)
    )


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
    """The README's table: time and peak of a training step, ours and the peers'."""
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
                ratio_cell(row.get("dnc"), row.get(mine), "seconds"),
                ratio_cell(row.get("torch.compile"), row.get(mine), "seconds"),
                ratio_cell(held.get("dnc"), held.get(mine), "peak_bytes"),
            ]
        )  # fmt: skip
    return grid(head, lines)


def headline(results: Results) -> str:
    """One sentence of the least and most ratios."""
    mine = ours(results)
    rows = by_provider(results.of_kind("time", op="model", passes="forward+backward"))
    memory = by_provider(results.of_kind("peak", passes="forward+backward"))

    def between(table: dict[str, dict[str, Record]], rival: str, what: str) -> str:
        cells = [ratio_cell(row.get(rival), row.get(mine), what) for row in table.values()]
        found = sorted(float(cell.removesuffix(" x")) for cell in cells if cell)
        return f"{found[0]:.1f} to {found[-1]:.1f} times" if found else ""

    than_peer = between(rows, "dnc", "seconds")
    if not than_peer:
        return ""
    text = (
        f"On {results.provenance['device']}, at {len(rows)} sizes, a training step takes the "
        f"package `dnc` {than_peer} as long as our backend `{mine}`"
    )
    if than_compiled := between(rows, "torch.compile", "seconds"):
        text += f", torch.compile of our reference {than_compiled} as long"
    if less := between(memory, "dnc", "peak_bytes"):
        text += f"; `dnc` takes {less} as much memory"
    return text + ".\n"


Table = Callable[[Results], str]

TABLES: dict[str, Table] = {
    "headline": headline,
    "short": short,
    "training": training,
    "inference": inference,
    "parts": parts,
    "counts": counts,
    "peaks": peaks,
    "growth": exponents,
    "solved": solved,
}
"""By the name that markers use."""

HEADINGS = {
    "training": "Time of a training step, ms",
    "inference": "Time of an inference step, ms",
    "peaks": "Peak memory of a training step",
    "growth": "How it grows",
    "counts": "Errors, launches, bandwidth of the training steps",
    "parts": "The parts of a memory step, ms",
    "solved": "Time to solve copy",
}

EXPLAINED = (
    "Median of rounds in which all take turns, quarters in brackets; every figure of ours only "
    "after outputs and gradients were compared with the float64 reference. Ratios are of one run. "
    f"{PEER_FAULT} {FLOOR}\n"
)


def checked_real(results: Results) -> Results:
    if results.dry:
        raise ResultsError(f"{results.path} is of a dry run; no table is made of it")
    return results


def committed(root: Path) -> list[Results]:
    """The results that are kept, CPUs first."""
    found = [checked_real(read(path)) for path in sorted(root.glob(f"bench/results/*/{NAME}"))]
    return sorted(found, key=lambda results: results.provenance["kind"] != "cpu")


def block(name: str, all_results: list[Results], file: str) -> str | None:
    """What stands between the markers of a name; None where there are no results for it."""
    if name not in TABLES:
        raise ResultsError(f"{file} has a marker bench:{name}; known are {', '.join(TABLES)}")
    found = []
    for results in all_results:
        if table := TABLES[name](results):
            if name == "growth":
                up = "../" * file.count("/")
                folder = f"{up}bench/results/{results.path.parent.name}/"
                table += "\n" + pictures(results, folder)
            tell = name != "headline"
            found.append(f"{told(results.provenance)}:\n\n{table}" if tell else table)
    return "\n".join(found) if found else None


def filled(text: str, all_results: list[Results], file: str) -> str:
    """A file's text with the tables of today between its markers.

    Raises:
        ResultsError: a marker is unknown, or not closed.
    """
    if len(re.findall("<!-- /?bench:", text)) != 2 * len(BLOCK.findall(text)):
        raise ResultsError(
            f"{file} has a marker <!-- bench:NAME --> without its <!-- /bench:NAME -->"
        )

    def replaced(match: re.Match[str]) -> str:
        table = block(match[2], all_results, file)
        return match[0] if table is None else f"{match[1]}\n{table}\n{match[4]}"

    return BLOCK.sub(replaced, text)


def report(results: Results) -> str:
    """The README.md of a folder of results."""
    warning = "**A dry run: nothing here is a measurement.**\n\n" if results.dry else ""
    found = [f"# {results.provenance['device']}\n", warning + told(results.provenance) + "\n"]
    found.append(EXPLAINED)
    for name, heading in HEADINGS.items():
        if table := TABLES[name](results):
            found.append(f"## {heading}\n\n{table}")
            if name == "growth":
                found.append(pictures(results, ""))
    if tests := results.of_kind("tests"):
        rows = [[r["job"].partition(" ")[2], r["outcome"]] for r in tests]
        found.append("## Tests\n\n" + grid(["tests", "outcome"], rows))
    if kernels := [r for r in results.of_kind("kernel") if "seconds" in r]:
        found.append("## Kernels by themselves\n\n" + kernel_table(kernels))
    if bad := [r for r in results.records if "failed" in r or "refused" in r]:
        lines = [f"- {r['job']} {r.get('provider', '')}: {r.get('failed') or r.get('refused')}"
                 for r in bad]  # fmt: skip
        found.append("## What failed\n\n" + "\n".join(lines) + "\n")
    return "\n".join(found)


def kernel_table(records: list[Record]) -> str:
    head = ["", "direction", "kernel", "us", "GB/s", "share of a copy's"]
    rows = []
    for r in records:
        median = spread(r["seconds"]).median
        rows.append(
            [r["size"], r["direction"], r["kernel"], f"{1e6 * median:.1f}",
             f"{r['least_bytes'] / median / 1e9:.1f}", f"{100 * r['share_of_copy']:.0f} %"]
        )  # fmt: skip
    return grid(head, rows)


def write_report(results: Results) -> list[Path]:
    """README.md and plots beside a result file."""
    from .plots import growth_picture

    folder = results.path.parent
    written = [
        growth_picture(results, letter, folder / picture_name(letter))
        for letter in growth.letters(results)
    ]
    write_whole(folder / "README.md", report(results))
    return [folder / "README.md", *written]


def disagreements(root: Path) -> list[str]:
    """The files whose tables are not those of the results."""
    all_results = committed(root)
    found = []
    for file in MARKED:
        text = (root / file).read_text()
        if filled(text, all_results, file) != text:
            found.append(file)
    for results in all_results:
        path = results.path.with_name("README.md")
        if not path.exists() or path.read_text() != report(results):
            found.append(str(path.relative_to(root)))
    return found


def run(options: argparse.Namespace) -> int:
    if options.folder is not None:
        for path in write_report(read(options.folder)):
            print(path)
        return 0
    if options.check:
        wrong = disagreements(options.root)
        for file in wrong:
            print(f"{file} is not what the results say; `python -m bench tables` writes it anew",
                  file=sys.stderr)  # fmt: skip
        return 1 if wrong else 0
    all_results = committed(options.root)
    for results in all_results:
        for path in write_report(results):
            print(path)
    for file in MARKED:
        path = options.root / file
        text = path.read_text()
        if (new := filled(text, all_results, file)) != text:
            write_whole(path, new)
            print(path)
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (__doc__ or "").splitlines()[0]
    parser.add_argument("--check", action="store_true", help="write nothing; do they agree?")
    parser.add_argument("--folder", type=Path, help="the report of one folder of results only")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.set_defaults(function=run)
