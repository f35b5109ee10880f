"""The hyper-parameters of published runs, as presets by name.

"paper-...": Graves et al. 2016, Extended Data Table 2. The paper optimises by RMSProp without
giving its momentum, decay and epsilon: here they are torch's own. It clips the gradients of the
LSTM's activations to [-10, 10] and no norm, so the bound on the norm here is out of reach. For bAbI
it has 16 asynchronous workers, here there is one. The weight 0.5 of the entropy in Mini-SHRDLU is
for rewards of a size that it does not give: here it is the default.

"csordas2019" and "franke2018": on bAbI, the best models of Csordas & Schmidhuber 2019 (DNC-MD) and
of Franke et al. 2018 (BiADNC). docs/variants.md tells what of these runs is not here.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ..tasks import GraphTask, InferenceTask, ShortestPathTask, ShrdluTask, TraversalTask

SIZES = ("num_layers", "hidden_size", "num_cells", "cell_size", "num_read_heads")

NO_CLIP = 1e9
ENOUGH = 10_000_000
"""More steps than any run of the paper took."""


class Preset(NamedTuple):
    """Options of a run: of the task, of the model, of the training."""

    task: dict[str, Any]
    model: dict[str, Any]
    training: dict[str, Any]


def column(
    task: dict[str, Any],
    sizes: tuple[int, ...],
    batch_size: int,
    learning_rate: float,
    **lessons: Any,
) -> Preset:
    """A column of the table, with its `SIZES`."""
    model = {**dict(zip(SIZES, sizes, strict=True)), "activation_clip": 10.0}
    training = {"optimizer": "rmsprop", "batch_size": batch_size, "learning_rate": learning_rate}
    return Preset(task, model, {**training, "clip_norm": NO_CLIP, "max_steps": ENOUGH, **lessons})


def last_lesson(kind: type[GraphTask] | type[ShrdluTask]) -> dict[str, Any]:
    """The options of a task at its last lesson."""
    return kind.lesson_options(kind.LESSONS[-1])


LESSONS = {"curriculum": "on", "lesson_pass": 0.9, "lesson_every": 100, "lesson_share": 0.1}
PATH_LESSONS = {**LESSONS, "lesson_pass": 0.8, "lesson_every": 2000, "lesson_share": 0.0}
BLOCK_LESSONS = {**LESSONS, "lesson_pass": 0.85, "lesson_every": 400}
BABI = {"tasks": "all"}
TRAVERSAL, INFERENCE = last_lesson(TraversalTask), last_lesson(InferenceTask)
SHRDLU = {
    **last_lesson(ShrdluTask),
    "extra_moves": 6,
    "decay": 0.75,
    "imitate": 0.0,
    "board": "always",
    "asks": 1,
}
PATH = {**last_lesson(ShortestPathTask), "mixing": 0.8}

CSORDAS = Preset(
    BABI,
    {
        **dict(zip(SIZES, (1, 256, 256, 64, 4), strict=True)),
        "masked_lookup": True,
        "mask_floor": 0.0,
        "deallocate": True,
    },
    {
        **{"optimizer": "rmsprop", "momentum": 0.9, "batch_size": 2, "learning_rate": 1e-4},
        **{"weight_decay": 1e-5, "clip_norm": 10.0, "max_steps": 500_000, "curriculum": "off"},
    },
)
FRANKE = Preset(
    BABI,
    {
        **dict(zip(SIZES, (1, 172, 128, 64, 4), strict=True)),
        "controller": "layer_norm_lstm",
        "bidirectional_controller": True,
        "interface_norm": True,
        "bypass_dropout": 0.1,
        "linkage": "none",
    },
    {
        **{"optimizer": "rmsprop", "momentum": 0.9, "batch_size": 32, "learning_rate": 3e-5},
        **{"clip_norm": 10.0, "max_steps": ENOUGH, "curriculum": "off"},
    },
)

PUBLISHED: dict[str, dict[str, Preset]] = {
    "babi": {
        "paper-babi-dnc1": column(BABI, (1, 256, 256, 64, 4), 1, 1e-4, curriculum="off"),
        "paper-babi-dnc2": column(BABI, (1, 256, 256, 32, 8), 1, 1e-4, curriculum="off"),
        "csordas2019": CSORDAS,
        "franke2018": FRANKE,
    },
    "traversal": {
        "paper-traversal": column(TRAVERSAL, (3, 256, 256, 50, 5), 2, 1e-5, **LESSONS),
    },
    "shortest-path": {
        "paper-shortest-path": column(PATH, (2, 256, 128, 50, 5), 1, 3e-6, **PATH_LESSONS),
    },
    "inference": {
        "paper-inference": column(INFERENCE, (3, 256, 128, 50, 5), 32, 1e-5, **LESSONS),
    },
    "shrdlu": {
        "paper-shrdlu": column(SHRDLU, (2, 250, 32, 100, 3), 32, 3e-5, **BLOCK_LESSONS),
    },
}
"""Presets by task, then by name."""
