"""Files made from results: `python -m bench tables`.

Each folder of bench/results/ gets a README.md and plots. In README.md and docs/ the text between
`<!-- bench:NAME -->` and `<!-- /bench:NAME -->` is replaced by the table of that name; if there are
no results for it, the text stays. `--check` writes nothing and fails if files and results disagree.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from ..harness.provenance import ROOT
from ..harness.providers import FLOOR, PEER_FAULT
from ..harness.results import NAME, Results, ResultsError, read, write_whole
from ..harness.sizes import LARGE
from . import growth
from .tables import TABLES

MARKED = ("README.md", "docs/performance.md", "docs/results.md", "docs/large_memories.md")
BLOCK = re.compile(r"(<!-- bench:([\w-]+) -->\n)(.*?)(<!-- /bench:\2 -->)", re.S)

HEADINGS = {
    "training": "Time of a training step, ms",
    "inference": "Time of an inference step, ms",
    "peaks": "Peak memory of a training step",
    "growth": "How it grows",
    "large-time": "Large memories by linkage: ms a time step of training, fastest round",
    "large-peaks": "Large memories by linkage: peak of a training step",
    "counts": "Errors, launches, bandwidth of the training steps",
    "parts": "The parts of a memory step, ms",
    "linkages": "Steps with other linkages, ms",
    "solved": "Time to solve copy",
    "tests": "Tests",
    "session": "What was done",
    "kernels": "Kernels by themselves",
}

EXPLAINED = (
    "Median of rounds in which all take turns, quarters in brackets; every figure of ours only "
    "after outputs and gradients were compared with the float64 reference. Ratios are of one run. "
    f"{PEER_FAULT} {FLOOR}\n"
)


def picture_name(study: str) -> str:
    return f"growth_{study.replace(' ', '_')}.png"


def pictures(name: str, results: Results, folder: str) -> str:
    """Links to the plots that belong to a table. folder: of the results, seen from the page."""
    studies = {"growth": growth.letters(results), "large-time": [LARGE]}.get(name, [])
    return "".join(
        f"\n![A training step as {study[-1]} grows]({folder}{picture_name(study)})\n"
        for study in studies
    )


def committed(root: Path) -> list[Results]:
    """The results in the repository, those of CPUs first."""
    found = [read(path) for path in sorted(root.glob(f"bench/results/**/{NAME}"))]
    for results in found:
        if results.dry:
            raise ResultsError(f"{results.path} is of a dry run; no table is made of it")
    return sorted(found, key=lambda results: results.provenance["kind"] != "cpu")


def block(name: str, all_results: list[Results], file: str) -> str | None:
    """The text between the markers of a name; None if there are no results for it."""
    if name not in TABLES:
        raise ResultsError(f"{file} has a marker bench:{name}; known are {', '.join(TABLES)}")
    found = []
    for results in all_results:
        if table := TABLES[name](results):
            _, results_folder, place = results.path.parent.as_posix().partition("bench/results/")
            folder = f"{'../' * file.count('/')}{results_folder}{place}/"
            table += pictures(name, results, folder)
            tell = name != "headline"
            found.append(f"{results.told}:\n\n{table}" if tell else table)
    return "\n".join(found) if found else None


def filled(text: str, all_results: list[Results], file: str) -> str:
    """A file's text with current tables between its markers.

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
    found = [f"# {results.provenance['device']}\n", warning + results.told + "\n"]
    found.append(EXPLAINED)
    for name, heading in HEADINGS.items():
        if table := TABLES[name](results):
            found.append(f"## {heading}\n\n{table}{pictures(name, results, '')}")
    if bad := [r for r in results.records if "failed" in r or "refused" in r]:
        lines = [f"- {r['job']} {r.get('provider', '')}: {r.get('failed') or r.get('refused')}"
                 for r in bad]  # fmt: skip
        found.append("## What failed\n\n" + "\n".join(lines) + "\n")
    return "\n".join(found)


def write_report(results: Results) -> list[Path]:
    """README.md and plots beside a result file."""
    from .plots import growth_picture

    folder = results.path.parent
    studies = growth.letters(results) + [LARGE] * bool(growth.curves(results, LARGE, "seconds"))
    written = [growth_picture(results, name, folder / picture_name(name)) for name in studies]
    write_whole(folder / "README.md", report(results))
    return [folder / "README.md", *written]


def outdated(root: Path) -> dict[Path, str]:
    """The files whose tables are not those of the results, and what they should be."""
    all_results = committed(root)
    texts = {root / file: filled((root / file).read_text(), all_results, file) for file in MARKED}
    texts |= {results.path.with_name("README.md"): report(results) for results in all_results}
    return {
        path: text for path, text in texts.items() if not path.exists() or path.read_text() != text
    }


def run(options: argparse.Namespace) -> int:
    if options.folder is not None:
        print(*write_report(read(options.folder)), sep="\n")
        return 0
    wrong = outdated(options.root)
    if options.check:
        for path in wrong:
            print(f"{path.relative_to(options.root)} does not agree with the results; "
                  "`python -m bench tables` rewrites it", file=sys.stderr)  # fmt: skip
        return 1 if wrong else 0
    for path, text in wrong.items():
        write_whole(path, text)
        print(path)
    for results in committed(options.root):
        print(*write_report(results), sep="\n")
    return 0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (__doc__ or "").splitlines()[0]
    parser.add_argument("--check", action="store_true", help="write nothing; fail if they disagree")
    parser.add_argument("--folder", type=Path, help="the report of one folder of results only")
    parser.add_argument("--root", type=Path, default=ROOT, help=argparse.SUPPRESS)
    parser.set_defaults(function=run)
