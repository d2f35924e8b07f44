"""Outcomes on a terminal, one line each."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TextIO

from ...models.records import Outcome
from .sink import line_of


class Terminal:
    """Writes one short line per outcome: stream, id, label, certainty, way, milliseconds."""

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

    def close(self) -> None:
        """Flush what was written."""
        self._out.flush()
