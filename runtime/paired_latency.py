"""How long two models take for the same sample, called in turn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..models.model import Model

_PAIRS = 500
_WARM_UP = 20
_MOST_NS = 3_000_000_000


class Latency(Struct, frozen=True, kw_only=True):
    """Medians of bare `infer` calls, one sample and one thread, over ``pairs`` pairs of calls.

    ``ratio`` is the median of the pairs' own ratios, the second to the first.
    """

    before_us: float
    after_us: float
    ratio: float
    pairs: int


def paired_latency(
    before: Model,
    after: Model,
    sample: NDArray[Any],
    after_sample: NDArray[Any] | None = None,
    *,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Latency:
    """Time both models on ``sample`` (1, *shape), by turns, for about three seconds at most.

    The second one gets ``after_sample``, where it takes the sample in another form.

    Raises:
        ModelError: a model fails.
    """
    second = sample if after_sample is None else after_sample
    for _ in range(_WARM_UP):
        before.infer(sample)
        after.infer(second)
    took: list[tuple[int, int]] = []
    begin = clock()
    while len(took) < _PAIRS and (not took or clock() - begin < _MOST_NS):
        start = clock()
        before.infer(sample)
        between = clock()
        after.infer(second)
        took.append((between - start, clock() - between))
    first_ns, second_ns = np.array(took, np.float64).T
    return Latency(
        before_us=float(np.median(first_ns)) / 1e3,
        after_us=float(np.median(second_ns)) / 1e3,
        ratio=float(np.median(second_ns / np.maximum(first_ns, 1.0))),
        pairs=len(took),
    )
