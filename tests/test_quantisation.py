"""Tests of integers that stand for real numbers."""

from __future__ import annotations

import numpy as np
import pytest

from hedge.models.model import Quantisation
from hedge.models.quantisation import dequantise, dequantiser, quantise


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_what_is_stored_is_the_nearest_integer_that_there_is(dtype: str) -> None:
    quantisation = Quantisation(0.25, 3)
    real = np.array([0.0, 0.3, -0.13, 0.375, 0.625, 1e9, -1e9], np.float32)
    limits = np.iinfo(dtype)
    # 0.375 and 0.625 lie half-way: ties go to the even quotient, 2 and 2
    wanted = [3, 4, 2, 5, 5, limits.max, limits.min]
    stored = quantise(real, quantisation, np.dtype(dtype))
    assert stored.dtype == dtype
    assert stored.tolist() == [max(limits.min, one) for one in wanted]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16"])
def test_every_stored_integer_comes_back_from_what_it_stands_for(dtype: str) -> None:
    quantisation, kind = Quantisation(0.0078125, -5), np.dtype(dtype)
    limits = np.iinfo(dtype)
    stored = np.arange(limits.min, limits.max + 1, 37 if kind.itemsize > 1 else 1).astype(kind)
    real = dequantise(stored, quantisation)
    np.testing.assert_array_equal(real, (stored.astype(np.float64) + 5) * 0.0078125)
    np.testing.assert_array_equal(quantise(real, quantisation, kind), stored)
    np.testing.assert_array_equal(dequantiser(quantisation, kind)(stored), real)
    assert dequantiser(quantisation, kind)(stored[None]).dtype == np.float32
