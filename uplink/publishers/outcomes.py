"""Outcomes and events for others: each stream's on topics of its own, finals at least once.

What is promised, and to which outcomes:

- A final outcome is published at QoS 1 until the broker has answered for it: over lost
  connections, and, with a spool on disk, over restarts. It carries its sample's id, by
  which a reader passes over what comes twice. Finals of one run keep their order.
- The final of an escalated sample is on disk before its ask is marked as final, so that of
  a crash between the two a restart says it once more, with the same id. Any other final is
  on disk at the latest a moment (`Spool`'s ``commit_within_s``) after it was offered unless
  the broker has answered for it by then: a crash in that moment can lose it.
- An event is published as the final of an escalated sample is, and never left out.
- A first outcome, and a late answer, is published at QoS 0, at most once, and not at all
  while there is no connection.
- With ``max_rate_hz`` no stream publishes more often, and the newest outcome wins; what
  gave way is counted. Finals of escalated samples are never left out.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from ..link.link import Link, Qos, Received
from ..tally import Tally
from ..topics import Device
from .spool import Parcel, Spool

_log = logging.getLogger(__name__)

_MAX_PAYLOAD_BYTES = 128 << 10  # what any broker takes; larger ones could end the connection
_WINDOW = 10  # messages under way, so that asks find room beside them
_FIRSTS = 4  # of them, first outcomes: finals come through, however many there are
_WINDOW_BYTES = 64 << 10
_AGAIN_NS = 5_000_000  # a turn that took offers looks again, so that not each has to wake it
_COUNTERS = (
    *("offered", "queue_full", "oversized", "thinned", "unsent"),
    *("firsts", "sent", "resent", "delivered", "undelivered"),
)


class _Offer(NamedTuple):
    """What is to be published; what is ``escalated``, or an event, is on disk at once."""

    stream: str
    payload: bytes
    final: bool
    escalated: bool
    event: bool = False


class _Gate:
    """One stream's rate: what may pass now, and the newest of what may not."""

    __slots__ = ("held", "open_ns")

    def __init__(self) -> None:
        self.open_ns = 0
        self.held: _Offer | None = None


class OutcomePublisher:
    """A `Publisher` of the outcomes that are offered to it, and of the events it is told.

    ``spool`` keeps the finals; ``wake`` makes the pump's thread call `turn` soon. ``queue``
    bounds the offers that it has not yet taken. At ``qos`` 0 a final is done once it is
    written to the connection.
    """

    def __init__(
        self,
        device: Device,
        *,
        spool: Spool,
        wake: Callable[[], None],
        qos: Qos = 1,
        max_rate_hz: float | None = None,
        queue: int = 1024,
    ) -> None:
        self._device = device
        self._spool = spool
        self._wake = wake
        self._qos: Qos = qos
        self._interval_ns = None if max_rate_hz is None else int(1e9 / max_rate_hz)
        self._queue = queue
        self._offers: deque[_Offer] = deque()
        self._woken = False
        self._again_ns: int | None = None
        self._gates: dict[str, _Gate] = {}
        self._firsts: deque[tuple[str, bytes]] = deque(maxlen=_FIRSTS)
        self._flying: dict[int, tuple[int | None, int]] = {}  # by mid: the parcel's key, bytes
        self._tally = Tally(_COUNTERS, log=_log)

    @property
    def filters(self) -> tuple[str, ...]:
        """Nothing is subscribed to."""
        return ()

    def offer(self, stream: str, payload: bytes, *, final: bool, escalated: bool) -> bool:
        """Queue an outcome, from any one thread; False: the queue is full.

        ``escalated`` says of a final that its sample was.
        """
        return self._queued(_Offer(stream, payload, final, escalated))

    def tell(self, stream: str, payload: bytes) -> bool:
        """Queue an event, in the same thread; False: the queue is full."""
        return self._queued(_Offer(stream, payload, final=True, escalated=True, event=True))

    def _queued(self, offer: _Offer) -> bool:
        if len(offer.payload) > _MAX_PAYLOAD_BYTES:
            self._tally.drop("oversized", f"{len(offer.payload)} bytes of {offer.stream}")
            return True
        if len(self._offers) >= self._queue:
            self._tally.add("queue_full")
            return False
        self._tally.add("offered")
        self._offers.append(offer)
        if not self._woken:
            self._woken = True
            self._wake()
        return True

    @property
    def busy(self) -> bool:
        """Whether finals wait; see `Publisher`."""
        return bool(self._offers) or len(self._spool) > 0

    def connected(self, link: Link) -> None:
        """Do nothing: `turn` goes on where it was."""

    def disconnected(self) -> None:
        """Let what is under way wait again; see `Publisher`."""
        self._flying.clear()
        self._spool.requeue()

    def received(self, event: Received) -> bool:  # noqa: ARG002 -- the protocol's signature
        """Return False: nothing is for us."""
        return False

    def delivered(self, mid: int, refused: str | None) -> bool:
        """Let go of what the broker has answered for, be it by a refusal; see `Publisher`."""
        flying = self._flying.pop(mid, None)
        if flying is None:
            return False
        key, _ = flying
        if key is not None:
            self._spool.done(key)
            if refused is not None:
                self._tally.drop("undelivered", refused)
            else:
                self._tally.add("delivered")
        return True

    def turn(self, link: Link | None, now_ns: int) -> None:
        """Take the offers, keep and publish what is due; see `Publisher`.

        On return every final of an escalated sample that was offered before is on disk, if
        the spool has one that takes it.
        """
        self._woken = False  # first: what is offered from now on wakes us, or is taken here
        offers = [self._offers.popleft() for _ in range(len(self._offers))]
        if offers:
            self._again_ns = now_ns + _AGAIN_NS
        elif self._again_ns is not None and self._again_ns <= now_ns:
            self._again_ns = None
        self._woken = self._again_ns is not None
        for offer in offers:
            self._take(offer, now_ns)
        self._open_gates(now_ns)
        if any(offer.escalated for offer in offers):
            self._spool.commit()
        if link is None:
            self._tally.add("unsent", len(self._firsts))
            self._firsts.clear()
        else:
            self._send(link)
        self._spool.tend(now_ns)

    def next_ns(self) -> int | None:
        """Return when a gate opens, or there may be something to do; see `Publisher`."""
        times = [gate.open_ns for gate in self._gates.values() if gate.held is not None]
        times += [at_ns for at_ns in (self._again_ns, self._spool.next_ns()) if at_ns is not None]
        return min(times, default=None)

    def counters(self) -> dict[str, int]:
        """Return what was counted, each name beginning with ``outcomes_``; see `Publisher`."""
        counts = {**self._tally.copy(), **self._spool.counters()}
        return {f"outcomes_{name}": count for name, count in counts.items()}

    def close(self) -> None:
        """Keep what was offered, and close the spool; see `Publisher`."""
        self.turn(None, 0)
        for gate in self._gates.values():
            gate.open_ns = 0
        self._open_gates(0)
        self._spool.close()

    def _take(self, offer: _Offer, now_ns: int) -> None:
        """Pass an offer on, or hold it at its stream's gate; what is held there gives way."""
        if self._interval_ns is None or offer.event:
            self._pass(offer)
            return
        gate = self._gates.setdefault(offer.stream, _Gate())
        if gate.held is not None:
            self._tally.add("thinned")
            gate.held = None
        if offer.escalated or gate.open_ns <= now_ns:
            gate.open_ns = now_ns + self._interval_ns
            self._pass(offer)
        else:
            gate.held = offer

    def _open_gates(self, now_ns: int) -> None:
        for gate in self._gates.values():
            if gate.held is not None and gate.open_ns <= now_ns:
                offer, gate.held = gate.held, None
                gate.open_ns = now_ns + (self._interval_ns or 0)
                self._pass(offer)

    def _pass(self, offer: _Offer) -> None:
        place = self._device.event if offer.event else self._device.outcome
        topic = place(offer.stream)
        if offer.final:
            self._spool.put(topic, offer.payload)
            return
        if len(self._firsts) == self._firsts.maxlen:
            self._tally.add("unsent")
        self._firsts.append((topic, offer.payload))

    def _send(self, link: Link) -> None:
        """Send what the window has room for: first outcomes, then finals."""
        flying = sum(key is None for key, _ in self._flying.values())
        for _ in range(min(len(self._firsts), _FIRSTS - flying)):
            topic, payload = self._firsts.popleft()
            mid = link.send(topic, payload, qos=0)
            self._tally.add("unsent" if mid is None else "firsts")
            if mid is not None:
                self._flying[mid] = (None, len(payload))
        for parcel in self._spool.due(_WINDOW - len(self._flying)):
            if not self._has_room() or not self._send_one(link, parcel):
                break

    def _has_room(self) -> bool:
        under_way = sum(size for _, size in self._flying.values())
        return len(self._flying) < _WINDOW and under_way < _WINDOW_BYTES

    def _send_one(self, link: Link, parcel: Parcel) -> bool:
        mid = link.send(parcel.topic, parcel.payload, qos=self._qos)
        if mid is None:
            return False
        self._flying[mid] = (parcel.key, len(parcel.payload))
        self._spool.sent(parcel.key)
        self._tally.add("resent" if parcel.sends else "sent")
        return True
