"""The memory step for memories of any size: kernels over tiles of cells, around the link pass.

    forward   start            usage and allocation; similarities to the write keys; activations
              (allocation      its second launch for many cells, two for each further write head)
              write            write weightings; the cells written; similarities to the read keys
              link pass        link matrix, precedence, forward and backward weightings
              (linked          where those are to be sharpened)
              read             read weightings; the read vectors

    backward  read_backward    gradients of the read weightings
              (linked          where forward and backward weightings were sharpened)
              link pass        gradient of the link matrix; sums for all other gradients
              write_backward   gradients of the cells before the write and of the write weightings
              (allocation      for many cells, two launches for each write head; smooth, one)
              finish           through allocation, the write keys, the gates and usage; sums of all
                               tiles

What the backward pass needs again is kept (`kept_offsets`). Softmax is computed in parts: each tile
stores a maximum and a sum. What the write keys' look-up adds to the gradient of the cells is known
only when a step ends, and no kernel of it goes through the cells after that: it is pending, a few
numbers a cell, until `write_backward` of the step before adds it, or after the first step
`finish_backward`.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..arrays import Adjoint, Step
from ..interface import interface_offsets, interface_size
from . import (
    launch,
    linkage,
    smooth_allocation,
    tiled_backward,
    tiled_finish,
    tiled_forward,
    tiled_sharpness,
)
from .allocation_backward import launch_backward
from .allocation_forward import Gates, Tiles, launch_forward, make_tiles
from .variant import Variant


@lru_cache(maxsize=64)
def kept_offsets(N: int, W: int, R: int, Hw: int, variant: Variant) -> dict[str, int]:
    """Where each array that a step keeps begins, and KEPT, the size of all, for a batch element.

    | array            | shape         |                                                           |
    |------------------|---------------|-----------------------------------------------------------|
    | NORMS0, NORMS1   | (N)           | lengths of the cells before and after the write *         |
    | WRITE_CONTENT    | (Hw, N)       | content weightings of the write keys                      |
    | WRITE_ALIKE      | (Hw, N)       | similarities to the write keys                            |
    | ALLOCATION       | (Hw, N)       | allocation weightings                                     |
    | PRODUCTS         | (Hw, N)       | products of the u' before each cell; smooth: the q        |
    | ORDER            | (Hw, N)       | the cell at each place of the order; not there if smooth  |
    | SEEN             | (Hw - 1, N)   | the usage that all heads but the first saw                |
    | READ_CONTENT     | (R, N)        | like those of the write keys                              |
    | READ_ALIKE       | (R, N)        | likewise                                                  |
    | ERASE_VECTORS    | (Hw, W)       | the interface vector after activation, from here on       |
    | READ_STRENGTHS   | (R)           |                                                           |
    | READ_LENGTHS     | (R)           | lengths of the keys *                                     |
    | MODES            | (R, 1 + 2 Hw) |                                                           |
    | FREE_GATES       | (R)           |                                                           |
    | WRITE_STRENGTHS  | (Hw)          |                                                           |
    | WRITE_LENGTHS    | (Hw)          | likewise *                                                |
    | ALLOCATION_GATES | (Hw)          |                                                           |
    | WRITE_GATES      | (Hw)          |                                                           |
    | LINKED           | (2, Hw, R, N) | forward and backward weightings before they are sharpened |
    | SHARPNESS        | (3, 2 Hw R)   | their sharpness, largest logit, and sum of the softmax    |
    | REST             |               | zeros, so that KEPT is a multiple of four                 |

    LINKED and SHARPNESS are there if weightings are sharpened;
    * not there if keys are not compared with cells as in the paper.
    """
    of_paper = 0 if variant.varied else 1
    sizes = {
        "NORMS0": N * of_paper,
        "NORMS1": N * of_paper,
        "WRITE_CONTENT": Hw * N,
        "WRITE_ALIKE": Hw * N,
        "ALLOCATION": Hw * N,
        "PRODUCTS": Hw * N,
        "ORDER": 0 if variant.smooth else Hw * N,
        "SEEN": (Hw - 1) * N,
        "READ_CONTENT": R * N,
        "READ_ALIKE": R * N,
        "ERASE_VECTORS": Hw * W,
        "READ_STRENGTHS": R,
        "READ_LENGTHS": R * of_paper,
        "MODES": R * (1 + 2 * Hw),
        "FREE_GATES": R,
        "WRITE_STRENGTHS": Hw,
        "WRITE_LENGTHS": Hw * of_paper,
        "ALLOCATION_GATES": Hw,
        "WRITE_GATES": Hw,
        "LINKED": 2 * Hw * R * N if variant.sharp else 0,
        "SHARPNESS": 6 * Hw * R if variant.sharp else 0,
        "REST": 0,
    }
    return _offsets(sizes, "KEPT")


def _offsets(sizes: dict[str, int], whole: str) -> dict[str, int]:
    """Where arrays of some sizes begin one after the other, and the size of the whole.

    That is a multiple of four, and so are most places if N and W are: four numbers in one load.
    """
    found, start = {}, 0
    for name, size in sizes.items():
        found[name] = start
        start += size
    return found | {whole: -(-start // 4) * 4}


@lru_cache(maxsize=64)
def part_offsets(W: int, R: int, Hw: int, variant: Variant) -> dict[str, int]:
    """Where the sums that each tile stores in the backward pass begin, and PART, the size of all.

    For a read key, g is the gradient of its logits times its strength, over |k| |m| + e; D is the
    similarity, |m| the length of the cell. For a write key, c is its content weighting over
    |k| |m| + e, and h the gradient of its weighting less the mean of that in the tile. If keys are
    not compared with cells as in the paper, there is no |k| |m| + e; KEYS, MEANT and SHARED are
    gradients of the keys, MASKS and so on those of their masks if they have any, and what has to do
    with lengths is not there.

    | array                       | shape     | sums over the cells of a tile                  |
    |-----------------------------|-----------|------------------------------------------------|
    | KEYS                        | (R, W)    | g times cells after the write                  |
    | MASKS                       | (R, W)    |                                                |
    | MEANT, SHARED               | (Hw, W)   | c h, and c, times cells before the write       |
    | MEANT_MASK, SHARED_MASK     | (Hw, W)   |                                                |
    | ERASED, ADDED               | (Hw, W)   | gradients of erase vectors, negated, and of    |
    |                             |           | write vectors                                  |
    | LENGTHS, STRENGTHS          | (R)       | g D |m|; g D                                   |
    | D_MODES                     | (R, 2 Hw) | gradients of the backward and forward modes,   |
    |                             |           | if weightings are not sharpened                |
    | DOTS, FOUND                 | (Hw)      | content weighting, and allocation weighting,   |
    |                             |           | times gradient                                 |
    | MEANS                       | (Hw)      | the mean itself                                |
    | MEANT_ALIKE, SHARED_ALIKE   | (Hw)      | c h D; c D                                     |
    | MEANT_LENGTH, SHARED_LENGTH | (Hw)      | c h D |m|; c D |m|                             |
    """
    of_paper = 0 if variant.varied else 1
    sizes = {
        "KEYS": R * W,
        "MASKS": R * W * variant.masked,
        "MEANT": Hw * W,
        "SHARED": Hw * W,
        "MEANT_MASK": Hw * W * variant.masked,
        "SHARED_MASK": Hw * W * variant.masked,
        "ERASED": Hw * W,
        "ADDED": Hw * W,
        "LENGTHS": R * of_paper,
        "STRENGTHS": R,
        "D_MODES": 0 if variant.sharp else R * 2 * Hw,
        "DOTS": Hw,
        "FOUND": Hw,
        "MEANS": Hw,
        "MEANT_ALIKE": Hw,
        "SHARED_ALIKE": Hw,
        "MEANT_LENGTH": Hw * of_paper,
        "SHARED_LENGTH": Hw * of_paper,
    }
    return _offsets(sizes, "PART")


def kept_size(N: int, W: int, R: int, Hw: int, variant: Variant) -> int:
    """How many numbers a step keeps for its backward pass, for each batch element."""
    # Sizes may be symbols here, which are no keys of a cache.
    return kept_offsets.__wrapped__(N, W, R, Hw, variant)["KEPT"]


class Scratch(NamedTuple):
    """What the kernels of a step store for each other, with T tiles."""

    kept: Tensor  # (B, KEPT), where a step keeps what no backward pass will need
    tiles: Tiles  # of the order of allocation
    write_parts: Tensor  # (B, Hw, 2, T), see `store_softmax_part`
    read_parts: Tensor  # (B, R, 2, T)
    sharp_parts: Tensor  # (B, 2 Hw R, 2, sharp tiles), see `linked_kernel`
    rows: Tensor  # flat, partial sums of the link pass
    columns: Tensor  # likewise
    reads_by_tile: Tensor  # (B, tiles of the program that reads, R, W), parts of the read vectors
    reads_by_group: Tensor  # (B, groups of such tiles, R, W)
    arrived: Tensor  # (B, groups + 1), programs that are done; zeros between launches
    changes: Tensor  # (B, R, N), gradients of the read weightings
    shares: Tensor  # (B, R, N), see `read_backward_kernel`
    modes: Tensor  # (B, R, 1 + 2 Hw), read modes
    totals: Tensor  # (B, R + 2 Hw, T), see `read_backward_kernel`
    sharp_means: Tensor  # (B, 2 Hw R, T), see `linked_backward_kernel`
    d_ahead: Tensor  # (B, R, Hw, N), gradients of the forward weightings
    d_behind: Tensor  # likewise
    d_sharpnesses: Tensor  # (B, 2 Hw R, sharp tiles)
    d_written: Tensor  # (B, Hw, N), gradients of the write weightings
    d_retention: Tensor  # (B, N), of the retention through the memory, if cells are de-allocated
    d_seen: Tensor  # (B, N), gradient of the usage that a head saw
    d_shares: Tensor  # (B, Hw, blocks of the order), see `finish_gates`
    parts: Tensor  # (B, T, PART), see `part_offsets`
    free_parts: Tensor  # (B, ranges of cells, R), parts of the gradients of the free gates
    pending: Tensor  # (B, PENDING), see `add_pending`
    sizes: dict[str, Any]  # see `constants`


def make_scratch(
    B: int, N: int, W: int, R: int, Hw: int, like: Tensor, variant: Variant
) -> Scratch:
    """Scratch of the dtype and on the device of `like`, for these sizes or smaller batches."""
    sizes = constants(N, W, R, Hw, like.dtype, variant)
    T, sharp = sizes["TILES"], 2 * Hw * variant.sharp

    def new(*shape: int) -> Tensor:
        return launch.new_like(like, *shape)

    rows, columns = linkage.partials(like, B, N, R, Hw)
    return Scratch(
        kept=new(B, sizes["KEPT"]),
        tiles=make_tiles(B, N, like) or Tiles(like, like, like),
        write_parts=new(B, Hw, 2, sizes["START_TILES"]),
        read_parts=new(B, R, 2, T),
        sharp_parts=new(B, sharp * R, 2, sizes["SHARP_TILES"]),
        rows=rows,
        columns=columns,
        reads_by_tile=new(B, sizes["READ_TILES"], R, W),
        reads_by_group=new(B, sizes["GROUPS"], R, W),
        arrived=torch.zeros(B, sizes["GROUPS"] + 1, dtype=torch.int32, device=like.device),
        changes=new(B, R, N),
        shares=new(B, R, N),
        modes=new(B, R, 1 + 2 * Hw),
        totals=new(B, R + 2 * Hw, T),
        sharp_means=new(B, sharp * R, T),
        d_ahead=new(B, R, sharp // 2, N),
        d_behind=new(B, R, sharp // 2, N),
        d_sharpnesses=new(B, sharp * R, sizes["SHARP_TILES"]),
        d_written=new(B, Hw, N),
        d_retention=new(B, N if variant.deallocate else 0),
        d_seen=new(B, N),
        d_shares=new(B, Hw, sizes["SHARES"]),
        parts=new(B, T, sizes["PART"]),
        free_parts=new(B, sizes["RANGES"], R),
        pending=new(B, sizes["PENDING"]),
        sizes=sizes,
    )


def constants(
    N: int, W: int, R: int, Hw: int, dtype: torch.dtype, variant: Variant
) -> dict[str, Any]:
    """Constants of the kernels of a step; each takes those that it names."""
    (BM, _), (READ_BM, _) = launch.step_tile(N, W), launch.read_tile(N, W, R)
    TILES, READ_TILES = launch.cdiv(N, BM), launch.cdiv(N, READ_BM)
    START_BM = launch.start_tile(N, W)[0]
    START_TILES = launch.cdiv(N, START_BM)
    whole = N <= launch.ROW_CELLS
    order = {"TILES": 1, "BT": launch.block(N)} if whole else launch.order_tiling(N)
    GROUP = READ_TILES if READ_TILES <= 2 * launch.READ_GROUP else launch.READ_GROUP
    SHARP_BM = min(launch.block(N), launch.SHARP_CELLS)
    SHARP_TILES = launch.cdiv(N, SHARP_BM)
    BN, link = min(launch.block(N), launch.ORDERED_CELLS), linkage.tiling(N, dtype)
    return {
        "N": N,
        "W": W,
        "R": R,
        "HW": Hw,
        "SIZE": interface_size(W, R, Hw, variant.masked, variant.sharp),
        "WRITE_VECTORS": interface_offsets(W, R, Hw)["write_vectors"],
        "TILES": TILES,
        "BT": launch.block(TILES),
        "START_TILES": START_TILES,
        "START_BT": launch.block(START_TILES),
        "START_BM": START_BM,
        "SHARP_BM": SHARP_BM,
        "SHARP_TILES": SHARP_TILES,
        "SHARP_BT": launch.block(SHARP_TILES),
        "ORDER_TILES": order["TILES"],
        "ORDER_BN": order["BT"],
        "READ_TILES": READ_TILES,
        "GROUP": GROUP,
        "GROUPS": launch.cdiv(READ_TILES, GROUP),
        "SHARES": 1 if variant.smooth else launch.order_blocks(N),
        "SMOOTH_BN": min(launch.block(N), launch.SMOOTH_CELLS),
        "RANGES": launch.cdiv(N, BN),
        "STRIPS": link["STRIPS"],
        "CHUNKS": link["CHUNKS"],
        "ROW_LANES": min(4, launch.block(link["CHUNKS"])),
        "COLUMN_LANES": min(4, launch.block(link["STRIPS"])),
        "SUMMED": min(32, launch.block(TILES), max(1, 2048 // launch.block(W))),
        "BM": BM,
        "READ_BM": READ_BM,
        "BN": BN,
        "BW": launch.block(W),
        "BR": launch.block(R),
        "BHW": launch.block(Hw),
        "BMODES": launch.block(1 + 2 * Hw),
        "BALLMODES": launch.block(R * (1 + 2 * Hw)),
        "BREADS": min(256, launch.block(R * W)),
        "DTYPE": launch.compute_dtype(dtype),
        **variant.constants(),
        **kept_offsets(N, W, R, Hw, variant),
        **part_offsets(W, R, Hw, variant),
        "PENDING": Hw * N + Hw * W + (Hw * W if variant.varied else N),
    }


class Run:
    """The launches of a step: its arrays by name, and the constants of its kernels."""

    def __init__(
        self, step: Step, arrays: dict[str, Any], sizes: dict[str, Any], robust: bool = False
    ) -> None:
        self.B = step.memory0.shape[0]
        self.step = step
        self.sizes = sizes | {"ROBUST": robust}
        self.arrays = step._asdict() | arrays

    def launch(self, kernel: Any, programs: int, num_warps: int, **options: Any) -> None:
        """Launch a kernel with some programs for each batch element."""
        grid = (self.B, programs)
        launch.run_by_name(kernel, grid, self.arrays, self.sizes, num_warps, **options)

    def over_tiles(self, kernel: Any) -> None:
        """Launch a kernel over tiles of cells."""
        num_warps = launch.step_tile(self.sizes["N"], self.sizes["W"])[1]
        self.launch(kernel, self.sizes["TILES"], num_warps)

    def kept(self, name: str, shift: int = 0) -> Tensor:
        """What is kept of the write heads, (B, Hw, N)."""
        start, shape = self.sizes[name] + shift, (self.sizes["HW"], self.sizes["N"])
        whole = self.arrays["kept"][: self.B, start : start + shape[0] * shape[1]]
        return whole.unflatten(1, shape)

    def later_usage(self) -> Tensor | None:
        """The usage that each head but the first saw, (B, Hw, N); None if there is one head."""
        return self.kept("SEEN", -self.sizes["N"]) if self.sizes["HW"] > 1 else None

    def gates(self) -> Gates:
        """The gates of the write heads, in the raw interface vectors."""
        sizes, vector = self.sizes, self.step.vector
        offsets = interface_offsets(sizes["W"], sizes["R"], sizes["HW"])
        places = offsets["allocation_gates"], offsets["write_gates"]
        allocation, write = (vector[:, place : place + sizes["HW"]] for place in places)
        return Gates(allocation, write, raw=True)


def forward(step: Step, scratch: Scratch, robust: bool, kept: Tensor | None = None) -> None:
    """Fill step.*1 and step.reads; and kept, if there will be a backward pass."""
    arrays: dict[str, Any] = scratch._asdict() | scratch.tiles._asdict()
    if kept is not None:
        arrays["kept"] = kept
    run = Run(step, arrays, scratch.sizes, robust)
    sizes = run.sizes
    programs = sizes["ORDER_TILES"] + sizes["START_TILES"] + 1
    # Without fused operations, equal usages are equally lifted wherever they are compared.
    run.launch(tiled_forward.start_kernel, programs, 4, enable_fp_fusion=False)
    if sizes["ORDER_TILES"] > 1 and sizes["SMOOTH"]:
        run.launch(smooth_allocation.smooth_kernel, 1, 4)
    elif sizes["ORDER_TILES"] > 1:
        launch_forward(
            step.usage1, run.later_usage(), run.kept("PRODUCTS"), run.kept("ALLOCATION"),
            run.kept("ORDER"), robust, run.gates(), scratch.tiles, first_sorted=True,
        )  # fmt: skip
    run.over_tiles(tiled_forward.write_kernel)
    given = step.write1, step.precedence0, step.read0, step.link0
    linkage.launch_pass(*given, step.link1, step.precedence1, scratch.rows, scratch.columns)
    if sizes["SHARP"]:
        run.launch(tiled_sharpness.linked_kernel, sizes["SHARP_TILES"], 4)
    num_warps = launch.read_tile(sizes["N"], sizes["W"], sizes["R"])[1]
    run.launch(tiled_forward.read_kernel, sizes["READ_TILES"], num_warps)


def rebuild(step: Step, with_link: bool, variant: Variant) -> None:
    """Fill memory1, and link1 if `with_link`, from memory0, link0, the vectors and write1."""
    (_, N, W), R, Hw = step.memory0.shape, step.read0.shape[1], step.write0.shape[1]
    sizes = constants(N, W, R, Hw, step.memory0.dtype, variant)
    Run(step, {}, sizes).over_tiles(tiled_forward.rebuild_kernel)
    if with_link:
        linkage.launch_pass(step.write1, step.precedence0, step.read0, step.link0, step.link1)


def begin_backward(scratch: Scratch) -> None:
    """Before the first call of `backward`: nothing is pending."""
    scratch.pending.zero_()


def backward(step: Step, adjoint: Adjoint, scratch: Scratch, robust: bool, kept: Tensor) -> None:
    """Take the adjoint from step t to step t - 1 and fill adjoint.vector; some of it stays pending.

    step.reads is the gradient of the read vectors; adjoint.* are changed in place. kept was filled
    by `forward`.
    """
    arrays: dict[str, Any] = scratch._asdict() | {"kept": kept, "d_reads": step.reads}
    arrays |= {f"d_{name}": tensor for name, tensor in adjoint._asdict().items()}
    run = Run(step, arrays, scratch.sizes, robust)
    run.over_tiles(tiled_backward.read_backward_kernel)
    d_ahead, d_behind = scratch.changes, scratch.changes
    modes: Tensor | None = scratch.modes
    if run.sizes["SHARP"]:
        run.launch(tiled_sharpness.linked_backward_kernel, run.sizes["SHARP_TILES"], 4)
        d_ahead, d_behind, modes = scratch.d_ahead, scratch.d_behind, None
    linkage.launch_pass_backward(
        step.write1, step.precedence0, step.read0, step.link0, adjoint.link, d_ahead, d_behind,
        modes, scratch.rows, scratch.columns,
    )  # fmt: skip
    run.over_tiles(tiled_backward.write_backward_kernel)
    if run.sizes["RANGES"] > 1 and run.sizes["SMOOTH"]:
        run.launch(smooth_allocation.smooth_backward_kernel, 1, 4)
    elif run.sizes["RANGES"] > 1:
        launch_backward(
            step.usage1, run.later_usage(), run.kept("PRODUCTS"), run.kept("ORDER"),
            scratch.d_written[: run.B], scratch.d_seen[: run.B], scratch.d_shares[: run.B],
            run.gates(),
        )  # fmt: skip
    sizes = run.sizes
    programs = sizes["RANGES"] + sizes["R"] + 2 * sizes["HW"]
    run.launch(tiled_finish.finish_kernel, programs, num_warps=4)


def finish_backward(memory: Tensor, d_memory: Tensor, scratch: Scratch) -> None:
    """After the last call of `backward`: add what is pending to the gradient of the memory."""
    sizes = scratch.sizes
    arrays = {"memory0": memory, "pending": scratch.pending, "d_memory": d_memory}
    num_warps = launch.step_tile(sizes["N"], sizes["W"])[1]
    grid = len(memory), sizes["TILES"]
    launch.run_by_name(tiled_backward.add_pending_kernel, grid, arrays, sizes, num_warps)
