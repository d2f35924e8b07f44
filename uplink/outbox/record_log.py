"""A log of records in checksummed frames, which survives kills, power cuts and damage.

Frames are appended to the newest of a row of small files, in one write, and are durable
after one fdatasync. No file holds more than ``max_puts`` records, so that no damage to one
file costs more. After a write that failed, the file is given up: the log goes on in a new
one, whose head says by its number where the old one ends, so that what the failed write
may have left there never counts. Files go oldest first, so that nothing that was said of a
record is forgotten before the record.

`log_files` says how a log is read; here it is written. One thread owns it.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import secrets
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from .frames import HEAD, HEADER_BYTES, MARK, PUT, frame, record_of
from .log_files import FORMAT, TAIL, Gap, Head, Hint, Point, Row, file_name, hint_bytes

__all__ = ["MARK", "PUT", "Place", "RecordLog"]
_log = logging.getLogger(__name__)

_MAX_FRAMES = 1024  # of a file: words on records, too, are lost with it
_MAX_GAPS = 1024
_READERS = 8
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Place(NamedTuple):
    """Where a record lies; ``number`` is its own for ever."""

    number: int
    segment: int
    offset: int
    size: int


class _File:
    """What is known of one file of the row."""

    __slots__ = ("begin", "live", "live_bytes", "size")

    def __init__(self, begin: Point, size: int) -> None:
        self.begin = begin
        self.size = size
        self.live = 0
        self.live_bytes = 0


class _Active:
    """The file that is written: ``size`` and ``end`` as written, and as durable."""

    __slots__ = ("durable_end", "durable_size", "fd", "frames", "puts", "salt", "segment", "size")

    def __init__(self, fd: int, segment: int, salt: int, *, size: int, end: Point) -> None:
        self.fd = fd
        self.segment = segment
        self.salt = salt
        self.size = self.durable_size = size
        self.durable_end = end
        self.puts = self.frames = 0


class RecordLog:
    """The writing end of a log whose files ``row`` has read.

    A record counts as live until `release`; ``living`` are those that the owner has found
    in the row and wants to keep, as (segment, size). The first append begins a new file.
    ``note`` is written into each head.
    """

    def __init__(
        self,
        folder: Path,
        row: Row,
        *,
        living: Iterable[tuple[int, int]],
        max_puts: int = 64,
        max_file_bytes: int = 4 << 20,
        note: Callable[[], bytes] = bytes,
    ) -> None:
        self._folder = folder
        self._max_puts = max_puts
        self._max_file_bytes = max_file_bytes
        self._note = note
        self._files = {one.segment: _File(one.begin, one.size_bytes) for one in row.files}
        self._gaps: list[Gap] = row.gaps
        self._end = row.end
        self._segment = row.last_segment
        self._found = row.files[-1].segment if row.files else None
        self._active: _Active | None = None
        self._readers: OrderedDict[int, int] = OrderedDict()
        self._tail: int | None = None
        self._live = 0
        self._live_bytes = 0
        self._size = sum(one.size_bytes for one in row.files)
        self.syncs = 0
        for segment, size in living:
            self._hold(segment, size)
        self._unlink(row.stale)

    @property
    def files(self) -> int:
        """How many files there are."""
        return len(self._files)

    @property
    def size_bytes(self) -> int:
        """How many bytes they take."""
        return self._size

    @property
    def idle_bytes(self) -> int:
        """How many bytes `roll` would free: the oldest files in which nothing lives."""
        dead = itertools.takewhile(lambda file: not file.live, self._files.values())
        return sum(file.size for file in dead)

    @property
    def crowded(self) -> bool:
        """Whether the files take far more than what lives in them."""
        few = 8 + 2 * self._live // self._max_puts
        dead_bytes = self._size - self._live_bytes
        return self.files > few or dead_bytes > self._live_bytes + 4 * self._max_file_bytes

    def fits(self, puts: int, size: int) -> bool:
        """Whether records of that many bytes in all can go where the last ones went."""
        active = self._active
        return (
            active is not None
            and active.puts + puts <= self._max_puts
            and active.frames < _MAX_FRAMES
            and (not active.frames or active.size + size <= self._max_file_bytes)
        )

    def release(self, place: Place) -> None:
        """Count a record as dead: its file may go."""
        self._release((place,))

    def append(self, payloads: Sequence[tuple[int, bytes]], *, sync: bool = True) -> list[Place]:
        """Write frames, in one write, and return the places of the records among them.

        With ``sync``, or a record among them, they are durable on return, and all that was
        appended before. The records are live. No group may hold more of them than a file.

        Raises:
            OSError: the disk is full or failing. None of them counts, nor does anything
                that has been appended since the last sync.
        """
        puts = sum(kind == PUT for kind, _ in payloads)
        size = sum(len(payload) + HEADER_BYTES for _, payload in payloads)
        active = self._room_for(puts, size)
        written, places, end = self._frames(payloads, active)
        for place in places:  # at once: from here on the hint counts them as wanted
            self._hold(place.segment, place.size)
        try:
            _write(active.fd, written, active.size)
        except OSError as error:
            if not self._undo(active, error):
                self._abandon(active)
            self._release(places)
            raise
        self._files[active.segment].size += size
        self._size += size
        active.size += size
        active.puts += puts
        active.frames += len(payloads)
        self._end = end
        if sync or puts:
            try:
                self._make_durable(active)
            except OSError:
                self._abandon(active)
                self._release(places)
                raise
        return places

    def sync(self) -> None:
        """Make durable what has been appended.

        Raises:
            OSError: nothing counts that has been appended since the last sync.
        """
        active = self._active
        if active is None or active.durable_size == active.size:
            return
        try:
            self._make_durable(active)
        except OSError:
            self._abandon(active)
            raise

    def roll(self) -> None:
        """Begin a new file, and clear away the oldest in which nothing lives.

        Raises:
            OSError: it cannot be made, or `sync` failed.
        """
        self._sync_found()
        self.sync()
        self._segment += 1
        segment, salt, begin = self._segment, secrets.randbits(32), self._end
        kept, first = self._kept(segment)
        self._gaps = [gap for gap in self._gaps if gap.end.number > first.number]
        head = Head(FORMAT, kept, first, _known(self._gaps), self._note())
        payload = msgspec.msgpack.encode(head)
        data = b"".join(  # twice: no single fault takes the head
            frame(HEAD, payload, segment=segment, salt=salt, number=number, puts=begin.puts)
            for number in (begin.number, begin.number + 1)
        )
        try:
            fd = self._create(segment, data)
        except OSError as error:
            if error.errno not in _NO_ROOM or not self._clear(kept):
                raise
            fd = self._create(segment, data)
        if self._active is not None:
            os.close(self._active.fd)
        self._end = Point(begin.number + 2, begin.puts)
        self._active = _Active(fd, segment, salt, size=len(data), end=self._end)
        self._files[segment] = _File(begin, len(data))
        self._size += len(data)
        self._hint(segment, self._end, sealed=False)
        self._unlink([one for one in self._files if one < kept])

    def read(self, place: Place) -> bytes | None:
        """Return a record, or None where it is not what was written.

        Raises:
            OSError: the disk does not read it.
        """
        fd = self._reader(place.segment)
        if fd is None:
            return None
        data = os.pread(fd, HEADER_BYTES + place.size, place.offset - HEADER_BYTES)
        return record_of(data, segment=place.segment, number=place.number)

    def oldest(self) -> list[int]:
        """Return the oldest files whose living records would fit into one together.

        The file that is written is not among them.
        """
        found: list[int] = []
        puts = size = 0
        for segment, file in self._files.items():
            if self._active is not None and segment == self._active.segment:
                break
            puts += file.live
            size += file.live_bytes
            if found and (puts > self._max_puts or size > self._max_file_bytes):
                break
            found.append(segment)
        return found

    def close(self) -> None:
        """Sync what can be, and close the files."""
        with contextlib.suppress(OSError):
            self.sync()
        if self._active is not None:
            os.close(self._active.fd)
            self._active = None
        while self._readers:
            os.close(self._readers.popitem()[1])
        if self._tail is not None:
            os.close(self._tail)
            self._tail = None

    def _hold(self, segment: int, size: int) -> None:
        self._count(segment, size + HEADER_BYTES, 1)

    def _release(self, places: Iterable[Place]) -> None:
        for place in places:
            self._count(place.segment, -(place.size + HEADER_BYTES), -1)

    def _count(self, segment: int, size: int, one: int) -> None:
        file = self._files.get(segment)
        if file is not None:
            file.live += one
            file.live_bytes += size
            self._live += one
            self._live_bytes += size

    def _room_for(self, puts: int, size: int) -> _Active:
        if not self.fits(puts, size):
            try:
                self.roll()
            except OSError:
                if puts or self._active is None:  # else a word more does not hurt
                    raise
        assert self._active is not None  # noqa: S101 -- or roll has raised
        return self._active

    def _frames(
        self, payloads: Sequence[tuple[int, bytes]], active: _Active
    ) -> tuple[bytes, list[Place], Point]:
        number, puts = self._end
        offset = active.size
        parts, places = [], []
        for kind, payload in payloads:
            offset += HEADER_BYTES
            parts.append(
                frame(
                    kind,
                    payload,
                    segment=active.segment,
                    salt=active.salt,
                    number=number,
                    puts=puts,
                )
            )
            if kind == PUT:
                places.append(Place(puts, active.segment, offset, len(payload)))
                puts += 1
            offset += len(payload)
            number += 1
        return b"".join(parts), places, Point(number, puts)

    def _make_durable(self, active: _Active) -> None:
        os.fdatasync(active.fd)
        self.syncs += 1
        active.durable_size = active.size
        active.durable_end = self._end
        self._hint(active.segment, self._end, sealed=False)

    def _undo(self, active: _Active, error: OSError) -> bool:
        """Take a write back that found no room; False where this file is not to be trusted."""
        try:
            os.ftruncate(active.fd, active.size)
            self._make_durable(active)
        except OSError:
            return False
        return error.errno in _NO_ROOM

    def _abandon(self, active: _Active) -> None:
        """Go back to what is durable, and never write this file again."""
        self._end = active.durable_end
        file = self._files[active.segment]
        self._size -= file.size - active.durable_size
        file.size = active.durable_size
        self._hint(active.segment, self._end, sealed=True)
        with contextlib.suppress(OSError):
            os.ftruncate(active.fd, active.durable_size)
        os.close(active.fd)
        self._active = None
        with contextlib.suppress(OSError):
            self.roll()

    def _kept(self, segment: int) -> tuple[int, Point]:
        """Return the oldest file in which something lives, or else the one to come."""
        for one, file in self._files.items():
            if file.live:
                return one, file.begin
        return segment, self._end

    def _clear(self, kept: int) -> bool:
        """Make room on a full disk: clear old files away before a new one says so.

        The hint says it instead, durably. False where nothing can be cleared.
        """
        active = -1 if self._active is None else self._active.segment
        idle = [one for one in self._files if one < kept and one != active]
        if not idle:
            return False
        self._hint(max(self._files), self._end, sealed=False)
        try:
            os.fdatasync(self._tail if self._tail is not None else -1)
        except OSError:
            return False
        self._unlink(idle)
        return True

    def _create(self, segment: int, data: bytes) -> int:
        """Make a new file durable, under its name, with its first bytes."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / file_name(segment)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _write(fd, data, 0)
            os.fsync(fd)
            self._sync_folder()
        except OSError:
            os.close(fd)
            with contextlib.suppress(OSError):
                path.unlink()
            raise
        return fd

    def _sync_found(self) -> None:
        """Make durable what a killed owner left in memory, before a new file counts on it."""
        if self._found is None:
            return
        path, self._found = self._folder / file_name(self._found), None
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
            try:
                os.fdatasync(fd)
            finally:
                os.close(fd)
        except OSError as error:
            _log.warning("%s may not be durable: %s", path, error)

    def _sync_folder(self) -> None:
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def _hint(self, segment: int, end: Point, *, sealed: bool) -> None:
        """Note where the log ends, for whoever finds its last file cut short."""
        _, begin = self._kept(segment)
        try:
            if self._tail is None:
                flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
                self._tail = os.open(self._folder / TAIL, flags, 0o600)
            os.pwrite(self._tail, hint_bytes(Hint(segment, begin, end, sealed)), 0)
        except OSError as error:
            _log.debug("no hint of the log's end: %s", error)

    def _unlink(self, segments: Sequence[int]) -> None:
        for segment in segments:
            file = self._files.pop(segment, None)
            self._size -= 0 if file is None else file.size
            fd = self._readers.pop(segment, None)
            if fd is not None:
                os.close(fd)
            try:
                (self._folder / file_name(segment)).unlink(missing_ok=True)
            except OSError as error:
                _log.debug("%s stays: %s", file_name(segment), error)

    def _reader(self, segment: int) -> int | None:
        if self._active is not None and segment == self._active.segment:
            return self._active.fd
        fd = self._readers.pop(segment, None)
        if fd is None:
            try:
                fd = os.open(self._folder / file_name(segment), os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
        self._readers[segment] = fd
        if len(self._readers) > _READERS:
            os.close(self._readers.popitem(last=False)[1])
        return fd


def _write(fd: int, data: bytes, offset: int) -> None:
    """Write all of it.

    Raises:
        OSError: the disk is full or failing.
    """
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]


def _known(gaps: Sequence[Gap]) -> tuple[Gap, ...]:
    """Return the gaps as a head tells of them; too many are told as one."""
    return tuple(gaps) if len(gaps) <= _MAX_GAPS else (Gap(gaps[0].begin, gaps[-1].end),)
