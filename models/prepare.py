"""From a sample as it is stored and sent to what the graph is fed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .manifest import Input
from .model import TensorSpec
from .quantisation import looked_up, quantise

Prepare = Callable[[NDArray[Any]], NDArray[Any]]


def fed_dtype(spec: Input) -> np.dtype[Any]:
    """Return the dtype the graph is fed: float32 where the input is scaled, else the sample's.

    Samples of int32 that are not scaled also go into a graph of int64: see `widened`.
    """
    return np.dtype(np.float32 if is_scaled(spec) else spec.dtype)


def is_scaled(spec: Input) -> bool:
    """Tell whether samples are scaled before the graph sees them."""
    return spec.scale is not None or spec.offset is not None


def widened(fed: np.dtype[Any], takes: np.dtype[Any]) -> np.dtype[Any]:
    """Return int64 for int32 where a graph takes that, as most do for tokens; else ``fed``."""
    return takes if fed == np.int32 and takes == np.int64 else fed


def preparer(spec: Input, takes: TensorSpec | None = None) -> Prepare:
    """Return the function that takes a batch (B, *shape) from ``spec.dtype`` to `fed_dtype`.

    It is ``(x - offset) * scale`` in float32, a new array; where neither stands it hands
    its argument back. Which of these it is, is decided here, once. For a graph that
    ``takes`` quantised bytes, samples that are bytes become those at once, unless each channel
    is scaled otherwise; for one that takes int64, samples of int32 become that.
    """
    prepare = _scaled(spec)
    sample = np.dtype(spec.dtype)
    if takes is None:
        return prepare
    if not is_scaled(spec):
        wide = widened(sample, takes.dtype)
        return prepare if wide == sample else lambda batch: batch.astype(wide)
    if (
        takes.quantisation is None
        or takes.dtype.itemsize + sample.itemsize > 2
        or isinstance(_factor(spec, "scale"), tuple)
        or isinstance(_factor(spec, "offset"), tuple)
    ):
        return prepare
    quantisation, stored = takes.quantisation, takes.dtype
    table = looked_up(lambda every: quantise(prepare(every), quantisation, stored), sample)
    if sample == stored and np.array_equal(table, np.arange(256, dtype=np.uint8).view(stored)):
        return _as_it_is
    return table.take


def _as_it_is(batch: NDArray[Any]) -> NDArray[Any]:
    return batch


def _factor(spec: Input, name: Literal["scale", "offset"]) -> float | tuple[float, ...]:
    """Return a number for all channels, where it is the same for all, or one for each."""
    default = 1.0 if name == "scale" else 0.0
    value: float | tuple[float, ...] | None = getattr(spec, name)
    if isinstance(value, tuple):
        return value[0] if len(set(value)) == 1 else value
    return default if value is None else value


def _along_channels(spec: Input, name: Literal["scale", "offset"]) -> NDArray[np.float32]:
    """Return a factor as it is broadcast over a batch: its channels first or last."""
    factor = np.array(_factor(spec, name), np.float32)
    return factor.reshape(-1, 1, 1) if factor.ndim and spec.layout == "CHW" else factor


def _scaled(spec: Input) -> Prepare:
    scale, offset = _along_channels(spec, "scale"), _along_channels(spec, "offset")

    def scaled(batch: NDArray[Any]) -> NDArray[Any]:
        fed: NDArray[np.float32] = np.multiply(batch, scale, dtype=np.float32)
        return fed

    def shifted_and_scaled(batch: NDArray[Any]) -> NDArray[Any]:
        fed: NDArray[np.float32] = np.subtract(batch, offset, dtype=np.float32)
        fed *= scale
        return fed

    if not is_scaled(spec):
        return _as_it_is
    return shifted_and_scaled if np.any(offset) else scaled
