"""What goes out: which asks are sent when, within the window, the packet limit and the budget.

An ask that is longer than the broker's packets is announced by a notice; the worker that
claims it gets it in parts. Whatever the connection loses is the outbox's to offer again.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec
from msgspec import Struct

from ..models.errors import HedgeError, UplinkError
from ..telemetry.clock import Clock
from . import parts, wire
from .link.backoff import Backoff
from .link.link import Connected, Delivered, Link, Properties
from .link.meter import Meter
from .outbox.outbox import Outbox, Record
from .tally import Tally
from .topics import Device

_LONGEST_LEASE = 8  # times the first one
_BESIDE_BYTES = 64  # of a packet, beside its topic, its payload and the texts of its properties
_MAX_CLAIMS = 256
_ALWAYS = (0, 0)


class Window(Struct, frozen=True, kw_only=True):
    """How much may be under way at once, and for how long before it is sent again.

    ``unanswered`` asks wait for their answer, ``backlog`` of which nobody waits for;
    ``unacked`` messages of ``unacked_bytes`` in all for the broker's acknowledgement: on a
    thin link the bytes keep the time that a message claims to have left near the truth. The
    lease of an ask doubles with every sending, to eight times its length.
    """

    unanswered: int = 64
    backlog: int = 32
    unacked: int = 20
    unacked_bytes: int = 256 << 10
    lease_s: float = 10.0


class Refusal(NamedTuple):
    """An ask that can never be sent over this connection, and why."""

    record: Record
    detail: str


class Sender:
    """Sends one device's asks over its link; the pump's thread drives it."""

    def __init__(
        self,
        link: Link,
        *,
        device: Device,
        outbox: Outbox,
        window: Window,
        tally: Tally,
        clock: Clock,
        meter: Meter | None,
    ) -> None:
        self._link = link
        self._device = device
        self._outbox = outbox
        self._window = window
        self._tally = tally
        self._clock = clock
        self._meter = meter
        self._connected = False
        self._max_packet_bytes: int | None = None
        self._unacked: dict[int, tuple[str, int]] = {}
        self._under_way = 0
        self._claims: OrderedDict[str, str] = OrderedDict()  # by ask, the worker that wants it
        self._parts: deque[tuple[str, str, bytes]] = deque()  # those of one ask, with its id
        self._sent: set[str] = set()
        self._since: Mapping[str, tuple[int, int]] = {}
        self._deaf = Backoff(first_s=0.5, cap_s=8.0)
        self._silent_until_ns: int | None = None

    def connected(self, event: Connected) -> None:
        """Begin on a fresh connection.

        Where the broker has kept our session it has what it had acknowledged, and keeps the
        answers for us; else everything is to be sent again.
        """
        if not event.resumed:
            self._outbox.requeue()
        self._connected = True
        self._silent_until_ns = None
        self._deaf.reset()
        self._max_packet_bytes = event.max_packet_bytes

    def disconnected(self) -> None:
        """Let be sent again what the broker has not acknowledged."""
        self._connected = False
        self._outbox.requeue([ask_id for ask_id, _ in self._unacked.values()])
        self._unacked.clear()
        self._under_way = 0
        self._claims.clear()
        self._parts.clear()

    def delivered(self, event: Delivered) -> bool:
        """Take the broker's word on a message; return whether it was one of ours."""
        ask_id, size = self._unacked.pop(event.mid, (None, 0))
        self._under_way -= size
        if ask_id is None:
            return False
        if event.unheard:
            self._fall_silent(ask_id)
        elif event.refused is None:
            self._deaf.reset()
            self._silent_until_ns = None
        return True

    def next_ns(self) -> int | None:
        """Return when to try again whether somebody listens; None: there is nothing to wait for."""
        until_ns = self._silent_until_ns
        return until_ns if until_ns is not None and until_ns > self._clock() else None

    def _fall_silent(self, ask_id: str) -> None:
        """Send nothing for a while, and then one ask at a time: nobody listens.

        What a broker has no subscriber for it drops. So it waits here, where it is safe and
        costs nothing.
        """
        self._tally.add("unheard")
        self._outbox.recall(ask_id)
        now_ns = self._clock()
        if self._silent_until_ns is None or self._silent_until_ns <= now_ns:
            self._silent_until_ns = now_ns + int(self._deaf.next_s() * 1e9)

    def forget(self, ask_id: str) -> None:
        """Note that an ask has ended."""
        self._sent.discard(ask_id)
        self._drop_parts(ask_id)

    def claim(self, record: Record, *, worker: str) -> None:
        """Send an ask in parts to the worker that asks for it; a second claim begins anew."""
        if self._max_packet_bytes is None or len(self._claims) >= _MAX_CLAIMS:
            self._tally.add("claims_deferred")  # to the next notice
            return
        self._tally.add("claims")
        self._drop_parts(record.id)
        self._claims[record.id] = worker

    def withhold(self, since: Mapping[str, tuple[int, int]]) -> None:
        """Send no ask of a stream that is before this session and number, nor parts of one."""
        if since is not self._since:
            self._since = since
            self._claims.clear()
            self._parts.clear()

    def send(self) -> list[Refusal]:
        """Send what is due, as far as the window and the budget go; return what cannot be."""
        refusals: list[Refusal] = []
        if not self._connected:
            return refusals
        now_ns = self._clock()
        self._send_parts(now_ns)
        room = self._room()
        if room <= 0 or (self._parts and self._meter is not None):
            return refusals  # else shorter asks would take what the parts are to be paid with
        for record in self._outbox.due(room, backlog=self._window.backlog):
            try:
                topic, payload = self._message(record, now_ns)
            except HedgeError as error:
                refusals.append(Refusal(record, str(error)))
                continue
            if not self._fits(topic, payload, now_ns):
                break
            if not self._send_ask(record, topic, payload, now_ns):
                break
            self.lease(record)
        return refusals

    def send_early(self, records: Sequence[Record]) -> list[Record]:
        """Send what is about to be stored, as far as nothing waits before it; return that.

        So it travels while the disk makes it durable. Nothing is owed yet: if the commit
        fails, its answer comes to nobody. What is stored has then to be given a `lease`. What
        nobody waits for is not that urgent.
        """
        if not self._connected or self._outbox.stats().pending or self._claims or self._parts:
            return []
        if self._silent_until_ns is not None:
            return []
        now_ns = self._clock()
        sent = []
        awaited = [record for record in records if record.answer_by_ns is not None]
        for record in awaited[: max(0, self._room())]:
            try:
                topic, payload = self._message(record, now_ns)
            except HedgeError:
                break
            if not self._fits(topic, payload, now_ns):
                break
            if not self._send_ask(record, topic, payload, now_ns):
                break
            sent.append(record)
        return sent

    def lease(self, record: Record) -> None:
        """Note in the outbox that an ask has been sent."""
        times = min(_LONGEST_LEASE, 2 ** self._outbox.sends(record.id))
        lease_ns = int(self._window.lease_s * times * 1e9)
        self._outbox.sent(record.id, lease_until_ns=self._clock() + lease_ns)

    def _room(self) -> int:
        if self._silent_until_ns is not None:  # one ask finds out whether somebody listens now
            return int(self._silent_until_ns <= self._clock() and not self._unacked)
        return min(
            self._window.unanswered - self._outbox.stats().in_flight,
            self._window.unacked - len(self._unacked),
        )

    def _fits(self, topic: str, payload: bytes, now_ns: int) -> bool:
        if self._under_way and self._under_way + len(payload) > self._window.unacked_bytes:
            return False
        return self._meter is None or self._meter.admits(topic, len(payload), now_ns=now_ns)

    def _message(self, record: Record, now_ns: int) -> tuple[str, bytes]:
        """Return an ask, or its notice where it is too long for this broker.

        Raises:
            HedgeError: it is too long for a notice, too, or may not be sent any more.
        """
        if self._is_withheld(record):
            raise UplinkError("what may leave the device has changed since", where=record.id)
        request = _timed(record, now_ns)
        payload = wire.encode(request)
        limit, topic = self._max_packet_bytes, self._device.ask(record.stream)
        others = (self._device.answer, record.id, request.traceparent or "")
        texts = (topic, wire.CONTENT_TYPE, *others)
        if limit is None or len(payload) + sum(map(len, texts)) + _BESIDE_BYTES <= limit:
            return topic, payload
        notice = wire.Notice(
            v=1,
            id=request.id,
            session=request.session,
            contract=request.contract,
            size=len(payload),
            parts=len(parts.split(payload, part_bytes=parts.part_bytes(limit))),
            remaining_ms=request.remaining_ms,
        )
        return self._device.notice(record.stream), wire.encode(notice)

    def _send_parts(self, now_ns: int) -> None:
        """Send the parts that workers wait for; only one ask's are in memory at a time."""
        while self._parts or self._claims:
            if not self._parts:
                self._cut(*self._claims.popitem(last=False))
                continue
            ask_id, topic, payload = self._parts[0]
            if len(self._unacked) >= self._window.unacked:
                return
            if not self._fits(topic, payload, now_ns):
                return
            mid = self._link.send(topic, payload)
            if mid is None:
                return
            self._note(mid, ask_id, topic, payload)
            self._parts.popleft()

    def _cut(self, ask_id: str, worker: str) -> None:
        """Cut an ask into the parts that its worker gets."""
        record = self._outbox.find(ask_id)
        if record is None or self._max_packet_bytes is None or self._is_withheld(record):
            return
        payload = wire.encode(_timed(record, self._clock()))
        pieces = parts.split(payload, part_bytes=parts.part_bytes(self._max_packet_bytes))
        topic = self._device.part(worker)
        self._parts.extend(
            (ask_id, topic, _part(record, index, pieces)) for index in range(len(pieces))
        )

    def _is_withheld(self, record: Record) -> bool:
        since = self._since.get(record.stream)
        if since is None or since == _ALWAYS:
            return False
        return (record.request.session, int(record.id.rpartition("-")[2])) < since

    def _drop_parts(self, ask_id: str) -> None:
        self._claims.pop(ask_id, None)
        if self._parts and self._parts[0][0] == ask_id:
            self._parts.clear()

    def _send_ask(self, record: Record, topic: str, payload: bytes, now_ns: int) -> bool:
        mid = self._link.send(topic, payload, properties=self._beside(record, now_ns))
        if mid is None:
            return False
        self._note(mid, record.id, topic, payload)
        self._tally.add("resent" if record.id in self._sent else "sent")
        self._sent.add(record.id)
        return True

    def _note(self, mid: int, ask_id: str, topic: str, payload: bytes) -> None:
        self._unacked[mid] = (ask_id, len(payload))
        self._under_way += len(payload)
        self._tally.add("bytes_up", len(topic) + len(payload))

    def _beside(self, record: Record, now_ns: int) -> Properties:
        """Return what MQTT 5 can use of a request: whole seconds, rounded up, at least one."""
        left_ns = None if record.deadline_ns is None else max(1, record.deadline_ns - now_ns)
        return Properties(
            content_type=wire.CONTENT_TYPE,
            response_topic=self._device.answer,
            correlation=record.id.encode(),
            expiry_s=None if left_ns is None else -(-left_ns // 1_000_000_000),
            user=_user(record),
        )


def _user(record: Record) -> tuple[tuple[str, str], ...]:
    """Return the user properties: what brokers and bridges need to join in a trace."""
    traceparent = record.request.traceparent
    return () if traceparent is None else (("traceparent", traceparent),)


def _part(record: Record, index: int, pieces: Sequence[bytes]) -> bytes:
    return wire.encode(
        wire.Part(
            v=1,
            id=record.id,
            session=record.request.session,
            index=index,
            count=len(pieces),
            data=pieces[index],
        )
    )


def _timed(record: Record, now_ns: int) -> wire.Request:
    if record.deadline_ns is None:
        return record.request
    remaining_ms = max(0, (record.deadline_ns - now_ns) // 1_000_000)
    return msgspec.structs.replace(record.request, remaining_ms=remaining_ms)
