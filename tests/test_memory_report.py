"""memory_report: its parts, its rule, and (full) that it predicts what is measured."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.harness.providers import LINKAGES
from bench.harness.sizes import CPU_SIZES, DENSE_UP_TO, LARGE_STUDY, Size
from dnc_fast import DNC
from dnc_fast.backends import Backend
from dnc_fast.engine.memory_tape import checkpoint_interval
from dnc_fast.engine.report import checkpoints_held, matrices_held
from dnc_fast.state import MemorySizes

LONG = Size(1, 256, 1024, 64, 4, 256, 64)
SMALL = {"num_cells": 16, "cell_size": 4, "num_read_heads": 2}


def test_link_matrices_of_long_sequences_grow_with_the_root_of_the_steps():
    sizes = MemorySizes(1, 1024, 64, 4, 1)
    intervals = {T: checkpoint_interval(T, sizes, 4) for T in (64, 256, 1024)}
    assert [checkpoints_held(T, K) for T, K in intervals.items()] == [7, 15, 31]
    held = [matrices_held(T, K, in_torch=False) for T, K in intervals.items()]
    assert held == [2 + 8, 2 + 16, 2 + 32]


def test_report_adds_up_and_reads_well():
    report = DNC(3, 4, backend="eager", **SMALL).memory_report(batch_size=2, steps=8)
    assert report.total == sum(report) and min(report) > 0
    assert "link matrices" in str(report) and "total" in str(report)


def test_both_directions_count():
    one, two = (
        DNC(3, 4, backend="eager", bidirectional=both, **SMALL).memory_report(2, 8)
        for both in (False, True)
    )
    assert two.total == 2 * one.total


def test_bad_arguments_are_named():
    model = DNC(3, 4, backend="eager", **SMALL)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        model.memory_report(2, 0)
    with pytest.raises(ValueError, match='got "reference"'):
        DNC(3, 4, backend="reference", **SMALL).memory_report(2, 8)


def test_what_fused_steps_keep_counts(monkeypatch):
    """A number more for each batch element and step, of four bytes; composed steps keep none."""
    model = DNC(3, 4, backend="eager", **SMALL)
    cut = DNC(3, 4, backend="eager", write_topk=2, **SMALL)
    before = [one.memory_report(2, 8).weightings for one in (model, cut)]
    monkeypatch.setattr(Backend, "kept_numbers", lambda *_: 1)
    after = [one.memory_report(2, 8).weightings for one in (model, cut)]
    assert [new - old for new, old in zip(after, before, strict=True)] == [4 * 2 * 8, 0]


def test_dense_links_with_cut_weightings_take_a_little_more():
    whole, cut = (
        DNC(3, 4, backend="eager", write_topk=topk, **SMALL).memory_report(2, 8)
        for topk in (None, 2)
    )
    assert cut.weightings > whole.weightings and cut.link_matrices == whole.link_matrices


def test_sharpened_weightings_are_kept_and_longer_interfaces_count():
    plain, sharp, masked = (
        DNC(3, 4, backend="eager", **SMALL, **options).memory_report(2, 8)
        for options in ({}, {"link_sharpness": True}, {"masked_lookup": True})
    )
    assert sharp.weightings - plain.weightings >= 4 * 2 * 8 * 2 * 2 * 16  # B T 2 R N
    assert masked.interface - plain.interface == 4 * 2 * (2 * 8) * (2 + 1) * 4  # 2 B T (R + Hw) W


def test_few_vectors_are_kept_where_memory_is_written_in_place():
    options = {"linkage": "none", "backend": "eager", **SMALL}
    cut = DNC(3, 4, write_topk=2, read_topk=2, checkpoint_interval=32, **options)
    whole = DNC(3, 4, **options)
    few, many = (model.memory_report(2, 1024).weightings for model in (cut, whole))
    # Usage and precedence of a segment and of 31 checkpoints, beside five vectors of every step.
    assert few * 10 < many


@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("size", [*(CPU_SIZES[c] for c in ("c3", "c4")), LONG], ids=str)
@pytest.mark.parametrize("backend", ["cpu", "eager"])
def test_report_predicts_the_measured_peak(backend, size):
    given = ",".join(map(str, size))
    assert_predicts("bench.harness.peak", given, backend)


@pytest.mark.full
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize("linkage", [name for name in LINKAGES if name != "dense, top 8"])
def test_report_predicts_the_measured_peak_of_every_linkage(linkage):
    size = LARGE_STUDY.base._replace(N=DENSE_UP_TO // 2 if linkage == "dense" else 2**18)
    given = ",".join(map(str, size))
    assert_predicts("bench.harness.peak", given, "cpu", "--linkage", linkage, "--keep-state")


def assert_predicts(*command):
    command = [sys.executable, "-m", *command]
    done = subprocess.run(command, cwd=Path(__file__).parent.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    peak = result["peak_bytes"]
    assert abs(result["foretold_bytes"] - peak) < max(0.1 * peak, 32 * 2**20)
