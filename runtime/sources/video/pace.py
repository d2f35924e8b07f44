"""Which pictures are taken, and when those of a film are due."""

from __future__ import annotations

from ....telemetry.clock import Clock

_GAP_S = 10.0  # between two pictures of a film: more is a new timeline, not a pause


class Limit:
    """Takes at most ``rate_hz`` pictures a second, on a grid; None: every one."""

    def __init__(self, rate_hz: float | None) -> None:
        self._rate_hz = rate_hz
        self._origin_s: float | None = None
        self._last_s = 0.0
        self._slot = -1

    def takes(self, at_s: float) -> bool:
        """Return whether the picture of this moment is taken; a step back begins anew."""
        if self._rate_hz is None:
            return True
        if self._origin_s is None or at_s < self._last_s:
            self._origin_s, self._slot = at_s, -1
        self._last_s = at_s
        slot = int((at_s - self._origin_s) * self._rate_hz + 1e-6)
        if slot <= self._slot:
            return False
        self._slot = slot
        return True


class Pace:
    """Says when each picture of a film is due, if it is played at its own pace."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._origin: tuple[float, int] | None = None
        self._last_s = 0.0

    def due_ns(self, at_s: float) -> int:
        """Return when a picture that is shown at ``at_s`` of the film is due.

        The first one is due now, and so is one after a jump of the film's time.
        """
        if self._origin is None or not 0 <= at_s - self._last_s <= _GAP_S:
            self._origin = at_s, self._clock()
        self._last_s = at_s
        begun_s, begun_ns = self._origin
        return begun_ns + round((at_s - begun_s) * 1e9)
