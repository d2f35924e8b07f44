"""What must be in an outbox, from what its devices have said, and whether it is."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from hedge.uplink import stored
from hedge.uplink.recovery import read, survey

from .device import body_of, waits


@dataclass
class Known:
    """What was said of an ask: 1 a step has begun, 2 it is done, 3 it is durable."""

    committed: bool = False
    settled: int = 0
    final: int = 0


@dataclass
class Truth:
    """All asks that may be there, by id, and those that are over and may come back.

    ``counts`` is what was seen in all cycles, ``faults`` what must not be.
    """

    asks: dict[str, Known] = field(default_factory=dict)
    over: set[str] = field(default_factory=set)
    refused: set[str] = field(default_factory=set)
    counts: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)

    def hear(self, said: bytes) -> bool:
        """Take in what a device said; return whether it had opened its outbox."""
        lines = [line.decode().split() for line in said.split(b"\n")[:-1]]
        for what, *ids in lines:
            match what:
                case "o":
                    self.asks.update((one, Known(final=0 if waits(one) else 3)) for one in ids)
                case "c" | "r":
                    self._placed(ids, refused=what == "r")
                case "s" | "S":
                    self._step(ids, "settled", 1 + (what == "S"))
                case "f" | "F":
                    self._step(ids, "final", 1 + (what == "F"))
                case "y":
                    self._synced()
                case "x":
                    self.faults.append(" ".join(ids))
        return ["u"] in lines

    def _placed(self, ids: list[str], *, refused: bool) -> None:
        self.counts["refused" if refused else "committed"] += len(ids)
        for one in ids:
            if refused:
                del self.asks[one]
                self.refused.add(one)
            else:
                self.asks[one].committed = True

    def _synced(self) -> None:
        for known in self.asks.values():
            known.settled = 3 if known.settled == 2 else known.settled
            known.final = 3 if known.final == 2 else known.final

    def _step(self, ids: list[str], step: str, reached: int) -> None:
        for one in ids:
            if getattr(self.asks[one], step) < reached:
                setattr(self.asks[one], step, reached)

    def check(self, folder: Path, *, words_from: int = 2, damaged: bool = False) -> int:
        """Compare with what is on disk, and go on from there; return how many were lost.

        ``words_from``: from which step on a word must not be forgotten. ``damaged``: asks
        may be missing, but not more than are counted, nor more than one file held.
        """
        found = survey(folder)
        lost = [
            one
            for one, known in self.asks.items()
            if known.committed and not (known.settled and known.final) and one not in found.asks
        ]
        counted = found.lost + len(found.unread)
        self._judge("lost", [] if damaged and len(lost) <= min(64, counted) else lost)
        strangers = found.asks.keys() - self.asks.keys()
        self._judge("invented", strangers - self.over)
        if not damaged:
            self._judge("came back later", strangers & self.over)
        self._judge("refused and yet there", found.asks.keys() & self.refused)
        back = [one for one, known in self._there(found.asks.keys()) if self._over(known, 2)]
        again = [
            one
            for one, known in self._there(found.asks.keys())
            if waits(one) and known.final >= 2 and not found.asks[one].final
        ]
        self._judge("came back", [one for one in back if self._over(self.asks[one], words_from)])
        self._judge("final twice", [one for one in again if self.asks[one].final >= words_from])
        early = [
            one
            for one, known in self._there(found.asks.keys())
            if known.final == 0 and found.asks[one].final
        ]
        self._judge("final unsaid", early)
        for one, kept in found.asks.items():
            payload = read(folder, kept)
            body = None if payload is None else stored.unpack(payload, ahead_ns=0).request.body
            if body != body_of(one):
                self._judge("wrong body", [one])
        self.counts["lost"] += len(lost)
        self.counts["counted_lost"] += counted
        self.counts["most_lost"] = max(self.counts["most_lost"], len(lost))
        self.counts["most_counted"] = max(self.counts["most_counted"], counted)
        self.counts["ended_came_back"] += len(back)
        self.counts["final_came_back"] += len(again)
        self.counts["checked"] += len(found.asks)
        over = self.asks.keys() - found.asks.keys() - set(lost)
        self.counts["ended"] += sum(self.asks[one].committed for one in over)
        self.over |= over
        self.asks = {
            one: Known(committed=True, final=3 if kept.final else 0)
            for one, kept in found.asks.items()
        }
        return len(lost)

    def _there(self, ids: object) -> list[tuple[str, Known]]:
        return [(one, known) for one, known in self.asks.items() if one in ids]  # type: ignore[operator]

    def _over(self, known: Known, step: int) -> bool:
        return known.settled >= step and known.final >= step

    def _judge(self, what: str, ids: object) -> None:
        names = sorted(ids)  # type: ignore[call-overload]
        if names:
            self.faults.append(f"{what}: {' '.join(names[:5])} ({len(names)} in all)")
