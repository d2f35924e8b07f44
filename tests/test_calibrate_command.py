"""`hedge calibrate`: the version that it writes, what it reports, and what it refuses."""

from __future__ import annotations

import argparse
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from hedge.models.bundle import Bundle, load_bundle, pack_bundle, write_bundle
from hedge.models.dataset import load_dataset
from hedge.models.errors import DataError, HedgeError
from hedge.models.manifest import Cloud, Edge, Filter, Input, Manifest, Output
from hedge.models.next_version import next_version
from hedge.models.opinion import Assessor
from hedge.models.unseen import seen_rows
from hedge.runtime import calibrate_command
from hedge.runtime.both_models import outputs_of, passing
from hedge.runtime.shipped import bundle_path

pytest.importorskip("onnxruntime", reason="the models of these bundles are ONNX graphs")

_LINEAR = runpy.run_path(str(Path(__file__).with_name("linear_graph.py")))
product: Callable[..., bytes] = _LINEAR["product"]

LABELS = ("rest", "walk", "run")
WIDTH = 6


def command(*words: str | Path | float) -> int:
    """Run `hedge calibrate …` in this process; return its exit code."""
    parser = argparse.ArgumentParser(prog="hedge")
    calibrate_command.add_parser(parser.add_subparsers())
    options = parser.parse_args(["calibrate", *map(str, words)])
    code: int = options.run(options)
    return code


def true_weights() -> NDArray[np.float64]:
    return np.random.default_rng(1).normal(0.0, 2.0, (WIDTH, len(LABELS)))


def bundle(path: Path, *, output: Output = "logits", cloud: bool = True) -> Bundle:
    """Write a bundle whose edge sees the truth dimly and whose cloud sees it well."""
    dim = true_weights() + np.random.default_rng(2).normal(0.0, 1.0, (WIDTH, len(LABELS)))
    manifest = Manifest(
        format=1,
        name="steps",
        version="1.0.9",
        task="classification",
        labels=LABELS,
        licence="test",
        input=Input(kind="tensor", shape=(WIDTH,), dtype="float32"),
        edge=(Edge(name="small", file="edge.onnx", output=output),),
        cloud=Cloud(file="cloud.onnx") if cloud else None,
        files={},
    )
    files = {"edge.onnx": product(dim)} | ({"cloud.onnx": product(true_weights())} if cloud else {})
    return write_bundle(path, manifest, files)


def data(path: Path, *, rows: int = 1200, seed: int = 5, **changed: NDArray[Any] | None) -> Path:
    """Write rows with their classes, which noise makes hard to tell, and 8 groups."""
    random = np.random.default_rng(seed)
    x = random.normal(0.0, 1.0, (rows, WIDTH)).astype(np.float32)
    y = (x @ true_weights() + random.gumbel(size=(rows, len(LABELS))) * 0.7).argmax(axis=1)
    arrays: dict[str, Any] = {"X": x, "y": y, "group": np.arange(rows) % 8, **changed}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def test_a_new_version_is_written_and_its_gate_holds_on_other_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz")

    code = command(
        made.path, rows, "--rate", 0.2, "--out", tmp_path / "b", "--json", tmp_path / "r.json"
    )

    found = load_bundle(tmp_path / "b")
    gate = found.manifest.calibration
    assert code == 0
    assert (found.manifest.version, load_bundle(tmp_path / "a").digest) == ("1.0.10", made.digest)
    assert gate is not None
    assert [one.score for one in gate.candidates] != ["vacuity"]
    new = load_dataset(data(tmp_path / "new.npz", seed=6))
    edge = found.manifest.edge[0]
    score = Assessor.of(edge, classes=3, score=gate.scoring).assess_batch(
        outputs_of(found, new).edge
    )
    assert 0.15 < np.mean(score.score >= gate.total) < 0.25
    told, report = capsys.readouterr().out, json.loads((tmp_path / "r.json").read_text())
    assert f"* {gate.score} " in told
    assert report["version"] == "1.0.10"
    assert report["escalated_share"] == pytest.approx(0.2)
    assert report["calibration"]["score"] == gate.score


def test_the_rows_count_as_seen_from_then_on(tmp_path: Path) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz")
    command(made.path, rows, "--rate", 0.2, "--out", tmp_path / "b")

    assert seen_rows(load_bundle(tmp_path / "b"), load_dataset(rows)).all()
    x = load_dataset(rows).x
    extra = data(tmp_path / "more.npz", rows=1300, X=np.concatenate((x, x[:100] + 1)))
    with pytest.raises(DataError, match=r"saw 1200 of the 1300 rows"):
        command(tmp_path / "b", extra, "--rate", 0.2, "--out", tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_filter_that_came_later_does_not_use_up_the_rows_of_the_calibration_before(
    tmp_path: Path,
) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz")
    command(made.path, rows, "--rate", 0.2, "--out", tmp_path / "b")
    before = load_bundle(tmp_path / "b")
    part = Filter(kind="skip", file="filter.onnx", threshold=0.5, redundant=("rest",))
    files = {file: before.read(file) for file in before.manifest.files}
    with_filter = write_bundle(
        tmp_path / "c",
        replace(before.manifest, filter=(part,), files={}),
        {**files, "filter.onnx": product(true_weights())},
    )
    assert not passing(with_filter, load_dataset(rows)).all()

    command(tmp_path / "c", rows, "--rate", 0.2, "--out", tmp_path / "d")

    again = load_bundle(tmp_path / "d").manifest.calibration
    assert again is not None
    assert before.manifest.calibration is not None
    assert again.rows < before.manifest.calibration.rows, "those that the filter lets pass"


def test_the_rows_of_the_calibration_before_may_be_used_for_another_aim(tmp_path: Path) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz")
    command(made.path, rows, "--rate", 0.2, "--out", tmp_path / "b")

    command(tmp_path / "b", rows, "--rate", 0.4, "--out", tmp_path / "c")

    assert load_bundle(tmp_path / "c").manifest.version == "1.0.11"


def test_figures_are_not_written_over_what_was_given(tmp_path: Path) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz")
    for place in (rows, made.path / "manifest.toml"):
        with pytest.raises(HedgeError, match=r"would overwrite|lies in the bundle"):
            command(made.path, rows, "--rate", 0.2, "--out", tmp_path / "b", "--json", place)
    with pytest.raises(HedgeError, match="would overwrite"):
        command(made.path, rows, "--rate", 0.2, "--out", tmp_path / "b", "--json", tmp_path / "b")
    load_bundle(made.path)
    assert not (tmp_path / "b").exists()


def test_the_bundle_that_is_calibrated_is_not_replaced_by_the_next(tmp_path: Path) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz")
    packed, link = pack_bundle(made.path, tmp_path / "a.hedge"), tmp_path / "link"
    link.symlink_to(made.path)
    ways = (
        *((made.path, made.path), (packed.path, packed.path), (link, made.path)),
        *((made.path, link), (made.path, made.path / "new")),
    )
    for given, out in ways:
        with pytest.raises(HedgeError, match="would overwrite"):
            command(given, rows, "--rate", 0.2, "--out", out, "--replace")
    assert load_bundle(made.path).digest == load_bundle(packed.path).digest == made.digest


def test_an_aim_of_nothing_is_an_aim(tmp_path: Path) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz")
    command(made.path, rows, "--rate", 0.0, "--out", tmp_path / "b")
    with pytest.raises(HedgeError, match="accuracy"):
        command(made.path, rows, "--accuracy", 0.0, "--out", tmp_path / "c")


def test_nothing_is_replaced_under_a_version_that_was_there(tmp_path: Path) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz")
    command(made.path, rows, "--rate", 0.2, "--out", tmp_path / "b")

    with pytest.raises(HedgeError, match="is there already, and is another thing"):
        command(made.path, rows, "--rate", 0.4, "--out", tmp_path / "b")
    command(made.path, rows, "--rate", 0.4, "--out", tmp_path / "b", "--replace")

    assert load_bundle(tmp_path / "b").manifest.version == "1.0.11"


@pytest.mark.parametrize(
    ("before", "after"),
    [("1.0.9", "1.0.10"), ("2", "3"), ("1.0-rc", "1.0-rc.1"), ("x" * 32, "x" * 30 + ".1")],
)
def test_the_next_version_has_its_last_number_one_higher(before: str, after: str) -> None:
    assert next_version(before) == after


def test_a_promise_by_row_is_said_to_be_guaranteed_and_one_by_group_empirical(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz", rows=4000)
    common = (made.path, rows, "--accuracy", 0.85)

    command(*common, "--out", tmp_path / "b")
    by_row = capsys.readouterr().out
    command(*common, "--confidence", 0.9, "--by-group", "--out", tmp_path / "c")
    by_group = capsys.readouterr().out

    assert "right in at least 0.85; guaranteed with confidence 0.95 by a test on" in by_row
    assert "empirical, not guaranteed, at confidence 0.9 from 8 groups" in by_group
    promise = load_bundle(tmp_path / "c").manifest.calibration
    assert promise is not None
    assert promise.promise is not None
    assert (promise.promise.by, promise.promise.groups) == ("group", 8)


def test_a_budget_is_kept_for_the_device(tmp_path: Path) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz")

    command(made.path, rows, "--messages-per-hour", 3600, "--rate-hz", 5, "--out", tmp_path / "b")

    gate = load_bundle(tmp_path / "b").manifest.calibration
    assert gate is not None
    assert gate.budget is not None
    assert (gate.budget.messages_per_hour, gate.budget.bytes_per_hour) == (3600.0, None)
    assert "escalation rate 0.2 from a budget at 18000 an hour" in gate.method


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"y": None}, "no array y"),
        ({"y": np.full(1200, 2)}, "all 1200 rows are 'run'"),
        ({"y": np.arange(1200) % 2}, "no row is 'run'"),
        ({"y": np.arange(1200) % 5}, r"class 4; there are 3 labels"),
        ({"y": np.arange(1200) % 3 - 1}, r"y runs from -1 to 1"),
        ({"X": np.full((1200, WIDTH), np.nan, np.float32)}, "X has NaN or Inf in 1200"),
        ({"X": np.zeros((1200, 5), np.float32)}, r"samples of shape \(5,\)"),
        ({"group": None}, "no array group"),
        ({"group": np.arange(1200) % 3}, "3 groups say too little"),
    ],
)
def test_rows_that_cannot_calibrate_are_refused_in_one_line(
    tmp_path: Path, changed: dict[str, Any], message: str
) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz", **changed)

    with pytest.raises(DataError, match=message):
        command(made.path, rows, "--accuracy", 0.8, "--by-group", "--out", tmp_path / "b")
    assert not (tmp_path / "b").exists()


def test_too_few_rows_for_a_promise_are_refused_with_the_number_needed(tmp_path: Path) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz", rows=90)

    with pytest.raises(DataError, match=r"90 rows are too few to promise 0\.9 .*about \d+ are"):
        command(made.path, rows, "--accuracy", 0.9, "--out", tmp_path / "b")


def test_a_model_whose_output_is_no_distribution_is_refused_by_name(tmp_path: Path) -> None:
    made, rows = bundle(tmp_path / "a", output="probabilities"), data(tmp_path / "rows.npz")

    with pytest.raises(HedgeError, match=r"edge\.onnx: row \d+: the outputs are no distribution"):
        command(made.path, rows, "--rate", 0.2, "--out", tmp_path / "b")


def test_an_edge_alone_can_be_calibrated(tmp_path: Path) -> None:
    made, rows = bundle(tmp_path / "a", cloud=False), data(tmp_path / "rows.npz")

    command(made.path, rows, "--rate", 0.2, "--out", tmp_path / "b")

    gate = load_bundle(tmp_path / "b").manifest.calibration
    assert gate is not None
    assert not gate.fusion


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "where is the gate to stand"),
        (("--rate", "0.2", "--accuracy", "0.9"), "--rate and --accuracy contradict each other"),
        (("--rate", "1.2"), "1.2 is not within"),
        (("--accuracy", "1.5"), "1.5 is not between 0 and 1"),
        (("--rate", "0.2", "--by-group"), "--by-group: goes with --accuracy only"),
        (("--rate", "0.2", "--rate-hz", "5"), "--rate-hz: goes with"),
        (("--messages-per-hour", "10"), "of how many samples"),
        (
            ("--messages-per-hour", "10", "--bytes-per-hour", "10"),
            "--messages-per-hour and --bytes-per-hour contradict each other",
        ),
        (("--messages-per-hour", "0", "--rate-hz", "5"), "messages_per_hour: 0.0 is not within"),
        (("--messages-per-hour", "nan", "--rate-hz", "5"), "messages_per_hour: nan is not within"),
        (("--bytes-per-hour", "10", "--rate-hz", "5"), "the bytes that one escalation takes"),
        (("--rate", "0.2", "--variant", "large"), "no variant 'large'.*has small"),
        (("--rate", "0.2", "--seed", "-1"), "--seed: -1 is below 0"),
        (("--quantiles",), "quantiles are vacuity's, and the edge has no evidence"),
    ],
)
def test_what_cannot_be_asked_for_is_refused(
    tmp_path: Path, words: tuple[str, ...], message: str
) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz")

    with pytest.raises(HedgeError, match=message):
        command(made.path, rows, *words, "--out", tmp_path / "b")


def test_a_score_that_lacks_what_it_needs_is_refused_on_loading(tmp_path: Path) -> None:
    made, rows = bundle(tmp_path / "a"), data(tmp_path / "rows.npz")
    command(made.path, rows, "--rate", 0.2, "--out", tmp_path / "b")
    good = load_bundle(tmp_path / "b")
    gate = good.manifest.calibration
    assert gate is not None
    files = {name: good.read(name) for name in good.manifest.files}
    faults = {
        "temperature: is missing": replace(gate, score="temperature", temperature=None),
        "router: is missing": replace(gate, score="router", router=None, temperature=None),
        "reference: should be 19 quantiles": replace(gate, reference=(0.5, 0.1)),
    }

    for message, wrong in faults.items():
        with pytest.raises(HedgeError, match=message):
            write_bundle(tmp_path / "c", replace(good.manifest, calibration=wrong), files)


def test_the_shipped_bundle_is_calibrated_anew_from_its_unseen_rows(tmp_path: Path) -> None:
    shipped = bundle_path("digits")
    rows = shipped.with_name("digits-unseen.npz")

    command(shipped, rows, "--rate", 0.2, "--out", tmp_path / "b")

    gate = load_bundle(tmp_path / "b").manifest.calibration
    assert gate is not None
    assert len(gate.candidates) >= 6
