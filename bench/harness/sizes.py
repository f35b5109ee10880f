"""The sizes that are measured, by the names that every command and table uses."""

from __future__ import annotations

from typing import NamedTuple


class Size(NamedTuple):
    """B batch, T steps, N cells, W cell size, R read heads, H hidden size, X input size."""

    B: int
    T: int
    N: int
    W: int
    R: int
    H: int
    X: int

    def __str__(self) -> str:
        return " ".join(f"{letter}={value}" for letter, value in self._asdict().items())


CPU_SIZES = {
    "c1": Size(16, 32, 16, 16, 1, 64, 8),
    "c2": Size(16, 64, 64, 32, 4, 128, 16),
    "c3": Size(8, 64, 256, 64, 4, 256, 64),
    "c4": Size(4, 32, 1024, 64, 4, 256, 64),
    "c5": Size(1, 16, 2048, 64, 4, 256, 64),
}

GPU_SIZES = {
    "g1": Size(16, 64, 64, 32, 4, 128, 64),
    "g2": Size(32, 64, 256, 64, 4, 256, 64),
    "g3": Size(8, 64, 1024, 64, 4, 256, 64),
    "g4": Size(1, 64, 4096, 64, 4, 256, 64),
    "g5": Size(1, 32, 16384, 64, 4, 256, 64),
}

DRY_SIZES = {"tiny": Size(2, 3, 8, 4, 2, 8, 3)}
"""For dry runs, which exercise the code and measure nothing."""


class Study(NamedTuple):
    """One letter grows, the others stay. name: begins the names of its sizes."""

    name: str
    values: tuple[int, ...]
    base: Size

    @property
    def letter(self) -> str:
        return self.name[-1]

    def sizes(self) -> dict[str, Size]:
        """By name, such as "N=64"."""
        return {f"{self.name}={n}": self.base._replace(**{self.letter: n}) for n in self.values}


def in_a_study(name: str) -> bool:
    """Whether a size belongs to a study, as "N=64" does."""
    return "=" in name


def studies(base: Size, **values: tuple[int, ...]) -> dict[str, Study]:
    return {letter: Study(letter, numbers, base) for letter, numbers in values.items()}


CPU_BASE = Size(1, 32, 256, 32, 4, 128, 32)
CPU_STUDIES = studies(
    CPU_BASE,
    N=(32, 64, 128, 256, 512, 1024, 2048),
    T=(16, 32, 64, 128, 256, 512),
    B=(1, 4, 16),
    R=(1, 4, 16),
    W=(16, 64, 256),
)

GPU_STUDIES = studies(
    CPU_BASE._replace(B=4, T=64, W=64, H=256),
    N=(32, 64, 256, 1024, 2048, 4096),
    T=(16, 64, 256, 1024),
    B=(1, 4, 16, 64),
    R=(1, 2, 4, 8),
    W=(16, 32, 64, 128),
)

DRY_STUDIES = studies(DRY_SIZES["tiny"], N=(2, 4, 8), T=(1, 2, 4))

LARGE = "large N"
"""The name of the study of large memories, in which every linkage is measured."""

DENSE_UP_TO = 2**14
"""The most cells of that study with which the dense linkage takes part."""

LARGE_STUDY = Study(LARGE, tuple(2**power for power in range(12, 21, 2)),
                    Size(1, 32, 0, 32, 4, 64, 8))  # fmt: skip
DRY_LARGE_STUDY = Study(LARGE, (8, 16), DRY_SIZES["tiny"])


class Sizes(NamedTuple):
    """Everything that is measured on one kind of device."""

    named: dict[str, Size]
    studies: dict[str, Study]
    large: Study


def sizes_for(device: str, dry: bool) -> Sizes:
    """The sizes of "cpu" or "cuda"; small ones in a dry run."""
    if dry:
        return Sizes(DRY_SIZES, DRY_STUDIES, DRY_LARGE_STUDY)
    if device == "cuda":
        return Sizes(GPU_SIZES, GPU_STUDIES, LARGE_STUDY)
    return Sizes(CPU_SIZES, CPU_STUDIES, LARGE_STUDY)
