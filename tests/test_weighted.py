"""Measures under weightings against the same measures on rows repeated, and the bootstrap."""

from __future__ import annotations

import doctest
import math

import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models import measures, uncertainty_map
from hedge.models.measures import Ranking
from hedge.models.resampling import Resampling, interval
from hedge.models.weighted import Covered, Escalated, calibration_error, mean

Figures = NDArray[np.float64]
Flags = NDArray[np.bool_]


def rows(count: int, *, seed: int, ties: bool) -> tuple[Figures, Flags, Flags]:
    """Return scores, and whether edge and cloud are right: the surer, the likelier."""
    random = np.random.default_rng(seed)
    score = random.beta(1.3, 2.1, count)
    edge = random.random(count) > score
    cloud = random.random(count) > 0.4 * score
    return (np.round(score, 1) if ties else score), edge, cloud


def drawn(count: int, *, seed: int = 4) -> NDArray[np.intp]:
    """Return five weightings by whole numbers, some of them 0."""
    return np.random.default_rng(seed).integers(0, 4, (5, count))


@pytest.mark.parametrize("ties", [False, True])
def test_a_measure_under_weights_is_that_of_rows_repeated(*, ties: bool) -> None:
    score, edge, cloud = rows(40, seed=3, ties=ties)
    weights = drawn(40).astype(float)
    ranking = Ranking.of(score)
    covered = Covered.by(ranking, edge, weights)
    escalated = Escalated.by(ranking, edge, cloud, weights)
    accuracy = escalated.accuracy_at(np.array([0.0, 0.25, 1.0]))
    for place, count in enumerate(drawn(40)):
        again = np.repeat(np.arange(40), count)
        plain = score[again], edge[again]
        assert covered.aurc()[place] == pytest.approx(measures.aurc(*plain))
        assert covered.augrc()[place] == pytest.approx(measures.augrc(*plain))
        area = measures.escalation_area(*plain, cloud[again], up_to=0.3)
        assert escalated.area(up_to=0.3)[place] == pytest.approx(float(area))
        curve = measures.escalation_curve(*plain, cloud[again])
        assert accuracy[place] == pytest.approx(np.interp([0.0, 0.25, 1.0], *curve))
        assert mean(edge, weights)[place] == pytest.approx(edge[again].mean())
        error = calibration_error(1 - score, edge, weights)[place]
        vacuity = measures.ece_vacuity(score[again], edge[again])
        assert error == pytest.approx(vacuity)


def test_the_mean_of_nothing_is_no_number() -> None:
    found = mean(np.array([1.0, 3.0]), np.array([[0.0, 0.0], [1.0, 3.0]]))
    assert math.isnan(found[0])
    assert found[1] == pytest.approx(2.5)


def test_rows_are_drawn_as_often_as_there_are_rows() -> None:
    resampling = Resampling(30, seed=2, resamples=700)
    weights = np.concatenate(list(resampling.weights()))
    assert weights.shape == (700, 30)
    assert (weights.sum(axis=1) == 30).all()
    assert weights.mean(axis=0) == pytest.approx(np.ones(30), abs=0.2)
    again = np.concatenate(list(resampling.weights()))
    np.testing.assert_array_equal(weights, again)


def test_groups_are_drawn_whole_if_there_are_enough() -> None:
    group = np.array(["a", "b", "b", "c", "d", "e", "a"])
    resampling = Resampling(7, group=group, seed=5, resamples=200)
    assert (resampling.by, resampling.units) == ("group", 5)
    for weights in resampling.weights():
        np.testing.assert_array_equal(weights[:, 0], weights[:, 6])
        np.testing.assert_array_equal(weights[:, 1], weights[:, 2])
    few = Resampling(7, group=np.array([1, 1, 2, 2, 3, 3, 4]))
    assert (few.by, few.units) == ("row", 7)


def test_the_interval_covers_a_mean_as_often_as_it_says() -> None:
    random = np.random.default_rng(7)
    inside = 0
    for seed in range(200):
        values = random.normal(2.0, 1.0, 60)
        resampling = Resampling(60, seed=seed, resamples=300)
        found = np.concatenate([mean(values, weights) for weights in resampling.weights()])
        low, high = interval(found)
        inside += low <= 2.0 <= high
    assert 176 <= inside <= 199  # 95 % of 200 is 190


def test_an_interval_of_nothing_is_no_number() -> None:
    low, high = interval(np.full(5, np.nan))
    assert math.isnan(low)
    assert math.isnan(high)


def test_a_reliability_diagram_divides_the_calibration_error() -> None:
    random = np.random.default_rng(2)
    confidence, correct = random.random(300), random.random(300) < 0.6
    found = measures.reliability(confidence, correct, bins=7)
    for place in range(7):
        inside = (confidence > place / 7) & (confidence <= (place + 1) / 7)
        assert found.rows[place] == inside.sum()
        assert found.confidence[place] == pytest.approx(confidence[inside].mean())
        assert found.accuracy[place] == pytest.approx(correct[inside].mean())
    gaps = np.abs(found.accuracy - found.confidence) * found.rows / 300
    error = measures.ece_vacuity(1.0 - confidence, correct, bins=7)
    assert gaps.sum() == pytest.approx(error)


def test_an_empty_bin_has_rows_but_no_means() -> None:
    found = measures.reliability(np.array([0.9, 0.95]), np.array([True, False]), bins=2)
    assert found.rows.tolist() == [0, 2]
    assert math.isnan(found.accuracy[0])
    assert found.accuracy[1] == pytest.approx(0.5)


def test_auroc_counts_pairs_and_half_of_ties() -> None:
    random = np.random.default_rng(9)
    inside, outside = random.integers(0, 6, 40) / 5, random.integers(1, 8, 23) / 5
    wins = sum((b > a) + 0.5 * (b == a) for a in inside for b in outside)
    assert measures.auroc(inside, outside) == pytest.approx(wins / (40 * 23))
    assert measures.auroc(outside, inside) == pytest.approx(1 - wins / (40 * 23))


def test_the_map_is_that_of_the_paper_times_the_uncertainty() -> None:
    assert doctest.testmod(uncertainty_map, extraglobs={"np": np}).failed == 0
    random = np.random.default_rng(1)
    features = random.normal(0.4, 1.0, (3, 5, 2, 4)).astype(np.float32)
    vacuity = np.array([0.9, 0.2, 0.5])
    found = uncertainty_map.uncertainty_map(features, vacuity)
    for picture in range(3):
        printed = np.zeros((2, 4))  # eq. 21, its sums as they stand
        for channel in features[picture].astype(float):
            weight = sum(channel[h, w] for h in range(2) for w in range(4)) / (2 * 4)
            printed += weight * vacuity[picture] * channel
        normal = (printed - printed.min()) / (printed.max() - printed.min())
        np.testing.assert_allclose(found[picture], vacuity[picture] * normal, rtol=1e-12)


def test_a_flat_feature_map_points_nowhere() -> None:
    found = uncertainty_map.uncertainty_map(np.full((1, 2, 3, 3), 4.0), np.array([0.7]))
    assert not found.any()
