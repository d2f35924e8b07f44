"""The measures against loops over their definitions, ties included."""

from __future__ import annotations

import doctest
import itertools
import math
from random import Random
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import DTypeLike, NDArray

from hedge.models import measures

Array = NDArray[np.floating[Any]]
Figures = NDArray[np.float64]
Flags = NDArray[np.bool_]

COLUMNS = st.lists(
    st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), min_size=1, max_size=25
)


def _rows(count: int, *, seed: int, ties: bool) -> tuple[Figures, Flags, Flags]:
    """Return scores, and whether edge and cloud are right: the surer, the likelier."""
    random = np.random.default_rng(seed)
    score = random.beta(1.3, 2.1, count)
    edge = random.random(count) > score
    cloud = random.random(count) > 0.4 * score
    return (np.round(score, 1) if ties else score), edge, cloud


def _columns(rows: list[tuple[int, bool, bool]]) -> tuple[Figures, Flags, Flags]:
    score, edge, cloud = zip(*rows, strict=True)
    return np.array(score, float), np.array(edge), np.array(cloud)


def _probs(rows: int, classes: int, *, dtype: DTypeLike = np.float64) -> Array:
    drawn = np.random.default_rng(8).dirichlet(np.linspace(0.3, 1.5, classes), rows)
    kept: Array = drawn.astype(dtype)
    return kept


def test_the_worked_examples_hold() -> None:
    assert doctest.testmod(measures, extraglobs={"np": np}).failed == 0


@pytest.mark.parametrize("classes", [2, 5, 1000])
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float32, 1e-5), (np.float64, 1e-12)])
def test_accuracy_brier_and_log_score_are_means_over_the_rows(
    classes: int, dtype: DTypeLike, rtol: float
) -> None:
    probs = np.maximum(_probs(23, classes, dtype=dtype), 1e-30)
    y = np.random.default_rng(4).integers(0, classes, 23)

    right, squares, logs = 0, 0.0, 0.0
    for row, label in zip(probs.tolist(), y.tolist(), strict=True):
        right += row.index(max(row)) == label
        squares += sum((p - (k == label)) ** 2 for k, p in enumerate(row))
        logs -= math.log(row[label])
    assert measures.accuracy(measures.hits(probs, y)) == pytest.approx(right / 23)
    assert measures.brier(probs, y) == pytest.approx(squares / 23, rel=rtol)
    assert measures.log_score_nats(probs, y) == pytest.approx(logs / 23, rel=rtol)


def test_a_label_held_impossible_costs_much_but_not_everything() -> None:
    cost = measures.log_score_nats(np.array([[1.0, 0.0]]), np.array([1]))

    assert 80.0 < cost < math.inf


def _ece(confidence: list[float], correct: list[bool], bins: int) -> float:
    total = 0.0
    for i in range(bins):
        inside = [
            n for n, c in enumerate(confidence) if i / bins < c <= (i + 1) / bins or (i == c == 0)
        ]
        if inside:
            accuracy = sum(correct[n] for n in inside) / len(inside)
            stated = sum(confidence[n] for n in inside) / len(inside)
            total += len(inside) / len(confidence) * abs(accuracy - stated)
    return total


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_both_calibration_errors_are_sums_over_their_bins(bins: int) -> None:
    probs = _probs(60, 4)
    y = np.random.default_rng(4).integers(0, 4, 60)
    vacuity = np.random.default_rng(5).beta(1.2, 3.0, 60)
    correct = measures.hits(probs, y)

    by_prob = measures.ece_prob(probs, y, bins=bins)
    by_vacuity = measures.ece_vacuity(vacuity, correct, bins=bins)

    assert by_prob == pytest.approx(_ece(probs.max(axis=1).tolist(), correct.tolist(), bins))
    assert by_vacuity == pytest.approx(_ece((1 - vacuity).tolist(), correct.tolist(), bins))


def test_full_vacuity_and_full_confidence_have_a_bin() -> None:
    vacuity = np.array([1.0, 0.0])

    assert measures.ece_vacuity(vacuity, np.array([False, True])) == 0.0
    assert measures.ece_vacuity(vacuity, np.array([True, False])) == 1.0


def _over_all_orders(score: Figures, correct: Flags) -> tuple[list[float], list[float]]:
    """Return the mean selective and generalised risks over every order of the tied rows."""
    rows = range(len(score))
    orders = [
        order
        for order in itertools.permutations(rows)
        if all(score[i] <= score[j] for i, j in itertools.pairwise(order))
    ]
    wrong = np.array([np.cumsum(~correct[list(order)]) for order in orders]).mean(axis=0)
    answered = np.arange(1, len(score) + 1)
    return (wrong / answered).tolist(), (wrong / len(score)).tolist()


def test_risks_under_ties_are_the_means_over_every_order_of_the_tied_rows() -> None:
    score = np.array([0.3, 0.1, 0.3, 0.7, 0.3, 0.7, 0.2])
    correct = np.array([True, True, False, False, True, True, False])

    selective, joint = _over_all_orders(score, correct)

    coverage, risk = measures.risk_coverage(score, correct)
    np.testing.assert_allclose(coverage, np.arange(1, 8) / 7)
    np.testing.assert_allclose(risk, selective)
    assert measures.aurc(score, correct) == pytest.approx(np.mean(selective))
    points = [0.0, *joint]
    area = sum((a + b) / 2 / 7 for a, b in itertools.pairwise(points))
    assert measures.augrc(score, correct) == pytest.approx(area)


@pytest.mark.parametrize("ties", [False, True])
def test_augrc_is_the_chance_of_a_wrong_row_outranking_a_right_one(*, ties: bool) -> None:
    score, correct, _ = _rows(80, seed=2, ties=ties)
    wins = [
        float(wrong > right) + 0.5 * float(wrong == right)
        for wrong in score[~correct].tolist()
        for right in score[correct].tolist()
    ]
    error = float((~correct).mean())

    area = measures.augrc(score, correct)

    ranked = float(np.mean(wins))
    assert area == pytest.approx((1 - ranked) * error * (1 - error) + error**2 / 2)


def test_a_perfect_order_has_the_least_areas_and_its_reverse_the_greatest() -> None:
    score, correct, _ = _rows(60, seed=6, ties=False)
    perfect = 1.0 - correct + 1e-3 * score

    for area in (measures.aurc, measures.augrc):
        assert area(perfect, correct) < area(score, correct) < area(-perfect, correct)


@pytest.mark.parametrize("ties", [False, True])
def test_the_escalation_curve_gives_the_highest_scores_to_the_cloud(*, ties: bool) -> None:
    score, edge, cloud = _rows(40, seed=9, ties=ties)

    share, accuracy = measures.escalation_curve(score, edge, cloud)

    assert share.tolist() == [n / 40 for n in range(41)]
    for n in range(41):
        threshold = np.sort(score)[::-1][n - 1] if n else math.inf
        over, tied = score > threshold, score == threshold
        part = (n - over.sum()) / tied.sum() if n else 0.0
        right = np.where(over, cloud, np.where(tied, part * cloud + (1 - part) * edge, edge))
        assert accuracy[n] == pytest.approx(right.mean()), n


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("up_to", [1.0, 0.4, 0.0125])
def test_the_escalation_area_is_the_area_under_the_curve(*, ties: bool, up_to: float) -> None:
    score, edge, cloud = _rows(40, seed=9, ties=ties)

    area = measures.escalation_area(score, edge, cloud, up_to=up_to)

    share, accuracy = measures.escalation_curve(score, edge, cloud)
    fine = np.linspace(0.0, up_to, 2_000_001)
    heights = np.interp(fine, share, accuracy)
    assert float(area) == pytest.approx((heights[1:] + heights[:-1]).mean() / 2, rel=1e-9)


def test_weights_count_rows_as_often_as_they_say() -> None:
    score, edge, cloud = _rows(30, seed=3, ties=True)
    counts = np.random.default_rng(1).integers(0, 4, (5, 30))

    areas = measures.escalation_area(score, edge, cloud, up_to=0.3, weights=counts.astype(float))

    for count, area in zip(counts, areas.tolist(), strict=True):
        again = np.repeat(np.arange(30), count)
        repeated = measures.escalation_area(score[again], edge[again], cloud[again], up_to=0.3)
        assert area == pytest.approx(float(repeated))


def test_no_score_beats_the_oracle_at_any_share() -> None:
    score, edge, cloud = _rows(200, seed=12, ties=False)

    _, best = measures.escalation_curve(measures.oracle_score(edge, cloud), edge, cloud)
    _, found = measures.escalation_curve(score, edge, cloud)

    assert (best >= found - 1e-12).all()
    mended = int((cloud & ~edge).sum())
    assert best[mended] == pytest.approx(best.max())
    assert best[mended] == pytest.approx((edge | cloud).mean())


def test_the_gap_recovered_is_none_without_a_gap() -> None:
    assert measures.gap_recovered(edge=0.7, coop=0.8, cloud=0.7) is None
    assert measures.gap_recovered(edge=0.6, coop=0.9, cloud=0.8) == pytest.approx(1.5)
    assert measures.gap_recovered(edge=0.8, coop=0.75, cloud=0.6) == pytest.approx(0.25)


@given(COLUMNS, st.randoms(use_true_random=False))
def test_no_measure_depends_on_how_the_rows_are_sorted(
    rows: list[tuple[int, bool, bool]], random: Random
) -> None:
    plain = _columns(rows)
    random.shuffle(rows)
    shuffled = _columns(rows)

    for one, other in (
        (measures.aurc(*plain[:2]), measures.aurc(*shuffled[:2])),
        (measures.augrc(*plain[:2]), measures.augrc(*shuffled[:2])),
        (measures.escalation_area(*plain), measures.escalation_area(*shuffled)),
    ):
        assert float(one) == pytest.approx(float(other))
    for one, other in zip(
        measures.escalation_curve(*plain), measures.escalation_curve(*shuffled), strict=True
    ):
        np.testing.assert_allclose(one, other)


@given(COLUMNS)
def test_only_the_order_of_the_scores_counts(rows: list[tuple[int, bool, bool]]) -> None:
    score, edge, _ = _columns(rows)

    for stretched in (score**3, 3.0 * score - 7.0):
        assert measures.aurc(stretched, edge) == pytest.approx(measures.aurc(score, edge))
        assert measures.augrc(stretched, edge) == pytest.approx(measures.augrc(score, edge))


@given(COLUMNS)
def test_areas_stay_within_their_bounds(rows: list[tuple[int, bool, bool]]) -> None:
    score, edge, cloud = _columns(rows)
    error = float((~edge).mean())

    assert error**2 / 2 - 1e-12 <= measures.augrc(score, edge) <= 0.5 + 1e-12
    assert -1e-12 <= measures.aurc(score, edge) <= 1.0 + 1e-12
    _, accuracy = measures.escalation_curve(score, edge, cloud)
    assert accuracy[0] == pytest.approx(edge.mean())
    assert accuracy[-1] == pytest.approx(cloud.mean())
