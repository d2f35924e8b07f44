"""The outbox on disk: what it has stored, it owes, through kills, power cuts and damage.

The asks stay on disk; in memory is only what it takes to find and to order them. An ask
ends on disk when two things have happened: it was settled, and its user has the final
outcome (`DurableOutbox.final`). Until then a restart finds it again: it waits to be sent,
and `DurableOutbox.recovered` names it if its final outcome is still owed. What is in flight
is not noted beyond how often it was sent: after a restart it waits again.

Nothing here raises for a full, failing or damaged disk. What cannot be stored is refused,
what cannot be read is lost, and both are counted.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from ...models.errors import UplinkError
from ...telemetry.clock import Clock, boottime_ns
from . import stored
from .ask_log import AskLog
from .dead_letters import DeadLetters
from .lifetime import Lifetime, boot_id, synchronised_wall_ns
from .log_files import Row
from .outbox import End, Placed, Record, Stats
from .owner import lock
from .quarantine import own_row, quarantine
from .record_log import RecordLog
from .recovery import Kept, Recovery
from .shelf import Evict, Shelf

_log = logging.getLogger(__name__)

DEAD = "dead"
_GROUP = 64  # records in one commit, and in one file
_MAX_FILE_BYTES = 4 << 20
_MAX_RECORD_BYTES = 16 << 20
_MAX_ENDING = 4096
_RECENT_BYTES = 1 << 20
_COUNTERS = (
    *("recovered", "lost", "damaged_files", "dead", "copied", "unfinal"),
    *("disk_errors", "no_space"),
)


class DurableOutbox:
    """An `Outbox` in the files of ``folder``, which one process owns at a time.

    ``max_bytes`` bounds the files; half of it is for asks that wait, the rest lets what has
    ended be cleared away. ``min_free_bytes`` of the disk stay free for others. An ask that
    has ``max_strikes`` (`Shelf`) is dead, and laid aside. Where the folder cannot be opened
    all is refused, and the next group tries again.

    Raises:
        UplinkError: another process owns it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_count: int = 100_000,
        max_bytes: int = 256 << 20,
        min_free_bytes: int = 16 << 20,
        evict: Evict = "surest",
        max_strikes: int = 16,
        clock: Clock = boottime_ns,
        boot: str | None = None,
        wall: Callable[[], int | None] = synchronised_wall_ns,
    ) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._max_record_bytes = min(max_bytes // 8, _MAX_RECORD_BYTES)
        self._min_free_bytes = min_free_bytes
        self._clock = clock
        self._boot = boot_id() if boot is None else boot
        self._wall = wall
        self._counts = dict.fromkeys(_COUNTERS, 0)
        self._shelf: Shelf[Kept] = Shelf(
            max_count=max_count, max_bytes=max_bytes // 2, evict=evict, max_strikes=max_strikes
        )
        self._dead = DeadLetters(folder / DEAD, max_bytes=self._max_record_bytes)
        self._ending: dict[str, tuple[Kept, End]] = {}  # settled, but not yet final
        self._failed: dict[str, End] = {}
        self._recent: dict[str, Record] = {}  # what was stored last, so as not to read it again
        self._recent_bytes = 0
        self._order = 0
        self._ahead_ns = 0
        self._lock: int | None = None
        self._log = self._open()

    def put(self, records: Sequence[Record]) -> Placed:
        """Store a group; see `Outbox`. What the disk cannot take is refused."""
        if self._lock is None:
            with contextlib.suppress(UplinkError):  # another has taken it; perhaps not for long
                self._log = self._open()
        new = {record.id: record for record in records if not self._holds(record.id)}
        if self._lock is None:
            return Placed(list(new), [])
        refused: list[str] = []
        evicted: list[str] = []
        ids = iter(new)
        while group := list(itertools.islice(ids, _GROUP)):
            placed = self._store({ask_id: new[ask_id] for ask_id in group})
            refused += placed.refused
            evicted += placed.evicted
        self._log.write()
        refused += [ask_id for ask_id in evicted if ask_id in new]
        return Placed(refused, [ask_id for ask_id in evicted if ask_id not in new])

    def due(self, limit: int, *, backlog: int | None = None) -> Iterator[Record]:
        """Yield what to send, each read when its turn comes; see `Outbox`."""
        for ask_id in self._shelf.due(limit, backlog=backlog):
            record = self.find(ask_id)
            if record is not None:
                yield record

    def sent(self, ask_id: str, *, lease_until_ns: int) -> None:
        """Note a sending; see `Outbox`. It reaches the disk with whatever comes next."""
        kept = self._shelf.get(ask_id)
        if kept is not None:
            self._shelf.sent(ask_id, lease_until_ns=lease_until_ns)
            self._log.say(kept.number, stored.SENT)

    def sends(self, ask_id: str) -> int:
        """Return how often an ask was sent; see `Outbox`."""
        return self._shelf.sends(ask_id)

    def find(self, ask_id: str) -> Record | None:
        """Read an ask; see `Outbox`. None also where it cannot be read.

        If it is not what was written, it is lost; a disk that fails is tried again.
        """
        kept = self._shelf.get(ask_id)
        if kept is None:
            return None
        recent = self._recent.get(ask_id)
        if recent is not None:
            return recent
        try:
            payload = self._log.read(kept.place)
            if payload is not None:
                return stored.unpack(payload, ahead_ns=self._ahead_ns)
        except OSError as error:
            self._log.note(error)
            self._shelf.defer(ask_id)
            return None
        except ValueError as error:
            _log.warning("%s is not understood: %s", ask_id, error)
        self._lose([ask_id])
        return None

    def settle(self, ends: Mapping[str, End]) -> None:
        """End asks; see `Outbox`. On disk they end when they are final."""
        self._shelf.heard(ends.values())
        if self._end({ask_id: end for ask_id, end in ends.items() if ask_id in self._shelf}):
            self._log.write()

    def final(self, ask_ids: Collection[str]) -> None:
        """Note that the users of these asks have their final outcome; see `Outbox`."""
        for ask_id in ask_ids:
            kept = self._shelf.get(ask_id)
            if kept is not None:
                if not kept.final:
                    kept.final = True
                    self._shelf.release(ask_id)
                    self._log.say(kept.number, stored.FINAL)
            elif ask_id in self._ending:
                kept, end = self._ending.pop(ask_id)
                self._log.end(kept.place, stored.ENDS[end])
        self._log.write()

    def recovered(self) -> Iterator[Record]:
        """Yield the asks found on opening whose final outcome is owed; see `Outbox`."""
        for ask_id in [ask_id for ask_id, kept in self._shelf.items() if not kept.final]:
            record = self.find(ask_id)
            if record is not None:
                yield record

    def expire(self, *, now_ns: int) -> list[str]:
        """End what is too late; see `Outbox`."""
        late = self._shelf.lapse(now_ns)
        if late:
            self.settle(dict.fromkeys(late, "expired"))
        due_ns = self._log.due_ns
        if due_ns is not None and due_ns <= now_ns:
            self._log.sync()
        return late

    def failures(self) -> dict[str, End]:
        """Return what has ended by itself; see `Outbox`."""
        worn = self._shelf.worn()
        if worn:
            self._counts["dead"] += len(worn)
            self._failed.update(dict.fromkeys(worn, "dead"))
            for ask_id in worn:
                self._lay_aside(ask_id)
            self.settle(dict.fromkeys(worn, "dead"))
        failed, self._failed = self._failed, {}
        return failed

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
        """Return when something lapses or has to be made durable; see `Outbox`."""
        times = (self._shelf.next_ns(), self._log.due_ns)
        return min((at_ns for at_ns in times if at_ns is not None), default=None)

    def stats(self) -> Stats:
        """Count; see `Outbox`."""
        return Stats(*self._shelf.counts())

    def counters(self) -> dict[str, int]:
        """Return what was counted since the opening, and what the log takes now."""
        return {**self._counts, **self._log.counters()}

    def close(self) -> None:
        """Write what is owed, and release the folder."""
        self._log.close()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _open(self) -> AskLog:
        """Own the folder and take up what it holds, as far as the disk lets us.

        Raises:
            UplinkError: another process owns it.
        """
        try:
            self._lock = lock(self._folder)
            return self._take_up(Recovery(own_row(self._folder)))
        except OSError as error:
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None
            log = self._take_up(Recovery(Row(None)))
            log.note(error)
            return log

    def _take_up(self, recovery: Recovery) -> AskLog:
        """Begin with what was found on disk."""
        row = recovery.row
        if row.damaged:
            told = (len(row.damaged), len(recovery.asks), recovery.lost)
            _log.error("%s: %d files damaged; %d asks saved, at most %d lost", self._folder, *told)
            quarantine(self._folder, sorted(row.damaged))
        lifetime = Lifetime(
            last=recovery.stamp,
            seen_ns=recovery.seen_ns,
            clock=self._clock,
            boot=self._boot,
            wall=self._wall,
        )
        records = RecordLog(
            self._folder,
            row,
            living=((kept.segment, kept.size) for kept in recovery.asks.values()),
            max_puts=_GROUP,
            max_file_bytes=min(_MAX_FILE_BYTES, self._max_bytes // 16),
            note=lifetime.stamp,
        )
        for ask_id in recovery.order:
            kept = recovery.asks[ask_id]
            if kept.deadline_ns is not None:
                kept.deadline_ns -= lifetime.ahead_ns
            sends = recovery.sends.get(ask_id, 0)
            self._shelf.add(ask_id, kept, sends=sends, awaited=not kept.final)
        self._order = recovery.next_order
        self._ahead_ns = lifetime.ahead_ns
        self._counts["recovered"] += len(recovery.asks)
        self._counts["lost"] += recovery.lost + len(recovery.unread)
        self._counts["damaged_files"] += len(row.damaged)
        log = AskLog(
            records,
            self._folder,
            max_bytes=self._max_bytes,
            min_free_bytes=self._min_free_bytes,
            clock=self._clock,
            counts=self._counts,
        )
        for number in recovery.unread:
            log.say(number, stored.ENDS["lost"])
        if row.lost:  # two heads say that this has been counted, should one be lost in its turn
            log.roll()
            log.roll()
        return log

    def _holds(self, ask_id: str) -> bool:
        return ask_id in self._shelf or ask_id in self._ending

    def _store(self, group: Mapping[str, Record]) -> Placed:
        """Store one group of records, or refuse all of it."""
        payloads = self._payloads(group.values())
        if not payloads or not self._make_room(len(payloads), sum(map(len, payloads.values()))):
            return Placed(list(group), [])
        for ask_id, payload in payloads.items():
            record = group[ask_id]
            awaited = record.answer_by_ns is not None
            self._shelf.add(ask_id, _unplaced(record, size=len(payload)), awaited=awaited)
        victims = self._shelf.excess()
        for ask_id in victims:
            if payloads.pop(ask_id, None) is not None:  # a newcomer would be the first to go
                self._shelf.remove(ask_id)
        evicted = [ask_id for ask_id in victims if ask_id in self._shelf]
        if not payloads:  # nothing comes in, so nothing has to go
            self._shelf.spare(evicted)
            return Placed(list(group), [])
        places = self._log.put(list(payloads.values()))
        if places is None:
            for ask_id in payloads:
                self._shelf.remove(ask_id)
            self._shelf.spare(evicted)
            return Placed(list(group), [])
        for ask_id, place in zip(payloads, places, strict=True):
            self._shelf[ask_id].move(place)
            self._keep_at_hand(group[ask_id])
        self._end(dict.fromkeys(evicted, "evicted"))
        return Placed([ask_id for ask_id in group if ask_id not in payloads], evicted)

    def _payloads(self, records: Collection[Record]) -> dict[str, bytes]:
        """Return what is to be stored of those records that are not too large."""
        payloads = {}
        for record in records:
            payload = stored.pack(record, order=self._order, ahead_ns=self._ahead_ns)
            self._order += 1
            if len(payload) <= self._max_record_bytes:
                payloads[record.id] = payload
        return payloads

    def _make_room(self, count: int, size: int) -> bool:
        """Clear up where that helps; False where there is no room for the records."""
        log = self._log
        if not log.is_free(size):
            return False
        if log.is_crowded(count, size):
            self._evacuate()
        for _ in range(log.files + 1):
            if not log.is_full(size) or not (self._evacuate() and log.roll()):
                break
        return not log.is_full(size, reserve=False)

    def _evacuate(self) -> bool:
        """Copy what lives in the oldest files to the end of the log, so that they can go."""
        last = max(self._log.oldest(), default=-1)
        ending = ((ask_id, kept) for ask_id, (kept, _) in self._ending.items())
        everything = itertools.chain(ending, self._shelf.items())
        living = [(ask_id, kept) for ask_id, kept in everything if kept.segment <= last]
        payloads = {}
        for ask_id, kept in living:
            try:
                payload = self._log.read(kept.place)
            except OSError as error:
                self._log.note(error)
                return False
            if payload is not None:
                sends = self._shelf.sends(ask_id)
                payloads[ask_id] = stored.copied(payload, final=kept.final, sends=sends)
        self._lose([ask_id for ask_id, _ in living if ask_id not in payloads])
        if payloads and not self._copy([one for one in living if one[0] in payloads], payloads):
            return False
        return last >= 0

    def _copy(self, moving: Sequence[tuple[str, Kept]], payloads: Mapping[str, bytes]) -> bool:
        places = self._log.copy([kept.place for _, kept in moving], list(payloads.values()))
        if places is None:
            return False
        for (_, kept), place in zip(moving, places, strict=True):
            kept.move(place)
        self._counts["copied"] += len(moving)
        return True

    def _end(self, ends: Mapping[str, End]) -> bool:
        """Take asks off the shelf; those that owe a final outcome are ending only.

        Return whether there is a word to be written.
        """
        over = False
        for ask_id, end in ends.items():
            kept = self._shelf.remove(ask_id)
            self._forget(ask_id)
            if kept.final:
                over = True
                self._log.end(kept.place, stored.ENDS[end])
            else:
                self._ending[ask_id] = (kept, end)
        while len(self._ending) > _MAX_ENDING:  # nobody will ever say that these are final
            self._counts["unfinal"] += 1
            self.final([next(iter(self._ending))])
        return over

    def _keep_at_hand(self, record: Record) -> None:
        """Keep a record in memory for a while: it is sent soon, and its answer comes soon."""
        self._recent[record.id] = record
        self._recent_bytes += record.size_bytes
        while self._recent_bytes > _RECENT_BYTES:
            self._forget(next(iter(self._recent)))

    def _forget(self, ask_id: str) -> None:
        record = self._recent.pop(ask_id, None)
        if record is not None:
            self._recent_bytes -= record.size_bytes

    def _lose(self, ask_ids: Sequence[str]) -> None:
        """End asks that are on disk no more as they were written."""
        if not ask_ids:
            return
        _log.error("%s: %d asks are damaged, and lost", self._folder, len(ask_ids))
        self._counts["lost"] += len(ask_ids)
        self._failed.update(dict.fromkeys(ask_ids, "lost"))
        for ask_id in ask_ids:
            ending = self._ending.pop(ask_id, None)
            kept = self._shelf.remove(ask_id) if ending is None else ending[0]
            self._log.end(kept.place, stored.ENDS["lost"])
        self._log.write()

    def _lay_aside(self, ask_id: str) -> None:
        with contextlib.suppress(OSError):
            payload = self._log.read(self._shelf[ask_id].place)
            if payload is not None:
                self._dead.put(ask_id, payload)


def _unplaced(record: Record, *, size: int) -> Kept:
    return Kept(
        number=-1,
        segment=-1,
        offset=-1,
        size=size,
        score=record.score,
        deadline_ns=record.deadline_ns,
        final=record.answer_by_ns is None,
    )
