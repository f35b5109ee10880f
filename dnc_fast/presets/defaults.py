"""The default model and training of each task: small enough for a CPU."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from .. import tasks
from ..baselines import ActorCritic, AnswersLast, PointerNetwork, StoryModel
from ..models import MODELS, config_type
from ..tasks import Task
from ..tasks.stories import ANSWER

SMALL = {"hidden_size": 64, "cell_size": 16, "num_read_heads": 1}
LARGER = {"hidden_size": 128, "cell_size": 32, "num_read_heads": 4}

SMALL_STEPS = {"learning_rate": 1e-3, "clip_norm": 1.0}
"""For tasks that are learned slowly."""


def model_config(task: Task, model: str = "dnc", /, **changes: Any) -> Any:
    """The default options of a model for a task, with its input and output size.

    Args:
        model: one of `MODELS`. Others than the DNC get the DNC's options as far as they have them.
        **changes: options of that model that replace the defaults.

    Raises:
        TypeError: the model has no such option.
        ValueError: the model does not fit the task.
    """
    kind = config_type(model)
    names = {one.name for one in fields(kind)}
    shared = {name: value for name, value in model_options(task).items() if name in names}
    sizes = {"input_size": task.input_size, "output_size": task.output_size}
    _check_fit(task, model)
    if isinstance(task, tasks.StoryTask) and issubclass(MODELS[model], StoryModel):
        signs = {"full_stop": ".", "question_mark": "?", "answer_mark": ANSWER}
        shared |= {name: task.vocabulary.codes[sign] for name, sign in signs.items()}
    return kind(**{**sizes, **shared, **changes})


def _check_fit(task: Task, model: str) -> None:
    """Raise unless a model can do a task."""
    kind = MODELS[model]
    if issubclass(kind, StoryModel) and not isinstance(task, tasks.StoryTask):
        known = " or ".join(map(repr, tasks.names_of(tasks.StoryTask)))
        raise ValueError(f"model {model!r} answers stories, so task must be {known}, got {task}")
    if issubclass(kind, PointerNetwork) and not isinstance(task, tasks.SortTask):
        raise ValueError(f"model {model!r} answers with places, so task must be 'sort', got {task}")
    if issubclass(kind, ActorCritic) and not isinstance(task, tasks.ShrdluTask):
        raise ValueError(
            f"model {model!r} has a value as its last output, so task must be 'shrdlu', got {task}"
        )
    if issubclass(kind, AnswersLast) and not _answers_last(task):
        raise ValueError(
            f"model {model!r} answers after the last input, so task must be one that shows a whole "
            f"sequence first, such as 'copy' or 'autoencoding', got {task}"
        )


def _answers_last(task: Task) -> bool:
    """Whether every answer of a sequence comes after its last input."""
    match task:
        case tasks.CopyTask():
            return task.num_sequences == 1
        case tasks.RepeatCopyTask() | tasks.AssociativeRecallTask():
            return True
        case tasks.PrioritySortTask() | tasks.AutoencodingTask() | tasks.SortTask():
            return True
    return False


def model_options(task: Task) -> dict[str, Any]:
    """The options of a small DNC that suits the task, as `DNCConfig` names them.

    A task that is not listed gets twice as many cells as its memory load.
    """
    match task:
        case tasks.RepeatCopyTask():
            return {**SMALL, "num_cells": max(2 * task.memory_load, 16)}  # google-deepmind/dnc's
        case tasks.AssociativeRecallTask():  # the query is written too
            cells = (task.max_items + 2) * task.item_length
            return {**SMALL, "num_cells": cells, "input_gain": 4.0}
        case tasks.KeyValueTask():
            # Only the cells can hold a pair: the controller has no state and writes are not linked
            # in time. With as many cells as pairs, writing during a query costs one of them.
            sizes = {"hidden_size": 128, "num_cells": task.memory_load, "cell_size": 40}
            return {**SMALL, **sizes, "controller": "feedforward", "linkage": "none"}
        case tasks.MappingTask():  # needs no memory
            return {**SMALL, "num_cells": 8}
        case tasks.CharactersTask():  # the controller carries most of a language
            return {**SMALL, "hidden_size": 128, "num_cells": 32}
        case tasks.BabiTask():
            return {**LARGER, "num_cells": 32}
        case tasks.GraphTask():
            return {**LARGER, "num_cells": _cells(task)}
        case tasks.GraphsInWordsTask():
            options = {"hidden_size": 64, "num_cells": _cells(task), "input_gain": 16.0}
            return {**LARGER, **options}
        case tasks.ShrdluTask():
            # With a state of its own, as of an LSTM, the controller learns to do without the cells.
            sizes = {"hidden_size": 256, "num_cells": _cells(task), "num_read_heads": 2}
            return {**LARGER, **sizes, "controller": "feedforward", "input_gain": 8.0}
    return {**SMALL, "num_cells": 2 * task.memory_load if task.memory_load else 16}


def _cells(task: tasks.GraphTask | tasks.GraphsInWordsTask | tasks.ShrdluTask) -> int:
    """Cells for all that is told in an episode, and for a question."""
    return 16 * -(-(task.memory_load + 8) // 16)


def training_options(task: Task, model: Any) -> dict[str, Any]:
    """The options of `TrainingConfig` that suit a task and a model's options.

    A task that is not listed gets none.

    Args:
        model: options of a model of any kind, see `model_config`.
    """
    match task:
        case tasks.CopyTask() if getattr(model, "controller", None) == "feedforward":
            # It learns sooner at 3e-3, but then generalises to length 16 less well.
            return {"learning_rate": 1e-3}
        case tasks.RepeatCopyTask():
            if len(task.lessons()) <= 2:
                return {**_decaying(30_000), "curriculum": "off"}
            # A rate that falls is too small before all lessons are passed.
            return {**SMALL_STEPS, "max_steps": 40_000, "spikes": "skip", "curriculum": "on"}
        case tasks.AssociativeRecallTask():
            faster = {"learning_rate": 2e-3, "warm_up": 500, "batch_size": 64}
            return {**_decaying(20_000), **faster, "curriculum": "on"}
        case tasks.KeyValueTask():
            return {**SMALL_STEPS}
        case tasks.PrioritySortTask():
            return _decaying(30_000)
        case tasks.AutoencodingTask():
            return _decaying(40_000)
        case tasks.TemporalOrderTask():
            return {"curriculum": "on"}
        case tasks.EchoTask():  # streams are long: fewer of them are enough for an evaluation
            return {"evaluation_size": 100}
        case tasks.CharactersTask():  # likewise passages
            return {"evaluation_size": 50}
        case tasks.BabiTask():
            return {
                **SMALL_STEPS,
                "max_steps": 100_000,
                "evaluate_every": 200,
                "solved_at": 0.98,
                "solved_evaluations": 2,
            }
        case tasks.GraphsInWordsTask():
            return {
                **SMALL_STEPS,
                "learning_rate": 4e-3,
                "batch_size": 32,
                "curriculum": "on",
                "lesson_every": 200,
                "max_steps": 100_000,
                "evaluate_every": 500,
                "evaluation_size": 200,
                "solved_at": 0.95,
            }
        case tasks.GraphTask():
            return {
                **SMALL_STEPS,
                "learning_rate": 2e-3,
                "batch_size": 32,
                "curriculum": "on",
                "max_steps": 100_000,
                "evaluate_every": 500,
                "evaluation_size": 500,
                "solved_at": 0.95,
                **(_PATH_LESSONS if isinstance(task, tasks.ShortestPathTask) else {}),
            }
        case tasks.ShrdluTask():
            return {
                **SMALL_STEPS,
                "learning_rate": 3e-3,
                "warm_up": 300,
                "batch_size": 64,
                "curriculum": "on",
                "lesson_pass": 0.85,
                "lesson_every": 200,
                "max_steps": 100_000,
                "evaluate_every": 1000,
                "evaluation_size": 500,
                "solved_at": 0.95,
            }
    return {}


_PATH_LESSONS = {"lesson_pass": 0.8, "lesson_share": 0.0, "lesson_every": 500}
"""As in the paper: a lesson is passed at 80 %, and no earlier lesson is mixed in."""


def _decaying(steps: int) -> dict[str, Any]:
    """Small steps that shrink to zero."""
    return {**SMALL_STEPS, "schedule": "cosine", "decay_steps": steps, "max_steps": steps}
