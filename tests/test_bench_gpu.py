"""`python -m bench gpu`: parts with shares of the time, resumed, reported; the dry mode."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from test_bench_harness import one_thread_again  # noqa: F401

from bench import gpu, test_log
from bench.__main__ import main
from bench.harness import jobs
from bench.harness.jobs import Settings
from bench.harness.provenance import facts
from bench.harness.results import NAME, Results, open_results, read
from bench.harness.sizes import GPU_SIZES
from bench.reports.tables import Row

ROOT = Path(__file__).parent.parent
NO_TRITON = "Triton is not installed"


def session(folder: Path, seconds: float = 100) -> gpu.Session:
    return gpu.Session(folder, True, time.monotonic() + seconds + gpu.RESERVE)


# Time


def test_parts_share_the_time_and_leave_what_they_do_not_need(tmp_path: Path) -> None:
    one = session(tmp_path)
    one.share_out(["tests", "ours", "kernels"])  # 190, 60 and 50 of 300
    left = [one.left(part) for part in ("tests", "ours", "kernels")]
    assert left == pytest.approx([63.3, 83.3, 100], abs=1)


def test_all_parts_fit_in_nine_minutes_with_the_first_ones_first() -> None:
    whole = sum(gpu.SHARES[part] for part in gpu.BY_DEFAULT) + gpu.RESERVE
    assert whole + gpu.GRACE < 9 * 60 + 15
    assert gpu.BY_DEFAULT[:5] == ("compile", "tests", "ours", "beside", "kernels")
    assert gpu.SHARES["ours"] <= 60


def test_a_child_that_takes_too_long_is_ended_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "GRACE", 0.0)
    one = session(tmp_path, 1)
    one.share_out(["tests"])
    script = "import subprocess; subprocess.run(['sleep', '60'])"
    started = time.monotonic()
    outcome = one.child("tests", [sys.executable, "-c", script], tmp_path / "log.txt")
    assert outcome == gpu.CUT and time.monotonic() - started < 20
    for code, told in ((0, gpu.DONE), (gpu.MORE, gpu.CUT), (7, "exit status 7, see log.txt")):
        one.share_out(["tests"])
        command = [sys.executable, "-c", f"raise SystemExit({code})"]
        one.deadlines["tests"] += 60
        assert one.child("tests", command, tmp_path / "log.txt") == told


# Parts


def command(folder: Path, *parts: str, minutes: float = 5) -> int:
    return main(
        ["gpu", "--dry", "--out", str(folder), "--minutes", str(minutes), "--parts", *parts]
    )


def test_what_is_done_is_skipped_and_the_report_tells_of_every_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    outcomes = {
        "compile": [gpu.DONE],
        "ours": [gpu.CUT, gpu.DONE],
        "kernels": ["exit status 1"] * 2,
    }
    calls: list[str] = []

    def part(name: str) -> object:
        return lambda session: (calls.append(name), outcomes[name].pop(0))[1]

    monkeypatch.setattr(gpu, "FUNCTIONS", {name: part(name) for name in outcomes})
    assert command(tmp_path, "kernels", "ours", "compile") == 1
    told = capsys.readouterr().out.splitlines()
    assert calls == ["compile", "ours", "kernels"]  # whatever the order in which they were asked
    assert "compile  done" in told and "ours     cut: out of time" in told
    assert "kernels  exit status 1" in told and "some parts failed" in told[-1]
    assert command(tmp_path, "compile", "ours") == 0
    told = capsys.readouterr().out.splitlines()
    assert calls[3:] == ["ours"] and "compile  skipped, done before" in told
    report = (tmp_path / "README.md").read_text()
    assert "| ours | done |" in report and "nothing here is a measurement" in report
    assert command(tmp_path, "kernels", minutes=0) == 1 and calls[4:] == []  # no time is left


def test_results_of_another_commit_are_put_aside(tmp_path: Path) -> None:
    gpu.put_aside(tmp_path, "cpu")  # there is nothing
    open_results(tmp_path, facts("cpu"), False).add("a", [{"kind": "tests"}])
    gpu.put_aside(tmp_path, "cpu")
    assert read(tmp_path).has("a")
    old = Results(tmp_path / NAME, read(tmp_path).header, [])
    old.header["provenance"] = {**facts("cpu"), "commit": "0123abc"}
    old.add("b", [{"kind": "tests"}])
    gpu.put_aside(tmp_path, "cpu")
    assert not (tmp_path / NAME).exists()
    assert read(tmp_path / "older/results-0123abc.jsonl").has("b")


def test_every_file_of_gpu_tests_is_run() -> None:
    files = {path.name for path in (ROOT / "tests").glob("test_gpu_*.py")}
    assert files - {"test_gpu_compile.py"} <= {Path(name).name for name in gpu.TESTS}
    assert all((ROOT / name).exists() for name in (*gpu.TESTS, *gpu.DRY_TESTS))


# Our steps first, then others beside us


def test_all_sizes_are_measured_by_us_before_anything_else() -> None:
    names = [job.name for job in jobs.our_jobs(Settings("cuda", 1), GPU_SIZES)]
    assert names[:5] == [f"ours forward+backward g{n} triton" for n in range(1, 6)]
    assert len(names) == len(set(names)) == 15
    beside = [job.name for job in jobs.beside_jobs(Settings("cuda", 1), GPU_SIZES)]
    assert beside[:6] == [*(f"beside g{n} dnc+lstm" for n in range(1, 6)), "beside g1 reference"]
    assert len(set(beside)) == 15


def test_a_ratio_is_of_the_job_in_which_both_took_turns() -> None:
    row = Row()
    for job, provider, seconds in (("a", "triton", 1), ("a", "dnc", 2), ("b", "triton", 3)):
        row.add({"job": job, "provider": provider, "seconds": [seconds]})
    assert row["triton"]["seconds"] == [3]
    assert row.beside("triton", "dnc") == {"job": "a", "provider": "triton", "seconds": [1]}
    assert row.beside("triton", "nobody") is row["triton"]


def test_our_steps_in_the_dry_mode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "copy_bandwidth", lambda device: 1e9)
    monkeypatch.setattr(jobs, "FASTEST", ("eager",))
    words = ["run", "ours", "beside", "--dry", "--device", "cpu", "--threads", "1"]
    words += ["--providers", "eager", "lstm", "reference", "--out", str(tmp_path)]
    assert main(words) == 0
    found = {record["job"] for record in read(tmp_path).records if "seconds" in record}
    assert found == {
        "ours forward+backward tiny eager", "ours forward tiny eager", "beside tiny lstm",
        "beside tiny reference",
    }  # fmt: skip


# Tests


TESTS = """
import pytest

@pytest.mark.parametrize("number", range(4))
def test_passes(number): pass

def test_fails(): assert 1 == 2

def test_skips(): pytest.skip("why not")
"""


@pytest.mark.parametrize("together", [[], ["-n", "2"]])
def test_tests_are_written_down_as_they_end_and_not_run_again(
    tmp_path: Path, together: list[str]
) -> None:
    if together:
        pytest.importorskip("xdist")
    (tmp_path / "test_it.py").write_text(TESTS)
    folder = tmp_path / "log"
    words = [sys.executable, "-m", "pytest", "-q", "-p", "bench.test_log", "-p", "no:cacheprovider"]

    def run() -> str:
        test_log.begin(folder)
        variables = {"TEST_LOG": str(folder), "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [*words, *together, "test_it.py"], cwd=tmp_path, env=os.environ | variables,
            capture_output=True, text=True,
        )  # fmt: skip
        return done.stdout

    assert "1 failed, 4 passed, 1 skipped" in run()
    assert test_log.counts(folder) == {"passed": 4, "failed": 1, "skipped": 1}
    failures = (folder / test_log.FAILURES).read_text()
    assert failures.startswith("test_it.py::test_fails") and "assert 1 == 2" in failures
    if together:  # its workers leave out what has passed, too
        assert "passed" not in run()
        return
    again = run()
    assert "1 failed" in again and "passed" not in again
    assert len((folder / test_log.LOG).read_text().splitlines()) == 7
    (tmp_path / "test_it.py").write_text(TESTS.replace("1 == 2", "1 == 1"))
    assert "1 passed" in run() and test_log.counts(folder) == {"passed": 5, "skipped": 1}


# The whole, in the dry mode


def test_the_dry_mode_compiles_and_tests(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("triton", minversion="3.6", reason=NO_TRITON)
    assert command(tmp_path, "compile", "tests") == 0
    told = capsys.readouterr().out
    assert "NOTHING WAS MEASURED" in told and "all went well" in told
    assert "3 of 3 compiled" in (tmp_path / "compile.txt").read_text()
    (record,) = read(tmp_path).of_kind("tests")
    assert set(record["counts"]) == {"passed"} and record["dry"]
    assert list((tmp_path / "cache").glob("*/*.cubin"))
    assert command(tmp_path, "compile", "tests") == 0
    assert capsys.readouterr().out.count("skipped, done before") == 4


@pytest.mark.full
@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_kernels_are_compiled_for_a_gpu_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("triton", minversion="3.6", reason=NO_TRITON)
    folder = tmp_path / "kernels"
    words = ["-m", "bench.gpu_compile", "--dry", "--target", "sm_90", "--out", str(folder)]
    words += ["--tests", "tests/test_gpu_launch.py"]
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = json.loads((folder / "dnc_fast/manifest.json").read_text())
    assert manifest["targets"] == ["sm_90"] and len(list(folder.glob("*/*.cubin"))) == 3
