"""The nearest of some keys by the sum of absolute differences: exact, and in memory that is there.

A search must be cheaper than the model that it saves, and give what a comparison with every key
in float64 would: the same keys, those of equal distance by their age. So keys are ruled out by
their distances in whole steps, and those that are left are compared in float64.

Let [x] be a key in steps from a middle, its values rounded, and e(x) = Σ|x - [x]|. By the triangle
inequality the distance of a key x and a sample y is

    at most   F + e(x) + e(y),  where F = Σ|[x] - [y]|,
    at least  F - e(x) - e(y)  and  e(x) - F - e(y).

So the k-th least of what they are at most rules out all keys that are further at least. A key that
is further out than the steps reach is [x] = 0: that costs time where there are many, and nothing
else. Values of [y] further out than that are cut off, which takes as much from every F.

F is summed up in integers that wrap around, of 16 bits where that is fine enough: many at a time,
and right all the same. For with Σ|a - b| = 2 Σ max(a, b) - Σa - Σb the half of F + Σ[x] - Σ|[y]|
is Σ max([x], [y]) less what is the same for all keys, and it fits: it lies within ±Σ|[x]|.

Where many keys are left, of those that are the same only the oldest count, and the rest are
compared in float32 first. There a sum of n terms, none of them negative, is off by the share
(n - 1) u at most, in whatever order it is taken, and each difference by u (Higham, "Accuracy and
Stability of Numerical Algorithms", §4.2).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...models.errors import DataError

Key = NDArray[np.float32]
Slots = NDArray[np.intp]
Distances = NDArray[np.float64]
Steps = NDArray[np.signedinteger[Any]]

_BLOCK = 1024  # keys that are compared at once in steps
_FEW = 32  # keys that are compared at once in floating point
_NARROW = 512  # values of a key for which steps of 16 bits are fine enough
_OUT = 16  # of so many keys one may be further out than the steps reach
_FINEST = 1e15  # steps in one, so that no sum of steps overflows float32
_U = 2.0**-24  # how far float32 rounds, as a share


class Near(NamedTuple):
    """The nearest keys, the nearest first: their slots (k,) and distances (k,)."""

    slots: Slots
    distances: Distances


class Nearest:
    """Up to ``most`` keys (``width``,), in slots 0 to ``count`` - 1.

    ``age`` (most,) orders them: of two keys the lower one came earlier.
    """

    def __init__(self, *, width: int, most: int) -> None:
        self.width = width
        self.most = most
        self.count = 0
        self.keys = np.zeros((most, width), np.float32)
        self.age = np.zeros(most, np.int64)
        self._marks = np.zeros(most, np.int64)  # keys of the same mark are the same
        self._older = np.zeros(most, np.int32)  # how many keys are the same as each, and older
        self._dtype = _integer(width)
        self._reach = float(np.iinfo(self._dtype).max)
        self._middle = np.zeros(width)
        self._per_unit = 1.0  # steps
        self._any_out = False  # whether a key may be further out than the steps reach
        self._until_measured = 0  # puts
        blocks = range(0, most, _BLOCK)
        self._steps = [np.zeros((width, min(_BLOCK, most - at)), self._dtype) for at in blocks]
        self._lower = np.zeros(most, np.float32)  # (Σ[x] + e(x)) / 2 of each key
        self._upper = np.zeros(most, np.float32)  # (Σ[x] - e(x)) / 2
        self._block = np.empty(width * min(_BLOCK, most), self._dtype)
        self._halves = np.empty(most, self._dtype)
        self._least = np.empty(most, np.float32)
        self._figures = np.empty(most, np.float32)
        self._ones = np.ones(width)

    @staticmethod
    def most_in(size_bytes: int, *, width: int, beside_bytes: int = 0) -> int:
        """Return how many keys fit, buffers and all, each with ``beside_bytes`` of the caller's."""
        size = np.dtype(_integer(width)).itemsize
        block = size * width
        each = 4 * width + block + 2 * 8 + 5 * 4 + size + beside_bytes
        few = size_bytes // (each + block)
        return few if few <= _BLOCK else (size_bytes - _BLOCK * block) // each

    def put(self, slot: int, key: Key, *, age: int) -> None:
        """Write ``key`` (width,) into a slot: one in use, or the first that is not.

        Raises:
            DataError: it is not finite, or beyond all measure.
        """
        _check(key)
        mark = self._mark(key)
        if slot < self.count:
            self._tell_younger(slot, -1)
        self.count = max(self.count, slot + 1)
        self.keys[slot] = key
        self.age[slot] = age
        self._marks[slot] = mark
        self._older[slot] = self._tell_younger(slot, 1)
        self._until_measured -= _OUT if self._write(slot, slot + 1) else 1
        if self._until_measured < 0:
            self._measure()

    def remove(self, slot: int) -> int:
        """Give up a slot; return that whose key is there now: the last one."""
        self._tell_younger(slot, -1)
        last = self.count - 1
        for one in (self.keys, self.age, self._marks, self._older, self._lower, self._upper):
            one[slot] = one[last]
        self._in_steps(slot, slot + 1)[:] = self._in_steps(last, last + 1)
        self.count = last
        return last

    def find(self, key: Key, *, k: int, within: float = math.inf) -> Near | None:
        """Return the ``k`` nearest keys, those of equal distance by age.

        None: there are fewer, or their mean distance is above ``within``. ``key`` is (width,).

        Raises:
            DataError: it is not finite, or beyond all measure.
        """
        _check(key)
        if self.count < k:
            return None
        exact = key.astype(np.float64)
        found = self._by_steps(exact, k=k, within=within)
        if len(found) > _FEW:
            found = self._roughly(found, key, k=k)
        if len(found) < k:
            return None
        distances = self._distances(found, exact)
        best = np.lexsort((self.age[found], distances))[:k]
        nearest = distances[best]
        if sum(nearest.tolist()) > within * k:
            return None
        return Near(found[best], nearest)

    def _by_steps(self, key: Distances, *, k: int, within: float) -> Slots:
        """Return what may be among the nearest; none: their mean distance is above ``within``.

        Figures are of half the distances, less half of ``norm``.
        """
        count = self.count
        exact = key - self._middle
        exact *= self._per_unit
        steps = np.rint(exact)
        norm = float(np.abs(steps).dot(self._ones))
        if norm > self._reach:
            steps.clip(-self._reach, self._reach, out=steps)
            norm = float(np.abs(steps).dot(self._ones))
        exact -= steps
        apart = float(np.abs(exact, out=exact).dot(self._ones))
        error = min(apart, self.width / 2)  # what is more was cut off
        self._sum_up(steps, norm=norm)
        norm += apart - error
        figures = self._figures[:count]
        figures[:] = self._halves[:count]
        least = np.subtract(figures, self._lower[:count], out=self._least[:count])
        figures -= self._upper[:count]
        figures.partition(k - 1)
        limit = float(figures[k - 1])
        slack = error + 8 * _U * (abs(limit) + self._reach) + 2.0**-48 * norm
        limit += slack
        near = least <= limit
        if self._any_out:
            near &= least >= (limit + norm) * (-1 - 4 * _U)
        found: Slots = near.nonzero()[0]
        if len(found) > _FEW:
            return found[self._older[found] < k]
        if within < math.inf:
            nearest = sorted(least[found].tolist())[:k]
            if 2 * sum(nearest) / k + norm - 2 * slack > within * self._per_unit:
                return found[:0]
        return found

    def _sum_up(self, steps: Distances, *, norm: float) -> None:
        """Write Σ max(a, b), less half of Σb and ``norm``, for all keys a and b = ``steps``."""
        less = int(norm + float(steps.dot(self._ones))) // 2
        top = int(self._reach) + 1
        first = (top - less) % (2 * top) - top  # wrapped around
        values = steps.astype(self._dtype)[:, None]
        for start in range(0, self.count, _BLOCK):
            end = min(start + _BLOCK, self.count)
            keys = self._in_steps(start, end)
            block = self._block[: keys.size].reshape(keys.shape)
            block[:] = values  # a maximum of two arrays of one shape is the faster one
            np.maximum(keys, block, out=block)
            out = self._halves[start:end]
            np.add.reduce(block, axis=0, dtype=self._dtype, out=out, initial=first)

    def _roughly(self, slots: Slots, key: Key, *, k: int) -> Slots:
        """Return those that may be among the nearest by their distances in float32."""
        near = self._distances(slots, key)
        limit = float(np.partition(near, k - 1)[k - 1])
        found: Slots = slots[near <= limit * (1 + 4 * _U * (self.width + 2))]
        return found

    def _distances(self, slots: Slots, key: Key | Distances) -> Distances:
        """Return the distances (n,) of these keys, in the dtype of ``key``."""
        found = np.empty(len(slots), key.dtype)
        for start in range(0, len(slots), _FEW):
            part = slots[start : start + _FEW]
            apart: NDArray[Any] = self.keys.take(part, axis=0).astype(key.dtype, copy=False)
            apart -= key
            np.abs(apart, out=apart)
            np.add.reduce(apart, axis=1, out=found[start : start + _FEW])
        return found

    def _write(self, start: int, end: int) -> bool:
        """Write the keys of a few slots in steps; return whether one is further out."""
        exact = self.keys[start:end] - self._middle
        exact *= self._per_unit
        steps = np.rint(exact)
        out = np.abs(steps).dot(self._ones) > self._reach
        any_out = bool(out.any())
        if any_out:
            self._any_out = True
            steps[out] = 0
        self._in_steps(start, end)[:] = steps.T
        exact -= steps
        total, error = steps.dot(self._ones), np.abs(exact, out=exact).dot(self._ones)
        self._lower[start:end] = (total + error) / 2
        self._upper[start:end] = (total - error) / 2
        return any_out

    def _in_steps(self, start: int, end: int) -> Steps:
        """Return (width, n) of slots in one block."""
        first = start % _BLOCK
        return self._steps[start // _BLOCK][:, first : first + end - start]

    def _measure(self) -> None:
        """Write all keys anew, in steps from their median that suit most of them.

        That takes as long as some searches, and is due when many keys are others.
        """
        count = self.count
        parts = [slice(at, min(at + _FEW, count)) for at in range(0, count, _FEW)]
        self._middle[:] = np.median(self.keys[: count : 1 + count // _FEW], axis=0)
        norms = self._figures[:count]
        for part in parts:
            norms[part] = np.abs(self.keys[part] - self._middle).dot(self._ones)
        usual, great = count // 2, count - 1 - count // _OUT
        norms.partition((usual, great))
        reach = min(3 * float(norms[usual]), 1.25 * float(norms[great])) or float(norms[great])
        self._per_unit = min(_FINEST, self._reach / reach) if reach else _FINEST
        self._any_out = False
        for part in parts:
            self._write(part.start, part.stop)
        self._until_measured = count

    def _mark(self, key: Key) -> int:
        """Return the mark of the keys that are the same as this; a new one if there are none."""
        mark = hash(key.tobytes()) >> 1
        while True:
            same = (self._marks[: self.count] == mark).nonzero()[0]
            if not len(same) or np.array_equal(self.keys[same[0]], key):
                return mark
            mark += 1

    def _tell_younger(self, slot: int, more: int) -> int:
        """Count in the younger ones of the same keys; return how many are older."""
        same = (self._marks[: self.count] == self._marks[slot]).nonzero()[0]
        if len(same) == 1:
            return 0
        self._older[same[self.age[same] > self.age[slot]]] += more
        return int(np.count_nonzero(self.age[same] < self.age[slot]))


def _integer(width: int) -> type[np.signedinteger[Any]]:
    return np.int16 if width <= _NARROW else np.int32


def _check(key: Key) -> None:
    if not math.isfinite(key.dot(key)):
        raise DataError("has a value that is not finite, or beyond 1e18", where="key")
