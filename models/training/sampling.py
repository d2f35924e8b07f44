"""The samples that a device would make: training sees exactly what the device will compute."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..inputs.preprocess import preprocessor
from ..manifest import Input

_NOTHING: Mapping[str, Any] = MappingProxyType({})


def samples(
    spec: Input,
    captures: Iterable[NDArray[Any]],
    *,
    name: str,
    meta: Mapping[str, Any] = _NOTHING,
    files: Mapping[str, bytes] = _NOTHING,
) -> NDArray[Any]:
    """Return the samples (n, *shape) of what live sources capture; at least one.

    ``files`` are those of the bundle ``name``.

    Raises:
        DataError: one cannot become a sample.
        MissingExtraError: a library that it takes is not installed.
    """
    prepare = preprocessor(spec, read=files.__getitem__, where=name)
    return np.stack([prepare(one, meta) for one in captures])
