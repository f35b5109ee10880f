"""The official DNC (google-deepmind/dnc) written down from its equations in NumPy.

Nothing is shared with the library: its variables, the order of its gates and modes, its softplus
strengths, its sort of 1 - u', its clipping. Arrays have the batch first.

Letters: B batch, X input, H hidden size, N cells, W cell size, R read heads, Hw write heads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

EPSILON = 1e-6
Arrays = dict[str, np.ndarray]


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: np.ndarray) -> np.ndarray:
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def linear(variables: Mapping[str, np.ndarray], name: str, x: np.ndarray) -> np.ndarray:
    return x @ variables[f"dnc/{name}/w"] + variables[f"dnc/{name}/b"]


def lstm(
    variables: Mapping[str, np.ndarray], x: np.ndarray, hidden: np.ndarray, cell: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    gates = np.concatenate([x, hidden], 1) @ variables["dnc/lstm/w_gates"]
    entry, change, forget, output = np.split(gates + variables["dnc/lstm/b_gates"], 4, axis=1)
    cell = sigmoid(forget + 1) * cell + sigmoid(entry) * np.tanh(change)
    return np.tanh(cell) * sigmoid(output), cell


def content(memory: np.ndarray, keys: np.ndarray, strengths: np.ndarray) -> np.ndarray:
    """(B, heads, N)."""
    cells = np.sqrt((memory**2).sum(2) + EPSILON)
    lengths = np.sqrt((keys**2).sum(2) + EPSILON)
    similarity = np.einsum("bhw,bnw->bhn", keys, memory)
    similarity = similarity / (lengths[:, :, None] * cells[:, None] + EPSILON)
    return softmax(np.log1p(np.exp(strengths))[:, :, None] * similarity)


def allocation(usage: np.ndarray) -> np.ndarray:
    usage = EPSILON + (1 - EPSILON) * usage
    order = np.argsort(-(1 - usage), axis=1, kind="stable")  # as top_k orders equal numbers
    free = np.take_along_axis(1 - usage, order, 1)
    before = np.cumprod(np.concatenate([np.ones_like(free[:, :1]), 1 - free[:, :-1]], 1), 1)
    return np.take_along_axis(free * before, np.argsort(order, axis=1), 1)


def access(
    variables: Mapping[str, np.ndarray], hidden: np.ndarray, old: Arrays, writes: np.ndarray
) -> tuple[np.ndarray, Arrays]:
    """One step of the memory; `writes` are the last write weightings that the usage sees."""
    B, N, W = old["memory"].shape
    R, Hw = old["read_weights"].shape[1], old["write_weights"].shape[1]

    def part(name: str, *shape: int) -> np.ndarray:
        return linear(variables, f"memory_access/{name}", hidden).reshape(B, *shape)

    free = sigmoid(part("free_gate", R))
    share, gate = sigmoid(part("allocation_gate", Hw)), sigmoid(part("write_gate", Hw))
    usage = old["usage"] + (1 - old["usage"]) * (1 - (1 - writes).prod(1))
    usage = usage * (1 - free[:, :, None] * old["read_weights"]).prod(1)

    found = content(old["memory"], part("write_keys", Hw, W), part("write_strengths", Hw))
    simulated, weights = usage, []
    for head in range(Hw):
        free_cells = allocation(simulated)
        share_of_head, gate_of_head = share[:, head, None], gate[:, head, None]
        weights.append(
            gate_of_head * (share_of_head * free_cells + (1 - share_of_head) * found[:, head])
        )
        simulated = simulated + (1 - simulated) * share_of_head * gate_of_head * free_cells
    write = np.stack(weights, 1)
    erase = sigmoid(part("erase_vectors", Hw, W))
    memory = old["memory"] * (1 - write[:, :, :, None] * erase[:, :, None]).prod(1)
    memory = memory + np.einsum("bhn,bhw->bnw", write, part("write_vectors", Hw, W))

    link = (1 - write[:, :, :, None] - write[:, :, None]) * old["link"]
    link = link + write[:, :, :, None] * old["precedence"][:, :, None]
    link[:, :, np.arange(N), np.arange(N)] = 0
    precedence = (1 - write.sum(2, keepdims=True)) * old["precedence"] + write

    modes = softmax(part("read_mode", R, 1 + 2 * Hw))
    ahead = np.einsum("bhij,brj->brhi", link, old["read_weights"])
    behind = np.einsum("bhji,brj->brhi", link, old["read_weights"])
    read = modes[:, :, -1:] * content(memory, part("read_keys", R, W), part("read_strengths", R))
    read = read + np.einsum("brh,brhn->brn", modes[:, :, :Hw], behind)
    read = read + np.einsum("brh,brhn->brn", modes[:, :, Hw : 2 * Hw], ahead)
    new = (memory, usage, precedence, link, write, read)
    names = ("memory", "usage", "precedence", "link", "write_weights", "read_weights")
    return np.einsum("brn,bnw->brw", read, memory), dict(zip(names, new, strict=True))


def dnc(
    variables: Mapping[str, np.ndarray],
    x: np.ndarray,
    state: Arrays,
    clip: float | None = None,
    usage_writes: Sequence[np.ndarray] | None = None,
) -> tuple[np.ndarray, Arrays, list[np.ndarray]]:
    """Outputs (T, B, Y), the final state, and what each step's usage saw of the last writes.

    Args:
        variables, x: by their official names; (T, B, X).
        state: hidden and cell (B, H), read_vectors (B, R, W), and the fields of a `MemoryState`.
        clip: the official clip_value.
        usage_writes: from another run, in place of this run's own: since the official code stops
            gradients there, its gradients are derivatives with these fixed.
    """
    bound = np.inf if clip is None else clip
    outputs, seen = [], []
    for t in range(len(x)):
        reads = state["read_vectors"].reshape(len(x[t]), -1)
        hidden, cell = lstm(
            variables, np.concatenate([x[t], reads], 1), state["hidden"], state["cell"]
        )
        hidden, cell = hidden.clip(-bound, bound), cell.clip(-bound, bound)
        seen.append(state["write_weights"] if usage_writes is None else usage_writes[t])
        reads, memory = access(variables, hidden, state, seen[-1])
        features = np.concatenate([hidden, reads.reshape(len(reads), -1)], 1)
        outputs.append(linear(variables, "output_linear", features).clip(-bound, bound))
        state = {"hidden": hidden, "cell": cell, "read_vectors": reads, **memory}
    return np.stack(outputs), state, seen
