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

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ModelAwayError, WireError
from ...telemetry.clock import Clock, boottime_ns
from .. import topics, wire
from ..link.link import Connected, Delivered, Disconnected, Event, Link, Received, Subscribed
from ..tally import Tally
from .attendance import Attendance
from .claims import Claims
from .intake import Intake
from .outgoing import Outgoing
from .probe import Probe, Verdict
from .responder import Answered, Responder, replies
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
        self._trouble: str | None = None
        self._stopping = threading.Event()
        self._tally = Tally(_COUNTERS, log=_log)
        self._out = Outgoing(link, tally=self._tally, traces=traces, clock=clock)
        self._intake = Intake(
            self._responders,
            name=name,
            hand=self._hand,
            given=self._given,
            claims=self._claims,
            out=self._out,
            tally=self._tally,
            clock=clock,
        )
        self._meters = {one.contract.digest: ModelMeter(one.contract.name) for one in responders}
        self._figures = self._measured()

    @property
    def serving(self) -> Verdict | None:
        """How asks come, or None while none can."""
        return self._mode if self._serving else None

    def counters(self) -> dict[str, int]:
        """Copy the counters; bytes are those of topics and payloads."""
        kept = Counter[str]()
        for responder in self._responders.values():
            for one in responder.keep:
                kept.update({f"{one.what}_{k}": n for k, n in one.counters().items()})
        return self._tally.copy() | self._claims.counters() | self._traces.counters() | kept

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
            self._out.await_word(f"{topics.ROOT}/_worker/{self._name}/plain")
        until_s = time.monotonic() + drain_s
        while self._can_answer() and time.monotonic() < until_s:
            self._turn(0.05)
        left = len(self._hand) + len(self._out)
        if left:
            _log.warning("stopped with %d asks unanswered; their devices will ask again", left)
        else:
            _log.info("stopped, with every ask answered")

    def _can_answer(self) -> bool:
        """Return whether waiting can still bring an answer to the broker."""
        answerable = self._hand.next_ns(away=self._models.away) is not None
        return self._connected and (answerable or len(self._out) > 0)

    def _turn(self, timeout_s: float) -> None:
        for event in self._link.poll(min(timeout_s, self._patience_s())):
            self._handle(event)
        if self._probe is not None:
            self._serve(self._probe.lapse())
        if self._models.look():
            self._resume()
        self._out.ack(self._claims.lapse(now_ns=self._clock()))
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
                self._out.delivered(event)
            case Received():
                self._receive(event)

    def _disconnect(self, event: Disconnected) -> None:
        self._probe = None
        self._connected = False
        self._mode = None
        self._subscribed_to = None
        self._serving = False
        self._out.forget()
        self._intake.shard = None
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
        self._intake.shard = self._shard if verdict == "plain" else None
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
        elif self._intake.take(event):
            return
        if event.token is not None:
            self._link.ack(event.token)

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
            self._out.refuse(jobs[0], f"the model failed: {type(error).__name__}", error=error)
            return
        ended_ns = self._clock()
        self._measure(contract, jobs, ended_ns - begun_ns)
        for job, one in zip(jobs, made, strict=True):
            payload = wire.encode(one)
            self._given.put(job.key, payload)
            self._tally.add("answered")
            self._out.publish(job, payload)
        self._traces.answered(jobs, begun_ns=begun_ns, ended_ns=ended_ns)
        keeps = self._responders[contract].keep
        if keeps:
            answered = [
                _answered(job, body, one) for (job, body), one in zip(live, made, strict=True)
            ]
            for keep in keeps:
                keep(answered)

    def _opened(self, job: Job) -> list[NDArray[Any]]:
        """Return an ask's tensor; none where its time has run out or it cannot be read."""
        if job.until_ns is not None and self._clock() >= job.until_ns:
            self._tally.add("expired")
            self._out.ack(job.tokens)
            return []
        try:
            return [wire.tensor(job.request)]
        except WireError as error:
            self._out.refuse(job, f"cannot be read: {error}")
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
                self._out.refuse(job, f"the model went away {_TRIES} times")
            elif not self._hand.add(job):
                self._tally.drop("shed", f"more asks than can be held for {contract}")
                self._out.ack(job.tokens)

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
            models=[
                meter.figures(away=away.get(one), pairs=self._pairs(one))
                for one, meter in self._meters.items()
            ],
        )

    def _pairs(self, contract: str) -> Mapping[str, int] | None:
        keep = self._responders[contract].keep
        return next((dict(one.counters()) for one in keep if one.what == "pairs"), None)


def _answered(job: Job, sample: NDArray[Any], made: wire.Reply) -> Answered:
    return Answered(
        device=job.device,
        stream=job.stream,
        request=job.request,
        sample=sample,
        probs=np.frombuffer(made.probs, "<f4"),
        alpha=None if made.alpha is None else np.frombuffer(made.alpha, "<f4"),
    )


def _size(responder: Responder, max_batch: int) -> int:
    """Return how many asks make a batch: as many as wanted, and as memory allows."""
    contract = responder.contract
    each = math.prod(contract.shape) * np.dtype(contract.dtype).itemsize
    return max(1, min(max_batch, _BATCH_BYTES // max(1, each)))
