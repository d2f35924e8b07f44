"""The latencies of one model, and how they compare with another's of the same run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

_RESAMPLES = 1000
_DRAWN = 1 << 20  # at a time
_COVERED = (2.5, 97.5)

Nanoseconds = NDArray[np.int64]
Calls = Annotated[int, Meta(ge=1)]
Milliseconds = Annotated[float, Meta(ge=0)]


class Latency(Struct, frozen=True, kw_only=True):
    """Of ``count`` calls, in milliseconds; ``first_ms`` is the first that was timed."""

    count: Calls
    first_ms: Milliseconds
    min_ms: Milliseconds
    max_ms: Milliseconds
    mean_ms: Milliseconds
    median_ms: Milliseconds
    p90_ms: Milliseconds
    p99_ms: Milliseconds
    std_ms: Milliseconds

    @classmethod
    def of(cls, spent_ns: Nanoseconds) -> Latency:
        """Return the figures of the calls (n,) in the order they were made, n at least 1."""
        spent_ms = spent_ns / 1e6
        median_ms, p90_ms, p99_ms = np.percentile(spent_ms, (50, 90, 99)).tolist()
        return cls(
            count=len(spent_ms),
            first_ms=float(spent_ms[0]),
            min_ms=float(spent_ms.min()),
            max_ms=float(spent_ms.max()),
            mean_ms=float(spent_ms.mean()),
            median_ms=median_ms,
            p90_ms=p90_ms,
            p99_ms=p99_ms,
            std_ms=float(spent_ms.std()),
        )


class Ratio(Struct, frozen=True, kw_only=True):
    """How many times as long as another, in pairs: the median, and its 95 % interval."""

    median: float
    low: float
    high: float
    pairs: int


def paired_ratio(
    rounds: Sequence[Nanoseconds], others: Sequence[Nanoseconds], *, seed: int
) -> Ratio:
    """Compare two models round by round, since what disturbs one disturbs the other too.

    A round's ratio is that of its medians; ``rounds`` and ``others`` are of equal length.
    The interval is the percentile bootstrap of the median ratio (Efron 1979), drawn by
    ``seed``.
    """
    pairs = zip(rounds, others, strict=True)
    ratios = np.array([np.median(one) / np.median(other) for one, other in pairs])
    low, high = np.percentile(_resampled_medians(ratios, seed=seed), _COVERED).tolist()
    return Ratio(median=float(np.median(ratios)), low=low, high=high, pairs=len(ratios))


def _resampled_medians(values: NDArray[np.float64], *, seed: int) -> NDArray[np.float64]:
    """Return the medians (_RESAMPLES,) of as many draws from ``values`` (n,), with return."""
    rng = np.random.default_rng(seed)
    at_once = max(_DRAWN // len(values), 1)
    medians = [
        np.median(rng.choice(values, (min(at_once, _RESAMPLES - begin), len(values))), axis=1)
        for begin in range(0, _RESAMPLES, at_once)
    ]
    return np.concatenate(medians)
