"""The interface vector: the order and the shapes of its parts, for everybody who needs them.

For R read heads, Hw write heads and cell size W. What kernels calculate from this inside compiled
code is in cpu/interface.py and gpu/interface.py.
"""

from __future__ import annotations

import math


def interface_shapes(W: int, R: int, Hw: int) -> dict[str, tuple[int, ...]]:
    """The shape of each part without the batch, in the order of the vector."""
    return {
        "read_keys": (R, W),
        "read_strengths": (R,),
        "write_keys": (Hw, W),
        "write_strengths": (Hw,),
        "erase_vectors": (Hw, W),
        "write_vectors": (Hw, W),
        "free_gates": (R,),
        "allocation_gates": (Hw,),
        "write_gates": (Hw,),
        "read_modes": (R, 1 + 2 * Hw),
    }


def interface_size(W: int, R: int, Hw: int = 1) -> int:
    """The length of the vector, the sum of its parts; written out, as every step asks for it."""
    return R * W + R + Hw * (3 * W + 3) + R + R * (1 + 2 * Hw)


def interface_offsets(W: int, R: int, Hw: int) -> dict[str, int]:
    """Where each part begins in the vector."""
    offsets, place = {}, 0
    for name, shape in interface_shapes(W, R, Hw).items():
        offsets[name] = place
        place += math.prod(shape)
    return offsets
