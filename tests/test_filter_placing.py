"""Where a filter is put by rows of which some are there more than once."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace

from hedge.models.dataset import Dataset
from hedge.models.errors import DataError
from hedge.models.filtering.baselines import Told
from hedge.models.manifest import Filter, Reuse
from hedge.models.training.infi.replaying import replay
from hedge.runtime.filter.placing import Rows, TuneOrder, copies, placed, reuse_points

SEED = 20301
SKIP = Filter(kind="skip", file="filter.onnx", threshold=0.5, rule="labels rest")


def _rows(matter: int, *, rest: int = 200, times: int = 1, groups: int = 1) -> Rows:
    """Return ``rest`` rows that are redundant, and so many that matter, each given ``times``."""
    rng = np.random.default_rng(SEED)
    x = rng.random((matter + rest, 3)).astype(np.float32)
    x[:matter, 0] += 0.7
    place = np.concatenate([np.tile(np.arange(matter), times), np.arange(matter, matter + rest)])
    matters = place < matter
    group = place % groups if groups > 1 else None
    data = Dataset(x=x[place], group=group)
    score = x[place, :1].astype(np.float64) / 2.0
    return Rows(data, Told(matters.astype(int), matters, group), score, matters[:, None])


def test_copies_of_a_row_that_matters_bear_out_no_more_than_the_row() -> None:
    order = TuneOrder(recall=0.95)
    once, often = _rows(80), _rows(80, times=50)
    assert placed(SKIP, often, order).threshold == placed(SKIP, once, order).threshold
    assert copies(often, order) == 80 * 49
    assert copies(once, order) == 0


def test_an_accuracy_is_of_all_rows_as_they_are_given() -> None:
    order = TuneOrder(recall=None, accuracy=0.9)
    often = _rows(80, times=50)
    assert copies(often, order) == 0
    assert placed(SKIP, often, order).accuracy >= 0.9


def test_too_few_rows_are_too_few_however_often_they_are_given() -> None:
    with pytest.raises(
        DataError, match=r"58 rows that matter are too few .*; 232 of 290 rows are copies"
    ):
        placed(SKIP, _rows(58, times=5), TuneOrder(recall=0.95))


def test_a_person_who_is_there_under_two_names_is_one() -> None:
    order = TuneOrder(recall=0.8, by_group=True)
    five = _rows(100, groups=5)
    given = five.data
    assert given.group is not None
    names = np.concatenate([given.group, given.group + 5])
    twice = Dataset(x=np.concatenate([given.x, given.x]), group=names)
    assert five.scores is not None
    assert five.tasks is not None
    label, matters = (np.concatenate([one, one]) for one in five.told[:2])
    scores, tasks = (np.concatenate([one, one]) for one in (five.scores, five.tasks))
    both = Rows(twice, Told(label, matters, names), scores, tasks)
    assert placed(SKIP, both, order).threshold == placed(SKIP, five, order).threshold


REUSE = Filter(kind="reuse", file="f", reuse=Reuse(width=2, distance=0.0, neighbours=1, share=1.0))


def _clusters(*, apart: float) -> Rows:
    """Return 300 rows in two clusters of keys, each of one label, the second of which matters."""
    rng = np.random.default_rng(SEED)
    label = rng.integers(0, 2, 300)
    keys = (rng.normal(0.0, 0.1, (300, 2)) + label[:, None] * apart).astype(np.float32)
    return Rows(Dataset(x=keys), Told(label, label == 1, None), keys=keys)


@pytest.mark.parametrize("distance", [0.0, 1e-6, 1e6])
def test_a_reuse_filter_is_placed_well_wherever_it_was(distance: float) -> None:
    assert REUSE.reuse is not None
    own = replace(REUSE.reuse, distance=distance)
    part = replace(REUSE, reuse=own)
    rows = _clusters(apart=5.0)
    assert rows.keys is not None
    for order in (TuneOrder(recall=0.9), TuneOrder(recall=None, accuracy=0.97)):
        point = placed(part, rows, order)
        assert point.recall > 0.9
        assert point.rate > 0.95
        labels = rows.told.label.astype(np.int64)
        told = replay(rows.keys, labels, replace(own, distance=point.threshold))
        assert point.rate == told.rate()


def test_of_the_distances_that_lose_little_that_which_filters_most_is_taken() -> None:
    rows, order = _clusters(apart=0.35), TuneOrder(recall=None, accuracy=0.8)
    points = reuse_points(REUSE, rows)
    distances = [one.threshold for one in points]
    assert distances == sorted(set(distances))
    first_bad = next(at for at, one in enumerate(points) if one.accuracy < 0.8)
    assert placed(REUSE, rows, order).rate == max(one.rate for one in points[:first_bad])


def test_a_single_row_has_no_distance_to_another() -> None:
    rows = _clusters(apart=5.0)
    assert rows.keys is not None
    one = Rows(
        rows.data.rows(np.array([0])),
        Told(np.array([1]), np.array([True]), None),
        keys=rows.keys[:1],
    )
    (point,) = reuse_points(REUSE, one)
    assert (point.threshold, point.rate) == (0.0, 0.0)
