"""Traces of a device: one per escalated sample, told when it has its final outcome.

::

    sample                 capture to final outcome
    ├── filter             where there are filters
    ├── infer
    ├── uncertainty        score and policy
    └── uplink             offer to answer; the far end's span is below this one

Nothing is kept of a trace that has begun but its name, which travels with the ask and lies
with it in the outbox: the root's own id follows from it. So a trace goes on after a restart.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ...telemetry.clock import Clock
from ...uplink.topics import Device
from ..lane import Waiting
from .options import TracesOptions
from .spans import Attributes, Span, Spans
from .traceparent import Traceparent

_RANDOM_BITS = 56  # of a trace's id, at its end (W3C Trace Context, level 2, §3.2.2.3)
_STAGES = ("filter", "infer", "uncertainty")


class DeviceTracer:
    """A `Tracer` that tells ``spans``; as many traces begin as ``options`` allow."""

    def __init__(
        self, spans: Spans, *, device: Device, options: TracesOptions, clock: Clock
    ) -> None:
        self._spans = spans
        self._device = device
        self._below = int(options.share * (1 << _RANDOM_BITS))
        self._per_ns = options.max_per_s / 1e9
        self._most = max(1.0, options.max_per_s)
        self._left = self._most
        self._clock = clock
        self._filled_ns = clock()
        self._begun = 0
        self._skipped = 0

    def begin(self) -> str | None:
        """Begin a trace; see `Tracer`."""
        trace_id, span_id = _id(16), _id(8)
        drawn = trace_id & ((1 << _RANDOM_BITS) - 1) < self._below
        if not drawn or not self._has_left() or span_id == _root_id(trace_id):
            self._skipped += 1
            return None
        self._begun += 1
        return str(Traceparent(trace_id, span_id))

    def end(
        self, waiting: Waiting, *, route: str, end: str, degraded: str | None, ended_ns: int
    ) -> None:
        """Tell of a sample; see `Tracer`."""
        if waiting.traceparent is None:
            return
        name = Traceparent.parse(waiting.traceparent)
        if name is None:
            return
        sample, root_id = waiting.sample, _root_id(name.trace_id)
        told = _attributes(waiting, route=route, end=end, degraded=degraded)
        begun_ns = sample.taken_at_ns
        whole = Span("sample", "internal", name.trace_id, root_id, None, begun_ns, ended_ns, told)
        uplink = Span(
            *("uplink", "producer", name.trace_id, name.span_id, root_id),
            waiting.offered_ns,
            ended_ns,
            self._messaging(waiting),
            None if end == "answered" else degraded or end,
        )
        self._spans.tell([whole, *_stages(waiting, name.trace_id, root_id), uplink])

    def counters(self) -> dict[str, int]:
        """Return what was counted; see `Tracer`."""
        begun = {"traces": self._begun, "traces_skipped": self._skipped}
        return begun | self._spans.counters()

    def close(self) -> None:
        """Stop; see `Tracer`."""
        self._spans.close()

    def _has_left(self) -> bool:
        """Take from what the rate allows, if there is any of it."""
        now_ns = self._clock()
        self._left = min(self._most, self._left + (now_ns - self._filled_ns) * self._per_ns)
        self._filled_ns = now_ns
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def _messaging(self, waiting: Waiting) -> Attributes:
        return {
            "messaging.system": "mqtt",
            "messaging.operation.name": "ask",
            "messaging.operation.type": "send",
            "messaging.destination.name": self._device.ask(waiting.sample.stream),
            "messaging.message.conversation_id": waiting.sample.id,
        }


def _id(length: int) -> int:
    """Return a random number of so many bytes that is not 0."""
    return int.from_bytes(os.urandom(length), "big") or 1


def _root_id(trace_id: int) -> int:
    """Return the id of a trace's root span: its first half, if that is one."""
    return trace_id >> 64 or 1


def _attributes(waiting: Waiting, *, route: str, end: str, degraded: str | None) -> Attributes:
    opinion = waiting.opinion
    found: dict[str, str | float | bool] = {
        "hedge.stream": waiting.sample.stream,
        "hedge.sample.id": waiting.sample.id,
        "hedge.route": route,
        "hedge.end": end,
        "hedge.resumed": waiting.timed_ns is None,
    }
    if opinion is not None:
        found["hedge.score"] = float(opinion.score)
        found["hedge.score.name"] = opinion.score_name
    if waiting.reason is not None:
        found["hedge.decision.reason"] = waiting.reason
    if degraded is not None:
        found["hedge.degraded"] = degraded
    return found


def _stages(waiting: Waiting, trace_id: int, root_id: int) -> Iterator[Span]:
    """Yield the stages that took any time; those of an earlier run are not known."""
    times_ns = waiting.timed_ns or ()
    for name, begun_ns, ended_ns in zip(_STAGES, times_ns, times_ns[1:], strict=False):
        if ended_ns > begun_ns:
            yield Span(name, "internal", trace_id, _id(8), root_id, begun_ns, ended_ns, {})
