"""Filters of several tasks, and filters of a split model's features: trained, tuned and run."""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("torch", reason="torch, which trains, is not installed")
pytest.importorskip("onnxruntime", reason="the models of these bundles are ONNX graphs")

from hedge.models.bundle import Bundle, load_bundle, write_bundle
from hedge.models.dataset import Dataset, load_dataset
from hedge.models.errors import ConfigError, DataError, ModelError
from hedge.models.filtering.operating_point import for_accuracy, for_recall, point_at
from hedge.models.filtering.rules import check_each, rule_of
from hedge.models.filtering.standing import logit_of, passes, probabilities
from hedge.models.manifest import (
    Calibration,
    Cloud,
    Edge,
    Filter,
    Input,
    Manifest,
    Split,
)
from hedge.models.model import ModelSpec, TensorSpec
from hedge.runtime.both_models import features_of, part_outputs, passing
from hedge.runtime.cli import main
from hedge.runtime.config import load_config
from hedge.runtime.daemon import serve
from hedge.runtime.filter import time_costs
from hedge.runtime.filter.load import Load
from hedge.runtime.filter.pair import open_pair, shares_features
from hedge.runtime.filters.skip import SkipFilter
from hedge.runtime.split_head import SplitHead

SEED = 20341
LABELS = ("rest", "walk", "run")
WIDTH = 5
RUN = "labels rest,walk"  # is what matters to this task
WALK = "labels rest,run"
GATE = Calibration(score="max_prob", total=0.4, method="by hand", rows=10, data_sha256="0" * 64)
_CONFIG = """[device]
name = "d"
state_dir = "state"
[[stream]]
name = "s"
bundle = "{bundle}"
source = {{ kind = "replay", path = "{rows}" }}
filter_shadow = 0
"""
Linear = Callable[..., bytes]


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here asks whether a filter pays."""
    monkeypatch.setattr(time_costs, "_ROUND_NS", 1)


def trained(bundle: Bundle, rows: Path, *words: str | Path) -> int:
    """Run `hedge filter train` for a few epochs; return its exit code."""
    line = ["filter", "train", str(bundle.path), str(rows), "--epochs", "8", *map(str, words)]
    return main(line)


def manifest(**changed: Any) -> Manifest:  # noqa: ANN401 -- fields of all types
    return Manifest(
        **{
            "format": 1,
            "name": "steps",
            "version": "1.0",
            "task": "classification",
            "labels": LABELS,
            "licence": "test",
            "input": Input(kind="tensor", shape=(WIDTH,), dtype="float32"),
            "files": {},
            **changed,
        }
    )


@pytest.fixture
def plain(tmp_path: Path, linear_onnx: Linear) -> Bundle:
    """Give a bundle of one edge model that a device can run."""
    made = manifest(edge=(Edge(name="small", file="edge.onnx"),), calibration=GATE)
    return write_bundle(tmp_path / "plain", made, {"edge.onnx": _edge(linear_onnx)})


@pytest.fixture
def halves(tmp_path: Path, linear_onnx: Linear) -> Bundle:
    """Give a bundle whose device has nothing but the head of a split model, of width 4."""
    made = manifest(split=Split(file="head.onnx", width=4, cloud=Cloud(file="tail.onnx")))
    files = {
        "head.onnx": linear_onnx(4, shape=(WIDTH,), seed=11),
        "tail.onnx": linear_onnx(len(LABELS), shape=(4,), seed=3),
    }
    return write_bundle(tmp_path / "halves", made, files)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Give 900 rows without classes."""
    x = np.random.default_rng(SEED).normal(0.0, 1.0, (900, WIDTH)).astype(np.float32)
    np.savez(tmp_path / "rows.npz", X=x)
    return tmp_path / "rows.npz"


def _edge(linear: Linear) -> bytes:
    return linear(len(LABELS), shape=(WIDTH,), seed=3)


def _binomial_below(most: int, rows: int, share: float) -> float:
    """Return the probability of at most so many of ``rows`` draws."""
    terms = (math.comb(rows, k) * share**k * (1 - share) ** (rows - k) for k in range(most + 1))
    return sum(terms)


def test_two_rules_are_two_tasks_and_a_device_drops_what_matters_to_none(
    tmp_path: Path, plain: Bundle, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    two = ("--redundant", RUN, "--redundant", WALK)
    parts = ("--modality", "vector[0:2]", "--modality", "vector[2:5]")
    report = tmp_path / "told.json"
    assert trained(plain, rows, *two, *parts, "--json", report) == 0
    found = load_bundle(tmp_path / "plain-filtered")
    (part,) = found.manifest.filter
    assert part.rule == f"{RUN}; {WALK}"
    assert part.redundant == ("rest",)
    assert len(part.thresholds) == 2
    assert part.threshold == min(part.thresholds)
    told = json.loads(report.read_text("utf-8"))
    assert [one["rule"] for one in told["tasks"]] == [RUN, WALK]
    assert told["modality"] == ["vector[0:2]", "vector[2:5]"]
    assert f"of: {WALK}" in capsys.readouterr().out

    logits = part_outputs(found, part, load_dataset(rows))
    kept = np.zeros(len(logits), bool)
    for task, threshold in enumerate(part.thresholds):
        kept |= logits[:, task] > math.log(threshold / (1 - threshold))
    assert 0 < kept.sum() < len(kept)
    config = tmp_path / "device.toml"
    config.write_text(_CONFIG.format(bundle=found.path, rows=rows))
    (stream,) = serve(load_config(config, environ={}), base=tmp_path).streams
    assert stream.routes["dropped"] == np.sum(~kept)
    assert stream.filters[0].failed == 0


def test_each_task_has_a_threshold_that_holds_its_own_recall(
    tmp_path: Path, plain: Bundle, rows: Path
) -> None:
    out, told_at = tmp_path / "tuned", tmp_path / "told.json"
    rest = tmp_path / "rest.npz"
    trained(plain, rows, "--redundant", RUN, "--redundant", WALK, "--rest", rest)
    line = ["filter", "tune", str(tmp_path / "plain-filtered"), str(rest), "--power", "none"]
    aim = ["--recall", "0.8", "--confidence", "0.9", "--anyway"]
    assert main([*line, *aim, "--out", str(out), "--json", str(told_at)]) == 0
    found = load_bundle(out)
    (part,) = found.manifest.filter
    held = load_dataset(rest)
    labels = part_outputs(found, found.manifest.edge[0], held).argmax(axis=1)
    logits = part_outputs(found, part, held).astype(np.float64)
    for task, (label, threshold) in enumerate(zip((2, 1), part.thresholds, strict=True)):
        mine = labels == label
        lost = int(np.sum(logits[mine, task] <= logit_of(threshold)))
        count = int(mine.sum())
        assert _binomial_below(lost, count, 0.2) <= 0.05 < _binomial_below(lost + 1, count, 0.2)
    told = json.loads(told_at.read_text("utf-8"))
    kept = passes(part, logits)
    assert [one["matter"] for one in told["tasks"]] == [np.sum(labels == 2), np.sum(labels == 1)]
    assert [one["recall"] for one in told["tasks"]] == [
        pytest.approx(kept[labels == label].mean()) for label in (2, 1)
    ]
    assert told["point"]["rate"] == pytest.approx(np.mean(~kept))


@pytest.mark.parametrize(
    ("rules", "error", "message"),
    [
        ((RUN, RUN), ConfigError, "is there twice"),
        (("labels rest", "labels walk,run"), DataError, "makes no row redundant"),
        ((RUN, "confidence below 1"), DataError, "confidence below 1: makes every row redundant"),
        ((RUN, "labels swim"), ConfigError, "'swim' is none of the labels"),
        ((RUN, "nonsense"), ConfigError, "is no rule"),
    ],
)
def test_tasks_that_leave_nothing_to_learn_are_refused_by_name(
    plain: Bundle,
    rows: Path,
    rules: tuple[str, str],
    error: type[Exception],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [word for rule in rules for word in ("--redundant", rule)]
    assert trained(plain, rows, *words) == 2
    assert message in capsys.readouterr().err
    assert issubclass(error, Exception)
    assert not plain.path.with_name("plain-filtered").exists()


def test_a_rule_of_several_says_what_all_of_them_say() -> None:
    rule = rule_of(f"{RUN}; confidence below 0.6; same as last", LABELS)
    probs = np.array([[0.5, 0.4, 0.1], [0.5, 0.3, 0.2], [0.9, 0.1, 0.0], [0.1, 0.3, 0.6]])
    assert [one.kind for one in rule.tasks] == ["labels", "confidence", "last"]
    assert rule.redundant(probs).tolist() == [False, True, False, False]
    assert rule.is_of("last")
    assert not rule.is_of("python")


class Fixed:
    """A model that gives the logits it is fed."""

    runs_on = "nothing"
    spec = ModelSpec(
        inputs=(TensorSpec("x", np.dtype(np.float32), (None, 2)),),
        outputs=(TensorSpec("y", np.dtype(np.float32), (None, 2)),),
    )

    def infer(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        return batch.astype(np.float32)

    def reset(self) -> None: ...

    def close(self) -> None: ...


def test_a_device_keeps_what_any_task_keeps_and_offline_counts_the_same() -> None:
    part = Filter(kind="skip", file="f.onnx", threshold=0.1, thresholds=(0.9, 0.1))
    asked = SkipFilter(
        Fixed(), threshold=0.1, thresholds=part.thresholds, prepare=lambda batch: batch
    )
    logits = np.random.default_rng(SEED).normal(0.0, 2.5, (300, 2)).astype(np.float32)
    logits[0] = (2.1, -2.3)
    logits[1] = (2.3, -2.3)
    logits[2] = (2.1, -2.1)
    kept = [asked.keep(row[None]) for row in logits]
    assert kept[:3] == [False, True, True]
    assert kept == passes(part, logits).tolist()
    asked.keep(logits[:1])
    assert asked.certainty == pytest.approx(2.197225 - 2.1 + 0.0, abs=1e-4)
    with pytest.raises(ModelError, match="3 logits for 2 thresholds"):
        asked.keep(np.zeros((1, 3), np.float32))
    with pytest.raises(ModelError, match="NaN"):
        asked.keep(np.array([[9.0, np.nan]], np.float32))


def test_a_filter_of_a_split_model_takes_its_features_and_is_placed_on_them(
    tmp_path: Path, halves: Bundle, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rest, told_at = tmp_path / "rest.npz", tmp_path / "told.json"
    assert trained(halves, rows, "--redundant", RUN, "--rest", rest) == 0
    found = load_bundle(tmp_path / "halves-filtered")
    (part,) = found.manifest.filter
    assert (part.attach, part.file) == ("feature", "filter-skip-feature.onnx")
    line = ["filter", "tune", str(found.path), str(rest), "--recall", "0.8"]
    assert main([*line, "--out", str(tmp_path / "tuned"), "--json", str(told_at)]) == 0
    assert "pays on the link: the far end answers" in capsys.readouterr().out
    told = json.loads(told_at.read_text("utf-8"))
    assert told["spared"] == 4 * 2  # four of float16
    tuned, held = load_bundle(tmp_path / "tuned"), load_dataset(rest)
    (part,) = tuned.manifest.filter
    logits = part_outputs(tuned, part, held).astype(np.float64)
    assert part_outputs(tuned, part, held).shape == (len(held.x), 1)
    assert features_of(tuned, held).x.shape == (len(held.x), 4)
    matters = part_outputs(tuned, Cloud(file="tail.onnx"), held).argmax(axis=1) == 2
    assert told["redundant_share"] == pytest.approx(np.mean(~matters))
    assert told["point"]["rate"] == pytest.approx(np.mean(logits[:, 0] <= logit_of(part.threshold)))
    assert told["point"]["rate"] == pytest.approx(np.mean(~passing(tuned, held)))
    assert told["point"]["recall"] == pytest.approx(passing(tuned, held)[matters].mean())


def test_a_filter_of_features_stands_behind_that_of_samples(
    tmp_path: Path, plain: Bundle, linear_onnx: Linear, rows: Path
) -> None:
    both = manifest(
        edge=plain.manifest.edge,
        calibration=GATE,
        filter=(
            Filter(kind="skip", file="skip.onnx", threshold=0.2, rule=RUN),
            Filter(kind="skip", file="old.onnx", attach="feature", rule=RUN),
        ),
        split=Split(file="head.onnx", width=4, cloud=Cloud(file="tail.onnx")),
    )
    files = {
        "edge.onnx": _edge(linear_onnx),
        "skip.onnx": linear_onnx(1, shape=(WIDTH,), seed=9),
        "old.onnx": linear_onnx(1, shape=(4,), seed=9),
        "head.onnx": linear_onnx(4, shape=(WIDTH,), seed=11),
        "tail.onnx": linear_onnx(len(LABELS), shape=(4,), seed=3),
    }
    bundle, told_at = write_bundle(tmp_path / "both", both, files), tmp_path / "told.json"
    words = ("--redundant", RUN, "--json", told_at)
    trained(bundle, rows, *words, "--attach", "feature", "--out", tmp_path / "a")
    found = load_bundle(tmp_path / "a")
    assert [one.file for one in found.manifest.filter] == ["skip.onnx", "filter-skip-feature.onnx"]
    assert "old.onnx" not in found.manifest.files
    first = both.filter[0]
    dropped = np.sum(~passes(first, part_outputs(bundle, first, load_dataset(rows))))
    assert json.loads(told_at.read_text("utf-8"))["filtered_before"] == dropped > 0
    trained(bundle, rows, *words, "--out", tmp_path / "b")  # the edge takes samples, so does it
    kept = load_bundle(tmp_path / "b").manifest.filter
    assert [(one.file, one.attach) for one in kept] == [
        ("filter-skip.onnx", "input"),
        ("old.onnx", "feature"),
    ]
    line = ["filter", "tune", str(tmp_path / "a"), str(rows), "--filter", "1", "--power", "none"]
    assert main([*line, "--out", str(tmp_path / "c")]) == 2, "its own rows have taught it"


def test_features_of_a_bundle_without_a_split_are_refused_with_what_makes_one(
    plain: Bundle, rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert trained(plain, rows, "--redundant", RUN, "--attach", "feature") == 2
    assert "hedge bundle split cuts a model in two" in capsys.readouterr().err


def test_a_row_that_the_threshold_just_keeps_is_kept_on_a_device() -> None:
    rng = np.random.default_rng(SEED)
    for _ in range(200):
        logits = rng.normal(0.0, 5.0, (80, 1)).astype(np.float32)
        matters = rng.random(80) < 0.9
        scores = probabilities(logits)[:, 0]
        part = Filter(
            kind="skip",
            file="f.onnx",
            threshold=for_recall(scores, matters, recall=0.9, confidence=0.9),
        )
        point = point_at(scores, matters, part.threshold)
        assert point.rate == pytest.approx(np.mean(~passes(part, logits)))
        part = Filter(
            kind="skip", file="f.onnx", threshold=for_accuracy(scores, matters, accuracy=0.9)
        )
        point = point_at(scores, matters, part.threshold)
        assert point.rate == pytest.approx(np.mean(~passes(part, logits)))


def test_a_window_of_frames_is_seen_as_video_and_dropped_on_a_device_as_offline(
    tmp_path: Path, linear_onnx: Linear
) -> None:
    shape = (3, 12, 12, 3)
    made = manifest(
        input=Input(kind="tensor", shape=shape, dtype="float32"),
        edge=(Edge(name="small", file="edge.onnx"),),
        calibration=GATE,
    )
    bundle = write_bundle(tmp_path / "clip", made, {"edge.onnx": linear_onnx(3, shape=shape)})
    frames, told_at = tmp_path / "frames.npz", tmp_path / "told.json"
    rng = np.random.default_rng(SEED)
    np.savez(frames, X=rng.normal(0.0, 1.0, (240, *shape)).astype(np.float32))
    line = ["filter", "train", str(bundle.path), str(frames), "--epochs", "2"]
    assert main([*line, "--redundant", RUN, "--json", str(told_at)]) == 0
    assert json.loads(told_at.read_text("utf-8"))["modality"] == ["video"]
    found = load_bundle(tmp_path / "clip-filtered")
    (part,) = found.manifest.filter
    kept = passes(part, part_outputs(found, part, load_dataset(frames)))
    config = tmp_path / "device.toml"
    config.write_text(_CONFIG.format(bundle=found.path, rows=frames))
    (stream,) = serve(load_config(config, environ={}), base=tmp_path).streams
    assert stream.routes["dropped"] == np.sum(~kept)
    assert stream.filters[0].failed == 0


def test_a_rule_means_the_same_when_it_teaches_and_when_it_is_tuned(
    tmp_path: Path, plain: Bundle, rows: Path
) -> None:
    rest, told_at = tmp_path / "rest.npz", tmp_path / "told.json"
    words = ("--redundant", "nothing above 0.8", "--rest", rest, "--json", told_at)
    assert trained(plain, rows, *words) == 0
    taught = json.loads(told_at.read_text("utf-8"))
    found = tmp_path / "plain-filtered"
    line = ["filter", "tune", str(found), str(rest), "--accuracy", "0.9", "--power", "none"]
    more = ["--anyway", "--out", str(tmp_path / "o"), "--json", str(told_at)]
    assert main([*line, *more]) == 0
    tuned = json.loads(told_at.read_text("utf-8"))
    assert tuned["redundant_share"] == pytest.approx(taught["redundant_share"])


@pytest.mark.parametrize(
    ("part_takes", "model_takes", "heads"),
    [
        ("input", "input", (0, 0)),
        ("feature", "input", (0, 1)),
        ("input", "feature", (1, 0)),
        ("feature", "feature", (0, 0)),
    ],
)
def test_a_head_costs_the_one_for_whom_alone_it_runs(
    part_takes: Literal["input", "feature"],
    model_takes: Literal["input", "feature"],
    heads: tuple[int, int],
    tmp_path: Path,
    linear_onnx: Linear,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    widths = {"input": WIDTH, "feature": 4}
    made = manifest(
        edge=(Edge(name="small", file="edge.onnx", attach=model_takes),),
        calibration=GATE,
        filter=(Filter(kind="skip", file="skip.onnx", attach=part_takes, rule=RUN),),
        split=Split(file="head.onnx", width=4, cloud=Cloud(file="tail.onnx")),
    )
    files = {
        "edge.onnx": linear_onnx(len(LABELS), shape=(widths[model_takes],), seed=3),
        "skip.onnx": linear_onnx(1, shape=(widths[part_takes],), seed=9),
        "head.onnx": linear_onnx(4, shape=(WIDTH,), seed=11),
        "tail.onnx": linear_onnx(len(LABELS), shape=(4,), seed=3),
    }
    bundle = write_bundle(tmp_path / "b", made, files)
    (part,), (edge,) = made.filter, made.edge
    asked: list[Any] = []
    plain = SplitHead.__call__

    def counted(head: SplitHead, batch: NDArray[Any]) -> NDArray[Any]:
        asked.append(batch)
        return plain(head, batch)

    monkeypatch.setattr(SplitHead, "__call__", counted)
    data = Dataset(x=np.random.default_rng(SEED).normal(0.0, 1.0, (9, WIDTH)).astype(np.float32))
    x = features_of(bundle, data).x if shares_features(bundle, part, edge) else data.x
    logits = part_outputs(bundle, part, data)
    with contextlib.ExitStack() as stack:
        pair = open_pair(bundle, part, edge, Load([], []), stack=stack)
        found = []
        for run in (pair.model, pair.filter):
            asked.clear()
            told = [run(x[place : place + 1]) for place in range(9)]
            found.append(len(asked) // 9)
    assert tuple(found) == heads
    assert told == (~passes(part, logits)).tolist()


def test_a_row_that_does_not_judge_still_is_the_one_before() -> None:
    probs = np.eye(3)[[0, 0, 1, 1, 1, 2]]
    among = np.array([True, False, True, False, True, True])
    rule = rule_of("same as last", LABELS)
    found = check_each(rule, probs, among=among)
    assert found[:, 0].tolist() == [True, True, False, True]
    with pytest.raises(DataError, match="makes no row redundant, of 2"):
        check_each(rule, probs, among=np.array([True, False, True, False, False, False]))
