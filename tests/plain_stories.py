"""Second versions of the models that read stories: a sentence, a fact and a number at a time."""

import math

import numpy as np
from plain_baselines import sigmoid, softmax


def read(words):
    """Of one story, words from 1 with 1, 2, 3 for full stop, question mark and answer mark:

    for each answer mark its step, the facts before it, the last question, and its number.
    """
    facts, question, number, sentence, found = [], [], 0, [], []
    for step, word in enumerate(words):
        if word == 3:
            found.append((step, list(facts), question, number))
            number += 1
        elif word:
            sentence.append(word)
        if word in (1, 2):
            if word == 1:
                facts.append(sentence)
            else:
                question, number = sentence, 0
            sentence = []
    return found


def arrays(model):
    return {name: p.detach().numpy() for name, p in model.named_parameters()}


def placed(sentence, table, size):
    """Words weighted by their places, with the two sums of the formula written out."""
    vector, count = np.zeros(size), len(sentence)
    for j, word in enumerate(sentence, 1):
        for k in range(1, size + 1):
            share = (1 - j / count) - (k / size) * (1 - 2 * j / count)
            vector[k - 1] += share * table[word][k - 1]
    return vector


def memn2n(model, facts, question, number):
    w, size, config = arrays(model), model.config.hidden_size, model.config
    u = placed(question, w["words.0.weight"], size) + w["numbers.weight"][number + 1]
    facts = facts[-config.most_facts :]
    for hop in range(config.num_hops):

        def memory(matrix, facts=facts):
            return [
                placed(fact, w[f"words.{matrix}.weight"], size)
                + w[f"ages.{matrix}.weight"][len(facts) - place]
                for place, fact in enumerate(facts)
            ]

        shares = softmax([u @ key for key in memory(hop)]) if facts else []
        u = u + sum(share * value for share, value in zip(shares, memory(hop + 1), strict=True))
    return w["output.weight"] @ u


def entnet(model, facts, question, number):
    w = arrays(model)

    def masked(sentence, mask):
        return sum(mask[min(j, len(mask) - 1)] * w["words.weight"][word]
                   for j, word in enumerate(sentence))  # fmt: skip

    def prelu(x, slopes):
        return np.array([a if a > 0 else s * a for a, s in zip(x, slopes, strict=True)])

    blocks = [key / np.linalg.norm(key) for key in w["keys"]]
    for fact in facts:
        s = masked(fact, w["fact_mask"])
        for j, (h, key) in enumerate(zip(blocks, w["keys"], strict=True)):
            gate = sigmoid(s @ h + s @ key)
            new = w["from_content.weight"] @ h + w["from_key.weight"] @ key
            new = prelu(new + w["from_fact.weight"] @ s, w["update_activation.weight"])
            blocks[j] = (h + gate * new) / np.linalg.norm(h + gate * new)
    q = masked(question, w["question_mask"]) + w["numbers.weight"][number + 1]
    shares = softmax([q @ h for h in blocks])
    u = sum(share * h for share, h in zip(shares, blocks, strict=True))
    read = prelu(q + w["from_memory.weight"] @ u, w["answer_activation.weight"])
    return w["output.weight"] @ read


def gru(w, name, inputs, suffix=""):
    """All states of torch's GRU."""
    w_i, w_h, b_i, b_h = (
        w[f"{name}.{part}_l0{suffix}"] for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    h, states = np.zeros(w_h.shape[1]), []
    for x in inputs:
        (ri, zi, ni), (rh, zh, nh) = (np.split(p, 3) for p in (w_i @ x + b_i, w_h @ h + b_h))
        r, z = (np.array([sigmoid(a) for a in p]) for p in (ri + rh, zi + zh))
        h = (1 - z) * np.tanh(ni + r * nh) + z * h
        states.append(h)
    return states


def dmn(model, facts, question, number):
    w, size = arrays(model), model.config.hidden_size
    told = [placed(fact, w["words.weight"], size) for fact in facts]
    back = gru(w, "fusion", told[::-1], "_reverse")[::-1]
    told = [a + b for a, b in zip(gru(w, "fusion", told), back, strict=True)]
    q = gru(w, "question", [w["words.weight"][word] for word in question])[-1]
    q = q + w["numbers.weight"][number + 1]
    m = q
    for episode in range(model.config.num_episodes):
        scores = []
        for f in told:
            z = np.concatenate([f * q, f * m, abs(f - q), abs(f - m)])
            inner = np.tanh(w["score.0.weight"] @ z + w["score.0.bias"])
            scores.append(float((w["score.2.weight"] @ inner + w["score.2.bias"])[0]))
        h = np.zeros(size)
        for f, g in zip(told, softmax(scores), strict=True):
            ri, ni = np.split(w["attend.inputs.weight"] @ f + w["attend.inputs.bias"], 2)
            rh, nh = np.split(w["attend.hidden.weight"] @ h + w["attend.hidden.bias"], 2)
            new = [
                math.tanh(a + sigmoid(b + c) * d) for a, b, c, d in zip(ni, ri, rh, nh, strict=True)
            ]
            h = g * np.array(new) + (1 - g) * h
        joined = np.concatenate([m, h, q])
        m = np.maximum(w[f"update.{episode}.weight"] @ joined + w[f"update.{episode}.bias"], 0)
    return w["output.weight"] @ np.concatenate([q, m]) + w["output.bias"]
