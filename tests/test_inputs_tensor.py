"""Rows of sensors become samples: each channel scaled, in the layout and dtype asked for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.errors import DataError
from hedge.models.inputs.preprocess import Preprocess, preprocessor
from hedge.models.manifest import DType, Input, TensorInput

_ROWS = np.array(
    [[1, 2, 3], [4, 5, 6], [-7, 8.5, 9], [0, 0.25, -1]], np.float32
)  # 4 rows of 3 channels


def made(
    shape: tuple[int, ...],
    *,
    layout: str | None = None,
    dtype: DType = "float32",
    rows: int = 4,
    channels: tuple[str, ...] = ("x", "y", "z"),
    **how: Any,  # noqa: ANN401
) -> Preprocess:
    table = TensorInput(channels=channels, rows=rows, **how)
    spec = Input(kind="tensor", shape=shape, dtype=dtype, layout=layout, tensor=table)
    return preprocessor(spec, read=lambda _: b"", where="belt")


def test_without_factors_the_rows_are_the_sample() -> None:
    found = made((4, 3))(_ROWS, {})
    np.testing.assert_array_equal(found, _ROWS)
    assert found.dtype == np.float32


def test_each_channel_is_shifted_and_scaled_by_its_own() -> None:
    found = made((4, 3), offset=(1.0, 0.0, -2.0), scale=(10.0, 0.5, 3.0))(_ROWS, {})
    expected = [[(a - 1) * 10, b * 0.5, (c + 2) * 3] for a, b, c in _ROWS.tolist()]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert _ROWS[0].tolist() == [1, 2, 3], "what was captured is untouched"


def test_the_layout_puts_channels_first_or_last() -> None:
    across = made((3, 4), layout="CT", scale=(1.0, 2.0, 4.0))(_ROWS, {})
    along = made((4, 3), layout="TC", scale=(1.0, 2.0, 4.0))(_ROWS, {})
    np.testing.assert_array_equal(across, along.T)
    assert across[2].tolist() == [12, 24, 36, -4]
    assert across.flags.c_contiguous


def test_one_row_may_be_the_channels_alone() -> None:
    for layout in (None, "TC", "CT"):
        found = made((3,), rows=1, layout=layout, offset=(1.0, 1.0, 1.0))(_ROWS[1:2], {})
        assert found.tolist() == [3, 4, 5]
    assert made((1, 3), rows=1)(_ROWS[:1], {}).tolist() == [[1, 2, 3]]


def test_floats_become_the_samples_own() -> None:
    found = made((4, 3), dtype="float16", scale=(0.1, 0.1, 0.1))(_ROWS, {})
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, (_ROWS * np.float32(0.1)).astype(np.float16))


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        ("int8", [-128, -2, 0, 0, 2, 127]),
        ("uint8", [0, 0, 0, 0, 2, 255]),
        ("int16", [-32768, -2, 0, 0, 2, 300]),
        ("int32", [-(10**9), -2, 0, 0, 2, 300]),
    ],
)
def test_integers_are_the_nearest_ones_there_are(dtype: DType, expected: list[int]) -> None:
    rows = np.array([[-1e9, -1.5, -0.5, 0.5, 2.5, 300]], np.float32)
    found = made((6,), dtype=dtype, rows=1, channels=tuple("abcdef"))(rows, {})
    assert found.dtype == np.dtype(dtype)
    assert found.tolist() == expected


def test_the_ends_of_int32_are_held() -> None:
    rows = np.array([[-1e12, 1e12]], np.float32)
    found = made((2,), dtype="int32", rows=1, channels=("a", "b"))(rows, {})
    assert found.tolist() == [-(2**31), 2**31 - 1]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "int32"])
def test_what_is_not_finite_is_refused(value: float, dtype: DType) -> None:
    rows = _ROWS.copy()
    rows[2, 1] = value
    with pytest.raises(DataError, match="belt: a value that is not finite"):
        made((4, 3), dtype=dtype)(rows, {})


def test_what_is_beyond_float16_is_refused() -> None:
    with pytest.raises(DataError, match="not finite in float16"):
        made((4, 3), dtype="float16", scale=(1e6, 1.0, 1.0))(_ROWS, {})


def test_what_scaling_takes_beyond_float32_is_refused() -> None:
    with pytest.raises(DataError, match="not finite in float32"):
        made((4, 3), scale=(3e38, 1.0, 1.0))(_ROWS, {})


@pytest.mark.parametrize("capture", [_ROWS[:3], _ROWS[:, :2], _ROWS[0], np.zeros((3, 4))])
def test_a_window_of_another_size_is_refused(capture: NDArray[Any]) -> None:
    with pytest.raises(DataError, match=r"belt: rows of .*, not of \(4, 3\)"):
        made((4, 3))(capture, {})
