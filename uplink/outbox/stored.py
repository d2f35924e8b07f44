"""How an ask lies in the outbox's log: what is read at every start, and what only to send it.

A record's payload begins with what the outbox keeps in memory of it::

    u8 version · u8 final · u16 sends · u64 order · f64 score
    i64 deadline · i64 answer by · i64 asked at (on the outbox's `Lifetime`; least: none)
    u8 length · the id

and goes on with the message. ``order`` is the number under which it was first put: a record
that is copied keeps its turn. A mark is a row of ``u64 number · u8 word``.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec
from msgspec import Struct

from ..wire import Request
from .outbox import End, Record

VERSION = 1
_HEAD = struct.Struct("<BBHQdqqqB")
_COUNTS = struct.Struct("<BH")  # final and sends, from the second byte on
_MARK = struct.Struct("<QB")
_NEVER = -(1 << 63)
_FAR = 1 << 62  # a forged number beyond it would leave no room for what follows
_MAX_SENDS = 0xFFFF

FINAL, SENT, MOVED = 1, 2, 3
"""Words on a record: its user has a final outcome; it was sent; it was copied elsewhere."""

ENDS: Mapping[End, int] = {
    "answered": 16,
    "refused": 17,
    "expired": 18,
    "evicted": 19,
    "dead": 20,
    "lost": 21,
}
"""Words that end a record."""


class Summary(Struct, frozen=True, gc=False):
    """What the head of a stored record says; times are of the outbox's lifetime."""

    id: str
    final: bool
    sends: int
    order: int
    score: float
    deadline_ns: int | None
    answer_by_ns: int | None
    asked_at_ns: int


class _Message(Struct, frozen=True, array_like=True, gc=False):
    request: Request
    stream: str
    classes: int


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(_Message).decode

UPGRADES: Mapping[int, Callable[[bytes], bytes]] = {}
"""From a payload of an older version to one of the next."""


def pack(record: Record, *, order: int, ahead_ns: int) -> bytes:
    """Return a new record's payload; one that nobody waits for is final from the start."""
    ask_id = record.id.encode()
    head = _HEAD.pack(
        VERSION,
        record.answer_by_ns is None,
        0,
        order,
        record.score,
        _shifted(record.deadline_ns, ahead_ns),
        _shifted(record.answer_by_ns, ahead_ns),
        record.asked_at_ns + ahead_ns,
        len(ask_id),
    )
    return b"".join(
        (head, ask_id, _encode(_Message(record.request, record.stream, record.classes)))
    )


def summary(payload: bytes | memoryview) -> Summary:
    """Return what the head of a payload says.

    Raises:
        ValueError: it is none that this version reads.
    """
    try:
        if payload[0] != VERSION:
            return summary(_upgraded(bytes(payload), payload[0]))
        _, final, sends, order, score, deadline, answer_by, asked_at, length = _HEAD.unpack_from(
            payload
        )
        ask_id = str(payload[_HEAD.size : _HEAD.size + length], "ascii")
    except (struct.error, IndexError) as error:
        raise ValueError(f"no record: {error}") from error
    if order >= _FAR or asked_at >= _FAR:
        raise ValueError(f"a record that claims to be number {order}, asked at {asked_at}")
    return Summary(
        ask_id,
        final == 1,
        sends,
        order,
        score,
        None if deadline == _NEVER else deadline,
        None if answer_by == _NEVER else answer_by,
        asked_at,
    )


def unpack(payload: bytes, *, ahead_ns: int) -> Record:
    """Return the record that a payload holds, its times on this boot's clock.

    Raises:
        ValueError: it is none that this version reads.
    """
    told = summary(payload)
    if payload[0] != VERSION:
        payload = _upgraded(payload, payload[0])
    try:
        message = _decode(memoryview(payload)[_HEAD.size + payload[_HEAD.size - 1] :])
    except RecursionError as error:
        raise ValueError("a record that is nested too deeply") from error
    return Record(
        request=message.request,
        stream=message.stream,
        classes=message.classes,
        score=told.score,
        deadline_ns=None if told.deadline_ns is None else told.deadline_ns - ahead_ns,
        answer_by_ns=None if told.answer_by_ns is None else told.answer_by_ns - ahead_ns,
        asked_at_ns=told.asked_at_ns - ahead_ns,
    )


def copied(payload: bytes, *, final: bool, sends: int) -> bytes:
    """Return the payload of a copy, which carries what marks have said of the original."""
    if payload[0] != VERSION:
        payload = _upgraded(payload, payload[0])
    counts = _COUNTS.pack(final, min(sends, _MAX_SENDS))
    return b"".join((payload[:1], counts, payload[1 + _COUNTS.size :]))


def pack_marks(marks: Iterable[tuple[int, int]]) -> bytes:
    """Return the payload of a mark: words by the numbers of records."""
    return b"".join(_MARK.pack(number, word) for number, word in marks)


def marks(payload: memoryview) -> Iterator[tuple[int, int]]:
    """Yield the words of a mark's payload."""
    whole = len(payload) - len(payload) % _MARK.size
    yield from _MARK.iter_unpack(payload[:whole])


def _shifted(at_ns: int | None, ahead_ns: int) -> int:
    return _NEVER if at_ns is None else at_ns + ahead_ns


def _upgraded(payload: bytes, version: int) -> bytes:
    """Bring a payload of an older version forward, step by step."""
    while version != VERSION:
        upgrade = UPGRADES.get(version)
        if upgrade is None:
            raise ValueError(f"a record of version {version}; this one reads {VERSION}")
        payload, version = upgrade(payload), version + 1
    return payload
