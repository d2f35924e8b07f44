"""The loop: one sample after the other, from its source to its outcomes.

It runs in one thread and waits in one place: for a source, an answer, the nearest
deadline or the watchdog. Every sample gets an outcome at once; an escalated one gets
exactly one final outcome more, by the answer or by its deadline. An answer that comes
after that is told to the sinks as what it is, late, and changes nothing. What is drawn for the
audit is asked about though nobody waits for it: its answer is for the gate alone. So is what a
filter is least certain of, as an ask of kind "label": its answer stays at the far end.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.errors import HedgeError
from ..models.fusion import fuse
from ..models.records import Decision, Opinion, Outcome, Probs, Route, Sample
from ..telemetry.clock import Clock
from ..uplink.asks import Answer, Ask, Kind, Owed, Uplink
from ..uplink.link.budget import wire_bytes
from .feed import Feed
from .filters.filtered import DROPPED, Filtered
from .gate.audit import Said
from .gate.gate import Gate
from .lane import Lane, Waiting
from .logs import rarely
from .scheduler import RoundRobin
from .sinks.sink import Emitter
from .tracing.tracer import NullTracer, Tracer

_log = logging.getLogger(__name__)
_FEW = 16  # failures in a row of one kind are all told, before they are told rarely
_LONGEST = 300  # characters of what is told of one
_LONGEST_S = 3600.0  # a wait that some platforms refuse begins at months
_BESIDE_BYTES = 128  # of a request, beside its body and the edge's opinion; of its topic, too
_NOTHING = np.empty(0, np.uint8)
_NOTHING.setflags(write=False)


class Loop:
    """Serves its lanes until their sources end or `stop` is called."""

    def __init__(
        self,
        lanes: Sequence[Lane],
        *,
        ids: Iterator[str],
        sinks: Sequence[Emitter],
        uplink: Uplink,
        bell: threading.Event,
        clock: Clock,
        feeds: Sequence[Feed],
        tracer: Tracer = NullTracer(),  # noqa: B008 -- has no state
    ) -> None:
        self._lanes = lanes
        self._scheduler = RoundRobin(lanes)
        self._ids = ids
        self._emits: tuple[Callable[[Outcome], None], ...] = ()
        self.use(sinks)
        self._uplink = uplink
        self._bell = bell
        self._clock = clock
        self._feeds = feeds
        self._tracer = tracer
        self._stopping = False
        self.counts: Counter[str] = Counter()

    def stop(self) -> None:
        """End the loop after the sample in hand; safe from a signal handler."""
        self._stopping = True
        self._bell.set()

    def next_id(self) -> str:
        """Return an id that comes after all that were given out; in the loop's thread."""
        return next(self._ids)

    def use(self, sinks: Sequence[Emitter]) -> None:
        """Hand outcomes to these sinks from now on; in the loop's thread, from a feed."""
        self._emits = tuple(sink.emit for sink in sinks)

    def replace(self, lanes: Sequence[Lane]) -> None:
        """Serve these lanes from now on; in the loop's thread, from a feed.

        What waits for an answer on a lane that goes gets the edge's.
        """
        for lane in self._lanes:
            if not any(lane is one for one in lanes):
                for waiting in list(lane.waiting.values()):
                    self._degrade(lane, waiting, end="expired", reason="reloaded")
                lane.count_overrun()
        self._lanes = lanes
        self._scheduler = RoundRobin(lanes)

    def resume(self, owed: Sequence[Owed]) -> None:
        """Take up what an earlier run has left without a final outcome; before `run`.

        Where its user still waits, so do we; the others get the edge's answer at once. Of
        a stream that is served no more nobody waits.
        """
        lanes = {lane.name: lane for lane in self._lanes}
        now_ns = self._clock()
        for one in sorted(owed, key=lambda one: one.answer_by_ns):
            lane = lanes.get(one.stream)
            if lane is None:
                self.counts["orphaned"] += 1
                self._uplink.final(one.id)
                continue
            until_ns = min(one.answer_by_ns, now_ns + lane.answer_within_ns)
            sample = Sample(one.stream, one.id, one.asked_at_ns, _NOTHING)
            waiting = Waiting(
                sample,
                one.opinion,
                False,  # noqa: FBT003 -- a record's field
                one.asked_at_ns,
                until_ns,
                traceparent=one.traceparent,
            )
            lane.waiting[one.id] = waiting
            lane.ledger.resumed += 1
            lane.ledger.waiting += 1
            if until_ns <= now_ns:
                self._degrade(lane, waiting, end="expired", reason="restarted")

    def run(self) -> None:
        """Serve until every source has ended and nothing waits, or until stopped."""
        with np.errstate(all="ignore"):  # what overflows is found and said; a warning is no news
            self._run()

    def learn(self) -> None:
        """Let the gates learn what has come of the samples that they have drawn.

        What a gate of another bundle has drawn says nothing of this one's.
        """
        for one in self._uplink.audited():
            gate = next((lane.gate for lane in self._lanes if lane.name == one.stream), None)
            if gate is not None and gate.audit.asks and gate.of == one.drawn_by:
                said = Said(one.edge.score, int(one.edge.probs.argmax()), one.accepted)
                gate.learn(said, truth=int(one.probs.argmax()))

    def _run(self) -> None:
        while not self._stopping:
            self._uplink.check()
            now_ns = self._clock()
            for answer in self._uplink.answers():
                self._settle(answer)
            self.learn()
            self._expire(now_ns)
            due_ns = [feed.feed(now_ns) for feed in self._feeds]  # of what has come till now
            lane = self._scheduler.next(now_ns)
            if lane is not None:
                self._serve(lane, now_ns)
            elif self._finished():
                break
            else:
                self._wait(due_ns)
        self._expire(None)
        for lane in self._lanes:
            lane.source.close()
            lane.count_overrun()

    def _serve(self, lane: Lane, now_ns: int) -> None:
        sample: Sample | None = None
        try:
            captured = lane.source.poll(now_ns)
            if captured is None:
                return
            data = lane.sample_of(captured)
            sample = Sample(lane.name, next(self._ids), captured.taken_at_ns, data, captured.meta)
            judged = lane.judge(sample.data)
        except HedgeError as error:
            self._fail(lane, sample, now_ns, error, reason=type(error).__name__)
        except Exception as error:  # noqa: BLE001 -- one sample must not kill the loop
            self._fail(lane, sample, now_ns, error, reason="bug")
        else:
            lane.ledger.read += 1
            if judged is None:
                self._pass_on(lane, sample, lane.filtered or DROPPED)
                if lane.labelling:
                    self._label(lane, sample, None)
            else:
                self._act(lane, sample, *judged)

    def _pass_on(self, lane: Lane, sample: Sample, filtered: Filtered) -> None:
        """Emit what a filter has made of a sample; it is final."""
        route = filtered.route
        lane.ledger.routes[route] += 1
        latency_ns = self._emit(
            sample,
            route=route,
            probs=filtered.probs,
            reason="filter",
            reused_from=filtered.reused_from,
            final=True,
        )
        lane.ledger.first[route].record(latency_ns)
        lane.ledger.final[route].record(latency_ns)

    def _act(self, lane: Lane, sample: Sample, opinion: Opinion | None, decision: Decision) -> None:
        ledger, accepted = lane.ledger, decision.action == "accept"
        drawn_by = None if opinion is None else self._drawn_by(lane, opinion)
        way = "accepted" if accepted else "escalated"
        ledger.routes[way] += 1
        ledger.reasons[decision.reason] += 1
        latency_ns = self._emit(
            sample,
            route="edge",
            probs=None if opinion is None else opinion.probs,
            opinion=opinion,
            reason=decision.reason,
            final=accepted,
        )
        ledger.first[way].record(latency_ns)
        if accepted:
            ledger.final["edge"].record(latency_ns)
            if lane.filters and opinion is not None:
                lane.accepted(sample.id, opinion)
        else:
            self._escalate(lane, sample, opinion, decision, drawn_by=drawn_by)
        if drawn_by is not None and opinion is not None:
            self._audit(lane, sample, opinion, drawn_by=drawn_by, accepted=accepted)
        audited = drawn_by is not None and drawn_by.audit.asks
        if lane.labelling and accepted and not audited:  # else it is asked about anyway
            self._label(lane, sample, opinion)

    def _drawn_by(self, lane: Lane, opinion: Opinion) -> Gate | None:
        """Return the gate if it draws this sample; none is where what it escalates is refused."""
        gate = lane.gate
        drawn = gate is not None and gate.note(opinion.score)
        return gate if drawn and len(lane.waiting) < lane.window else None

    def _escalate(
        self,
        lane: Lane,
        sample: Sample,
        opinion: Opinion | None,
        decision: Decision,
        *,
        drawn_by: Gate | None,
    ) -> None:
        body, now_ns, unsure = self._shared(lane, sample), self._clock(), lane.unsure()
        waiting = Waiting(
            sample,
            opinion,
            decision.action == "fuse",
            now_ns,
            now_ns + lane.answer_within_ns,
            self._tracer.begin(),
            decision.reason,
            lane.timed_ns,
            lane.pending() if lane.filters else (),
        )
        lane.waiting[sample.id] = waiting
        lane.ledger.waiting += 1
        if body is None:
            self._degrade(lane, waiting, end="refused", reason="not_shared")
            return
        ask = Ask(
            id=sample.id,
            stream=lane.name,
            kind="label" if unsure else "decide",  # what is awaited may teach, too
            entry=lane.share.entry,
            body=body,
            opinion=opinion,
            asked_at_ns=now_ns,
            deadline_ns=waiting.deadline_ns,
            traceparent=waiting.traceparent,
            drawn_by=None if drawn_by is None or not drawn_by.audit.asks else drawn_by.of,
        )
        if lane.gate is not None:
            lane.gate.spend(_size_bytes(ask))
        if len(lane.waiting) > lane.window or not self._uplink.offer(ask):
            self._degrade(lane, waiting, end="refused", reason="not_stored")
            return
        for one in unsure:
            one.labelled()

    def _label(self, lane: Lane, sample: Sample, opinion: Opinion | None) -> None:
        """Ask about a sample that a filter is least certain of, and that nobody waits for."""
        unsure = lane.unsure()
        if unsure and self._ask_unawaited(lane, sample, opinion, kind="label"):
            for one in unsure:
                one.labelled()

    def _audit(
        self, lane: Lane, sample: Sample, opinion: Opinion, *, drawn_by: Gate, accepted: bool
    ) -> None:
        """See to it that a drawn sample is held against the truth, and nobody waits for that."""
        audit = drawn_by.audit
        if not audit.asks:  # the label comes by itself
            audit.remember(sample.id, Said(opinion.score, int(opinion.probs.argmax()), accepted))
            return
        if accepted and self._ask_unawaited(  # else it is asked about already
            lane, sample, opinion, kind="audit", drawn_by=drawn_by.of
        ):
            audit.asked()

    def _ask_unawaited(
        self,
        lane: Lane,
        sample: Sample,
        opinion: Opinion | None,
        *,
        kind: Kind,
        drawn_by: str | None = None,
    ) -> bool:
        """Ask about a sample though nobody waits for that; return whether it was taken."""
        body = self._shared(lane, sample)
        return body is not None and self._uplink.offer(
            Ask(
                id=sample.id,
                stream=lane.name,
                kind=kind,
                entry=lane.share.entry,
                body=body,
                opinion=opinion,
                asked_at_ns=self._clock(),
                deadline_ns=None,
                drawn_by=drawn_by,
            )
        )

    def _shared(self, lane: Lane, sample: Sample) -> NDArray[Any] | None:
        """Return all of the sample that leaves the device; None: nothing does."""
        try:
            return lane.share(sample.data)
        except Exception as error:  # noqa: BLE001 -- what is not sure to be allowed stays here
            self.counts["share_errors"] += 1
            times = self.counts["share_errors"]
            _log.log(rarely(times), "%s: %s: a sample was not shared", lane.name, error)
            return None

    def _settle(self, answer: Answer) -> None:
        """Finish the sample that an answer is for; one that nobody waits for is late."""
        lane = next((lane for lane in self._lanes if answer.id in lane.waiting), None)
        if lane is None:
            self._tell_late(answer)
            return
        waiting = lane.waiting[answer.id]
        if answer.probs is None:
            end = answer.status if answer.status in lane.ledger.ends else "refused"
            self._degrade(lane, waiting, end=end, reason=answer.status)
            return
        lane.ledger.stages.uplink.record(self._clock() - waiting.offered_ns)
        route: Route = "fused" if waiting.fuse else "cloud"
        probs = answer.probs
        if waiting.fuse and waiting.opinion is not None:
            cloud = Opinion(answer.probs, 0.0, "none", alpha=answer.alpha)
            probs = fuse(waiting.opinion, cloud)
        self._finish(lane, waiting, end="answered", route=route, probs=probs)

    def _tell_late(self, answer: Answer) -> None:
        """Hand on an answer that nobody waits for any more; it is not final."""
        if answer.probs is None or answer.asked_at_ns is None:
            return
        self.counts["late_answer"] += 1
        if any(lane.name == answer.stream for lane in self._lanes):
            sample = Sample(answer.stream, answer.id, answer.asked_at_ns, _NOTHING)
            self._emit(sample, route="cloud", probs=answer.probs, reason="late", final=False)

    def _expire(self, now_ns: int | None) -> None:
        """Finish what has waited until its deadline; None: all that waits, for we stop."""
        for lane in self._lanes:
            while lane.waiting:
                waiting = next(iter(lane.waiting.values()))
                if now_ns is not None and waiting.deadline_ns > now_ns:
                    break
                reason = "deadline" if now_ns is not None else "stopped"
                if reason == "deadline" and not self._uplink.connected:
                    reason = "unavailable"
                self._degrade(lane, waiting, end="expired", reason=reason)

    def _degrade(self, lane: Lane, waiting: Waiting, *, end: str, reason: str) -> None:
        """Finish it without an answer: by the edge's opinion, if there is one and it counts."""
        opinion = waiting.opinion if lane.on_unavailable == "edge" else None
        probs = None if opinion is None else opinion.probs
        self._finish(lane, waiting, end=end, route="edge", probs=probs, degraded=reason)

    def _finish(
        self,
        lane: Lane,
        waiting: Waiting,
        *,
        end: str,
        route: Route,
        probs: Probs | None,
        degraded: str | None = None,
    ) -> None:
        """Take one sample off the waiting list and emit its one final outcome."""
        sample = waiting.sample
        if degraded is None and probs is not None:
            for one in waiting.told:
                one.answered(probs, sample_id=sample.id)
        del lane.waiting[sample.id]
        lane.ledger.waiting -= 1
        lane.ledger.ends[end] += 1
        if degraded is not None:
            lane.ledger.reasons[degraded] += 1
        missed = self.counts["sink_errors"]
        latency_ns = self._emit(
            sample,
            route=route,
            probs=probs,
            opinion=waiting.opinion,
            final=True,
            degraded=degraded,
        )
        lane.ledger.final[route if degraded is None else "degraded"].record(latency_ns)
        ended_ns = sample.taken_at_ns + latency_ns
        self._tracer.end(waiting, route=route, end=end, degraded=degraded, ended_ns=ended_ns)
        owed = degraded != "not_stored"  # what was never stored is owed by nobody
        if owed and self.counts["sink_errors"] == missed:  # else a restart says it once more
            self._uplink.final(sample.id)

    def _fail(
        self, lane: Lane, sample: Sample | None, now_ns: int, error: Exception, *, reason: str
    ) -> None:
        if sample is None:
            sample = Sample(lane.name, next(self._ids), now_ns, _NOTHING)
            lane.count_overrun()
        ledger = lane.ledger
        ledger.read += 1
        ledger.routes["failed"] += 1
        ledger.reasons[reason] += 1
        times = ledger.reasons[reason]
        trace = error if reason == "bug" else None
        level = rarely(max(1, times - _FEW))
        _log.log(level, "%s: failed sample %d: %s", lane.name, times, error, exc_info=trace)
        latency_ns = self._emit(
            sample, route="failed", reason=reason, final=True, detail=str(error)[:_LONGEST]
        )
        ledger.first["failed"].record(latency_ns)
        ledger.final["failed"].record(latency_ns)

    def _emit(
        self,
        sample: Sample,
        *,
        route: Route,
        final: bool,
        probs: Probs | None = None,
        opinion: Opinion | None = None,
        degraded: str | None = None,
        reason: str | None = None,
        detail: str | None = None,
        reused_from: str | None = None,
    ) -> int:
        """Hand an outcome to every sink; return its latency in nanoseconds."""
        latency_ns = self._clock() - sample.taken_at_ns
        outcome = Outcome(
            sample.stream,
            sample.id,
            route,
            None if probs is None else int(probs.argmax()),
            probs,
            opinion,
            final,
            degraded,
            reused_from,
            latency_ns,
            None,
            reason,
            sample.taken_at_ns,
            detail,
        )
        for emit in self._emits:
            try:
                emit(outcome)
            except OSError as error:
                self._miss(error)
        return latency_ns

    def _miss(self, error: OSError) -> None:
        self.counts["sink_errors"] += 1
        _log.log(rarely(self.counts["sink_errors"]), "an outcome was not written: %s", error)

    def _finished(self) -> bool:
        return all(lane.source.ended and not lane.waiting for lane in self._lanes)

    def _wait(self, feeds_ns: Sequence[int | None]) -> None:
        """Sleep until the bell rings, or a source, a deadline or a feed is due."""
        first_waits = (next(iter(lane.waiting.values()), None) for lane in self._lanes)
        dues = [waiting.deadline_ns for waiting in first_waits if waiting is not None]
        dues += [due for due in (self._scheduler.due_ns(), *feeds_ns) if due is not None]
        timeout_s = min(_LONGEST_S, (min(dues) - self._clock()) / 1e9) if dues else None
        if timeout_s is None or timeout_s > 0:
            self._bell.wait(timeout_s)
        self._bell.clear()


def _size_bytes(ask: Ask) -> int:
    """Return about what an ask takes on the wire, its body not yet packed."""
    opinion_bytes = 0 if ask.opinion is None else ask.opinion.probs.nbytes
    size = ask.body.nbytes + opinion_bytes + _BESIDE_BYTES
    return wire_bytes(ask.stream, size)
