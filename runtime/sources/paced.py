"""The pace of a source that goes by the clock: at a rate, or as fast as the loop asks."""

from __future__ import annotations


class Pace:
    """Says when the n-th capture is due. Without a rate every one is due at once."""

    __slots__ = ("_begun_ns", "_period_ns", "patient", "taken")

    def __init__(self, rate_hz: float | None) -> None:
        self._period_ns = None if rate_hz is None else 1e9 / rate_hz
        self._begun_ns: int | None = None
        self.patient = rate_hz is None
        self.taken = 0

    def due_ns(self) -> int:
        """Return when the next capture is due; 0, which is long ago, before the first."""
        if self._period_ns is None or self._begun_ns is None:
            return 0
        return self._begun_ns + int(self.taken * self._period_ns)

    def take(self, now_ns: int) -> int | None:
        """Return when the capture that is due now was taken, or None if none is due."""
        if self._begun_ns is None:
            self._begun_ns = now_ns
        due_ns = self.due_ns()
        if due_ns > now_ns:
            return None
        self.taken += 1
        return due_ns or now_ns
