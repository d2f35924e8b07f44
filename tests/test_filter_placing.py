"""Where a filter is put by rows of which some are there more than once."""

from __future__ import annotations

import numpy as np
import pytest

from hedge.models.dataset import Dataset
from hedge.models.errors import DataError
from hedge.models.filtering.baselines import Told
from hedge.models.manifest import Filter
from hedge.runtime.filter.placing import Rows, TuneOrder, copies, placed

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
