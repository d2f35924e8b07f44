"""The scores that a stream has had of late: a ring that never grows."""

from __future__ import annotations

from array import array

import numpy as np
from numpy.typing import NDArray

SIZE = 2048


class Seen:
    """The last ``SIZE`` scores; ``count`` is how many there ever were.

    `put` is called for every sample: it allocates nothing and takes a tenth of a microsecond.
    """

    __slots__ = ("_ring", "_view", "count")

    def __init__(self) -> None:
        self._ring = array("d", bytes(8 * SIZE))
        self._view: NDArray[np.float64] = np.frombuffer(self._ring)
        self.count = 0

    def put(self, score: float) -> None:
        """Take in the next one."""
        self._ring[self.count % SIZE] = score
        self.count += 1

    def last(self, most: int = SIZE) -> NDArray[np.float64]:
        """Return (n,) the last ``most`` scores in order, or as many as there are; a copy."""
        n = min(most, self.count, SIZE)
        end = self.count % SIZE
        if n <= end:
            some: NDArray[np.float64] = self._view[end - n : end].copy()
            return some
        return np.concatenate([self._view[end - n :], self._view[:end]])
