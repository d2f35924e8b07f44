"""A histogram of latencies on a logarithmic scale, for pictures."""

from __future__ import annotations

import numpy as np

from ..latency import Nanoseconds

_PER_DECADE = 20


def log_histogram(spent_ns: Nanoseconds) -> tuple[tuple[float, int], ...]:
    """Return (upper bound in ms, count) of twenty buckets a decade, from the least to the most.

    A duration (n,) counts in the first bucket whose bound is not below it.
    """
    exponents = np.ceil(np.log10(np.maximum(spent_ns, 1)) * _PER_DECADE - 1e-9).astype(np.int64)
    least = int(exponents.min())
    counts = np.bincount(exponents - least)
    places = range(least, least + len(counts))
    bounds_ms = (float(f"{10 ** (place / _PER_DECADE) / 1e6:.6g}") for place in places)
    return tuple(zip(bounds_ms, counts.tolist(), strict=True))
