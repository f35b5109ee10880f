"""What is taken of a GPU's memory: K, and the limit of captures. No GPU is needed."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from dnc_fast import DNC
from dnc_fast.engine import Plan, captures, card, memory_tape, report
from dnc_fast.engine.interface_layer import InterfaceForm
from dnc_fast.engine.memory_tape import checkpoint_interval
from dnc_fast.linkages import LINKAGES
from dnc_fast.precision import Precision
from dnc_fast.state import MemorySizes

CARD, OTHER = torch.device("cuda", 0), torch.device("cuda", 1)
SIZES = MemorySizes(2, 100, 20, 3, 1)
A_STEP = 2 * 100 * (100 + 20) * 4
"""Bytes of a step's link matrix and memory."""


class FakeCard(SimpleNamespace):
    """Memory of a GPU in bytes: free, and held by torch without being used."""

    free = 1000
    cached = 0
    total = 8000


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCard:
    """A card that has decided nothing yet."""
    found = FakeCard()
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "mem_get_info", lambda device: (found.free, found.total))
    monkeypatch.setattr(cuda, "memory_reserved", lambda device: 500 + found.cached)
    monkeypatch.setattr(cuda, "memory_allocated", lambda device: 500)
    properties = SimpleNamespace(total_memory=found.total)
    monkeypatch.setattr(cuda, "get_device_properties", lambda device: properties)
    monkeypatch.setattr(memory_tape, "_intervals_on_card", {})
    card.total_bytes.cache_clear()
    yield found
    card.total_bytes.cache_clear()


@pytest.mark.parametrize(("free", "cached"), [(4 * 50 * A_STEP, 0), (0, 4 * 50 * A_STEP)])
def test_as_many_steps_are_kept_as_fit_in_a_quarter(fake: FakeCard, free: int, cached: int) -> None:
    """Of what is free, torch's own cache included; the rebuilt segment counts."""
    fake.free, fake.cached = free, cached
    assert checkpoint_interval(50, SIZES, 4, device=CARD) == 1
    assert checkpoint_interval(51, SIZES, 4, device=CARD) == 2  # 26 and 2 are kept
    assert checkpoint_interval(96, SIZES, 4, device=CARD) == 2  # 48 and 2
    assert checkpoint_interval(97, SIZES, 4, device=CARD) == 3
    assert checkpoint_interval(50, SIZES._replace(num_write_heads=2), 4, device=CARD) == 2
    assert checkpoint_interval(50, SIZES, 8, device=CARD) == 3
    assert checkpoint_interval(800, SIZES, 4, device=CARD) == 29  # the root; nothing fits


def test_what_was_decided_stays(fake: FakeCard) -> None:
    """A run that is recorded again, or repeated, keeps what it kept before."""
    fake.free = 4 * 50 * A_STEP
    assert checkpoint_interval(50, SIZES, 4, device=CARD) == 1
    fake.free = 0
    assert checkpoint_interval(50, SIZES, 4, device=CARD) == 1
    assert checkpoint_interval(49, SIZES, 4, device=CARD) == 7
    assert checkpoint_interval(50, SIZES, 4, device=OTHER) == 8
    fake.free = 4 * 50 * A_STEP
    assert checkpoint_interval(49, SIZES, 4, device=CARD) == 7


def test_without_a_link_matrix_memories_or_vectors_count(fake: FakeCard) -> None:
    fake.free = 4 * 50 * (2 * 100 * 20 * 4)
    given = {"matrix": False, "device": CARD}
    assert checkpoint_interval(50, SIZES, 4, **given) == 1
    assert checkpoint_interval(51, SIZES, 4, **given) == 2
    fake.free = 4 * 50 * (2 * 100 * 2 * 4)
    given["in_place"] = True
    assert checkpoint_interval(50, SIZES, 4, **given) == 50
    assert checkpoint_interval(51, SIZES, 4, **given) == 8


def test_other_devices_do_not_ask_a_card(fake: FakeCard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cuda, "mem_get_info")
    for device in (None, torch.device("cpu"), torch.device("meta")):
        assert checkpoint_interval(50, SIZES, 4, device=device) == 1
        assert checkpoint_interval(2000, SIZES, 4, device=device) == 45
        assert captures.max_bytes(device or torch.device("cpu")) == captures.MAX_BYTES


def test_captures_may_take_a_third_of_the_card(fake: FakeCard) -> None:
    """Of all its memory, so that it does not depend on what else is there."""
    assert captures.max_bytes(CARD) == 8000 // 3
    assert captures.SHARE_OF_CARD < memory_tape.SHARE_OF_FREE


def test_the_report_knows_what_is_kept(fake: FakeCard) -> None:
    config = DNC(3, 4, num_cells=100, cell_size=20, num_read_heads=3).config

    def link_bytes(interval: int | None, device: torch.device) -> int:
        plan = Plan.of(config, "eager", Precision(torch.float32))._replace(interval=interval)
        sizes = {"steps": 50, "fan_out": 8, "itemsize": 4, "parameters": 1, "output_size": 1}
        return report.memory_report(
            plan,
            SIZES,
            LINKAGES["dense"],
            device,
            state_dtype=torch.float32,
            controller_numbers=1,
            interface=InterfaceForm(),
            features=1,
            **sizes,
        ).link_matrices

    fake.free = 4 * 50 * A_STEP
    assert link_bytes(None, CARD) == link_bytes(1, CARD) > link_bytes(8, CARD)
    fake.free = 0
    assert link_bytes(None, OTHER) == link_bytes(8, OTHER)
