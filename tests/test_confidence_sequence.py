"""What audits can say at any time: bounds that hold whenever one looks, and when it has changed."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.models.change_detector import ChangeDetector
from hedge.models.confidence_sequence import bounds, log_capital
from hedge.models.errors import DataError

SEED = 20267


# ---- The confidence sequence


@pytest.mark.parametrize(("hits", "rows", "mean"), [(0, 7, 0.3), (5, 9, 0.2), (31, 40, 0.9)])
def test_the_capital_is_the_mean_of_the_likelihood_ratios_to_every_other_mean(
    hits: int, rows: int, mean: float
) -> None:
    angles = (np.arange(200_000) + 0.5) / 200_000 * math.pi / 2  # Beta(½, ½): p = sin² of these
    other = np.sin(angles) ** 2
    ratios = (other / mean) ** hits * ((1 - other) / (1 - mean)) ** (rows - hits)
    assert math.exp(log_capital(hits, rows, mean=mean)) == pytest.approx(ratios.mean(), rel=1e-6)


@pytest.mark.parametrize(("hits", "rows"), [(0, 1), (3, 100), (97, 100), (20, 31)])
def test_the_bounds_are_where_the_capital_reaches_one_over_delta(hits: int, rows: int) -> None:
    low, high = bounds(hits, rows, confidence=0.9)
    assert 0 <= low <= hits / rows <= high <= 1
    for edge in (low, high):
        if 0 < edge < 1:
            assert math.exp(log_capital(hits, rows, mean=edge)) == pytest.approx(10, rel=1e-6)
    opposite = bounds(rows - hits, rows, confidence=0.9)
    assert (1 - opposite[1], 1 - opposite[0]) == pytest.approx((low, high), abs=1e-9)


def test_the_capital_is_a_martingale_where_the_mean_is_the_true_one() -> None:
    for hits, rows in ((0, 0), (2, 11), (6, 6)):
        now = math.exp(log_capital(hits, rows, mean=0.3))
        after_hit = math.exp(log_capital(hits + 1, rows + 1, mean=0.3))
        after_miss = math.exp(log_capital(hits, rows + 1, mean=0.3))
        assert 0.3 * after_hit + 0.7 * after_miss == pytest.approx(now, rel=1e-9)


@pytest.mark.parametrize("mean", [0.02, 0.05, 0.3])
def test_whoever_stops_as_soon_as_the_bounds_miss_the_truth_seldom_gets_there(mean: float) -> None:
    rng = np.random.default_rng(SEED)
    streams, longest, confidence = 1000, 1500, 0.9
    limit = -math.log1p(-confidence)
    hits = (rng.random((streams, longest)) < mean).cumsum(axis=1)
    rows = np.arange(1, longest + 1)
    table = np.array([math.lgamma(one + 0.5) for one in range(longest + 1)])
    least = np.array([math.lgamma(one + 1) for one in range(longest + 1)])
    capital = table[hits] + table[rows - hits] - least[rows] - math.log(math.pi)
    capital -= hits * math.log(mean) + (rows - hits) * math.log1p(-mean)
    missed = capital >= limit
    assert missed.any(axis=1).mean() <= 1 - confidence
    for stream in range(0, streams, 100):  # the bounds miss it just where the capital says so
        at = int(missed[stream].argmax()) if missed[stream].any() else longest - 1
        low, high = bounds(int(hits[stream, at]), at + 1, confidence=confidence)
        assert (low <= mean <= high) != missed[stream, at]


@given(rows=st.integers(1, 3000), share=st.floats(0, 1), confidence=st.floats(0.5, 0.999))
def test_more_confidence_means_wider_bounds_around_the_same_share(
    rows: int, share: float, confidence: float
) -> None:
    hits = round(share * rows)
    low, high = bounds(hits, rows, confidence=confidence)
    lower, higher = bounds(hits, rows, confidence=0.9995)
    assert 0 <= lower <= low <= hits / rows <= high <= higher <= 1


def test_counts_and_confidences_that_make_no_sense_are_refused() -> None:
    for hits, rows, confidence in ((3, 2, 0.9), (-1, 2, 0.9), (1, 2, 1.0), (1, 2, 0.0)):
        with pytest.raises(DataError):
            bounds(hits, rows, confidence=confidence)


# ---- The change detector


def test_the_detector_is_the_mean_of_shiryaev_roberts_statistics_by_their_sum() -> None:
    rows, mean = [False, True, False, True, True], 0.1
    detector = ChangeDetector(1, mean=mean, beyond="above")
    for row in rows:
        detector.add(row)
    means = [odds / (9 + odds) for odds in (1.5, 2.0, 3.0, 5.0, 10.0)]
    sums = [
        sum(
            math.prod(p / mean if hit else (1 - p) / (1 - mean) for hit in rows[begin:])
            for begin in range(len(rows))
        )
        for p in means
    ]
    assert detector.values[0] == pytest.approx(sum(sums) / len(sums))


def _run_lengths(detector: ChangeDetector, mean: float, *, limit: float, most: int) -> list[int]:
    """Return how many rows each of the detector's tests takes to pass the limit."""
    rng = np.random.default_rng(SEED)
    lengths = []
    for _ in range(60):
        detector.restart()
        row = 0
        while detector.values[0] < limit and row < most:
            row += 1
            detector.add(bool(rng.random() < mean))
        lengths.append(row)
    return lengths


def test_false_alarms_are_as_rare_as_is_promised_on_the_very_limit() -> None:
    above = ChangeDetector(1, mean=0.05, beyond="above")
    assert np.mean(_run_lengths(above, 0.05, limit=100, most=2000)) >= 100
    below = ChangeDetector(1, mean=0.2, beyond="below")
    assert np.mean(_run_lengths(below, 0.2, limit=100, most=2000)) >= 100


def test_a_change_is_seen_soon_however_long_the_stream_was_good() -> None:
    detector = ChangeDetector(1, mean=0.05, beyond="above")
    rng = np.random.default_rng(SEED)
    for _ in range(5000):
        detector.add(bool(rng.random() < 0.01))
    rows = 0
    while detector.values[0] < 5000:
        rows += 1
        detector.add(bool(rng.random() < 0.25))
    assert rows < 150
    for _ in range(5000):  # and for ever after it does not overflow
        detector.add(True)
    assert math.isfinite(detector.values[0])


def test_a_row_counts_for_the_tests_that_it_belongs_to_alone() -> None:
    detector = ChangeDetector(3, mean=0.05, beyond="below")
    detector.add(False, first=1)
    assert detector.values[0] == 0
    assert detector.values[1] == detector.values[2] > 1
    detector.restart(2)
    assert detector.values[1] > detector.values[2] == 0
    with pytest.raises(DataError):
        ChangeDetector(1, mean=1.0, beyond="above")
