"""What the device's users have seen, from its file of outcomes, and whether that can be.

Every id has one provisional outcome at most, in all lives. In one life it has one final
outcome at most; a later life tells it once more only where the device had not yet noted
that it was told. What the far end has answered is the answer to that very sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from .samples import is_answer, is_asked


@dataclass
class Outcomes:
    """The outcomes of all lives so far in one file; ``counts`` and ``faults`` are the bench's."""

    path: Path
    counts: Counter[str]
    faults: list[str]
    asked: dict[str, int] = field(default_factory=dict)  # by id: the life that asked
    told: dict[str, list[int]] = field(default_factory=dict)  # by id: the lives that told
    here: Counter[str] = field(default_factory=Counter)  # lines of this life by their kind
    answered: set[str] = field(default_factory=set)  # ids of this life with the cloud's answer
    _noted: set[str] = field(default_factory=set)  # ids that are noted as final on disk
    _sure: set[str] = field(default_factory=set)
    _sessions: set[str] = field(default_factory=set)
    _session: str | None = None
    _life: int = 0
    _offset: int = 0

    def begin_life(self) -> None:
        """Begin the next life: it must have ids of its own."""
        self._life += 1
        self._session = None
        self.here.clear()
        self.answered.clear()

    def read(self) -> None:
        """Take in the whole lines that have come since the last call."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._offset)
                data = stream.read()
        except FileNotFoundError:
            return
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._take(msgspec.json.decode(line))

    def note_final(self, ids: Iterable[str]) -> None:
        """Take in which ids the device has noted as final: their users must have heard it."""
        for one in ids:
            if one not in self._noted and one not in self.told:
                self.faults.append(f"noted as final, and never told: {one}")
            self._noted.add(one)

    def _take(self, line: dict[str, Any]) -> None:
        one, route = line["id"], line["route"]
        if route == "cloud" and not is_answer(one, line.get("probs")):
            self.faults.append(f"the answer to another sample: {one}")
        if line["final"]:
            self._take_final(one, line)
        elif line.get("reason") == "late":
            self._count("late")
            if one not in self.told:
                self.faults.append(f"late before it was final: {one}")
        else:
            self._begin(one)
            self._count("asked")
            self.asked[one] = self._life

    def _take_final(self, one: str, line: dict[str, Any]) -> None:
        if not is_asked(one):
            self._begin(one)
            self._count("sure")
            return
        if one not in self.asked:
            self.faults.append(f"final and never asked: {one}")
        lives = self.told.setdefault(one, [])
        if self._life in lives:
            self.faults.append(f"two finals in one life: {one}")
        elif one in self._noted:
            self.faults.append(f"final again, though noted: {one}")
        elif lives:
            self.counts["told_again"] += 1
        lives.append(self._life)
        self._count("final")
        self.counts[f"final {line.get('degraded') or line['route']}"] += 1
        if line["route"] == "cloud":
            self.answered.add(one)

    def _begin(self, one: str) -> None:
        """Take in the first outcome of a sample: its id must be new, and of this life."""
        session = one.partition("-")[0]
        if self._session is None:
            self._session = session
            if session in self._sessions:
                self.faults.append(f"a session used again: {session}")
            self._sessions.add(session)
        if session != self._session or one in self.asked or one in self._sure:
            self.faults.append(f"an id used again: {one}")
        if not is_asked(one):
            self._sure.add(one)

    def _count(self, what: str) -> None:
        self.here[what] += 1
        self.counts[f"outcomes {what}"] += 1
