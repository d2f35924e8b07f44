"""Makes the telemetry record every so often, in the loop's thread."""

from __future__ import annotations

from collections.abc import Callable

from ..telemetry.snapshot import Snapshot


class TelemetryFeed:
    """Calls ``record`` every ``every_s`` seconds and hands what it returns to ``offer``.

    ``record`` may read whatever the loop owns: it is called in the loop's thread, so that
    nothing has to be locked.
    """

    def __init__(
        self,
        offer: Callable[[Snapshot], None],
        *,
        record: Callable[[], Snapshot],
        every_s: float,
    ) -> None:
        self._offer = offer
        self._record = record
        self._every_ns = int(every_s * 1e9)
        self._due_ns: int | None = None

    def feed(self, now_ns: int) -> int:
        """Hand over a record if one is due; return when the next is. The first is due at once."""
        if self._due_ns is None or self._due_ns <= now_ns:
            self._due_ns = now_ns + self._every_ns
            self._offer(self._record())
        return self._due_ns
