"""From a sample as it is stored and sent to what the graph is fed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .manifest import Input
from .model import TensorSpec
from .quantisation import looked_up, quantise

Prepare = Callable[[NDArray[Any]], NDArray[Any]]


def fed_dtype(spec: Input) -> np.dtype[Any]:
    """Return the dtype the graph is fed: float32 where the input is scaled, else the sample's."""
    return np.dtype(np.float32 if is_scaled(spec) else spec.dtype)


def is_scaled(spec: Input) -> bool:
    """Tell whether samples are scaled before the graph sees them."""
    return spec.scale is not None or spec.offset is not None


def preparer(spec: Input, takes: TensorSpec | None = None) -> Prepare:
    """Return the function that takes a batch (B, *shape) from ``spec.dtype`` to `fed_dtype`.

    It is ``(x - offset) * scale`` in float32, a new array; where neither stands it hands
    its argument back. Which of these it is, is decided here, once. For a graph that
    ``takes`` quantised bytes, samples that are bytes become those at once.
    """
    prepare = _scaled(spec)
    sample = np.dtype(spec.dtype)
    if (
        takes is None
        or takes.quantisation is None
        or takes.dtype.itemsize + sample.itemsize > 2
        or not is_scaled(spec)
    ):
        return prepare
    quantisation, stored = takes.quantisation, takes.dtype
    table = looked_up(lambda every: quantise(prepare(every), quantisation, stored), sample)
    if sample == stored and np.array_equal(table, np.arange(256, dtype=np.uint8).view(stored)):
        return _as_it_is
    return table.take


def _as_it_is(batch: NDArray[Any]) -> NDArray[Any]:
    return batch


def _scaled(spec: Input) -> Prepare:
    scale = np.float32(1.0 if spec.scale is None else spec.scale)
    offset = np.float32(0.0 if spec.offset is None else spec.offset)

    def scaled(batch: NDArray[Any]) -> NDArray[Any]:
        fed: NDArray[np.float32] = np.multiply(batch, scale, dtype=np.float32)
        return fed

    def shifted_and_scaled(batch: NDArray[Any]) -> NDArray[Any]:
        fed: NDArray[np.float32] = np.subtract(batch, offset, dtype=np.float32)
        fed *= scale
        return fed

    if not is_scaled(spec):
        return _as_it_is
    return scaled if offset == 0 else shifted_and_scaled
