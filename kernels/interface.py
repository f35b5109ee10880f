"""The interface vector: the order and the shapes of its parts, for everybody who needs them.

For R read heads, Hw write heads and cell size W. What kernels calculate from this inside compiled
code is in cpu/interface.py and gpu/interface.py.
"""

from __future__ import annotations

import math


def interface_shapes(
    W: int, R: int, Hw: int, masks: bool = False, sharpness: bool = False
) -> dict[str, tuple[int, ...]]:
    """The shape of each part without the batch, in the order of the vector.

    Args:
        W, R, Hw: sizes.
        masks: whether there are masks of keys.
        sharpness: whether there is a sharpness of each directional weighting.
    """
    shapes: dict[str, tuple[int, ...]] = {
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
    if masks:
        shapes |= {"read_masks": (R, W), "write_masks": (Hw, W)}
    if sharpness:
        shapes |= {"forward_sharpness": (R, Hw), "backward_sharpness": (R, Hw)}
    return shapes


def interface_size(
    W: int, R: int, Hw: int = 1, masks: bool = False, sharpness: bool = False
) -> int:
    """The length of the vector, the sum of its parts; written out, as every step asks for it."""
    paper = R * W + R + Hw * (3 * W + 3) + R + R * (1 + 2 * Hw)
    return paper + masks * (R + Hw) * W + sharpness * 2 * R * Hw


def interface_offsets(W: int, R: int, Hw: int) -> dict[str, int]:
    """Where each part begins in the vector."""
    offsets, place = {}, 0
    for name, shape in interface_shapes(W, R, Hw).items():
        offsets[name] = place
        place += math.prod(shape)
    return offsets
