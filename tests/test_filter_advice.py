"""What `hedge filter train` says of a filter that is no good, and of what comes next."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="torch, which trains, is not installed")
pytest.importorskip("onnxruntime", reason="the models of these bundles are ONNX graphs")

from hedge.models.bundle import Bundle, load_bundle, write_bundle
from hedge.models.dataset import Dataset
from hedge.models.errors import DataError
from hedge.models.filtering.operating_point import Point
from hedge.models.manifest import Calibration, Edge, Filter, Input, Manifest
from hedge.models.training.infi.replaying import place_reuse, replay
from hedge.models.training.infi.rows import divide
from hedge.models.training.infi.view import views
from hedge.runtime.cli import main
from hedge.runtime.filter.cautions import Counts, cautions
from hedge.runtime.filter.teach import Judged, Rows, teach
from hedge.runtime.filter.train import TrainOrder

LABELS = ("rest", "walk", "run")
WIDTH = 5
RULE = "labels rest,walk"
GATE = Calibration(score="max_prob", total=0.4, method="by hand", rows=10, data_sha256="0" * 64)
Linear = Callable[..., bytes]


def _bundle(path: Path, linear: Linear, **changed: Any) -> Bundle:  # noqa: ANN401 -- of any type
    manifest = Manifest(
        **{
            "format": 1,
            "name": "steps",
            "version": "1.0",
            "task": "classification",
            "labels": LABELS,
            "licence": "test",
            "input": Input(kind="tensor", shape=(WIDTH,), dtype="float32"),
            "edge": (Edge(name="small", file="edge.onnx"),),
            "files": {},
            **changed,
        }
    )
    files = {"edge.onnx": _model(linear)}
    files |= {one.file: linear(1, shape=(WIDTH,), seed=9) for one in manifest.filter}
    return write_bundle(path, manifest, files)


def _model(linear: Linear) -> bytes:
    return linear(len(LABELS), shape=(WIDTH,), seed=3)


def _rows(path: Path, rows: int = 800, *, seed: int = 4, classes: bool = False) -> Path:
    rng = np.random.default_rng(seed)
    x = rng.normal(0.0, 1.0, (rows, WIDTH)).astype(np.float32)
    more = {"y": rng.integers(0, len(LABELS), rows)} if classes else {}
    np.savez(path, X=x, **more)  # type: ignore[arg-type]  # not allow_pickle
    return path


def _train(*words: str | Path | int) -> int:
    return main(["filter", "train", *map(str, words)])


def _lines(said: str) -> list[list[str]]:
    """Return the command lines that a report gives, without the program's name."""
    return [shlex.split(line)[1:] for line in said.splitlines() if line.startswith("  hedge ")]


# ---- What comes next


@pytest.mark.parametrize("kind", ["skip", "reuse"])
def test_what_comes_next_works_as_it_is_pasted(
    tmp_path: Path, linear_onnx: Linear, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    old = Filter(kind="skip", file="skip.onnx", threshold=0.001, rule=RULE)
    made = _bundle(
        tmp_path / "a b", linear_onnx, calibration=GATE, filter=() if kind == "skip" else (old,)
    )
    rest = tmp_path / "rest.npz"
    words = ("--kind", kind, "--redundant", RULE, "--rest", rest, "--epochs", 12)
    assert _train(made.path, _rows(tmp_path / "rows.npz"), *words) == 0
    tune, calibrate = _lines(capsys.readouterr().out)
    assert tune[:4] == ["filter", "tune", f"{made.path}-filtered", str(rest)]
    assert main([*tune, "--anyway", "--power", "none"]) == 0
    tuned = load_bundle(tmp_path / "a b-filtered-tuned").manifest.filter
    assert [one.tuned is not None for one in tuned] == [False] * (len(tuned) - 1) + [True]
    new = _rows(tmp_path / "ROWS.npz", 600, seed=8, classes=True)
    assert main([str(new) if word == "ROWS.npz" else word for word in calibrate]) == 0


def test_a_bare_model_is_calibrated_next_since_no_stream_takes_it_without(
    tmp_path: Path, linear_onnx: Linear, capsys: pytest.CaptureFixture[str]
) -> None:
    model, rest = tmp_path / "steps.onnx", tmp_path / "rest.npz"
    model.write_bytes(_model(linear_onnx))
    rows = _rows(tmp_path / "rows.npz", classes=True)
    words = ("--labels", ",".join(LABELS), "--redundant", RULE, "--rest", rest, "--epochs", 6)
    assert _train(model, rows, *words) == 0
    said = capsys.readouterr().out
    assert "without which hedge run refuses it" in said
    calibrate, tune = _lines(said)
    assert main(calibrate) == 0
    ready = load_bundle(tmp_path / "steps-filtered-calibrated")
    assert ready.manifest.calibration is not None
    new = _rows(tmp_path / "ROWS.npz", 600, seed=8)
    pasted = [str(new) if word == "ROWS.npz" else word for word in tune]
    assert main([*pasted, "--anyway", "--power", "none"]) == 0


def test_without_a_place_for_the_rest_the_rows_themselves_place_it(
    tmp_path: Path, linear_onnx: Linear, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "steps.onnx"
    model.write_bytes(_model(linear_onnx))
    words = ("--labels", ",".join(LABELS), "--redundant", RULE, "--epochs", 2)
    assert _train(model, _rows(tmp_path / "rows.npz"), *words) == 0
    said = capsys.readouterr().out
    assert "without which hedge run refuses it, by rows with classes" in said
    tune, _ = _lines(said)
    assert main([*tune, "--anyway", "--power", "none"]) == 0


def test_of_a_skip_filter_the_plain_figure_is_of_skipping_everything(
    tmp_path: Path, linear_onnx: Linear, capsys: pytest.CaptureFixture[str]
) -> None:
    made, told = _bundle(tmp_path / "a", linear_onnx), tmp_path / "told.json"
    rule = "confidence below 0.7"
    words = ("--redundant", rule, "--json", told, "--epochs", 2)
    assert _train(made.path, _rows(tmp_path / "rows.npz"), *words) == 0
    found = json.loads(told.read_text("utf-8"))
    assert found["constant"] == found["redundant_share"]
    said = capsys.readouterr().out
    assert f"(skipping everything: {found['redundant_share']:.1%})" in said
    assert "commonest result" not in said


# ---- What is wrong with it


def test_a_reuse_filter_that_is_worse_than_it_was_placed_for_is_not_left_without_a_word(
    tmp_path: Path, linear_onnx: Linear, capsys: pytest.CaptureFixture[str]
) -> None:
    """The people who judge it move little: what lies near for the others differs for them."""
    made = _bundle(tmp_path / "a", linear_onnx)
    told, group = tmp_path / "told.json", np.arange(450) % 9
    x = np.random.default_rng(6).normal(0.0, 1.0, (450, WIDTH)).astype(np.float32)
    judged = divide(Dataset(x=x, group=group), seen=np.zeros(450, bool)).judged
    x[judged] *= 0.02
    np.savez(tmp_path / "rows.npz", X=x, group=group)
    words = ("--kind", "reuse", "--epochs", 4, "--json", told)
    assert _train(made.path, tmp_path / "rows.npz", *words) == 0
    found = json.loads(told.read_text("utf-8"))
    said = capsys.readouterr().out
    (text,) = found["careful"]
    assert f"careful: {text}\n" in said
    assert "of other groups" in text
    assert found["point"]["accuracy"] < 0.95


def _judged(accuracy: float, *, placed: float, distance: float = 1.0, rare: int = 90) -> Judged:
    point = Point(threshold=distance, rate=0.9, recall=accuracy, accuracy=accuracy)
    at = Point(threshold=distance, rate=0.9, recall=placed, accuracy=placed)
    return Judged(point=point, constant=0.758, placed=at, rare=rare)


def test_a_caution_names_what_happened_the_cause_and_what_to_do() -> None:
    counts = Counts(rows=3285, before=2387, held=186, by="group")
    (text,) = cautions("reuse", _judged(0.2424, placed=0.973, rare=24), counts)
    assert text == (
        "do not use it as it is: 24.2% of the rows that judge it get the model's result, and it "
        "was placed for 95% (the commonest result for all of them is right for 75.8%); of those "
        "that placed it 97.3% do, and the rows that judge are of other groups than them; only 24 "
        "of the 186 rows that placed it have another result than the commonest, since 2387 of "
        "3285 rows stop at the filters before it; give more rows, of more people or machines, or "
        "do without it"
    )
    assert list(cautions("reuse", _judged(0.96, placed=0.97), counts)) == []
    (text,) = cautions("reuse", _judged(0.93, placed=0.97), counts)
    assert text.startswith("it may do worse than it should: 93.0% of the rows")
    (text,) = cautions("reuse", _judged(1.0, placed=1.0, distance=0.0), counts)
    assert "reuses nothing but what is equal" in text
    (text,) = cautions("reuse", _judged(0.9, placed=0.9), counts._replace(by="row"))
    assert "those that placed it" not in text
    assert "commonest" not in text


def test_a_skip_filter_that_loses_what_matters_or_learnt_nothing_is_warned_of() -> None:
    counts = Counts(rows=900, before=0, held=180, by="time")
    good = Point(threshold=0.1, rate=0.4, recall=0.99, accuracy=0.995)
    judged = Judged(point=good, constant=0.4, at_recall=good)
    assert list(cautions("skip", judged, counts)) == []
    bad = Point(threshold=0.1, rate=0.6, recall=0.7, accuracy=0.8)
    (text,) = cautions("skip", judged._replace(point=bad), counts)
    assert "loses 30.0% of what matters, on rows that are of other times than" in text
    chance = Point(threshold=0.1, rate=0.05, recall=0.95, accuracy=0.97)
    (text,) = cautions("skip", judged._replace(at_recall=chance), counts)
    assert "has learnt next to nothing" in text
    none = Point(threshold=0.1, rate=0.0, recall=1.0, accuracy=1.0)
    (text,) = cautions("skip", judged._replace(point=none), counts)
    assert "skips nothing; hedge filter tune" in text


def test_keys_that_are_equal_where_results_differ_are_refused_as_they_answer_at_any_distance(
    tmp_path: Path, linear_onnx: Linear
) -> None:
    made = _bundle(tmp_path / "a", linear_onnx)
    (part,) = views(("vector[0:1]",), made.input)
    x = np.random.default_rng(6).normal(0.0, 1.0, (300, WIDTH)).astype(np.float32)
    x[:, 0] = 1.0  # all that the filter sees
    division = divide(Dataset(x=x), seen=np.zeros(300, bool))
    labels = np.zeros(300, np.int64)
    labels[division.held[-10:]] = labels[division.taught[:50]] = 1
    rows = Rows(fed=x, labels=labels, tasks=None)
    order = TrainOrder(kind="reuse", epochs=1, format="onnx")
    with pytest.raises(DataError, match="tells no results apart"):
        teach(rows, (part,), division, order, say=lambda _line: None)


# ---- Where reuse is placed


def test_where_no_distance_keeps_the_accuracy_nothing_is_reused() -> None:
    keys, answers = np.linspace(0, 0.2, 200, dtype=np.float32)[:, None], np.arange(200) % 2
    placed = place_reuse(keys, answers, apart=3.0, accuracy=0.95)
    assert placed.distance == 0
    assert replay(keys, answers, placed).rate() == 0


def test_answers_that_are_right_less_often_than_the_commonest_are_not_worth_a_few() -> None:
    """All are far from each other, but one in forty from the one before, which differs."""
    answers = np.zeros(200, np.int64)
    answers[39::40] = 1
    keys = np.arange(0, 1800, 9, dtype=np.float32)[:, None]
    keys[39::40] = keys[38::40] + 0.01  # what differs looks as what came before
    placed = place_reuse(keys, answers, apart=0.1, accuracy=0.95)
    assert placed.distance == 0


def test_the_accuracy_is_kept_for_each_person_alone_who_begins_with_an_empty_memory() -> None:
    """One of four people is told apart at a tenth of the others' distances."""
    rng = np.random.default_rng(5)
    answers = np.tile(np.repeat([0, 1], 30), 4)
    person = np.repeat(np.arange(4), 60)
    keys = (20.0 * person + np.where(person == 3, 0.4, 4.0) * answers)[:, None].astype(np.float32)
    keys += rng.uniform(0, 0.1, keys.shape).astype(np.float32)
    alone = [(keys[person == one], answers[person == one]) for one in range(4)]
    wide = place_reuse(keys, answers, apart=2.0, accuracy=0.85)
    near = place_reuse(keys, answers, apart=2.0, accuracy=0.85, alone=alone)

    def right(distance: Any) -> float:  # noqa: ANN401 -- a Reuse
        return replay(*alone[3], distance).accuracy(alone[3][1])

    assert right(wide) < 0.85 <= right(near)
