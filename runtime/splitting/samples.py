"""Samples to try a model on where none are given: drawn by a seed, of the kind that it takes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.manifest import Input
from ...models.model import TensorSpec
from ...models.prepare import preparer

_FEW = 2  # of unknown integers, ids perhaps, only those are sure to be known
_BYTES = 2


def drawn(spec: Input, takes: TensorSpec, *, count: int, seed: int) -> NDArray[Any]:
    """Return (count, *shape) of what a graph that ``takes`` this is fed for drawn samples.

    Floats are normal; integers of one or two bytes, as of pictures and sound, go over all of
    their range, others are 0 or 1, since they may be ids.
    """
    dtype, rng = np.dtype(spec.dtype), np.random.default_rng(seed)
    shape = (count, *spec.shape)
    if dtype.kind == "f":
        samples = rng.normal(size=shape).astype(dtype)
    elif dtype.itemsize <= _BYTES:
        ends = np.iinfo(dtype)
        samples = rng.integers(ends.min, ends.max, shape, dtype=dtype, endpoint=True)
    else:
        samples = rng.integers(0, _FEW, shape, dtype=dtype)
    return preparer(spec, takes)(samples)
