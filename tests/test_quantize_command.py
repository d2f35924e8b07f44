"""`hedge quantize`: the bundle that it writes, what it reports, and what it refuses."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hedge.models.bundle import Bundle, load_bundle, write_bundle
from hedge.models.dataset import digest, is_seen, load_dataset, read_seen
from hedge.models.errors import HedgeError
from hedge.models.manifest import Calibration, Edge, Input, Manifest
from hedge.runtime import quantize_command
from hedge.runtime.bundle_command import verify
from hedge.runtime.shipped import bundle_path

DIGITS = bundle_path("digits")
UNSEEN = DIGITS.with_name("digits-unseen.npz")
WIDTH, HIDDEN, CLASSES = 6, 12, 3


def command(*words: str | Path | int) -> int:
    """Run `hedge quantize …` in this process; return its exit code."""
    parser = argparse.ArgumentParser(prog="hedge")
    quantize_command.add_parser(parser.add_subparsers())
    options = parser.parse_args(["quantize", *map(str, words)])
    code: int = options.run(options)
    return code


def net(*, outlier: float = 1.0) -> bytes:
    """Return relu(x W) V; one hidden value is ``outlier`` times larger, for nothing."""
    random = np.random.default_rng(3)
    first = random.normal(size=(WIDTH, HIDDEN)).astype(np.float32)
    second = random.normal(size=(HIDDEN, CLASSES)).astype(np.float32)
    first[:, 0] *= outlier
    second[0] /= outlier
    graph = helper.make_graph(
        [
            helper.make_node("MatMul", ["x", "W"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["positive"]),
            helper.make_node("MatMul", ["positive", "V"], ["y"]),
        ],
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["B", WIDTH])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["B", CLASSES])],
        [numpy_helper.from_array(first, "W"), numpy_helper.from_array(second, "V")],
    )
    imports = [helper.make_opsetid("", 17)]
    data: bytes = helper.make_model(graph, ir_version=8, opset_imports=imports).SerializeToString()
    return data


def outputs(x: NDArray[np.float32]) -> NDArray[np.float32]:
    random = np.random.default_rng(3)
    first = random.normal(size=(WIDTH, HIDDEN)).astype(np.float32)
    second = random.normal(size=(HIDDEN, CLASSES)).astype(np.float32)
    y: NDArray[np.float32] = np.maximum(x @ first, 0) @ second
    return y


def net_bundle(path: Path, data: bytes, edge: Edge | None = None) -> Path:
    manifest = Manifest(
        format=1,
        name="net",
        version="1.0",
        task="classification",
        labels=("a", "b", "c"),
        licence="Apache-2.0",
        input=Input(kind="tensor", shape=(WIDTH,), dtype="float32"),
        edge=(edge or Edge(name="small", file="net.onnx", head="evidential"),),
        calibration=Calibration(
            score="vacuity", total=0.2, method="by hand", rows=1, data_sha256="0" * 64
        ),
        files={},
    )
    return write_bundle(path, manifest, {manifest.edge[0].file: data}).path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Give 500 rows, nine in ten of the class that the net says."""
    random = np.random.default_rng(1)
    x = random.normal(size=(500, WIDTH)).astype(np.float32)
    y = outputs(x).argmax(axis=1)
    wrong = random.random(500) < 0.1
    y[wrong] = random.integers(0, CLASSES, int(wrong.sum()))
    path = tmp_path / "rows.npz"
    np.savez(path, X=x, y=y)
    return path


def arrays(path: Path) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    with np.load(path) as file:
        return file["X"], file["y"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Give the shipped bundle with an int8 variant."""
    out = tmp_path_factory.mktemp("made") / "digits"
    assert command(DIGITS, UNSEEN, "--out", out, "--json", out.with_name("report.json")) == 0
    return load_bundle(out)


def test_the_copy_has_both_variants_and_all_else_as_it_was(made: Bundle) -> None:
    before = load_bundle(DIGITS)
    assert [edge.name for edge in made.manifest.edge] == ["small", "int8"]
    assert made.manifest.edge[0] == before.manifest.edge[0]
    assert made.contract == before.contract
    for name in ("edge.onnx", "cloud.onnx", "skip.onnx"):
        assert made.read(name) == before.read(name)
    same = replace(made.manifest, edge=before.manifest.edge, files=before.manifest.files)
    assert same == before.manifest
    assert all(model.opened for model in verify(made.path).models)


def test_the_new_variant_says_how_it_was_made(made: Bundle) -> None:
    edge = made.manifest.edge[1]
    assert (edge.file, edge.precision, edge.head) == ("edge-int8.onnx", "int8", "evidential")
    assert edge.quantised is not None
    assert edge.quantised.variant == "small"
    assert "minmax" in edge.quantised.method
    assert edge.quantised.rows == 180


def test_the_rows_that_gave_ranges_are_seen_from_now_on_and_no_others(made: Bundle) -> None:
    data = load_dataset(UNSEEN)
    training, quantised = made.manifest.training, made.manifest.edge[1].quantised
    assert training is not None
    assert quantised is not None
    seen = is_seen(data.x, read_seen(made.read(training.seen), where="seen"))
    assert int(seen.sum()) == quantised.rows
    ranges = data.fitted(made.input, labels=made.labels, where="").rows(seen)
    assert digest(ranges) == quantised.data_sha256
    old = load_bundle(DIGITS)
    assert old.manifest.training is not None
    before = read_seen(old.read(old.manifest.training.seen), where="seen")
    assert np.isin(before, read_seen(made.read(training.seen), where="seen")).all()


def test_the_report_is_written_as_json(made: Bundle) -> None:
    report = json.loads(made.path.with_name("report.json").read_text())
    assert report["digest"] == made.digest
    assert report["concerns"] == []
    assert report["comparison"]["rows"] == 360
    assert report["size_after_bytes"] == len(made.read("edge-int8.onnx"))
    assert report["gate"]["score"] == "margin"
    assert abs(report["comparison"]["accuracy"]["change"]) < 0.01
    assert abs(report["comparison"]["augrc"]["change"]) < 0.001
    assert report["latency"]["before_us"] > 0


def test_the_table_shows_every_figure_before_and_after(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(net_bundle(tmp_path / "net", net()), rows, "--out", tmp_path / "b.hedge") == 0
    text = capsys.readouterr().out
    for name in (
        "accuracy ",
        "ECE ",
        "ECE of 1 - vacuity",
        "AUGRC",
        "escalated",
        "accuracy of accepted",
        "size, bytes",
        "bare latency, us",
        "both give the same label on",
        "would ask as often as before",
    ):
        assert name in text
    assert load_bundle(tmp_path / "b.hedge").digest in text


def test_the_same_command_makes_the_same_bundle(made: Bundle) -> None:
    assert command(DIGITS, UNSEEN, "--out", made.path) == 0
    assert load_bundle(made.path).digest == made.digest


def test_a_variant_that_is_clearly_worse_is_not_written_unless_it_is_accepted(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, out = net_bundle(tmp_path / "net", net(outlier=300.0)), tmp_path / "out"
    report = tmp_path / "report.json"
    words = (bundle, rows, "--out", out)
    assert command(*words, "--json", report) == 3
    said = capsys.readouterr().err
    assert "warning: accuracy falls by more than a point" in said
    assert "nothing was written; --accept writes it all the same" in said
    assert not out.exists()
    assert json.loads(report.read_text())["concerns"]
    assert command(*words, "--accept") == 0
    assert "warning: accuracy falls" in capsys.readouterr().err
    assert [edge.name for edge in load_bundle(out).manifest.edge] == ["small", "int8"]


def test_another_variant_and_name_can_be_chosen(tmp_path: Path, rows: Path) -> None:
    bundle = net_bundle(tmp_path / "net", net())
    words = (bundle, rows, "--variant", "small", "--name", "eight", "--no-keep-output-float")
    assert command(*words, "--out", tmp_path / "out", "--rows", 100, "--seed", 4) == 0
    edge = load_bundle(tmp_path / "out").manifest.edge[1]
    assert edge.name == "eight"
    assert edge.quantised is not None
    assert edge.quantised.rows == 100
    assert "output layer int8" in edge.quantised.method


def test_groups_of_the_data_are_kept_apart(
    tmp_path: Path, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x, y = arrays(rows)
    np.savez(rows, X=x, y=y, group=np.arange(500) // 50)
    bundle = net_bundle(tmp_path / "net", net())
    report = tmp_path / "report.json"
    assert command(bundle, rows, "--out", tmp_path / "out", "--json", report) == 0
    assert "divided by group" in capsys.readouterr().out
    found = json.loads(report.read_text())["comparison"]
    assert (found["resampled"], found["rows"] % 50) == ("group", 0)


@pytest.mark.skipif(
    find_spec("ai_edge_quantizer") is None, reason="ai-edge-quantizer is not installed"
)
def test_a_tflite_variant_becomes_an_int8_tflite_variant(
    tmp_path: Path, rows: Path, linear_tflite: Callable[..., bytes]
) -> None:
    edge = Edge(name="lite", file="net.tflite", format="tflite", output="probabilities")
    manifest = load_bundle(net_bundle(tmp_path / "net", net())).manifest
    calibration = Calibration(
        score="max_prob", total=0.3, method="by hand", rows=1, data_sha256="0" * 64
    )
    lite = replace(manifest, edge=(edge,), calibration=calibration)
    data = linear_tflite(CLASSES, width=WIDTH)
    bundle = write_bundle(tmp_path / "lite", lite, {"net.tflite": data}).path
    words = (bundle, rows, "--out", tmp_path / "out", "--no-keep-output-float", "--accept")
    assert command(*words) == 0
    made = load_bundle(tmp_path / "out")
    assert (made.manifest.edge[1].file, made.manifest.edge[1].format) == (
        "net-int8.tflite",
        "tflite",
    )
    assert len(made.read("net-int8.tflite")) > 0
    assert all(model.opened for model in verify(made.path).models)


def without_classes(rows: Path) -> None:
    np.savez(rows, X=arrays(rows)[0])


def too_few(rows: Path) -> None:
    x, y = arrays(rows)
    np.savez(rows, X=x[:60], y=y[:60])


def of_another_shape(rows: Path) -> None:
    x, y = arrays(rows)
    np.savez(rows, X=x[:, 1:], y=y)


@pytest.mark.parametrize(
    ("spoil", "words", "says"),
    [
        (without_classes, (), "no array y"),
        (too_few, (), "40 rows are left to measure on"),
        (of_another_shape, (), "samples of shape (5,); the bundle takes (6,)"),
        (Path.unlink, (), "no such file"),
        (None, ("--rows", 7), "--rows: 7 is not within 16 to 2000"),
        (None, ("--seed", -1), "--seed: -1 is below 0"),
        (None, ("--variant", "big"), "no variant 'big' (has small)"),
        (None, ("--name", "small"), "has a variant 'small' already"),
        (None, ("--name", "Größe"), "is no name for a variant"),
        (None, ("--calibrator", "average"), "'average' is not for onnx files"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line_and_leaves_nothing(
    spoil: Callable[[Path], None] | None,
    words: tuple[str | int, ...],
    says: str,
    tmp_path: Path,
    rows: Path,
) -> None:
    bundle = net_bundle(tmp_path / "net", net())
    if spoil is not None:
        spoil(rows)
    there = sorted(tmp_path.iterdir())
    with pytest.raises(HedgeError) as caught:
        command(bundle, rows, "--out", tmp_path / "out", *words)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == there


def test_an_int8_variant_cannot_be_quantised_again(made: Bundle, tmp_path: Path) -> None:
    words = ("--out", tmp_path / "out", "--name", "again")
    with pytest.raises(HedgeError, match="'int8' is int8 already"):
        command(made.path, UNSEEN, *words, "--variant", "int8")


def test_a_bundle_without_a_float_variant_is_refused(tmp_path: Path, rows: Path) -> None:
    edge = Edge(name="only", file="net.onnx", head="evidential", precision="int8")
    bundle = net_bundle(tmp_path / "net", net(), edge)
    with pytest.raises(HedgeError, match="no float variant"):
        command(bundle, rows, "--out", tmp_path / "out")


def test_an_output_that_cannot_be_written_is_refused(tmp_path: Path, rows: Path) -> None:
    bundle = net_bundle(tmp_path / "net", net())
    with pytest.raises(HedgeError, match="lies in no folder that exists"):
        command(bundle, rows, "--out", tmp_path / "nowhere" / "out")
    with pytest.raises(HedgeError, match="is there already"):
        command(bundle, rows, "--out", bundle)
    assert len(load_bundle(bundle).manifest.edge) == 1


def test_a_bundle_can_be_replaced_by_its_copy(tmp_path: Path, rows: Path) -> None:
    bundle = net_bundle(tmp_path / "net", net())
    assert command(bundle, rows, "--out", bundle, "--replace") == 0
    assert len(load_bundle(bundle).manifest.edge) == 2
