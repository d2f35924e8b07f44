"""What filters without having learnt anything: each against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.filtering.baselines import (
    Told,
    at_random,
    best,
    constant,
    frame_difference,
    last_answer,
    named,
)

SEED = 20282


def _told(rows: int = 600) -> tuple[Told, NDArray[np.float64]]:
    """Return a stream whose state changes now and then, and samples that show it."""
    rng = np.random.default_rng(SEED)
    label = np.repeat(rng.integers(0, 3, rows // 20), 20)
    x = label[:, None] * 2.0 + rng.normal(0.0, 0.1, (rows, 5))
    return Told(label, label > 0, np.repeat([0, 1], rows // 2)), x


def test_a_constant_answer_is_as_right_as_samples_are_redundant() -> None:
    told, _ = _told()
    (found,) = constant(told)
    assert (found.rate, found.recall) == (1.0, 0.0)
    assert found.accuracy == pytest.approx((told.label == 0).mean())


def test_a_coin_loses_what_matters_as_often_as_it_falls() -> None:
    told, _ = _told()
    found = best(at_random(told), recall=0.95)
    assert found is not None
    assert (found.rate, found.recall) == pytest.approx((0.05, 0.95))
    assert found.accuracy == pytest.approx(1 - 0.05 * told.matters.mean())


def test_the_last_answer_stands_until_the_model_runs_again() -> None:
    label = np.array([1, 1, 2, 2, 2, 1, 0, 0, 0, 2])
    told = Told(label, label > 0)
    two = last_answer(told)[0]
    # run on rows 0 2 4 6 8; the others take over 1 2 2 0 0 where 1 2 1 0 2 is right
    assert (two.threshold, two.rate) == (2.0, 0.5)
    assert two.accuracy == pytest.approx(8 / 10)
    assert two.recall == pytest.approx(5 / 7)
    grouped = last_answer(told._replace(group=np.repeat(["a", "b"], 5)))[0]
    assert grouped.rate == pytest.approx(0.4), "each group begins with a run"


def test_a_frame_that_is_as_the_last_one_is_takes_over_its_answer() -> None:
    told, x = _told()
    found = best(frame_difference(told, x), accuracy=0.99)
    assert found is not None
    changes = 1 + int((told.label[1:] != told.label[:-1]).sum())
    assert found.rate == pytest.approx(1 - changes / 600, abs=0.01)
    still = frame_difference(told, np.zeros((600, 5)))
    assert still[0].rate == pytest.approx(1 - 2 / 600), "but for the first of each group"


def test_what_no_point_reaches_is_none() -> None:
    told, x = _told()
    assert best(constant(told), accuracy=0.9) is None
    assert [name for name, _ in named(told, x)] == [
        *("constant answer", "random", "last answer", "frame difference"),
    ]
