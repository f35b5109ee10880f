"""Published results on bAbI, trained on all 20 tasks at once, in a table with our own."""

from __future__ import annotations

from typing import NamedTuple

FAILED = 5.0
"""A task is failed if more than this percentage of its questions are wrong."""


class Published(NamedTuple):
    """The errors on a task in per cent (Graves et al. 2016, Extended Data Table 1).

    The best of 20 runs of each model, and the mean and standard deviation of all 20.
    """

    best_lstm: float
    best_ntm: float
    best_dnc1: float
    best_dnc2: float
    mean_dnc1: float
    deviation_dnc1: float
    mean_dnc2: float
    deviation_dnc2: float


PUBLISHED = {
    1: Published(24.5, 31.5, 0.0, 0.0, 9.0, 12.6, 16.2, 13.7),
    2: Published(53.2, 54.5, 1.3, 0.4, 39.2, 20.5, 47.5, 17.3),
    3: Published(48.3, 43.9, 2.4, 1.8, 39.6, 16.4, 44.3, 14.5),
    4: Published(0.4, 0.0, 0.0, 0.0, 0.4, 0.7, 0.4, 0.3),
    5: Published(3.5, 0.8, 0.5, 0.8, 1.5, 1.0, 1.9, 0.6),
    6: Published(11.5, 17.1, 0.0, 0.0, 6.9, 7.5, 11.1, 7.1),
    7: Published(15.0, 17.8, 0.2, 0.6, 9.8, 7.0, 15.4, 7.1),
    8: Published(16.5, 13.8, 0.1, 0.3, 5.5, 5.9, 10.0, 6.6),
    9: Published(10.5, 16.4, 0.0, 0.2, 7.7, 8.3, 11.7, 7.4),
    10: Published(22.9, 16.6, 0.2, 0.2, 9.6, 11.4, 14.7, 10.8),
    11: Published(6.1, 15.2, 0.0, 0.0, 3.3, 5.7, 7.2, 8.1),
    12: Published(3.8, 8.9, 0.1, 0.0, 5.0, 6.3, 10.1, 8.1),
    13: Published(0.5, 7.4, 0.0, 0.1, 3.1, 3.6, 5.5, 3.4),
    14: Published(55.3, 24.2, 0.3, 0.4, 11.0, 7.5, 15.0, 7.4),
    15: Published(44.7, 47.0, 0.0, 0.0, 27.2, 20.1, 40.2, 11.1),
    16: Published(52.6, 53.6, 52.4, 55.1, 53.6, 1.9, 54.7, 1.3),
    17: Published(39.2, 25.5, 24.1, 12.0, 32.4, 8.0, 30.9, 10.1),
    18: Published(4.8, 2.2, 4.0, 0.8, 4.2, 1.8, 4.3, 2.1),
    19: Published(89.5, 4.3, 0.1, 3.9, 64.6, 37.4, 75.8, 30.4),
    20: Published(1.3, 1.5, 0.0, 0.0, 0.0, 0.1, 0.0, 0.0),
}

JOINT_MEANS = (
    # model, mean error and tasks failed over all 20, mean and standard deviation of its runs
    ("DNC1, best run (Graves 2016)", "4.3", "2"),
    ("DNC2, best run (Graves 2016)", "3.8", "2"),
    ("DNC, mean of runs (Graves 2016)", "16.7 +- 7.6", "11.2 +- 5.4"),
    ("DNC (Rae 2016)", "12.8 +- 4.7", "8.2"),
    ("SDNC (Rae 2016)", "6.4 +- 2.5", "4.1"),
    ("DNC (Csordas 2019)", "16.9 +- 5.2", ""),
    ("DNC, masked and de-allocating (Csordas 2019)", "9.5 +- 1.6", ""),
    ("ADNC (Franke 2018)", "6.3 +- 2.7", ""),
    ("bidirectional ADNC (Franke 2018)", "3.2 +- 0.5", ""),
    ("EntNet", "9.7 +- 2.6", ""),
)


def error_table(errors: dict[int, float], guesses: dict[int, float], ours: str = "ours") -> str:
    """Errors by task in per cent beside the published ones, as Markdown.

    The means of the published columns are over the same tasks as ours. If these are all 20, a
    second table compares the mean with other papers.

    Args:
        errors: a model's, by task.
        guesses: those of guesses.
        ours: what the errors are called.
    """
    head = ["task", ours, "guessing", "LSTM, best", "NTM, best", "DNC1, best", "DNC2, best"]
    head += ["DNC1, mean of 20", "DNC2, mean of 20"]
    rows = []
    for task, error in sorted(errors.items()):
        known = PUBLISHED[task]
        means = f"{known.mean_dnc1} +- {known.deviation_dnc1}"
        means_2 = f"{known.mean_dnc2} +- {known.deviation_dnc2}"
        own = (f"{error:.1f}", f"{guesses[task]:.1f}")
        rows.append([str(task), *own, *map(str, known[:4]), means, means_2])
    columns = [list(errors.values()), [guesses[task] for task in errors]]
    columns += [[PUBLISHED[task][place] for task in errors] for place in (0, 1, 2, 3, 4, 6)]
    failed = [str(sum(error > FAILED for error in column)) for column in columns[:6]]
    rows.append(["mean", *(f"{sum(column) / len(column):.1f}" for column in columns)])
    rows.append([f"failed (> {FAILED:g} %)", *failed, "", ""])
    tables = markdown(head, rows)
    if len(errors) == len(PUBLISHED):
        mean = [ours, f"{sum(columns[0]) / len(errors):.1f}", failed[0]]
        others = [list(row) for row in JOINT_MEANS]
        tables += "\n\n" + markdown(["all 20 tasks", "mean error", "failed"], [mean, *others])
    return tables


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
