"""`hedge evidence report`: its figures, its page, and what it refuses.

The rows of `made_bundle` hold what both models say, so that every case can be made.
"""

from __future__ import annotations

import argparse
import json
import re
import xml.etree.ElementTree as ET
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from hedge.models import measures
from hedge.models.bundle import load_bundle, write_bundle
from hedge.models.dataset import load_dataset, row_digests, save_seen
from hedge.models.errors import HedgeError
from hedge.models.manifest import (
    Calibration,
    Cloud,
    Edge,
    Input,
    Manifest,
    Promise,
    Training,
)
from hedge.models.uncertainty_map import uncertainty_map
from hedge.runtime.both_models import outputs_of
from hedge.runtime.evidence_report.apart import permuted_rows
from hedge.runtime.evidence_report.dropout import MISSING
from hedge.runtime.evidence_report.feature_map import feature_map
from hedge.runtime.evidence_report.measure import Plan, measure
from hedge.runtime.evidence_report.page.page import page
from hedge.runtime.evidence_report.png import png, visible
from hedge.runtime.evidence_report.record import EvidenceReport, Scored
from hedge.runtime.evidence_report_command import add_report_parser
from hedge.runtime.shipped import bundle_path

DIGITS = bundle_path("digits")
UNSEEN = DIGITS.with_name("digits-unseen.npz")
LABELS = ("rest", "walk", "run")
K = len(LABELS)
HOSTILE = "<script>alert(1)</script>"
Floats = NDArray[np.float32]


def command(*words: str | Path | int) -> int:
    """Run `hedge evidence report …` in this process; return its exit code."""
    parser = argparse.ArgumentParser(prog="hedge evidence")
    add_report_parser(parser.add_subparsers())
    options = parser.parse_args(["report", *map(str, words)])
    code: int = options.run(options)
    return code


def graph(
    nodes: list[Any], *, shape: tuple[int, ...], dtype: int, **weights: NDArray[Any]
) -> bytes:
    """Return an ONNX file of ``nodes`` from x (B, *shape) to y (B, K)."""
    made = helper.make_graph(
        nodes,
        "made",
        [helper.make_tensor_value_info("x", dtype, ["B", *shape])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["B", K])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    imports = [helper.make_opsetid("", 17)]
    data: bytes = helper.make_model(made, ir_version=8, opset_imports=imports).SerializeToString()
    return data


def chosen(first: int) -> bytes:
    """Return a model that says the K values of its sample from ``first`` on."""
    pick = np.zeros((2 * K, K), np.float32)
    pick[first : first + K] = np.eye(K)
    node = helper.make_node("MatMul", ["x", "W"], ["y"])
    return graph([node], shape=(2 * K,), dtype=onnx.TensorProto.FLOAT, W=pick)


def calibration(**more: Any) -> Calibration:  # noqa: ANN401 -- the record's fields
    known = {"score": "margin", "total": 0.85, "method": "by hand", "rows": 9}
    return Calibration(**{**known, "data_sha256": "0" * 64, **more})


def made_bundle(path: Path, **more: Any) -> Path:  # noqa: ANN401 -- the record's fields
    """Write a bundle whose sample is what the edge says and then what the cloud says."""
    manifest = Manifest(
        format=1,
        name="made",
        version="1.0",
        task="classification",
        labels=LABELS,
        licence="Apache-2.0",
        input=Input(kind="tensor", shape=(2 * K,), dtype="float32"),
        edge=(Edge(name="small", file="edge.onnx", head="evidential"),),
        cloud=Cloud(file="cloud.onnx"),
        calibration=calibration(),
        files={},
    )
    files = {"edge.onnx": chosen(0), "cloud.onnx": chosen(K), **more.pop("files", {})}
    manifest = replace(manifest, **more)
    if manifest.cloud is None:
        del files["cloud.onnx"]
    return write_bundle(path, manifest, files, replace=True).path


def logits(y: NDArray[np.intp], right: NDArray[np.bool_], sure: Floats) -> Floats:
    """Return logits (N, K) of the class y, where right, by as much as ``sure`` (N,)."""
    given = np.zeros((len(y), K), np.float32)
    given[np.arange(len(y)), np.where(right, y, (y + 1) % K)] = sure
    return given


def rows(count: int = 400, *, seed: int = 3) -> tuple[Floats, NDArray[np.intp]]:
    """Return samples whose edge is the likelier right the surer it is, whatever its evidence."""
    random = np.random.default_rng(seed)
    y = random.integers(0, K, count)
    sure = random.uniform(0.1, 4.0, count).astype(np.float32)
    edge = logits(y, random.random(count) < 0.35 + 0.16 * sure, sure)
    evidence = random.uniform(-4.0, 4.0, (count, 1)).astype(np.float32)  # says nothing
    cloud = logits(y, random.random(count) < 0.97, np.full(count, 3.0, np.float32))
    return np.hstack((edge + evidence, cloud)), y


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Give a file of 400 rows."""
    return saved(tmp_path / "rows.npz", *rows())


def saved(path: Path, x: NDArray[Any], y: NDArray[Any], **more: NDArray[Any]) -> Path:
    arrays: dict[str, Any] = {"X": x, "y": y, **more}
    np.savez(path, **arrays)
    return path


def report(bundle: Path, data: Path, **more: Any) -> EvidenceReport:  # noqa: ANN401
    """Return the figures of a bundle, with few bootstraps."""
    plan = Plan(data, **{"resamples": 60, **more})
    return measure(load_bundle(bundle), plan, show=lambda _: None).report


def score(found: EvidenceReport, name: str) -> Scored:
    return next(one for one in found.scores if one.name == name)


# ---- The figures.


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the folder of a report on the shipped bundle."""
    folder = tmp_path_factory.mktemp("digits")
    words = ("--json", folder / "report.json", "--html", folder / "report.html")
    assert command(DIGITS, UNSEEN, *words, "--seed", 4) == 0
    return folder


def read(folder: Path) -> EvidenceReport:
    return msgspec.json.decode((folder / "report.json").read_bytes(), type=EvidenceReport)


def test_the_sides_are_those_of_the_models_on_the_rows_that_pass(digits: Path) -> None:
    found, bundle = read(digits), load_bundle(DIGITS)
    given = load_dataset(UNSEEN).fitted(bundle.input, labels=bundle.labels, where="")
    outputs = outputs_of(bundle, given)
    passes = outputs.passes
    assert given.y is not None
    assert outputs.cloud is not None
    y, near, far = given.y[passes], outputs.edge[passes], outputs.cloud[passes]
    assert (found.rows, found.dropped) == (passes.sum(), (~passes).sum())
    edge, cloud, both = found.sides
    evidence = np.logaddexp(near.astype(float), 0.0) + 1.0
    probs = evidence / evidence.sum(axis=1, keepdims=True)
    assert edge.accuracy.value == pytest.approx((near.argmax(axis=1) == y).mean())
    assert edge.brier.value == pytest.approx(np.square(probs - np.eye(10)[y]).sum() / len(y))
    assert edge.log_score_nats.value == pytest.approx(-np.log(probs[range(len(y)), y]).mean())
    vacuity = 10 / evidence.sum(axis=1)
    correct = near.argmax(axis=1) == y
    assert edge.ece_vacuity is not None
    assert edge.ece_vacuity.value == pytest.approx(measures.ece_vacuity(vacuity, correct))
    assert cloud.accuracy.value == pytest.approx((far.argmax(axis=1) == y).mean())
    assert cloud.ece_vacuity is None
    top = np.sort(probs, axis=1)
    asks = 1.0 - (top[:, -1] - top[:, -2]) >= 0.6148260459303856  # the bundle's own threshold
    final = np.where(asks, far.argmax(axis=1), near.argmax(axis=1))
    assert both.accuracy.value == pytest.approx((final == y).mean())
    assert found.gate is not None
    assert found.gate.escalated.value == pytest.approx(asks.mean())


def test_every_figure_lies_in_its_interval_or_at_its_end(digits: Path) -> None:
    for side in read(digits).sides:
        for one in (side.accuracy, side.brier, side.log_score_nats, side.aurc, side.augrc):
            assert one.low is not None
            assert one.high is not None
            assert one.low <= one.value <= one.high


def test_what_each_score_recovers_is_counted_by_hand(tmp_path: Path, data: Path) -> None:
    found = report(made_bundle(tmp_path / "made"), data)
    x, y = rows()
    near, far = x[:, :K].argmax(axis=1) == y, x[:, K:].argmax(axis=1) == y
    alpha = np.logaddexp(x[:, :K].astype(float), 0.0) + 1.0
    certain = np.sort(alpha / alpha.sum(axis=1, keepdims=True), axis=1)
    by = {
        "vacuity": K / alpha.sum(axis=1),
        "max_prob": 1 - certain[:, -1],
        "margin": 1 - (certain[:, -1] - certain[:, -2]),
    }
    for name, doubt in by.items():
        first = np.argsort(-doubt, kind="stable")
        for at in score(found, name).at:
            asked = first[: round(at.share * len(y))]
            right = near.copy()
            right[asked] = far[asked]
            assert at.accuracy.value == pytest.approx(right.mean(), abs=1e-6)
            gap = (right.mean() - near.mean()) / (far.mean() - near.mean())
            assert at.recovered is not None
            assert at.recovered.value == pytest.approx(gap, abs=1e-6)


def test_chance_and_the_oracle_stand_beside_the_scores(tmp_path: Path, data: Path) -> None:
    found = report(made_bundle(tmp_path / "made"), data)
    chance, oracle = score(found, "random"), score(found, "oracle")
    for at in chance.at:
        assert at.recovered is not None
        assert at.recovered.value == pytest.approx(at.share)
    assert chance.augrc is not None
    assert oracle.augrc is not None
    error = 1 - found.sides[0].accuracy.value
    assert chance.augrc.value == pytest.approx(error / 2)
    assert oracle.augrc.value == pytest.approx(error**2 / 2)
    for name in ("vacuity", "max_prob", "margin", "p_norm", "entropy"):
        for at, best in zip(score(found, name).at, oracle.at, strict=True):
            assert at.accuracy.value <= best.accuracy.value + 1e-9


def test_a_plainer_score_that_is_better_is_named_with_the_command(
    tmp_path: Path, data: Path
) -> None:
    bad = calibration(score="vacuity", total=0.6)
    found = report(made_bundle(tmp_path / "made", calibration=bad), data)
    assert score(found, "vacuity").own
    assert "area" in score(found, "margin").better
    assert not score(found, "vacuity").better
    said = " ".join(found.findings)
    assert "clearly better than vacuity" in said
    assert re.search(r"hedge calibrate \S+ ROWS.npz --rate 0.\d+ --out NEW chooses anew", said)
    good = report(made_bundle(tmp_path / "made"), data)
    assert any("no score that the bundle holds" in one for one in good.findings)


def test_a_promise_is_judged_on_these_rows(tmp_path: Path, data: Path) -> None:
    def promised(accuracy: float) -> str:
        promise = Promise(accuracy=accuracy, confidence=0.95, by="row", coverage=0.5, rows=300)
        kept = calibration(promise=promise)
        return " ".join(report(made_bundle(tmp_path / "made", calibration=kept), data).findings)

    assert "the promise is BROKEN on these rows: 99.90%" in promised(0.999)
    assert "the promise is kept on these rows: 50.00%" in promised(0.5)


def test_what_is_not_fitted_or_cannot_be_has_a_reason(tmp_path: Path, data: Path) -> None:
    plain = (Edge(name="small", file="edge.onnx"),)
    found = report(made_bundle(tmp_path / "made", edge=plain), data)
    why = {one.name: one.missing for one in found.scores}
    assert why["vacuity"] == "the edge has no evidence"
    assert why["temperature"] == why["router"] == "not fitted"
    assert why["mc_dropout"] == MISSING
    assert why["margin"] is None
    assert {one.confidence for one in found.reliability} == {"max p"}
    warm = calibration(score="temperature", temperature=1.7)
    fitted = report(made_bundle(tmp_path / "made", edge=plain, calibration=warm), data)
    assert score(fitted, "temperature").aurc is not None


def test_rows_that_the_bundle_has_seen_are_left_out_and_counted(tmp_path: Path, data: Path) -> None:
    x, _ = rows()
    training = Training(recipe="none", seed=0, data_sha256="0" * 64, seen="seen.npy")
    seen = {"seen.npy": save_seen(row_digests(x[::4]))}
    found = report(made_bundle(tmp_path / "made", training=training, files=seen), data)
    assert (found.rows, found.seen_left_out) == (300, 100)


def test_groups_are_drawn_whole_and_few_are_a_concern(tmp_path: Path) -> None:
    bundle, (x, y) = made_bundle(tmp_path / "made"), rows()
    many = saved(tmp_path / "many.npz", x, y, group=np.arange(400) // 40)
    found = report(bundle, many)
    assert (found.resampled, found.units) == ("group", 10)
    few = report(bundle, saved(tmp_path / "few.npz", x, y, group=np.arange(400) // 200))
    assert (few.resampled, few.units) == ("row", 400)
    assert any("2 groups are too few" in one for one in few.concerns)


def test_the_same_seed_gives_the_same_figures(tmp_path: Path, data: Path) -> None:
    bundle = made_bundle(tmp_path / "made")
    first, again, other = (report(bundle, data, seed=seed) for seed in (1, 1, 2))
    assert first.sides == again.sides
    assert first.scores == again.scores
    assert first.apart == again.apart
    assert first.sides != other.sides


def test_classes_add_up(tmp_path: Path, data: Path) -> None:
    found = report(made_bundle(tmp_path / "made"), data)
    assert sum(one.rows for one in found.classes.of) == found.rows
    assert found.gate is not None
    escalated = sum(map(sum, found.classes.taken_for))
    assert escalated == round(found.gate.escalated.value * found.rows)
    for one, row in zip(found.classes.of, found.classes.taken_for, strict=True):
        assert one.escalated is not None
        assert sum(row) == round(one.escalated * one.rows)


def test_a_class_without_rows_is_a_concern(tmp_path: Path) -> None:
    x, y = rows()
    few = saved(tmp_path / "few.npz", x[y != 1], y[y != 1])
    found = report(made_bundle(tmp_path / "made"), few)
    assert "no row is of class 'walk': nothing here speaks of them" in found.concerns
    assert found.classes.of[1].edge_accuracy is None


def test_speed_is_measured_of_both_models_and_the_gate(tmp_path: Path, data: Path) -> None:
    speed = report(made_bundle(tmp_path / "made"), data).speed
    assert speed.cloud_ms is not None
    assert speed.cooperative_ms is not None
    assert speed.times is not None
    assert min(speed.edge_ms, speed.gate_ms, speed.cloud_ms) > 0
    assert speed.cooperative_ms > speed.edge_ms
    assert speed.times.value == pytest.approx(speed.cloud_ms / speed.cooperative_ms)
    assert speed.equal_share is not None
    assert 0 < speed.equal_share <= 1


def test_without_a_cloud_or_a_gate_the_rest_is_there(tmp_path: Path, data: Path) -> None:
    alone = report(made_bundle(tmp_path / "made", cloud=None), data)
    assert [side.side for side in alone.sides] == ["edge"]
    assert any("no cloud model" in one for one in alone.concerns)
    assert score(alone, "margin").at == ()
    assert alone.speed.cloud_ms is None
    ungated = report(made_bundle(tmp_path / "made", calibration=None), data)
    assert [side.side for side in ungated.sides] == ["edge", "cloud"]
    assert ungated.gate is None
    assert score(ungated, "vacuity").own
    assert "no gate yet: hedge calibrate" in ungated.findings[0]
    for found in (alone, ungated):
        assert len(pictures(page(found, (), load_bundle(tmp_path / "made").input))) >= 3


# ---- Rows of another kind.


def test_permuted_rows_keep_each_value_in_its_place_but_in_no_row() -> None:
    x = np.random.default_rng(5).normal(size=(50, 3, 4)).astype(np.float32)
    made = permuted_rows(x, seed=1).data.x
    assert made.shape == x.shape
    np.testing.assert_array_equal(np.sort(made, axis=0), np.sort(x, axis=0))
    assert not any((made[place] == other).all() for place in range(50) for other in x)


def test_rows_of_another_kind_are_told_apart_or_it_is_said(tmp_path: Path, data: Path) -> None:
    bundle, (x, y) = made_bundle(tmp_path / "made"), rows(200, seed=8)
    unsure = x.copy()
    unsure[:, :K] = np.random.default_rng(2).normal(0.0, 0.01, (200, K))
    other = saved(tmp_path / "other.npz", unsure, y)
    apart = report(bundle, data, other=other).apart
    assert (apart.how, apart.source, apart.outside_rows) == ("other", "other.npz", 200)
    assert apart.auroc["margin"] > 0.95
    assert apart.escalated == 1.0
    assert [one.score for one in apart.histograms] == ["margin", "vacuity"]
    assert sum(apart.histograms[0].outside) == 200
    same = report(bundle, data, other=saved(tmp_path / "same.npz", x, y))
    assert any("does not tell rows of another kind" in one for one in same.findings)


def test_rows_of_another_kind_need_no_classes_and_may_have_others(
    tmp_path: Path, data: Path
) -> None:
    other = tmp_path / "other.npz"
    np.savez(other, X=rows(50)[0], label_names=np.array(["a", "b"]))
    assert report(made_bundle(tmp_path / "made"), data, other=other).apart.outside_rows == 50


# ---- Dropout that runs, and feature maps.


@pytest.mark.parametrize("training", [True, False])
def test_mc_dropout_is_measured_where_dropout_runs(
    tmp_path: Path, data: Path, *, training: bool
) -> None:
    pick = np.zeros((2 * K, K), np.float32)
    pick[:K] = np.eye(K)
    nodes = [
        helper.make_node("Dropout", ["x", "ratio", "mode"], ["dropped"]),
        helper.make_node("MatMul", ["dropped", "W"], ["y"]),
    ]
    model = graph(
        nodes,
        shape=(2 * K,),
        dtype=onnx.TensorProto.FLOAT,
        W=pick,
        ratio=np.array(0.3, np.float32),
        mode=np.array(training),
    )
    found = score(
        report(made_bundle(tmp_path / "made", files={"edge.onnx": model}), data), "mc_dropout"
    )
    assert (found.missing is None) == training
    assert (found.aurc is None) != training


WIDE, HIGH = 5, 4


def picture_graph(first: Floats, second: Floats, *, last: str = "GlobalAveragePool") -> bytes:
    """Return relu(1x1 convolution) of an HWC picture, its mean, and a linear layer."""
    nodes = [
        helper.make_node("Cast", ["x"], ["floats"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Transpose", ["floats"], ["chw"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["chw", "F"], ["conv"]),
        helper.make_node("Relu", ["conv"], ["features"]),
        helper.make_node(last, ["features"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "W"], ["y"]),
    ]
    kernel = first.T[:, :, None, None].copy()
    shape = (HIGH, WIDE, 3)
    return graph(nodes, shape=shape, dtype=onnx.TensorProto.UINT8, F=kernel, W=second)


@pytest.fixture
def pictures_bundle(tmp_path: Path) -> tuple[Path, Path, Floats]:
    """Give a bundle of pictures, rows for it, and its first layer's weights (3, 6)."""
    random = np.random.default_rng(6)
    first = (random.normal(size=(3, 6)) / 100).astype(np.float32)
    second = random.normal(size=(6, K)).astype(np.float32)
    model = picture_graph(first, second)
    bundle = made_bundle(
        tmp_path / "pictures",
        input=Input(kind="image", shape=(HIGH, WIDE, 3), dtype="uint8", layout="HWC"),
        files={"edge.onnx": model, "cloud.onnx": model},
    )
    x = random.integers(0, 256, (60, HIGH, WIDE, 3)).astype(np.uint8)
    return bundle, saved(tmp_path / "x.npz", x, random.integers(0, K, 60)), first


def test_the_last_feature_map_is_found_and_is_what_the_layer_gives(
    pictures_bundle: tuple[Path, Path, Floats],
) -> None:
    path, rows_file, first = pictures_bundle
    bundle = load_bundle(path)
    found = feature_map(bundle, bundle.manifest.edge[0])
    assert found is not None
    assert (found.layer, found.shape) == ("features", (6, HIGH, WIDE))
    given = load_dataset(rows_file)
    features = found.of(bundle, bundle.manifest.edge[0], given)
    by_hand = np.maximum(given.x.astype(np.float32) @ first, 0).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(features, by_hand, rtol=1e-4, atol=1e-5)


def test_the_page_shows_the_map_over_the_least_and_the_most_certain_pictures(
    pictures_bundle: tuple[Path, Path, Floats],
) -> None:
    path, rows_file, _ = pictures_bundle
    bundle = load_bundle(path)
    found = measure(bundle, Plan(rows_file, resamples=50), show=lambda _: None)
    maps = found.report.maps
    assert (maps.missing, maps.uncertainty, len(maps.cases)) == (None, "vacuity u", 8)
    doubts = [case.uncertainty for case in maps.cases]
    assert doubts[:4] == sorted(doubts[:4], reverse=True)
    assert doubts[4:] == sorted(doubts[4:])
    given = load_dataset(rows_file)
    edge = bundle.manifest.edge[0]
    layer = feature_map(bundle, edge)
    assert layer is not None
    first = given.rows(np.array([maps.cases[0].row]))
    features = layer.of(bundle, edge, first)
    again = uncertainty_map(features, np.array([doubts[0]]))[0]
    np.testing.assert_allclose(found.shown[0].map, again, rtol=1e-6)
    np.testing.assert_array_equal(found.shown[0].sample, first.x[0])
    text = page(found.report, found.shown, bundle.input)
    assert text.count("data:image/png;base64,") == 8 * 3


def test_there_is_no_map_without_pictures_or_a_feature_map(tmp_path: Path, data: Path) -> None:
    found = report(made_bundle(tmp_path / "made"), data)
    assert found.maps.missing == "the bundle's input is no image but a tensor"
    flat = graph(
        [
            helper.make_node("Cast", ["x"], ["floats"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Flatten", ["floats"], ["flat"], axis=1),
            helper.make_node("MatMul", ["flat", "W"], ["y"]),
        ],
        shape=(2, 3, 1),
        dtype=onnx.TensorProto.UINT8,
        W=np.eye(6, K, dtype=np.float32),
    )
    spec = Input(kind="image", shape=(2, 3, 1), dtype="uint8", layout="HWC")
    files = {"edge.onnx": flat, "cloud.onnx": flat}
    bundle = made_bundle(tmp_path / "flat", input=spec, files=files)
    x = np.random.default_rng(1).integers(0, 4, (60, 2, 3, 1)).astype(np.uint8)
    found = report(bundle, saved(tmp_path / "x.npz", x, np.arange(60) % K))
    assert found.maps.missing == "the graph has no feature map: no tensor (B, C, H, W)"


def test_without_onnx_the_page_says_what_to_install(
    pictures_bundle: tuple[Path, Path, Floats], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedge.runtime.evidence_report.feature_map.find_spec", lambda _: None)
    path, rows_file, _ = pictures_bundle
    missing = report(path, rows_file).maps.missing
    assert missing == "onnx is not installed (pip install 'hedge-runtime[quantize]')"


def test_a_tflite_edge_says_why_it_has_no_map(
    tmp_path: Path, linear_tflite: Callable[..., bytes]
) -> None:
    edge = Edge(name="lite", file="edge.tflite", format="tflite", output="probabilities")
    manifest = load_bundle(made_bundle(tmp_path / "made")).manifest
    spec = Input(kind="image", shape=(4,), dtype="float32")
    changed = replace(
        manifest, edge=(edge,), cloud=None, input=replace(spec, kind="tensor"), files={}
    )
    data = {"edge.tflite": linear_tflite(K, width=4)}
    bundle = write_bundle(tmp_path / "lite", changed, data).path
    x = np.random.default_rng(3).normal(size=(80, 4)).astype(np.float32)
    found = report(bundle, saved(tmp_path / "x.npz", x, np.arange(80) % K))
    assert found.maps.missing is not None
    assert score(found, "max_prob").aurc is not None


def test_a_png_holds_the_picture() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (3, 5, 4)).astype(np.uint8)
    data = png(picture)
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    begin = data.index(b"IDAT") + 4
    size = int.from_bytes(data[begin - 8 : begin - 4], "big")
    lines = np.frombuffer(zlib.decompress(data[begin : begin + size]), np.uint8).reshape(3, 21)
    assert not lines[:, 0].any()
    np.testing.assert_array_equal(lines[:, 1:].reshape(3, 5, 4), picture)


def test_samples_of_any_layout_become_visible() -> None:
    colours = np.random.default_rng(1).integers(0, 256, (3, 4, 5)).astype(np.uint8)
    np.testing.assert_array_equal(visible(colours, layout="CHW"), colours.transpose(1, 2, 0))
    grey = visible(np.array([[0.5, 1.0], [1.5, 2.5]]), layout="HW")
    assert grey[..., 0].tolist() == [[0, 64], [128, 255]]
    assert visible(np.zeros((500, 300, 3), np.uint8), layout=None).shape == (125, 75, 3)


# ---- The page.


def pictures(text: str) -> list[ET.Element]:
    """Return the page's pictures; each must be well-formed XML."""
    found = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    return [ET.fromstring(one) for one in found]  # noqa: S314 -- our own page


def test_the_page_needs_nothing_but_itself(digits: Path) -> None:
    text = (digits / "report.html").read_text("utf-8")
    assert not re.search(r"<(script|link|iframe|object)|https?:|url\(|@import", text)
    assert "default-src 'none'; style-src 'unsafe-inline'; img-src data:" in text
    assert len(text) < 200_000
    titles = [picture[0].text for picture in pictures(text)]
    assert titles == [
        "Reliability diagrams",
        "Accuracy against the share escalated, by score",
        "Speed against the share escalated",
        "Risk against coverage, by score",
        "Uncertainty in and out of distribution",
        "What escalates, by class",
    ]
    assert "No map: the bundle's input is no image but a tensor." in text.replace("&#x27;", "'")


def test_nothing_in_data_becomes_markup(tmp_path: Path) -> None:
    x, y = rows(120)
    hostile = tuple(f"{HOSTILE}{place}" for place in range(K))
    bundle = made_bundle(tmp_path / "made", labels=hostile)
    found = measure(
        load_bundle(bundle),
        Plan(saved(tmp_path / f"{'<b>'}.npz", x, y), resamples=40),
        show=lambda _: None,
    )
    text = page(found.report, found.shown, load_bundle(bundle).input)
    assert "<script" not in text
    assert "<b>.npz" not in text
    assert "&lt;script&gt;" in text
    assert len(pictures(text)) == 6


def test_the_terminal_shows_every_score(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command(made_bundle(tmp_path / "made"), data) == 0
    told = capsys.readouterr().out
    for word in ("edge", "cooperative", "* margin", "random", "oracle", "not fitted", "AUROC"):
        assert word in told
    assert "times as many as the cloud alone" in told


def test_the_json_holds_only_numbers(digits: Path) -> None:
    text = (digits / "report.json").read_text("utf-8")
    assert json.loads(text)["format"] == 1
    assert "NaN" not in text
    assert "Infinity" not in text


# ---- What is refused.


def without_classes(path: Path) -> None:
    np.savez(path, X=rows()[0])


def of_one_class(path: Path) -> None:
    np.savez(path, X=rows()[0], y=np.ones(400, int))


def with_a_nan(path: Path) -> None:
    x, y = rows()
    x[7, 2] = np.nan
    saved(path, x, y)


def of_another_shape(path: Path) -> None:
    saved(path, rows()[0][:, 1:], rows()[1])


def of_unknown_classes(path: Path) -> None:
    saved(path, rows()[0], rows()[1] + 7)


def too_few(path: Path) -> None:
    saved(path, rows()[0][:12], rows()[1][:12])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_classes, "no array y"),
        (of_one_class, "all 400 rows are of one class, 'walk'"),
        (with_a_nan, "X has NaN or Inf in 1 of 400 rows, first row 7"),
        (of_another_shape, "samples of shape (5,); the bundle takes (6,)"),
        (of_unknown_classes, "class 9; there are 3 labels"),
        (too_few, "12 of 12 rows are new to the bundle, a report needs 20"),
        (Path.unlink, "no such file"),
    ],
)
def test_rows_that_cannot_judge_are_refused_in_one_line(
    spoil: Callable[[Path], None], says: str, tmp_path: Path, data: Path
) -> None:
    bundle = made_bundle(tmp_path / "made")
    spoil(data)
    with pytest.raises(HedgeError) as caught:
        command(bundle, data, "--json", tmp_path / "out.json")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out.json").exists()


def test_rows_that_were_all_seen_are_refused(tmp_path: Path, data: Path) -> None:
    training = Training(recipe="none", seed=0, data_sha256="0" * 64, seen="seen.npy")
    seen = {"seen.npy": save_seen(row_digests(rows()[0]))}
    bundle = made_bundle(tmp_path / "made", training=training, files=seen)
    with pytest.raises(HedgeError, match="0 of 400 rows are new to the bundle"):
        command(bundle, data)


def test_another_kind_of_another_shape_is_refused_before_any_work(
    tmp_path: Path, data: Path
) -> None:
    other = saved(tmp_path / "other.npz", np.zeros((30, 9), np.float32), np.arange(30) % K)
    with pytest.raises(HedgeError, match=r"other.npz: samples of shape \(9,\)"):
        command(made_bundle(tmp_path / "made"), data, "--out-of-distribution", other)


def test_outputs_that_are_no_distribution_are_refused(tmp_path: Path, data: Path) -> None:
    wrong = (Edge(name="small", file="edge.onnx", output="probabilities"),)
    with pytest.raises(HedgeError, match="the outputs are no distribution"):
        command(made_bundle(tmp_path / "made", edge=wrong), data)


def test_an_unknown_variant_and_a_bad_place_are_refused(tmp_path: Path, data: Path) -> None:
    bundle = made_bundle(tmp_path / "made")
    with pytest.raises(HedgeError, match="no variant 'big'"):
        command(bundle, data, "--variant", "big")
    with pytest.raises(HedgeError, match="lies in none that exists"):
        command(bundle, data, "--html", tmp_path / "nowhere" / "page.html")
    with pytest.raises(HedgeError, match="would overwrite"):
        command(bundle, data, "--json", data)
