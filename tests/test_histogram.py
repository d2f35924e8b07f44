"""The latency histogram against exact quantiles."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.telemetry.histogram import Histogram


def _filled(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_quantiles_are_within_one_percent_of_the_exact_ones(share: float) -> None:
    drawn = np.random.default_rng(7).lognormal(11.0, 2.5, 20_000).astype(np.int64)
    exact = np.quantile(drawn, share, method="inverted_cdf")
    assert _filled(drawn.tolist()).quantile(share) == pytest.approx(exact, rel=1 / 128)


@given(st.lists(st.integers(0, 2**44 - 1), min_size=1), st.floats(0.01, 1))
def test_any_quantile_of_any_values_is_within_its_bound(values: list[int], share: float) -> None:
    exact = sorted(values)[max(0, int(np.ceil(share * len(values) - 1e-9)) - 1)]
    found = _filled(values).quantile(share)
    assert found is not None
    assert abs(found - exact) <= exact / 128 + 1


def test_an_empty_histogram_has_no_quantile() -> None:
    empty = Histogram()
    assert (empty.quantile(0.5), empty.mean_ns, empty.max_ns, empty.count) == (None, None, None, 0)


def test_what_is_too_long_or_negative_is_counted_at_the_edge() -> None:
    histogram = _filled([-5, 2**60])
    assert (histogram.count, histogram.max_ns) == (2, 2**60)
    assert histogram.quantile(0.5) == 0
    assert histogram.quantile(1.0) == pytest.approx(2**44, rel=1 / 64)


def test_adding_two_histograms_counts_both() -> None:
    one, other = _filled([1, 1_000]), _filled([3, 5_000_000])
    one.add(other)
    assert (one.count, one.mean_ns, one.max_ns) == (4, 5_001_004 / 4, 5_000_000)
    assert one.quantiles([0.25, 0.5]) == [1, 3]


def test_recording_never_takes_more_memory() -> None:
    histogram = Histogram()
    size = histogram._counts.nbytes
    for value in range(0, 10**12, 10**8):
        histogram.record(value)
        assert len(histogram._held) < 1024
    assert histogram._counts.nbytes == size
    assert histogram.count == 10_000
