"""An SQLite file of outcomes and events that keeps to a size, with its write-ahead log.

The log is bounded, too: it goes into the file in time, and where a reader's long transaction
keeps it from that nothing is written until the reader is done. Of the rest of ``max_bytes`` a
part stays free for the next rows; where they would take it, the oldest rows go. What they
leave free is used again, or, where it is much, given back to the disk.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ...models.errors import ConfigError
from ..sqlite_transaction import transaction
from .sqlite_schema import APPLICATION_ID, PUT_EVENT, PUT_OUTCOME, STEPS, Row

_MAGIC = b"SQLite format 3\x00"
_HEAD_BYTES = 100
_LOG_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_MAP = b"\x01\x00\x00\x00\x00" * 7  # each a root page, without a parent
_PAGE_BYTES = 4096
_LARGEST_LOG_BYTES = 4 << 20
_SHARED_MEMORY_BYTES = 1 << 16  # the log's index, PATH-shm
_BUSY_S = 0.25
_TABLES = ("outcome", "event")
_STEPS_AT_ONCE = 64  # of tidying, between two groups of rows


class PinnedError(OSError):
    """A reader's long transaction keeps the log from being emptied."""


class Bounds(NamedTuple):
    """How much each part of a file may take, in bytes and in pages of 4 KiB."""

    log_bytes: int
    group_bytes: int
    pages: int
    low_pages: int
    step_pages: int

    @classmethod
    def of(cls, max_bytes: int) -> Bounds:
        """Divide ``max_bytes`` up."""
        log_bytes = min(_LARGEST_LOG_BYTES, max_bytes // 4)
        pages = (max_bytes - log_bytes - _SHARED_MEMORY_BYTES) // _PAGE_BYTES
        return cls(
            log_bytes=log_bytes,
            group_bytes=log_bytes // 16,
            pages=pages,
            low_pages=pages - log_bytes // 2 // _PAGE_BYTES,
            step_pages=log_bytes // 8 // _PAGE_BYTES,
        )


class SqliteFile:
    """An open file, which one thread at a time uses.

    Raises:
        sqlite3.OperationalError: it is locked, or the disk is full or fails; for now.
        sqlite3.DatabaseError: it is damaged.
        OSError: it cannot be made there.
    """

    def __init__(self, path: Path, *, max_bytes: int) -> None:
        self._path = path
        self._log_path = path.with_name(f"{path.name}-wal")
        self.bounds = Bounds.of(max_bytes)
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._identity = _identity(os.fstat(fd))
        os.close(fd)
        self._base = sqlite3.connect(
            path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False
        )
        try:
            self._open(was_open=self._log_path.exists())
        except BaseException:
            self._base.close()
            raise

    @property
    def is_there(self) -> bool:
        """Whether its path still leads to it."""
        with contextlib.suppress(OSError):
            return _identity(self._path.stat()) == self._identity
        return False

    @property
    def has_tables(self) -> bool:
        """Whether they are there, as far as that can be found out: another may have dropped one."""
        names = "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name IN (?, ?)"
        with contextlib.suppress(sqlite3.Error):
            (found,) = self._base.execute(names, _TABLES).fetchone()
            return int(found) == len(_TABLES)
        return True

    def put(self, outcomes: Sequence[Row], events: Sequence[Row]) -> None:
        """Commit rows, `Bounds.group_bytes` of them at most.

        Raises:
            PinnedError: a reader keeps the log from being emptied.
        """
        self._make_room()
        self._empty_log()
        with transaction(self._base):
            self._base.executemany(PUT_OUTCOME, outcomes)
            self._base.executemany(PUT_EVENT, events)

    def forget(self, before_s: float) -> None:
        """Remove what is older than a time, and give back to the disk what is free."""
        for _ in range(_STEPS_AT_ONCE):
            gone = self._remove("outcome", before_s, self._rows_in_step("outcome"))
            gone += self._remove("event", before_s, self._rows_in_step("event"))
            if not gone:
                break
        self._give_back()

    def close(self) -> None:
        """Close it; what was committed stays."""
        self._base.close()

    def _open(self, *, was_open: bool) -> None:
        """Set the file up, and make its tables if need be."""
        self._base.execute("PRAGMA auto_vacuum = INCREMENTAL")  # before there is a table
        version = self._number("user_version")
        for number in range(version, len(STEPS)):
            with transaction(self._base):
                if number == 0:  # only now, so that who reads byte 68 knows it for ours
                    self._base.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                for statement in STEPS[number]:
                    self._base.execute(statement)
                self._base.execute(f"PRAGMA user_version = {number + 1}")
        if was_open:  # a crash; else it was closed in order
            (found,) = self._base.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)
        if not self.has_tables:
            raise sqlite3.DatabaseError("a table is missing")
        self._base.execute("PRAGMA journal_mode = WAL")
        self._base.execute("PRAGMA synchronous = FULL")
        self._base.execute("PRAGMA wal_autocheckpoint = 0")  # `_empty_log` does it
        self._base.execute(f"PRAGMA max_page_count = {self.bounds.pages}")

    def _make_room(self) -> None:
        """Let the oldest rows go until there is room for a group of new ones."""
        for _ in range(_STEPS_AT_ONCE):
            pages, free = self._number("page_count"), self._number("freelist_count")
            if pages - free > self.bounds.low_pages:
                self._remove_oldest()
            elif pages > self.bounds.pages:  # it was allowed to be larger
                self._vacuum()
            else:
                return

    def _remove_oldest(self) -> None:
        outcome_s, event_s = (self._oldest_s(table) for table in ("outcome", "event"))
        if event_s is not None and (outcome_s is None or event_s <= outcome_s):
            table, until_s = "event", outcome_s
        else:
            table, until_s = "outcome", None
        self._remove(table, until_s, self._rows_in_step(table))

    def _oldest_s(self, table: str) -> float | None:
        row = self._base.execute(f"SELECT at_s FROM {table} ORDER BY n LIMIT 1").fetchone()  # noqa: S608 -- ours
        return None if row is None else float(row[0])

    def _rows_in_step(self, table: str) -> int:
        """Return about how many rows of a table lie on as many pages as a step may touch."""
        first, last = self._base.execute(f"SELECT min(n), max(n) FROM {table}").fetchone()  # noqa: S608 -- ours
        used = self._number("page_count") - self._number("freelist_count")
        rows = 0 if first is None else last - first + 1
        return max(1, rows * self.bounds.step_pages // max(1, used))

    def _remove(self, table: str, until_s: float | None, count: int) -> int:
        """Remove the oldest rows of a table, up to a time; return how many went."""
        which = "ORDER BY n" if until_s is None else "WHERE at_s <= :until_s ORDER BY at_s"
        oldest = f"SELECT n FROM {table} {which} LIMIT :count"  # noqa: S608 -- ours
        self._empty_log()
        with transaction(self._base):
            done = self._base.execute(
                f"DELETE FROM {table} WHERE n IN ({oldest})",  # noqa: S608 -- ours
                {"until_s": until_s, "count": count},
            )
        return done.rowcount

    def _give_back(self) -> None:
        """Shorten the file where much of it is free."""
        for _ in range(_STEPS_AT_ONCE):
            if self._number("freelist_count") <= self._number("page_count") // 4:
                return
            self._vacuum()

    def _vacuum(self) -> None:
        self._empty_log()
        pages = self.bounds.step_pages // 2  # each is written several times
        # as a script: a step of the statement frees one page, and `execute` makes one step
        self._base.executescript(f"PRAGMA incremental_vacuum({pages})")

    def _empty_log(self) -> None:
        """Bring the log into the file once it is long: a transaction adds half as much at most.

        Raises:
            PinnedError: a reader keeps it from that.
        """
        half = self.bounds.log_bytes // 2
        if self._log_bytes() <= half:
            return
        self._base.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if self._log_bytes() > half:
            raise PinnedError("a reader's long transaction is in the way")

    def _log_bytes(self) -> int:
        try:
            return self._log_path.stat().st_size
        except FileNotFoundError:
            return 0

    def _number(self, pragma: str) -> int:
        (found,) = self._base.execute(f"PRAGMA {pragma}").fetchone()
        return int(found)


def check_ours(path: Path) -> bool:
    """Look at a file without opening it as a database; return False where it is damaged.

    What is not there, and what is empty, is ours to make. A damaged one is ours where it is not
    recognised as another's, but has the rest of one of ours, or the log of one beside it.

    Raises:
        ConfigError: it is something else, another program's, or written by a later version.
        OSError: it cannot be read.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return True
    head = _head(path) if stat.S_ISREG(mode) else b"no file"
    if not head:
        return True
    if not head.strip(b"\x00"):  # as a power cut leaves it
        return False
    if not head.startswith(_MAGIC):
        if _was_ours(path):
            return False
        what = "is there already, and is no database of outcomes"
        raise ConfigError(what, where=str(path), hint="name another")
    if len(head) < _HEAD_BYTES:
        return False
    version, owner = (int.from_bytes(head[at : at + 4], "big") for at in (60, 68))
    if owner != APPLICATION_ID:
        raise ConfigError("is another program's database", where=str(path), hint="name another")
    if version > len(STEPS):
        raise ConfigError(
            f"is of version {version}, and this hedge knows up to {len(STEPS)}",
            where=str(path),
            hint="name another, or install the newer hedge again",
        )
    return True


def move_aside(path: Path) -> Path:
    """Rename a damaged file, with its log, and return its new path; an earlier one goes.

    Raises:
        OSError: it cannot be.
    """
    beside = path.with_name(f"{path.name}.damaged")
    for end in ("-wal", "-shm", ""):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(f"{path.name}{end}").replace(f"{beside}{end}")
    return beside


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(_HEAD_BYTES)


def _was_ours(path: Path) -> bool:
    """Return whether a file without a database's head still has the rest of one of ours.

    It has a write-ahead log, or, as its second page, the map of the others, which begins with the
    roots of our tables and indices ("The SQLite Database File Format", 1.8, 4.1).
    """
    with path.open("rb") as file:
        file.seek(_PAGE_BYTES)
        if file.read(len(_MAP)) == _MAP:
            return True
    try:
        with path.with_name(f"{path.name}-wal").open("rb") as log:
            return log.read(4) in _LOG_MAGIC
    except FileNotFoundError:
        return False


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino
