"""The scheduler: which stream's sample is next."""

from __future__ import annotations

from collections.abc import Sequence

from .lane import Lane


class RoundRobin:
    """Gives every lane that has a sample its turn, one after the other."""

    def __init__(self, lanes: Sequence[Lane]) -> None:
        self._lanes = lanes
        self._turn = 0

    def next(self, now_ns: int) -> Lane | None:
        """Return the next lane that is due, or None while none is."""
        count = len(self._lanes)
        for step in range(count):
            at = (self._turn + step) % count
            due_ns = self._lanes[at].due_ns()
            if due_ns is not None and due_ns <= now_ns:
                self._turn = at + 1
                return self._lanes[at]
        return None

    def due_ns(self) -> int | None:
        """Return when the first lane will be due; None where only the bell can tell."""
        return min(
            (due for lane in self._lanes if (due := lane.due_ns()) is not None), default=None
        )
