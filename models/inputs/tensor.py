"""From a window of rows to the sample of a model of sensor streams."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BundleError, DataError
from ..manifest import Input
from .preprocess import Preprocess


def tensor_preprocessor(spec: Input, *, where: str) -> Preprocess:
    """Return what makes a sample of rows (rows, channels) float32, as `TensorInput` says.

    It is computed in float32. Integers are the nearest (ties to even), clipped to those that
    the dtype has; what is not finite is refused.

    Raises:
        BundleError: there is no [input.tensor].
    """
    how = spec.tensor
    if how is None:
        raise BundleError("no [input.tensor]", where=where)
    wanted = (how.rows, len(how.channels))
    offset = np.array(how.offset or [0.0] * wanted[1], np.float32)
    scale = np.array(how.scale or [1.0] * wanted[1], np.float32)
    across = spec.layout == "CT"
    convert = _converter(np.dtype(spec.dtype), where=where)

    def preprocess(data: NDArray[Any], meta: Mapping[str, Any]) -> NDArray[Any]:  # noqa: ARG001
        if data.shape != wanted:
            raise DataError(f"rows of {data.shape}, not of {wanted}", where=where)
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is found below
            rows = data.astype(np.float32)
            rows -= offset
            rows *= scale
        return np.ascontiguousarray(convert(rows.T if across else rows)).reshape(spec.shape)

    return preprocess


def tensor_problems(spec: Input) -> Iterator[tuple[str, str]]:
    """Yield why rows cannot become samples: the manifest's key, and what is wrong there."""
    how = spec.tensor
    if how is None:
        return
    channels = len(how.channels)
    if len(set(how.channels)) != channels or not channels:
        yield "$.input.tensor.channels", "has none, or one name twice"
    for name, values in (("scale", how.scale), ("offset", how.offset)):
        if values is not None and len(values) != channels:
            yield f"$.input.tensor.{name}", f"{len(values)} numbers for {channels} channels"
        if not all(map(math.isfinite, values or ())) or (name == "scale" and 0 in (values or ())):
            yield f"$.input.tensor.{name}", "each has to be finite, and no scale 0"
    if spec.layout not in (None, "TC", "CT"):
        yield "$.input.layout", f"{spec.layout!r} is neither TC nor CT"
    wanted = (channels, how.rows) if spec.layout == "CT" else (how.rows, channels)
    if spec.shape != wanted and not (how.rows == 1 and spec.shape == (channels,)):
        yield "$.input.shape", f"{spec.shape}, but rows and channels make {wanted}"


def _converter(dtype: np.dtype[Any], *, where: str) -> Callable[[NDArray[Any]], NDArray[Any]]:
    limits = np.iinfo(dtype) if dtype.kind in "iu" else None

    def convert(rows: NDArray[Any]) -> NDArray[Any]:
        with np.errstate(over="ignore", invalid="ignore"):
            found = rows.astype(dtype) if limits is None else rows
        if not np.isfinite(found).all():
            raise DataError(f"a value that is not finite in {dtype}", where=where)
        if limits is None:
            return found
        whole = np.rint(rows, dtype=np.float64)  # float32 does not hold the limits of int32
        clipped: NDArray[Any] = whole.clip(limits.min, limits.max).astype(dtype)
        return clipped

    return convert
