"""The service at the far end: it answers what devices ask, with the models it is handed.

It runs in its caller's thread. Asks that have come together are answered in batches of one
contract. An ask is acknowledged when the broker has its answer, so that one which this
worker cannot finish comes again, here or to another of the group; an ask that comes twice
gets the same answer twice, without a second thought.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..models.errors import WireError
from ..models.records import Probs
from ..telemetry.clock import Clock, boottime_ns
from . import topics, wire
from .asks import Contract
from .link import (
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
from .probe import Probe, Verdict
from .tally import Tally

_log = logging.getLogger(__name__)

Respond = Callable[[NDArray[Any]], tuple[Probs, Probs | None]]
"""A batch (B, *shape) to probabilities (B, K) and, with evidence, alpha (B, K)."""

_Key = tuple[str, str, str, str, bytes]
_COUNTERS = (
    *("connects", "disconnects", "asks", "answered", "repeated", "errors", "batches"),
    *("expired", "not_ours", "retained", "malformed", "oversized", "stray", "undelivered"),
    *("bytes_up", "bytes_down"),
)
_IDLE_S = 1.0


class Responder(Struct, frozen=True, kw_only=True):
    """One model: what it answers to, the graph input that a body feeds, and the call."""

    contract: Contract
    respond: Respond
    entry: str = "input"


@dataclass(slots=True, eq=False)
class _Job:
    """One ask in hand, with all the messages that brought it."""

    device: topics.Device
    request: wire.Request
    came_ns: int
    tokens: list[Token] = field(default_factory=list)

    @property
    def key(self) -> _Key:
        """Return what makes two asks the same one.

        Not the id alone: a device that has lost its state may count from the same again.
        """
        request = self.request
        body = hashlib.blake2b(request.body, digest_size=8).digest()
        return (self.device.site, self.device.name, request.id, request.contract, body)


class Worker:
    """Serves until `stop`.

    ``responders`` answer by the digest of their contract. ``group`` names the shared
    subscription; where the broker has none, this worker takes the asks of its ``shard``
    (index, count). ``on_serving`` is called whenever asks can come, with "shared" or
    "plain". ``memory`` bounds the answers kept for asks that come twice.
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
        memory: int = 4096,
        memory_bytes: int = 16 << 20,
        on_serving: Callable[[Verdict], None] | None = None,
        clock: Clock = boottime_ns,
    ) -> None:
        self._link = link
        self._name = name
        self._responders: Mapping[str, Responder] = {one.contract.digest: one for one in responders}
        self._group = group
        self._shard = shard
        self._max_batch = max_batch
        self._given = _Memory(memory, memory_bytes)
        self._on_serving = on_serving
        self._clock = clock
        self._probe: Probe | None = None
        self._mode: Verdict | None = None
        self._serving = False
        self._owed: dict[int, list[Token]] = {}
        self._jobs: dict[_Key, _Job] = {}
        self._trouble: str | None = None
        self._stopping = threading.Event()
        self._tally = Tally(_COUNTERS, log=_log)

    @property
    def serving(self) -> Verdict | None:
        """How asks come, or None while none can."""
        return self._mode if self._serving else None

    def counters(self) -> dict[str, int]:
        """Copy the counters; bytes are those of topics and payloads."""
        return self._tally.copy()

    def stop(self) -> None:
        """Make `run` finish what it has taken and return; for any thread or signal."""
        self._stopping.set()
        self._link.wake()

    def run(self, *, drain_s: float = 2.0) -> None:
        """Serve until stopped; then finish what has come, for ``drain_s`` at most."""
        names = ", ".join(one.contract.name for one in self._responders.values())
        _log.info("worker %s answers for %s", self._name, names)
        self._link.open()
        try:
            while not self._stopping.is_set():
                self._turn(_IDLE_S)
            self._drain(drain_s)
        finally:
            self._link.close(timeout_s=drain_s)

    def _drain(self, drain_s: float) -> None:
        if self._mode is not None:
            self._link.unsubscribe((self._filter(self._mode),))
        until_s = time.monotonic() + drain_s
        while self._owed and time.monotonic() < until_s:
            self._turn(0.05)

    def _turn(self, timeout_s: float) -> None:
        if self._probe is not None:
            timeout_s = min(timeout_s, self._probe.wait_s())
        for event in self._link.poll(timeout_s):
            self._handle(event)
        if self._probe is not None:
            self._serve(self._probe.lapse())
        self._work()

    def _handle(self, event: Event) -> None:
        match event:
            case Connected():
                self._trouble = None
                self._tally.add("connects")
                _log.info("connected, MQTT %s", event.protocol)
                self._probe = Probe(self._link, group=self._group, worker=self._name)
            case Disconnected():
                self._disconnect(event)
            case Subscribed():
                self._subscribed(event)
            case Delivered():
                if event.refused is not None:
                    self._tally.drop("undelivered", event.refused)
                for token in self._owed.pop(event.mid, ()):
                    self._link.ack(token)
            case Received():
                self._receive(event)

    def _disconnect(self, event: Disconnected) -> None:
        self._probe = None
        self._mode = None
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
        elif event.refused:
            _log.error("the broker refuses the subscription to %s", ", ".join(event.refused))
        elif self._mode is not None:
            self._serving = True
            if self._on_serving is not None:
                self._on_serving(self._mode)

    def _serve(self, verdict: Verdict | None) -> None:
        """Subscribe to the asks in the way that the probe has found to work."""
        if verdict is None:
            return
        self._probe = None
        self._mode = verdict
        self._link.subscribe((self._filter(verdict),))
        if verdict == "plain":
            index, count = self._shard
            _log.info("the broker shares no subscriptions: taking shard %d of %d", index, count)

    def _filter(self, verdict: Verdict) -> str:
        return topics.shared(self._group, topics.ASKS) if verdict == "shared" else topics.ASKS

    def _receive(self, event: Received) -> None:
        self._tally.add("bytes_down", len(event.topic) + len(event.payload))
        if self._probe is not None and self._probe.owns(event.topic):
            self._serve(self._probe.on(event))
            self._ack(event.token)
        elif not self._take(event):
            self._ack(event.token)

    def _take(self, event: Received) -> bool:
        """Make a job of an ask; False where there is none to be made."""
        try:
            device, _ = topics.parse_ask(event.topic)
        except WireError:
            self._tally.add("stray")
            return False
        if event.retained:  # an ask is for now; a broker that keeps one would serve it for ever
            self._tally.drop("retained", event.topic)
            return False
        if len(event.payload) > wire.MAX_REQUEST_BYTES:
            self._tally.drop("oversized", f"{len(event.payload)} bytes")
            return False
        try:
            request = wire.decode_request(event.payload)
        except WireError as error:
            self._tally.drop("malformed", error)
            return False
        if self._mode == "plain" and not self._is_ours(device, request.id):
            self._tally.add("not_ours")
            return False
        self._tally.add("asks")
        job = _Job(device, request, self._clock())
        job = self._jobs.setdefault(job.key, job)
        if event.token is not None:
            job.tokens.append(event.token)
        return True

    def _is_ours(self, device: topics.Device, ask_id: str) -> bool:
        index, count = self._shard
        place = f"{device.site}/{device.name}/{ask_id}".encode()
        digest = hashlib.blake2b(place, digest_size=8).digest()
        return int.from_bytes(digest, "little") % count == index

    def _work(self) -> None:
        """Answer what has come."""
        jobs, self._jobs = list(self._jobs.values()), {}
        for batch in self._batches(job for job in jobs if not self._repeat(job)):
            self._answer(batch)

    def _repeat(self, job: _Job) -> bool:
        """Give an answer that was given before once more; False if there is none."""
        payload = self._given.get(job.key)
        if payload is None:
            return False
        self._tally.add("repeated")
        self._publish(job, payload)
        return True

    def _batches(self, jobs: Iterator[_Job]) -> list[list[_Job]]:
        """Group what can be answered by contract; refuse the rest."""
        batches: list[list[_Job]] = []
        filling: dict[str, list[_Job]] = {}
        for job in jobs:
            refusal = self._refusal(job.request)
            if refusal is not None:
                self._refuse(job, refusal)
                continue
            batch = filling.get(job.request.contract)
            if batch is None or len(batch) >= self._max_batch:
                batch = filling[job.request.contract] = []
                batches.append(batch)
            batch.append(job)
        return batches

    def _refusal(self, request: wire.Request) -> str | None:
        responder = self._responders.get(request.contract)
        if responder is None:
            return f"no model of contract {request.contract} ({request.model}) is served here"
        contract = responder.contract
        if (request.dtype, request.shape) != (contract.dtype, contract.shape):
            return f"{contract.name} takes {contract.dtype} {contract.shape}"
        if request.entry != responder.entry:
            return f"{contract.name} has no input {request.entry}"
        return None

    def _answer(self, batch: Sequence[_Job]) -> None:
        """Answer one batch; one whose members spoil it is answered one by one."""
        live = [job for job in batch if not self._is_late(job)]
        if not live:
            return
        responder = self._responders[live[0].request.contract]
        self._tally.add("batches")
        try:
            replies = _replies(responder, [job.request for job in live])
        except Exception as error:  # noqa: BLE001 -- one ask must not end the service
            if len(live) > 1:
                for job in live:
                    self._answer([job])
                return
            self._refuse(live[0], f"the model failed: {type(error).__name__}", error=error)
            return
        for job, reply in zip(live, replies, strict=True):
            payload = wire.encode(reply)
            self._given.put(job.key, payload)
            self._tally.add("answered")
            self._publish(job, payload)

    def _is_late(self, job: _Job) -> bool:
        """Pass over an ask whose time has run out here."""
        remaining_ms = job.request.remaining_ms
        held_ns = self._clock() - job.came_ns
        if remaining_ms is None or held_ns < remaining_ms * 1_000_000:
            return False
        self._tally.add("expired")
        for token in job.tokens:
            self._ack(token)
        return True

    def _refuse(self, job: _Job, detail: str, *, error: BaseException | None = None) -> None:
        self._tally.drop("errors", detail, error=error)
        self._publish(job, wire.encode(_reply(job.request, "error", detail=detail)))

    def _publish(self, job: _Job, payload: bytes) -> None:
        """Send an answer; its ask is acknowledged when the broker has it."""
        topic = job.device.answer
        beside = Properties(content_type=wire.CONTENT_TYPE, correlation=job.request.id.encode())
        mid = self._link.send(topic, payload, properties=beside)
        if mid is not None:
            self._tally.add("bytes_up", len(topic) + len(payload))
            self._owed[mid] = job.tokens

    def _ack(self, token: Token | None) -> None:
        if token is not None:
            self._link.ack(token)


class _Memory:
    """The answers last given, bounded in number and bytes; the oldest go first."""

    def __init__(self, count: int, size_bytes: int) -> None:
        self._count = count
        self._left_bytes = size_bytes
        self._answers: OrderedDict[_Key, bytes] = OrderedDict()

    def get(self, key: _Key) -> bytes | None:
        return self._answers.get(key)

    def put(self, key: _Key, payload: bytes) -> None:
        self._answers[key] = payload
        self._left_bytes -= len(payload)
        while len(self._answers) > self._count or self._left_bytes < 0:
            self._left_bytes += len(self._answers.popitem(last=False)[1])


def _replies(responder: Responder, requests: Sequence[wire.Request]) -> list[wire.Reply]:
    """Run the model on a batch.

    Raises:
        WireError: what it returns is no distribution for each ask.
    """
    begun_s = time.perf_counter()
    classes = responder.contract.classes
    probs, alpha = responder.respond(np.stack([wire.tensor(request) for request in requests]))
    elapsed_ms = 1e3 * (time.perf_counter() - begun_s)
    wanted = (len(requests), classes)
    if probs.shape != wanted or (alpha is not None and alpha.shape != wanted):
        raise WireError(f"returned {probs.shape} for {wanted}", where=responder.contract.name)
    replies = []
    for row, request in enumerate(requests):
        beliefs = wire.pack(probs[row], "float32")
        wire.distribution(beliefs, classes=classes)
        evidence = None if alpha is None else wire.pack(alpha[row], "float32")
        if evidence is not None:
            wire.concentration(evidence, classes=classes)
        replies.append(_reply(request, "ok", probs=beliefs, alpha=evidence, elapsed_ms=elapsed_ms))
    return replies


def _reply(
    request: wire.Request,
    status: Literal["ok", "error"],
    *,
    detail: str | None = None,
    probs: bytes = b"",
    alpha: bytes | None = None,
    elapsed_ms: float = 0.0,
) -> wire.Reply:
    return wire.Reply(
        v=1,
        id=request.id,
        session=request.session,
        contract=request.contract,
        status=status,
        detail=None if detail is None else detail[:256],
        probs=probs,
        alpha=alpha,
        elapsed_ms=elapsed_ms,
    )
