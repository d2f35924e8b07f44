"""The frames of a record log: bytes that say what they are, where they belong, and are whole.

A frame is a header of 36 bytes and a payload, little-endian::

    4s magic · u32 crc · u32 length · u32 salt · u64 number · u64 puts · u8 kind · 3x

``number`` counts every frame of the log since its beginning, ``puts`` every record before
this frame. So any two frames tell how many frames and records are missing between them,
in one file or across several. The CRC-32 covers all that follows it, and starts from the
file's number. The salt is the file's, drawn at random: a record that itself holds frames,
of this log or another, is not taken apart when its own frame is damaged.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from zlib import crc32

from msgspec import Struct

MAGIC = b"\xf5hdg"
_HEADER = struct.Struct("<4sIIIQQB3x")
_FIELDS = struct.Struct("<IIQQB3x")
_BEGIN = struct.Struct("<4sI")
HEADER_BYTES = _HEADER.size
ENDLESS = 1 << 62
"""No log has so many frames: a larger number is forged, and what says it does not count."""

MAX_SEGMENT = 1 << 31
"""The same for files."""

_PATIENCE = 8  # times a file's size that may be spent on false beginnings

HEAD, PUT, MARK = 0, 1, 2
"""The kinds: a file's head; a record; a word on records that were put before."""


class Frame(Struct, frozen=True, gc=False):
    """A whole frame in a file: ``begin`` to ``end`` are its payload's bytes."""

    kind: int
    number: int
    puts: int
    begin: int
    end: int


def frame(kind: int, payload: bytes, *, segment: int, salt: int, number: int, puts: int) -> bytes:
    """Return a frame's bytes."""
    fields = _FIELDS.pack(len(payload), salt, number, puts, kind)
    crc = crc32(payload, crc32(fields, segment))
    return b"".join((_BEGIN.pack(MAGIC, crc), fields, payload))


def scan(data: bytes, *, segment: int) -> Iterator[Frame]:
    """Yield the whole frames of a file in order; the first gives its salt.

    What is no frame is passed over up to the next magic. A payload that was made to look
    like frames can cost time, but only so much; then the rest counts as damaged.
    """
    view, size = memoryview(data), len(data)
    at = number = puts = wasted = 0
    salt: int | None = None
    while 0 <= at <= size - HEADER_BYTES and wasted <= _PATIENCE * size:
        magic, crc, length, its_salt, its_number, its_puts, kind = _HEADER.unpack_from(data, at)
        begin = at + HEADER_BYTES
        end = begin + length
        if (
            magic == MAGIC
            and (its_salt == salt or salt is None)
            and its_number >= number
            and puts <= its_puts <= puts + its_number - number
            and its_number < ENDLESS
            and end <= size
        ):
            if crc32(view[at + _BEGIN.size : end], segment) == crc:
                salt = its_salt
                yield Frame(kind, its_number, its_puts, begin, end)
                at, number, puts = end, its_number + 1, its_puts + (kind == PUT)
                continue
            wasted += length
        at = data.find(MAGIC, at + 1)


def record_of(data: bytes, *, segment: int, number: int) -> bytes | None:
    """Return the payload of the record that ``data`` is; None where it is not that."""
    found = next(scan(data, segment=segment), None)
    if found is None or (found.kind, found.puts, found.end) != (PUT, number, len(data)):
        return None
    return data[found.begin :]
