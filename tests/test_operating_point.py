"""Where a filter stands: recall held with confidence, the thesis' accuracy, and what pays."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hedge.models.errors import DataError
from hedge.models.filtering.operating_point import (
    Point,
    curve,
    for_accuracy,
    for_recall,
    optimum,
    point_at,
    rows_needed,
)
from hedge.models.filtering.worth import worth

SEED = 20281


def test_a_point_is_told_by_counting() -> None:
    score = np.array([0.1, 0.2, 0.2, 0.7, 0.9])
    matters = np.array([False, True, False, False, True])
    found = point_at(score, matters, 0.2)
    assert found == Point(0.2, 0.6, 0.5, 0.8)


def test_recall_is_held_as_often_as_was_said_and_not_by_filtering_nothing() -> None:
    rng = np.random.default_rng(SEED)
    broken, rates = 0, []
    for _ in range(400):
        matters = rng.random(600) < 0.3
        score = np.where(matters, rng.normal(1.0, 1.0, 600), rng.normal(-1.0, 1.0, 600))
        threshold = for_recall(score, matters, recall=0.9, confidence=0.95)
        # of N(1, 1) as much is lost as lies at or below the threshold
        lost = 0.5 * (1.0 + math.erf((threshold - 1.0) / math.sqrt(2.0)))
        broken += lost > 0.1
        rates.append(point_at(score, matters, threshold).rate)
    assert broken <= 400 * 0.05 + 4 * math.sqrt(400 * 0.05 * 0.95)
    assert broken >= 3, "else it would be too careful"
    assert np.mean(rates) > 0.45


def test_a_recall_that_so_few_rows_cannot_hold_is_refused_with_the_number_needed() -> None:
    matters = np.ones(58, np.bool_)
    with pytest.raises(DataError, match="58 rows that matter") as raised:
        for_recall(np.arange(58.0), matters, recall=0.95, confidence=0.95)
    assert "59" in str(raised.value)
    assert rows_needed(recall=0.95, confidence=0.95) == 59
    assert for_recall(np.arange(59.0), np.ones(59, np.bool_), recall=0.95, confidence=0.95) < 0


def test_for_new_groups_the_worst_of_them_counts() -> None:
    rng = np.random.default_rng(SEED)
    group = np.repeat(np.arange(12), 200)
    matters = np.ones(2400, np.bool_)
    score = rng.normal(0.0, 1.0, 2400) + np.where(group < 2, -2.0, 0.0)  # two that are odd
    by_row = for_recall(score, matters, recall=0.9, confidence=0.95)
    by_group = for_recall(score, matters, recall=0.9, confidence=0.95, group=group)
    assert by_group < by_row - 0.5
    with pytest.raises(DataError, match="4 groups"):
        for_recall(score, matters, recall=0.9, confidence=0.95, group=group % 4)


def test_the_thesis_accuracy_is_reached_by_the_last_threshold_that_reaches_it() -> None:
    rng = np.random.default_rng(SEED)
    score, matters = rng.integers(0, 40, 500) / 40, rng.random(500) < 0.4
    found = point_at(score, matters, for_accuracy(score, matters, accuracy=0.9))
    assert found.accuracy >= 0.9
    higher = min(one for one in np.unique(score) if one > found.threshold)
    assert point_at(score, matters, float(higher)).accuracy < 0.9
    all_matter = np.ones(3, np.bool_)
    assert for_accuracy(np.zeros(3), all_matter, accuracy=0.9) == -math.inf


def test_no_rate_is_beyond_the_optimum_and_a_perfect_filter_reaches_it() -> None:
    rng = np.random.default_rng(SEED)
    matters = rng.random(1000) < 0.3
    score = np.where(matters, 1.0, 0.0) + rng.random(1000) * 0.5
    found = point_at(score, matters, for_accuracy(score, matters, accuracy=0.9))
    assert found.rate == pytest.approx(optimum(matters, accuracy=found.accuracy), abs=1e-12)


def test_a_filter_pays_only_above_the_share_that_its_cost_is_of_the_models() -> None:
    assert worth(0.3, filter_cost=1.0, model_cost=5.0, filtered_cost=1.0).needed == 0.25
    assert worth(0.26, filter_cost=1.0, model_cost=5.0, filtered_cost=1.0).pays
    assert not worth(0.24, filter_cost=1.0, model_cost=5.0, filtered_cost=1.0).pays
    assert not worth(1.0, filter_cost=1.0, model_cost=0.5).pays
    assert worth(1.0, filter_cost=0.1, model_cost=1.0, filtered_cost=2.0).needed == math.inf


def test_the_curve_is_what_each_threshold_does() -> None:
    rng = np.random.default_rng(20317)
    score = rng.integers(0, 40, 300) / 40.0
    matters = rng.random(300) < score
    found = curve(score, matters)
    assert [one.threshold for one in found] == np.unique(score).tolist()
    for one in found:
        other = point_at(score, matters, one.threshold)
        assert (one.rate, one.recall, one.accuracy) == pytest.approx(
            (other.rate, other.recall, other.accuracy), abs=1e-12
        )
