"""Tests of `hedge bench run` and of the statistics behind it."""

from __future__ import annotations

import argparse
import math
import re
import resource
import runpy
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hedge.models.bundle import Bundle, write_bundle
from hedge.models.dataset import row_digests, save_seen
from hedge.models.errors import BundleError, ConfigError, DataError
from hedge.models.manifest import Edge, Manifest
from hedge.runtime import bench_command
from hedge.runtime.backends import open_model
from hedge.runtime.backends.options import BackendOptions
from hedge.runtime.bench.energy_record import Energy
from hedge.runtime.bench.latency import Latency, paired_ratio
from hedge.runtime.bench.lines import lines
from hedge.runtime.bench.machine import this_machine
from hedge.runtime.bench.measure import Plan, measure
from hedge.runtime.bench.record import BenchReport
from hedge.runtime.bench.rounds import Batches, Budget, Contender, timed_rounds
from hedge.runtime.shipped import bundle_path
from hedge.telemetry.boards.detect import detect

pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

Linear = Callable[..., bytes]
on_gpu = runpy.run_path(str(Path(__file__).with_name("gpu_machine.py")))["machine"]
_UNSEEN = bundle_path("digits").with_name("digits-unseen.npz")


def command(*words: str | Path) -> int:
    """Run `hedge bench …` in this process, without power sensors; return its exit code."""
    parser = argparse.ArgumentParser(prog="hedge")
    bench_command.add_parser(parser.add_subparsers())
    none = ("--power", "none") if words[0] == "run" else ()
    options = parser.parse_args(["bench", *map(str, words), *none])
    code: int = options.run(options)
    return code


def report(path: Path) -> BenchReport:
    return msgspec.json.decode(path.read_bytes(), type=BenchReport)


def plan_of(edges: tuple[Edge, ...], state: Path) -> Plan:
    """Three calls of each with one thread, wherever this is."""
    return Plan(
        edges=edges,
        threads=(1,),
        board=detect(),
        board_name="bench",
        options=BackendOptions(),
        state=state,
        budget=Budget(runs=3),
    )


@pytest.fixture
def variants(
    tmp_path: Path, manifest: Manifest, bundle_files: dict[str, bytes], linear_onnx: Linear
) -> Bundle:
    """A bundle of two variants, of which the second is right where it says so."""
    edges = (
        Edge(name="tiny", file="edge.onnx", head="evidential"),
        Edge(name="wide", file="wide.onnx", head="evidential"),
    )
    files = {**bundle_files, "wide.onnx": linear_onnx(3, seed=8)}
    return write_bundle(tmp_path / "b", msgspec.structs.replace(manifest, edge=edges), files)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Sixty rows of three classes."""
    rng = np.random.default_rng(5)
    x = rng.normal(0, 3, (60, 4)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", X=x, y=rng.integers(0, 3, 60))
    return tmp_path / "rows.npz"


# ---- The statistics.


def test_the_latency_of_calls_is_described_as_by_hand() -> None:
    given = Latency.of(np.array([7, 1, 3, 2, 2], np.int64) * 1_000_000)
    assert (given.count, given.first_ms, given.min_ms, given.max_ms) == (5, 7.0, 1.0, 7.0)
    assert (given.mean_ms, given.median_ms) == (3.0, 2.0)
    assert given.std_ms == pytest.approx(math.sqrt((16 + 4 + 0 + 1 + 1) / 5))
    assert given.p90_ms == pytest.approx(3 + 0.6 * 4)  # ranks from 0: 0.9 * 4 = 3.6


def test_what_disturbs_both_of_a_pair_does_not_touch_their_ratio() -> None:
    rng = np.random.default_rng(0)
    noise = rng.lognormal(0, 1, 200)
    others = [np.array([int(1000 * factor)] * 3, np.int64) for factor in 1 + noise]
    ours = [np.rint(other * 1.25).astype(np.int64) for other in others]
    ratio = paired_ratio(ours, others, seed=1)
    assert ratio.median == pytest.approx(1.25, abs=1e-3)
    assert ratio.low == pytest.approx(1.25, abs=2e-3)
    assert ratio.high == pytest.approx(1.25, abs=2e-3)
    assert ratio.pairs == 200


def test_the_interval_of_a_ratio_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for seed in range(100):
        ones = [np.array([int(value)]) for value in rng.normal(3000, 300, 60)]
        others = [np.array([1000]) for _ in ones]
        ratio = paired_ratio(ones, others, seed=seed)
        covered += ratio.low <= 3.0 <= ratio.high
    assert 87 <= covered <= 100  # of 100 at 95 %: below 87 once in a thousand times


class Scripted:
    """A clock that models move."""

    now_ns = 0

    def __call__(self) -> int:
        return self.now_ns

    def contender(self, takes_ns: int, heard: list[tuple[int, float]]) -> Contender:
        """A model that takes so long, and notes what it was given."""

        def infer(batch: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> Batches:
            heard.append((takes_ns, float(batch[0])))
            self.now_ns += takes_ns
            return [batch]

        return Contender(lambda batch: batch, infer)  # type: ignore[arg-type]


BATCHES = [np.array([float(place)]) for place in range(7)]


def test_every_call_but_the_first_of_a_turn_is_timed() -> None:
    clock, heard = Scripted(), list[tuple[int, float]]()
    contenders = [clock.contender(5, heard), clock.contender(11, heard)]
    found = timed_rounds(contenders, BATCHES, budget=Budget(runs=250), seed=0, clock=clock)
    assert [set(np.concatenate(rounds).tolist()) for rounds in found] == [{5}, {11}]
    assert [sum(map(len, rounds)) for rounds in found] == [250, 250]
    assert len({len(rounds) for rounds in found}) == 1
    assert len(heard) > 2 * 250


def test_in_a_round_all_are_given_the_same_samples_in_an_order_that_varies() -> None:
    clock, heard = Scripted(), list[tuple[int, float]]()
    contenders = [clock.contender(takes_ns, heard) for takes_ns in (1_000_000, 2_000_000)]
    timed_rounds(contenders, BATCHES, budget=Budget(runs=60), seed=0, clock=clock)
    given = {who: [value for one, value in heard if one == who] for who, _ in heard}
    assert given[1_000_000] == given[2_000_000]
    assert {0.0, 6.0} <= set(given[1_000_000])
    turns = [one for one, _ in heard]
    firsts = [turns[at] for at in range(len(turns)) if at == 0 or turns[at] != turns[at - 1]]
    assert len(firsts) < 2 * 12  # strict alternation would change at every turn


def test_measuring_stops_when_its_time_is_over_but_not_before_three_rounds() -> None:
    clock, heard = Scripted(), list[tuple[int, float]]()
    slow = clock.contender(10**9, heard)
    found = timed_rounds([slow], BATCHES, budget=Budget(seconds=0.1), seed=0, clock=clock)
    assert len(found[0]) == 3
    (long,) = timed_rounds([slow], BATCHES, budget=Budget(seconds=20), seed=0, clock=clock)
    assert len(long) == 10  # a turn is a call that counts and one that does not


# ---- The command.


def test_every_variant_is_measured_beside_the_null_backend(
    variants: Bundle, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    words = ("--runs", "40", "--seed", "7", "--threads", "1", "--json", out)
    place = ("--board", "jetson-nano", "--power-mode", "10W")
    assert command("run", variants.path, rows, *words, *place) == 0
    found = report(out)
    assert [one.variant for one in found.measured] == ["tiny", "wide"]
    assert (found.board, found.power_mode, found.seed) == ("jetson-nano", "10W", 7)
    assert found.digest == variants.digest
    for one in found.measured:
        edge = next(edge for edge in variants.manifest.edge if edge.name == one.variant)
        assert one.sha256 == variants.manifest.files[edge.file]
        assert one.latency.count == found.floor.count == 40
        assert one.latency.min_ms <= one.latency.median_ms <= one.latency.p90_ms
        assert one.latency.p99_ms <= one.latency.max_ms
        assert one.latency.min_ms > found.floor.min_ms
        assert one.opening.open_ms > 0
        assert one.opening.warm_up_ms > 0
        assert 10e6 < one.opening.added_bytes < one.opening.peak_bytes < 1e9
        assert "onnxruntime" in one.runs_on == one.opening.runs_on
        assert one.energy is None
    first = found.measured[0].ratio
    assert (first.low, first.median, first.high) == (1, 1, 1)
    text = capsys.readouterr().out
    assert "seed 7, " in text
    assert "40 calls of each" in text
    assert str(found.machine.python) in text
    assert re.search(r"^wide, \d+ threads?: float, onnxruntime", text, re.MULTILINE)
    assert len(re.findall(r"Latency: count = 40, first = .* percentile\(99%\) = .* std = ", text))
    assert text.count("Energy: no power source") == 2
    assert len(re.findall(r"Ratio to tiny, 1 thread: \d\.\d+ \[", text)) == 1


def test_accuracy_and_what_the_gate_would_do_are_those_of_the_device(
    variants: Bundle, rows: Path, tmp_path: Path
) -> None:
    out = tmp_path / "bench.json"
    assert command("run", variants.path, rows, "--runs", "3", "--json", out) == 0
    given = np.load(rows)
    calibration = variants.manifest.calibration
    assert calibration is not None
    for one, edge in zip(report(out).measured, variants.manifest.edge, strict=True):
        model = open_model(variants.read(edge.file), format="onnx", where=edge.name)
        alpha = np.logaddexp(model.infer(given["X"]), 0) + 1
        right = alpha.argmax(1) == given["y"]
        accepted = 3 / alpha.sum(1) < calibration.total
        assert 0 < accepted.sum() < 60
        assert one.accuracy is not None
        assert one.accuracy.rows == 60
        assert one.accuracy.accuracy == pytest.approx(right.mean())
        assert one.accuracy.accepted_accuracy == pytest.approx(right[accepted].mean())
        assert one.accuracy.escalated_share == pytest.approx(1 - accepted.mean())


def test_rows_that_training_saw_are_left_out(
    tmp_path: Path,
    manifest: Manifest,
    bundle_files: dict[str, bytes],
    rows: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    x = np.load(rows)["X"]
    some = {**bundle_files, "seen.npy": save_seen(row_digests(x[:20]))}
    bundle = write_bundle(tmp_path / "some", manifest, some)
    out = tmp_path / "bench.json"
    assert command("run", bundle.path, rows, "--runs", "3", "--json", out) == 0
    (one,) = report(out).measured
    assert one.accuracy is not None
    assert (one.accuracy.rows, report(out).seen_rows_left_out) == (40, 20)
    assert "20 rows that training or calibration saw are left out" in capsys.readouterr().out
    every = {**bundle_files, "seen.npy": save_seen(row_digests(x))}
    bundle = write_bundle(tmp_path / "every", manifest, every)
    with pytest.raises(DataError, match=r"rows\.npz: training or calibration saw all 60 rows"):
        command("run", bundle.path, rows, "--runs", "3")


def test_without_data_there_is_latency_and_no_accuracy(
    variants: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bench.json"
    assert command("run", variants.path, "--runs", "5", "--variant", "wide", "--json", out) == 0
    (one,) = report(out).measured
    assert (one.variant, one.accuracy, one.latency.count) == ("wide", None, 5)
    assert report(out).seen_rows_left_out is None
    assert "Accuracy: no data" in capsys.readouterr().out


def test_rows_without_classes_tell_what_would_be_escalated(
    variants: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "x.npz", X=np.zeros((4, 4), np.float32))
    out = tmp_path / "bench.json"
    assert command("run", variants.path, tmp_path / "x.npz", "--runs", "3", "--json", out) == 0
    accuracy = report(out).measured[0].accuracy
    assert accuracy is not None
    assert (accuracy.accuracy, accuracy.accepted_accuracy) == (None, None)
    assert accuracy.escalated_share == 1.0  # zeros are evidence of nothing
    assert "Accuracy: 100.00% escalated" in capsys.readouterr().out


def test_a_bundle_without_calibration_has_no_gate(
    tmp_path: Path, manifest: Manifest, bundle_files: dict[str, bytes], rows: Path
) -> None:
    without = msgspec.structs.replace(manifest, calibration=None)
    bundle = write_bundle(tmp_path / "b", without, bundle_files)
    out = tmp_path / "bench.json"
    assert command("run", bundle.path, rows, "--runs", "3", "--json", out) == 0
    accuracy = report(out).measured[0].accuracy
    assert accuracy is not None
    assert accuracy.accuracy is not None
    assert (accuracy.accepted_accuracy, accuracy.escalated_share) == (None, None)


def test_a_variant_that_cannot_be_measured_is_reported_and_the_others_go_on(
    tmp_path: Path,
    manifest: Manifest,
    bundle_files: dict[str, bytes],
    linear_onnx: Linear,
    capsys: pytest.CaptureFixture[str],
) -> None:
    edges = (
        Edge(name="odd", file="odd.onnx", head="evidential"),
        Edge(name="tiny", file="edge.onnx", head="evidential"),
    )
    files = {**bundle_files, "odd.onnx": linear_onnx(3, operator=("", "NoSuchOperator"))}
    bundle = write_bundle(tmp_path / "b", msgspec.structs.replace(manifest, edge=edges), files)
    out = tmp_path / "bench.json"
    assert command("run", bundle.path, "--runs", "3", "--json", out) == 1
    found = report(out)
    assert [one.variant for one in found.measured] == ["tiny"]
    assert [one.variant for one in found.failed] == ["odd"]
    assert "ONNX Runtime refuses it" in found.failed[0].reason
    text = capsys.readouterr().out
    assert re.search(r"odd, \d+ threads?: not measured: .*odd\.onnx: ONNX Runtime refuses", text)


def test_where_nothing_can_be_measured_the_floor_is_still_there(
    tmp_path: Path, manifest: Manifest, bundle_files: dict[str, bytes], linear_onnx: Linear
) -> None:
    files = {**bundle_files, "edge.onnx": linear_onnx(3, operator=("", "NoSuchOperator"))}
    bundle = write_bundle(tmp_path / "b", manifest, files)
    out = tmp_path / "bench.json"
    assert command("run", bundle.path, "--runs", "3", "--json", out) == 1
    assert report(out).measured == ()
    assert report(out).floor.count == 3


def test_each_variant_is_measured_with_each_number_of_threads(
    variants: Bundle, tmp_path: Path
) -> None:
    out = tmp_path / "bench.json"
    words = ("--threads", "1", "2", "1", "--variant", "wide", "wide", "--runs", "3")
    assert command("run", variants.path, *words, "--json", out) == 0
    assert [(one.variant, one.threads) for one in report(out).measured] == [
        ("wide", 1),
        ("wide", 2),
    ]
    assert "2 threads" in report(out).measured[1].runs_on


def test_variants_of_different_libraries_are_measured_side_by_side(
    tmp_path: Path,
    manifest: Manifest,
    bundle_files: dict[str, bytes],
    linear_tflite: Callable[..., bytes],
) -> None:
    tflite = {"format": "tflite", "output": "probabilities", "head": "softmax"}
    edges = (
        Edge(name="tiny", file="edge.onnx", head="evidential"),
        msgspec.convert({"name": "lite", "file": "edge.tflite", **tflite}, Edge),
        msgspec.convert(
            {"name": "lite8", "file": "edge8.tflite", "precision": "int8", **tflite}, Edge
        ),
    )
    files = {
        **bundle_files,
        "edge.tflite": linear_tflite(3),
        "edge8.tflite": linear_tflite(3, int8=True),
    }
    whole = msgspec.structs.replace(manifest, edge=edges, calibration=None)
    bundle = write_bundle(tmp_path / "b", whole, files)
    out = tmp_path / "bench.json"
    assert command("run", bundle.path, "--runs", "3", "--json", out) == 0
    found = report(out).measured
    assert [(one.variant, one.precision) for one in found] == [
        ("tiny", "float"),
        ("lite", "float"),
        ("lite8", "int8"),
    ]
    assert "onnxruntime" in found[0].runs_on
    assert "ai_edge_litert" in found[1].runs_on


def test_the_backend_is_that_of_the_file_given(variants: Bundle, tmp_path: Path) -> None:
    backend = tmp_path / "backend.toml"
    backend.write_text("threads = 2\n")
    out = tmp_path / "bench.json"
    words = ("--runs", "3", "--variant", "tiny", "--backend", backend, "--json", out)
    assert command("run", variants.path, *words) == 0
    assert report(out).measured[0].threads == 2
    backend.write_text('providers = ["NoExecutionProvider"]\n')
    assert command("run", variants.path, *words) == 1
    assert "NoExecutionProvider" in report(out).failed[0].reason
    backend.write_text("thread = 2\n")
    with pytest.raises(ConfigError, match=r"backend\.toml: \$\.thread: unknown key .*'threads'"):
        command("run", variants.path, *words)


def test_what_is_not_there_is_named(
    variants: Bundle,
    tmp_path: Path,
    manifest: Manifest,
    bundle_files: dict[str, bytes],
) -> None:
    with pytest.raises(ConfigError, match=r"no variant 'huge' \(it has tiny, wide\)"):
        command("run", variants.path, "--variant", "tiny", "huge")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        command("run", variants.path, "--backend", tmp_path / "no.toml")
    (tmp_path / "large.toml").write_bytes(b"\n" * ((1 << 20) + 1))
    with pytest.raises(ConfigError, match=r"large\.toml: is too large"):
        command("run", variants.path, "--backend", tmp_path / "large.toml")
    with pytest.raises(ConfigError, match="is a folder, or lies in none"):
        command("run", variants.path, "--json", tmp_path / "no" / "bench.json")
    with pytest.raises(ConfigError, match="'jetson-none' is no board"):
        command("run", variants.path, "--board", "jetson-none")
    far = msgspec.structs.replace(manifest, edge=(), calibration=None)
    without = {name: data for name, data in bundle_files.items() if name != "edge.onnx"}
    with pytest.raises(BundleError, match="has no edge model"):
        command("run", write_bundle(tmp_path / "far", far, without).path)


@pytest.mark.parametrize(
    "words",
    [
        ("--runs", "2"),
        ("--runs", "x"),
        ("--runs", "5", "--seconds", "1"),
        ("--seconds", "0"),
        ("--seconds", "inf"),
        ("--threads", "0"),
        ("--threads", "257"),
        ("--seed", "-1"),
    ],
)
def test_arguments_without_meaning_are_refused(variants: Bundle, words: tuple[str, ...]) -> None:
    with pytest.raises(SystemExit):
        command("run", variants.path, *words)


def test_the_shipped_bundle_is_as_right_as_its_recipe_says(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    assert command("run", "digits", _UNSEEN, "--runs", "30", "--json", out) == 0
    accuracy = report(out).measured[0].accuracy
    assert accuracy is not None
    assert accuracy.accuracy is not None
    assert accuracy.accepted_accuracy is not None
    assert accuracy.escalated_share is not None
    assert accuracy.accuracy > 0.9
    assert accuracy.accepted_accuracy > accuracy.accuracy
    assert 0.1 < accuracy.escalated_share < 0.3


def test_integers_are_measured_on_noise_over_their_whole_range(
    tmp_path: Path, manifest: Manifest, bundle_files: dict[str, bytes]
) -> None:
    sample = msgspec.structs.replace(manifest.input, dtype="uint8", scale=1 / 255)
    bundle = write_bundle(
        tmp_path / "b", msgspec.structs.replace(manifest, input=sample), bundle_files
    )
    plan = plan_of(bundle.manifest.edge, tmp_path)
    assert measure(bundle, plan).measured[0].latency.count == 3


def test_engines_are_built_before_they_are_timed_and_kept_where_the_state_is(
    variants: Bundle, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = tmp_path / "backend.toml"
    backend.write_text('use = "tensorrt"\nprecision = "fp32"\n')
    out = tmp_path / "bench.json"
    words = ("--runs", "3", "--backend", backend, "--state-dir", tmp_path / "state", "--json", out)
    with on_gpu("fake", tmp_path, monkeypatch):
        assert command("run", variants.path, rows, *words) == 0
    assert command("run", variants.path, rows, "--runs", "3", "--json", tmp_path / "cpu") == 0
    for one, plain in zip(report(out).measured, report(tmp_path / "cpu").measured, strict=True):
        assert one.runs_on.startswith("tensorrt 10.")
        assert one.opening.runs_on.startswith("onnxruntime")
        assert one.accuracy == plain.accuracy
    assert len(list((tmp_path / "state" / "engines").glob("*.engine"))) == 2
    assert any(line.startswith("  Opening by onnxruntime ") for line in lines(report(out)))


def test_energy_is_told_with_its_source(variants: Bundle, tmp_path: Path) -> None:
    plan = plan_of(variants.manifest.edge[:1], tmp_path)
    found = measure(variants, plan)
    energy = Energy(per_sample_j=0.0125, source="INA3221 VDD_IN", window_s=30.0, samples=9000)
    with_energy = msgspec.structs.replace(found.measured[0], energy=energy)
    text = list(lines(msgspec.structs.replace(found, measured=(with_energy,))))
    assert "  Energy: 12.5 mJ a sample (INA3221 VDD_IN, 9000 samples in 30 s)" in text


def test_the_machine_is_read_below_a_root(tmp_path: Path) -> None:
    assert this_machine(root=tmp_path).processor is None
    (tmp_path / "proc").mkdir()
    cpuinfo = tmp_path / "proc" / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nBogoMIPS\t: 108.00\n\nModel\t: Raspberry Pi 5 Model B\n")
    assert this_machine(root=tmp_path).processor == "Raspberry Pi 5 Model B"
    assert "(Raspberry Pi 5 Model B), " in str(this_machine(root=tmp_path))


def test_the_board_is_described_before_and_after_and_the_latencies_are_kept(
    variants: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "bench.json", tmp_path / "bench.html"
    words = ("--runs", "40", "--json", out, "--html", page)
    assert command("run", variants.path, *words) == 0
    found = report(out)
    assert found.format == 2
    assert found.before is not None
    assert found.after is not None
    assert found.preempted_hz is not None
    assert found.preempted_hz >= 0
    assert found.course is not None
    assert [phase.what for phase in found.course.phases] == ["opening", "accuracy", "latency"]
    assert found.course.power_source is None
    assert found.floor_spread is not None
    assert found.floor_spread.total.sum() == 40
    for one in found.measured:
        assert one.spread is not None
        assert one.spread.total.sum() == 40
        assert one.spread.edges_ms[0, 0] <= one.latency.min_ms
    text = capsys.readouterr().out
    assert len(re.findall(r"^conditions (?:before|after): load ", text, re.MULTILINE)) == 2
    assert "No power source" in page.read_text("utf-8")
    assert command("compare", out, out) in {0, 3}  # 3: others held up too many of these calls
    last = capsys.readouterr().out.splitlines()[-1]
    assert "WORSE" not in last
    assert "judged" in last or "no regression in" in last


def test_accuracy_keeps_which_rows_were_right(variants: Bundle, rows: Path, tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    assert command("run", variants.path, rows, "--runs", "3", "--json", out) == 0
    one, other = (measured.accuracy for measured in report(out).measured)
    assert one is not None
    assert other is not None
    hits = one.hits()
    assert hits is not None
    assert hits.shape == (60,)
    assert hits.mean() == one.accuracy
    assert one.data_sha256 == other.data_sha256
    assert msgspec.structs.replace(one, right="no base64!").hits() is None
    assert msgspec.structs.replace(one, rows=61 * 8).hits() is None


def test_loadgens_scenarios_stand_in_the_report(
    variants: Bundle, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    out = tmp_path / "bench.json"
    words = ("--runs", "3", "--variant", "tiny", "--scenario", "SingleStream", "--ways", "model")
    short = ("--min-seconds", "0.1", "--min-queries", "16", "--logs", tmp_path / "logs")
    assert command("run", variants.path, rows, *words, *short, "--json", out) == 0
    floor, one = report(out).scenarios
    assert (floor.parts, one.parts, one.variant) == (("null",), ("infer",), "tiny")
    assert not one.valid
    text = capsys.readouterr().out
    assert "LoadGen SingleStream, tiny, 1 thread, of infer" in text
    assert "Result is: INVALID; " in text
    assert any((tmp_path / "logs").iterdir())


def test_scenarios_without_rows_are_refused_before_anything_is_measured(
    variants: Bundle, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlperf_loadgen", reason="mlcommons-loadgen is not installed")
    with pytest.raises(DataError, match=r"DATA: LoadGen needs rows to ask for \(name an \.npz\)"):
        command("run", variants.path, "--scenario", "Server")
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("words", "flag"),
    [
        (("--ways", "model"), "--ways"),
        (("--ways", "model,evidence"), "--ways"),
        (("--target-qps", "5"), "--target-qps"),
        (("--min-seconds", "1"), "--min-seconds"),
        (("--logs", "logs"), "--logs"),
    ],
)
def test_what_is_said_to_loadgen_alone_needs_a_scenario(
    variants: Bundle, words: tuple[str, ...], flag: str
) -> None:
    with pytest.raises(ConfigError, match=f"^{flag}: is for LoadGen, .* without --scenario"):
        command("run", variants.path, "--runs", "3", *words)


def test_figures_are_printed_though_no_file_can_be_written(
    variants: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "bench.json", tmp_path / "bench.html"
    page.write_text("the page before")
    # What the models need of the disk is small; neither of the two files is.
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try:
        words = ("--runs", "30", "--variant", "tiny", "--json", out, "--html", page)
        with pytest.raises(ConfigError, match=r"bench\.\w+: cannot be written"):
            command("run", variants.path, *words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "  Latency: count = 30" in capsys.readouterr().out
    assert page.read_text() == "the page before"
    assert not out.exists()


def test_a_page_that_cannot_be_written_does_not_take_the_report_with_it(
    variants: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, page = tmp_path / "bench.json", tmp_path / "bench.html"
    (tmp_path / "bench.html.new").mkdir()  # in the way of the new page
    words = ("--runs", "3", "--variant", "tiny", "--json", out, "--html", page)
    with pytest.raises(ConfigError, match=r"bench\.html: cannot be written"):
        command("run", variants.path, *words)
    assert report(out).measured[0].variant == "tiny"
    assert "  Latency: count = 3" in capsys.readouterr().out


def test_no_file_that_is_read_or_written_is_overwritten(
    variants: Bundle, rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    was = rows.read_bytes()
    same = tmp_path / "." / "x"
    with pytest.raises(ConfigError, match=r"/x: would overwrite .*/x \(name another file"):
        command("run", variants.path, "--json", tmp_path / "x", "--html", same)
    with pytest.raises(ConfigError, match=r"would overwrite .*rows\.npz"):
        command("run", variants.path, rows, "--json", rows)
    assert rows.read_bytes() == was
    assert capsys.readouterr().out == ""


def test_the_figures_of_a_fast_model_are_plain_numbers(tmp_path: Path, variants: Bundle) -> None:
    found = measure(variants, plan_of(variants.manifest.edge[:1], tmp_path))
    fast = msgspec.structs.replace(found.measured[0].latency, mean_ms=1 / 163.3804, max_ms=12_345.6)
    slow = msgspec.structs.replace(found.measured[0].opening, open_ms=12_345.6, warm_up_ms=1234.5)
    one = msgspec.structs.replace(found.measured[0], latency=fast, opening=slow)
    found = msgspec.structs.replace(found, preempted_hz=1234.5)
    text = "\n".join(lines(msgspec.structs.replace(found, measured=(one,))))
    assert "  Throughput: 163,380 samples/s" in text
    assert "max = 12,346 ms" in text
    assert "open = 12,346 ms, warm-up = 1,234 ms" in text
    assert not re.search(r"\de\+\d", text)
