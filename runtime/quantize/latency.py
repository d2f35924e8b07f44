"""How long two models take for the same sample, called in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...models.model import Model

_PAIRS = 500
_WARM_UP = 20
_MOST_NS = 3_000_000_000


class Latency(Struct, frozen=True, kw_only=True):
    """Medians of bare `infer` calls, one sample and one thread, over ``pairs`` pairs of calls.

    ``ratio`` is the median of the pairs' own ratios, int8 to float.
    """

    before_us: float
    after_us: float
    ratio: float
    pairs: int


def paired_latency(
    before: Model,
    after: Model,
    sample: NDArray[Any],
    *,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Latency:
    """Time both models on ``sample`` (1, *shape), by turns, for about three seconds at most.

    Raises:
        ModelError: a model fails.
    """
    for _ in range(_WARM_UP):
        before.infer(sample)
        after.infer(sample)
    took: list[tuple[int, int]] = []
    begin = clock()
    while len(took) < _PAIRS and (not took or clock() - begin < _MOST_NS):
        start = clock()
        before.infer(sample)
        between = clock()
        after.infer(sample)
        took.append((between - start, clock() - between))
    first, second = np.array(took, np.float64).T
    return Latency(
        before_us=float(np.median(first)) / 1e3,
        after_us=float(np.median(second)) / 1e3,
        ratio=float(np.median(second / np.maximum(first, 1.0))),
        pairs=len(took),
    )
