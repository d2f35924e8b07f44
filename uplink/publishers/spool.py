"""A queue of messages that others are to get at least once, in order, through kills and outages.

A message is in memory at first. It goes to disk when it has not been acknowledged within
``commit_within_s``, or when `Spool.commit` is called: so a healthy connection spares the
disk, and what is on disk is given again after a kill or a power cut. Each is given again
until `Spool.done`. On disk the spool is a record log; the payload of a record is::

    u8 version · u16 length of the topic · the topic · the message

Nothing here raises for a full, failing or damaged disk: what it cannot take stays in
memory, what it does not give back is lost, and both are counted. One thread owns a spool.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import struct
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from msgspec import Struct

from ...models.errors import UplinkError
from ...telemetry.clock import Clock, boottime_ns
from ..outbox import stored
from ..outbox.ask_log import AskLog
from ..outbox.frames import HEADER_BYTES, PUT
from ..outbox.log_files import Row, missing
from ..outbox.owner import lock
from ..outbox.quarantine import own_row, quarantine
from ..outbox.record_log import Place, RecordLog

_log = logging.getLogger(__name__)

_VERSION = 1
_HEAD = struct.Struct("<BH")
_GROUP = 256  # records in one commit, and in one file: what damage to it can cost
_MAX_FILE_BYTES = 1 << 20
_PAUSE_NS = 1_000_000_000  # between two tries of a disk that fails
_DONE, _GONE, _LOST = (stored.ENDS[end] for end in ("answered", "evicted", "lost"))
_COUNTERS = ("evicted", "dead", "recovered", "lost", "damaged_files", "disk_errors", "no_space")


class Parcel(NamedTuple):
    """A message to be sent; ``key`` names it to the spool, ``sends`` is how often it was."""

    key: int
    topic: str
    payload: bytes
    sends: int


class _Entry(Struct, gc=False, eq=False):
    """A message that has not been acknowledged; ``place`` is None while it is in memory."""

    size: int
    place: Place | None = None
    sends: int = 0


class Spool:
    """A bounded queue in the files of ``folder``, or, without one, in memory.

    ``max_count`` messages of ``max_bytes`` in all may wait; beyond that the oldest go. The
    files take at most twice as much, and leave ``min_free_bytes`` of their disk free. A
    message that was under way when ``max_sends`` connections were lost goes, too: it may
    have been the reason.

    Raises:
        UplinkError: another process owns the folder.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        max_count: int = 10_000,
        max_bytes: int = 16 << 20,
        min_free_bytes: int = 16 << 20,
        max_sends: int = 64,
        commit_within_s: float = 0.1,
        clock: Clock = boottime_ns,
    ) -> None:
        self._folder = folder
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._min_free_bytes = min_free_bytes
        self._max_sends = max_sends
        self._look_ns = int(commit_within_s * 1e9 / 2)  # what is there at two looks is committed
        self._clock = clock
        self._counts = dict.fromkeys(_COUNTERS, 0)
        self._keys = itertools.count()  # what is found on disk gets keys below 0
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._memory: dict[int, bytes] = {}  # records that are not on disk
        self._pending: dict[int, None] = {}  # in the order of their keys
        self._in_flight: set[int] = set()
        self._size = 0
        self._commit_ns: int | None = None
        self._seen = -1  # the newest key at the last look
        self._lock: int | None = None
        self._log: AskLog | None = None
        self._open()

    def __len__(self) -> int:
        """Return how many messages have not been acknowledged."""
        return len(self._entries)

    def put(self, topic: str, payload: bytes) -> None:
        """Take a message, into memory as yet."""
        name = topic.encode()
        record = b"".join((_HEAD.pack(_VERSION, len(name)), name, payload))
        key = next(self._keys)
        self._entries[key] = _Entry(len(record) + HEADER_BYTES)
        self._memory[key] = record
        self._pending[key] = None
        self._size += len(record) + HEADER_BYTES
        while len(self._entries) > self._max_count or self._size > self._max_bytes:
            self._evict(next(iter(self._entries)))
        if self._folder is not None and self._commit_ns is None:
            self._seen, self._commit_ns = key, self._clock() + self._look_ns

    def due(self, limit: int) -> Iterator[Parcel]:
        """Yield up to ``limit`` that wait, oldest first, as long as each is said to be `sent`."""
        while limit > 0 and self._pending:
            key = next(iter(self._pending))
            record = self._record(key)
            if record is None:
                continue
            topic, payload = _unpacked(record)
            yield Parcel(key, topic, payload, self._entries[key].sends)
            if key in self._pending:
                return
            limit -= 1

    def sent(self, key: int) -> None:
        """Note that a message that waits is under way."""
        del self._pending[key]
        self._in_flight.add(key)
        self._entries[key].sends += 1

    def done(self, key: int) -> None:
        """Let a message go that the broker has answered for; perhaps it has gone before."""
        if key in self._entries:
            self._remove(key, _DONE)

    def requeue(self) -> None:
        """Let all that is under way wait again, in its old order: the connection was lost."""
        flying, self._in_flight = self._in_flight, set()
        self._pending = dict.fromkeys(sorted([*flying, *self._pending]))
        for key in flying:
            if self._entries[key].sends >= self._max_sends:
                self._counts["dead"] += 1
                self._remove(key, _GONE)

    def commit(self) -> None:
        """Make durable what is in memory only."""
        self._commit_ns = None
        if self._folder is None or not self._memory:
            return
        if self._log is None:
            with contextlib.suppress(UplinkError):  # another has taken it; perhaps not for long
                self._open()
        keys = iter(list(self._memory))
        while group := list(itertools.islice(keys, _GROUP)):
            if not self._store(group):
                self._commit_ns = self._clock() + _PAUSE_NS
                return

    def tend(self, now_ns: int) -> None:
        """Do what is due: commit, and write down which messages on disk have gone."""
        if self._commit_ns is not None and self._commit_ns <= now_ns:
            self._look(now_ns)
        if self._log is None:
            return
        due_ns = self._log.due_ns
        if due_ns is not None and due_ns <= now_ns:
            self._log.sync()
        else:
            self._log.write()

    def next_ns(self) -> int | None:
        """Return when `tend` has something to do; None: nothing."""
        times = (self._commit_ns, None if self._log is None else self._log.due_ns)
        return min((at_ns for at_ns in times if at_ns is not None), default=None)

    def counters(self) -> dict[str, int]:
        """Return what was counted since the opening, what waits, and what the log takes."""
        on_disk = {} if self._log is None else self._log.counters()
        return {**self._counts, "waiting": len(self._entries), **on_disk}

    def close(self) -> None:
        """Commit what can be, and release the folder."""
        self.commit()
        if self._log is not None:
            self._log.close()
            self._log = None
        self._unlock()

    def _look(self, now_ns: int) -> None:
        """Commit if anything has been in memory only since the last look."""
        if next(iter(self._memory), self._seen + 1) <= self._seen:
            self.commit()
        elif self._memory:
            self._seen, self._commit_ns = next(reversed(self._memory)), now_ns + self._look_ns
        else:
            self._commit_ns = None

    def _remove(self, key: int, word: int) -> None:
        """Take a message off, wherever it is."""
        entry = self._entries.pop(key)
        self._memory.pop(key, None)
        self._in_flight.discard(key)
        self._pending.pop(key, None)
        self._size -= entry.size
        if entry.place is not None and self._log is not None:
            self._log.end(entry.place, word)

    def _evict(self, key: int) -> None:
        self._counts["evicted"] += 1
        self._remove(key, _GONE)

    def _record(self, key: int) -> bytes | None:
        """Return a message's record; None where the disk does not give it back: it is lost."""
        record = self._memory.get(key)
        place = self._entries[key].place
        if record is None and place is not None and self._log is not None:
            try:
                record = self._log.read(place)
            except OSError as error:
                self._log.note(error)
        if not record or record[0] != _VERSION:
            self._counts["lost"] += 1
            self._remove(key, _LOST)
            return None
        return record

    def _store(self, keys: Sequence[int]) -> bool:
        """Commit one group; False where the disk does not take it."""
        records = [self._memory[key] for key in keys]
        if self._log is None or not self._make_room(self._log, sum(map(len, records))):
            return False
        places = self._log.put(records)
        if places is None:
            return False
        for key, place in zip(keys, places, strict=True):
            self._entries[key].place = place
            del self._memory[key]
        return True

    def _make_room(self, log: AskLog, size: int) -> bool:
        """Let the oldest files go while the log is at its cap; False where there is no room."""
        for _ in range(log.files + 1):
            if not log.is_full(size, reserve=False):
                return log.is_free(size)
            oldest = set(log.oldest())
            for key, entry in list(self._entries.items()):
                if entry.place is not None and entry.place.segment in oldest:
                    self._evict(key)
            if not log.roll():
                break
        return False

    def _open(self) -> None:
        """Own the folder and take up what it holds, as far as the disk lets us.

        Raises:
            UplinkError: another process owns it.
        """
        if self._folder is None:
            return
        try:
            self._lock = lock(self._folder)
            row = own_row(self._folder)
            living, lost = _living(row)
        except OSError as error:
            self._unlock()
            if not self._counts["disk_errors"]:
                _log.error("%s: no disk, so in memory only: %s", self._folder, error)
            self._counts["disk_errors"] += 1
            return
        if row.damaged:
            told = (len(row.damaged), len(living), lost)
            _log.error(
                "%s: %d files damaged; %d messages saved, at most %d lost", self._folder, *told
            )
            quarantine(self._folder, sorted(row.damaged))
        self._log = self._take_up(self._folder, row, living)
        self._counts["recovered"] += len(living)
        self._counts["lost"] += lost
        self._counts["damaged_files"] += len(row.damaged)
        if row.lost:  # two heads say that this has been counted, should one be lost in its turn
            self._log.roll()
            self._log.roll()

    def _take_up(self, folder: Path, row: Row, living: Mapping[int, Place]) -> AskLog:
        """Queue what was found on disk, before all that is queued already."""
        records = RecordLog(
            folder,
            row,
            living=((place.segment, place.size) for place in living.values()),
            max_puts=_GROUP,
            max_file_bytes=min(_MAX_FILE_BYTES, self._max_bytes // 8),
        )
        later = list(self._entries.items())
        self._entries.clear()
        for key, place in enumerate(living.values(), start=-len(living)):
            size = place.size + HEADER_BYTES
            self._entries[key] = _Entry(size, place)
            self._size += size
        self._pending = dict.fromkeys([*self._entries, *self._pending])
        self._entries.update(later)
        return AskLog(
            records,
            folder,
            max_bytes=2 * self._max_bytes,
            min_free_bytes=self._min_free_bytes,
            clock=self._clock,
            counts=self._counts,
        )

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _unpacked(record: bytes) -> tuple[str, bytes]:
    """Return the topic and the message of a record."""
    _, length = _HEAD.unpack_from(record)
    begin = _HEAD.size + length
    return record[_HEAD.size : begin].decode(), record[begin:]


def _living(row: Row) -> tuple[dict[int, Place], int]:
    """Return the places of the records that have not ended, by number, and how many are missing.

    Raises:
        FileNotFoundError: a file has gone meanwhile.
    """
    living: dict[int, Place] = {}
    over: set[int] = set()
    for found in row.frames():
        if found.kind == PUT:
            place = Place(found.puts, found.segment, found.offset, len(found.payload))
            living[found.puts] = place
            continue
        for number, _ in stored.marks(found.payload):
            if living.pop(number, None) is None:
                over.add(number)
    return living, missing(row.lost, over=over)
