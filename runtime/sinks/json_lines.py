"""Outcomes as JSON lines in a file that survives a crash."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ...models.records import Outcome
from .sink import line_of

_BLOCK = 1 << 16


def recover_tail(fd: int) -> int:
    """Cut a last line that has no end, left by a crash; return how many bytes went."""
    size = end = os.fstat(fd).st_size
    while end > 0:
        begin = max(0, end - _BLOCK)
        newline = os.pread(fd, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end = begin
    if end < size:
        os.ftruncate(fd, end)
    return size - end


class JsonLines:
    """Appends one line per outcome, each in a single write, to a file of mode 0600.

    A crash can lose or cut the last line only; opening the file again cuts the torn one
    off (``recovered_bytes``). So it is after a write that failed halfway on a full disk.
    """

    def __init__(self, path: Path, *, labels: Mapping[str, tuple[str, ...]]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._labels = labels
        self._encoder = msgspec.json.Encoder()
        self._buffer = bytearray()
        self._torn = False
        self._fd: int | None = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self.recovered_bytes = recover_tail(self._fd)

    def emit(self, outcome: Outcome) -> None:
        """Append one line.

        Raises:
            OSError: the disk is full or gone; no half line stays behind.
        """
        if self._fd is None:
            raise OSError("the file is closed")
        if self._torn:
            recover_tail(self._fd)
            self._torn = False
        line = line_of(outcome, self._labels[outcome.stream])
        self._encoder.encode_into(line, self._buffer)
        self._buffer.append(0x0A)
        self._torn = True
        written = os.write(self._fd, self._buffer)
        if written != len(self._buffer):
            raise OSError(f"only {written} of {len(self._buffer)} bytes were written")
        self._torn = False

    def close(self) -> None:
        """Close the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
