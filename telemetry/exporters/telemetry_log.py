"""Snapshots as JSON lines in a file that is changed for a new one before it grows too long.

The newest are in ``PATH``, those before in ``PATH.1``, ``PATH.2`` and so on, without a gap
even after a crash in the midst of the change: opening the log closes it.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
from pathlib import Path

import msgspec

from ...models.errors import ConfigError
from ..line_file import open_lines, recover_tail
from ..snapshot import Snapshot

_log = logging.getLogger(__name__)

_BEGIN = b'{"session":'
_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}  # a disk may get over it


class TelemetryLog:
    """Appends one line per snapshot to files of mode 0600; one thread uses it.

    No file grows beyond ``max_bytes``, and ``keep`` older ones stay, so that all take
    ``(keep + 1) * max_bytes`` at most: where an earlier run has left more, the oldest go. A
    line that cannot be written, or that is longer than a file, is lost and counted, and no
    half of it stays; the next one tries again. ``recovered_bytes`` were a torn line's, cut off.

    Raises:
        ConfigError: the file cannot be made there, or one of them holds something else.
    """

    def __init__(self, path: Path, *, max_bytes: int = 10_000_000, keep: int = 4) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._keep = keep
        self._rotated_name = re.compile(rf"{re.escape(path.name)}\.([1-9][0-9]{{0,5}})")
        self._encoder = msgspec.json.Encoder()
        self._lines = self._lost = self._rotations = 0
        self.recovered_bytes = 0
        self._fd: int | None = None
        try:
            self._open()
            self._tidy(keep)
        except ConfigError as error:
            if not (isinstance(error.__cause__, OSError) and error.__cause__.errno in _PASSING):
                self.close()
                raise
            _log.warning("%s", error)
        except OSError as error:
            _log.warning("%s: %s", path, error)

    def offer(self, record: Snapshot) -> None:
        """Append a snapshot; it never raises."""
        line = self._encoder.encode(record) + b"\n"
        try:
            self._append(line)
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
            "telemetry_log_rotations": self._rotations,
        }

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _append(self, line: bytes) -> None:
        if len(line) > self._max_bytes:
            raise OSError(f"{len(line)} bytes are more than a file may have")
        fd = self._open()
        size = os.fstat(fd).st_size
        if size and size + len(line) > self._max_bytes:
            fd = self._rotate()
        try:
            _write(fd, line)
        except OSError:
            with contextlib.suppress(OSError):
                recover_tail(fd)
            self.close()  # opening it again cuts what could not be cut now
            raise

    def _open(self) -> int:
        """Return the newest file, open and without a torn line."""
        if self._fd is None:
            fd = open_lines(self._path, begin=_BEGIN, what="telemetry")
            try:
                self.recovered_bytes += recover_tail(fd)
            except OSError:
                os.close(fd)
                raise
            self._fd = fd
        return self._fd

    def _rotate(self) -> int:
        """Make the newest file the first of the older ones, and begin a new one."""
        self.close()
        if self._keep == 0:
            self._path.unlink()
        else:
            for number in range(self._tidy(self._keep - 1), 0, -1):
                self._older(number).rename(self._older(number + 1))
            self._path.rename(self._older(1))
            self._tidy(self._keep)  # where it was longer than files may be now
        self._rotations += 1
        return self._open()

    def _tidy(self, keep: int) -> int:
        """Leave the newest ``keep`` of the older files, numbered from 1; return how many."""
        kept: list[Path] = []
        room = keep * self._max_bytes
        for file in self._all_older():
            os.close(open_lines(file, begin=_BEGIN, what="telemetry"))  # or it is not ours
            room -= file.stat().st_size
            if len(kept) < keep and room >= 0:
                kept.append(file)
            else:
                file.unlink()
        for number, file in enumerate(kept, 1):
            if file != self._older(number):
                file.rename(self._older(number))
        return len(kept)

    def _all_older(self) -> list[Path]:
        """Return the older files, the newest first."""
        named = (
            (file, self._rotated_name.fullmatch(file.name)) for file in self._path.parent.iterdir()
        )
        numbered = sorted((int(found[1]), file) for file, found in named if found is not None)
        return [file for _, file in numbered]

    def _older(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _write(fd: int, line: bytes) -> None:
    written = os.write(fd, line)
    if written != len(line):
        raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes were written")
