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


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float16", "float32"])
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


_MEAN, _SCALE = (123.7, 116.3, 103.5), (0.017, 0.0175, 0.0174)


@pytest.mark.parametrize("layout", [None, "HWC", "CHW"])
def test_an_image_may_be_scaled_by_channel(layout: str | None) -> None:
    shape = (3, 4, 5) if layout == "CHW" else (4, 5, 3)
    batch = np.random.default_rng(2).integers(0, 256, (2, *shape), dtype=np.uint8)
    each = Input(
        kind="image", shape=shape, dtype="uint8", layout=layout, scale=_SCALE, offset=_MEAN
    )
    fed = preparer(each)(batch)
    assert fed.dtype == np.float32 == fed_dtype(each)
    for channel, (mean, scale) in enumerate(zip(_MEAN, _SCALE, strict=True)):
        at = (slice(None), channel) if layout == "CHW" else (..., channel)
        np.testing.assert_allclose(fed[at], (batch[at] - mean) * scale, rtol=1e-5, atol=1e-6)


def test_a_scale_by_channel_goes_with_one_offset_for_all() -> None:
    each = Input(kind="image", shape=(1, 1, 3), dtype="uint8", scale=(1.0, 2.0, 0.5), offset=10.0)
    assert preparer(each)(np.array([[[[11, 12, 14]]]], np.uint8)).tolist() == [[[[1, 4, 2]]]]


def test_bytes_scaled_by_channel_go_the_long_way_to_a_graph_of_bytes() -> None:
    takes = TensorSpec("x", np.dtype(np.int8), (None, 2, 2, 3), Quantisation(0.02, 3))
    each = Input(kind="image", shape=(2, 2, 3), dtype="uint8", scale=_SCALE, offset=_MEAN)
    batch = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3)
    fed = preparer(each, takes)(batch)
    assert fed.dtype == np.float32, "which the backend quantises"
    np.testing.assert_array_equal(fed, preparer(each)(batch))


def test_channels_that_are_scaled_alike_keep_the_short_way() -> None:
    takes = TensorSpec("x", np.dtype(np.int8), (None, 2, 2, 3), Quantisation(1 / 127.5, 0))
    alike = Input(
        kind="image", shape=(2, 2, 3), dtype="uint8", scale=(1 / 127.5,) * 3, offset=(127.5,) * 3
    )
    batch = np.arange(12, dtype=np.uint8).reshape(1, 2, 2, 3) * 20
    fed = preparer(alike, takes)(batch)
    assert fed.dtype == np.int8
    np.testing.assert_array_equal(
        fed, quantise(preparer(alike)(batch), Quantisation(1 / 127.5, 0), np.dtype(np.int8))
    )


def test_tokens_of_32_bits_go_into_a_graph_of_64() -> None:
    tokens = Input(kind="text", shape=(3,), dtype="int32")
    batch = np.array([[1, 70_000, -2]], np.int32)
    wide = preparer(tokens, TensorSpec("ids", np.dtype(np.int64), (None, 3)))(batch)
    assert wide.dtype == np.int64
    assert wide.tolist() == [[1, 70_000, -2]]
    assert preparer(tokens, TensorSpec("ids", np.dtype(np.int32), (None, 3)))(batch) is batch
