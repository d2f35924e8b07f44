"""Looking through a folder for files, in order, without keeping all of their names."""

from __future__ import annotations

import heapq
import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

_YOUNG_NS = 500_000_000


class Stamp(NamedTuple):
    """What a file is known by: it is another as soon as one of these is."""

    inode: int
    changed_ns: int
    size: int


class Found(NamedTuple):
    """A file, and how it was when it was found."""

    order: tuple[int, str]
    name: str
    stamp: Stamp


def stamp_of(status: os.stat_result) -> Stamp:
    """Return what a file is known by."""
    return Stamp(status.st_ino, status.st_mtime_ns, status.st_size)


class Look:
    """Finds the files of the folder ``fd`` that ``wanted`` allows, by name, once each.

    With ``since_ns`` (wall clock) only those that have changed or come since, by that time.
    What changes after the look has begun is not found: whoever looks is told of it otherwise.
    What changed within half a second before that may still be written to, and is held back as long.
    At most ``batch`` names are kept, for which the folder is read again and again.
    """

    def __init__(
        self, fd: int, *, wanted: Callable[[str], bool], since_ns: int | None, batch: int
    ) -> None:
        self._fd = fd
        self._wanted = wanted
        self._since_ns = since_ns
        self._batch = batch
        self._found: deque[Found] = deque()
        self._last: tuple[int, str] = (-1, "")
        self._began_ns = time.time_ns()
        self._began_s = time.monotonic()
        self.ended = False

    def take(self) -> Found | None:
        """Take the next file; None: it is held back, or nothing is left (``ended``).

        Raises:
            OSError: the folder cannot be read.
        """
        if not self._found:
            self._found.extend(heapq.nsmallest(self._batch, self._files()))
            self.ended = not self._found
        if self.ended or self._is_held(self._found[0]):
            return None
        found = self._found.popleft()
        self._last = found.order
        return found

    def _files(self) -> Iterator[Found]:
        now_ns = self._now_ns()
        with os.scandir(self._fd) as entries:
            for entry in entries:
                if not self._wanted(entry.name):
                    continue
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                at_ns = 0 if self._since_ns is None else status.st_ctime_ns
                order = (at_ns, entry.name)
                if order <= self._last or at_ns < (self._since_ns or 0):
                    continue
                if not self._began_ns <= status.st_mtime_ns <= now_ns + _YOUNG_NS:
                    yield Found(order, entry.name, stamp_of(status))

    def _is_held(self, found: Found) -> bool:
        young = 0 < self._began_ns - found.stamp.changed_ns < _YOUNG_NS
        return young and self._now_ns() < self._began_ns + _YOUNG_NS

    def _now_ns(self) -> int:
        """Return the time of the clock as it went when the look began, wherever it was set to."""
        return self._began_ns + int((time.monotonic() - self._began_s) * 1e9)
