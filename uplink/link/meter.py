"""The meter of a link that costs money: what has gone over it, and whether more may.

It is a `Link` around another. All that passes is counted against the budget, both ways;
only what could wait is asked about: a birth, an acknowledgement or an answer that comes is
let through, and what it has cost is missing for the rest.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from ...telemetry.clock import Clock, boottime_ns
from .budget import Budget, BudgetFile, wire_bytes
from .link import Event, Link, Properties, Qos, Received, Token, Will
from .quiet import QuietHours

_LOOK_NS = 1_000_000_000  # between two looks at the wall clock


class Meter:
    """A `Link` with a ``budget``, which rests in the hours of ``quiet``; either may be None.

    ``file`` keeps the budget's state over restarts. ``tls`` makes each packet longer.
    ``left`` is what is left of each limit, by its name, as of the last `poll`.
    """

    def __init__(
        self,
        link: Link,
        *,
        budget: Budget | None,
        quiet: QuietHours | None,
        file: BudgetFile | None = None,
        tls: bool = True,
        clock: Clock = boottime_ns,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._link = link
        self._budget = budget
        self._quiet = quiet
        self._file = file
        self._tls = tls
        self._clock = clock
        self._wall = wall
        self._refused_bytes: int | None = None
        self.left: Mapping[str, int] = {}

    def admits(self, topic: str, size: int, *, now_ns: int) -> bool:
        """Whether a message of ``size`` bytes may be sent now; if not, `next_ns` says when."""
        self._refused_bytes = None
        if self._rests():
            self._refused_bytes = 0
        elif self._budget is not None:
            size_bytes = wire_bytes(topic, size, tls=self._tls)
            if not self._budget.allows(size_bytes, now_ns):
                self._refused_bytes = size_bytes
        return self._refused_bytes is None

    def is_open(self, now_ns: int) -> bool:
        """Whether anything at all may be sent now that can wait."""
        return not self._rests() and (self._budget is None or self._budget.allows(0, now_ns))

    def next_ns(self, now_ns: int) -> int | None:
        """Return when to ask again, if the last answer was no."""
        if self._refused_bytes is None:
            return None
        if self._rests() or self._budget is None:
            return now_ns + _LOOK_NS  # the wall clock may be set meanwhile
        return self._budget.next_ns(self._refused_bytes, now_ns)

    def _rests(self) -> bool:
        return self._quiet is not None and self._quiet.is_quiet(self._wall())

    def _spend(self, topic: str, payload: bytes) -> None:
        if self._budget is not None:
            size_bytes = wire_bytes(topic, len(payload), tls=self._tls)
            self._budget.spend(size_bytes, self._clock())

    def open(self, will: Will | None = None) -> None:
        """Begin to connect; see `Link`."""
        self._link.open(will)

    def poll(self, timeout_s: float) -> list[Event]:
        """Let messages flow, and count what comes; see `Link`."""
        events = self._link.poll(timeout_s)
        for event in events:
            if isinstance(event, Received):
                self._spend(event.topic, event.payload)
        if self._budget is not None:
            now_ns = self._clock()
            self.left = self._budget.left(now_ns)
            if self._file is not None:
                self._file.keep(self._budget, now_ns)
        return events

    def send(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        qos: Qos = 1,
        properties: Properties | None = None,
    ) -> int | None:
        """Send, and count; see `Link`."""
        mid = self._link.send(topic, payload, retain=retain, qos=qos, properties=properties)
        if mid is not None:
            self._spend(topic, payload)
        return mid

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe; see `Link`."""
        self._link.subscribe(filters)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe; see `Link`."""
        self._link.unsubscribe(filters)

    def ack(self, token: Token) -> None:
        """Acknowledge; see `Link`."""
        self._link.ack(token)

    def wake(self) -> None:
        """Make `poll` return; see `Link`."""
        self._link.wake()

    def close(self, *, timeout_s: float) -> list[Event]:
        """Part in peace; see `Link`."""
        if self._budget is not None and self._file is not None:
            self._file.close(self._budget, self._clock())
        return self._link.close(timeout_s=timeout_s)
