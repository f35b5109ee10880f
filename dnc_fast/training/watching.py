"""What happens inside a model's layers, seen by hooks: gates and attention."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..baselines import StoryModel, WholePast
from ..baselines.attention import Shares
from ..dnc import DNC

LSTM_GATES = {"input gate": 0, "forget gate": 1, "output gate": 3}
GRU_GATES = {"reset gate": 0, "update gate": 1}
GATES: dict[Any, dict[str, int]] = {
    **dict.fromkeys((nn.LSTM, nn.LSTMCell), LSTM_GATES),
    **dict.fromkeys((nn.GRU, nn.GRUCell), GRU_GATES),
}
"""For each kind of layer, which part of its pre-activations each gate is."""


class Attended(NamedTuple):
    """Where a model looked.

    | field       | shape        | meaning                                                        |
    |-------------|--------------|----------------------------------------------------------------|
    | weights     | (L, K, A, S) | the shares that each of A answers takes of S places, for each  |
    |             |              | of K heads, or of K successive reads, in each of L layers      |
    | head        |              | what K counts: "head" or "read"                                |
    | asked       |              | what A counts: "answer" or "step"                              |
    | place       |              | what S counts: facts or steps                                  |
    | asked_words |              | each answer in words; None for numbers                         |
    | place_words |              | each place in words; None for numbers                          |
    """

    weights: Tensor
    head: str
    asked: str
    place: str
    asked_words: list[str] | None = None
    place_words: list[str] | None = None


def gated_layer(model: Any) -> Any:
    """The last recurrent layer of a model's controller if it is torch's LSTM or GRU, or None."""
    controller = model.cell.controller if isinstance(model, DNC) else model
    controller = getattr(controller, "controller", controller)
    layers = getattr(controller, "layers", controller)
    layer = layers[-1] if isinstance(layers, nn.ModuleList) else layers
    return layer if type(layer) in GATES else None


@contextmanager
def watched_gates(model: Any) -> Iterator[dict[str, list[Tensor]]]:
    """Collect the gates of the `gated_layer` by their names, (B, H) at each step.

    The model must be called step by step.
    """
    seen: dict[str, list[Tensor]] = {}
    layer = gated_layer(model)

    def see(layer: Any, arguments: Any, output: Any) -> None:
        for name, gate in gates(layer, arguments, output).items():
            seen.setdefault(name, []).append(gate)

    with ExitStack() as handles:
        if layer is not None:
            handles.enter_context(layer.register_forward_hook(see))
        yield seen


def gates(layer: Any, arguments: Any, output: Any) -> dict[str, Tensor]:
    """The gates of a layer in one step, by their names, (B, H); of several layers, the last one's.

    Args:
        layer: of one of the kinds in `GATES`.
        arguments, output: of its call.
    """
    inputs, state = arguments
    hidden, suffix = state[0] if isinstance(state, tuple) else state, ""
    if isinstance(layer, nn.RNNBase):  # layers one above another: (1, B, X) and (L, B, H)
        after = output[1][0] if isinstance(output[1], tuple) else output[1]
        inputs = after[-2] if layer.num_layers > 1 else inputs[0]
        hidden, suffix = hidden[-1], f"_l{layer.num_layers - 1}"
    sums: Any = 0.0
    for name, values in (("ih", inputs), ("hh", hidden)):
        bias = getattr(layer, f"bias_{name}{suffix}", None)
        sums = sums + F.linear(values, getattr(layer, f"weight_{name}{suffix}"), bias)
    parts = sums.unflatten(-1, (-1, layer.hidden_size))
    return {name: parts[:, place].sigmoid() for name, place in GATES[type(layer)].items()}


def attended(model: Any, inputs: Tensor, words: list[str] | None = None) -> Attended | None:
    """Where a model looks in one sequence; None for a model without attention.

    Args:
        model: any.
        inputs: (T, X), the whole sequence.
        words: of each step of a story.
    """
    shares: list[Tensor] = []
    layers: list[Tensor] = []

    def ask(_: Any, arguments: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return arguments, {**options, "need_weights": True, "average_attn_weights": False}

    def see_layer(_: Any, arguments: Any, output: Any) -> None:
        layers.append(output[1])

    def see_shares(module: Any, arguments: Any, output: Any) -> None:
        shares.append(output.movedim(module.dim, -1))

    with ExitStack() as handles:
        for module in model.modules():
            if isinstance(module, Shares):
                handles.enter_context(module.register_forward_hook(see_shares))
            elif isinstance(module, nn.MultiheadAttention):
                handles.enter_context(module.register_forward_pre_hook(ask, with_kwargs=True))
                handles.enter_context(module.register_forward_hook(see_layer))
        if isinstance(model, WholePast):  # no others attend
            model(inputs.unsqueeze(1))
    if layers:
        return Attended(torch.cat(layers), "head", "step", "step looked at")
    if not shares:
        return None
    if not isinstance(model, StoryModel):  # a call for each answer
        return Attended(torch.cat(shares)[None, None], "head", "answer", "step of the source")
    facts, questions = None, None
    if words is not None:
        facts, questions = sentences(words, inputs.argmax(-1) == model.config.answer_mark)
    # A call for each read.
    return Attended(torch.stack(shares)[None], "read", "answer", "fact", questions, facts)


def sentences(words: list[str], answers: Tensor) -> tuple[list[str], list[str]]:
    """The facts of a story, and the question of each answer.

    Args:
        words: of each step.
        answers: (T), bool, the steps that are answered.
    """
    facts, questions, sentence, question = [], [], [], ""
    for word, answered in zip(words, answers.tolist(), strict=True):
        if answered:
            questions.append(question)
            continue
        sentence.append(word)
        if word == ".":
            facts.append(" ".join(sentence[:-1]))
        elif word == "?":
            question = " ".join(sentence[:-1])
        if word in ".?":
            sentence = []
    return facts, questions
