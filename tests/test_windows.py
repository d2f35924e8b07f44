"""Windows cut from rows that come in blocks of any size, against numpy's own sliding view."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from hedge.models.errors import DataError
from hedge.runtime.sources.windows import Windows


def _rows(count: int, channels: int | None) -> NDArray[np.float32]:
    """Rows that differ in every value."""
    shape = (count,) if channels is None else (count, channels)
    return np.random.default_rng(count).normal(3.0, 2.0, shape).astype(np.float32)


def _reference(x: NDArray[np.float32], rows: int, hop: int) -> NDArray[np.float32]:
    if len(x) < rows:
        return np.empty((0, rows, *x.shape[1:]), np.float32)
    found = sliding_window_view(x, rows, axis=0)[::hop]
    return np.moveaxis(found, -1, 1)


@given(
    st.integers(1, 12),
    st.integers(1, 30),
    st.sampled_from([None, 1, 3]),
    st.lists(st.integers(0, 40), max_size=12),
)
def test_windows_are_those_of_the_sliding_view_however_the_rows_come(
    rows: int, hop: int, channels: int | None, sizes: list[int]
) -> None:
    x = _rows(sum(sizes), channels)
    windows = Windows(rows, hop, channels=channels, period_ns=10.0)
    found, at = [], 0
    for size in sizes:
        at += size
        found += windows.push(x[at - size : at], at * 10)
    expected = _reference(x, rows, hop)
    assert len(found) == len(expected)
    for place, (window, taken_at_ns) in enumerate(found):
        np.testing.assert_array_equal(window, expected[place])
        assert window.dtype == np.float32
        assert taken_at_ns == (place * hop + rows) * 10, "when its last row was captured"


def test_what_comes_at_once_was_captured_at_once_unless_the_period_is_known() -> None:
    found = Windows(2, channels=1).push(_rows(6, 1), 1000)
    assert [at_ns for _, at_ns in found] == [1000, 1000, 1000]


def test_a_window_is_not_changed_by_what_comes_later() -> None:
    x = _rows(40, 2)
    windows = Windows(4, 1, channels=2)
    kept = windows.push(x[:20], 0)
    copies = [window.copy() for window, _ in kept]
    windows.push(x[20:], 0)
    for (window, _), copy in zip(kept, copies, strict=True):
        np.testing.assert_array_equal(window, copy)


def test_no_window_spans_a_reset() -> None:
    x = _rows(10, 2)
    windows = Windows(4, 2, channels=2)
    windows.push(x[:3], 0)
    windows.reset()
    ((window, _),) = windows.push(x[5:9], 0)
    np.testing.assert_array_equal(window, x[5:9])


def test_rows_that_are_passed_over_are_forgotten_by_a_reset() -> None:
    x = _rows(10, None)
    windows = Windows(2, 5, channels=None)
    assert len(windows.push(x[:3], 0)) == 1
    windows.reset()
    ((window, _),) = windows.push(x[7:9], 0)
    np.testing.assert_array_equal(window, x[7:9])


def test_memory_is_taken_once_however_much_is_pushed() -> None:
    windows = Windows(100, 3, channels=2)
    size = windows._kept.nbytes
    for _ in range(50):
        windows.push(_rows(777, 2), 0)
    assert windows._kept.nbytes == size == 2 * 100 * 2 * 4


def test_a_window_is_cut_only_when_it_is_asked_for() -> None:
    windows = Windows(2, 1, channels=None)
    first = next(windows.cut(_rows(1_000_000, None), 0))
    assert first[0].shape == (2,)
    assert windows._end <= 4


def test_rows_of_other_channels_are_refused_and_not_stretched() -> None:
    windows = Windows(4, channels=3)
    with pytest.raises(DataError, match=r"rows of shape \(1,\); they should be \(3,\)"):
        windows.push(_rows(4, 1), 0)


@pytest.mark.parametrize(("rows", "hop"), [(0, 1), (4, 0), (4, -1)])
def test_windows_without_an_extent_are_refused(rows: int, hop: int) -> None:
    with pytest.raises(ValueError, match=str(hop)):
        Windows(rows, hop, channels=1)
