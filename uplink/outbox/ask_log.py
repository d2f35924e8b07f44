"""The outbox's log: records and the words on them, on a disk that may be full or failing.

A record is durable before it counts. A word on a record may reach the disk a little later:
once written it survives the process, soon after that a power cut. What cannot be written
is owed, and tried again.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from ...telemetry.clock import Clock
from . import stored
from .record_log import MARK, PUT, Place, RecordLog

_log = logging.getLogger(__name__)

_SYNC_NS = 100_000_000  # how long a word may stay without being durable
_PAUSE_NS = 1_000_000_000  # between two tries of a disk that fails, while nothing else happens
_SWEEP_BYTES = 1 << 20  # of files in which nothing lives: they go without need
_Words = dict[tuple[int, int], None]


class AskLog:
    """A `RecordLog` of at most ``max_bytes`` that leaves ``min_free_bytes`` of its disk free.

    No method raises for the disk but `read`; the others say whether they succeeded, and
    count in ``counts``: disk_errors, no_space.
    """

    def __init__(
        self,
        log: RecordLog,
        folder: Path,
        *,
        max_bytes: int,
        min_free_bytes: int,
        clock: Clock,
        counts: dict[str, int],
    ) -> None:
        self._log = log
        self._folder = folder
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._clock = clock
        self._owed: _Words = {}  # not written
        self._written: _Words = {}  # perhaps not durable
        self._due_ns: int | None = None
        self._counts = counts

    @property
    def due_ns(self) -> int | None:
        """When `sync` is due; None: all is durable."""
        return self._due_ns

    @property
    def files(self) -> int:
        """How many files there are."""
        return self._log.files

    def counters(self) -> dict[str, int]:
        """Return what the log has done, and what it takes."""
        return {
            "commits": self._log.syncs,
            "log_files": self._log.files,
            "log_bytes": self._log.size_bytes,
        }

    def put(self, payloads: Sequence[bytes]) -> list[Place] | None:
        """Store records, and all words that are owed, durably; None: not one is stored."""
        if not payloads:
            return []
        frames = [(PUT, payload) for payload in payloads]
        if self._owed:
            frames.insert(0, (MARK, stored.pack_marks(self._owed)))
        places = self._append(frames)
        if places is not None:
            self._owed.clear()
            self._settled()
        return places

    def copy(self, old: Sequence[Place], payloads: Sequence[bytes]) -> list[Place] | None:
        """Store copies of records, and that the old ones have moved; None: nothing is done."""
        moved = stored.pack_marks((place.number, stored.MOVED) for place in old)
        places = self._append([*((PUT, payload) for payload in payloads), (MARK, moved)])
        if places is not None:
            self._settled()
            for place in old:
                self._log.release(place)
        return places

    def read(self, place: Place) -> bytes | None:
        """Return a record, or None where it is not what was written.

        Raises:
            OSError: the disk does not read it.
        """
        return self._log.read(place)

    def say(self, number: int, word: int) -> None:
        """Owe a word on the record of that number."""
        self._owed[number, word] = None
        if self._due_ns is None:
            self._due_ns = self._clock() + _SYNC_NS

    def end(self, place: Place, word: int) -> None:
        """Owe the last word on a record, which is not wanted any more."""
        self.say(place.number, word)
        self._log.release(place)

    def write(self) -> None:
        """Write the words that are owed; they are durable after the next `sync` or `put`."""
        if not self._owed:
            return
        frames = [(MARK, stored.pack_marks(self._owed))]
        if self._append(frames, sync=False) is not None:
            self._written.update(self._owed)
            self._owed.clear()

    def sync(self) -> None:
        """Make all words durable; where the disk fails it is due again after a pause."""
        if self._owed:
            frames = [(MARK, stored.pack_marks(self._owed))]
            if self._append(frames) is None:
                return
            self._owed.clear()
        else:
            try:
                self._log.sync()
            except OSError as error:
                self._give_up(error)
                self.write()  # into a new file, perhaps
                return
        self._settled()
        if self._log.idle_bytes > _SWEEP_BYTES:
            self.roll()

    def roll(self) -> bool:
        """Begin a new file and clear away old ones; False where the disk fails."""
        try:
            self._log.roll()
        except OSError as error:
            self._give_up(error)
            return False
        self._settled()
        return True

    def is_free(self, size: int) -> bool:
        """Whether the disk has room for so many bytes; what is not needed is cleared away."""
        if self._has_free(size):
            return True
        if self._log.idle_bytes and self.roll() and self._has_free(size):
            return True
        self._counts["no_space"] += 1
        return False

    def is_crowded(self, count: int, size: int) -> bool:
        """Whether old files should go before a new one is begun for so many records."""
        return self._log.crowded and not self._log.fits(count, size)

    def is_full(self, size: int, *, reserve: bool = True) -> bool:
        """Whether so many bytes go beyond the cap, or beyond three quarters of it."""
        cap = self._max_bytes * 3 // 4 if reserve else self._max_bytes
        return self._log.size_bytes + size > cap

    def oldest(self) -> list[int]:
        """Return the oldest files, whose living records would fit into one."""
        return self._log.oldest()

    def close(self) -> None:
        """Make durable what can be, and close the files."""
        if self._due_ns is not None:
            self.sync()
        self._log.close()

    def note(self, error: OSError) -> None:
        """Count a failure of the disk; the first is logged."""
        if not self._counts["disk_errors"]:
            _log.error("%s: the disk fails: %s", self._folder, error)
        self._counts["disk_errors"] += 1

    def _append(
        self, frames: Sequence[tuple[int, bytes]], *, sync: bool = True
    ) -> list[Place] | None:
        try:
            return self._log.append(frames, sync=sync)
        except OSError as error:
            self._give_up(error)
            return None

    def _settled(self) -> None:
        """Note that all that was written is durable."""
        self._written.clear()
        self._due_ns = self._clock() + _SYNC_NS if self._owed else None

    def _give_up(self, error: OSError) -> None:
        """Note that what was written and was not durable is owed again."""
        self.note(error)
        self._owed = {**self._written, **self._owed}
        self._written = {}
        self._due_ns = self._clock() + _PAUSE_NS if self._owed else None

    def _has_free(self, size: int) -> bool:
        try:
            disk = os.statvfs(self._folder)
        except OSError:
            return True  # then the disk itself will say what is wrong
        return disk.f_bavail * disk.f_frsize >= size + self._min_free_bytes
