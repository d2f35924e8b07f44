"""Tests of `hedge bench compare`, and of the statistics behind it."""

from __future__ import annotations

import argparse
import contextlib
import re
import resource
import runpy
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from hedge.models.errors import ConfigError
from hedge.runtime import bench_compare
from hedge.runtime.bench.changes import judged
from hedge.runtime.bench.compare import compare
from hedge.runtime.bench.comparison import Change, Comparison, Margins
from hedge.runtime.bench.comparison_lines import lines
from hedge.runtime.bench.lines import lines as run_lines
from hedge.runtime.bench.proportions import difference, paired_difference
from hedge.runtime.bench.record import BenchReport, Failed, Measured
from hedge.runtime.bench.scenario_record import ScenarioResult
from hedge.runtime.bench.spread import LEAST_SPANS, STEP, Spread, quantile_ratio

# What makes reports; its functions are typed there.
make: Any = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("bench_reports.py"))))


def run_of(median_ns: float, *, seed: int, speed: float = 1.0, **more: Any) -> BenchReport:  # noqa: ANN401 -- the record's fields
    """Return a run of one variant on a machine that drifts, ``speed`` times as slow as usual."""
    slow = speed * make.drifting(seed=seed)
    given = make.rounds(median_ns, seed=seed, slow=slow * make.drifting(seed=-seed % 997, by=0.02))
    floor = make.rounds(1500, seed=seed + 10_000, slow=slow)
    found: BenchReport = make.report(make.measured("small", given), floor=floor, **more)
    return found


def change(found: Comparison, what: str) -> Change:
    (one,) = (one for pair in found.pairs for one in pair.changes if one.what == what)
    return one


def variant(report: BenchReport, **more: Any) -> BenchReport:  # noqa: ANN401 -- the record's fields
    """Return a report whose first variant has other figures."""
    first: Measured = msgspec.structs.replace(report.measured[0], **more)
    return msgspec.structs.replace(report, measured=(first, *report.measured[1:]))


# ---- What is kept of the latencies.


def test_a_spread_keeps_every_call_in_its_span_and_its_bin() -> None:
    given = [np.array([100, 100, 250], np.int64), np.array([7], np.int64)]
    spread = Spread.of(given)
    assert spread.counts.tolist() == [[0, 2, 1], [1, 0, 0]]
    for place, value in enumerate((7, 100, 250)):
        low, high = spread.edges_ms[place] * 1e6
        assert low <= value < high == pytest.approx(low * STEP)
    assert len(Spread.of(make.rounds(1e5, seed=1)).spans) == 20


def test_a_quantile_of_a_spread_is_that_of_its_calls_within_a_bin() -> None:
    one, other = make.rounds(90_000, seed=1), make.rounds(71_000, seed=2)
    floor = Spread.of(make.rounds(1500, seed=3))
    for share in (0.5, 0.9, 0.99):
        found = quantile_ratio(
            (Spread.of(one), Spread.of(other)), (floor, floor), share=share, seed=0
        )
        assert found is not None
        exact = np.quantile(np.concatenate(other), share) / np.quantile(np.concatenate(one), share)
        assert found.plain.median == pytest.approx(exact, rel=STEP - 1)
        assert found.plain.low < found.plain.median < found.plain.high


@pytest.mark.parametrize(
    ("bins", "spans"),
    [
        ("1 2", ("1",)),
        ("2 1", ("1 1",)),
        ("1 1", ("1 1",)),
        ("1 x", ("1 1",)),
        ("1 -2", ("1 1",)),
        ("1 99999", ("1 1",)),
        ("1 2", ()),
        ("1 2", ("0 0",)),
        ("1 2", ("1 1",) * 21),
    ],
)
def test_a_spread_that_is_no_table_is_refused(bins: str, spans: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"bins|number|span"):
        Spread(bins=bins, spans=spans)
    raw = msgspec.json.encode({"bins": bins, "spans": spans})
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(raw, type=Spread)


# ---- Shares of rows.


def test_a_paired_difference_is_that_of_agresti_and_min() -> None:
    before = np.array([True] * 80 + [False] * 20)
    after = np.array([True] * 76 + [False] * 4 + [True] * 9 + [False] * 11)
    found = paired_difference(before, after)  # by hand: 9 won, 4 lost, of 100
    assert found.value == pytest.approx(0.05)
    middle = (9.5 - 4.5) / 102
    half = 1.959964 * np.sqrt((9.5 + 4.5) - (9.5 - 4.5) ** 2 / 102) / 102
    assert (found.low, found.high) == pytest.approx((middle - half, middle + half))
    assert found.paired


def test_a_difference_of_other_rows_is_that_of_agresti_and_caffo() -> None:
    found = difference((0.9, 50), (0.7, 80))  # 45 of 50 against 56 of 80
    first, second = 46 / 52, 57 / 82
    half = 1.959964 * np.sqrt(first * (1 - first) / 52 + second * (1 - second) / 82)
    assert found.value == pytest.approx(-0.2)
    assert (found.low, found.high) == pytest.approx((second - first - half, second - first + half))


def test_intervals_of_shares_cover_the_truth_as_often_as_they_say() -> None:
    rng, paired, unpaired = np.random.default_rng(7), 0, 0
    for _ in range(400):
        skill = rng.random(150)
        before, after = skill < 0.9, np.where(rng.random(150) < 0.1, skill < 0.5, skill < 0.9)
        found = paired_difference(before, after)
        paired += found.low <= -0.04 <= found.high
        few, many = rng.random(90) < 0.9, rng.random(70) < 0.8
        found = difference((few.mean(), 90), (many.mean(), 70))
        unpaired += found.low <= -0.1 <= found.high
    assert min(paired, unpaired) >= 366  # of 400 at 95 %: 380; fewer once in a thousand times


# ---- The verdict.


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (1.06, 1.3, "worse"),
        (1.04, 1.3, "unsure"),
        (0.97, 1.04, "same"),
        (0.5, 1.5, "unsure"),
        (0.5, 0.94, "better"),
    ],
)
def test_only_a_whole_interval_beyond_the_margin_is_a_change(
    low: float, high: float, verdict: str
) -> None:
    assert judged(low, high, worse_above=1.05, better_below=0.95) == verdict


def test_the_same_model_measured_again_is_never_a_regression() -> None:
    worse = same = 0
    for seed in range(16):
        speed = float(np.random.default_rng(seed).uniform(0.9, 1.12))
        found = compare(run_of(50_000, seed=seed), run_of(50_000, seed=seed + 500, speed=speed))
        worse += found.worse
        same += change(found, "median").verdict == "same"
    assert worse == 0
    assert same < 16  # the machine moved, and the figures say that they are unsure


def test_a_slower_model_is_a_regression_on_a_machine_that_drifts() -> None:
    for seed in range(4):
        found = compare(run_of(50_000, seed=seed), run_of(62_500, seed=seed + 500))
        assert found.worse
        median = change(found, "median")
        assert median.verdict == "worse"
        assert median.low is not None
        assert median.high is not None
        assert median.low < 1.25 * np.exp(0.08)
        assert median.high > 1.25 * np.exp(-0.08)
        back = compare(run_of(62_500, seed=seed), run_of(50_000, seed=seed + 500))
        assert not back.worse
        assert change(back, "median").verdict == "better"


def test_where_the_floor_moved_too_the_machine_is_to_blame() -> None:
    found = compare(run_of(50_000, seed=1), run_of(50_000, seed=2, speed=1.2))
    median = change(found, "median")
    assert median.value == pytest.approx(1.2, rel=0.1)
    assert median.beside_floor is not None
    assert median.beside_floor.median == pytest.approx(1.0, rel=0.1)
    assert not found.worse
    found = compare(run_of(50_000, seed=1), run_of(50_000, seed=2, speed=2.0))
    assert change(found, "median").verdict == "not judged"
    assert "the null backend took x" in str(change(found, "median").why)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_slower_model_is_a_regression_though_the_floor_became_faster(seed: int) -> None:
    slower = run_of(185_000 / 0.61, seed=seed + 500, speed=0.61)
    found = compare(run_of(50_000, seed=seed), slower)
    median = change(found, "median")
    assert median.verdict == "worse"
    assert "although the null backend took x 0." in str(median.why)
    assert found.worse
    back = change(compare(slower, run_of(50_000, seed=seed)), "median")
    assert (back.verdict, "although" in str(back.why)) == ("better", True)
    same_way = run_of(185_000, seed=seed + 500, speed=2.0)  # the machine may be why
    found = compare(run_of(50_000, seed=seed), same_way)
    assert change(found, "median").verdict == "not judged"
    as_before = run_of(50_000 / 0.61, seed=seed + 500, speed=0.61)
    assert change(compare(run_of(50_000, seed=seed), as_before), "median").verdict == "not judged"


def test_a_tail_that_others_made_is_not_judged() -> None:
    slow = run_of(90_000, seed=2, preempted_hz=100.0)  # 0.9 % of calls of 90 us
    found = compare(run_of(50_000, seed=1), slow)
    assert change(found, "median").verdict == "worse"
    assert change(found, "percentile(90%)").verdict == "worse"
    tail = change(found, "percentile(99%)")
    assert tail.verdict == "not judged"
    assert "held up 0.9" in str(tail.why)
    assert any("% of small: their tails are not" in one for one in found.differs)


def test_too_few_rounds_and_reports_of_old_are_not_judged() -> None:
    few = make.rounds(50_000, seed=1, number=LEAST_SPANS - 1)
    short = make.report(make.measured("small", few), floor=few)
    assert change(compare(short, short), "median").verdict == "not judged"
    old = variant(run_of(50_000, seed=1), spread=None)
    found = change(compare(old, run_of(90_000, seed=2)), "median")
    assert (found.verdict, found.low) == ("not judged", None)
    assert found.value == pytest.approx(1.8, rel=0.1)


def test_rows_are_compared_one_by_one_where_both_runs_saw_the_same() -> None:
    rng = np.random.default_rng(2)
    right = rng.random(400) < 0.9
    fewer = right & (rng.random(400) < 0.95)
    one = variant(run_of(50_000, seed=1), accuracy=make.accuracy(right))
    other = variant(run_of(50_000, seed=2), accuracy=make.accuracy(fewer))
    found = change(compare(one, other), "accuracy")
    assert (found.verdict, found.why) == ("worse", "row by row")
    assert found.value == pytest.approx(fewer.mean() - right.mean())
    elsewhere = variant(other, accuracy=make.accuracy(fewer, data="b" * 64))
    found = change(compare(one, elsewhere), "accuracy")
    assert (found.verdict, found.why) == ("unsure", "of different rows")


def test_accuracy_that_is_not_measured_any_more_is_said() -> None:
    right = np.arange(400) % 9 > 0
    one = variant(run_of(50_000, seed=1), accuracy=make.accuracy(right))
    without = msgspec.structs.replace(make.accuracy(right), accuracy=None, right=None)
    for accuracy in (None, without):
        other = variant(run_of(50_000, seed=2), accuracy=accuracy)
        compared = compare(one, other)
        found = change(compared, "accuracy")
        assert (found.before, found.after) == (right.mean(), None)
        assert (found.verdict, found.why) == ("not judged", "not measured any more")
        assert compared.not_judged == 2, "nor is the tail"
        assert "  accuracy: 88.75% -> none: not judged (not measured any more)" in lines(compared)


def test_energy_is_judged_by_the_widest_interval_and_never_by_a_replay() -> None:
    one = variant(run_of(50_000, seed=1), energy=make.energy(1e-3, 2e-5))
    other = variant(run_of(50_000, seed=2), energy=make.energy(1.2e-3, 3e-5))
    found = change(compare(one, other), "energy")
    assert found.verdict == "worse"
    assert (found.low, found.high) == pytest.approx((1.17 / 1.02, 1.23 / 0.98))
    for energy, why in (
        (make.energy(1.2e-3, 3e-5, replayed=True), "replayed in the second run"),
        (None, "no power source in the second run"),
        (
            msgspec.structs.replace(make.energy(1e-3, 1e-5), per_sample_j="not resolvable"),
            "not resolvable in the second run",
        ),
        (msgspec.structs.replace(make.energy(2e-3, 1e-5), source="rapl"), "ina3221 against rapl"),
    ):
        found = change(compare(one, variant(other, energy=energy)), "energy")
        assert (found.verdict, found.why) == ("not judged", why)


def scenario(scored_ms: float, *, valid: bool) -> ScenarioResult:
    given = make.rounds(50_000, seed=1, number=6)
    return ScenarioResult(
        scenario="SingleStream",
        variant="small",
        threads=1,
        parts=("infer",),
        warm_up_samples=9,
        expected_samples_per_s=300.0,
        loadgen_ms={},
        valid=valid,
        why_invalid=() if valid else ("too short",),
        loadgen="6",
        seed=0,
        min_duration_s=600,
        min_queries=1024,
        queries=300,
        samples=300,
        seconds=1.0,
        samples_per_s=300.0,
        latency=make.measured("small", given).latency,
        scored_percentile=0.9,
        scored_ms=scored_ms,
    )


def test_scenarios_stand_side_by_side_without_a_verdict() -> None:
    one = run_of(50_000, seed=1, scenarios=(scenario(0.06, valid=True),))
    other = run_of(50_000, seed=2, scenarios=(scenario(0.09, valid=False),))
    found = change(compare(one, other), "SingleStream of infer")
    assert found.value == pytest.approx(1.5)
    assert (found.verdict, found.why) == ("not judged", "INVALID in the second run")


# ---- What is compared at all.


def test_variants_without_a_partner_are_named() -> None:
    both, one, other = (make.rounds(50_000, seed=seed) for seed in (1, 2, 3))
    floor = make.rounds(1500, seed=4)
    before = make.report(make.measured("a", both), make.measured("b", one), floor=floor)
    after = make.report(make.measured("c", other, threads=2), make.measured("a", both), floor=floor)
    found = compare(before, after)
    assert [pair.variant for pair in found.pairs] == ["a"]
    assert found.only_before == ("b, 1 thread",)
    assert found.only_after == ("c, 2 threads",)
    alone = make.report(make.measured("c", other), floor=floor)
    with pytest.raises(ConfigError, match="B: has no variant in common with A"):
        compare(before, alone, names=("A", "B"))


def test_a_variant_that_fails_now_is_a_regression() -> None:
    given, floor = make.rounds(50_000, seed=1), make.rounds(1500, seed=4)
    before = make.report(make.measured("a", given), make.measured("b", given), floor=floor)
    reason = Failed(variant="b", threads=1, reason="ran out of memory")
    after = make.report(make.measured("a", given), floor=floor, failed=(reason,))
    found = compare(before, after)
    assert found.worse
    assert found.failed == ("b, 1 thread: ran out of memory",)
    assert found.only_before == ()
    text = list(lines(found))
    assert "b, 1 thread: ran out of memory: WORSE (it was measured in before)" in text
    assert text[-1] == "WORSE"
    none_left = make.report(floor=floor, failed=(reason,))
    found = compare(before, none_left)
    assert found.worse
    assert found.only_before == ("a, 1 thread",)
    elsewhere = msgspec.structs.replace(reason, threads=2)
    found = compare(before, msgspec.structs.replace(after, failed=(elsewhere,)))
    assert not found.worse
    assert found.only_before == ("b, 1 thread",)
    assert list(lines(found))[-1] == "no regression in 2 figures; 2 could not be judged"


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("bundle", "other", "bundle steps against other"),
        ("board", "raspberry-pi-5", "board jetson-orin-nano against raspberry-pi-5"),
        ("power_mode", None, "power mode 10W against unknown"),
        ("machine", None, "CPUs 6 against 4"),
    ],
)
def test_runs_on_other_boards_are_refused_unless_asked_for(
    field: str, value: str | None, words: str
) -> None:
    one = run_of(50_000, seed=1)
    other = msgspec.structs.replace(
        one,
        **{field: msgspec.structs.replace(make.MACHINE, cpus=4) if field == "machine" else value},
    )
    with pytest.raises(ConfigError, match=rf"B: is not to be compared with A: {words} \(--anyway"):
        compare(one, other, names=("A", "B"))
    assert words in compare(one, other, anyway=True).differs


def test_what_else_differs_is_said() -> None:
    machine = msgspec.structs.replace(
        make.MACHINE, libraries={"onnxruntime": "1.24.0"}, python="3.11.2", load=5.0
    )
    hot = msgspec.structs.replace(make.COOL, throttled=True, throttled_by=("throttled",))
    other = run_of(50_000, seed=2, machine=machine, after=hot, digest="1" * 64, version="2.0")
    found = compare(run_of(50_000, seed=1), other)
    assert found.differs == (
        "version 1.0 against 2.0",
        f"digest {'0' * 16} against {'1' * 16}",
        "Python 3.10.12 against 3.11.2",
        "onnxruntime 1.23.0 against 1.24.0",
        "load 0.1 against 5",
        "in the second run: THROTTLED after the run: throttled",
    )


# ---- The command.


def command(*words: str | Path) -> int:
    """Run `hedge bench compare …` in this process; return its exit code."""
    parser = argparse.ArgumentParser(prog="hedge")
    bench_compare.add_parser(parser.add_subparsers())
    options = parser.parse_args(["compare", "--tails", *map(str, words)])
    code: int = options.run(options)
    return code


def saved(folder: Path, name: str, report: BenchReport) -> Path:
    path = folder / name
    path.write_bytes(msgspec.json.encode(report))
    return path


def test_the_exit_code_says_whether_something_became_worse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = saved(tmp_path, "a.json", run_of(50_000, seed=1))
    other = saved(tmp_path, "b.json", run_of(70_000, seed=2))
    out = tmp_path / "c.json"
    assert command(one, other, "--json", out) == 1
    found = msgspec.json.decode(out.read_bytes(), type=Comparison)
    assert found.worse
    text = capsys.readouterr().out
    assert "  median: 0.0" in text
    assert ": WORSE\n" in text
    assert text.endswith("WORSE\n")
    assert command(other, one) == 0
    assert command(one, one) == 0
    assert capsys.readouterr().out.endswith("\nno regression in 3 figures\n")
    assert command(one, other, "--margin", "0.9") == 0


def test_where_no_latency_can_be_judged_the_exit_code_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = saved(tmp_path, "a.json", run_of(50_000, seed=1))
    other = saved(tmp_path, "b.json", run_of(50_000, seed=2, speed=2.0))
    assert command(one, other) == 3
    assert capsys.readouterr().out.endswith("\nnothing could be judged\n")
    right = np.arange(400) % 9 > 0
    of_rows = [
        saved(tmp_path, name, variant(report, accuracy=make.accuracy(right)))
        for name, report in (
            ("c.json", run_of(50_000, seed=1)),
            ("d.json", run_of(50_000, seed=2, speed=2.0)),
        )
    ]
    assert command(*of_rows) == 3
    last = "no latency could be judged; no regression in 1 other figure"
    assert capsys.readouterr().out.splitlines()[-1] == last


def test_what_is_unsure_is_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    one = saved(tmp_path, "a.json", run_of(50_000, seed=1))
    other = saved(tmp_path, "b.json", run_of(53_500, seed=2))
    assert command(one, other, "--margin", "0.07") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"no regression in 3 figures, [123] of them unsure", last)


def test_a_tail_is_judged_only_where_that_is_asked_for() -> None:
    one = variant(run_of(50_000, seed=1))
    other = variant(run_of(100_000, seed=2))
    tail = change(compare(one, other), "percentile(99%)")
    assert tail.verdict == "not judged"
    assert tail.low is not None
    assert "--tails" in (tail.why or "")
    asked = compare(one, other, margins=Margins(tails=True))
    assert change(asked, "percentile(99%)").verdict == "worse"


def test_nothing_of_a_report_reaches_the_terminal_but_text() -> None:
    given, floor = make.rounds(50_000, seed=1), make.rounds(1500, seed=4)
    hostile = "x\x1b[2J\nno regression\x9b\u202e"
    one = make.report(make.measured(hostile, given), floor=floor, version=hostile)
    reason = Failed(variant=hostile, threads=1, reason=hostile)
    for other in (one, make.report(floor=floor, failed=(reason,), digest=hostile)):
        text = list(lines(compare(one, other)))
        assert all(line.isprintable() for line in text)
        assert any("no regression" in line and "x" in line for line in text)
        assert all(line.isprintable() for line in run_lines(other))


def test_the_figures_are_printed_though_they_cannot_be_kept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = saved(tmp_path, "a.json", run_of(50_000, seed=1))
    with full_disk(), pytest.raises(ConfigError, match=r"c\.json: cannot be written"):
        command(one, one, "--json", tmp_path / "c.json")
    assert capsys.readouterr().out.endswith("no regression in 3 figures\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json"]


def test_a_report_is_not_overwritten_by_its_comparison(tmp_path: Path) -> None:
    one = saved(tmp_path, "a.json", run_of(50_000, seed=1))
    (tmp_path / "link.json").symlink_to(one)
    was = one.read_bytes()
    for out in (one, tmp_path / "link.json", tmp_path / "." / "a.json"):
        with pytest.raises(ConfigError, match=r"would overwrite .*a\.json"):
            command(one, one, "--json", out)
    assert one.read_bytes() == was


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Let no file grow, as on a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_large_figures_are_plain_numbers() -> None:
    offline = msgspec.structs.replace(
        scenario(0.06, valid=True), scenario="Offline", samples_per_s=163_380.4
    )
    one = run_of(50_000, seed=1, scenarios=(offline,))
    (line,) = (line for line in lines(compare(one, one)) if "Offline" in line)
    assert "163,380 samples/s -> 163,380 samples/s" in line


def test_what_is_no_report_is_refused(tmp_path: Path) -> None:
    good = saved(tmp_path, "a.json", run_of(50_000, seed=1))
    (tmp_path / "cut.json").write_bytes(good.read_bytes()[:-40])
    with pytest.raises(ConfigError, match=r"cut\.json: is no report of hedge bench run"):
        command(good, tmp_path / "cut.json")
    with pytest.raises(ConfigError, match=r"no\.json: cannot be read"):
        command(tmp_path / "no.json", good)
    damaged = good.read_bytes().replace(b'"bins":"', b'"bins":"x', 1)
    (tmp_path / "bad.json").write_bytes(damaged)
    with pytest.raises(ConfigError, match=r"bad\.json: is no report .*spread|floor_spread"):
        command(good, tmp_path / "bad.json")
    for words in (("--margin", "-1"), ("--margin", "nan"), ("--accuracy-margin", "x")):
        with pytest.raises(SystemExit) as ended:
            command(good, good, *words)
        assert ended.value.code == 2
