"""A histogram of durations in fixed memory, with a bounded relative error.

Log-linear buckets as in HdrHistogram (Tene 2012): every power of two is cut into 64 equal
parts, so that a quantile is off by at most 1/128 of its value, whatever was recorded.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BITS = 6
_PARTS = 1 << _BITS
_MAX_BITS = 44  # 2^44 ns = 4.9 h; what is longer counts as that
_BUCKETS = (_MAX_BITS - _BITS) * _PARTS + _PARTS
_GROUP = 1024  # so rare that the 99th percentile of a sample does not see the counting


def _buckets(values: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the bucket (n,) of each duration (n,): its octave and the part of it."""
    octave = np.maximum(np.frexp(values)[1] - _BITS - 1, 0).astype(np.int64)
    bucket: NDArray[np.int64] = (octave << _BITS) + (values >> octave)
    return np.minimum(bucket, _BUCKETS - 1)


def _middles() -> NDArray[np.int64]:
    """Return the duration (_BUCKETS,) in the middle of each bucket."""
    bucket = np.arange(_BUCKETS)
    octave = np.maximum((bucket >> _BITS) - 1, 0)
    middle: NDArray[np.int64] = ((bucket - (octave << _BITS)) << octave) + ((1 << octave) >> 1)
    return middle


_MIDDLES = _middles()


class Histogram:
    """Counts of durations in nanoseconds; about 60 KB, however many are recorded.

    What is recorded is held back and counted in groups: the loop records several times a
    sample, and counting a group at once costs it a tenth.
    """

    __slots__ = ("_counts", "_held", "_max_ns", "_min_ns", "_sum_ns")

    def __init__(self) -> None:
        self._counts = np.zeros(_BUCKETS, np.int64)
        self._held: list[int] = []
        self._sum_ns = 0
        self._min_ns: int | None = None
        self._max_ns: int | None = None

    def record(self, value_ns: int) -> None:
        """Count one duration; below 0 counts as 0, above 2^44 ns as that."""
        held = self._held
        held.append(value_ns)
        if len(held) >= _GROUP:
            self._count()

    def _count(self) -> None:
        if not self._held:
            return
        values = np.maximum(self._held, 0)
        self._held.clear()
        np.add.at(self._counts, _buckets(values), 1)
        self._sum_ns += int(values.sum())
        self._widen(int(values.min()), int(values.max()))

    def _widen(self, low_ns: int, high_ns: int) -> None:
        self._min_ns = low_ns if self._min_ns is None else min(self._min_ns, low_ns)
        self._max_ns = high_ns if self._max_ns is None else max(self._max_ns, high_ns)

    @property
    def count(self) -> int:
        """How many durations were recorded."""
        return int(self._counts.sum()) + len(self._held)

    @property
    def sum_ns(self) -> int:
        """All durations together, exact."""
        self._count()
        return self._sum_ns

    @property
    def mean_ns(self) -> float | None:
        """The mean duration, exact; None while nothing is recorded."""
        self._count()
        return self._sum_ns / self.count if self._max_ns is not None else None

    @property
    def max_ns(self) -> int | None:
        """The longest duration, exact; None while nothing is recorded."""
        self._count()
        return self._max_ns

    def quantile(self, share: float) -> int | None:
        """Return the smallest duration that ``share`` (0 … 1) of those recorded do not exceed.

        In nanoseconds, within 1/128 of the exact one; None while nothing is recorded.
        """
        return self.quantiles((share,))[0]

    def quantiles(self, shares: Sequence[float]) -> list[int | None]:
        """Return several quantiles in one pass."""
        self._count()
        if self._min_ns is None or self._max_ns is None:
            return [None] * len(shares)
        reached = np.cumsum(self._counts)
        ranks = np.maximum(1.0, np.array(shares) * reached[-1])
        found = _MIDDLES[np.searchsorted(reached, ranks)]
        return [min(max(int(one), self._min_ns), self._max_ns) for one in found]

    def below(self, bounds_ns: Sequence[int]) -> list[int]:
        """Return how many durations are at most each bound, the bound read within 1/64."""
        self._count()
        reached = np.cumsum(self._counts)
        found: list[int] = reached[_buckets(np.array(bounds_ns, np.int64))].tolist()
        return found

    def add(self, other: Histogram) -> None:
        """Count all that ``other`` has counted as well."""
        self._count()
        other._count()
        if other._min_ns is None or other._max_ns is None:
            return
        self._counts += other._counts
        self._sum_ns += other._sum_ns
        self._widen(other._min_ns, other._max_ns)
