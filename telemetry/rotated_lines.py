"""Lines in a file that is changed for a new one before it grows too long or too old.

The newest are in ``PATH``, those before in ``PATH.1``, ``PATH.2`` and so on, without a gap
even after a crash in the midst of the change: opening it again closes the gap.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

from ..models.errors import ConfigError
from .line_file import open_lines, recover_tail

_log = logging.getLogger(__name__)

_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}  # a disk may get over it
_TIDY_S = 60.0  # between two looks for what has become too old
_HEAD_BYTES = 1 << 16
_DAY_S = 86_400.0


class _Stamp(Struct):
    """When a line was written, if it says so: Unix time."""

    at_s: float | None = None
    opened_at_s: float | None = None


class RotatedLines:
    """Appends lines to files of mode 0600; one thread uses it.

    Each line begins as one of ``begins`` does, ``what`` they are in the plural. No file grows
    beyond ``max_bytes``, and none takes lines for longer than ``max_age_s`` (or, where that is
    shorter, ``keep_days``); None: it may. ``keep`` older ones stay, so that all take
    ``(keep + 1) * max_bytes`` at most: where an earlier run has left more, the oldest go, and
    those whose last line is older than ``keep_days``. ``recovered_bytes`` were those of a torn
    line, cut off; ``rotations`` counts how often a new file was begun. ``wall`` is Unix time.

    Raises:
        ConfigError: the file cannot be made there, or one of them holds something else.
    """

    def __init__(
        self,
        path: Path,
        *,
        begins: tuple[bytes, ...],
        what: str,
        keep: int,
        max_bytes: int | None = None,
        max_age_s: float | None = None,
        keep_days: float | None = None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._path = path
        self._begins = begins
        self._what = what
        self._keep = keep
        self._max_bytes = max_bytes
        self._keep_s = None if keep_days is None else keep_days * _DAY_S
        ages = [age_s for age_s in (max_age_s, self._keep_s) if age_s is not None]
        self._max_age_s = min(ages, default=None)
        self._wall = wall
        self._older_name = re.compile(rf"{re.escape(path.name)}\.([1-9][0-9]{{0,5}})")
        self._fd: int | None = None
        self._begun_s: float | None = None  # when the newest file got its first line
        self._tidied_s = wall()
        self.recovered_bytes = 0
        self.rotations = 0
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

    def append(self, line: bytes | bytearray) -> None:
        """Append a line, with its end, in one write; where that fails no half of it stays.

        Raises:
            OSError: the disk is full or gone, or the line is longer than a file may be.
            ConfigError: something else has taken the file's place.
        """
        if self._max_bytes is not None and len(line) > self._max_bytes:
            raise OSError(f"{len(line)} bytes are more than a file may have")
        fd = self._open()
        if self._is_due(fd, len(line)):
            fd = self._rotate()
        try:
            _write(fd, line)
        except OSError:
            with contextlib.suppress(OSError):
                recover_tail(fd)
            self.close()  # opening it again cuts what could not be cut now
            raise

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _open(self) -> int:
        """Return the newest file, open and without a torn line."""
        if self._fd is None:
            fd = open_lines(self._path, begins=self._begins, what=self._what)
            try:
                self.recovered_bytes += recover_tail(fd)
                self._begun_s = None if self._max_age_s is None else _begun_s(fd)
            except OSError:
                os.close(fd)
                raise
            self._fd = fd
        return self._fd

    def _is_due(self, fd: int, coming: int) -> bool:
        """Return whether the line that comes wants a new file."""
        if self._max_bytes is not None:
            size = os.fstat(fd).st_size
            if size and size + coming > self._max_bytes:
                return True
        if self._max_age_s is None:
            return False
        now_s = self._wall()
        if self._keep_s is not None and not 0 <= now_s - self._tidied_s < _TIDY_S:
            self._tidy(self._keep)
        if self._begun_s is None or self._begun_s > now_s:  # empty, or the clock was set back
            self._begun_s = now_s
        return now_s - self._begun_s >= self._max_age_s

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
        self.rotations += 1
        fd = self._open()
        self._begun_s = self._wall()
        return fd

    def _tidy(self, keep: int) -> int:
        """Leave the newest ``keep`` of the older files, numbered from 1; return how many."""
        kept: list[Path] = []
        room = None if self._max_bytes is None else keep * self._max_bytes
        self._tidied_s = self._wall()
        for file in self._all_older():
            os.close(open_lines(file, begins=self._begins, what=self._what))  # or it is not ours
            found = file.stat()
            room = None if room is None else room - found.st_size
            old = self._keep_s is not None and self._tidied_s - found.st_mtime >= self._keep_s
            if len(kept) < keep and not old and (room is None or room >= 0):
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
            (file, self._older_name.fullmatch(file.name)) for file in self._path.parent.iterdir()
        )
        numbered = sorted((int(found[1]), file) for file, found in named if found is not None)
        return [file for _, file in numbered]

    def _older(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def _begun_s(fd: int) -> float | None:
    """Return when a file's first line was written, if need be its last; None: it has none."""
    head = os.pread(fd, _HEAD_BYTES, 0)
    if not head:
        return None
    try:
        stamp = msgspec.json.decode(head.partition(b"\n")[0], type=_Stamp)
    except msgspec.DecodeError:
        stamp = _Stamp()
    found = stamp.opened_at_s if stamp.at_s is None else stamp.at_s
    return os.fstat(fd).st_mtime if found is None else found


def _write(fd: int, line: bytes | bytearray) -> None:
    written = os.write(fd, line)
    if written != len(line):
        raise OSError(errno.ENOSPC, f"only {written} of {len(line)} bytes were written")
