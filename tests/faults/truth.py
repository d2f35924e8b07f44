"""What must be in an outbox, from what its devices have said, and whether it is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from hedge.uplink.outbox import stored
from hedge.uplink.outbox.recovery import Recovery, read, survey

MOST_LOST = 64  # records that damage to one file may cost


@dataclass
class Known:
    """What was said of an ask: 1 a step has begun, 2 it is done, 3 it is durable."""

    committed: bool = False
    settled: int = 0
    final: int = 0

    def is_over(self, step: int) -> bool:
        """Whether it has ended on disk, as far as that step."""
        return self.settled >= step and self.final >= step


@dataclass
class Truth:
    """All asks that may be there, by id, and those that are over and may come back.

    ``body_of`` gives the body that belongs to an id, ``waits`` whether a user waits for its
    final outcome. ``counts`` is what was seen in all cycles, ``faults`` what must not be.
    """

    body_of: Callable[[str], bytes]
    waits: Callable[[str], bool]
    asks: dict[str, Known] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    evidence: Counter[str] = field(default_factory=Counter)
    ended: set[str] = field(default_factory=set)  # with the last check
    _opens_with: tuple[int, int] = (0, 0)
    _flow: int = 0  # asks that have come and not gone, by what was said of them

    def forget(self) -> None:
        """Begin anew, with an empty folder."""
        self.asks.clear()
        self.over.clear()
        self.refused.clear()
        self._opens_with = (0, 0)
        self._flow = 0

    def hear(self, said: bytes) -> set[str]:
        """Take in whole lines of what a device said; return which words were among them.

        o offered to the outbox, c stored, r refused, s and S settling begun and done, f and
        F likewise final, y all durable, u open with so many recovered and lost, x an error,
        e evidence of a fault.
        """
        words = set()
        for line in said.splitlines():
            what, *ids = line.decode().split()
            words.add(what)
            match what:
                case "o":
                    self._offered(ids)
                case "c" | "r":
                    self._placed(ids, refused=what == "r")
                case "s" | "S":
                    self._step(ids, "settled", 1 + (what == "S"))
                case "f" | "F":
                    self._step(ids, "final", 1 + (what == "F"))
                case "y":
                    self._synced()
                case "u":
                    self.opened(*map(int, ids))
                case "x":
                    self.faults.append(" ".join(ids))
                case "e":
                    self.evidence.update(ids)
        return words

    def opened(self, recovered: int, lost: int) -> None:
        """Compare what an outbox has counted on opening with what we had seen on disk."""
        if (recovered, lost) != self._opens_with:
            seen = "{} asks and {} lost".format(*self._opens_with)
            self.faults.append(f"it counts {recovered} asks and {lost} lost; there are {seen}")
        self._opens_with = (recovered, 0)

    def _offered(self, ids: list[str]) -> None:
        again = [one for one in ids if one in self.asks or one in self.over]
        self._judge("an id used again", again)
        self.asks.update((one, Known(final=0 if self.waits(one) else 3)) for one in ids)
        self._flow += len(ids)

    def _placed(self, ids: list[str], *, refused: bool) -> None:
        self.counts["refused" if refused else "committed"] += len(ids)
        for one in ids:
            if refused:
                del self.asks[one]
                self.refused.add(one)
                self._flow -= 1
            else:
                self.asks[one].committed = True

    def _synced(self) -> None:
        for known in self.asks.values():
            known.settled = 3 if known.settled == 2 else known.settled
            known.final = 3 if known.final == 2 else known.final

    def _step(self, ids: list[str], step: str, reached: int) -> None:
        for one in ids:
            known = self.asks.get(one)
            if known is not None and getattr(known, step) < reached:
                setattr(known, step, reached)

    def check(self, folder: Path, *, words_from: int = 2, damaged: bool = False) -> Recovery:
        """Compare with what is on disk, and go on from there; return what is there.

        ``words_from``: from which step on a word must not be forgotten. ``damaged``: asks
        may be missing, but not more than are counted, nor more than one file held, and
        words may be forgotten.
        """
        found = survey(folder)
        lost = [
            one
            for one, known in self.asks.items()
            if known.committed and not (known.settled and known.final) and one not in found.asks
        ]
        self._check_presence(found, lost, damaged=damaged)
        self._check_words(found, words_from=words_from, damaged=damaged)
        self._check_bodies(folder, found)
        self._go_on_from(found, lost)
        return found

    def _check_presence(self, found: Recovery, lost: list[str], *, damaged: bool) -> None:
        counted = found.lost + len(found.unread)
        self._judge("lost", [] if damaged and len(lost) <= min(MOST_LOST, counted) else lost)
        if counted and not damaged:
            self.faults.append(f"{counted} counted as lost, where nothing was damaged")
        strangers = found.asks.keys() - self.asks.keys()
        self._judge("invented", strangers - self.over)
        if not damaged:
            self._judge("came back later", strangers & self.over)
        self._judge("refused and yet there", found.asks.keys() & self.refused)
        self.counts["lost"] += len(lost)
        self.counts["counted_lost"] += counted
        self.counts["most_lost"] = max(self.counts["most_lost"], len(lost))
        self.counts["most_counted"] = max(self.counts["most_counted"], counted)
        self._flow += len(strangers) - len(lost)

    def _check_words(self, found: Recovery, *, words_from: int, damaged: bool) -> None:
        there = [(one, known) for one, known in self.asks.items() if one in found.asks]
        back = [one for one, known in there if known.is_over(2)]
        again = [
            one
            for one, known in there
            if self.waits(one) and known.final >= 2 and not found.asks[one].final
        ]
        early = [one for one, known in there if known.final == 0 and found.asks[one].final]
        if not damaged:
            kept = [one for one in back if self.asks[one].is_over(words_from)]
            self._judge("came back", kept)
            told = [one for one in again if self.asks[one].final >= words_from]
            self._judge("final twice", told)
        self._judge("final unsaid", early)
        self.counts["ended_came_back"] += len(back)
        self.counts["final_came_back"] += len(again)

    def _check_bodies(self, folder: Path, found: Recovery) -> None:
        for one, kept in found.asks.items():
            payload = read(folder, kept)
            body = None if payload is None else stored.unpack(payload, ahead_ns=0).request.body
            if body != self.body_of(one):
                self._judge("wrong body", [one])
        self.counts["bodies_checked"] += len(found.asks)

    def _go_on_from(self, found: Recovery, lost: Collection[str]) -> None:
        over = self.asks.keys() - found.asks.keys() - set(lost)
        self.ended = {one for one in over if self.asks[one].committed}
        self.counts["ended"] += len(self.ended)
        self.counts["unborn"] += len(over) - len(self.ended)
        self._flow -= len(over)
        if self._flow != len(found.asks):
            self.faults.append(f"{self._flow} asks should be there; there are {len(found.asks)}")
            self._flow = len(found.asks)
        self.over |= over
        self.over -= found.asks.keys()
        self.asks = {
            one: Known(committed=True, final=3 if kept.final else 0)
            for one, kept in found.asks.items()
        }
        self._opens_with = (len(found.asks), found.lost + len(found.unread))

    def _judge(self, what: str, ids: Iterable[str]) -> None:
        names = sorted(ids)
        if names:
            self.faults.append(f"{what}: {' '.join(names[:5])} ({len(names)} in all)")
