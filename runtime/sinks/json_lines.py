"""Outcomes as JSON lines in a file that survives a crash."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

import msgspec

from ...models.errors import ConfigError
from ...models.records import Outcome
from .sink import line_of

_BLOCK = 1 << 16
_BEGIN = b'{"stream":'


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


def _open(path: Path) -> int:
    """Open a file of outcomes, or a new one; never one that holds anything else."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path)) from error
    begin = os.pread(fd, len(_BEGIN), 0) if stat.S_ISREG(os.fstat(fd).st_mode) else None
    if begin is None or not _BEGIN.startswith(begin):
        os.close(fd)
        raise ConfigError(
            "is there already, and is no file of outcomes", where=str(path), hint="name another"
        )
    return fd


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
        self._fd: int | None = _open(path)
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
