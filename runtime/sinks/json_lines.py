"""Outcomes as JSON lines in a file that survives a crash."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ...models.records import Outcome
from ...telemetry.line_file import open_lines, recover_tail
from .sink import line_of

_BEGIN = b'{"stream":'


class JsonLines:
    """Appends one line per outcome, each in a single write, to a file of mode 0600.

    A crash can lose or cut the last line only; opening the file again cuts the torn one
    off (``recovered_bytes``). So it is after a write that failed halfway on a full disk.

    Raises:
        ConfigError: the file cannot be written, or is there and holds something else.
    """

    def __init__(self, path: Path, *, labels: Mapping[str, tuple[str, ...]]) -> None:
        self._labels = labels
        self._encoder = msgspec.json.Encoder()
        self._buffer = bytearray()
        self._fd: int | None = open_lines(path, begin=_BEGIN, what="outcomes")
        self.recovered_bytes = recover_tail(self._fd)

    def emit(self, outcome: Outcome) -> None:
        """Append one line.

        Raises:
            OSError: the disk is full or gone; no half line stays behind.
        """
        if self._fd is None:
            raise OSError("the file is closed")
        line = line_of(outcome, self._labels[outcome.stream])
        self._encoder.encode_into(line, self._buffer)
        self._buffer.append(0x0A)
        written = os.write(self._fd, self._buffer)
        if written != len(self._buffer):
            recover_tail(self._fd)
            raise OSError(f"only {written} of {len(self._buffer)} bytes were written")

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
