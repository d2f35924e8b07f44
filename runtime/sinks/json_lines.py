"""Outcomes and events as JSON lines, in files that survive a crash and are bounded."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from ...models.errors import ConfigError
from ...models.records import Outcome
from ...telemetry.rotated_lines import RotatedLines
from ..events.event import Event
from .options import Which
from .sink import line_of, named, takes

BEGINS = (b'{"stream":', b'{"event":')
"""How the lines begin: of an outcome, and of an event."""


class JsonLines:
    """Appends one line per outcome or event, each in a single write, to files of mode 0600.

    A crash can lose or cut the last line only; opening the file again cuts the torn one
    off (``recovered_bytes``). So it is after a write that failed halfway on a full disk. When
    a new file is begun, and which older ones stay: `telemetry.rotated_lines`.

    Raises:
        ConfigError: the file cannot be written, or is there and holds something else.
    """

    def __init__(
        self,
        path: Path,
        *,
        labels: Mapping[str, tuple[str, ...]],
        which: Which = "all",
        max_bytes: int | None = None,
        max_age_s: float | None = None,
        keep: int = 4,
        keep_days: float | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._labels = labels
        self._which: Which = which
        self._wall = wall
        self._encoder = msgspec.json.Encoder()
        self._buffer = bytearray()
        self._lost = 0
        self._file: RotatedLines | None = RotatedLines(
            path,
            begins=BEGINS,
            what="outcomes",
            max_bytes=max_bytes,
            max_age_s=max_age_s,
            keep=keep,
            keep_days=keep_days,
            wall=wall,
        )
        self.recovered_bytes = self._file.recovered_bytes

    def emit(self, outcome: Outcome) -> None:
        """Append one line.

        Raises:
            OSError: the disk is full or gone; no half line stays behind.
        """
        if takes(self._which, outcome):
            labels = self._labels[outcome.stream]
            self._append(line_of(outcome, labels, at_s=round(self._wall(), 3)))

    def tell(self, event: Event) -> None:
        """Append one line, as `emit` does."""
        self._append(event)

    def counters(self) -> dict[str, int]:
        """Return how many lines could not be written."""
        return {"jsonl_lost": self._lost}

    def stop(self) -> None:
        """Do nothing: it is closed at once."""

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _append(self, line: Struct) -> None:
        if self._file is None:
            raise OSError(f"{self._path}: the file is closed")
        self._encoder.encode_into(line, self._buffer)
        self._buffer.append(0x0A)
        try:
            self._file.append(self._buffer)
        except OSError as error:
            self._lost += 1
            raise named(error, self._path) from error
        except ConfigError as error:  # something else has taken its place
            self._lost += 1
            raise OSError(str(error)) from error
