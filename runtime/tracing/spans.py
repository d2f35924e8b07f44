"""A span as it is told, once it has ended, and who takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

Kind = Literal["internal", "producer", "consumer"]
Attributes = Mapping[str, str | int | float | bool]


class Span(NamedTuple):
    """One piece of work. Ids are those of `traceparent.Traceparent`, times CLOCK_BOOTTIME.

    ``remote``: the parent is another process's. ``error`` says why it failed; None: it did not.
    """

    name: str
    kind: Kind
    trace_id: int
    span_id: int
    parent_id: int | None
    begun_ns: int
    ended_ns: int
    attributes: Attributes
    error: str | None = None
    remote: bool = False


class Spans(Protocol):
    """Takes spans that have ended; one thread tells it of them, and never waits."""

    def tell(self, spans: Sequence[Span]) -> None:
        """Take a group of one trace, parents first, or none of it where there is no room."""

    def counters(self) -> dict[str, int]:
        """Return how many spans were sent, how many failed to be, and for how many was no room."""

    def close(self) -> None:
        """Send what can be sent within a second, and stop; closing twice is harmless."""
