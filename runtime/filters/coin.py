"""A coin that is thrown for every sample, and costs next to nothing where it seldom says yes."""

from __future__ import annotations

import math
from random import Random

_NEVER = 1 << 62


class Coin:
    """Says yes with probability ``share``: how often it says no before that is drawn beforehand."""

    __slots__ = ("_no", "_rng", "share")

    def __init__(self, share: float, *, rng: Random) -> None:
        self.share = share
        self._rng = rng
        self._no = self._gap()

    def throw(self) -> bool:
        """Throw it once."""
        self._no -= 1
        if self._no >= 0:
            return False
        self._no = self._gap()
        return True

    def _gap(self) -> int:
        """Return how often it says no until the next yes: geometric, from 0."""
        if self.share <= 0.0:
            return _NEVER
        if self.share >= 1.0:
            return 0
        return int(math.log(1.0 - self._rng.random()) / math.log1p(-self.share))
