"""The harness of the benchmarks: accuracy check, clock, results and jobs, at tiny sizes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from bench import time_to_solve
from bench.__main__ import main
from bench.harness import cases, clock, gate, jobs, peak, providers, under_pytest
from bench.harness.cases import OPS, PARTS, PASSES, Case, Work, takes_part
from bench.harness.clock import Rounds, copy_bandwidth, interleaved, launches, spread
from bench.harness.jobs import Job, Settings, time_group, work_off
from bench.harness.provenance import facts
from bench.harness.providers import LINKAGES, PROVIDERS
from bench.harness.results import NAME, Results, ResultsError, open_results, read
from bench.harness.sizes import DRY_SIZES, LARGE_STUDY, Size

ROOT = Path(__file__).parent.parent
TINY = DRY_SIZES["tiny"]
PLAIN = ("eager", "reference")


def tiny(op: str, passes: str, provider: str = "eager", linkage: str = "dense") -> Case:
    return Case(op, passes, TINY, PROVIDERS[provider].with_linkage(linkage), "cpu")


def timed(*names: str) -> list[dict[str, object]]:
    """Records of forward passes of tiny models."""
    return time_group("tiny", [tiny("model", "forward", name) for name in names], Rounds(0, 2, 2))


@pytest.fixture(autouse=True)
def one_thread_again() -> Iterator[None]:
    """The commands set threads for their process."""
    yield
    torch.set_num_threads(1)


# The gate


EVERYTHING = [("model", linkage) for linkage in LINKAGES] + [(op, "dense") for op in OPS[:-1]]


@pytest.mark.parametrize("op, linkage", EVERYTHING)
@pytest.mark.parametrize("provider", PLAIN)
def test_right_results_pass(op: str, linkage: str, provider: str) -> None:
    for passes in PASSES if takes_part(PROVIDERS[provider], op) else ():
        error = gate.check(tiny(op, passes, provider, linkage))
        assert error is not None and error < 1e-6


def spoiled(monkeypatch: pytest.MonkeyPatch, factor: float, what: str) -> None:
    """Make every float32 work wrong by a factor: its outputs, or the gradient of one leaf."""
    right = cases.work

    def wrong(case: Case, dtype: torch.dtype = torch.float32, middle: bool = False) -> Work:
        made = right(case, dtype, middle)
        if dtype != torch.float32:
            return made
        if what == "outputs":
            return made._replace(outputs=lambda: [o * factor for o in made.outputs()])
        next(iter(made.leaves.values())).register_hook(lambda gradient: gradient * factor)
        return made

    monkeypatch.setattr(gate, "work", wrong)


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("what", ["outputs", "gradient"])
def test_wrong_results_are_refused(monkeypatch: pytest.MonkeyPatch, op: str, what: str) -> None:
    spoiled(monkeypatch, 1.01, what)
    provider = "eager" if takes_part(PROVIDERS["eager"], op) else "reference"
    with pytest.raises(gate.Refused, match="output 0 is" if what == "outputs" else "gradient of"):
        gate.check(tiny(op, "forward+backward", provider))


def test_nan_is_refused_also_of_those_that_cannot_be_compared(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoiled(monkeypatch, float("nan"), "outputs")
    for provider in ("eager", "lstm"):
        with pytest.raises(gate.Refused, match="output 0 is"):
            gate.check(tiny("model", "forward", provider))


def test_a_lost_gradient_is_refused() -> None:
    case = tiny("allocation", "forward+backward", "reference")
    found, true = cases.work(case), cases.work(cases.truth(case), torch.float64)
    outputs, exact = found.run(case.passes), true.run(case.passes)
    found.leaves["usage"].grad = None
    with pytest.raises(gate.Refused, match="no gradient of usage"):
        gate.compare(case, found, outputs, true, exact)


def test_who_is_refused_or_fails_gets_no_time_and_takes_no_other_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spoiled(monkeypatch, 1.01, "outputs")
    monkeypatch.setattr(jobs, "copy_bandwidth", lambda device: 1e9)
    bad = replace(PROVIDERS["eager"], name="bad", options={"usage_order": "sideways"})
    monkeypatch.setitem(PROVIDERS, "bad", bad)
    wrong, failed, floor = timed("eager", "bad", "lstm")
    assert "is 1.0e-02 away" in wrong["refused"] and "usage_order" in failed["failed"]
    assert "seconds" not in wrong and "seconds" not in failed
    assert len(floor["seconds"]) == 2 and floor["error"] is None


def test_gradients_are_cleared_between_calls() -> None:
    step = cases.work(tiny("model", "forward+backward"))
    step.run("forward+backward")
    once = [leaf.grad.clone() for leaf in step.leaves.values()]
    step.run("forward+backward")
    assert all(
        torch.equal(a, leaf.grad) for a, leaf in zip(once, step.leaves.values(), strict=True)
    )


def test_the_truth_keeps_the_options_that_change_results() -> None:
    case = tiny("model", "forward")
    provider = replace(case.provider, options={"backend": "eager", "usage_order": "robust"})
    options = cases.truth(case._replace(provider=provider)).provider.options
    assert options == {"backend": "reference", "usage_order": "robust"}


# Providers


def test_a_missing_peer_comes_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(providers.importlib.util, "find_spec", lambda name: None)
    reason = providers.missing(PROVIDERS["dnc"], "cpu")
    assert reason is not None and 'pip install -e ".[bench]"' in reason


def test_the_peer_has_as_many_layers_as_ours() -> None:
    pytest.importorskip("dnc", reason='the package dnc: pip install -e ".[bench]"')
    (layers,) = (module.num_layers for module in providers.peer_model(TINY, "cpu").rnns)
    assert layers == 1


def test_every_op_has_a_benchmark_file_with_cases() -> None:
    assert {path.stem for path in (ROOT / "bench").glob("bench_*.py")} == {
        f"bench_{o}" for o in OPS
    }
    for op in OPS:
        who = [p for p in under_pytest.SETTINGS.chosen() if takes_part(PROVIDERS[p], op)]
        found = under_pytest.cases_of(op)
        dense = [case for case in found.values() if case.provider.linkage == "dense"]
        assert {"reference", "torch.compile"} <= set(who)
        assert len(dense) == len(under_pytest.SIZES) * len(PASSES) * len(who)
    linkages = {case.provider.linkage for case in found.values()}
    assert linkages == set(LINKAGES) and "c1-forward-sparse, top 8-cpu" in found


def test_whoever_the_functions_know_has_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases.functional, "BACKENDS", ("auto", "reference", "cpu"))
    for part in PARTS:
        assert takes_part(PROVIDERS["cpu"], part) and not takes_part(PROVIDERS["eager"], part)


def test_large_memories_are_measured_with_every_linkage() -> None:
    names = {job.name for job in jobs.large_jobs(Settings("cpu", 1), LARGE_STUDY)}
    assert len(names) == 2 * (6 * 5 + 2 * 2)
    assert "time model forward+backward large N=1048576 none, top 8" in names
    case = tiny("model", "forward+backward", "cpu", "sparse")
    case = case._replace(size=LARGE_STUDY.base._replace(N=2**20))
    assert gate.shortened(case).size[:3] == (1, gate.STEPS, gate.MOST_CELLS)
    with pytest.raises(MemoryError, match="MiB, and"):
        peak.check_room(case._replace(size=TINY._replace(N=2**31)))


# The clock


def test_calls_take_turns_and_each_begins_a_round() -> None:
    order: list[str] = []
    calls = {name: lambda name=name: order.append(name) for name in "abc"}
    times = interleaved(calls, "cpu", Rounds(0, 3, 3))
    assert "".join(order[-9:]) == "abcbcacab"
    assert {name: len(found) for name, found in times.items()} == {"a": 3, "b": 3, "c": 3}
    rounds = Rounds(10, 5, 40)
    assert [rounds.count(seconds) for seconds in (0.01, 1.0, 60.0)] == [40, 10, 5]


def test_spread_of_known_times() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == (3.0, 1.0, 2.0, 4.0)
    assert spread([7.0]) == (7.0,) * 4


def test_operations_are_counted_without_those_inside_of_others(
    capfd: pytest.CaptureFixture[str],
) -> None:
    x = torch.ones(3, 3)
    found = launches(lambda: torch.nn.functional.linear(x, x).softmax(0) + x, "cpu")
    assert found == {"operations": 3}
    assert not capfd.readouterr().err


def test_copies_move_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(clock.COPIED, "cpu", 2**16)
    assert 1e7 < copy_bandwidth("cpu") < 1e13


def test_least_bytes_of_a_link_matrix() -> None:
    size = Size(2, 1, 100, 8, 3, 4, 4)
    forward = cases.least_bytes("linkage", "forward", size)
    link = 2 * 100 * 100 * 4
    assert 2 * link < forward < 2.2 * link
    assert cases.least_bytes("model", "forward", size._replace(T=5)) == 5 * cases.least_bytes(
        "memory_step", "forward", size
    )


# Results, and going on


def counted_jobs(done: list[str], names: str = "abc") -> list[Job]:
    def run(name: str) -> list[dict[str, object]]:
        done.append(name)
        return [{"kind": "time", "provider": name}]

    return [Job(name, partial(run, name)) for name in names]


def opened(folder: Path, dry: bool = False, fresh: bool = False, **other: object) -> Results:
    return open_results(folder, facts("cpu") | other, dry, fresh)


def work(given: list[Job], results: Results, minutes: float = 9) -> int:
    return work_off(given, results, minutes, lambda text: None)


def test_a_run_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    done: list[str] = []
    assert work(counted_jobs(done), opened(tmp_path), minutes=-1) == 3  # none begins after that
    assert not done and not (tmp_path / NAME).exists()
    assert work(counted_jobs(done, "ab"), opened(tmp_path)) == 0
    assert work(counted_jobs(done), opened(tmp_path)) == 0
    assert done == ["a", "b", "c"]
    assert [record["job"] for record in read(tmp_path).records] == ["a", "b", "c"]


def test_a_job_that_breaks_off_loses_nothing_before_it(tmp_path: Path) -> None:
    def stop() -> list[dict[str, object]]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work([*counted_jobs([]), Job("d", stop)], opened(tmp_path))
    assert len(read(tmp_path).records) == 3
    assert [path.name for path in tmp_path.iterdir()] == [NAME]


def test_a_cut_file_is_named_and_left_alone(tmp_path: Path) -> None:
    work(counted_jobs([]), opened(tmp_path))
    path = tmp_path / NAME
    cut = path.read_text()[:-10]
    path.write_text(cut)
    with pytest.raises(ResultsError, match=r"line 4 of 4 is not JSON .* the 2 records before it"):
        opened(tmp_path)
    assert path.read_text() == cut
    path.write_text("".join(line + "\n" for line in cut.splitlines()[:-1]))  # as the message says
    assert len(read(tmp_path).records) == 2


@pytest.mark.parametrize("text", ["", "{}\n", '{"format": 99}\n', "[1]\n"])
def test_what_is_no_result_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / NAME).write_text(text)
    with pytest.raises(ResultsError, match=r"header of format 1|is not JSON"):
        read(tmp_path)


@pytest.mark.parametrize("field", ["commit", "threads", "torch", "device"])
def test_runs_of_two_kinds_are_not_mixed(tmp_path: Path, field: str) -> None:
    opened(tmp_path).add("a", [])
    with pytest.raises(ResultsError, match=f"{field} .* there, other here.*--fresh"):
        opened(tmp_path, **{field: "other"})
    with pytest.raises(ResultsError, match="dry False there, True here"):
        opened(tmp_path, dry=True)
    assert not opened(tmp_path, fresh=True, **{field: "other"}).records


# The commands


def test_a_dry_run_of_everything_but_compiling(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "copy_bandwidth", lambda device: 1e9)
    command = ["run", "--dry", "--device", "cpu", "--threads", "1", "--out", str(tmp_path)]
    who = ["--providers", "eager", "reference", "lstm"]
    assert main([*command, "steps", "parts", "solve", *who]) == 0
    results = read(tmp_path)
    assert results.dry and all(record["dry"] for record in results.records)
    assert {record["kind"] for record in results.records} == {"time", "peak", "solve"}
    assert not [r for r in results.records if {"failed", "refused", "absent"} & r.keys()]
    training = results.of_kind("time", op="model", passes="forward+backward", provider="eager")
    assert training[0]["launches"]["operations"] > 100 and len(training[0]["seconds"]) == 2
    assert main(["tables", "--folder", str(tmp_path)]) == 0
    assert "nothing here is a measurement" in (tmp_path / "README.md").read_text()


def test_bad_commands_say_what_to_do(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["run", "--dry", "--device", "cpu"]) == 2
    assert "--out FOLDER" in capsys.readouterr().err
    assert main(["run", "--device", "cpu", "--sizes", "c9", "--out", str(tmp_path)]) == 2
    assert "'c1', 'c2'" in capsys.readouterr().err
    assert main(["compare", str(tmp_path), str(tmp_path)]) == 2
    assert "there are no results at" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("command", ["bench gpu", "bench run --device cuda"])
def test_without_a_gpu_nothing_is_measured(command: str, tmp_path: Path) -> None:
    command = f"{sys.executable} -m {command} --out {tmp_path / 'out'}"
    done = subprocess.run(command.split(), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "nothing was measured" in done.stderr.lower()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("linkage", ["dense", "none, top 8"])
def test_a_peak_is_of_a_process_of_its_own(linkage: str) -> None:
    case = tiny("model", "forward+backward", "eager", linkage)
    found = peak.peak_bytes(case._replace(size=TINY._replace(N=256, T=8)), 1, True)
    link = 2 * 256 * 256 * 4
    assert (found["peak_bytes"] > 4 * link) == (linkage == "dense")
    assert (found["foretold_bytes"] > 4 * link) == (linkage == "dense")


def test_time_to_solve_stops_after_its_steps_or_at_the_goal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    limits = time_to_solve.Limits(minutes=1, steps=3, evaluated=8)
    found = time_to_solve.learn(PROVIDERS["eager"], 0, limits, "cpu")
    assert found["steps"] == 3 and not found["solved"] and found["parameters"] == 28206
    floor = time_to_solve.make(PROVIDERS["lstm"], 16, "cpu").module
    assert abs(time_to_solve.count(floor) - found["parameters"]) < 0.02 * found["parameters"]
    monkeypatch.setattr(time_to_solve, "GOAL", 0.0)
    monkeypatch.setattr(time_to_solve, "share_right", lambda *given: 0.5)
    found = time_to_solve.learn(PROVIDERS["eager"], 0, limits, "cpu")
    assert found["solved"] and found["right"] == 0.5
