"""The study in short: its sums against plain loops, its rows kept apart, its page up to date."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from hedge.models.manifest import Cloud, Edge

if any(find_spec(name) is None for name in ("torch", "sklearn", "onnxruntime")):
    pytest.skip("torch, scikit-learn or onnxruntime is not installed", allow_module_level=True)

pytestmark = pytest.mark.timeout(300)  # a little is trained, on whatever machine this is
_TESTS = Path(__file__).parent
_EFFORT = 0.05
Study = Callable[[str], Any]


@pytest.fixture
def study(monkeypatch: pytest.MonkeyPatch) -> Study:
    """Return what imports a module of the harness, which lies in a folder of its own."""
    monkeypatch.syspath_prepend(str(_TESTS))
    return lambda name: importlib.import_module(f"study.{name}")


def _place(study: Study, keep: Path) -> Any:  # noqa: ANN401  the harness's own
    heard: list[str] = []
    return study("task").Place(data=keep, keep=keep, seed=3, say=heard.append, effort=_EFFORT)


def _rows(study: Study, *, seed: int, rows: int = 300) -> Any:  # noqa: ANN401
    """Return rows of an edge that is right in three of four, less where it is unsure."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 4, rows)
    edge = random.normal(size=(rows, 4)) * 1.2
    edge[np.arange(rows), y] += random.gamma(2.0, 1.0, rows)
    cloud = random.normal(size=(rows, 4))
    cloud[np.arange(rows), y] += 4.0
    digests = random.integers(0, 1 << 60, rows).astype(np.uint64)
    return study("task").Rows(edge=edge, cloud=cloud, y=y, group=None, digests=digests)


def _task(study: Study) -> Any:  # noqa: ANN401
    return study("task").Task(
        name="made up",
        edge_name="small",
        cloud_name="large",
        seed=0,
        bundle=Path(),
        edge=Edge(name="softmax", file="edge.onnx"),
        cloud=Cloud(file="cloud.onnx"),
        calibration=_rows(study, seed=1),
        test=_rows(study, seed=2),
        test_from="nowhere",
        edge_ms=0.1,
        cloud_ms=1.0,
        seconds=0.0,
    )


def test_the_gap_recovered_is_that_of_a_plain_loop(study: Study) -> None:
    task = _task(study)
    found = study("figures").figures(task)
    shown = {one.score: one for one in found.scores}
    rows = task.test
    probs = np.exp(rows.edge) / np.exp(rows.edge).sum(axis=1, keepdims=True)
    near, far = rows.edge.argmax(axis=1) == rows.y, rows.cloud.argmax(axis=1) == rows.y
    least_sure = np.argsort(probs.max(axis=1))
    for rate, recovered in zip((0.1, 0.2, 0.3, 0.5), shown["max_prob"].recovered, strict=True):
        right = near.copy()
        for row in least_sure[: round(rate * len(near))]:
            right[row] = far[row]
        assert recovered == pytest.approx((right.mean() - near.mean()) / (far.mean() - near.mean()))
    assert shown["random"].recovered == pytest.approx((0.1, 0.2, 0.3, 0.5))
    assert shown["oracle"].best >= max(one.best for one in shown.values())
    assert found.edge_accuracy == near.mean()
    assert found.cloud_accuracy == far.mean()


def test_the_gate_that_was_calibrated_is_the_one_that_is_measured(study: Study) -> None:
    task = _task(study)
    figures = study("figures")
    found, calibration = figures.figures(task), figures.calibrated(task)
    scores = figures.test_scores(task)[calibration.score]
    asked = scores >= calibration.total
    near = task.test.edge.argmax(axis=1) == task.test.y
    far = task.test.cloud.argmax(axis=1) == task.test.y
    assert found.chosen == calibration.score
    assert found.rate == pytest.approx(asked.mean())
    assert found.accuracy == pytest.approx(np.where(asked, far, near).mean())
    assert abs(found.rate - 0.3) < 0.1
    assert {one.baseline for one in found.against} >= {"max_prob", "temperature", "entropy"}
    assert all(one.low <= one.high for one in found.against)
    assert found.every_rate.below_random < 0.05


def test_no_figure_changes_with_the_classes_of_test_rows_that_calibration_might_see(
    study: Study,
) -> None:
    task, figures = _task(study), study("figures")
    other = task.test._replace(y=(task.test.y + 1) % 4)
    changed = study("task").Task(
        **{name: getattr(task, name) for name in task.__slots__ if name != "test"}, test=other
    )
    assert figures.calibrated(changed) == figures.calibrated(task)


def test_digits_are_taught_once_and_no_row_is_in_two_parts(study: Study, tmp_path: Path) -> None:
    place = _place(study, tmp_path)
    digits = study("digits")
    kept = study("kept").tasks(digits, place)
    assert [task.edge.name for task in kept] == ["evidential", "fitted", "softmax"]
    material = digits.material(place)
    seen = np.load(next(tmp_path.glob("digits-*/seen.npy")))
    for task in kept:
        test, held = task.test.digests, task.calibration.digests
        assert not np.isin(test, held).any()
        assert not np.isin(test, seen).any()
        assert not np.isin(held, seen).any()
        assert len(test) == len(material.test.x)
    assert np.array_equal(kept[1].test.edge, kept[2].test.edge)  # one file
    assert kept[0].edge_ms > 0.0

    class Untaught:
        """The digits, but nothing may be taught."""

        NAME, VERSION, EDGE, CLOUD = digits.NAME, digits.VERSION, digits.EDGE, digits.CLOUD
        material = staticmethod(digits.material)

    again = study("kept").tasks(Untaught(), place)
    assert np.array_equal(again[0].test.cloud, kept[0].test.cloud)

    class Leaking(Untaught):
        """Tests on a row that was calibrated on."""

        @staticmethod
        def material(place: object) -> object:
            rows = digits.material(place)
            return rows._replace(test=rows.calibration.rows(np.arange(5)))

    with pytest.raises(SystemExit, match="5 of 5 test rows have calibrated"):
        study("kept").tasks(Leaking(), place)


def test_sealed_rows_are_found_by_what_is_in_the_files(study: Study, tmp_path: Path) -> None:
    sealed = study("sealed")
    (tmp_path / "deep").mkdir()
    np.savez(tmp_path / "deep" / "a.npz", X=np.zeros(3), y=np.zeros(3))
    np.savez(tmp_path / "b.npz", y=np.zeros(3))
    (tmp_path / "c.tsv").write_text("label\ttext\n1\tgood\n")
    (tmp_path / "d.tsv").write_text("text\tlabel\n")
    found = [*sealed.npz_files(tmp_path, "X", "y")]
    assert found == [tmp_path / "deep" / "a.npz"]
    assert [*sealed.tsv_files(tmp_path)] == [tmp_path / "c.tsv"]
    assert sealed.only(iter(found), what="windows", folder=tmp_path) == found[0]
    with pytest.raises(SystemExit, match="one file of windows is needed, found: none"):
        sealed.only(iter([]), what="windows", folder=tmp_path)


def test_a_table_shows_mean_and_spread_of_the_edge_that_calibration_recommends(
    study: Study,
) -> None:
    tables, one = study("tables"), study("figures").figures(_task(study))
    change = msgspec.structs.replace
    seeds = [change(one, seed=seed, edge_accuracy=0.7 + 0.1 * seed) for seed in range(3)]
    worse = [change(seed, taught="evidential", area=0.1) for seed in seeds]
    assert {seed.taught for seed in tables.recommended([*worse, *seeds])} == {"softmax"}
    assert "0.800 ± 0.100" in tables.summary({"made up": (*worse, *seeds)})
    ran = study("results").Ran(
        date="2026-01-01", machine=study("__main__").this_machine(), effort=1
    )
    page = tables.page((*worse, *seeds), ran)
    assert "|  | evidential | **softmax** |" in page
    assert "Seeds 0, 1, 2" in page


def test_the_page_shows_the_figures_that_are_kept() -> None:
    command = [sys.executable, "-m", "study", "--check"]
    done = subprocess.run(command, cwd=_TESTS, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
