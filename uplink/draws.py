"""Which samples were drawn for the audit, and what was said of them, in the order of drawing.

Answers do not come in that order: those for whom somebody waits are sent first, so that after an
outage all escalated samples are answered before the first audit of an accepted one. Whoever
learnt from them as they come would take the one for a stream gone bad and the other for one gone
good. So an answer waits until all that its stream has drawn before have ended, with an answer or
without.

It is kept in memory. A restart forgets what was under way, of either kind alike: of a part of it
that is learnt the rest would be missed.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from ..models.records import Opinion, Probs
from .asks import Ask, Audited

_MOST = 1 << 14


class _UnderWay(NamedTuple):
    """What is kept of a drawn sample until its ask has ended."""

    drawn_by: str
    edge: Opinion
    accepted: bool


class Draws:
    """Puts what is said of drawn samples in the order of drawing; for the uplink's thread.

    Beyond ``most`` of a stream the oldest counts as one that has ended without an answer.
    """

    def __init__(self, *, most: int = _MOST) -> None:
        self._most = most
        self._lines: dict[str, dict[str, _UnderWay | Audited | None]] = {}
        self._stream_of: dict[str, str] = {}
        self._told: deque[Audited] = deque()

    @property
    def told(self) -> bool:
        """Whether there is something to take."""
        return bool(self._told)

    def add(self, ask: Ask) -> None:
        """Take in an ask; one that was not drawn is none of ours."""
        if ask.drawn_by is None or ask.opinion is None:
            return
        line = self._lines.setdefault(ask.stream, {})
        line[ask.id] = _UnderWay(ask.drawn_by, ask.opinion, ask.kind == "audit")
        self._stream_of[ask.id] = ask.stream
        if len(line) > self._most:
            self.end(next(iter(line)), None)

    def end(self, ask_id: str, probs: Probs | None) -> None:
        """Take in that an ask has ended: with ``probs``, or without an answer."""
        stream = self._stream_of.pop(ask_id, None)
        if stream is None:
            return
        line = self._lines[stream]
        asked, line[ask_id] = line[ask_id], None
        if isinstance(asked, _UnderWay) and probs is not None:
            line[ask_id] = Audited(stream, *asked, probs)
        while line:
            first = next(iter(line))
            ended = line[first]
            if isinstance(ended, _UnderWay):
                break
            del line[first]
            if ended is not None:
                self._told.append(ended)

    def taken(self) -> list[Audited]:
        """Return what can be told; this one may be called from another thread."""
        return [self._told.popleft() for _ in range(len(self._told))]
