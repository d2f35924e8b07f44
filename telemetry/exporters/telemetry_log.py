"""Snapshots as JSON lines, in files that never grow without bound (`telemetry.rotated_lines`)."""

from __future__ import annotations

import logging
from pathlib import Path

import msgspec

from ...models.errors import ConfigError
from ..rotated_lines import RotatedLines
from ..snapshot import Snapshot

_log = logging.getLogger(__name__)

_BEGINS = (b'{"session":',)


class TelemetryLog:
    """Appends one line per snapshot to files of mode 0600; one thread uses it.

    No file grows beyond ``max_bytes``, and ``keep`` older ones stay, so that all take
    ``(keep + 1) * max_bytes`` at most. A line that cannot be written, or that is longer than a
    file, is lost and counted, and no half of it stays; the next one tries again.

    Raises:
        ConfigError: the file cannot be made there, or one of them holds something else.
    """

    def __init__(self, path: Path, *, max_bytes: int = 10_000_000, keep: int = 4) -> None:
        self._file = RotatedLines(
            path, begins=_BEGINS, what="telemetry", max_bytes=max_bytes, keep=keep
        )
        self._encoder = msgspec.json.Encoder()
        self._lines = self._lost = 0

    @property
    def recovered_bytes(self) -> int:
        """How many bytes of a torn line were cut off."""
        return self._file.recovered_bytes

    def offer(self, record: Snapshot) -> None:
        """Append a snapshot; it never raises."""
        line = self._encoder.encode(record) + b"\n"
        try:
            self._file.append(line)
        except (OSError, ConfigError) as error:
            self._lost += 1
            level = logging.DEBUG if self._lost & (self._lost - 1) else logging.WARNING
            _log.log(level, "telemetry was not written: %s", error)
        else:
            self._lines += 1

    def counters(self) -> dict[str, int]:
        """Return how many lines were written and lost, and how often a new file was begun."""
        return {
            "telemetry_log_lines": self._lines,
            "telemetry_log_lost": self._lost,
            "telemetry_log_rotations": self._file.rotations,
        }

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        self._file.close()
