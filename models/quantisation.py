"""Integers that stand for real numbers, as TFLite's quantisation specification has them.

``real = scale * (stored - zero_point)``; real numbers are stored as the nearest integer (ties to
even), clipped to the integers that there are. Eight bits have 256 cases, which are computed
once and looked up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .model import Quantisation

Floats = NDArray[np.float32]
Stored = NDArray[Any]


def quantise(real: Floats, quantisation: Quantisation, dtype: np.dtype[Any]) -> Stored:
    """Return ``real`` (any shape) as integers of ``dtype``.

    Example:
        >>> quantise(np.float32([0.0, 0.26, 9.0]), Quantisation(0.1, 3), np.dtype(np.int8)).tolist()
        [3, 6, 93]
    """
    stored = real / np.float32(quantisation.scale)
    np.rint(stored, out=stored)
    stored += np.float32(quantisation.zero_point)
    limits = np.iinfo(dtype)
    np.clip(stored, limits.min, limits.max, out=stored)
    found: Stored = stored.astype(dtype)
    return found


def dequantise(stored: Stored, quantisation: Quantisation) -> Floats:
    """Return the real numbers, float32, that integers ``stored`` (any shape) stand for."""
    real = stored.astype(np.float32)
    real -= np.float32(quantisation.zero_point)
    real *= np.float32(quantisation.scale)
    return real


def looked_up(function: Callable[[Stored], Stored], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return what ``function`` makes of every value of an 8-bit ``dtype``: (256,), by its bits."""
    every = np.arange(256, dtype=np.uint8).view(dtype)
    return np.ascontiguousarray(function(every))


def dequantiser(quantisation: Quantisation, dtype: np.dtype[Any]) -> Callable[[Stored], Floats]:
    """Return `dequantise` for integers of ``dtype``, by a table where that is possible."""
    if dtype.itemsize > 1:
        return lambda stored: dequantise(stored, quantisation)
    take = looked_up(lambda every: dequantise(every, quantisation), dtype).take
    # an int8 below 0 counts from the table's end, where its bits as uint8 lead, too
    return lambda stored: take(stored, None, None, "wrap")  # which checks no index: half the time
