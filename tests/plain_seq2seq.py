"""The decoder of `Seq2Seq` a number at a time, and all sequences of symbols for a beam to find."""

import itertools

import numpy as np
from plain_baselines import sigmoid, softmax


def outputs(model, encoded, first_hidden, wanted):
    """Outputs (T, Y) of one sequence: encoded (S, 2H), the first state (H), answers fed (T, Y)."""
    w = {name: p.detach().numpy() for name, p in model.named_parameters()}
    hidden, cell, fed = first_hidden, np.zeros_like(first_hidden), np.zeros_like(first_hidden)
    additive = model.config.attention == "bahdanau"

    def read(state):
        if additive:
            base = w["attention.state.weight"] @ state + w["attention.state.bias"]
            scores = [
                w["attention.score.weight"][0] @ np.tanh(base + w["attention.source.weight"] @ h)
                for h in encoded
            ]
        else:
            scores = [state @ (w["attention.source.weight"] @ h) for h in encoded]
        return sum(share * h for share, h in zip(softmax(scores), encoded, strict=True))

    said, found = np.zeros(wanted.shape[1]), []
    for right in wanted:
        x = np.concatenate([said, read(hidden) if additive else fed])
        context = x[len(said) :]
        gates = w["decoder.weight_ih"] @ x + w["decoder.bias_ih"]
        gates = gates + w["decoder.weight_hh"] @ hidden + w["decoder.bias_hh"]
        i, f, g, o = np.split(gates, 4)
        cell = np.array([sigmoid(a) for a in f]) * cell + np.array(
            [sigmoid(a) for a in i]
        ) * np.tanh(g)
        hidden = np.array([sigmoid(a) for a in o]) * np.tanh(cell)
        if not additive:
            context = read(hidden)
        joined = np.concatenate([hidden, context])
        fed = np.tanh(w["combine.weight"] @ joined + w["combine.bias"])
        found.append(w["output.weight"] @ fed + w["output.bias"])
        said = right
    return np.array(found)


def best_sequence(log_probability, symbols, end, most_steps):
    """The likeliest of all sequences that end, or have the most steps; and its logarithm."""
    best = None
    for length in range(1, most_steps + 1):
        for sequence in itertools.product(range(symbols), repeat=length):
            if end in sequence[:-1] or (sequence[-1] != end and length < most_steps):
                continue
            score = log_probability(sequence)
            if best is None or score > best[1]:
                best = (list(sequence), score)
    return best
