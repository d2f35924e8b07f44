"""`hedge filter update` of a filter with several tasks: each keeps its recall and threshold."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

pytest.importorskip("torch", reason="torch, which trains, is not installed")

from hedge.models.bundle import Bundle, load_bundle, write_bundle
from hedge.models.dataset import Dataset
from hedge.models.filtering.baselines import Told
from hedge.models.filtering.comparing import Aim, compare_skip
from hedge.models.filtering.standing import probabilities, to_any
from hedge.models.manifest import Cloud, Edge, Filter, Input, Manifest
from hedge.runtime.adapt.pair_keeper import LabelTerms, PairKeeper
from hedge.runtime.both_models import part_outputs
from hedge.runtime.cli import main
from hedge.runtime.filter.placing import Rows
from hedge.runtime.filter.several_tasks import joint_score
from hedge.uplink import wire
from hedge.uplink.far_end.responder import Answered
from hedge.uplink.topics import Device

_LINEAR = runpy.run_path(str(Path(__file__).with_name("linear_graph.py")))
product: Callable[..., bytes] = _LINEAR["product"]

SEED = 20351
LABELS = ("rest", "walk", "fall")
WALK, FALL = "labels rest,fall", "labels rest,walk"  # what matters to each task is its name


_MODEL = np.array([[0.0, 3.0, -3.0], [0.0, 0.0, 3.0]])


def _bundle(path: Path) -> Bundle:
    """Write a bundle that walks where x0 is large, falls where x1 - x0; no filter sees x1."""
    manifest = Manifest(
        format=1,
        name="falls",
        version="1.0.9",
        task="classification",
        labels=LABELS,
        licence="Apache-2.0",
        input=Input(kind="tensor", shape=(2,), dtype="float32"),
        edge=(Edge(name="tiny", file="edge.onnx"),),
        cloud=Cloud(file="cloud.onnx"),
        filter=(
            Filter(
                kind="skip",
                file="skip.onnx",
                threshold=0.05,
                thresholds=(0.05, 0.1),
                redundant=("rest",),
                rule=f"{WALK}; {FALL}",
            ),
        ),
        files={},
    )
    model = product(_MODEL.tolist())
    files = {"edge.onnx": model, "cloud.onnx": model, "skip.onnx": product([[2, -2], [0, 0]])}
    return write_bundle(path, manifest, files)


def _probs(x: NDArray[np.float32]) -> NDArray[np.float64]:
    logits = x.astype(np.float64) @ _MODEL
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: NDArray[np.float64] = e / e.sum(axis=1, keepdims=True)
    return found


def _new(rows: int, *, seed: int = SEED) -> NDArray[np.float32]:
    """Return rows of new times, in which x1 decides."""
    centre = np.array([[-1.0, -2.0]])
    drawn = np.random.default_rng(seed).normal(size=(rows, 2), scale=(1.0, 2.5))
    return (centre + drawn).astype(np.float32)


def _labelled(bundle: Bundle, folder: Path, x: NDArray[np.float32]) -> Path:
    """Keep labels of rows as a worker does, and release them."""
    keeper = PairKeeper(folder, LabelTerms.of(bundle), max_bytes=1 << 22)
    for number, (row, probs) in enumerate(zip(x, _probs(x), strict=True)):
        request = wire.Request(
            *(1, f"7-{number}", 7, "label", "falls", "0" * 16, "input", None, "float32", (2,)),
            *("raw", None, b""),
        )
        said = probs.astype(np.float32)
        keeper([Answered(Device("hall", "d1"), "cam", request, row, said, None)])
    keeper.close()
    assert main(["adapt", "release", str(folder), "--all"]) == 0
    return folder


def _update(bundle: Bundle, labels: Path, tmp_path: Path, *words: str) -> int:
    old = np.random.default_rng(SEED + 1).normal(size=(500, 2), scale=(1.5, 0.5))
    np.savez(tmp_path / "old.npz", X=(old - [1, 0]).astype(np.float32))
    line = [str(bundle.path), str(labels), "--data", str(tmp_path / "old.npz")]
    return main(["filter", "update", *line, "--out", str(tmp_path / "updated"), *words])


def test_each_of_two_tasks_keeps_its_recall_once_labels_have_taught_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = _bundle(tmp_path / "bundle")
    labels = _labelled(bundle, tmp_path / "labels", _new(1600))
    told = tmp_path / "told.json"
    code = _update(
        bundle, labels, tmp_path, "--recall", "0.9", "--epochs", "25", "--json", str(told)
    )
    said = capsys.readouterr()
    assert code == 0, said
    (part,) = load_bundle(tmp_path / "updated").manifest.filter
    assert part.rule == f"{WALK}; {FALL}"
    assert len(part.thresholds) == 2
    assert part.threshold == min(part.thresholds)
    found = json.loads(told.read_text("utf-8"))
    assert [one["rule"] for one in found["tasks"]] == [WALK, FALL]
    assert f"of: {FALL}" in said.out

    fresh = _new(3000, seed=5)
    given = part_outputs(load_bundle(tmp_path / "updated"), part, Dataset(x=fresh))
    kept = to_any(probabilities(given) > np.array(part.thresholds))
    label = _probs(fresh).argmax(axis=1)
    for one in (1, 2):
        assert kept[label == one].mean() > 0.85
    assert kept[label == 0].mean() < 0.5


def test_one_rule_in_place_of_two_is_what_the_filter_then_says_and_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = _bundle(tmp_path / "bundle")
    labels = _labelled(bundle, tmp_path / "labels", _new(800))
    code = _update(bundle, labels, tmp_path, "--redundant", FALL, "--accuracy", "0.9")
    said = capsys.readouterr()
    assert code == 0, said
    (part,) = load_bundle(tmp_path / "updated").manifest.filter
    assert part.thresholds == ()
    assert part.rule == FALL
    assert part.redundant == ("rest", "walk")
    assert replace(part, tuned=None).threshold > 0


def test_a_rare_task_counts_as_much_as_another_in_what_can_be_filtered() -> None:
    """Two tasks of 8 and 80 rows: a filter that sees nothing of the rare one can filter little."""
    rng = np.random.default_rng(SEED)
    tasks = np.zeros((400, 2), bool)
    tasks[:80, 0] = tasks[80:88, 1] = True
    sees_both = np.where(tasks, 0.9, 0.1) + rng.uniform(0, 0.05, (400, 2))
    sees_one = np.column_stack([sees_both[:, 0], rng.uniform(0, 0.15, 400)])
    told = Told(tasks.argmax(axis=1), to_any(tasks), None)
    rows = [
        Rows(Dataset(x=np.zeros((400, 1))), told, scores=scores, tasks=tasks)
        for scores in (sees_one, sees_both)
    ]
    for one_of_both, scores in zip(rows, (sees_one, sees_both), strict=True):
        drops = joint_score(one_of_both, Aim(0.9)) <= 0.1
        by_hand = np.ones(400, bool)
        for one, matters in zip(scores.T, tasks.T, strict=True):
            bound = np.sort(one[matters])[int(0.1 * matters.sum())]  # the first that is kept
            by_hand &= one < bound
        assert np.array_equal(drops, by_hand)
    before, after = (joint_score(one, Aim(0.9)) for one in rows)
    change = compare_skip(before, after, told.matters, Aim(0.9))
    assert change.is_better
    assert change.after > 0.7
    assert change.before < 0.5
