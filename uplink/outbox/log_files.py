"""The files of a record log as they are found on opening: what counts, and what is missing.

A log is a row of files ``00000001.log``, ``00000002.log``, … in one folder, each beginning
with a head (`Head`), and a hint, ``tail``, of where the newest ends. Nothing here writes.

What counts of a file ends where the next begins: frames that a failed write has left there
bear numbers which the next file uses again. What is missing follows from the numbers.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import struct
from bisect import bisect_left
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

import msgspec
from msgspec import Struct

from . import frames
from .frames import Frame

_log = logging.getLogger(__name__)

FORMAT = 1
TAIL = "tail"
MAX_FILE_BYTES = 32 << 20
_NAME = re.compile(r"[0-9]{8,10}\.log")
_HINT = struct.Struct("<4sIQQQQB3x")
_CRC = struct.Struct("<I")
_BLOCK = 4096


class Point(NamedTuple):
    """A place between two frames: how many frames and records precede it."""

    number: int
    puts: int


class Gap(NamedTuple):
    """Frames that are missing, from one point to another."""

    begin: Point
    end: Point


class Head(Struct, frozen=True, array_like=True):
    """What the first frame of a file says.

    Files before the segment ``kept``, which begins at ``begin`` (number, puts), are not
    wanted any more. ``gaps`` have been counted before, oldest first. ``note`` is the
    owner's.
    """

    format: int
    kept: int
    begin: Point
    gaps: tuple[Gap, ...] = ()
    note: bytes = b""


class Hint(NamedTuple):
    """From where the log is wanted, and up to where a segment was durable.

    ``sealed``: what lies beyond that in the segment does not count.
    """

    segment: int
    begin: Point
    end: Point
    sealed: bool


class Found(Struct, frozen=True, gc=False):
    """A frame that counts; its payload begins at ``offset`` of its file."""

    kind: int
    puts: int
    segment: int
    offset: int
    payload: memoryview


class File(NamedTuple):
    """One file of the row, and what of it counts."""

    segment: int
    begin: Point
    end: Point
    size_bytes: int


class Row:
    """The files of one log, read once, oldest first.

    After `frames` has been exhausted, ``files`` tells of every file that is wanted,
    ``gaps`` of all that is missing, ``lost`` of those gaps that were committed and have not
    been counted before, and ``end`` where the next frame goes. ``stale`` files are left over
    from an interrupted clearing. Without a folder there is nothing.
    """

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder or Path()
        self.hint = None if folder is None else read_hint(folder)
        segments = [] if folder is None else segments_of(folder)
        self.head = self._newest_head(segments)
        kept = 0 if self.head is None else self.head.kept
        self.stale = [segment for segment in segments if segment < kept]
        self._segments = segments[len(self.stale) :]
        self.files: list[File] = []
        self.gaps: list[Gap] = []
        self.lost: list[Gap] = []
        self.damaged: set[int] = set()
        self.end = self._begin()
        self.last_segment = max(self.hint.segment if self.hint else 0, *segments, kept, 0)

    def _begin(self) -> Point:
        """Return from where the log is wanted, as the later of head and hint says."""
        begin = Point(0, 0) if self.head is None else self.head.begin
        return begin if self.hint is None else max(begin, self.hint.begin)

    @property
    def format(self) -> int:
        """Return the format in which the newest file was written."""
        return FORMAT if self.head is None else self.head.format

    def frames(self) -> Iterator[Found]:
        """Yield every frame that counts, in order.

        Raises:
            FileNotFoundError: a file has gone meanwhile: another process owns the log.
        """
        pending: tuple[int, bytes, list[Frame]] | None = None
        for segment in self._segments:
            data = _read(self._folder / file_name(segment))
            found = list(frames.scan(data, segment=segment))
            if not found:
                self.files.append(File(segment, self.end, self.end, len(data)))
                continue
            if pending is not None:
                yield from self._count(*pending, until=found[0].number)
            pending = (segment, data, found)
        if pending is not None:
            hint, newest = self.hint, pending[0]
            sealed = hint is not None and hint.sealed and hint.segment == newest
            yield from self._count(
                *pending, until=hint.end.number if hint and sealed else frames.ENDLESS
            )
        self._finish()

    def _count(
        self, segment: int, data: bytes, found: list[Frame], *, until: int
    ) -> Iterator[Found]:
        """Yield a file's frames up to a number, and note what is missing before each."""
        view = memoryview(data)
        number, puts = self.end
        if self.head is None and self.hint is None and not self.files:
            number, puts = found[0].number, found[0].puts
        begin = Point(found[0].number, found[0].puts)
        for one in found:
            if one.number >= until or one.number < number or one.puts < puts:
                continue
            if one.number > number:
                gap = Gap(Point(number, puts), Point(one.number, one.puts))
                self._miss(gap, segment, found[0] if one is found[0] else None)
            number, puts = one.number + 1, one.puts
            if one.kind == frames.PUT:
                puts += 1
            if one.kind != frames.HEAD:
                yield Found(one.kind, one.puts, segment, one.begin, view[one.begin : one.end])
        self.end = Point(number, puts)
        self.files.append(File(segment, begin, self.end, len(data)))

    def _miss(self, gap: Gap, segment: int, first: Frame | None = None) -> None:
        """Note a gap before a frame of a file, which may be its first."""
        self.gaps.append(gap)
        known = () if self.head is None else self.head.gaps
        pieces = (self._committed(piece, segment) for piece in _without(gap, known))
        lost = [piece for piece in pieces if piece is not None]
        self.lost += lost
        if lost and (first is None or first.kind != frames.HEAD):
            self.damaged.add(segment)
        elif lost:  # the file is whole: one before it is cut short, or missing
            before = max((one.segment for one in self.files if one.begin < one.end), default=0)
            self.damaged.update(range(before + 1, segment) or (before,))

    def _committed(self, gap: Gap, segment: int) -> Gap | None:
        """Return what of a gap was ever durable: a power cut tears the end of the newest file."""
        if self.hint is None or segment != max(self._segments, default=0):
            return gap
        if self.hint.segment != segment or self.hint.end.number <= gap.begin.number:
            return None
        return Gap(gap.begin, min(gap.end, self.hint.end))

    def _finish(self) -> None:
        """See whether the end of the newest file is missing, or all of it."""
        self.files.sort()
        if self.hint is not None and self.hint.end > self.end:
            end = Point(self.hint.end.number, max(self.hint.end.puts, self.end.puts))
            self._miss(Gap(self.end, end), self.hint.segment)
            self.end = end

    def _newest_head(self, segments: list[int]) -> Head | None:
        for segment in reversed(segments):
            data = _read(self._folder / file_name(segment))
            first = next(frames.scan(data, segment=segment), None)
            if first is not None and first.kind == frames.HEAD:
                head = _head(data[first.begin : first.end])
                if 0 <= head.kept <= segment and _is_sane(head.begin):
                    return head
        return None


_read_head = msgspec.msgpack.Decoder(Head).decode


def _head(payload: bytes) -> Head:
    """Return what a head says; of one in an unknown format no more than that format."""
    try:
        return _read_head(payload)
    except (ValueError, RecursionError):
        with contextlib.suppress(ValueError, RecursionError):
            match msgspec.msgpack.decode(payload):
                case [int(number), *_]:
                    return Head(number, 0, Point(0, 0))
    return Head(FORMAT + 1, 0, Point(0, 0))


def _without(gap: Gap, known: Sequence[Gap]) -> Iterator[Gap]:
    """Yield what of a gap lies in none of those that are known."""
    begin = gap.begin
    for one in known:
        if begin < one.end and one.begin < gap.end:
            if begin < one.begin:
                yield Gap(begin, one.begin)
            begin = one.end
    if begin < gap.end:
        yield Gap(begin, gap.end)


def missing(gaps: Sequence[Gap], *, over: Collection[int]) -> int:
    """Return how many records lie in gaps, but for those ``over``, which are needed no more.

    It does not walk: a forged gap can be as wide as numbers go.
    """
    known = sorted(over)
    return sum(
        gap.end.puts
        - gap.begin.puts
        - (bisect_left(known, gap.end.puts) - bisect_left(known, gap.begin.puts))
        for gap in gaps
    )


def file_name(segment: int) -> str:
    """Return the name of a segment's file."""
    return f"{segment:08d}.log"


def hint_bytes(hint: Hint) -> bytes:
    """Return the content of the file ``tail``."""
    fields = _HINT.pack(frames.MAGIC, hint.segment, *hint.begin, *hint.end, hint.sealed)
    return fields + _CRC.pack(crc32(fields))


def read_hint(folder: Path) -> Hint | None:
    """Return the hint; None where there is none that is whole."""
    data = b""
    with contextlib.suppress(OSError):
        data = _read(folder / TAIL)
    fields, rest = data[: _HINT.size], data[_HINT.size :]
    if len(rest) != _CRC.size or _CRC.unpack(rest)[0] != crc32(fields):
        return None
    _, segment, number, puts, end_number, end_puts, sealed = _HINT.unpack(fields)
    begin, end = Point(number, puts), Point(end_number, end_puts)
    if segment >= frames.MAX_SEGMENT or not (_is_sane(begin) and _is_sane(end)):
        return None
    return Hint(segment, begin, end, bool(sealed))


def _is_sane(point: Point) -> bool:
    return 0 <= point.puts <= point.number < frames.ENDLESS


def segments_of(folder: Path) -> list[int]:
    """Return the segments whose files lie in the folder, oldest first."""
    try:
        names = [path.name for path in folder.iterdir()]
    except FileNotFoundError:
        return []
    found = sorted(int(name[:-4]) for name in names if _NAME.fullmatch(name))
    return [segment for segment in found if segment < frames.MAX_SEGMENT]


def _read(path: Path) -> bytes:
    """Return a file's bytes; zeros where the disk cannot read, nothing for what is no file.

    Raises:
        FileNotFoundError: it has gone.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        fd = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        _log.warning("%s: cannot be opened: %s", path, error)
        return b""
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return b""
        return _all_of(fd, min(status.st_size, MAX_FILE_BYTES))
    finally:
        os.close(fd)


def _all_of(fd: int, size: int) -> bytes:
    try:
        return os.pread(fd, size, 0)
    except OSError as error:
        _log.warning("a file of the log reads in part only: %s", error)
    data = bytearray(size)
    for at in range(0, size, _BLOCK):
        with contextlib.suppress(OSError):
            block = os.pread(fd, min(_BLOCK, size - at), at)
            data[at : at + len(block)] = block
    return bytes(data)
