"""Replay of a data set: every row of an npz once, in order."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from .paced import Pace
from .source import Captured


class Replay:
    """Gives the rows of ``x`` (n, *sample shape), at ``rate_hz`` or as fast as asked."""

    overrun = 0
    recorder = None

    def __init__(self, x: NDArray[Any], *, rate_hz: float | None = None) -> None:
        self._x = x
        self._pace = Pace(rate_hz)
        self.patient = self._pace.patient

    @property
    def ended(self) -> bool:
        """Whether every row was given."""
        return self._pace.taken >= len(self._x)

    def begin(self) -> None:
        """Do nothing: it is read when it is asked."""

    def state(self) -> None:
        """Return None: it is no live source."""

    def due_ns(self) -> int:
        """Return when the next row is due."""
        return self._pace.due_ns()

    def poll(self, now_ns: int) -> Captured | None:
        """Take the next row if it is due."""
        row = self._pace.taken
        taken_at_ns = self._pace.take(now_ns)
        if taken_at_ns is None:
            return None
        return Captured(self._x[row], taken_at_ns)

    def close(self) -> None:
        """Do nothing: the rows belong to whoever made the replay."""
