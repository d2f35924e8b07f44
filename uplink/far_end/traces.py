"""To whom a worker tells what it did for an ask, and the one who does not listen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from .worker_memory import Job


class Traces(Protocol):
    """Continues the traces of devices (``Request.traceparent``); no method but `close` waits.

    Times are those of the worker's clock.
    """

    def answered(self, jobs: Sequence[Job], *, begun_ns: int, ended_ns: int) -> None:
        """Take a batch that the model was called with at ``begun_ns`` and has answered."""

    def refused(self, job: Job, *, why: str, ended_ns: int) -> None:
        """Take an ask that was answered by an error."""

    def counters(self) -> dict[str, int]:
        """Return everything counted since the start, by name."""

    def close(self) -> None:
        """Send what can be sent within a second, and stop; closing twice is harmless."""


class NoTraces:
    """A `Traces` that continues none."""

    def answered(self, jobs: Sequence[Job], *, begun_ns: int, ended_ns: int) -> None:
        """Pass it over."""

    def refused(self, job: Job, *, why: str, ended_ns: int) -> None:
        """Pass it over."""

    def counters(self) -> dict[str, int]:
        """Return nothing."""
        return {}

    def close(self) -> None:
        """Do nothing."""
