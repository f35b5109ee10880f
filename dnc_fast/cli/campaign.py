"""`dnc-fast campaign`: a flagship result of the paper, trained for as long as there is time."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..files import write_text
from ..presets import CAMPAIGNS, Campaign
from ..tasks import TASKS, GraphTask
from ..tasks.base import span
from ..training import joined, read_metrics, read_run, restore_task
from ..training.checkpoint import CHECKPOINT
from ..training.metrics import metrics_file
from .options import UserError, chosen_device
from .train import NO_PRESET, add_run_options, add_way_options, check_way_options, train_all

TABLE = "campaign.md"


def add_campaign_options(parser: argparse.ArgumentParser) -> None:
    """The campaigns of `dnc-fast campaign`, each with its options."""
    names = parser.add_subparsers(title="campaigns", required=True, metavar="NAME")
    for name, campaign in CAMPAIGNS.items():
        command = names.add_parser(
            name,
            help=f"train the task {campaign.task}",
            usage=f"dnc-fast campaign {name} [OPTION ...]",
            description=f"Train the task {campaign.task}, or continue, for as long as there "
            "is time; show how far it has come beside the paper's results.",
        )
        add_run_options(command, TASKS[campaign.task], campaign.preset)
        run = command.add_argument_group("run")
        run.add_argument(
            "--out",
            type=Path,
            default=Path("runs") / f"campaign-{name}",
            metavar="FOLDER",
            help="for checkpoint, metrics, table and pictures; a run that is there is continued "
            f"(default: runs/campaign-{name})",
        )
        add_way_options(run)
        run.set_defaults(
            run=_run,
            campaign=campaign,
            task_name=campaign.task,
            command=f"campaign {name}",
            resume_flag="",
            preset=None,
            seeds=None,
        )


def _run(options: argparse.Namespace) -> int:
    check_way_options(options)
    options.resume = (options.out / CHECKPOINT).exists()
    if options.task_name == "babi" and not options.resume and not getattr(options, "data", ""):
        raise UserError("--data must name the folder or archive of bAbI; got none")
    preset = NO_PRESET if options.resume else options.campaign.preset
    with joined(chosen_device(options.device)) as ranks:
        status = train_all(options, preset, ranks)
        if ranks.is_first:
            _report(options)
    return status


def _report(options: argparse.Namespace) -> None:
    """Print the table of lessons, if there are any, and write it into the campaign's folder."""
    content = read_run(options.out)
    task, training = restore_task(content), content["training"]
    metrics = metrics_file(options.out)
    if isinstance(task, GraphTask) and metrics is not None:
        examples = training["batch_size"] * training["accumulate"]
        rows = read_metrics(metrics)
        table = lesson_table(options.campaign, task, rows, training, examples)
        write_text(options.out / TABLE, f"{table}\n")
        print(table)


def lesson_table(
    campaign: Campaign,
    task: GraphTask,
    rows: list[dict[str, Any]],
    training: dict[str, Any],
    examples: int,
) -> str:
    """A Markdown table of the lessons: when each was passed, and the known graph by then.

    Args:
        campaign: with the paper's results.
        task: the last lesson.
        rows: the metrics of the run.
        training: its options.
        examples: in a training step.
    """
    known = campaign.milestone
    lines = [
        f"| lesson | nodes | degree | length | passed at step | examples | {known} | paper's |",
        "|---|---|---|---|---|---|---|---|",
    ]
    passed = {
        row["lesson"]: row["step"]
        for row in rows
        if row["kind"] == "lesson" and row["share"] >= training["lesson_pass"]
    }
    scores = [row for row in rows if row["kind"] == "milestone" and row["name"] == known]
    lessons = task.lessons()
    for number, lesson in enumerate(lessons, 1):
        ranges = [span(getattr(lesson, low), getattr(lesson, high)) for low, high in task.RANGES]
        step = passed.get(number)
        found = [row["share"] for row in scores if step is not None and row["step"] <= step]
        if number == len(lessons):  # never tested; it is what evaluations are of
            found = [row["share"] for row in scores] if len(passed) == number - 1 else []
        cells = [str(number), *ranges]
        cells += ["", ""] if step is None else [f"{step:,}", f"{step * examples:,}"]
        cells.append(f"{100 * found[-1]:.0f} %" if found else "")
        same = len(lessons) == len(campaign.published)
        cells.append(f"{campaign.published[number - 1].known:.1f} %" if same else "")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", _present(rows, examples)])


def _present(rows: list[dict[str, Any]], examples: int) -> str:
    """Where the run stands, in words."""
    if not rows:
        return "No step has been taken."
    step = rows[-1]["step"]
    parts = [f"At step {step:,} ({step * examples:,} examples)"]
    tests = [row for row in rows if row["kind"] == "lesson"]
    if tests:
        parts.append(f"lesson {tests[-1]['lesson']}: {100 * tests[-1]['share']:.0f} % right")
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    if evaluations:
        parts.append(f"the last lesson: {100 * evaluations[-1]['solved']:.1f} %")
    last = {row["name"]: row["share"] for row in rows if row["kind"] == "milestone"}
    parts += [f"{name}: {100 * share:.0f} %" for name, share in last.items()]
    return "; ".join(parts) + "."
