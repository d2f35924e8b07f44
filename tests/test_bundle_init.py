"""Tests of `hedge bundle init`: what it reads, what it guesses, and what it refuses."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from hedge.models.bundle import Bundle, load_bundle
from hedge.models.dataset import load_dataset
from hedge.models.errors import BundleError, ConfigError, DataError, ModelError
from hedge.models.manifest import ImageInput, Input
from hedge.models.model import Quantisation
from hedge.models.unseen import seen_rows
from hedge.runtime import bundle_init
from hedge.runtime.commands import parser

Make = Callable[..., bytes]
LABELS = "rest,walk,run"


def init(*words: str | Path) -> int:
    """Run `hedge bundle init …` in this process; return its exit code."""
    verbs = argparse.ArgumentParser(prog="hedge bundle")
    bundle_init.add_parser(verbs.add_subparsers())
    options = verbs.parse_args(["init", *map(str, words)])
    code: int = options.run(options)
    return code


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Bundle]:
    """Give `make(model, *words)`: the bundle that init makes of the bytes of a model."""

    def made(model: bytes, *words: str | Path, labels: str = LABELS) -> Bundle:
        path = tmp_path / "My Model.v2.bin"
        path.write_bytes(model)
        out = tmp_path / "out"
        assert init(path, "--labels", labels, "--out", out, "--replace", *words) == 0
        return load_bundle(out)

    return made


def conv(
    *, shape: tuple[int | str, ...], last: str = "Softmax", outputs: int = 3, element: int = 1
) -> bytes:
    """Return an ONNX graph x (B, *shape) -> ``last`` (B, outputs); it is read, not run."""
    nodes = [
        helper.make_node("Conv", ["x", "W"], ["a"]),
        helper.make_node(last, ["a"], ["b"]),
        helper.make_node("Reshape", ["b", "s"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", element, ["B", *shape])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", outputs])],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture
def quantised_image(linear_tflite: Make) -> Callable[[Quantisation], bytes]:
    """Give `quantised_image(quantisation)`: a graph of (B, 32, 32, 3) int8; it is read, not run."""
    import flatbuffers  # noqa: PLC0415  comes with the extra, as the fixture has seen
    from ai_edge_litert import schema_py_generated as schema  # noqa: PLC0415

    def made(quantisation: Quantisation) -> bytes:
        model = schema.ModelT.InitFromPackedBuf(linear_tflite(3, int8=True), 0)
        tensor = model.subgraphs[0].tensors[0]
        tensor.shape, tensor.shapeSignature = [1, 32, 32, 3], [-1, 32, 32, 3]
        tensor.quantization.scale = [quantisation.scale]
        tensor.quantization.zeroPoint = [quantisation.zero_point]
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    return made


def test_an_onnx_model_is_described_from_its_graph(
    make: Callable[..., Bundle], linear_onnx: Make
) -> None:
    manifest = make(linear_onnx(3, seed=4)).manifest
    assert manifest.labels == ("rest", "walk", "run")
    assert (manifest.name, manifest.version, manifest.licence) == (
        "my-model-v2",
        "1.0.0",
        "not stated",
    )
    assert manifest.input == Input(kind="tensor", shape=(4,), dtype="float32")
    (edge,) = manifest.edge
    assert (edge.name, edge.file, edge.format) == ("float", "edge-float.onnx", "onnx")
    assert (edge.output, edge.head, edge.precision) == ("logits", "softmax", "float")
    assert (manifest.cloud, manifest.calibration) == (None, None)


def test_a_tflite_model_is_told_by_what_it_holds_not_by_its_name(
    make: Callable[..., Bundle], linear_tflite: Make
) -> None:
    manifest = make(linear_tflite(3, int8=True)).manifest
    (edge,) = manifest.edge
    assert (edge.name, edge.file, edge.format) == ("int8", "edge-int8.tflite", "tflite")
    assert (edge.output, edge.precision) == ("probabilities", "int8")
    assert manifest.input == Input(kind="tensor", shape=(4,), dtype="int8")


def test_what_is_asked_for_is_taken(make: Callable[..., Bundle], linear_onnx: Make) -> None:
    words = [
        *("--name", "steps", "--version", "2.0", "--licence", "MIT", "--kind", "audio"),
        *("--layout", "mono", "--head", "evidential", "--input-dtype", "int16"),
        *("--scale", "1/32768", "--offset=-3"),
    ]
    manifest = make(linear_onnx(3), *words).manifest
    assert (manifest.name, manifest.version, manifest.licence) == ("steps", "2.0", "MIT")
    assert manifest.input == Input(
        kind="audio", shape=(4,), dtype="int16", layout="mono", scale=1 / 32768, offset=-3.0
    )
    assert (manifest.edge[0].head, manifest.edge[0].output) == ("evidential", "logits")


@pytest.mark.parametrize("last", ["Softmax", "LogSoftmax", "Sigmoid"])
def test_only_a_softmax_gives_probabilities(make: Callable[..., Bundle], last: str) -> None:
    manifest = make(conv(shape=(4,), last=last)).manifest
    assert manifest.edge[0].output == ("probabilities" if last == "Softmax" else "logits")


@pytest.mark.parametrize(
    ("shape", "kind", "layout"),
    [
        ((32, 32, 3), "image", "HWC"),
        ((1, 48, 64), "image", "CHW"),
        ((49, 10, 1), "tensor", None),
        ((28, 28), "tensor", None),
    ],
)
def test_an_image_is_told_by_its_shape(
    make: Callable[..., Bundle], shape: tuple[int, ...], kind: str, layout: str | None
) -> None:
    found = make(conv(shape=shape)).manifest.input
    assert (found.shape, found.kind, found.layout) == (shape, kind, layout)


def test_what_the_graph_leaves_open_has_to_be_said(make: Callable[..., Bundle]) -> None:
    with pytest.raises(ConfigError, match=r"shape: the graph leaves it open: \(B, \?, \?, 3\)"):
        make(conv(shape=("H", "W", 3)))
    found = make(conv(shape=("H", "W", 3)), "--shape", "24,32,3").manifest.input
    assert (found.shape, found.kind) == ((24, 32, 3), "image")


def test_bytes_for_a_graph_of_floats_need_a_scale(
    make: Callable[..., Bundle], linear_onnx: Make
) -> None:
    with pytest.raises(ConfigError, match=r"scale: .*samples of uint8 .*--scale 1/255"):
        make(linear_onnx(3), "--input-dtype", "uint8")
    found = make(linear_onnx(3), "--scale", "1/255").manifest.input
    assert (found.dtype, found.scale, found.offset) == ("uint8", 1 / 255, None)
    found = make(linear_onnx(3), "--input-dtype", "float16").manifest.input
    assert (found.dtype, found.scale) == ("float16", 1.0)


@pytest.mark.parametrize(
    ("quantisation", "scale", "offset"),
    [
        (Quantisation(1.0, -128), 1.0, None),
        (Quantisation(1 / 255, -128), 1 / 255, None),
        (Quantisation(0.0078431, -1), 1 / 127.5, 127.5),
        (Quantisation(0.0078125, 0), 1 / 127.5, 127.5),
    ],
)
def test_pixels_are_recognised_by_the_quantisation(
    make: Callable[..., Bundle],
    quantised_image: Make,
    quantisation: Quantisation,
    scale: float,
    offset: float | None,
) -> None:
    found = make(quantised_image(quantisation)).manifest.input
    assert (found.dtype, found.scale, found.offset) == ("uint8", scale, offset)
    assert (found.kind, found.layout) == ("image", "HWC")


def test_for_bytes_of_a_picture_the_manifest_says_how_a_camera_gives_samples(
    make: Callable[..., Bundle], quantised_image: Make
) -> None:
    model = quantised_image(Quantisation(1 / 255, -128))
    assert make(model).manifest.input.image == ImageInput()
    found = make(model, "--fit", "letterbox", "--resize", "linear").manifest.input.image
    assert found == ImageInput(fit="letterbox", resize="linear")


def test_a_fit_that_would_do_nothing_is_refused(
    make: Callable[..., Bundle], linear_onnx: Make
) -> None:
    with pytest.raises(ConfigError, match="fit: is for pictures of uint8"):
        make(linear_onnx(3), "--fit", "crop")


def test_a_quantised_variant_says_what_pixels_become_for_all(
    make: Callable[..., Bundle], quantised_image: Make, tmp_path: Path
) -> None:
    (tmp_path / "b").write_bytes(quantised_image(Quantisation(1 / 255, -128)))
    found = make(conv(shape=(32, 32, 3)), "--edge", f"int8={tmp_path / 'b'}").manifest.input
    assert (found.dtype, found.scale, found.offset) == ("uint8", 1 / 255, None)


def test_a_quantisation_that_is_none_of_pixels_leaves_samples_as_they_are(
    make: Callable[..., Bundle], quantised_image: Make
) -> None:
    model = quantised_image(Quantisation(0.58, 83))
    found = make(model).manifest.input
    assert (found.dtype, found.scale, found.offset) == ("int8", None, None)
    found = make(model, "--input-dtype", "float32").manifest.input
    assert (found.dtype, found.scale, found.offset) == ("float32", None, None)
    with pytest.raises(ConfigError, match="samples of uint8"):
        make(model, "--input-dtype", "uint8")


def test_a_cloud_of_floats_is_fed_what_the_integers_of_the_edge_stand_for(
    make: Callable[..., Bundle], linear_tflite: Make, linear_onnx: Make, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(linear_onnx(3))
    bundle = make(linear_tflite(3, int8=True), "--cloud", tmp_path / "large")
    found = bundle.manifest.input
    assert (found.dtype, found.scale, found.offset) == ("int8", 1 / 32, 3.0)
    cloud = bundle.manifest.cloud
    assert cloud is not None
    assert (cloud.file, cloud.format, cloud.output) == ("cloud.onnx", "onnx", "logits")
    assert bundle.read("cloud.onnx") == linear_onnx(3)


def test_variants_are_called_as_they_are_named(
    make: Callable[..., Bundle], linear_tflite: Make, tmp_path: Path
) -> None:
    (tmp_path / "b").write_bytes(linear_tflite(3, int8=True))
    (tmp_path / "c").write_bytes(linear_tflite(3, seed=5))
    more = ("--edge", f"small={tmp_path / 'b'}", "--edge", f"other={tmp_path / 'c'}")
    manifest = make(linear_tflite(3), *more).manifest
    assert [(one.name, one.precision) for one in manifest.edge] == [
        ("float", "float"),
        ("small", "int8"),
        ("other", "float"),
    ]
    assert manifest.input.dtype == "float32"
    with pytest.raises(BundleError, match="two variants are called 'float'"):
        make(linear_tflite(3), "--edge", f"float={tmp_path / 'c'}")


def test_the_output_that_fits_the_labels_is_meant(
    make: Callable[..., Bundle], linear_onnx: Make
) -> None:
    model = onnx.load_from_string(linear_onnx(3))
    features = helper.make_tensor_value_info("flat", TensorProto.FLOAT, ["B", 4])
    model.graph.output.insert(0, features)
    data = model.SerializeToString()
    assert make(data).manifest.edge[0].output_name == "y"
    made = make(data, "--output-name", "flat", labels="a,b,c,d").manifest
    assert made.edge[0].output_name == "flat"
    with pytest.raises(ModelError, match=r"'z'.*its outputs: 'flat', 'y'"):
        make(data, "--output-name", "z")


def test_labels_may_come_from_a_file(
    make: Callable[..., Bundle], linear_onnx: Make, tmp_path: Path
) -> None:
    (tmp_path / "labels.txt").write_text("at rest\n\nwalking, slowly\nrunning \n", "utf-8")
    bundle = make(linear_onnx(3), labels=str(tmp_path / "labels.txt"))
    assert bundle.labels == ("at rest", "walking, slowly", "running")


def test_the_manifest_is_shown_with_where_its_lines_come_from(
    make: Callable[..., Bundle], linear_tflite: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make(linear_tflite(3, int8=True), "--name", "steps")
    lines = [line.split("  # ") for line in capsys.readouterr().out.splitlines()]
    remarks = {line[0].strip(): line[1] for line in lines if len(line) == 2}
    assert remarks['name = "steps"'] == "as asked"
    assert remarks['labels = ["rest", "walk", "run"]'] == "as asked"
    assert remarks['licence = "not stated"'] == "unknown: --licence says it"
    assert remarks["shape = [4]"] == "from the graph"
    assert remarks['output = "probabilities"'] == "from the graph, which ends in SOFTMAX"
    assert ["hedge run needs to know when to ask: give --calibrate ROWS.npz --escalate SHARE"] in (
        lines
    )
    assert any(bundle.digest in line[0] for line in lines)


def test_what_was_done_is_written_as_json(
    make: Callable[..., Bundle], linear_onnx: Make, tmp_path: Path
) -> None:
    bundle = make(linear_onnx(3), "--json", tmp_path / "made.json")
    found = json.loads((tmp_path / "made.json").read_text())
    assert found["digest"] == bundle.digest
    assert found["manifest"]["edge"][0]["file"] == "edge-float.onnx"
    assert found["origins"]["input.shape"] == "from the graph"


def rows(path: Path, *, y: bool) -> Path:
    random = np.random.default_rng(8)
    x = random.normal(size=(200, 4)).astype(np.float32)
    if y:
        np.savez(path, X=x, y=random.integers(0, 3, 200))
    else:
        np.savez(path, X=x)
    return path


def test_a_threshold_is_found_on_rows_without_labels(
    make: Callable[..., Bundle], linear_onnx: Make, tmp_path: Path
) -> None:
    data = rows(tmp_path / "rows.npz", y=False)
    words = ("--head", "evidential", "--calibrate", data, "--escalate", "0.3")
    calibration = make(linear_onnx(3), *words).manifest.calibration
    assert calibration is not None
    assert (calibration.score, calibration.rows) == ("vacuity", 200)
    assert calibration.epistemic is not None
    assert 0 < calibration.total < 1


def test_sigmoids_are_no_logits_also_where_they_are_to_be_calibrated(
    make: Callable[..., Bundle], linear_onnx: Make, tmp_path: Path
) -> None:
    model = onnx.load_from_string(linear_onnx(3))
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["before" if name == output.name else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Sigmoid", ["before"], [output.name]))
    data = rows(tmp_path / "rows.npz", y=False)
    with pytest.raises(ModelError, match="each class alone"):
        make(model.SerializeToString(), "--calibrate", data, "--escalate", "0.3")


def test_with_a_cloud_and_labels_the_score_is_chosen_too(
    make: Callable[..., Bundle], linear_onnx: Make, tmp_path: Path
) -> None:
    (tmp_path / "large").write_bytes(linear_onnx(3, seed=3))
    data = rows(tmp_path / "rows.npz", y=True)
    words = ("--cloud", tmp_path / "large", "--calibrate", data)
    calibration = make(linear_onnx(3), *words).manifest.calibration
    assert calibration is not None
    assert calibration.method.startswith("escalation rate 0.2; score by least AUGRC")


def test_the_rows_of_the_threshold_count_as_seen(
    make: Callable[..., Bundle], linear_onnx: Make, tmp_path: Path
) -> None:
    data = rows(tmp_path / "rows.npz", y=True)
    bundle = make(linear_onnx(3), "--calibrate", data)
    known = load_dataset(data)
    assert seen_rows(bundle, known).all()
    assert not seen_rows(bundle, replace(known, x=known.x + 1)).any()
    assert make(linear_onnx(3)).manifest.training is None


def test_a_share_needs_rows_to_be_found_on(make: Callable[..., Bundle], linear_onnx: Make) -> None:
    with pytest.raises(ConfigError, match=r"^--escalate: on which rows\? \(--calibrate"):
        make(linear_onnx(3), "--escalate", "0.3")


def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelError, match="pipe: is no plain file"):
        init(tmp_path / "pipe", "--labels", LABELS, "--out", tmp_path / "out")


def test_rows_that_do_not_fit_are_refused(
    make: Callable[..., Bundle], linear_onnx: Make, tmp_path: Path
) -> None:
    np.savez(tmp_path / "rows.npz", X=np.zeros((5, 3), np.float32))
    with pytest.raises(DataError, match=r"samples of shape \(3,\); the bundle takes \(4,\)"):
        make(linear_onnx(3), "--calibrate", tmp_path / "rows.npz")
    with pytest.raises(ConfigError, match=r"--escalate: 1.5 is not within \[0, 1\]"):
        make(linear_onnx(3), "--calibrate", tmp_path / "rows.npz", "--escalate", "1.5")


def _two_inputs(tflite: Make, _: Make) -> bytes:
    return tflite(3, inputs=2)


def _one_class(tflite: Make, _: Make) -> bytes:
    return tflite(1)


def _too_many(tflite: Make, _: Make) -> bytes:
    return tflite(5)


def _no_rows(_: Make, onnx_: Make) -> bytes:
    model = onnx.load_from_string(onnx_(3))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [3]))
    data: bytes = model.SerializeToString()
    return data


def _truncated_tflite(tflite: Make, _: Make) -> bytes:
    return tflite(3)[:-40]


def _truncated_onnx(_: Make, onnx_: Make) -> bytes:
    return onnx_(3)[:-1]


def _counts(*_: Make) -> bytes:
    return conv(shape=(4,), element=TensorProto.UINT16)


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (_two_inputs, "m: takes 2 inputs ('x', 'x1'), not one (B, ...)"),
        (_one_class, "m: output 'y' is one number for each sample: no classifier of 2 or more"),
        (_too_many, "m: output 'y' has 5 classes, but there are 3 labels"),
        (_no_rows, "m: output 'y' is (3), not (B, K)"),
        (_truncated_tflite, "m: not a readable TFLite graph: cut short"),
        (_truncated_onnx, "m: not a readable ONNX graph: cut short, at byte"),
        (_counts, "m: takes uint16 (samples are uint8, int8, int16, int32, float16, float32)"),
        (lambda *_: b"", "m: is empty"),
        (lambda *_: b"PK\3\4 a zip", "m: neither an ONNX nor a TFLite file"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_cannot_be_wrapped_is_refused_in_one_line(
    linear_tflite: Make,
    linear_onnx: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    model: Callable[[Make, Make], bytes],
    line: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m").write_bytes(model(linear_tflite, linear_onnx))
    with pytest.raises(ModelError) as caught:
        init("m", "--labels", LABELS, "--out", "out")
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("gone",), "gone: cannot be read: No such file"),
        (("m", "--labels", "alone"), "labels: a classifier has at least 2"),
        (("m", "--edge", "gone=nowhere"), "nowhere: cannot be read"),
        (("m", "--name", "My Model"), "$.name"),
        (("m", "--scale", "0"), "$.input.scale: 0 would make all samples the same"),
        (("m", "--json", "no/such/place"), "no/such/place: is a folder, or lies in none"),
    ],
)
def test_a_mistake_in_the_command_is_named(
    linear_onnx: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    words: tuple[str, ...],
    what: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("m").write_bytes(linear_onnx(3))
    with pytest.raises((ModelError, ConfigError, BundleError)) as caught:
        init("--labels", LABELS, "--out", "out", *words)
    assert what in str(caught.value)


@pytest.mark.parametrize(
    ("flag", "value"), [("--scale", "1/0"), ("--scale", "x"), ("--shape", "3,0"), ("--edge", "=m")]
)
def test_a_flag_that_makes_no_sense_is_named(
    capsys: pytest.CaptureFixture[str], flag: str, value: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        init("m", "--labels", LABELS, "--out", "out", f"{flag}={value}")
    assert caught.value.code == 2
    assert f"argument {flag}: {value!r} is" in capsys.readouterr().err


def test_the_command_line_has_it(linear_onnx: Make, tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(linear_onnx(3))
    words = ["bundle", "init", str(tmp_path / "m"), "--labels", LABELS]
    options = parser().parse_args([*words, "--out", str(tmp_path / "new" / "out")])
    assert options.run(options) == 0
    assert load_bundle(tmp_path / "new" / "out").labels == ("rest", "walk", "run")
