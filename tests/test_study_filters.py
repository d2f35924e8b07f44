"""The study of filters: what it says of rows whose truth is known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

sys.path.append(str(Path(__file__).parent))  # where the study is run from

from study import filters
from study.filters_tasks import Told
from study.task import Place

LAYING = 5  # all else is redundant
ROWS = 360


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return where rows of three people are kept, a third of whom lie, as their x says."""
    random = np.random.default_rng(8)
    label = np.where(np.arange(ROWS) % 3 == 0, LAYING, np.arange(ROWS) % 2)
    x = random.normal(size=(ROWS, 9, 128)).astype(np.float32)
    x[:, 0] += 3.0 * (label == LAYING)[:, None]
    parts = np.split(np.arange(ROWS), [ROWS // 2, ROWS * 3 // 4])
    told = Told(x, np.eye(6)[label], np.arange(ROWS) * 3 // ROWS, *parts, 200.0)
    (tmp_path / "filters").mkdir()
    np.savez(tmp_path / "filters" / "har-0-0.2-1.npz", **told._asdict())
    return Place(data=tmp_path, keep=tmp_path, seed=0, say=lambda _: None, effort=0.2)


def test_a_filter_is_held_against_the_optimum_and_four_that_have_learnt_nothing(
    place: Place,
) -> None:
    found = filters.one_task("har", "skip", place)

    assert found.counts == (180, 90, 90)
    assert found.redundant == pytest.approx(2 / 3)
    assert found.optimum == pytest.approx(0.1 + 2 / 3)
    by_name = {row.name: row for row in found.rows}
    assert set(by_name) == {filters.OURS, *filters._NAMES}
    ours = by_name[filters.OURS].accuracy.curve
    assert ours is not None
    assert ours.accuracy >= filters.ACCURACY
    assert 0.5 < ours.rate <= found.optimum
    chance = by_name["random"].accuracy.curve
    assert chance is not None
    assert chance.rate < ours.rate / 2
    assert by_name["constant answer"].accuracy.curve is None, "two thirds are not enough"


def test_what_was_made_is_not_made_again_and_a_page_shows_it(place: Place) -> None:
    first = filters.one_task("har", "skip", place)
    (place.keep / "filters" / "har-0-0.2-1.npz").unlink()

    assert filters.one_task("har", "skip", place) == first
    page = filters.page(filters.Filters(found=(first,)))
    row = next(line for line in page.splitlines() if line.startswith("| har, skip | 1 |"))
    assert f"| {100 * first.optimum:.1f} |" in row
    assert "180 / 90 / 90" in page
