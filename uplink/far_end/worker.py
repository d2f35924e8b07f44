"""The service at the far end: it answers what devices ask, with the models it is handed.

It runs in its caller's thread. Asks that come close together are answered in batches of one
contract. An ask is acknowledged when the broker has its answer, so that one which this
worker cannot finish may come again, here or to another of the group; an ask that comes twice
gets the same answer twice, without a second thought.

Asks come only while every model is there: one that is away for a while, because its server
is, ends the subscription for all, and what is in hand for it is kept, neither answered nor
acknowledged. It is answered when the model is back. Brokers differ in what they deliver
again and to whom; the device's outbox does so in any case, so nothing is lost here that it
has not been told about.
"""

from __future__ import annotations

import hashlib
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ModelAwayError, WireError
from ...telemetry.clock import Clock, boottime_ns
from .. import topics, wire
from ..link.link import (
    Connected,
    Delivered,
    Disconnected,
    Event,
    Link,
    Properties,
    Received,
    Subscribed,
    Token,
)
from ..tally import Tally
from .attendance import Attendance
from .claims import Claim, Claims
from .probe import Probe, Verdict
from .responder import Answered, Responder, refusal, replies, reply
from .traces import NoTraces, Traces
from .worker_figures import Figures, ModelMeter
from .worker_memory import Answers, Hand, Job

__all__ = ["Responder", "Worker"]

_log = logging.getLogger(__name__)

_COUNTERS = (
    *("connects", "disconnects", "asks", "answered", "repeated", "errors", "batches"),
    *("expired", "not_ours", "retained", "malformed", "oversized", "stray", "undelivered"),
    *("claims", "shed", "away", "bytes_up", "bytes_down"),
)
_IDLE_S = 1.0
_TRIES = 3  # absences of its model that one ask may live through
_BATCH_BYTES = 64 << 20
_FIGURES_NS = 250_000_000  # quantiles take longer than a small model
_IN_HAND = 1024
_IN_HAND_BYTES = 64 << 20


class Worker:
    """Serves until `stop`.

    ``responders`` answer by the digest of their contract. ``group`` names the shared
    subscription; where the broker has none, this worker takes the asks of its ``shard``
    (index, count). The first ask of a batch waits for ``max_batch`` of them for ``batch_wait_s``
    at most. ``on_serving`` is called whenever asks can come, with "shared" or "plain", and
    ``on_waiting`` whenever they cannot since a model is away, with the reason; ``on_turn`` at
    every turn, at least once a second unless a model takes longer. ``memory``
    bounds the answers kept for asks that come twice. ``traces`` continues those of devices.
    """

    def __init__(
        self,
        link: Link,
        *,
        name: str,
        responders: Sequence[Responder],
        group: str = "workers",
        shard: tuple[int, int] = (0, 1),
        max_batch: int = 32,
        batch_wait_s: float = 0.0,
        memory: int = 4096,
        memory_bytes: int = 16 << 20,
        on_serving: Callable[[Verdict], None] | None = None,
        on_waiting: Callable[[str], None] | None = None,
        on_turn: Callable[[], object] | None = None,
        traces: Traces = NoTraces(),  # noqa: B008 -- has no state
        clock: Clock = boottime_ns,
    ) -> None:
        self._link = link
        self._name = name
        self._responders: Mapping[str, Responder] = {one.contract.digest: one for one in responders}
        self._group = group
        self._shard = shard
        self._hand = Hand(
            {one.contract.digest: _size(one, max_batch) for one in responders},
            wait_ns=int(batch_wait_s * 1e9),
            count=_IN_HAND,
            size_bytes=_IN_HAND_BYTES,
        )
        self._given = Answers(memory, memory_bytes)
        self._claims = Claims()
        self._models = Attendance(responders)
        self._on_serving = on_serving
        self._on_waiting = on_waiting
        self._on_turn = on_turn
        self._traces = traces
        self._clock = clock
        self._probe: Probe | None = None
        self._connected = False
        self._mode: Verdict | None = None  # how this broker shares, once it is known
        self._subscribed_to: str | None = None
        self._serving = False
        self._owed: dict[int, list[Token]] = {}
        self._trouble: str | None = None
        self._stopping = threading.Event()
        self._tally = Tally(_COUNTERS, log=_log)
        self._meters = {one.contract.digest: ModelMeter(one.contract.name) for one in responders}
        self._figures = self._measured()

    @property
    def serving(self) -> Verdict | None:
        """How asks come, or None while none can."""
        return self._mode if self._serving else None

    def counters(self) -> dict[str, int]:
        """Copy the counters; bytes are those of topics and payloads."""
        pairs = Counter[str]()
        for responder in self._responders.values():
            if responder.keep is not None:
                pairs.update({f"pairs_{k}": n for k, n in responder.keep.counters().items()})
        return self._tally.copy() | self._claims.counters() | self._traces.counters() | pairs

    def figures(self) -> Figures:
        """Return the state as of the last turn, a second ago at most; for any thread."""
        return self._figures

    def stop(self) -> None:
        """Make `run` finish what it has taken and return; for any thread or signal."""
        self._stopping.set()
        self._link.wake()

    def run(self, *, drain_s: float = 2.0) -> None:
        """Serve until stopped; then finish what has come, for ``drain_s`` at most.

        Raises:
            HedgeError: a model's server serves another model than the one it should.
        """
        names = ", ".join(one.contract.name for one in self._responders.values())
        _log.info("worker %s answers for %s", self._name, names)
        self._link.open()
        try:
            while not self._stopping.is_set():
                self._turn(_IDLE_S)
                if self._on_turn is not None:
                    self._on_turn()
            self._drain(drain_s)
        finally:
            self._link.close(timeout_s=drain_s)

    def _drain(self, drain_s: float) -> None:
        """Take no more asks; answer those in hand, and see the answers off.

        The call of a model that has begun is not cut short, and ``drain_s`` does not count it.
        """
        self._withdraw()
        self._probe = None
        if self._connected:
            self._link.unsubscribe((topics.parts_filter(self._name),))
            self._await_word()
        until_s = time.monotonic() + drain_s
        while self._can_answer() and time.monotonic() < until_s:
            self._turn(0.05)
        left = len(self._hand) + len(self._owed)
        if left:
            _log.warning("stopped with %d asks unanswered; their devices will ask again", left)
        else:
            _log.info("stopped, with every ask answered")

    def _await_word(self) -> None:
        """Owe the broker a message: when it has that, what it sent before has come, too."""
        mid = self._link.send(f"{topics.ROOT}/_worker/{self._name}/plain", b"")
        if mid is not None:
            self._owed[mid] = []

    def _can_answer(self) -> bool:
        """Return whether waiting can still bring an answer to the broker."""
        answerable = self._hand.next_ns(away=self._models.away) is not None
        return self._connected and (answerable or bool(self._owed))

    def _turn(self, timeout_s: float) -> None:
        for event in self._link.poll(min(timeout_s, self._patience_s())):
            self._handle(event)
        if self._probe is not None:
            self._serve(self._probe.lapse())
        if self._models.look():
            self._resume()
        self._ack_all(self._claims.lapse(now_ns=self._clock()))
        self._work()
        if self._clock() - self._figures.turned_ns >= _FIGURES_NS:
            self._figures = self._measured()

    def _patience_s(self) -> float:
        """Return how long nothing has to be done but what the link tells us."""
        waits_s = [math.inf]
        if self._probe is not None:
            waits_s.append(self._probe.wait_s())
        due_ns = self._hand.next_ns(away=self._models.away)
        if due_ns is not None:
            waits_s.append(max(0.0, (due_ns - self._clock()) / 1e9))
        look_s = self._models.wait_s()
        if look_s is not None:
            waits_s.append(look_s)
        return min(waits_s)

    # ---- The connection, and how asks come

    def _handle(self, event: Event) -> None:
        match event:
            case Connected():
                self._trouble = None
                self._connected = True
                self._tally.add("connects")
                _log.info("connected, MQTT %s", event.protocol)
                self._resume()
            case Disconnected():
                self._disconnect(event)
            case Subscribed():
                self._subscribed(event)
            case Delivered():
                if event.refused is not None:
                    self._tally.drop("undelivered", event.refused)
                self._ack_all(self._owed.pop(event.mid, ()))
            case Received():
                self._receive(event)

    def _disconnect(self, event: Disconnected) -> None:
        self._probe = None
        self._connected = False
        self._mode = None
        self._subscribed_to = None
        self._serving = False
        self._owed.clear()
        if event.stood:
            self._tally.add("disconnects")
            _log.info("disconnected: %s", event.reason)
        elif event.reason != self._trouble:
            _log.warning("no connection: %s", event.reason)
        self._trouble = event.reason

    def _subscribed(self, event: Subscribed) -> None:
        if self._probe is not None:
            self._serve(self._probe.on(event))
            return
        if event.refused:
            _log.error("the broker refuses the subscription to %s", ", ".join(event.refused))
        if self._subscribed_to is None or self._subscribed_to in event.refused or self._serving:
            return
        self._serving = True
        _log.info("serving, %s subscription", self._mode)
        if self._on_serving is not None and self._mode is not None:
            self._on_serving(self._mode)

    def _resume(self) -> None:
        """Let asks come, if every model is there and the broker is."""
        if not self._connected or self._stopping.is_set():
            return
        if self._models.away:
            self._say_waiting()
        elif self._mode is not None:
            self._serve(self._mode)
        elif self._probe is None:
            self._probe = Probe(self._link, group=self._group, worker=self._name)

    def _serve(self, verdict: Verdict | None) -> None:
        """Subscribe to the asks in the way that the probe has found to work."""
        if verdict is None:
            return
        self._probe = None
        self._mode = verdict
        if self._models.away or self._stopping.is_set():
            return
        wanted = topics.ASKS
        if verdict == "shared":
            wanted = topics.shared(self._group, wanted)
        else:
            index, count = self._shard
            _log.info("the broker shares no subscriptions: taking shard %d of %d", index, count)
        self._subscribed_to = wanted
        self._link.subscribe((wanted, topics.parts_filter(self._name)))

    def _withdraw(self) -> None:
        """Let no more asks come; the parts of those that are claimed still do."""
        if self._subscribed_to is not None:
            self._link.unsubscribe((self._subscribed_to,))
        self._subscribed_to = None
        self._serving = False

    def _say_waiting(self) -> None:
        if self._on_waiting is not None:
            self._on_waiting("; ".join(self._models.away.values()))

    # ---- What comes

    def _receive(self, event: Received) -> None:
        """Take in a message. It is acknowledged at once, unless an answer is owed for it."""
        self._tally.add("bytes_down", len(event.topic) + len(event.payload))
        if self._probe is not None and self._probe.owns(event.topic):
            self._serve(self._probe.on(event))
            self._ack(event.token)
        elif not self._sort(event):
            self._ack(event.token)

    def _sort(self, event: Received) -> bool:
        """Do what the topic asks for; False where nothing is owed for the message."""
        for parse, take in (
            (topics.parse_ask, self._take_ask),
            (topics.parse_notice, self._take_notice),
            (topics.parse_part, self._take_part),
        ):
            try:
                device, name = parse(event.topic)
            except WireError:
                continue
            if event.retained:  # it is for now; a broker that keeps one would serve it for ever
                self._tally.drop("retained", event.topic)
                return False
            if len(event.payload) > wire.MAX_REQUEST_BYTES:
                self._tally.drop("oversized", f"{len(event.payload)} bytes")
                return False
            try:
                return take(device, name, event)
            except WireError as error:
                self._tally.drop("malformed", error)
                return False
        self._tally.add("stray")
        return False

    def _take_ask(self, device: topics.Device, stream: str, event: Received) -> bool:
        request = wire.decode_request(event.payload)
        if self._mode == "plain" and not self._is_ours(device, request.id):
            self._tally.add("not_ours")
            return False
        tokens = [] if event.token is None else [event.token]
        return self._take(device, stream, request, tokens)

    def _take(
        self, device: topics.Device, stream: str, request: wire.Request, tokens: list[Token]
    ) -> bool:
        """Take an ask in hand, or end it; False where nothing is owed for its messages."""
        self._tally.add("asks")
        job = Job(device, request, self._clock(), tokens, stream)
        payload = self._given.get(job.key)
        if payload is not None:
            self._tally.add("repeated")
            self._publish(job, payload)
            return True
        why = refusal(self._responders.get(request.contract), request)
        if why is not None:
            self._refuse(job, why)
            return True
        if not self._hand.add(job):
            self._tally.drop("shed", "more asks than can be held")
            return False
        return True

    def _take_notice(self, device: topics.Device, stream: str, event: Received) -> bool:
        """Claim a request that goes in parts.

        Also one that was answered before: a notice does not show that it is about the same
        sample. When its parts are here, the answer is given without a second thought.
        """
        notice = wire.decode_notice(event.payload)
        tokens = [] if event.token is None else [event.token]
        if self._mode == "plain" and not self._is_ours(device, notice.id):
            self._tally.add("not_ours")
        elif notice.remaining_ms == 0:
            self._tally.add("expired")
        elif notice.contract not in self._responders:
            why = f"no model of contract {notice.contract} is served here"
            return self._refuse_notice(device, notice, tokens, why)
        elif self._claims.claim(device, notice, tokens, stream=stream, now_ns=self._clock()):
            self._tally.add("claims")
            claim = wire.encode(reply(notice, "claim", detail=self._name))
            self._send(device, notice.id, claim, tokens)  # those that cannot wait for the answer
            return True
        return False

    def _take_part(self, device: topics.Device, _worker: str, event: Received) -> bool:
        """Add a part; it is acknowledged at once, since the notice of the whole is not."""
        part = wire.decode_part(event.payload)
        found = self._claims.take(device, part, now_ns=self._clock())
        if found is not None and not self._take_whole(device, *found):
            self._ack_all(found[1].tokens)
        return False

    def _take_whole(self, device: topics.Device, payload: bytes, claim: Claim) -> bool:
        """Take what the parts make; False where nothing is owed for its notice."""
        notice = claim.notice
        try:
            request = _announced(payload, notice)
        except WireError as error:
            self._tally.drop("malformed", error)
            why = f"its parts make no request: {error}"
            return self._refuse_notice(device, notice, claim.tokens, why)
        return self._take(device, claim.stream, request, claim.tokens)

    def _is_ours(self, device: topics.Device, ask_id: str) -> bool:
        index, count = self._shard
        place = f"{device.site}/{device.name}/{ask_id}".encode()
        digest = hashlib.blake2b(place, digest_size=8).digest()
        return int.from_bytes(digest, "little") % count == index

    # ---- Answers

    def _work(self) -> None:
        """Answer what is due; all of it, if no more is to come."""
        due = partial(self._hand.due, all_of_them=self._stopping.is_set())
        for batch in due(self._clock(), away=self._models.away):
            self._answer(batch)

    def _answer(self, batch: Sequence[Job]) -> None:
        """Answer one batch; one whose members spoil it is answered one by one."""
        live = [(job, body) for job in batch for body in self._opened(job)]
        if not live:
            return
        jobs = [job for job, _ in live]
        contract = jobs[0].request.contract
        if contract in self._models.away:  # since an earlier batch of this turn
            self._keep(jobs, contract, tried=False)
            return
        self._tally.add("batches")
        begun_ns = self._clock()
        try:
            made = replies(
                self._responders[contract],
                [job.request for job in jobs],
                [body for _, body in live],
            )
        except ModelAwayError as error:
            self._lose(contract, str(error))
            self._keep(jobs, contract, tried=True)
            return
        except Exception as error:  # noqa: BLE001 -- one ask must not end the service
            if len(jobs) > 1:
                for job in jobs:
                    self._answer([job])
                return
            self._refuse(jobs[0], f"the model failed: {type(error).__name__}", error=error)
            return
        ended_ns = self._clock()
        self._measure(contract, jobs, ended_ns - begun_ns)
        for job, one in zip(jobs, made, strict=True):
            payload = wire.encode(one)
            self._given.put(job.key, payload)
            self._tally.add("answered")
            self._publish(job, payload)
        self._traces.answered(jobs, begun_ns=begun_ns, ended_ns=ended_ns)
        keep = self._responders[contract].keep
        if keep is not None:
            keep([_answered(job, body, one) for (job, body), one in zip(live, made, strict=True)])

    def _opened(self, job: Job) -> list[NDArray[Any]]:
        """Return an ask's tensor; none where its time has run out or it cannot be read."""
        if job.until_ns is not None and self._clock() >= job.until_ns:
            self._tally.add("expired")
            self._ack_all(job.tokens)
            return []
        try:
            return [wire.tensor(job.request)]
        except WireError as error:
            self._refuse(job, f"cannot be read: {error}")
            return []

    def _lose(self, contract: str, reason: str) -> None:
        """Serve no more until the model is back."""
        self._tally.add("away")
        self._models.lose(contract, reason)
        self._withdraw()
        self._say_waiting()

    def _keep(self, jobs: Sequence[Job], contract: str, *, tried: bool) -> None:
        """Keep asks until their model is back, but not those that seem to send it away."""
        for job in jobs:
            job.tries += tried
            if job.tries >= _TRIES:
                self._refuse(job, f"the model went away {_TRIES} times")
            elif not self._hand.add(job):
                self._tally.drop("shed", f"more asks than can be held for {contract}")
                self._ack_all(job.tokens)

    def _refuse(self, job: Job, detail: str, *, error: BaseException | None = None) -> None:
        self._tally.drop("errors", detail, error=error)
        self._publish(job, wire.encode(reply(job.request, "error", detail=detail)))
        self._traces.refused(job, why=detail, ended_ns=self._clock())

    def _refuse_notice(
        self, device: topics.Device, notice: wire.Notice, tokens: list[Token], detail: str
    ) -> bool:
        """Refuse a request that has not come, or not whole; True: an answer is under way."""
        self._tally.drop("errors", detail)
        self._send(device, notice.id, wire.encode(reply(notice, "error", detail=detail)), tokens)
        return True

    def _publish(self, job: Job, payload: bytes) -> None:
        self._send(job.device, job.request.id, payload, job.tokens)

    def _send(
        self, device: topics.Device, ask_id: str, payload: bytes, tokens: list[Token]
    ) -> None:
        """Send a reply; ``tokens`` are acknowledged when the broker has it."""
        beside = Properties(content_type=wire.CONTENT_TYPE, correlation=ask_id.encode())
        mid = self._link.send(device.answer, payload, properties=beside)
        if mid is not None:
            self._tally.add("bytes_up", len(device.answer) + len(payload))
            self._owed[mid] = tokens

    def _ack(self, token: Token | None) -> None:
        if token is not None:
            self._link.ack(token)

    def _ack_all(self, tokens: Iterable[Token]) -> None:
        for token in tokens:
            self._link.ack(token)

    # ---- Figures

    def _measure(self, contract: str, jobs: Sequence[Job], model_ns: int) -> None:
        now_ns = self._clock()
        self._hand.took(contract, model_ns)
        meter = self._meters[contract]
        meter.batches += 1
        meter.batched += len(jobs)
        meter.calls.record(model_ns)
        for job in jobs:
            meter.answers.record(now_ns - job.came_ns)

    def _measured(self) -> Figures:
        """Copy what was counted."""
        away = self._models.away
        return Figures(
            turned_ns=self._clock(),
            connected=self._connected,
            serving=self.serving,
            waiting=len(self._hand),
            gathering=len(self._claims),
            counters=self.counters(),
            models=[m.figures(away=away.get(one)) for one, m in self._meters.items()],
        )


def _answered(job: Job, sample: NDArray[Any], made: wire.Reply) -> Answered:
    return Answered(
        device=job.device,
        stream=job.stream,
        request=job.request,
        sample=sample,
        probs=np.frombuffer(made.probs, "<f4"),
        alpha=None if made.alpha is None else np.frombuffer(made.alpha, "<f4"),
    )


def _announced(payload: bytes, notice: wire.Notice) -> wire.Request:
    """Read the request that a notice was about.

    Raises:
        WireError: it is none, or another one.
    """
    request = wire.decode_request(payload)
    if (request.id, request.session, request.contract) != (
        notice.id,
        notice.session,
        notice.contract,
    ):
        raise WireError("another request than was announced", where=notice.id)
    return request


def _size(responder: Responder, max_batch: int) -> int:
    """Return how many asks make a batch: as many as wanted, and as memory allows."""
    contract = responder.contract
    each = math.prod(contract.shape) * np.dtype(contract.dtype).itemsize
    return max(1, min(max_batch, _BATCH_BYTES // max(1, each)))
