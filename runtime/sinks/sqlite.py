"""Outcomes and events as rows of an SQLite file, written by a thread of its own."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from ...models.errors import ConfigError
from ...models.records import Outcome
from ...uplink.tally import Tally
from ..events.event import Event
from .options import Which
from .sink import left_s, takes
from .sqlite_file import SqliteFile, check_ours, move_aside
from .sqlite_schema import Row, event_row, outcome_row

_log = logging.getLogger(__name__)

_PASSING = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS}  # a disk may get over it
_QUEUE = 8192
_GROUP = 256
_AGAIN_S = 0.5  # between two tries of a file that is locked, or on a disk that is full
_FORGET_S = 60.0
_DAY_S = 86_400.0
_GOODBYE_S = 2.0
_ROW_BYTES = 300  # about what a row and its places in the indices take beside its arrays
_COUNTERS = ("rows", "dropped", "failed", "without_probs", "moved_aside", "tries_failed")


class _Told(NamedTuple):
    """What waits for the thread; ``labels`` are those of the outcome's stream."""

    at_s: float
    said: Outcome | Event
    labels: tuple[str, ...] = ()


class Sqlite:
    """Queues outcomes and events, and commits them together at the latest after ``commit_s``.

    ``queue`` bounds what waits while the file is locked, or its disk full; what comes beyond
    that is refused and counted. A damaged file is moved aside (``PATH.damaged``) and a new one
    begun. On closing what waits has ``goodbye_s`` to be written. How the file keeps to
    ``max_bytes``: `sqlite_file`; ``wall`` is Unix time.

    Raises:
        ConfigError: the file cannot be made, or is there and holds something else.
    """

    def __init__(
        self,
        path: Path,
        *,
        labels: Mapping[str, tuple[str, ...]],
        which: Which = "all",
        max_bytes: int = 256 << 20,
        keep_days: float | None = None,
        commit_s: float = 1.0,
        queue: int = _QUEUE,
        goodbye_s: float = _GOODBYE_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        _check_place(path)
        self._path = path
        self._labels = labels
        self._which: Which = which
        self._max_bytes = max_bytes
        self._keep_s = None if keep_days is None else keep_days * _DAY_S
        self._commit_s = commit_s
        self._bound = queue
        self._goodbye_s = goodbye_s
        self._wall = wall
        self._waiting: deque[_Told] = deque()
        self._file: SqliteFile | None = None
        self._forget_at_s = 0.0  # on the monotonic clock
        self._end_s: float | None = None  # closing: until then, on the monotonic clock
        self._full = threading.Event()  # or closing: commit now
        self._closing = threading.Event()
        self._tally = Tally(_COUNTERS, log=_log)
        self._thread = threading.Thread(target=self._work, name="hedge-sqlite", daemon=True)
        self._thread.start()

    def emit(self, outcome: Outcome) -> None:
        """Queue an outcome.

        Raises:
            OSError: the queue is full.
        """
        if takes(self._which, outcome):
            self._queue(_Told(self._wall(), outcome, self._labels[outcome.stream]))

    def tell(self, event: Event) -> None:
        """Queue an event, as `emit` does an outcome."""
        self._queue(_Told(self._wall(), event))

    def counters(self) -> dict[str, int]:
        """Return how many rows were committed and dropped, and what else was counted."""
        return {f"sqlite_{name}": count for name, count in self._tally.copy().items()}

    def stop(self) -> None:
        """Take no more, and give what waits a moment."""
        if self._end_s is None:
            self._end_s = time.monotonic() + self._goodbye_s
            self._closing.set()
            self._full.set()

    def close(self) -> None:
        """Commit what waits, if that can be done soon; closing twice is harmless."""
        self.stop()
        self._thread.join(left_s(self._end_s))

    def _queue(self, told: _Told) -> None:
        if len(self._waiting) >= self._bound or self._closing.is_set():
            self._tally.add("dropped")
            raise OSError(f"{self._path}: too many rows wait to be written")
        self._waiting.append(told)
        if len(self._waiting) == self._bound // 2:
            self._full.set()

    def _work(self) -> None:
        while not self._closing.is_set():
            self._full.wait(self._commit_s)
            if not self._closing.is_set():
                self._full.clear()
            while not self._commit_all() and not self._closing.wait(_AGAIN_S):
                pass  # the queue is bounded; what goes on coming is counted as dropped
        self._commit_all()
        self._tally.add("dropped", len(self._waiting))
        self._let_go()

    def _commit_all(self) -> bool:
        """Write what waits; return whether all of it is done with."""
        group: list[_Told] = []
        try:
            if self._file is None or not self._file.is_there:
                self._let_go()
                self._file = self._opened()
            self._forget(self._file)
            while self._waiting:
                group.clear()
                self._put(self._file, group)
        except (sqlite3.OperationalError, OSError) as error:  # another holds it, or no room: later
            self._waiting.extendleft(reversed(group))
            if self._file is not None and not self._file.has_tables:
                return self._begin_anew(error)
            self._tally.drop("tries_failed", f"{self._path}: not for now: {error}")
            return False
        except sqlite3.DatabaseError as error:
            if type(error) is sqlite3.DatabaseError:
                self._waiting.extendleft(reversed(group))
                return self._begin_anew(error)
            self._give_up(group, error)
        except Exception as error:  # noqa: BLE001 -- one row must not end the thread
            self._give_up(group, error)
        return not self._waiting

    def _put(self, file: SqliteFile, group: list[_Told]) -> None:
        """Move rows that wait into ``group``, as many as one commit may have, and commit them."""
        outcomes: list[Row] = []
        events: list[Row] = []
        size, short = 0, 0
        while self._waiting and len(group) < _GROUP and size < file.bounds.group_bytes // 2:
            told = self._waiting.popleft()
            group.append(told)
            if isinstance(told.said, Event):
                events.append(event_row(told.said, at_s=told.at_s))
                size += _ROW_BYTES + len(str(events[-1]))
                continue
            row = outcome_row(told.said, told.labels, at_s=told.at_s)
            if _probs_bytes(row) > file.bounds.group_bytes // 2:
                row, short = (*row[:-1], None), short + 1
            outcomes.append(row)
            size += _ROW_BYTES + _probs_bytes(row)
        file.put(outcomes, events)
        self._tally.add("rows", len(group))
        self._tally.add("without_probs", short)

    def _opened(self) -> SqliteFile:
        """Open the file, unless something else has taken its place.

        Raises:
            OSError: it has, or it cannot be opened.
            sqlite3.DatabaseError: it is damaged, or locked.
        """
        try:
            sound = check_ours(self._path)
        except ConfigError as error:
            raise OSError(str(error)) from error
        if not sound:
            raise sqlite3.DatabaseError("its beginning is gone")
        self._forget_at_s = 0.0
        return SqliteFile(self._path, max_bytes=self._max_bytes)

    def _forget(self, file: SqliteFile) -> None:
        """Every minute let go of what is too old."""
        now_s = time.monotonic()
        if self._keep_s is not None and now_s >= self._forget_at_s:
            self._forget_at_s = now_s + _FORGET_S
            file.forget(self._wall() - self._keep_s)

    def _begin_anew(self, error: Exception) -> bool:
        """Move a damaged file aside; return False: what waits is for the new one."""
        self._let_go()
        try:
            beside = move_aside(self._path)
        except OSError as why:
            self._tally.drop("tries_failed", f"{self._path}: damaged, and not to be moved: {why}")
            return False
        self._tally.add("moved_aside")
        said = " ".join(str(error).split())  # by SQLite in several lines
        _log.error("%s: damaged (%s); it is %s now, and a new one begins", self._path, said, beside)
        return False

    def _give_up(self, group: list[_Told], error: Exception) -> None:
        """Let rows go that no file takes."""
        self._tally.add("failed", len(group))
        _log.error("%s: %d rows were not written", self._path, len(group), exc_info=error)

    def _let_go(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _check_place(path: Path) -> None:
    """Check that the file can be written, and is ours or not there; make its folder.

    A disk that fails now is tried again, and again.

    Raises:
        ConfigError: says what is wrong.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if check_ours(path):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno not in _PASSING:
            raise ConfigError(f"cannot be written: {error.strerror}", where=str(path)) from error
        _log.warning("%s: not for now: %s", path, error.strerror)


def _probs_bytes(row: Row) -> int:
    return len(str(row[-1] or ""))
