"""The library itself: MLPerf LoadGen, an extra."""

from __future__ import annotations

import importlib
from typing import Any

from ....models.errors import MissingExtraError

_WHAT = (
    "MLPerf LoadGen (mlcommons-loadgen; on ARM64 pip builds it from source, which needs g++ and "
    "Python's headers: apt install g++ python3-dev)"
)


def load() -> Any:  # noqa: ANN401 -- the library has no types
    """Return the module.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module("mlperf_loadgen")
    except ImportError as error:
        raise MissingExtraError(_WHAT, extra="bench") from error
