"""What the frames of an outbox's log amount to: the asks that have not ended."""

from __future__ import annotations

import logging
from pathlib import Path

from msgspec import Struct

from . import stored
from .frames import HEADER_BYTES, PUT, record_of
from .lifetime import Stamp, read_stamp
from .log_files import Found, Row, file_name, missing
from .record_log import Place

_log = logging.getLogger(__name__)
_TRIES = 5


class Kept(Struct, kw_only=True, gc=False, eq=False):
    """What an outbox keeps in memory of an ask on disk, and how a `Shelf` sees it.

    ``final``: its user has the final outcome. The place is held flat, to be small.
    """

    number: int
    segment: int
    offset: int
    size: int
    score: float
    deadline_ns: int | None
    final: bool

    @property
    def size_bytes(self) -> int:
        """What it takes on disk."""
        return self.size + HEADER_BYTES

    @property
    def place(self) -> Place:
        """Where it lies."""
        return Place(self.number, self.segment, self.offset, self.size)

    def move(self, place: Place) -> None:
        """Note that it lies elsewhere now."""
        self.number, self.segment, self.offset, self.size = place


class Recovery:
    """The asks that a row of files holds, in the order in which they lie there.

    ``asks`` and ``sends`` are by id; ``order`` gives the ids in the order of sending. Times
    are the lifetime's as yet. ``lost`` counts the records that are missing and not known
    to have ended: at most so many asks were lost. ``unread`` are the numbers of those that
    are whole but not understood.
    """

    def __init__(self, row: Row) -> None:
        self.row = row
        self.asks: dict[str, Kept] = {}
        self.sends: dict[str, int] = {}
        self.unread: list[int] = []
        self.next_order = 0
        self.seen_ns = 0
        self._ids: dict[int, str] = {}
        self._orders: dict[str, int] = {}
        self._over: set[int] = set()  # numbers of records that are known to need no record
        for found in row.frames():
            if found.kind == PUT:
                self._put(found)
            else:
                self._mark(found)
        self.lost = missing(row.lost, over=self._over)
        self.unread = [number for number in self.unread if number not in self._over]
        self.order = sorted(self.asks, key=self._orders.__getitem__)
        del self._ids, self._orders, self._over

    @property
    def stamp(self) -> Stamp | None:
        """The moment at which the newest file was begun, if it is known."""
        return None if self.row.head is None else read_stamp(self.row.head.note)

    def _put(self, found: Found) -> None:
        try:
            told = stored.summary(found.payload)
        except ValueError as error:
            _log.warning("a record of the outbox is not understood: %s", error)
            self.unread.append(found.puts)
            return
        older = self.asks.pop(told.id, None)
        if older is not None:
            del self._ids[older.number]
        self.asks[told.id] = Kept(
            number=found.puts,
            segment=found.segment,
            offset=found.offset,
            size=len(found.payload),
            score=told.score,
            deadline_ns=told.deadline_ns,
            final=told.final,
        )
        self._ids[found.puts] = told.id
        self._orders[told.id] = told.order
        if told.sends:
            self.sends[told.id] = told.sends
        if told.order >= self.next_order:
            self.next_order = told.order + 1
        self.seen_ns = max(self.seen_ns, told.asked_at_ns)

    def _mark(self, found: Found) -> None:
        for number, word in stored.marks(found.payload):
            ask_id = self._ids.get(number)
            if ask_id is None or word == stored.MOVED:
                if word >= stored.MOVED:
                    self._over.add(number)
            elif word == stored.FINAL:
                self.asks[ask_id].final = True
            elif word == stored.SENT:
                self.sends[ask_id] = self.sends.get(ask_id, 0) + 1
            else:
                del self.asks[ask_id], self._ids[number]
                self.sends.pop(ask_id, None)


def read(folder: Path, kept: Kept) -> bytes | None:
    """Return an ask's payload without owning the outbox; None where it is not, or no more."""
    try:
        with (folder / file_name(kept.segment)).open("rb") as stream:
            stream.seek(kept.offset - HEADER_BYTES)
            data = stream.read(HEADER_BYTES + kept.size)
    except OSError:
        return None
    return record_of(data, segment=kept.segment, number=kept.number)


def survey(folder: Path) -> Recovery:
    """Read an outbox without owning it: what a moment's look shows.

    Raises:
        FileNotFoundError: its owner clears files away faster than they can be read.
    """
    for _ in range(_TRIES):
        try:
            return Recovery(Row(folder))
        except FileNotFoundError:
            continue
    return Recovery(Row(folder))
