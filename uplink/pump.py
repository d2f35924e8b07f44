"""The uplink's thread: it takes offers into the outbox, sends them and matches answers.

It alone touches the outbox and the link. The loop reaches it through two queues: offers go
in by `Pump.offer`, answers come out by `Pump.answers`, and neither waits for anything.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

from ..models.errors import UplinkError, WireError
from ..telemetry.clock import Clock, boottime_ns
from . import wire
from .asks import Answer, Ask, Audited, Contract, Owed
from .draws import Draws
from .filing import answer_of, check_reply, owed_of, record_of, refusal_of
from .link.link import (
    Connected,
    Delivered,
    Disconnected,
    Event,
    Link,
    Received,
    Subscribed,
)
from .link.meter import Meter
from .outbox.outbox import End, Outbox, Record
from .publishers.presence import Presence
from .publishers.publisher import Publisher
from .sender import Sender, Window
from .tally import Tally
from .topics import Device

_log = logging.getLogger(__name__)
T = TypeVar("T")

_REMEMBERED = 4096  # ids that have ended, to tell a late answer from a forged one
_IDLE_S = 1.0
_SOON_S = 0.005  # until the finals of what was handed on are fetched
_COUNTERS = (
    *("connects", "disconnects", "births", "queue_full", "not_stored", "evicted", "expired"),
    *("sent", "resent", "delivered", "bytes_up", "bytes_down", "answered", "refused"),
    *("late", "duplicate", "malformed", "forged", "oversized", "stray", "undelivered"),
    *("dead", "lost", "claims", "claims_deferred", "unheard", "unsendable"),
)


class Pump:
    """An `asks.Uplink` over a link and an outbox.

    ``contracts`` says by stream what its answers must fit. ``bell`` is set whenever there
    are answers, and when the thread has died. ``queue`` bounds the offers that the thread
    has not yet taken; the answers not yet fetched are bounded by what was offered. An ask is
    kept for delivery for ``keep_for_s`` though its user waits no more; None: it is not.
    ``codecs`` says by stream how bodies travel, ``publishers`` what else goes over the link;
    with a ``meter``, which is then the link, all keep to its budget. ``since`` is `adopt`'s.
    """

    def __init__(
        self,
        link: Link | Meter,
        *,
        device: Device,
        session: int,
        contracts: Mapping[str, Contract],
        outbox: Outbox,
        bell: threading.Event,
        clock: Clock = boottime_ns,
        keep_for_s: float | None = None,
        codecs: Mapping[str, wire.Codec] | None = None,
        publishers: Sequence[Publisher] = (),
        since: Mapping[str, tuple[int, int]] | None = None,
        queue: int = 256,
        window: Window = Window(),  # noqa: B008 -- frozen
    ) -> None:
        self._link = link
        self._device = device
        self._session = session
        self._contracts = contracts
        self._outbox = outbox
        self._bell = bell
        self._clock = clock
        self._keep_for_ns = 0 if keep_for_s is None else int(keep_for_s * 1e9)
        self._queue = queue
        self._window = window
        self._codecs = codecs or {}
        self._since = since or {}
        self._publishers = publishers
        self._meter = link if isinstance(link, Meter) else None
        self._presence = Presence(device, session=session)
        self._offers: deque[Ask] = deque()
        self._answers: deque[Answer] = deque()
        self._draws = Draws()
        self._finals: deque[str] = deque()
        self._now_final: list[str] = []
        self._idle = False
        self._soon = False
        self._connected = False
        self._heard_ns = 0
        self._ends: dict[str, End] = {}
        self._ended: OrderedDict[str, Literal["late", "duplicate"]] = OrderedDict()
        self._tally = Tally(_COUNTERS, log=_log)
        self._sender = Sender(
            link,
            device=device,
            outbox=outbox,
            window=window,
            tally=self._tally,
            clock=clock,
            meter=self._meter,
        )
        self._trouble: str | None = None
        self._closing_s: float | None = None
        self._error: BaseException | None = None
        self._busy_ns = 0
        self._thread = threading.Thread(target=self._run, name="hedge-uplink", daemon=True)

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""
        return self._connected

    @property
    def trouble(self) -> str | None:
        """Why there is no connection, as far as is known."""
        return self._trouble

    def owed(self) -> list[Owed]:
        """Return what is owed since an earlier run, oldest first."""
        return [one for one in map(owed_of, self._outbox.recovered()) if one is not None]

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def offer(self, ask: Ask) -> bool:
        """Queue an ask, whose body must not change any more; False: the queue is full."""
        if len(self._offers) >= self._queue or not self._thread.is_alive():
            self._tally.add("queue_full")
            return False
        self._offers.append(ask)
        self._wake()
        return True

    def _wake(self) -> None:
        if self._idle:
            self._idle = False
            self._link.wake()

    def answers(self) -> list[Answer]:
        """Fetch what has come."""
        answers = []
        while self._answers:
            answers.append(self._answers.popleft())
        return answers

    def audited(self) -> list[Audited]:
        """Fetch what is known of drawn samples, in their order."""
        return self._draws.taken() if self._draws.told else []

    def final(self, ask_id: str) -> None:
        """Note a final outcome; it is on disk a moment later."""
        self._finals.append(ask_id)
        if not self._soon:
            self._wake()

    def counters(self) -> dict[str, int]:
        """Copy the counters; bytes are those of topics and payloads."""
        counts = self._tally.copy()
        counts.update({f"outbox_{name}": n for name, n in self._outbox.counters().items()})
        stats = self._outbox.stats()
        counts["outbox_held"] = stats.pending + stats.in_flight
        for publisher in self._publishers:
            counts.update(publisher.counters())
        if self._meter is not None:
            counts.update({f"left_{name}": n for name, n in self._meter.left.items()})
        return counts

    def adopt(
        self,
        contracts: Mapping[str, Contract],
        *,
        codecs: Mapping[str, wire.Codec],
        since: Mapping[str, tuple[int, int]],
    ) -> None:
        """Go by these for what is offered, and sent, from now on."""
        self._contracts, self._codecs, self._since = contracts, codecs, since

    def busy_ns(self) -> int:
        """Return the CPU time of the thread, as of its last turn."""
        return self._busy_ns

    def note(self, text: str | None) -> None:
        """Say with the status what the device is busy with."""
        self._presence.note(text)
        self._link.wake()

    def check(self) -> None:
        """Raise if the thread has died.

        Raises:
            UplinkError: it has; the cause is its error.
        """
        if self._error is not None:
            raise UplinkError(f"the uplink's thread died: {self._error}") from self._error

    def close(self, *, timeout_s: float) -> None:
        """Part from the broker and end the thread; closing twice is harmless."""
        self._closing_s = timeout_s
        self._link.wake()
        if self._thread.is_alive():
            self._thread.join(timeout_s + _IDLE_S)
        elif self._thread.ident is None:
            self._link.close(timeout_s=0)

    def _run(self) -> None:
        try:
            self._link.open(self._presence.will)
            while self._closing_s is None:
                self._turn()
            self._finish(self._closing_s / 2)
            if self._connected:
                self._presence.part(self._link)
            for event in self._link.close(timeout_s=self._closing_s):
                if isinstance(event, Delivered):
                    self._deliver(event)
            for publisher in self._publishers:
                publisher.close()
            self._outbox.close()
        except BaseException as error:  # noqa: BLE001 -- kept for `check`, which ends the daemon
            _log.critical("the uplink's thread died", exc_info=error)
            self._connected = False
            self._error = error
            self._bell.set()

    def _turn(self, *, longest_s: float = _IDLE_S) -> None:
        """Do one round: what came is settled before it is handed on and acknowledged."""
        patience_s = min(longest_s, self._patience_s(), _SOON_S if self._soon else _IDLE_S)
        self._idle = True  # before the last look: whoever offers after it wakes the link
        events = self._link.poll(0.0 if self._offers or self._finals else patience_s)
        self._idle = self._soon = False
        for event in events:
            self._handle(event)
        self._ring()  # first: what has ended and is not yet final is safe all the while
        self._settle()
        for event in events:
            if isinstance(event, Received) and event.token is not None:
                self._link.ack(event.token)
        self._store()
        self._expire()
        self._send()
        self._publish()
        self._finalise()
        self._fail()
        self._ring()
        if self._connected and self._presence.insist(self._link):
            self._tally.add("births")
        self._busy_ns = time.thread_time_ns()

    def _finish(self, timeout_s: float) -> None:
        """Store what was offered last, and let the publishers say what they have to say."""
        self._turn(longest_s=0.0)
        until_s = time.monotonic() + timeout_s
        while self._connected and time.monotonic() < until_s:
            if not any(publisher.busy for publisher in self._publishers):
                break
            self._turn()

    def _ring(self) -> None:
        if self._answers or self._draws.told:
            self._bell.set()

    def _patience_s(self) -> float:
        now_ns = self._clock()
        times = [self._sender.next_ns(), *(one.next_ns() for one in self._publishers)]
        times += [
            self._outbox.next_ns(),
            None if self._meter is None else self._meter.next_ns(now_ns),
        ]
        next_ns = min((at_ns for at_ns in times if at_ns is not None), default=None)
        if next_ns is None:
            return _IDLE_S
        return min(_IDLE_S, max(0.0, (next_ns - now_ns) / 1e9))

    def _handle(self, event: Event) -> None:
        match event:
            case Connected():
                self._connect(event)
            case Disconnected():
                self._disconnect(event)
            case Received():
                self._receive(event)
            case Delivered():
                self._deliver(event)
            case Subscribed(refused=refused):
                if refused:
                    _log.error("the broker refuses the subscription to %s", ", ".join(refused))

    def _deliver(self, event: Delivered) -> None:
        known = self._sender.delivered(event)
        if any(one.delivered(event.mid, event.refused) for one in self._publishers):
            return
        if event.refused is not None:
            self._tally.drop("undelivered", event.refused)
        elif known:
            self._tally.add("delivered")

    def _connect(self, event: Connected) -> None:
        self._connected = True
        self._trouble = None
        self._sender.connected(event)
        self._tally.add("connects")
        _log.info("connected, MQTT %s", event.protocol)
        others = [topic for publisher in self._publishers for topic in publisher.filters]
        self._link.subscribe((self._device.answer, self._device.status, *others))
        self._presence.announce(self._link)
        self._tally.add("births")
        for publisher in self._publishers:
            publisher.connected(self._link)

    def _disconnect(self, event: Disconnected) -> None:
        self._connected = False
        self._sender.disconnected()
        for publisher in self._publishers:
            publisher.disconnected()
        if event.stood:
            self._tally.add("disconnects")
            stolen = "taken over" in event.reason
            level = logging.WARNING if stolen else logging.INFO
            hint = "; is there a second device of this name?" if stolen else ""
            _log.log(level, "disconnected: %s%s", event.reason, hint)
        elif event.reason != self._trouble:
            _log.warning("no connection: %s", event.reason)
        self._trouble = event.reason

    def _receive(self, event: Received) -> None:
        self._tally.add("bytes_down", len(event.topic) + len(event.payload))
        if event.topic == self._presence.topic:
            self._presence.heard(event)
        elif any(publisher.received(event) for publisher in self._publishers):
            pass
        elif event.topic != self._device.answer:
            self._tally.add("stray")  # amqtt sends whatever it retains to whoever connects
        elif len(event.payload) > wire.MAX_REPLY_BYTES:
            self._tally.drop("oversized", f"{len(event.payload)} bytes")
        else:
            self._match(event.payload)

    def _match(self, payload: bytes) -> None:
        try:
            reply = wire.decode_reply(payload)
        except WireError as error:
            self._tally.drop("malformed", error)
            return
        record = None if reply.id in self._ends else self._outbox.find(reply.id)
        if record is None:
            earlier = reply.session < self._session  # what that had ended nobody remembers
            means = self._ended.get(reply.id, "late" if earlier else "forged")
            self._tally.drop(means, f"nobody waits for {reply.id}")
            return
        try:
            check_reply(reply, record)
            if reply.status == "claim":
                self._sender.claim(record, worker=str(reply.detail))
                return
            answer = answer_of(reply, record)
        except WireError as error:
            self._tally.drop("forged", error)
            return
        self._end(record, answer, "answered" if answer.status == "answered" else "refused")
        self._hear()

    def _hear(self) -> None:
        """Send again what a far end has missed that was away and is there again."""
        now_ns = self._clock()
        if now_ns - self._heard_ns > self._window.lease_s * 1e9:
            self._outbox.retry()
        self._heard_ns = now_ns

    def _end(self, record: Record, answer: Answer, end: End) -> None:
        """Note how an ask ended; the outbox hears of it with the others of this turn."""
        self._tally.add(end)
        self._draws.end(answer.id, answer.probs)
        self._ends[answer.id] = end
        self._remember(answer.id, "duplicate" if end in {"answered", "refused"} else "late")
        asked = record.request.kind
        if asked == "decide" or record.answer_by_ns is not None:  # else nobody ever waited
            self._answers.append(answer)
        self._soon = True  # its final comes in a moment, and is not worth a wake-up

    def _remember(self, ask_id: str, means: Literal["late", "duplicate"]) -> None:
        self._sender.forget(ask_id)
        self._ended[ask_id] = means
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def _settle(self) -> None:
        if self._ends:
            self._outbox.settle(self._ends)
            self._ends.clear()

    def _store(self) -> None:
        """Take what was offered into the outbox, in one commit."""
        self._now_final = _taken(self._finals)  # first: what they are about was offered before
        records = []
        for ask in _taken(self._offers):
            self._draws.add(ask)
            try:
                records.append(self._filed(ask))
            except WireError as error:
                self._tally.drop("refused", error)
                self._draws.end(ask.id, None)
                self._answers.append(Answer(ask.id, ask.stream, "refused", detail=str(error)))
        if records:
            self._put(sorted(records, key=lambda one: one.answer_by_ns is None))

    def _publish(self) -> None:
        """Give the others their turn: with the link, unless it is away or has to rest."""
        if not self._publishers:
            return
        now_ns = self._clock()
        rests = self._meter is not None and not self._meter.is_open(now_ns)
        link = self._link if self._connected and not rests else None
        for publisher in self._publishers:
            publisher.turn(link, now_ns)

    def _finalise(self) -> None:
        """Note what has become final, now that the publishers have it on disk, too."""
        if self._now_final:
            self._outbox.final(self._now_final)
            self._now_final = []

    def _put(self, records: Sequence[Record]) -> None:
        streams = {record.id: record.stream for record in records}
        early = self._sender.send_early(records)
        placed = self._outbox.put(records)
        for record in early:
            self._sender.lease(record)
        for ask_id in placed.refused:
            self._tally.add("not_stored")
            self._remember(ask_id, "late")  # it may have been sent
            self._draws.end(ask_id, None)
            detail = "the outbox is full, or its disk"
            self._answers.append(Answer(ask_id, streams[ask_id], "not_stored", detail=detail))
        for ask_id in placed.evicted:
            self._lapse(ask_id, "evicted", detail="the outbox was full")

    def _lapse(self, ask_id: str, end: Literal["evicted", "dead", "lost"], *, detail: str) -> None:
        """Tell the loop that an ask has ended without an answer."""
        self._tally.add(end)
        self._draws.end(ask_id, None)
        self._remember(ask_id, "late")
        self._answers.append(Answer(ask_id, "", end, detail=detail))

    def _filed(self, ask: Ask) -> Record:
        return record_of(
            ask,
            self._contracts.get(ask.stream),
            session=self._session,
            codec=self._codecs.get(ask.stream, "raw"),
            keep_until_ns=self._keep_until(ask),
        )

    def _keep_until(self, ask: Ask) -> int | None:
        if not self._keep_for_ns:  # what was drawn has to come back whatever its score was
            return ask.deadline_ns if ask.drawn_by is None else None
        return max(ask.asked_at_ns + self._keep_for_ns, ask.deadline_ns or 0)

    def _fail(self) -> None:
        """Tell the loop what has ended by itself."""
        for ask_id, end in self._outbox.failures().items():
            if end == "dead":
                self._lapse(ask_id, "dead", detail="sent too often without an answer")
            else:
                self._lapse(ask_id, "lost", detail="the disk does not give it back")

    def _expire(self) -> None:
        for ask_id in self._outbox.expire(now_ns=self._clock()):
            self._tally.add("expired")
            self._draws.end(ask_id, None)
            self._remember(ask_id, "late")

    def _send(self) -> None:
        self._sender.withhold(self._since)
        for record, detail in self._sender.send():
            self._tally.drop("unsendable", detail)
            self._end(record, refusal_of(record, detail), "refused")
        self._settle()


def _taken(queue: deque[T]) -> list[T]:
    """Take what is in a queue now."""
    return [queue.popleft() for _ in range(len(queue))]
