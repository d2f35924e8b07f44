"""`hedge filter train`: the filter that it makes, the version that it writes, what it refuses."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

pytest.importorskip("torch", reason="torch, which trains, is not installed")
pytest.importorskip("onnxruntime", reason="the models of these bundles are ONNX graphs")

from hedge.models.bundle import Bundle, load_bundle, write_bundle
from hedge.models.dataset import load_dataset
from hedge.models.errors import (
    BundleError,
    ConfigError,
    DataError,
    HedgeError,
    MissingExtraError,
)
from hedge.models.filtering.operating_point import Point
from hedge.models.manifest import (
    Calibration,
    Edge,
    Filter,
    Input,
    Manifest,
    Promise,
)
from hedge.models.unseen import seen_rows
from hedge.runtime import filter_command
from hedge.runtime.both_models import part_outputs

LABELS = ("rest", "walk", "run")
WIDTH = 5
RULE = "labels rest,walk"
GATE = Calibration(
    score="max_prob",
    total=0.4,
    promise=Promise(accuracy=0.9, confidence=0.95, by="row", coverage=0.8, rows=100),
    reference=tuple(np.linspace(0.1, 0.9, 19).tolist()),
    method="by hand",
    rows=10,
    data_sha256="0" * 64,
)
Linear = Callable[..., bytes]


def command(*words: str | Path | float) -> int:
    """Run `hedge filter train …` in this process; return its exit code."""
    parser = argparse.ArgumentParser(prog="hedge")
    filter_command.add_parser(parser.add_subparsers())
    few = () if "--epochs" in words else ("--epochs", "6")
    options = parser.parse_args(["filter", "train", *map(str, words), *few])
    code: int = options.run(options)
    return code


def bundle(
    path: Path, linear: Linear, *filters: Filter, calibration: Calibration | None = None
) -> Bundle:
    manifest = Manifest(
        format=1,
        name="steps",
        version="1.0.9",
        task="classification",
        labels=LABELS,
        licence="test",
        input=Input(kind="tensor", shape=(WIDTH,), dtype="float32"),
        edge=(Edge(name="small", file="edge.onnx"),),
        filter=filters,
        calibration=calibration,
        files={},
    )
    files = {"edge.onnx": linear(len(LABELS), shape=(WIDTH,), seed=3)}
    files |= {one.file: linear(1, shape=(WIDTH,), seed=9) for one in filters}
    return write_bundle(path, manifest, files)


def data(path: Path, *, rows: int = 800, **changed: NDArray[Any]) -> Path:
    """Write rows without classes."""
    x = np.random.default_rng(4).normal(0.0, 1.0, (rows, WIDTH)).astype(np.float32)
    np.savez(path, **{"X": x, **changed})  # type: ignore[arg-type]  # not allow_pickle
    return path


def test_a_skip_filter_learns_what_the_model_says_and_lies_in_the_next_version(
    tmp_path: Path, linear_onnx: Linear, capsys: pytest.CaptureFixture[str]
) -> None:
    made = bundle(tmp_path / "a", linear_onnx, calibration=GATE)
    rows = data(tmp_path / "rows.npz")
    rest, report = tmp_path / "rest.npz", tmp_path / "r.json"
    written = ("--rest", rest, "--json", report)

    code = command(made.path, rows, "--redundant", RULE, "--epochs", 25, *written)

    found = load_bundle(tmp_path / "a-filtered")
    (part,) = found.manifest.filter
    assert code == 0
    assert (found.manifest.version, part.kind) == ("1.0.10", "skip")
    assert (part.rule, part.redundant) == (RULE, ("rest", "walk"))
    told = json.loads(report.read_text("utf-8"))
    held = load_dataset(rest)
    assert told["judged"] == len(held.x)
    matters = part_outputs(found, found.manifest.edge[0], held).argmax(axis=1) == 2
    drops = 1 / (1 + np.exp(-part_outputs(found, part, held)[:, 0])) <= part.threshold
    point = msgspec.convert(told["point"], Point)
    assert point.rate == pytest.approx(drops.mean())
    assert point.recall == pytest.approx(np.mean(~drops[matters]))
    assert told["redundant_share"] == pytest.approx(np.mean(~matters))
    assert point.recall > 0.9
    with pytest.raises(DataError, match=r"rest\.npz: is there already"):
        command(made.path, rows, "--redundant", RULE, "--out", tmp_path / "b", "--rest", rest)
    assert not (tmp_path / "b").exists()
    assert msgspec.convert(told["at_accuracy"], Point).rate > 0.8 * told["optimum"]
    assert not seen_rows(found, held).any()
    assert seen_rows(found, load_dataset(rows)).sum() == told["taught"] + told["held"]
    assert "hedge filter tune" in capsys.readouterr().out


def test_the_gate_keeps_its_threshold_and_loses_what_it_promised(
    tmp_path: Path, linear_onnx: Linear, capsys: pytest.CaptureFixture[str]
) -> None:
    made = bundle(tmp_path / "a", linear_onnx, calibration=GATE)
    command(made.path, data(tmp_path / "rows.npz"), "--redundant", RULE)
    gate = load_bundle(tmp_path / "a-filtered").manifest.calibration
    assert gate is not None
    assert (gate.score, gate.total) == (GATE.score, GATE.total)
    assert (gate.promise, gate.reference) == (None, ())
    assert "hedge calibrate" in capsys.readouterr().out


def test_the_same_seed_gives_the_same_bundle_and_another_another(
    tmp_path: Path, linear_onnx: Linear
) -> None:
    made, rows = bundle(tmp_path / "a", linear_onnx), data(tmp_path / "rows.npz", rows=300)
    digests = []
    for name, seed in (("b", 1), ("c", 1), ("d", 2)):
        out = tmp_path / name
        command(made.path, rows, "--redundant", RULE, "--seed", seed, "--out", out)
        digests.append(load_bundle(out).digest)
    assert digests[0] == digests[1] != digests[2]


def test_a_reuse_filter_gives_keys_and_stands_behind_the_skip_filter(
    tmp_path: Path, linear_onnx: Linear
) -> None:
    skip = Filter(kind="skip", file="skip.onnx", threshold=0.3)
    made = bundle(tmp_path / "a", linear_onnx, skip)
    rows, out, report = data(tmp_path / "rows.npz"), tmp_path / "b", tmp_path / "r.json"
    command(made.path, rows, "--kind", "reuse", "--out", out, "--json", report)
    found = load_bundle(out)
    kept, part = found.manifest.filter
    assert kept == skip
    assert part.reuse is not None
    told = json.loads(report.read_text("utf-8"))
    keys = part_outputs(found, part, load_dataset(rows))
    passes = part_outputs(found, skip, load_dataset(rows))[:, 0] > np.log(0.3 / 0.7)
    assert keys.shape == (800, part.reuse.width)
    assert told["filtered_before"] == int(np.sum(~passes))
    point = msgspec.convert(told["point"], Point)
    assert 0 < point.rate < 1
    assert point.accuracy > told["constant"]


def test_a_new_skip_filter_takes_the_place_of_the_old_one(
    tmp_path: Path, linear_onnx: Linear
) -> None:
    made = bundle(tmp_path / "a", linear_onnx, Filter(kind="skip", file="skip.onnx"))
    command(made.path, data(tmp_path / "rows.npz", rows=300), "--redundant", RULE)
    found = load_bundle(tmp_path / "a-filtered").manifest
    assert [one.file for one in found.filter] == ["filter-skip.onnx"]
    assert "skip.onnx" not in found.files


def test_a_bare_model_becomes_a_bundle_with_a_filter(tmp_path: Path, linear_onnx: Linear) -> None:
    model = tmp_path / "steps.onnx"
    model.write_bytes(linear_onnx(len(LABELS), shape=(WIDTH,), seed=3))
    rows = data(tmp_path / "rows.npz", rows=300)
    command(model, rows, "--labels", ",".join(LABELS), "--redundant", RULE)
    found = load_bundle(tmp_path / "steps-filtered")
    assert found.labels == LABELS
    assert [one.rule for one in found.manifest.filter] == [RULE]


def test_rows_of_one_person_teach_or_judge(tmp_path: Path, linear_onnx: Linear) -> None:
    made, rest = bundle(tmp_path / "a", linear_onnx), tmp_path / "rest.npz"
    rows = data(tmp_path / "rows.npz", rows=500, group=np.arange(500) % 10)
    report = tmp_path / "r.json"
    command(made.path, rows, "--redundant", RULE, "--rest", rest, "--json", report)
    group = load_dataset(rest).group
    assert group is not None
    assert json.loads(report.read_text("utf-8"))["divided_by"] == "group"
    assert all(np.sum(group == one) in (0, 50) for one in range(10))


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        ((), ConfigError, "--redundant"),
        (("--redundant", "labels rest,walk,run"), ConfigError, "every label"),
        (("--redundant", "labels swim"), ConfigError, "none of the labels"),
        (("--redundant", "confidence below 0"), DataError, "no row redundant"),
        (("--redundant", "confidence below 1"), DataError, "every row redundant"),
        (("--redundant", RULE, "--modality", "image"), ConfigError, "cannot be seen as image"),
        (("--redundant", RULE, "--modality", "vector[0:999]"), ConfigError, "goes beyond"),
        (("--redundant", RULE, "--seed", "-1"), ConfigError, "--seed"),
        (("--redundant", RULE, "--variant", "big"), ConfigError, "no variant 'big'"),
        (("--redundant", RULE, "--labels", "a,b"), ConfigError, "--labels"),
        (("--redundant", RULE, "--out", "no/such/place"), ConfigError, "no folder"),
    ],
)
def test_what_cannot_be_trained_is_refused_in_one_line(
    tmp_path: Path,
    linear_onnx: Linear,
    words: tuple[str, ...],
    error: type[HedgeError],
    message: str,
) -> None:
    made, rows = bundle(tmp_path / "a", linear_onnx), data(tmp_path / "rows.npz")
    with pytest.raises(error, match=message) as caught:
        command(made.path, rows, *words)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a-filtered").exists()


def test_rows_of_which_hardly_any_matters_are_refused_with_how_many_it_takes(
    tmp_path: Path, linear_onnx: Linear
) -> None:
    made = bundle(tmp_path / "a", linear_onnx)
    with pytest.raises(
        DataError, match=r"1 rows that matter and 13 that .*at least 10 of each kind"
    ):
        command(made.path, data(tmp_path / "rows.npz", rows=70), "--redundant", RULE)


def test_rows_of_another_shape_are_refused(tmp_path: Path, linear_onnx: Linear) -> None:
    made = bundle(tmp_path / "a", linear_onnx)
    rows = data(tmp_path / "rows.npz", X=np.zeros((90, WIDTH + 1), np.float32))
    with pytest.raises(DataError, match="the bundle takes"):
        command(made.path, rows, "--redundant", RULE)


def test_what_lies_at_the_place_is_left_alone_unless_it_may_go(
    tmp_path: Path, linear_onnx: Linear
) -> None:
    made, rows = bundle(tmp_path / "a", linear_onnx), data(tmp_path / "rows.npz", rows=300)
    other = bundle(tmp_path / "b", linear_onnx, calibration=replace(GATE, promise=None))
    words = (made.path, rows, "--redundant", RULE, "--out", other.path)
    with pytest.raises(BundleError, match="is there already"):
        command(*words)
    assert load_bundle(other.path).digest == other.digest
    command(*words, "--replace")
    assert load_bundle(other.path).manifest.version == "1.0.10"


@pytest.mark.skipif(find_spec("litert_torch") is not None, reason="litert-torch is installed")
def test_tflite_without_its_library_says_what_to_install_before_anything_is_taught(
    tmp_path: Path, linear_onnx: Linear, capsys: pytest.CaptureFixture[str]
) -> None:
    made, rows = bundle(tmp_path / "a", linear_onnx), data(tmp_path / "rows.npz", rows=300)
    with pytest.raises(MissingExtraError, match=r"train-tflite.*, or --format onnx\)"):
        command(made.path, rows, "--redundant", RULE, "--format", "tflite")
    assert "to teach" not in capsys.readouterr().err


@pytest.mark.skipif(find_spec("litert_torch") is None, reason="litert-torch is not installed")
@pytest.mark.parametrize("flags", [(), ("--int8",)], ids=["float", "int8"])
def test_a_filter_of_tflite_drops_what_that_of_onnx_does(
    tmp_path: Path, linear_onnx: Linear, flags: tuple[str, ...]
) -> None:
    made, rows = bundle(tmp_path / "a", linear_onnx), data(tmp_path / "rows.npz")
    outputs = []
    for format_ in ("onnx", "tflite"):
        out = tmp_path / format_
        more = flags if format_ == "tflite" else ()
        command(made.path, rows, "--redundant", RULE, "--format", format_, "--out", out, *more)
        found = load_bundle(out)
        outputs.append(part_outputs(found, found.manifest.filter[0], load_dataset(rows))[:, 0])
    assert np.mean((outputs[0] > 0) == (outputs[1] > 0)) > 0.97
