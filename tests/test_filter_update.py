"""Active update: labels that are kept, and a filter that learns from them, or is not written."""

from __future__ import annotations

import json
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from hedge.models.bundle import Bundle, load_bundle, write_bundle
from hedge.models.dataset import Dataset, load_dataset
from hedge.models.filtering.comparing import Aim, Curve, compare_skip
from hedge.models.manifest import Calibration, Cloud, Edge, Filter, Input, Manifest, Reuse
from hedge.models.unseen import seen_rows
from hedge.runtime.adapt.pair_keeper import LabelTerms, PairKeeper
from hedge.runtime.adapt.pair_store import stores_in
from hedge.runtime.checks.filter_labels import check_filter_labels
from hedge.runtime.cli import main
from hedge.runtime.config import load_config
from hedge.runtime.filter.placing import TuneOrder
from hedge.runtime.filter.update import _balanced, _Material, _placing
from hedge.runtime.filters.label_options import LabelOptions
from hedge.uplink import wire
from hedge.uplink.far_end.responder import Answered
from hedge.uplink.topics import Device

_LINEAR = runpy.run_path(str(Path(__file__).with_name("linear_graph.py")))
product: Callable[..., bytes] = _LINEAR["product"]

SEED = 20311
HOUR_NS = 3600 * 10**9
LABELS = ("rest", "fall")
MANY = LabelOptions(share=0.1, by_lot=0.0, most_per_hour=1_000_000)


# ---- What the far end keeps


def _answered(number: int, *, kind: Any = "label", opinion: bool = False) -> Answered:  # noqa: ANN401 -- wrong ones, too
    told = wire.WireOpinion(wire.pack(np.array([0.6, 0.4]), "float32"), 0.7, "max_prob", None)
    request = wire.Request(
        *(1, f"7-{number}", 7, kind, "falls", "0" * 16, "input", None, "float32", (2,), "raw"),
        *(told if opinion else None, b""),
    )
    probs = np.array([0.25, 0.75], np.float32)
    sample = np.array([number, -1.0], np.float32)
    return Answered(Device("hall", "d1"), "cam", request, sample, probs, None)


def test_a_label_is_kept_in_quarantine_with_or_without_the_edge_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = _bundle(tmp_path / "bundle")
    keeper = PairKeeper(tmp_path / "labels", LabelTerms.of(bundle), max_bytes=1 << 20)
    keeper([_answered(1), _answered(2, opinion=True), _answered(3, kind="decide", opinion=True)])
    keeper.close()
    assert (keeper.what, keeper.counters()["kept"], keeper.counters()["other_kind"]) == (
        *("labels", 2, 1),
    )
    (store,) = stores_in(tmp_path / "labels")
    with closing(store):
        first, second = store.pairs("quarantined")
        whole, x = store.samples([first, second])
    assert (first.kind, first.edge, first.score, first.label) == ("label", None, None, 1)
    assert second.edge is not None
    assert second.score == 0.7
    assert len(whole) == 2
    assert x[:, 0].tolist() == [1.0, 2.0]
    assert main(["adapt", "show", str(tmp_path / "labels")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[5:7] for line in shown[2:]] == [["-", "-"], ["rest", "0.700"]]


def test_pairs_and_labels_are_not_kept_in_one_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _bundle(tmp_path / "bundle")
    place = str(tmp_path / "kept")
    line = ["worker", str(tmp_path / "bundle"), "--pairs", place, "--labels", place]
    assert main(line) == 2
    assert "is the folder of the pairs, too" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "level", "said"),
    [
        ("", "ok", "0.02 of its samples are to be labelled for a filter: 60 an hour"),
        ("filter = false", "warning", "there is no filter"),
        ('privacy = { share = "nothing" }', "warning", "of samples nothing may leave"),
    ],
)
def test_a_check_says_whether_labels_will_be_asked_for(
    tmp_path: Path, lines: str, level: str, said: str
) -> None:
    text = _CONFIG.replace("{{ share = 0.5, most_per_hour = 1_000_000 }}", "{{ share = 0.02 }}")
    text = text.format(port=1).replace('name = "cam"', f'name = "cam"\n{lines}')
    (tmp_path / "device.toml").write_text(text)
    config = load_config(tmp_path / "device.toml", environ={})
    (found,) = check_filter_labels(config.stream[0], _bundle(tmp_path / "b"), config=config)
    assert (found.level, found.area) == (level, "filter")
    assert said in found.text


# ---- Which of two filters is better


def test_a_curve_is_what_counting_says_drawing_by_drawing() -> None:
    rng = np.random.default_rng(SEED)
    score, matters = np.round(rng.random(40), 1), rng.random(40) < 0.4
    weights = rng.integers(0, 4, (30, 40)).astype(np.float64)
    curve = Curve(score, matters)
    for aim in (Aim(0.8), Aim(None, 0.9)):
        rates = curve.rate(weights, aim)
        recalls = curve.recall(weights, np.full(30, 0.5))
        for number, weight in enumerate(weights.astype(int)):
            s, m = np.repeat(score, weight), np.repeat(matters, weight)
            best, kept = 0.0, 1.0
            for threshold in [-1.0, *np.unique(s).tolist()]:
                dropped = s <= threshold
                lost = (dropped & m).sum()
                share = lost / m.sum() if aim.recall is not None else lost / len(m)
                if share <= (0.2 if aim.recall is not None else 0.1) + 1e-12:
                    best = max(best, dropped.mean())
                if dropped.mean() <= 0.5 + 1e-12:
                    kept = min(kept, 1 - lost / m.sum())
            assert rates[number] == pytest.approx(best)
            assert recalls[number] == pytest.approx(kept)


def test_a_filter_is_better_only_where_the_difference_is_beyond_chance() -> None:
    rng = np.random.default_rng(SEED)
    matters = rng.random(400) < 0.5
    weak, strong = (matters * shift + rng.normal(size=400) for shift in (1.0, 3.0))
    change = compare_skip(weak, strong, matters, Aim(0.95))
    assert change.is_better
    assert change.low < change.after - change.before < change.high
    assert change.recall_before is not None
    assert change.recall_after is not None
    assert change.recall_after > change.recall_before
    same = compare_skip(weak, matters * 1.0 + rng.normal(size=400), matters, Aim(0.95))
    assert (same.is_better, same.is_worse) == (False, False)
    assert compare_skip(strong, weak, matters, Aim(0.95)).is_worse


# ---- From labels to a better filter


def _bundle(path: Path, *, skip: Sequence[Sequence[float]] = ((2.0,), (0.0,))) -> Bundle:
    """Write a bundle that says "fall" where x0 + x1 > 0, and whose filter looks at x0 only."""
    model = product([[0.0, 3.0], [0.0, 3.0]])
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
        filter=(Filter(kind="skip", file="skip.onnx", threshold=0.1, rule="labels rest"),),
        calibration=Calibration(
            score="max_prob", total=0.2, method="by hand", rows=9, data_sha256="0" * 64
        ),
        files={},
    )
    files = {"edge.onnx": model, "cloud.onnx": model, "skip.onnx": product(skip)}
    return write_bundle(path, manifest, files)


def _new(rows: int, *, seed: int = SEED) -> NDArray[np.float32]:
    """Return rows of new times, in which x1 decides."""
    return np.random.default_rng(seed).normal(size=(rows, 2), scale=(0.5, 2.0)).astype(np.float32)


def _old(path: Path, rows: int = 500) -> Path:
    """Write rows of older times, in which x1 is hardly there."""
    x = np.random.default_rng(SEED + 1).normal(size=(rows, 2), scale=(2.0, 0.05))
    np.savez(path, X=x.astype(np.float32))
    return path


def _labelled(bundle: Bundle, folder: Path, x: NDArray[np.float32]) -> Path:
    """Keep labels of rows as a worker does, and release them."""
    keeper = PairKeeper(folder, LabelTerms.of(bundle), max_bytes=1 << 22)
    fall = 1 / (1 + np.exp(-3 * x.sum(axis=1)))
    for number, (row, one) in enumerate(zip(x, fall.tolist(), strict=True)):
        probs = np.array([1 - one, one], np.float32)
        keeper([_answered(number)._replace(sample=row, probs=probs)])
    keeper.close()
    assert main(["adapt", "release", str(folder), "--all"]) == 0
    return folder


def _update(bundle: Bundle, labels: Path, tmp_path: Path, *words: str) -> int:
    pytest.importorskip("torch", reason="torch, which trains, is not installed")
    old, out = _old(tmp_path / "old.npz"), tmp_path / "updated"
    line = [str(bundle.path), str(labels), "--data", str(old), "--out", str(out)]
    return main(["filter", "update", *line, "--epochs", "12", *words])


def test_a_filter_that_has_nothing_to_learn_is_not_replaced_and_the_figures_say_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = _bundle(tmp_path / "bundle", skip=((9.0,), (9.0,)))
    labels = _labelled(bundle, tmp_path / "labels", _new(400))
    assert _update(bundle, labels, tmp_path, "--json", str(tmp_path / "told.json")) == 1
    said = capsys.readouterr()
    assert "not clearly more" in said.err
    assert "filtered at a recall of 0.95" in said.out
    assert not (tmp_path / "updated").exists()
    told = json.loads((tmp_path / "told.json").read_text())
    assert (told["labels"], told["older"], told["version"]) == (400, 500, "1.0.9")
    assert told["fresh"]["low"] <= 0
    assert told["stands"] is None


def test_labels_weigh_as_much_as_older_rows_and_place_the_filter_if_enough_matter() -> None:
    assert _balanced(np.array([0, 2, 7, 8, 9]), 5).tolist() == [0, 2, 0, 7, 8, 9]
    assert _balanced(np.array([0, 1, 2, 7]), 5).tolist() == [0, 1, 2, 7]
    assert _balanced(np.array([7, 8]), 5).tolist() == [7, 8], "no label, none repeated"
    matters, judged = np.tile([True, False], 200), np.arange(100, 300)
    none = np.zeros(0, np.intp)
    material = _Material(
        data=Dataset(x=np.zeros((400, 2), np.float32)),
        fed=np.zeros((400, 2), np.float32),
        labels=matters.astype(np.int64),
        tasks=matters[:, None],
        fresh=218,
        taught=none,
        held=none,
        judged=judged,
        kept=none,
    )
    order = TuneOrder(recall=0.95, confidence=0.95)
    assert len(_placing(material, order)) == 118, "59 of them matter, which is what it takes"
    assert len(_placing(material._replace(fresh=216), order)) == 200
    assert len(_placing(material._replace(fresh=216), TuneOrder(recall=None, accuracy=0.9))) == 116


def test_a_reuse_filter_learns_which_new_samples_are_alike(tmp_path: Path) -> None:
    plain = _bundle(tmp_path / "plain")
    part = Filter(kind="reuse", file="keys.onnx", reuse=Reuse(width=2, distance=0.05, ttl_s=77.0))
    files = {name: plain.read(name) for name in plain.manifest.files if name != "skip.onnx"}
    files["keys.onnx"] = product([[1.0, 0.0], [0.0, 0.0]])  # x1 is not looked at
    bundle = write_bundle(tmp_path / "reuse", replace(plain.manifest, filter=(part,)), files)
    labels = _labelled(bundle, tmp_path / "labels", _new(240))
    assert _update(bundle, labels, tmp_path, "--accuracy", "0.9") == 0
    (found,) = load_bundle(tmp_path / "updated").manifest.filter
    assert found.reuse is not None
    assert (found.reuse.ttl_s, found.reuse.width) == (77.0, 64)
    assert found.tuned is not None
    assert (found.tuned.aim, found.tuned.accuracy >= 0.9) == ("accuracy", True)


def test_labels_in_quarantine_too_few_or_of_another_contract_teach_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = _bundle(tmp_path / "bundle")
    keeper = PairKeeper(tmp_path / "labels", LabelTerms.of(bundle), max_bytes=1 << 20)
    keeper([_answered(number) for number in range(70)])
    keeper.close()
    assert _update(bundle, tmp_path / "labels", tmp_path) == 2
    said = capsys.readouterr().err
    assert "0 labels have been released, at least 60 are needed" in said
    assert "70 are in quarantine" in said
    (tmp_path / "none").mkdir()
    assert _update(bundle, tmp_path / "none", tmp_path) == 2
    assert "holds nothing of this bundle's contract" in capsys.readouterr().err
    assert _update(bundle, tmp_path / "absent", tmp_path) == 2
    assert "absent: is not there" in capsys.readouterr().err
    last = replace(
        bundle.manifest, filter=(replace(bundle.manifest.filter[0], rule="same as last"),)
    )
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    other = write_bundle(tmp_path / "last", last, files)
    assert _update(other, tmp_path / "labels", tmp_path) == 2
    assert "needs the sample before" in capsys.readouterr().err


_CONFIG = """
[device]
name = "hip"
state_dir = "state"

[uplink]
broker = "mqtt://127.0.0.1:{port}"

[[stream]]
name = "cam"
bundle = "bundle"
filter_labels = {{ share = 0.5, most_per_hour = 1_000_000 }}
source = {{ kind = "replay", path = "new.npz", rate_hz = 400 }}

[telemetry]
report = "report.json"
"""


def test_a_device_asks_a_worker_keeps_and_the_filter_learns_the_new_times(
    tmp_path: Path,
    free_port: int,
    start_broker: Callable[..., object],
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundle = _bundle(tmp_path / "bundle")
    np.savez(tmp_path / "new.npz", X=_new(1200))
    (tmp_path / "device.toml").write_text(_CONFIG.format(port=free_port))
    start_broker("mosquitto", free_port)

    def start(*arguments: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "hedge", *arguments]
        return subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE)

    worker = start(
        "worker", "bundle", "--broker", f"mqtt://127.0.0.1:{free_port}", "--labels", "labels"
    )
    try:
        assert worker.stderr is not None
        assert b"serving" in worker.stderr.readline()
        device = start("run", "device.toml")
        _, said = device.communicate(timeout=60)
    finally:
        worker.send_signal(signal.SIGTERM)
        _, log = worker.communicate(timeout=60)
    assert (device.returncode, worker.returncode) == (0, 0), (said, log)
    (stream,) = json.loads((tmp_path / "report.json").read_text())["streams"]
    (state,) = stream["filters"]
    assert 400 < state["labels"]["asked"] < 800
    assert sum(stream["ends"].values()) == stream["routes"]["escalated"]
    assert main(["adapt", "release", str(tmp_path / "labels"), "--least-confidence", "0.5"]) == 0
    released = capsys.readouterr().out
    assert int(released.split(": ")[1].split()[0]) > 0.8 * state["labels"]["asked"], released

    assert _update(bundle, tmp_path / "labels", tmp_path) == 0, capsys.readouterr()
    said_of_it = capsys.readouterr().out
    assert "updated: version 1.0.10" in said_of_it
    found = load_bundle(tmp_path / "updated")
    (part,) = found.manifest.filter
    assert part.tuned is not None
    assert (part.tuned.aim, part.tuned.target) == ("recall", 0.95)
    assert seen_rows(found, load_dataset(tmp_path / "old.npz")).all()
    assert _error(found, _new(2000, seed=5)) < 0.8 * _error(bundle, _new(2000, seed=5))


def _error(bundle: Bundle, x: NDArray[np.float32]) -> float:
    """Return how often a skip filter, at its best threshold, keeps or drops what it should not."""
    from hedge.runtime.both_models import part_outputs  # noqa: PLC0415

    logit = part_outputs(bundle, bundle.manifest.filter[0], Dataset(x=x))[:, 0]
    fall = x.sum(axis=1) > 0
    return min(
        float(((logit > one) != fall).mean()) for one in np.quantile(logit, np.arange(0, 1, 0.02))
    )
