"""The arrays of a memory step, under the names that every set of kernels takes them by."""

from __future__ import annotations

from typing import Any, NamedTuple


class Step(NamedTuple):
    """The arrays of a time step, contiguous, of one dtype; 0 is of step t - 1, 1 of step t.

    | field                    | shape                                             |
    |--------------------------|---------------------------------------------------|
    | vector                   | (B, interface size), raw                          |
    | memory0, memory1         | (B, N, W)                                         |
    | usage0, usage1           | (B, N)                                            |
    | precedence0, precedence1 | (B, Hw, N)                                        |
    | link0, link1             | (B, Hw, N, N); backward does not look at link1    |
    | write0, write1           | (B, Hw, N), write weightings                      |
    | read0, read1             | (B, R, N), read weightings                        |
    | reads                    | (B, R, W), read vectors; their gradient           |
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


class Adjoint(NamedTuple):
    """Gradients of a step's vector, and of its state: in place from step t to step t - 1."""

    vector: Any
    memory: Any
    usage: Any
    precedence: Any
    link: Any
    write: Any
    read: Any
