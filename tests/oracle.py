"""The DNC a second time: scalar loops over float64 arrays, straight from the paper's equations.

Nothing here is shared with the library, and nothing is vectorised, so that a slip of broadcasting,
of an axis or of time (old memory for new, p_t for p_{t-1}) cannot be made twice. Graves et al.
2016, Methods; several write heads as in google-deepmind/dnc.

Letters: B batch, T steps, N cells, W cell size, R read heads, Hw write heads, H hidden size.
Functions are of one sequence (no B); `batched` takes them through a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

EPSILON = 1e-6
ROBUST_GRID = 2.0**-8

Arrays = dict[str, np.ndarray]


# Activations


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def oneplus(x: float) -> float:
    """1 + log(1 + e^x), from the side on which e^|x| does not overflow."""
    return 1 + max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def softmax(scores: Sequence[float]) -> np.ndarray:
    exponentials = [math.exp(score - max(scores)) for score in scores]
    return np.array([value / sum(exponentials) for value in exponentials])


def each(function: Callable[[float], float], array: np.ndarray) -> np.ndarray:
    return np.array([function(value) for value in array.flat]).reshape(array.shape)


# The memory


def split_interface(raw: np.ndarray, W: int, R: int, Hw: int) -> Arrays:
    """The raw vector, cut in the published order and activated."""
    position = 0

    def take(*shape: int) -> np.ndarray:
        nonlocal position
        start, position = position, position + math.prod(shape)
        return raw[start:position].reshape(shape)

    interface = {
        "read_keys": take(R, W),
        "read_strengths": each(oneplus, take(R)),
        "write_keys": take(Hw, W),
        "write_strengths": each(oneplus, take(Hw)),
        "erase_vectors": each(sigmoid, take(Hw, W)),
        "write_vectors": take(Hw, W),
        "free_gates": each(sigmoid, take(R)),
        "allocation_gates": each(sigmoid, take(Hw)),
        "write_gates": each(sigmoid, take(Hw)),
        "read_modes": np.array([softmax(modes) for modes in take(R, 1 + 2 * Hw)]),
    }
    assert position == len(raw), (position, len(raw))
    return interface


def retention(free_gates: np.ndarray, read_weights: np.ndarray) -> np.ndarray:
    """psi_i = prod_r (1 - f_r wr_{r,i})."""
    R, N = read_weights.shape
    psi = np.ones(N)
    for i in range(N):
        for r in range(R):
            psi[i] *= 1 - free_gates[r] * read_weights[r, i]
    return psi


def update_usage(usage: np.ndarray, write_weights: np.ndarray, psi: np.ndarray) -> np.ndarray:
    """u_i <- (u_i + (1 - u_i) (1 - prod_h (1 - ww_{h,i}))) psi_i."""
    Hw, N = write_weights.shape
    new = np.zeros(N)
    for i in range(N):
        untouched = 1.0
        for h in range(Hw):
            untouched *= 1 - write_weights[h, i]
        new[i] = (usage[i] + (1 - usage[i]) * (1 - untouched)) * psi[i]
    return new


def allocation_weighting(usage: np.ndarray, order: str = "exact") -> np.ndarray:
    """a_i = (1 - u'_i) prod of u'_j over the j that come before i, by (key, index)."""
    N = len(usage)
    lifted = [EPSILON + (1 - EPSILON) * u for u in usage]
    # round() of Python rounds half to even.
    keys = [round(u / ROBUST_GRID) for u in lifted] if order == "robust" else lifted
    allocation = np.zeros(N)
    for i in range(N):
        allocation[i] = 1 - lifted[i]
        for j in range(N):
            if (keys[j], j) < (keys[i], i):
                allocation[i] *= lifted[j]
    return allocation


def smooth_allocation_weighting(usage: np.ndarray, kind: str, parameter: float) -> np.ndarray:
    """Shares of 1 - prod u': f^power or e^(f / temperature); of free cells the first count more."""
    lifted = [EPSILON + (1 - EPSILON) * u for u in usage]
    total = 1 - math.prod(lifted)
    free = [(1 - u + EPSILON) * (1 - 0.5 * n / len(lifted)) for n, u in enumerate(lifted)]
    if kind == "proportional":
        shares = [f**parameter for f in free]
    else:
        shares = [math.exp(f / parameter) for f in free]
    return np.array([total * share / sum(shares) for share in shares])


def cosine_similarity(key: np.ndarray, cell: np.ndarray) -> float:
    dot = key_square = cell_square = 0.0
    for w in range(len(key)):
        dot += key[w] * cell[w]
        key_square += key[w] ** 2
        cell_square += cell[w] ** 2
    return dot / (math.sqrt(key_square + EPSILON) * math.sqrt(cell_square + EPSILON) + EPSILON)


def similarity_of(kind: str, key: np.ndarray, cell: np.ndarray) -> float:
    if kind == "cosine":
        return cosine_similarity(key, cell)
    total = 0.0
    for k, m in zip(key, cell, strict=True):
        total += {"euclidean": (k - m) ** 2, "manhattan": abs(k - m), "dot": k * m}[kind]
    if kind == "dot":
        return total
    return -total if kind == "manhattan" else -math.sqrt(total + EPSILON)


def content_weighting(
    key: np.ndarray,
    strength: float,
    memory: np.ndarray,
    mask: np.ndarray | None = None,
    similarity: str = "cosine",
) -> np.ndarray:
    if mask is not None:
        key, memory = key * mask, memory * mask
    return softmax([strength * similarity_of(similarity, key, cell) for cell in memory])


def write_weightings(
    interface: Arrays, usage: np.ndarray, memory: np.ndarray, order: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The write, allocation and write content weightings, (Hw, N) each."""
    Hw, N = len(interface["write_gates"]), len(usage)
    written, allocated, looked_up = (np.zeros((Hw, N)) for _ in range(3))
    simulated = usage.copy()
    for h in range(Hw):
        gate, mix = interface["write_gates"][h], interface["allocation_gates"][h]
        allocated[h] = allocation_weighting(simulated, order)
        looked_up[h] = content_weighting(
            interface["write_keys"][h], interface["write_strengths"][h], memory
        )
        for i in range(N):
            written[h, i] = gate * (mix * allocated[h, i] + (1 - mix) * looked_up[h, i])
            simulated[i] += (1 - simulated[i]) * mix * gate * allocated[h, i]
    return written, allocated, looked_up


def write_memory(
    memory: np.ndarray, write_weights: np.ndarray, erase: np.ndarray, write: np.ndarray
) -> np.ndarray:
    """M_{n,w} <- M_{n,w} prod_h (1 - ww_{h,n} e_{h,w}) + sum_h ww_{h,n} v_{h,w}."""
    N, W = memory.shape
    new = memory.copy()
    for n in range(N):
        for w in range(W):
            for weights, erased in zip(write_weights, erase, strict=True):
                new[n, w] *= 1 - weights[n] * erased[w]
            for weights, written in zip(write_weights, write, strict=True):
                new[n, w] += weights[n] * written[w]
    return new


def read_memory(memory: np.ndarray, read_weights: np.ndarray) -> np.ndarray:
    (N, W), R = memory.shape, len(read_weights)
    read_vectors = np.zeros((R, W))
    for r in range(R):
        for n in range(N):
            for w in range(W):
                read_vectors[r, w] += read_weights[r, n] * memory[n, w]
    return read_vectors


def update_link(link: np.ndarray, precedence: np.ndarray, write_weights: np.ndarray) -> np.ndarray:
    """L_ij <- (1 - ww_i - ww_j) L_ij + ww_i p_j for i != j, each write head by itself."""
    Hw, N = write_weights.shape
    new = np.zeros((Hw, N, N))
    for h in range(Hw):
        for i in range(N):
            for j in range(N):
                if i != j:
                    keep = 1 - write_weights[h, i] - write_weights[h, j]
                    new[h, i, j] = keep * link[h, i, j] + write_weights[h, i] * precedence[h, j]
    return new


def update_precedence(precedence: np.ndarray, write_weights: np.ndarray) -> np.ndarray:
    """p_i <- (1 - sum_j ww_j) p_i + ww_i, each write head by itself."""
    Hw, N = write_weights.shape
    new = np.zeros((Hw, N))
    for h in range(Hw):
        total = sum(write_weights[h, j] for j in range(N))
        for i in range(N):
            new[h, i] = (1 - total) * precedence[h, i] + write_weights[h, i]
    return new


def directional_weightings(
    link: np.ndarray, read_weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """forward_i = sum_j L_ij wr_j and backward_i = sum_j L_ji wr_j, (R, Hw, N) each."""
    (Hw, N, _), R = link.shape, len(read_weights)
    forward, backward = np.zeros((R, Hw, N)), np.zeros((R, Hw, N))
    for r in range(R):
        for h in range(Hw):
            for i in range(N):
                for j in range(N):
                    forward[r, h, i] += link[h, i, j] * read_weights[r, j]
                    backward[r, h, i] += link[h, j, i] * read_weights[r, j]
    return forward, backward


def memory_step(raw: np.ndarray, old: Arrays, order: str = "exact") -> tuple[Any, Arrays, Arrays]:
    """One step: read vectors (R, W), the new state, and the parts of the weightings."""
    W, R, Hw = old["memory"].shape[1], len(old["read_weights"]), len(old["write_weights"])
    interface = split_interface(raw, W, R, Hw)

    psi = retention(interface["free_gates"], old["read_weights"])
    usage = update_usage(old["usage"], old["write_weights"], psi)
    written, allocated, looked_up = write_weightings(interface, usage, old["memory"], order)
    memory = write_memory(
        old["memory"], written, interface["erase_vectors"], interface["write_vectors"]
    )
    link = update_link(old["link"], old["precedence"], written)
    precedence = update_precedence(old["precedence"], written)

    forward, backward = directional_weightings(link, old["read_weights"])
    content = np.zeros_like(old["read_weights"])
    read = np.zeros_like(old["read_weights"])
    for r in range(R):
        modes = interface["read_modes"][r]
        content[r] = content_weighting(
            interface["read_keys"][r], interface["read_strengths"][r], memory
        )
        for i in range(len(usage)):
            read[r, i] = modes[Hw] * content[r, i]
            for h in range(Hw):
                read[r, i] += modes[h] * backward[r, h, i] + modes[Hw + 1 + h] * forward[r, h, i]
    state = {
        "memory": memory,
        "usage": usage,
        "precedence": precedence,
        "link": link,
        "write_weights": written,
        "read_weights": read,
    }
    parts = {
        "allocation_weights": allocated,
        "write_content_weights": looked_up,
        "read_content_weights": content,
        "forward_weights": forward,
        "backward_weights": backward,
    }
    return read_memory(memory, read), state, parts


# The controllers, from the arrays of torch's layers


def affine(weights: Arrays, suffix: str, x: np.ndarray) -> np.ndarray:
    """W x + b for `weight<suffix>` and `bias<suffix>`; without a bias, W x."""
    matrix = weights["weight" + suffix]
    outputs = weights.get("bias" + suffix, np.zeros(len(matrix))).copy()
    for o in range(len(matrix)):
        for i in range(len(x)):
            outputs[o] += matrix[o, i] * x[i]
    return outputs


def lstm_layer(weights: Arrays, x: np.ndarray, state: tuple) -> tuple[np.ndarray, tuple]:
    hidden, cell = state
    gates = affine(weights, "_ih", x) + affine(weights, "_hh", hidden)
    i, f, g, o = np.split(gates, 4)
    cell = each(sigmoid, f) * cell + each(sigmoid, i) * each(math.tanh, g)
    hidden = each(sigmoid, o) * each(math.tanh, cell)
    return hidden, (hidden, cell)


def layer_norm(x: np.ndarray, gain: np.ndarray, shift: np.ndarray | None) -> np.ndarray:
    mean = sum(x) / len(x)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in x) / len(x) + 1e-5)
    normal = [gain[i] * (x[i] - mean) / deviation for i in range(len(x))]
    return np.array(normal) + (0 if shift is None else shift)


def layer_norm_lstm_layer(weights: Arrays, x: np.ndarray, state: tuple) -> tuple[np.ndarray, tuple]:
    hidden, cell = state
    gates = affine(weights, "_ih", x) + affine(weights, "_hh", hidden)
    i, f, g, o = np.split(layer_norm(gates, weights["gain_gates"], weights.get("bias_gates")), 4)
    cell = each(sigmoid, f) * cell + each(sigmoid, i) * each(math.tanh, g)
    shown = layer_norm(cell, weights["gain_cell"], weights.get("bias_cell"))
    hidden = each(sigmoid, o) * each(math.tanh, shown)
    return hidden, (hidden, cell)


def gru_layer(weights: Arrays, x: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, Any]:
    r, z, n = zip(
        np.split(affine(weights, "_ih", x), 3),
        np.split(affine(weights, "_hh", hidden), 3),
        strict=True,
    )
    update = each(sigmoid, z[0] + z[1])
    new = each(math.tanh, n[0] + each(sigmoid, r[0] + r[1]) * n[1])
    hidden = (1 - update) * new + update * hidden
    return hidden, hidden


def rnn_layer(weights: Arrays, x: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, Any]:
    hidden = each(math.tanh, affine(weights, "_ih", x) + affine(weights, "_hh", hidden))
    return hidden, hidden


def feedforward_layer(weights: Arrays, x: np.ndarray, state: tuple) -> tuple[np.ndarray, Any]:
    return each(math.tanh, affine(weights, "", x)), ()


LAYERS: dict[str, Callable[..., tuple[np.ndarray, Any]]] = {
    "lstm": lstm_layer,
    "gru": gru_layer,
    "rnn": rnn_layer,
    "feedforward": feedforward_layer,
    "layer_norm_lstm": layer_norm_lstm_layer,
}


def under(weights: Arrays, prefix: str) -> Arrays:
    """The arrays whose name starts with `prefix`, under the rest of their name."""
    return {
        name.removeprefix(prefix): array
        for name, array in weights.items()
        if name.startswith(prefix)
    }


def dnc(
    weights: Arrays, x: np.ndarray, state: dict, controller: str = "lstm", order: str = "exact"
) -> tuple[np.ndarray, dict]:
    """A whole DNC on one sequence.

    Args:
        weights: the arrays of a `DNCCell`'s state_dict.
        x: (T, X).
        state: {"controller": one state per layer, "memory": dict, "read_vectors": (R, W)}.
        controller: one of `LAYERS`.
        order: "exact" or "robust".

    Returns:
        outputs (T, Y), and the state after the last step.
    """
    outputs = []
    for x_t in x:
        seen = np.concatenate([x_t, state["read_vectors"].flatten()])
        hidden: list[np.ndarray] = []
        layer_states = []
        for layer, layer_state in enumerate(state["controller"]):
            h, layer_state = LAYERS[controller](
                under(weights, f"controller.layers.{layer}."),
                np.concatenate([seen, *hidden[-1:]]),
                layer_state,
            )
            hidden.append(h)
            layer_states.append(layer_state)
        every_h = np.concatenate(hidden)
        raw = affine(under(weights, "interface."), "", every_h)
        read_vectors, memory, _ = memory_step(raw, state["memory"], order)
        features = np.concatenate([every_h, read_vectors.flatten()])
        outputs.append(affine(under(weights, "output."), "", features))
        state = {"controller": tuple(layer_states), "memory": memory, "read_vectors": read_vectors}
    return np.array(outputs), state


# Batches


def row(tree: Any, b: int) -> Any:
    """Row b of every array of a nest."""
    if isinstance(tree, dict):
        return {name: row(part, b) for name, part in tree.items()}
    if isinstance(tree, tuple):
        return tuple(row(part, b) for part in tree)
    return tree[b]


def stack(trees: Sequence[Any]) -> Any:
    """The inverse of `row`: nests of one structure, stacked."""
    first = trees[0]
    if isinstance(first, dict):
        return {name: stack([tree[name] for tree in trees]) for name in first}
    if isinstance(first, tuple):
        return tuple(stack(parts) for parts in zip(*trees, strict=True))
    return np.stack(trees)


def batched(function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    """`function` of each row of the arguments (nests of arrays with B first), stacked."""
    (batch_size,) = {len(argument) for argument in arguments if isinstance(argument, np.ndarray)}
    return stack(
        [function(*(row(tree, b) for tree in arguments), **options) for b in range(batch_size)]
    )
