"""The tracer as the loop sees it, and the one that traces nothing."""

from __future__ import annotations

from typing import Protocol

from ..lane import Waiting


class Tracer(Protocol):
    """Follows escalated samples; no method but `close` ever blocks or raises."""

    def begin(self) -> str | None:
        """Begin a trace; return the ``traceparent`` of its ask, None: it is not to be traced."""

    def end(
        self, waiting: Waiting, *, route: str, end: str, degraded: str | None, ended_ns: int
    ) -> None:
        """Tell of a sample that has its final outcome; one without a traceparent is passed over.

        ``route``, ``end`` and ``degraded`` are the outcome's; ``ended_ns`` is CLOCK_BOOTTIME.
        """

    def counters(self) -> dict[str, int]:
        """Everything counted since the start, by name."""

    def close(self) -> None:
        """Send what can be sent within a second, and stop; closing twice is harmless."""


class NullTracer:
    """A `Tracer` that traces nothing and counts nothing."""

    def begin(self) -> None:
        """Trace nothing."""

    def end(
        self, waiting: Waiting, *, route: str, end: str, degraded: str | None, ended_ns: int
    ) -> None:
        """Pass it over."""

    def counters(self) -> dict[str, int]:
        """Return nothing."""
        return {}

    def close(self) -> None:
        """Do nothing."""
