"""Second versions of the baselines' own maths: scalars and loops, from the papers' equations."""

import math

import numpy as np


def softplus(x):
    return math.log1p(math.exp(x))


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def softmax(row):
    parts = [math.exp(x) for x in row]
    return [part / sum(parts) for part in parts]


def ntm_weighting(key, strength, gate, shift, sharpen, memory, last):
    """Equations 5 to 9 of Graves et al. 2014 for one head; the small numbers are ours."""
    scores = []
    for cell in memory:
        dot = sum(a * b for a, b in zip(key, cell, strict=True))
        norms = math.sqrt(sum(a * a for a in key) + 1e-6)
        norms *= math.sqrt(sum(a * a for a in cell) + 1e-6)
        scores.append(strength * dot / norms)
    gated = [
        gate * content + (1 - gate) * before
        for content, before in zip(softmax(scores), last, strict=True)
    ]
    count, reach = len(gated), len(shift) // 2
    moved = [
        sum(gated[(i - by) % count] * shift[by + reach] for by in range(-reach, reach + 1))
        for i in range(count)
    ]
    powers = [(weight + 1e-6) ** sharpen for weight in moved]
    return [power / sum(powers) for power in powers]


def ntm_writes(memory, weights, erase, add):
    """Equations 3 and 4: every head erases, then every head adds."""
    written = np.array(memory)
    for i in range(len(written)):
        for j in range(len(written[i])):
            for head in range(len(weights)):
                written[i][j] *= 1 - weights[head][i] * erase[head][j]
            for head in range(len(weights)):
                written[i][j] += weights[head][i] * add[head][j]
    return written


def ntm(model, inputs):
    """Outputs (T, Y) and memory (N, W) of one sequence (T, X), by one reading of the weights."""
    config = model.config
    weight = {name: p.detach().numpy() for name, p in model.named_parameters()}

    def linear(name, x):
        return weight[f"{name}.weight"] @ np.asarray(x) + weight[f"{name}.bias"]

    size, cells = config.cell_size, config.num_cells
    hidden, cell = np.zeros(config.hidden_size), np.zeros(config.hidden_size)
    memory = np.zeros((cells, size))
    writers, heads = config.num_write_heads, config.num_write_heads + config.num_read_heads
    weights = [[1.0] + [0.0] * (cells - 1) for _ in range(heads)]
    reads, outputs = np.zeros((config.num_read_heads, size)), []
    for x in inputs:
        seen = np.concatenate([x, reads.ravel()])
        gates = weight["controller.weight_ih"] @ seen + weight["controller.bias_ih"]
        gates = gates + weight["controller.weight_hh"] @ hidden + weight["controller.bias_hh"]
        for unit in range(config.hidden_size):
            i, f, g, o = (gates[unit + part * config.hidden_size] for part in range(4))
            cell[unit] = sigmoid(f) * cell[unit] + sigmoid(i) * math.tanh(g)
            hidden[unit] = sigmoid(o) * math.tanh(cell[unit])
        said = linear("heads", hidden).reshape(heads, -1)
        after = []
        for head in range(heads):
            key, (strength, gate), rest = said[head][:size], said[head][size:][:2], said[head]
            shift, sharpen = softmax(rest[size + 2 : -1]), 1 + softplus(rest[-1])
            numbers = (softplus(strength), sigmoid(gate), shift, sharpen)
            after.append(ntm_weighting(key, *numbers, memory, weights[head]))
        weights = after
        erase, add = linear("writing", hidden).reshape(2, writers, size)
        erase = [[sigmoid(e) for e in row] for row in erase]
        memory = ntm_writes(memory, weights[:writers], erase, add)
        reads = np.array(weights[writers:]) @ memory
        outputs.append(linear("output", np.concatenate([hidden, reads.ravel()])))
    return np.array(outputs), memory


def dntm_weighting(key, strength, turn, memory, average):
    """Of one head: its weighting and the new average of its scores, N + 1 numbers each."""
    scores = []
    for cell in memory:
        dot = sum(a * b for a, b in zip(key, cell, strict=True))
        norms = math.sqrt(sum(a * a for a in key) + 1e-6)
        norms *= math.sqrt(sum(a * a for a in cell) + 1e-6)
        scores.append((1 + softplus(strength)) * dot / norms)
    pairs = list(zip(scores, average, strict=True))
    weights = softmax([score - sigmoid(turn) * old for score, old in pairs])
    return weights, [0.1 * old + 0.9 * score for score, old in pairs]


def dntm(model, inputs):
    """Outputs (T, Y) and contents (N, W) of one sequence (T, X), by one reading of the weights."""
    config = model.config
    weight = {name: p.detach().numpy() for name, p in model.named_parameters()}

    def linear(name, x):
        return weight[f"{name}.weight"] @ np.asarray(x) + weight.get(f"{name}.bias", 0)

    size, writers = config.cell_size, config.num_write_heads
    hidden, content = np.zeros(config.hidden_size), np.zeros((config.num_cells, size))
    averages = {"read_heads": None, "write_heads": None}

    def look(heads, count):
        cells = [*content, np.zeros(size)]
        memory = [[*a, *c] for a, c in zip(weight["addresses"], cells, strict=True)]
        said, found = linear(heads, hidden).reshape(count, -1), []
        for head in range(count):
            old = averages[heads][head] if averages[heads] else [0.0] * len(memory)
            found.append(dntm_weighting(said[head][:-2], *said[head][-2:], memory, old))
        averages[heads] = [average for _, average in found]
        return [weights[:-1] for weights, _ in found]  # nothing of the last cell

    outputs = []
    for x in inputs:
        reads = (np.array(look("read_heads", config.num_read_heads)) @ content).ravel()
        seen = np.concatenate([x, reads])
        of_seen = weight["controller.weight_ih"] @ seen + weight["controller.bias_ih"]
        of_hidden = weight["controller.weight_hh"] @ hidden + weight["controller.bias_hh"]
        for unit in range(config.hidden_size):
            (r, z, n), (hr, hz, hn) = of_seen[unit :: len(hidden)], of_hidden[unit :: len(hidden)]
            update, new = sigmoid(z + hz), math.tanh(n + sigmoid(r + hr) * hn)
            hidden[unit] = (1 - update) * new + update * hidden[unit]
        weights = look("write_heads", writers)
        erase = [[sigmoid(e) for e in row] for row in linear("erase", hidden).reshape(writers, -1)]
        gates = [sigmoid(g) for g in linear("input_gate", [*hidden, *x])]
        added = linear("from_hidden", hidden).reshape(writers, size)
        added = added + np.array(gates)[:, None] * linear("from_input", x).reshape(writers, size)
        content = ntm_writes(content, weights, erase, np.maximum(added, 0))
        outputs.append(linear("output", np.concatenate([hidden, reads])))
    return np.array(outputs), content


def delta_rule(query, key, value, keep, strength):
    """Of one head, (T, D) each and (T): the reads (T, D), by the paper's product of matrices."""
    size, reads = key.shape[1], []
    memory = np.zeros((value.shape[1], size))
    for q, k, v, a, b in zip(query, key, value, keep, strength, strict=True):
        memory = a * memory @ (np.eye(size) - b * np.outer(k, k)) + b * np.outer(v, k)
        reads.append(memory @ q)
    return np.array(reads)


def attention(query, key, value):
    """Causal softmax attention of one head, (T, D) each, a step and a number at a time."""
    read = np.zeros_like(value)
    for t in range(len(query)):
        scores = [query[t] @ key[s] / math.sqrt(len(key[s])) for s in range(t + 1)]
        for share, s in zip(softmax(scores), range(t + 1), strict=True):
            read[t] += share * value[s]
    return read
