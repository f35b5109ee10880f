"""What is made of results of benchmarks: fits, comparisons, tables; on results made up here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.harness.provenance import ROOT
from bench.harness.results import FORMAT, NAME, Record, Results, ResultsError, read
from bench.harness.sizes import CPU_SIZES, CPU_STUDIES
from bench.reports import compare, growth, pages, tables

FACTS = {
    "device": "Abacus, 2 threads", "kind": "cpu", "threads": 2, "python": "3.11",
    "torch": "2.13", "commit": "abc1234",
}  # fmt: skip
WHO = {"cpu": 0.01, "reference": 0.2, "torch.compile": 0.04, "dnc": 0.1, "lstm": 0.001}


def time_record(
    name: str, size: Any, provider: str, seconds: list[float], passes: str = "forward+backward"
) -> Record:
    peer = provider in ("dnc", "lstm")
    return {
        "job": f"time {name} {passes}", "kind": "time", "op": "model", "passes": passes,
        "size": name, "sizes": size._asdict(), "provider": provider, "seconds": seconds,
        "error": None if peer else 2e-7, "launches": {"operations": 12345}, "least_bytes": 10**6,
        "copy_bytes_per_second": 1e10, "launch_seconds": 1e-6, "bytes_per_second": 5e9,
        "share_of_copy": 0.5,
    }  # fmt: skip


def peak_record(name: str, size: Any, provider: str, peak: int) -> Record:
    return {
        "job": f"peak {name} {provider}", "kind": "peak", "op": "model",
        "passes": "forward+backward", "size": name, "sizes": size._asdict(), "provider": provider,
        "peak_bytes": peak,
    }  # fmt: skip


def around(seconds: float, noise: float = 0.02) -> list[float]:
    return [seconds * (1 + noise * k) for k in (-2, -1, 0, 1, 2)]


def made_up(path: Path, slower: float = 1.0) -> Results:
    """Times as N and T to known powers, and the named sizes."""
    results = Results(path / NAME, {"format": FORMAT, "dry": False, "provenance": FACTS}, [])
    records = []
    for name in ("c1", "c2"):
        for provider, seconds in WHO.items():
            factor = slower if provider == "cpu" else 1.0
            records.append(time_record(name, CPU_SIZES[name], provider, around(seconds * factor)))
        records.append(peak_record(name, CPU_SIZES[name], "cpu", 10 << 20))
        records.append(peak_record(name, CPU_SIZES[name], "dnc", 90 << 20))
    for letter, power in {"N": 2.0, "T": 1.0}.items():
        for name, size in CPU_STUDIES[letter].sizes().items():
            value = getattr(size, letter)
            for provider in ("cpu", "dnc"):
                seconds = around(1e-6 * value**power)
                records.append(time_record(name, size, provider, seconds))
                half = power / 2 if provider == "cpu" else power
                records.append(peak_record(name, size, provider, int(1e6 * value**half)))
    for job in dict.fromkeys(record["job"] for record in records):
        results.add(job, [record for record in records if record["job"] == job])
    return results


# Growth


def test_exponents_of_known_powers() -> None:
    x = [16.0, 64.0, 256.0, 1024.0]
    assert growth.exponent(x, [3 * v**1.5 for v in x]) == pytest.approx(1.5)
    noisy = [v**2 * (1 + 0.02 * n) for v, n in zip(x, (0.5, 0.77, 0.09, 0.13), strict=True)]
    assert growth.exponent(x, noisy) == pytest.approx(2, abs=0.02)


@pytest.mark.parametrize(
    "x, y", [([1.0], [1.0]), ([2.0, 2.0], [1.0, 2.0]), ([1.0, 2.0], [0.0, 1.0])]
)
def test_what_cannot_be_fitted_is_refused(x: list[float], y: list[float]) -> None:
    with pytest.raises(ValueError, match="two different, positive points"):
        growth.exponent(x, y)


def test_the_last_points_have_an_exponent_of_their_own() -> None:
    curve = growth.Curve("cpu", [1, 2, 4, 8, 16, 32], [1, 1, 1, 1, 2, 4])
    over_all, last = curve.exponents() or (0, 0)
    assert last == pytest.approx(1) and 0.3 < over_all < 0.5
    assert growth.Curve("cpu", [1, 2], [1, 2]).exponents() is None


def test_growth_of_results(tmp_path: Path) -> None:
    results = made_up(tmp_path)
    assert growth.letters(results) == ["N", "T"]
    cpu, peer = growth.curves(results, "N", "peak_bytes")
    assert (cpu.name, peer.name) == ("cpu", "dnc")
    assert cpu.exponents() == pytest.approx((1.0, 1.0), abs=1e-3)
    assert peer.exponents() == pytest.approx((2.0, 2.0), abs=1e-3)
    least = growth.limit(results, "T")
    assert least.y[0] == pytest.approx(1e-4)  # what must move, at the speed of a copy
    assert least.y[-1] == pytest.approx(2 * 512 * 1e-6)  # an operation each step, each way


# Comparison


def test_what_got_slower_than_noise_is_marked(tmp_path: Path) -> None:
    a, b = made_up(tmp_path / "a"), made_up(tmp_path / "b", slower=1.2)
    found = {one.what: one for one in compare.ratios(a, b)}
    slow = found["time model forward+backward c1 cpu"]
    assert slow.verdict == "slower" and slow.ratio == pytest.approx(1.2)
    assert slow.lower < 1.2 < slow.upper
    assert {one.verdict for what, one in found.items() if what.endswith(" dnc")} == {""}
    assert slow.what in compare.table(list(found.values()))
    assert {one.verdict for one in compare.ratios(b, a)} == {"faster", ""}


def test_what_is_within_noise_is_not_marked() -> None:
    for seconds, noise in ((1.02, 0.02), (1.3, 0.2)):
        records = [
            time_record("c1", CPU_SIZES["c1"], "cpu", around(s, noise)) for s in (1, seconds)
        ]
        assert compare.time_ratio("", *records, 1.03).verdict == ""


def test_linkages_are_compared_with_themselves(tmp_path: Path) -> None:
    results = made_up(tmp_path)
    record = time_record("c1", CPU_SIZES["c1"], "cpu", around(9.0))
    results.add("linked", [{**record, "linkage": "none"}])
    found = compare.ratios(results, results)
    assert {(one.ratio, one.verdict) for one in found} == {(1.0, "")}
    assert found[-1].what == "time model forward+backward c1 cpu none"
    assert "| c1, none | 16 32 16 16 1 64 8 | 9,000.0" in tables.TABLES["linkages"](results)


def test_tables_of_large_memories_agree_with_their_records() -> None:
    folder = ROOT / "bench/results/amd-epyc-2-threads/large_memory"
    results = read(folder)
    record = results.of_kind("time", linkage="none")[-1]
    assert record["sizes"]["N"] == 2**20
    row = next(line for line in tables.large(results, "seconds").splitlines() if "| none |" in line)
    assert f"| {1e3 * min(record['seconds']) / 32:.1f} | N^" in row
    assert "| dense | 847 | 13,397 |  |  |  |  |" in tables.large(results, "peak_bytes")


@pytest.mark.parametrize("peak, verdict", [(1100, "more"), (1000, ""), (900, "less")])
def test_more_memory_is_marked(peak: int, verdict: str) -> None:
    one, other = (peak_record("c1", CPU_SIZES["c1"], "cpu", n) for n in (1000, peak))
    assert compare.peak_ratio("", one, other, 1.03).verdict == verdict


@pytest.mark.parametrize("slower, lost", [(1.2, 0), (1.0, 1)])
def test_the_command_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], slower: float, lost: int
) -> None:
    made_up(tmp_path / "a")
    b = made_up(tmp_path / "b", slower=slower)
    b.header["provenance"] = {**FACTS, "device": "another"}
    for record in b.of_kind("time", size="c2", provider="cpu")[:lost]:
        record["refused"] = f"WRONG {record.pop('seconds')}"
    b.add("none", [])
    command = ["compare", str(tmp_path / "a"), str(tmp_path / "b")]
    assert main(command) == 0 and main([*command, "--fail"]) == 1
    shown = capsys.readouterr()
    assert f"{2 * (1 - lost)} slower or larger than noise, {lost} lost" in shown.out
    assert ("cpu: WRONG" in shown.out) == lost
    assert "careful, device: Abacus, 2 threads against another" in shown.err


# Tables


def house(tmp_path: Path) -> Path:
    """A folder with files that have markers, and results."""
    for file in pages.MARKED:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text("no markers\n")
    text = "before\n<!-- bench:short -->\nold text\n<!-- /bench:short -->\nafter\n"
    (tmp_path / "README.md").write_text(text)
    return tmp_path


def command(root: Path, *more: str) -> int:
    return main(["tables", "--root", str(root), *more])


def test_tables_are_filled_in_and_checked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = house(tmp_path)
    before = (root / "README.md").read_text()
    assert command(root) == 0 and command(root, "--check") == 0
    assert (root / "README.md").read_text() == before  # there are no results yet
    results = made_up(root / "bench/results/abacus")
    assert command(root, "--check") == 1
    assert command(root) == 0 and command(root, "--check") == 0
    text = (root / "README.md").read_text()
    assert "old text" not in text and text.startswith("before\n") and text.endswith("after\n")
    assert "| c1 | 16 32 16 16 1 64 8 | 10.0 | 200.0 | 40.0 | 100.0 | 1.0 | 10.0 | 90.0 |" in text
    assert "| 10.0 x | 4.0 x | 9.0 x |" in text and "commit abc1234" in text
    (root / "README.md").write_text(text.replace("| 10.0 x |", "| 11.0 x |"))
    assert command(root, "--check") == 1 and "README.md does not agree" in capsys.readouterr().err
    assert command(root) == 0
    record = results.of_kind("time", size="c1", provider="cpu")[0]
    others = [r for r in results.records if r["job"] == record["job"] and r is not record]
    results.add(record["job"], [*others, {**record, "seconds": around(0.02)}])
    assert command(root, "--check") == 1


def test_a_table_shows_where_there_is_no_figure_and_why(tmp_path: Path) -> None:
    results = made_up(tmp_path)
    records = [r for r in results.records if r["job"] == "time c1 forward+backward"]
    for record, problem in zip(records, ("refused", "failed", "absent"), strict=False):
        del record["seconds"]
        record[problem] = "the reason"
    results.add("time c1 forward+backward", records)
    row = next(line for line in tables.TABLES["training"](results).splitlines() if "| c1 |" in line)
    assert "| WRONG | failed | not here |" in row
    assert "- time c1 forward+backward cpu: the reason" in pages.report(results)


def test_every_table_and_the_report(tmp_path: Path) -> None:
    results = made_up(tmp_path)
    assert "dnc` takes 10.0 times as long as with our backend `cpu`" in tables.headline(results)
    assert "| N | 32, 2,048 | cpu | N^2.00 | N^2.00 | N^1.00 | N^1.00 |" in tables.exponents(
        results
    )
    assert "not comparable" in tables.counts(results) and "50 %" in tables.counts(results)
    assert "| 9.0 x |" in tables.peaks(results)
    report = pages.report(results)
    assert "never" not in report and "read vectors of the initial state" in report
    for path in pages.write_report(results):
        assert path.stat().st_size > (10_000 if path.suffix == ".png" else 1000)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {NAME, "README.md", "growth_N.png", "growth_T.png"}


def test_dry_results_make_no_tables(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = house(tmp_path)
    results = made_up(root / "bench/results/abacus")
    results.header["dry"] = True
    results.add("one more", [])
    before = (root / "README.md").read_text()
    assert command(root) == 2 and command(root, "--check") == 2
    assert "is of a dry run; no table" in capsys.readouterr().err
    assert (root / "README.md").read_text() == before


@pytest.mark.parametrize(
    "text, message",
    [
        ("<!-- bench:shrot -->\n<!-- /bench:shrot -->\n", "marker bench:shrot; known are"),
        ("<!-- bench:short -->\n", "without its"),
    ],
)
def test_bad_markers_are_named(text: str, message: str) -> None:
    with pytest.raises(ResultsError, match=message):
        pages.filled(text, [], "README.md")


def test_readme_and_docs_agree_with_the_results_that_are_kept() -> None:
    assert not pages.outdated(ROOT)
    marked = "".join((ROOT / file).read_text() for file in pages.MARKED)
    for name in ("headline", "short", "training", "peaks", "growth", "solved", "large-time"):
        assert f"<!-- bench:{name} -->" in marked


def test_a_date_is_told_where_it_is_known(tmp_path: Path) -> None:
    results = made_up(tmp_path)
    assert not results.told.endswith("; 2026-11-27")
    results.header["date"] = "2026-11-27"
    assert results.told.endswith("; 2026-11-27")
    assert f"(commit {FACTS['commit']}, 2026-11-27), at 2 sizes" in tables.headline(results)
