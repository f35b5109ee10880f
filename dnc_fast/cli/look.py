"""`dnc-fast eval` and `dnc-fast show`: a trained model's score and pictures."""

from __future__ import annotations

import argparse
import math
from importlib import util
from pathlib import Path
from typing import Any

import torch

from .. import pictures
from ..checks import check_integer
from ..config import DNCConfig
from ..dnc import DNC
from ..files import write_text
from ..models import model_name
from ..tasks import ShrdluTask, Task, read_episode
from ..training import (
    Evaluation,
    describe,
    evaluate,
    evaluate_by_part,
    foresight,
    guess,
    held_out_size,
    predictions,
    probe,
    read_metrics,
    read_trained,
    restore_model,
    restore_task,
    transcript,
)
from ..training.checkpoint import model_kind, task_kind
from ..training.evaluation import FIGURES
from ..training.metrics import metrics_file
from .compiling import shown_compiling
from .models import check_model_options
from .options import (
    UserError,
    add_checkpoint,
    add_device,
    add_fields,
    check_folder,
    chosen_checkpoint,
    chosen_device,
    given,
    parse_change,
)

CHANGES = ("num_cells", "linkage", "link_fan_out", "link_history", "read_topk", "write_topk")
"""Options of a model that no parameter depends on, so they may differ from those in training."""


def add_eval_options(parser: argparse.ArgumentParser) -> None:
    """The options of `dnc-fast eval`."""
    _add_checkpoint_options(parser)
    parser.add_argument(
        "--sequences", type=int, metavar="INT", help="how many (default: the run's evaluation size)"
    )
    parser.add_argument(
        "--show", type=int, metavar="INT", help="also print this many sequences with the answers"
    )
    parser.epilog = (
        "The model's scores are shown beside those of guessing: always the most frequent answer, "
        "or random steps where a path is asked for."
    )
    parser.set_defaults(run=_evaluate)


def add_show_options(parser: argparse.ArgumentParser) -> None:
    """The options of `dnc-fast show`."""
    _add_checkpoint_options(parser)
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER", help="for the pictures (default: RUN/show)"
    )
    parser.add_argument(
        "--html",
        type=Path,
        nargs="?",
        const=Path(),
        metavar="FILE",
        help="instead of pictures, write a page to walk through a sequence step by step "
        "(default: viewer.html in the folder for the pictures)",
    )
    parser.set_defaults(run=_show)


def _add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    add_checkpoint(parser)
    parser.add_argument(
        "--task",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="options of the task to change, such as max_length=16",
    )
    add_fields(parser, DNCConfig, CHANGES, dict.fromkeys(CHANGES, "as trained"))
    add_device(parser)
    parser.add_argument(
        "--seed", type=int, metavar="INT", help="seed of the sequences (default: the run's)"
    )


def _evaluate(options: argparse.Namespace) -> int:
    if options.show is not None:
        check_integer("--show", options.show, minimum=1)
    with shown_compiling():
        model, task, training = _restore(options)
        print_scores(model, task, training, options.sequences)
        if options.show is not None:
            print(f"\n{predictions(model, task, options.show, training['seed'])}")
    return 0


def print_scores(model: Any, task: Task, training: dict[str, Any], sequences: int | None) -> None:
    """Print the scores of a model."""
    if sequences is None:
        sequences = held_out_size(task, training["evaluation_size"])
    check_integer("--sequences", sequences, minimum=1)
    seed = training["seed"]
    result, parts = evaluate_by_part(model, task, sequences, seed)
    cells = getattr(model.config, "num_cells", None)
    size = model_name(model.config) if cells is None else f"{cells} cells"
    print(f"{task}; {size}, seed {seed}")
    print(
        f"{sequences} held-out sequences: {_figures(task, result)}, "
        f"loss {result.loss:.5f} {task.loss_unit or f'nats per {task.unit}'}"
    )
    print(f"by guessing: {_figures(task, guess(task, sequences, seed))}")
    for name, part in task.parts().items():
        if name not in parts:
            parts[name] = evaluate(model, part, sequences, seed)
    print_parts(task, parts, sequences, seed)
    if isinstance(task, ShrdluTask) and task.board == "always" and isinstance(model, DNC):
        print(f"\n{foresight(model, task, seed)}")


def print_parts(task: Task, parts: dict[str, Evaluation], sequences: int, seed: int) -> None:
    """Print the table of scores by part, if there are any, beside those of guessing."""
    figure = task.parts_goal or task.goal
    if parts:
        guesses = {
            name: getattr(guess(part, sequences, seed), figure)
            for name, part in task.parts().items()
        }
        shares = {name: getattr(score, figure) for name, score in parts.items()}
        print(f"\n{task.parts_table(shares, guesses)}")


def _figures(task: Task, result: Evaluation) -> str:
    """The published figures, and the share of right answers where that is another one."""
    words = describe(task, result)
    if "right" in task.published or math.isclose(result.right, result.solved):
        return words
    return f"{words}, {FIGURES['right'](result, task.unit)}"


def _show(options: argparse.Namespace) -> int:
    model, task, training = _restore(options)
    folder = chosen_checkpoint(options)
    folder = folder if folder.is_dir() else folder.parent
    shown = folder if options.pretrained is None else Path("runs") / options.pretrained
    out = options.out or shown / "show"  # the run's own pictures stay as they are
    check_folder("--out", out)
    with shown_compiling():
        if options.html is None:
            draw(model, task, training["seed"], folder, out)
        else:
            page = options.html if options.html.name else out / "viewer.html"
            check_folder("--html", page.parent)
            if page.is_dir():
                raise UserError(f"--html must name a file, got the folder {page}")
            write_page(model, task, training["seed"], page)
    return 0


def _restore(options: argparse.Namespace) -> tuple[Any, Task, dict[str, Any]]:
    """The model, task and training options (with the seed) that the user asks for."""
    options.device = chosen_device(options.device)
    content = read_trained(chosen_checkpoint(options))
    kind = task_kind(content)
    task = restore_task(content, **dict(parse_change(kind, change) for change in options.task))
    changes = given(options, DNCConfig, CHANGES)
    check_model_options(model_kind(content), changes)
    model = restore_model(content, **changes).to(options.device)
    training = dict(content["training"])
    if options.seed is not None:
        check_integer("--seed", options.seed, minimum=0)
        training["seed"] = options.seed
    return model, task, training


def write_page(model: Any, task: Task, seed: int, path: Path) -> None:
    """Write a page on which to walk through a held-out sequence step by step."""
    seen = probe(model, task, seed)
    if seen.trace is None:
        kind = model_name(model.config)
        raise UserError(f"--html shows the memory of a DNC, got a run of the model {kind!r}")
    data = (seen.inputs, seen.outputs, seen.targets, seen.mask, seen.trace, str(task))
    texts, graph = None, None
    if seen.words is not None:
        right, said = (task.words(part) or [] for part in (seen.targets, seen.outputs))
        texts = pictures.Transcript(seen.words, right, said)
    if seen.names is not None:
        episode = read_episode(*data[:3], seen.names)
        graph = pictures.Graph(list(episode.told.values()), episode.wanted, episode.answered)
        texts = pictures.Transcript(*episode.words(len(seen.inputs)))
    links = model.config.linkage == "dense"
    page = pictures.viewer_page(*data, task.num_classes, texts, graph, links)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, page)
    print(path)


def can_draw() -> bool:
    """Whether pictures can be drawn; if not, what is missing is printed."""
    if util.find_spec("matplotlib") is None:
        print("no pictures: they need matplotlib, `pip install matplotlib` installs it")
        return False
    return True


def draw(model: Any, task: Task, seed: int, run: Path, out: Path) -> None:
    """Draw how a run learned, and what memory and controller do during a held-out sequence."""
    if not can_draw():
        return

    def save(figure: Any, name: str) -> None:
        print(pictures.save_picture(figure, out / f"{name}.png"))

    title = str(task)
    metrics = metrics_file(run)
    if metrics is not None:
        rows = read_metrics(metrics)
        train, evaluations, lessons, spikes = (
            [row for row in rows if row["kind"] == kind]
            for kind in ("train", "evaluation", "lesson", "spike")
        )
        curve = pictures.learning_curve(train, evaluations, title, lessons, task.unit, spikes)
        save(curve, "learning_curve")
    seen = probe(model, task, seed)
    inputs, targets, mask, outputs, *_ = seen
    words = seen.words
    if seen.trace is not None:
        data = (inputs, outputs, targets, mask, seen.trace, title)
        save(pictures.memory_view(*data, task.num_classes, words), "memory")
    states = (inputs, outputs, seen.hidden, mask, seen.trace, title)
    save(pictures.hidden_view(*states, seen.cells, words), "hidden")
    if seen.gates:
        units = (inputs, outputs, seen.hidden, seen.gates, mask, title)
        save(pictures.gates_view(*units, words), "gates")
    if seen.looks is not None:
        save(pictures.attention_view(title=title, **seen.looks._asdict()), "attention")
    if seen.moments:
        links = [moment.link for moment in seen.moments if moment.link is not None]
        contents = pictures.contents_view(
            [moment.step for moment in seen.moments],
            torch.stack([moment.memory for moment in seen.moments]),
            torch.stack(links) if links else None,
            title,
        )
        save(contents, "contents")
    if words is not None:
        right, said = (task.words(part) or [] for part in (targets, outputs))
        print(transcript(words, mask, right, said))
    account = task.account(inputs, targets)
    if account is not None:
        print(account.text)
        if seen.trace is not None:
            save(pictures.read_view(account.told, seen.trace, title, task.unit), "reads")
    if seen.names is None:
        return
    episode = read_episode(inputs, outputs, targets, seen.names)
    print(episode)
    triples = list(episode.told.values())
    save(pictures.graph_view(triples, episode.wanted, episode.answered, title), "graph")
    told = {step: ", ".join(triple) for step, triple in episode.told.items()}
    if seen.trace is not None:
        save(pictures.read_view(told, seen.trace, title), "reads")
