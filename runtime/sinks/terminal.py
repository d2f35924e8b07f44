"""Outcomes and events on a terminal, one line each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

from ...models.records import Outcome
from ..events.event import Event
from .sink import line_of


class Terminal:
    """Writes one short line per outcome: stream, id, label, certainty, way, milliseconds.

    That of an event has its rule in the place of the way.
    """

    def __init__(self, *, labels: Mapping[str, tuple[str, ...]], out: TextIO | None = None) -> None:
        self._labels = labels
        self._out = sys.stdout if out is None else out

    def emit(self, outcome: Outcome) -> None:
        """Write one line."""
        line = line_of(outcome, self._labels[outcome.stream])
        sure = "" if line.probs is None else f"{max(line.probs):6.1%}"
        state = "final" if line.final else "first"
        why = line.degraded or line.reason or ""
        self._out.write(
            f"{line.stream:<12} {line.id:>12} {state} {line.route:<8} "
            f"{line.label or '-':<16} {sure:>6} {line.latency_ms:9.3f} ms  {why}\n"
        )

    def tell(self, event: Event) -> None:
        """Write one line."""
        sure = "" if event.peak is None else f"{event.peak:6.1%}"
        lasted_s = None if event.closed_at_s is None else event.closed_at_s - event.opened_at_s
        lasted = "" if lasted_s is None else f"{lasted_s:9.1f} s"
        clip = None if event.clip is None else event.clip.path or event.clip.why
        self._out.write(
            f"{event.stream:<12} {event.id:>12} event {event.event:<8} "
            f"{event.label:<16} {sure:>6} {lasted:>11}   {event.state} {clip or event.why or ''}\n"
        )

    def counters(self) -> dict[str, int]:
        """Return nothing: what it cannot write raises."""
        return {}

    def close(self) -> None:
        """Flush what was written."""
        self._out.flush()
