"""Tests of what happens between a sample and a graph."""

from __future__ import annotations

import numpy as np
import pytest

from hedge.models.manifest import DType, Input
from hedge.models.model import Quantisation, TensorSpec
from hedge.models.prepare import fed_dtype, preparer
from hedge.models.quantisation import quantise


def spec(dtype: DType, *, scale: float | None = None, offset: float | None = None) -> Input:
    return Input(kind="tensor", shape=(3,), dtype=dtype, scale=scale, offset=offset)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "float16", "float32"])
@pytest.mark.parametrize(("scale", "offset"), [(0.25, None), (None, 3.0), (0.0625, -7.0)])
def test_scaled_samples_are_x_less_offset_times_scale_in_float32(
    dtype: DType, scale: float | None, offset: float | None
) -> None:
    batch = np.array([[1, 2, 100], [5, 0, 127]], dtype)
    fed = preparer(spec(dtype, scale=scale, offset=offset))(batch)
    expected = (batch.astype(np.float64) - (offset or 0)) * (scale or 1)
    assert fed.dtype == np.float32 == fed_dtype(spec(dtype, scale=scale, offset=offset))
    np.testing.assert_array_equal(fed, expected)
    assert batch.dtype == dtype  # untouched
    assert batch[1].tolist() == [5, 0, 127]


def test_without_scaling_the_sample_goes_as_it_is() -> None:
    batch = np.array([[1, 2, 100]], np.int8)
    assert preparer(spec("int8"))(batch) is batch
    assert fed_dtype(spec("int8")) == np.int8


def test_an_unsigned_sample_may_fall_below_zero() -> None:
    fed = preparer(spec("uint8", offset=10))(np.array([[3, 10, 255]], np.uint8))
    assert fed.tolist() == [[-7, 0, 245]]


@pytest.mark.parametrize("sample", ["uint8", "int8"])
@pytest.mark.parametrize("stored", ["uint8", "int8"])
@pytest.mark.parametrize(
    ("scale", "offset", "quantisation"),
    [
        (1.0, None, Quantisation(1.0, -128)),
        (1 / 255, None, Quantisation(1 / 255, -128)),
        (0.584, 83.0, Quantisation(0.584, 83)),
        (0.7, 12.0, Quantisation(0.31, -3)),
    ],
)
def test_bytes_for_a_graph_of_bytes_are_what_the_long_way_gives(
    sample: DType, stored: str, scale: float, offset: float | None, quantisation: Quantisation
) -> None:
    every = np.arange(256, dtype=np.uint8).view(sample).reshape(2, 128)
    takes = TensorSpec("x", np.dtype(stored), (None, 128), quantisation)
    long = preparer(spec(sample, scale=scale, offset=offset))(every)
    found = preparer(spec(sample, scale=scale, offset=offset), takes)(every)
    assert found.dtype == stored
    np.testing.assert_array_equal(found, quantise(long, quantisation, takes.dtype))


def test_bytes_that_are_the_graphs_own_are_handed_on_uncopied() -> None:
    takes = TensorSpec("x", np.dtype(np.int8), (None, 3), Quantisation(0.584, 83))
    batch = np.array([[1, -2, 100]], np.int8)
    assert preparer(spec("int8", scale=0.584, offset=83.0), takes)(batch) is batch
    assert preparer(spec("int8"), takes)(batch) is batch
