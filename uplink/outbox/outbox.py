"""Where asks wait until they are answered: the protocol, and the outbox in memory.

An ask is pending, then in flight (sent, under a lease), and ends as one of `End`. The
device owes an ask from the moment `Outbox.put` has returned it as stored. One thread owns
an outbox; nothing of it but `Outbox.counters` may be called by another.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from ..wire import Request
from .shelf import Evict, Shelf

End = Literal["answered", "refused", "expired", "evicted", "dead", "lost"]
_OVERHEAD_BYTES = 512  # what an ask takes beside its body


class Record(Struct, frozen=True, kw_only=True, gc=False):
    """One ask as it is kept: what is sent, and what its answer has to fit.

    The request's own ``remaining_ms`` means nothing; it is computed at each sending from
    ``deadline_ns`` (CLOCK_BOOTTIME; None: never too late). ``score`` is the edge's doubt.
    Until ``answer_by_ns`` somebody waits for the final outcome (None: nobody does).
    """

    request: Request
    stream: str
    classes: int
    score: float
    deadline_ns: int | None
    answer_by_ns: int | None = None
    asked_at_ns: int = 0

    @property
    def id(self) -> str:
        """The sample's id."""
        return self.request.id

    @property
    def size_bytes(self) -> int:
        """What the record counts against the cap."""
        return len(self.request.body) + _OVERHEAD_BYTES


class Placed(NamedTuple):
    """What became of a group: ids not stored, and ids that gave way to it."""

    refused: Sequence[str]
    evicted: Sequence[str]


class Stats(NamedTuple):
    """How full an outbox is."""

    pending: int
    in_flight: int
    stored_bytes: int


class Outbox(Protocol):
    """A bounded store of asks; every change is complete when its method returns."""

    def put(self, records: Sequence[Record]) -> Placed:
        """Store a group in one commit; an id that is already stored is left as it is."""

    def due(self, limit: int, *, backlog: int | None = None) -> Iterable[Record]:
        """Give up to ``limit`` pending records in the order of sending.

        Those whose users wait for the final outcome come first; of the others no more than
        ``backlog`` are given or in flight.
        """

    def sent(self, ask_id: str, *, lease_until_ns: int) -> None:
        """Note that a record is in flight, to be sent again if no answer comes in time."""

    def sends(self, ask_id: str) -> int:
        """Return how often a record was sent."""

    def find(self, ask_id: str) -> Record | None:
        """Return the record of an ask that has not ended."""

    def settle(self, ends: Mapping[str, End]) -> None:
        """End asks, in one commit; ids that are not stored are passed over."""

    def final(self, ask_ids: Collection[str]) -> None:
        """Note that the users of these asks have their final outcome, whatever it was.

        From then on they are the backlog: sent after those whose users wait.
        """

    def recovered(self) -> Iterable[Record]:
        """Give the asks of an earlier run whose users still wait for the final outcome."""

    def expire(self, *, now_ns: int) -> list[str]:
        """End every ask whose deadline has passed, and return their ids.

        Those whose lease has lapsed become pending again, before all others.
        """

    def failures(self) -> Mapping[str, End]:
        """Return what ended by itself since the last call: dead or lost."""

    def requeue(self, undelivered: Collection[str] | None = None) -> None:
        """Make what is in flight pending again, since the connection was lost.

        ``undelivered`` are those that the broker had not acknowledged; without it, all are
        meant: the broker has forgotten us.
        """

    def recall(self, ask_id: str) -> None:
        """Make an ask in flight the next to be sent again: nobody has heard it."""

    def retry(self) -> None:
        """Make pending what is in flight not for the first time: the far end is back."""

    def next_ns(self) -> int | None:
        """Return when `expire` has something to do next: a deadline, the end of a lease."""

    def stats(self) -> Stats:
        """Return how full it is."""

    def counters(self) -> dict[str, int]:
        """Return what the outbox itself has counted."""

    def close(self) -> None:
        """Release what it holds."""


class MemoryOutbox:
    """An `Outbox` that forgets everything with the process.

    When full it gives up the asks of which the edge is surest, or the oldest; a newcomer
    may itself be the one. One that has ``max_strikes`` (`Shelf`) is dead.
    """

    def __init__(
        self,
        *,
        max_count: int = 4096,
        max_bytes: int = 64 << 20,
        evict: Evict = "surest",
        max_strikes: int = 16,
    ) -> None:
        self._max_bytes = max_bytes
        self._shelf: Shelf[Record] = Shelf(
            max_count=max_count, max_bytes=max_bytes, evict=evict, max_strikes=max_strikes
        )

    def put(self, records: Sequence[Record]) -> Placed:
        """Store a group; see `Outbox`."""
        new = {record.id: record for record in records if record.id not in self._shelf}
        gone = []
        for record in new.values():
            if record.size_bytes > self._max_bytes:
                gone.append(record.id)
            else:
                self._shelf.add(record.id, record, awaited=record.answer_by_ns is not None)
        excess = self._shelf.excess()
        for ask_id in excess:
            self._shelf.remove(ask_id)
        gone += excess
        return Placed(
            refused=[ask_id for ask_id in gone if ask_id in new],
            evicted=[ask_id for ask_id in gone if ask_id not in new],
        )

    def due(self, limit: int, *, backlog: int | None = None) -> list[Record]:
        """Return what to send; see `Outbox`."""
        return [self._shelf[ask_id] for ask_id in self._shelf.due(limit, backlog=backlog)]

    def sent(self, ask_id: str, *, lease_until_ns: int) -> None:
        """Note a sending; see `Outbox`."""
        self._shelf.sent(ask_id, lease_until_ns=lease_until_ns)

    def sends(self, ask_id: str) -> int:
        """Return how often a record was sent; see `Outbox`."""
        return self._shelf.sends(ask_id)

    def find(self, ask_id: str) -> Record | None:
        """Look up; see `Outbox`."""
        return self._shelf.get(ask_id)

    def settle(self, ends: Mapping[str, End]) -> None:
        """End asks; see `Outbox`."""
        self._shelf.heard(ends.values())
        for ask_id in ends:
            if ask_id in self._shelf:
                self._shelf.remove(ask_id)

    def final(self, ask_ids: Collection[str]) -> None:
        """Put them behind the others; see `Outbox`."""
        for ask_id in ask_ids:
            self._shelf.release(ask_id)

    def recovered(self) -> tuple[()]:
        """Return nothing; see `Outbox`."""
        return ()

    def expire(self, *, now_ns: int) -> list[str]:
        """End what is too late; see `Outbox`."""
        late = self._shelf.lapse(now_ns)
        for ask_id in late:
            self._shelf.remove(ask_id)
        return late

    def failures(self) -> dict[str, End]:
        """End what was sent too often; see `Outbox`."""
        dead: dict[str, End] = dict.fromkeys(self._shelf.worn(), "dead")
        self.settle(dead)
        return dead

    def requeue(self, undelivered: Collection[str] | None = None) -> None:
        """Make them pending; see `Outbox`."""
        self._shelf.requeue(undelivered)

    def recall(self, ask_id: str) -> None:
        """Make one pending; see `Outbox`."""
        self._shelf.recall(ask_id)

    def retry(self) -> None:
        """Make some pending; see `Outbox`."""
        self._shelf.retry()

    def next_ns(self) -> int | None:
        """Return when something lapses; see `Outbox`."""
        return self._shelf.next_ns()

    def stats(self) -> Stats:
        """Count; see `Outbox`."""
        return Stats(*self._shelf.counts())

    def counters(self) -> dict[str, int]:
        """Return nothing; see `Outbox`."""
        return {}

    def close(self) -> None:
        """Do nothing; see `Outbox`."""
