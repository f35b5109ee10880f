"""An interactive page about one sequence: what the memory did at each step, in one HTML file."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..trace import Trace
from .arguments import TRACE_SHAPES, checked
from .graph import Triple, spread_out
from .memory import wrong_outputs
from .panels import pool_rows
from .reads import triples_read

PAGE = Path(__file__).parent / "page"
SCRIPTS = ("errors", "data", "drawing", "panels", "moment", "map", "main")
"""In the order in which the page runs them."""

MOST_CELLS = 256
"""Larger memories are shown without their contents, and by the largest of neighbouring cells."""

LONGEST_ON_AXIS = 16
"""Letters of a word; longer ones do not go on the time axis."""

BY_CELL = ("usage", "allocation_weights", "write_weights", "read_weights")
WRITTEN = ("erase_vectors", "write_vectors")


class Transcript(NamedTuple):
    """A sequence in words, a text for each of T steps; "" where there is none."""

    heard: Sequence[str]
    wanted: Sequence[str]
    answered: Sequence[str]


class Graph(NamedTuple):
    """The triples told in the first steps, one a step, and those of the right and given answers."""

    told: Sequence[Triple]
    wanted: Sequence[Triple]
    answered: Sequence[Triple]


def viewer_page(
    inputs: Tensor,
    outputs: Tensor,
    targets: Tensor,
    mask: Tensor,
    trace: Trace,
    title: str,
    num_classes: int = 0,
    transcript: Transcript | None = None,
    graph: Graph | None = None,
    links: bool = True,
) -> str:
    """A self-contained HTML page to walk through a sequence step by step.

    The page recalculates memory and link matrices from the write weightings, erase and write
    vectors, starting from an empty memory. Values are stored as float16, or as uint8 where that
    changes nothing. Nothing is loaded from elsewhere.

    Args:
        inputs, outputs, targets, mask, trace, title, num_classes: as for `memory_view`.
        transcript: shown instead of inputs, targets and outputs.
        graph: of a graph task; its map shows the triple that each head reads.
        links: whether the link is a matrix, as with `linkage="dense"`.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a shape or the length of a text does not fit.
    """
    trace, (inputs, outputs, targets, mask) = checked(
        trace, inputs=inputs, outputs=outputs, targets=targets, mask=mask
    )
    steps, cells = trace.usage.shape
    small = cells <= MOST_CELLS
    fields = [name for name in TRACE_SHAPES if small or name not in WRITTEN]
    arrays = {name: getattr(trace, name) for name in fields}
    arrays |= {"usage": trace.usage.unsqueeze(1), "mask": (mask != 0).float()}
    for name in BY_CELL:
        arrays[name] = torch.stack(
            [pool_rows(head, MOST_CELLS)[0] for head in arrays[name].unbind(1)], 1
        )
    if transcript is None:
        wrong = wrong_outputs(outputs, targets, mask != 0, num_classes).float()
        arrays.update(inputs=inputs, outputs=outputs, targets=targets, wrong=wrong)
    data: dict[str, Any] = {
        "steps": steps,
        "cells": cells,
        "pool": -(-cells // MOST_CELLS),
        "contents": small,
        "links": links and small,
        "classes": num_classes,
        "words": transcript and _texts(transcript, steps),
        "axis_words": transcript is not None
        and max(map(len, transcript.heard), default=0) <= LONGEST_ON_AXIS,
        "graph": None,
    }
    if graph is not None:
        first = _first(graph, steps)
        data["graph"], arrays["places"] = _map(graph)
        write = trace.write_weights.sum(1)
        arrays["triple_shares"] = triples_read(trace.read_weights, write, first)
    data["arrays"] = {name: encode(array) for name, array in arrays.items()}
    return _fill(title, data)


def encode(array: Tensor) -> dict[str, Any]:
    """An array as the page reads it: type, shape, and base64 of its little-endian values."""
    exact = array.to(torch.uint8)
    whole = torch.equal(exact.to(array.dtype), array)
    kind, values = ("uint8", exact.numpy()) if whole else ("float16", array.half().numpy())
    packed = base64.b64encode(values.astype(values.dtype.newbyteorder("<")).tobytes())
    return {"type": kind, "shape": list(array.shape), "data": packed.decode()}


def _texts(transcript: Transcript, steps: int) -> Mapping[str, Sequence[str]]:
    for name, texts in transcript._asdict().items():
        if len(texts) != steps:
            raise ValueError(
                f"transcript.{name} must hold a text for each of {steps} steps, got {len(texts)}"
            )
    return transcript._asdict()


def _first(graph: Graph, steps: int) -> int:
    """The first step after the triples."""
    if not 0 < len(graph.told) < steps:
        raise ValueError(
            f"graph.told must hold a triple for each of the first of {steps} steps, but not for "
            f"all, got {len(graph.told)}"
        )
    return len(graph.told)


def _map(graph: Graph) -> tuple[dict[str, Any], Tensor]:
    """The graph with numbers for its nodes, and their positions in the unit square."""
    ends = [(source, end) for triples in graph for source, _, end in triples]
    nodes = list(dict.fromkeys(name for pair in ends for name in pair))
    number = {name: place for place, name in enumerate(nodes)}
    content: dict[str, Any] = {
        kind: [(number[source], edge, number[end]) for source, edge, end in triples]
        for kind, triples in graph._asdict().items()
    }
    places = spread_out(len(nodes), [(number[source], number[end]) for source, end in ends])
    return content | {"nodes": nodes, "first": len(graph.told)}, places.float()


def _fill(title: str, data: Mapping[str, Any]) -> str:
    """The page with its parts; no text of the user's can end the element that it stands in."""
    # All is escaped that HTML could take for a tag, a comment or an entity within a script.
    packed = re.sub("[<>&]", lambda found: f"\\u{ord(found[0]):04x}", json.dumps(data))
    parts = {
        "title": html.escape(title),
        "data": packed,
        "style": (PAGE / "viewer.css").read_text(encoding="utf-8"),
        "script": "".join((PAGE / f"{name}.js").read_text(encoding="utf-8") for name in SCRIPTS),
    }
    template = (PAGE / "viewer.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)
