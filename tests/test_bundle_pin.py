"""Tests of `hedge bundle pin`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hedge.models.bundle import load_bundle, write_bundle
from hedge.models.choice import chosen
from hedge.models.errors import BundleError, ConfigError
from hedge.models.manifest import Edge, Manifest
from hedge.runtime import bundle_pin
from hedge.runtime.bench.accuracy import Accuracy
from hedge.runtime.bench.energy_record import Energy
from hedge.runtime.bench.latency import Latency, Ratio
from hedge.runtime.bench.machine import this_machine
from hedge.runtime.bench.opening import Opening
from hedge.runtime.bench.record import FORMAT, BenchReport, Failed, Measured
from hedge.telemetry.boards.profile import FOLDER

Linear = Callable[..., bytes]
NAMES = ("quick", "right", "thrifty")


def command(*words: str | Path) -> int:
    """Run `hedge pin …` in this process; return its exit code."""
    parser = argparse.ArgumentParser(prog="hedge")
    bundle_pin.add_parser(parser.add_subparsers())
    options = parser.parse_args(["pin", *map(str, words)])
    code: int = options.run(options)
    return code


@pytest.fixture
def variants(
    tmp_path: Path, manifest: Manifest, bundle_files: dict[str, bytes], linear_onnx: Linear
) -> Path:
    """A bundle of three variants."""
    edges = tuple(Edge(name=name, file=f"{name}.onnx", head="evidential") for name in NAMES)
    files = {f"{name}.onnx": linear_onnx(3, seed=seed) for seed, name in enumerate(NAMES)}
    others = {name: data for name, data in bundle_files.items() if name != "edge.onnx"}
    whole = msgspec.structs.replace(manifest, edge=edges)
    return write_bundle(tmp_path / "variants", whole, others | files).path


def figures(median_ms: float) -> Latency:
    """Latencies with this median, and a 90th percentile of thrice that."""
    return Latency(
        count=10,
        first_ms=9.0,
        min_ms=0.1,
        max_ms=9.0,
        mean_ms=2.0,
        median_ms=median_ms,
        p90_ms=3 * median_ms,
        p99_ms=8.0,
        std_ms=1.0,
    )


def measured(
    bundle: Path, name: str, median_ms: float, accuracy: float, energy_j: float
) -> Measured:
    return Measured(
        variant=name,
        threads=1,
        sha256=load_bundle(bundle).manifest.files[f"{name}.onnx"],
        precision="float",
        runs_on="nothing",
        opening=Opening(open_ms=1, warm_up_ms=1, peak_bytes=1, added_bytes=1, runs_on="nothing"),
        latency=figures(median_ms),
        ratio=Ratio(median=1, low=1, high=1, pairs=3),
        accuracy=Accuracy(rows=9, accuracy=accuracy, accepted_accuracy=None, escalated_share=None),
        energy=Energy(per_sample_j=energy_j, source="ina", window_s=9.0, samples=99),
    )


@pytest.fixture
def report(variants: Path) -> BenchReport:
    """What a board found: quick at 1 ms, right at 4 ms, thrifty at 2 ms."""
    return BenchReport(
        format=FORMAT,
        bundle="steps",
        version="1.0",
        digest="0" * 64,
        board="nano",
        power_mode="10W",
        machine=this_machine(),
        seed=0,
        rounds=3,
        seen_rows_left_out=None,
        floor=figures(0.01),
        measured=(
            measured(variants, "quick", 1.0, 0.80, 0.5),
            measured(variants, "right", 4.0, 0.95, 0.9),
            measured(variants, "thrifty", 2.0, 0.90, 0.1),
        ),
        failed=(),
    )


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[BenchReport], Path]:
    """Write a report to a file."""

    def save(given: BenchReport) -> Path:
        path = tmp_path / "bench.json"
        path.write_bytes(msgspec.json.encode(given))
        return path

    return save


Saved = Callable[[BenchReport], Path]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("--by", "latency"), "quick"),
        (("--by", "accuracy"), "right"),
        (("--by", "energy"), "thrifty"),
        (("--by", "latency", "--min-accuracy", "0.85"), "thrifty"),
        (("--by", "latency", "--min-accuracy", "0.95"), "right"),
        (("--by", "accuracy", "--max-latency-ms", "11.9"), "thrifty"),
        (("--by", "accuracy", "--max-latency-ms", "12"), "right"),
        (("--by", "latency", "--max-energy-j", "0.4"), "thrifty"),
        (("--by", "accuracy", "--max-energy-j", "0.5", "--max-latency-ms", "3"), "quick"),
    ],
)
def test_the_best_under_the_bounds_is_written_for_the_board_and_its_power_mode(
    variants: Path,
    report: BenchReport,
    saved: Saved,
    tmp_path: Path,
    words: tuple[str, ...],
    name: str,
) -> None:
    assert command(variants, "--from", saved(report), *words, "--out", tmp_path / "pinned") == 0
    manifest = load_bundle(tmp_path / "pinned").manifest
    assert chosen(manifest, boards=("nano",), power_mode="10W").name == name
    assert chosen(manifest, boards=("nano",), power_mode="5W").name == "quick"
    (choice,) = manifest.choice
    best = next(one for one in report.measured if one.variant == name)
    assert (choice.by, choice.latency_ms) == (words[1], best.latency.median_ms)
    assert best.energy is not None
    assert best.accuracy is not None
    assert (choice.energy_j, choice.accuracy) == (
        best.energy.per_sample_j,
        best.accuracy.accuracy,
    )


def test_a_pinned_bundle_holds_the_same_models_and_can_be_packed(
    variants: Path, report: BenchReport, saved: Saved, tmp_path: Path
) -> None:
    command(variants, "--from", saved(report), "--by", "latency", "--out", tmp_path / "p.hedge")
    before, after = load_bundle(variants), load_bundle(tmp_path / "p.hedge")
    assert after.manifest.files == before.manifest.files
    assert after.contract == before.contract
    assert after.digest != before.digest


def test_a_second_power_mode_is_added_and_the_same_one_replaced(
    variants: Path, report: BenchReport, saved: Saved, tmp_path: Path
) -> None:
    one, two, three = (tmp_path / name for name in ("one", "two", "three"))
    command(variants, "--from", saved(report), "--by", "latency", "--out", one)
    faster = msgspec.structs.replace(report, power_mode="MAXN")
    command(one, "--from", saved(faster), "--by", "accuracy", "--out", two)
    command(two, "--from", saved(report), "--by", "energy", "--out", three)
    choices = load_bundle(three).manifest.choice
    assert [(c.board, c.power_mode, c.variant) for c in choices] == [
        ("nano", "MAXN", "right"),
        ("nano", "10W", "thrifty"),
    ]


def test_where_no_variant_keeps_to_the_bounds_each_ones_miss_is_said_and_nothing_written(
    variants: Path,
    report: BenchReport,
    saved: Saved,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    failed = (Failed(variant="broken", threads=1, reason="it crashed"),)
    path = saved(msgspec.structs.replace(report, failed=failed))
    bounds = ("--min-accuracy", "0.92", "--max-latency-ms", "5", "--max-energy-j", "0.6")
    out = tmp_path / "pinned"
    assert command(variants, "--from", path, "--by", "latency", *bounds, "--out", out) == 1
    assert capsys.readouterr().err == (
        "hedge: no variant keeps to the bounds: broken: could not be measured; "
        "quick: accuracy 0.8 against --min-accuracy 0.92; "
        "right: latency 12 ms against --max-latency-ms 5, energy 0.9 J against --max-energy-j 0.6; "
        "thrifty: accuracy 0.9 against --min-accuracy 0.92, latency 6 ms against "
        "--max-latency-ms 5\n"
    )
    assert not out.exists()


def test_what_was_not_measured_can_neither_decide_nor_keep_to_a_bound(
    variants: Path,
    report: BenchReport,
    saved: Saved,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bare = tuple(
        msgspec.structs.replace(one, energy=None, accuracy=None) for one in report.measured
    )
    path = saved(msgspec.structs.replace(report, measured=bare))
    out = tmp_path / "pinned"
    assert command(variants, "--from", path, "--by", "energy", "--out", out) == 1
    assert capsys.readouterr().err.count("energy was not measured") == 3
    words = ("--by", "latency", "--min-accuracy", "0")
    assert command(variants, "--from", path, *words, "--out", out) == 1
    assert capsys.readouterr().err.count("accuracy was not measured") == 3
    assert command(variants, "--from", path, "--by", "latency", "--out", out) == 0


def test_a_variant_can_be_chosen_by_hand_without_any_measurement(
    variants: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "pinned"
    assert command(variants, "--variant", "right", "--board", "jetson-agx-thor", "--out", out) == 0
    assert f"{out}: right on jetson-agx-thor, by hand; digest " in capsys.readouterr().out
    manifest = load_bundle(out).manifest
    assert chosen(manifest, boards=("jetson-agx-thor",), power_mode="MAXN").name == "right"
    assert manifest.choice[0].latency_ms is None


@pytest.mark.parametrize("name", ["raspberry-pi-5", "agx-orin-64gb"])
def test_a_board_is_named_as_devices_name_it(variants: Path, tmp_path: Path, name: str) -> None:
    out = tmp_path / "pinned"
    assert command(variants, "--variant", "right", "--board", name, "--out", out) == 0
    assert load_bundle(out).manifest.choice[0].board == name


def test_a_board_of_the_users_own_is_named_by_its_file(variants: Path, tmp_path: Path) -> None:
    profile, out = tmp_path / "profile.toml", tmp_path / "pinned"
    text = (FOLDER / "raspberry-pi-5.toml").read_text()
    profile.write_text(text.replace('name = "raspberry-pi-5"', 'name = "my-board"'))
    assert command(variants, "--variant", "right", "--board", profile, "--out", out) == 0
    assert load_bundle(out).manifest.choice[0].board == "my-board"


@pytest.mark.parametrize(
    ("name", "hint"), [("nope", ""), ("agx-orin-64", "did you mean 'agx-orin-64gb'?")]
)
def test_a_board_that_no_device_calls_itself_is_refused(
    variants: Path, tmp_path: Path, name: str, hint: str
) -> None:
    with pytest.raises(ConfigError, match=f"^--board: '{name}' is no board") as caught:
        command(variants, "--variant", "right", "--board", name, "--out", tmp_path / "pinned")
    assert hint in str(caught.value)
    assert not (tmp_path / "pinned").exists()


def test_a_board_that_was_measured_is_believed(
    variants: Path, report: BenchReport, saved: Saved, tmp_path: Path
) -> None:
    out = tmp_path / "pinned"
    words = ("--from", saved(report), "--by", "latency", "--board", "nano", "--out", out)
    assert command(variants, *words) == 0
    assert load_bundle(out).manifest.choice[0].board == "nano"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--variant", "right"), "--board: which board is it for?"),
        (
            ("--variant", "wrong", "--board", "jetson-agx-thor"),
            r"no variant 'wrong' \(it has quick, right, t",
        ),
        (
            ("--by", "latency", "--board", "jetson-agx-thor"),
            "--from: is needed to choose by what was meas",
        ),
    ],
)
def test_what_is_missing_is_named(
    variants: Path, tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        command(variants, *words, "--out", tmp_path / "pinned")


@pytest.mark.parametrize("place", [("--board", "jetson-agx-thor"), ("--power-mode", "MAXN")])
def test_figures_of_one_place_decide_for_no_other(
    variants: Path, report: BenchReport, saved: Saved, tmp_path: Path, place: tuple[str, str]
) -> None:
    words = ("--from", saved(report), "--by", "latency", *place, "--out", tmp_path / "pinned")
    with pytest.raises(ConfigError, match="was measured on nano, power mode 10W"):
        command(variants, *words)


def test_a_power_mode_that_the_board_could_not_tell_can_be_said(
    variants: Path, report: BenchReport, saved: Saved, tmp_path: Path
) -> None:
    path = saved(msgspec.structs.replace(report, power_mode=None))
    words = ("--by", "latency", "--power-mode", "15W", "--out", tmp_path / "pinned")
    assert command(variants, "--from", path, *words) == 0
    assert load_bundle(tmp_path / "pinned").manifest.choice[0].power_mode == "15W"


def test_measurements_of_other_models_are_refused(
    bundle_dir: Path, variants: Path, report: BenchReport, saved: Saved, tmp_path: Path
) -> None:
    words = ("--from", saved(report), "--by", "latency", "--out", tmp_path / "pinned")
    with pytest.raises(ConfigError, match=r"its model 'quick' is none of .*hedge bench run"):
        command(bundle_dir, *words)
    other = msgspec.structs.replace(report.measured[0], sha256="0" * 64)
    path = saved(msgspec.structs.replace(report, measured=(other,)))
    with pytest.raises(ConfigError, match="its model 'quick' is none of"):
        command(variants, "--from", path, "--by", "latency", "--out", tmp_path / "pinned")


def test_only_measurements_with_one_number_of_threads_are_compared(
    variants: Path, report: BenchReport, saved: Saved, tmp_path: Path
) -> None:
    fourfold = msgspec.structs.replace(report.measured[1], threads=4, latency=figures(0.1))
    both = msgspec.structs.replace(report, measured=(*report.measured, fourfold))
    words = ("--from", saved(both), "--by", "latency", "--out")
    assert command(variants, *words, tmp_path / "one") == 0
    assert load_bundle(tmp_path / "one").manifest.choice[0].variant == "quick"
    assert command(variants, *words, tmp_path / "four", "--threads", "4") == 0
    assert load_bundle(tmp_path / "four").manifest.choice[0].variant == "right"
    with pytest.raises(ConfigError, match="--threads: 3 were not measured"):
        command(variants, *words, tmp_path / "three", "--threads", "3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xff\xfe", "is no report of hedge bench run"),
        (b'{"format": 1}', "is no report of hedge bench run: .*missing required field"),
        (b"[" * 100_000, "is no report of hedge bench run"),
        (b" " * ((16 << 20) + 1), "is too large"),
    ],
    ids=["empty", "no text", "no report", "deep", "large"],
)
def test_what_is_no_report_is_refused_in_one_line(
    variants: Path, tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "bench.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message) as caught:
        command(variants, "--from", path, "--by", "latency", "--out", tmp_path / "pinned")
    assert "\n" not in str(caught.value)


def test_a_report_of_another_format_is_refused(
    variants: Path, report: BenchReport, saved: Saved, tmp_path: Path
) -> None:
    path = saved(msgspec.structs.replace(report, format=3))
    with pytest.raises(ConfigError, match="has format 3, this hedge reads 1 and 2"):
        command(variants, "--from", path, "--by", "latency", "--out", tmp_path / "pinned")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        command(variants, "--from", tmp_path / "no", "--by", "latency", "--out", tmp_path / "p")


def test_a_report_without_measurements_decides_nothing(
    variants: Path, report: BenchReport, saved: Saved, tmp_path: Path
) -> None:
    path = saved(msgspec.structs.replace(report, measured=()))
    with pytest.raises(ConfigError, match="holds no variant that was measured"):
        command(variants, "--from", path, "--by", "latency", "--out", tmp_path / "pinned")


def test_another_bundle_is_replaced_only_if_so_said(variants: Path, bundle_dir: Path) -> None:
    words: tuple[Any, ...] = (variants, "--variant", "right", "--board", "jetson-agx-thor", "--out")
    with pytest.raises(BundleError, match="is there already"):
        command(*words, bundle_dir)
    assert command(*words, bundle_dir, "--replace") == 0
    assert load_bundle(bundle_dir).manifest.choice[0].variant == "right"
    assert command(*words, variants, "--replace") == 0
    assert load_bundle(variants).manifest.choice[0].variant == "right"


@pytest.mark.parametrize(
    "words",
    [
        ("--by", "latency", "--variant", "right"),
        ("--by", "beauty"),
        (),
        ("--by", "latency", "--min-accuracy", "90"),
        ("--by", "latency", "--max-latency-ms", "-1"),
        ("--by", "latency", "--max-energy-j", "nan"),
    ],
)
def test_arguments_without_meaning_are_refused(
    variants: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    with pytest.raises(SystemExit):
        command(variants, *words, "--out", tmp_path / "pinned")
