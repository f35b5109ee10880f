"""A plugin of pytest that writes down each test as it ends, so that a run that is cut still tells.

`TEST_LOG=FOLDER pytest -p bench.test_log`: a line for each test in tests.jsonl, failures in full in
failures.txt. Tests that had passed at `begin` are left out.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

LOG, FAILURES, PASSED = "tests.jsonl", "failures.txt", "passed.txt"
SHOWN = 3000
"""The last characters of a failure that are kept."""


def outcomes(folder: Path) -> dict[str, str]:
    """How each test ended last."""
    path = folder / LOG
    lines = path.read_text().splitlines() if path.exists() else []
    return {test["test"]: test["outcome"] for test in map(json.loads, lines)}


def begin(folder: Path) -> None:
    """Note which tests have passed or were skipped; the next run leaves them out."""
    folder.mkdir(parents=True, exist_ok=True)
    passed = [test for test, outcome in outcomes(folder).items() if outcome != "failed"]
    (folder / PASSED).write_text("".join(test + "\n" for test in passed))


def counts(folder: Path) -> dict[str, int]:
    """How many tests ended how."""
    return dict(Counter(outcomes(folder).values()))


def pytest_configure(config: Any) -> None:
    folder = Path(os.environ["TEST_LOG"])
    config.pluginmanager.register(Selection(folder))
    if not hasattr(config, "workerinput"):  # of pytest-xdist: its controller hears of all tests
        config.pluginmanager.register(Log(folder))


class Selection:
    """Leaves out what has passed."""

    def __init__(self, folder: Path) -> None:
        path = folder / PASSED
        self._passed = set(path.read_text().splitlines() if path.exists() else ())

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        known = [item for item in items if item.nodeid in self._passed]
        if known:
            config.hook.pytest_deselected(items=known)
            items[:] = [item for item in items if item.nodeid not in self._passed]


class Log:
    """Writes down each test."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        line = {"test": report.nodeid, "outcome": report.outcome}
        with open(self._folder / LOG, "a") as file:
            file.write(json.dumps({**line, "seconds": round(report.duration, 2)}) + "\n")
        if report.failed:
            with open(self._folder / FAILURES, "a") as file:
                text = report.longreprtext[-SHOWN:]
                file.write(f"{report.nodeid} ({report.duration:.1f} s)\n{text}\n{'-' * 80}\n")
