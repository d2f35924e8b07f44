"""What every outbox keeps in its head: the order of sending, leases, deadlines, value.

It holds something for each ask that has not ended, whatever an outbox needs to find it
again; a `Shelf` never ends an ask by itself, it says which.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Collection, Iterable, Iterator
from typing import Generic, Literal, Protocol, TypeVar

Evict = Literal["surest", "oldest"]
NEEDLESS = -1.0
"""The doubt of what is asked though the edge is sure: less than any, so it gives way to all."""

_Entry = TypeVar("_Entry", tuple[int, str], tuple[float, int, str])
_SUSPECT = 4  # strikes after which a lost connection may be this ask's doing


class Shelved(Protocol):
    """What an outbox keeps of an ask.

    ``score`` is the edge's doubt, or `NEEDLESS`; ``deadline_ns`` (CLOCK_BOOTTIME; None: never)
    when the ask has no use any more.
    """

    @property
    def size_bytes(self) -> int:
        """What it counts against the cap."""

    @property
    def score(self) -> float:
        """How unsure the edge was."""

    @property
    def deadline_ns(self) -> int | None:
        """When it has no use any more."""


T = TypeVar("T", bound=Shelved)


class Shelf(Generic[T]):
    """The asks that wait or are in flight, within ``max_count`` and ``max_bytes``.

    Those whose user still waits are sent before all others, the backlog. Beyond a cap those
    of which the edge is surest have to go, or the oldest; `NEEDLESS` ones before all. An ask
    gets a strike when its lease lapses while others are answered, or when the connection is lost
    before the broker has it; that the far end is away is no strike. After ``max_strikes`` it is
    worn out.
    """

    def __init__(
        self, *, max_count: int, max_bytes: int, evict: Evict = "surest", max_strikes: int = 16
    ) -> None:
        self._max_count = max_count
        self._max_bytes = max_bytes
        self._evict = evict
        self._max_strikes = max_strikes
        self._items: dict[str, T] = {}
        self._pending: dict[str, None] = {}  # in the order of sending
        self._backlog: dict[str, None] = {}  # nobody waits for these, or no more
        self._unawaited: set[str] = set()  # ids of the backlog, in flight or not
        self._needless: dict[str, None] = {}
        self._leases: dict[str, tuple[int, int]] = {}  # until when; what was heard before
        self._strikes: dict[str, int] = {}
        self._heard = 0
        self._sends: dict[str, int] = {}
        self._worn: list[str] = []
        self._deadlines: list[tuple[int, str]] = []  # heaps; what has gone is passed over
        self._values: list[tuple[float, int, str]] | None = None  # made when first needed
        self._doomed: dict[str, tuple[float, int, str]] = {}
        self._added = 0
        self._bytes = 0

    def __contains__(self, ask_id: object) -> bool:
        return ask_id in self._items

    def __len__(self) -> int:
        return len(self._items)

    def __getitem__(self, ask_id: str) -> T:
        return self._items[ask_id]

    def get(self, ask_id: str) -> T | None:
        """Return what was kept of an ask."""
        return self._items.get(ask_id)

    def items(self) -> Iterator[tuple[str, T]]:
        """Return all, in the order in which they were added."""
        return iter(self._items.items())

    def add(self, ask_id: str, item: T, *, sends: int = 0, awaited: bool = True) -> None:
        """Put an ask at the end of those that wait."""
        self._items[ask_id] = item
        if not awaited:
            self._unawaited.add(ask_id)
        if item.score == NEEDLESS:
            self._needless[ask_id] = None
        self._line(ask_id)[ask_id] = None
        self._bytes += item.size_bytes
        if sends:
            self._sends[ask_id] = sends
        if item.deadline_ns is not None:
            heapq.heappush(self._deadlines, (item.deadline_ns, ask_id))
        if self._values is not None:
            heapq.heappush(self._values, (item.score, self._added, ask_id))
            self._added += 1

    def remove(self, ask_id: str) -> T:
        """Take an ask away and return what was kept of it."""
        item = self._items.pop(ask_id)
        self._bytes -= item.size_bytes
        self._line(ask_id).pop(ask_id, None)
        self._unawaited.discard(ask_id)
        self._needless.pop(ask_id, None)
        for known in (self._leases, self._sends, self._strikes, self._doomed):
            known.pop(ask_id, None)
        most = 2 * len(self._items) + 64
        if len(self._deadlines) > most:
            self._deadlines = _living(self._deadlines, self._items)
        if self._values is not None and len(self._values) > most:
            self._values = _living(self._values, self._items)
        return item

    def excess(self) -> list[str]:
        """Return which asks have to be removed for the caps to hold, cheapest first.

        They are still there; `spare` them if they are to stay.
        """
        found: list[str] = []
        count, size = len(self._items), self._bytes
        candidates = self._by_value() if self._evict == "surest" else self._by_age()
        while count > self._max_count or size > self._max_bytes:
            found.append(next(candidates))
            count -= 1
            size -= self._items[found[-1]].size_bytes
        return found

    def spare(self, ask_ids: Iterable[str]) -> None:
        """Keep asks that `excess` had named."""
        for ask_id in ask_ids:
            entry = self._doomed.pop(ask_id, None)
            if entry is not None and self._values is not None:
                heapq.heappush(self._values, entry)

    def _by_age(self) -> Iterator[str]:
        yield from self._needless
        yield from (one for one in self._items if one not in self._needless)

    def _by_value(self) -> Iterator[str]:
        """Yield all from the least doubtful on; what is yielded is `_doomed`."""
        if self._values is None:
            items = enumerate(self._items.items())
            self._values = [(item.score, place, ask_id) for place, (ask_id, item) in items]
            self._added = len(self._values)
            heapq.heapify(self._values)
        while True:
            entry = heapq.heappop(self._values)
            if entry[2] in self._items:
                self._doomed[entry[2]] = entry
                yield entry[2]

    def due(self, limit: int, *, backlog: int | None = None) -> list[str]:
        """Return the first ``limit`` that wait, in the order of sending.

        Of asks that nobody waits for, no more than ``backlog`` are returned or in flight.
        """
        found = list(itertools.islice(self._pending, limit))
        room = limit - len(found)
        if not (self._backlog and room):
            return found
        if backlog is not None:
            room = min(room, backlog - sum(one in self._unawaited for one in self._leases))
        return found + list(itertools.islice(self._backlog, max(0, room)))

    def defer(self, ask_id: str) -> None:
        """Make a waiting ask the last in the order of sending."""
        line = self._line(ask_id)
        if line.pop(ask_id, self) is None:
            line[ask_id] = None

    def release(self, ask_id: str) -> None:
        """Note that nobody waits for an ask any more: the others come first."""
        if ask_id in self._items and ask_id not in self._unawaited:
            waits = self._pending.pop(ask_id, self) is None
            self._unawaited.add(ask_id)
            if waits:
                self._backlog[ask_id] = None

    def _line(self, ask_id: str) -> dict[str, None]:
        return self._backlog if ask_id in self._unawaited else self._pending

    def sends(self, ask_id: str) -> int:
        """Return how often an ask was sent."""
        return self._sends.get(ask_id, 0)

    def sent(self, ask_id: str, *, lease_until_ns: int) -> None:
        """Note that an ask is in flight, until its lease lapses."""
        if ask_id in self._items:
            self._line(ask_id).pop(ask_id, None)
            self._leases[ask_id] = (lease_until_ns, self._heard)
            self._sends[ask_id] = self.sends(ask_id) + 1

    def heard(self, ends: Iterable[str]) -> None:
        """Note how asks ended: if the far end has answered one, it lives."""
        self._heard += any(end in {"answered", "refused"} for end in ends)

    def requeue(self, undelivered: Collection[str] | None = None) -> None:
        """Let what is in flight wait again: all of it, or what was ``undelivered``.

        They come first, but for those that were undelivered often: one of them may be what
        ended the connection, and shall not keep the others from their turn.
        """
        if undelivered is None:
            self._to_front(list(self._leases), struck=[])
        else:
            ids = list(dict.fromkeys(one for one in undelivered if one in self._leases))
            self._to_front(ids, struck=ids)
        for ask_id in [one for one, strikes in self._strikes.items() if strikes >= _SUSPECT]:
            self.defer(ask_id)

    def recall(self, ask_id: str) -> None:
        """Let an ask in flight be the next of its line: nobody has heard it."""
        if ask_id in self._leases:
            self._to_front([ask_id], struck=[])

    def retry(self) -> None:
        """Let what is in flight not for the first time wait again: the far end is back."""
        self._to_front([one for one in self._leases if self._sends[one] > 1], struck=[])

    def lapse(self, now_ns: int) -> list[str]:
        """Return those whose deadline has passed; lapsed leases put asks first in line."""
        late: dict[str, None] = {}
        while self._deadlines and self._deadlines[0][0] <= now_ns:
            at_ns, ask_id = heapq.heappop(self._deadlines)
            item = self._items.get(ask_id)
            if item is not None and item.deadline_ns == at_ns:
                late[ask_id] = None
        lapsed = {
            one: heard for one, (until_ns, heard) in self._leases.items() if until_ns <= now_ns
        }
        self._to_front(
            list(lapsed), struck=[one for one, heard in lapsed.items() if heard < self._heard]
        )
        return list(late)

    def worn(self) -> list[str]:
        """Return those worn out since the last call; they wait no more and are not in flight."""
        worn, self._worn = self._worn, []
        return [ask_id for ask_id in worn if ask_id in self._items]

    def next_ns(self) -> int | None:
        """Return the nearest deadline or end of a lease."""
        while self._deadlines and self._deadlines[0][1] not in self._items:
            heapq.heappop(self._deadlines)
        times = [until_ns for until_ns, _ in self._leases.values()]
        times += [at_ns for at_ns, _ in self._deadlines[:1]]
        return min(times, default=None)

    def counts(self) -> tuple[int, int, int]:
        """Return how many wait, how many are in flight, and the bytes of all."""
        return len(self._pending) + len(self._backlog), len(self._leases), self._bytes

    def _to_front(self, ask_ids: list[str], *, struck: list[str]) -> None:
        """Let asks in flight wait again, before the others of their line; some are worn out."""
        for ask_id in struck:
            self._strikes[ask_id] = self._strikes.get(ask_id, 0) + 1
        worn = {one for one in struck if self._strikes[one] >= self._max_strikes}
        self._worn += worn
        for ask_id in ask_ids:
            del self._leases[ask_id]
        fit = [one for one in ask_ids if one not in worn]
        awaited = [one for one in fit if one not in self._unawaited]
        if awaited:
            self._pending = dict.fromkeys([*awaited, *self._pending])
        if len(awaited) < len(fit):
            rest = [one for one in fit if one in self._unawaited]
            self._backlog = dict.fromkeys([*rest, *self._backlog])


def _living(heap: list[_Entry], ids: Collection[str]) -> list[_Entry]:
    """Return the heap without what has gone."""
    living = [entry for entry in heap if entry[-1] in ids]
    heapq.heapify(living)
    return living
