"""The arrays of a memory step, under the names that all kernels use."""

from __future__ import annotations

from typing import Any, NamedTuple

LSTM, GRU, PLAIN = range(3)
"""Kinds of controller layers; a plain one is tanh of its inputs, recurrent or not."""


GATES = {LSTM: 4, GRU: 4, PLAIN: 1}
"""Pre-activations for each hidden unit, by kind."""


SIMILARITIES = ("cosine", "euclidean", "manhattan", "dot")
COSINE, EUCLIDEAN, MANHATTAN, DOT = range(4)
"""How keys are compared with cells: the names, and their numbers in kernels."""


ALLOCATIONS = ("sorted", "proportional", "softmax")
SORTED, PROPORTIONAL, SOFTMAX = range(3)
"""How free cells share new content, likewise."""


class LayerStep(NamedTuple):
    """The arrays of a controller layer at a time step of b sequences; None where it has none.

    | field     | shape                                                              |
    |-----------|--------------------------------------------------------------------|
    | x_part    | (b, gates H), what x_t and the biases add to the pre-activations   |
    | before    | (b, H), c_{t-1} of an LSTM, h_{t-1} of a GRU                       |
    | active    | (b, gates H), activations of an LSTM or GRU                        |
    | c, tanh_c | (b, H), of an LSTM                                                 |
    | hidden    | (b, H), h_t                                                        |
    """

    x_part: Any
    before: Any
    active: Any
    c: Any
    tanh_c: Any
    hidden: Any


class LayerGradient(NamedTuple):
    """Gradients of a controller layer's arrays at a time step; None where it has none.

    | field  | shape                                                                      |
    |--------|----------------------------------------------------------------------------|
    | hidden | (b, H), of h_t, from the layer above and from outside                      |
    | last   | (b, H), of h_t from step t + 1, then of h_{t-1}; changes in place          |
    | c      | (b, H), of an LSTM's c_t, then of c_{t-1}; changes in place                |
    | active | (b, gates H), of the pre-activations; filled                               |
    """

    hidden: Any
    last: Any
    c: Any
    active: Any


class Step(NamedTuple):
    """The arrays of a time step, contiguous, of one dtype; 0 means step t - 1, 1 means step t.

    | field                    | shape                                             |
    |--------------------------|---------------------------------------------------|
    | vector                   | (B, interface size), raw                          |
    | memory0, memory1         | (B, N, W)                                         |
    | usage0, usage1           | (B, N)                                            |
    | precedence0, precedence1 | (B, Hw, N)                                        |
    | link0, link1             | (B, Hw, N, N); backward does not use link1        |
    | write0, write1           | (B, Hw, N), write weightings                      |
    | read0, read1             | (B, R, N), read weightings                        |
    | reads                    | (B, R, W), read vectors; backward: their gradient |
    """

    vector: Any
    memory0: Any
    memory1: Any
    usage0: Any
    usage1: Any
    precedence0: Any
    precedence1: Any
    link0: Any
    link1: Any
    write0: Any
    write1: Any
    read0: Any
    read1: Any
    reads: Any


class Choices(NamedTuple):
    """In what a step may differ from the paper's.

    | field          | what                                                                      |
    |----------------|---------------------------------------------------------------------------|
    | robust         | usages that round to the same multiple of 2^-8 count as equal             |
    | least_strength | strengths are this plus log(1 + e^x)                                      |
    | usage_gradient | whether gradients reach the last write weightings through the usage       |
    """

    robust: bool = False
    least_strength: float = 1.0
    usage_gradient: bool = True


class Adjoint(NamedTuple):
    """Gradients of a step's vector and state; the state's go from step t to t - 1 in place."""

    vector: Any
    memory: Any
    usage: Any
    precedence: Any
    link: Any
    write: Any
    read: Any


class Steps(NamedTuple):
    """The arrays of all T steps of a batch of sequences, with a layered controller, contiguous.

    Sequences leave the batch when they end; the longest is the first. A step's data are consecutive
    rows. L layers, G gates; a layer sees S numbers, [r_{t-1}; h_t^{l-1}; h_{t-1}^l], where the
    lowest layer has no h_t^{l-1}.

    | field             | shape                                                                  |
    |-------------------|------------------------------------------------------------------------|
    | kind, own         | of the layers: LSTM, GRU or PLAIN; H, or 0 if h_{t-1} is not seen      |
    | interval          | K: segments begin at its multiples                                     |
    | c_clip            | bound for an LSTM's c, or infinity                                     |
    | batch_sizes       | (T), number of sequences at each step                                  |
    | before, after     | (T), first rows in buffers of states, before and after each step       |
    | place, output     | (T), first rows of the step's data, and of its outputs                 |
    | x_part            | (L, outputs, G H), the layers' products with the input                 |
    | weights           | (L, S, G H)                                                            |
    | hidden0           | (L, B, H), before the first step                                       |
    | inputs, active    | (L, rows, S) and (L, rows, G H)                                        |
    | c, tanh_c         | (L, rows, H), for an LSTM: c of all states, and tanh c of all steps    |
    | features          | (outputs, L H + R W)                                                   |
    | interface, bias   | (L H, interface size) and (interface size)                             |
    | vectors, reads    | (rows, interface size) and (outputs, R, W)                             |
    | reads0            | (B, R, W), before the first step                                       |
    | usage, precedence | (rows, N) and (rows, Hw, N), of all states                             |
    | write, read       | (rows, Hw, N) and (rows, R, N), weightings of all states               |
    | memory0, memory1  | (T), addresses of the memory before and after each step, (b, N, W)     |
    | link0, link1      | (T), likewise for the link matrix, (b, Hw, N, N)                       |
    | rebuilt           | (T), in the backward pass: whether to rebuild the memory (1), and the  |
    |                   | link matrix (2), after the step                                        |
    """

    kind: Any
    own: Any
    interval: Any
    c_clip: Any
    batch_sizes: Any
    before: Any
    after: Any
    place: Any
    output: Any
    x_part: Any
    weights: Any
    hidden0: Any
    inputs: Any
    active: Any
    c: Any
    tanh_c: Any
    features: Any
    interface: Any
    bias: Any
    vectors: Any
    reads: Any
    reads0: Any
    usage: Any
    precedence: Any
    write: Any
    read: Any
    memory0: Any
    memory1: Any
    link0: Any
    link1: Any
    rebuilt: Any


class AdjointSteps(NamedTuple):
    """Gradients of the arrays in `Steps`, by name, and what else the backward pass needs.

    | field         | shape                                                                      |
    |---------------|----------------------------------------------------------------------------|
    | clip          | bound for the gradients of a layer's state, or infinity                    |
    | weights       | (L, G H, S), the layers' weights themselves                                |
    | interface     | (interface size, L H), likewise                                            |
    | hidden        | (outputs, L H), of the hidden activations                                  |
    | active        | (L, rows, G H), of the pre-activations; filled                             |
    | last, c       | (L, B, H), of h and c, updated in place at each step                       |
    | seen          | (B, S), of what a layer sees: scratch memory                               |
    | vectors       | (rows, interface size), filled                                             |
    | reads, reads0 | (rows, R, W), added to; (B, R, W), filled                                  |
    | state         | an `Adjoint`, updated in place at each step; its vector is not used        |
    """

    clip: Any
    weights: Any
    interface: Any
    hidden: Any
    active: Any
    last: Any
    c: Any
    seen: Any
    vectors: Any
    reads: Any
    reads0: Any
    state: Any
