"""Traces of a worker: what it does for an ask goes on in the trace of the ask's device.

::

    answer                 arrival to answer, below the device's span `uplink`
    └── model              the call of the batch that the ask was in
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from ...uplink.far_end.worker_memory import Job
from .spans import Span, Spans
from .traceparent import Traceparent


class FarEndTraces:
    """The `Traces` of a worker, which tells ``spans``."""

    def __init__(self, spans: Spans) -> None:
        self._spans = spans
        self._malformed = 0

    def answered(self, jobs: Sequence[Job], *, begun_ns: int, ended_ns: int) -> None:
        """Tell of a batch; see `Traces`."""
        for job in jobs:
            parent = self._parent(job)
            if parent is not None:
                self._spans.tell(
                    list(_answered(job, parent, len(jobs), begun_ns=begun_ns, ended_ns=ended_ns))
                )

    def refused(self, job: Job, *, why: str, ended_ns: int) -> None:
        """Tell of a refusal; see `Traces`."""
        parent = self._parent(job)
        if parent is not None:
            self._spans.tell([_span(job, parent, {}, ended_ns=ended_ns, error=why)])

    def counters(self) -> dict[str, int]:
        """Return what was counted; see `Traces`."""
        return {"traceparents_malformed": self._malformed} | self._spans.counters()

    def close(self) -> None:
        """Stop; see `Traces`."""
        self._spans.close()

    def _parent(self, job: Job) -> Traceparent | None:
        """Return the device's span; None: it has none, it is not told, or it cannot be read."""
        text = job.request.traceparent
        if text is None:
            return None
        parent = Traceparent.parse(text)
        if parent is None:
            self._malformed += 1
            return None
        return parent if parent.sampled else None


def _answered(
    job: Job, parent: Traceparent, batch: int, *, begun_ns: int, ended_ns: int
) -> Iterator[Span]:
    beside = {
        "hedge.batch.size": batch,
        "hedge.queue_s": (begun_ns - job.came_ns) / 1e9,
        "hedge.model_s": (ended_ns - begun_ns) / 1e9,
    }
    whole = _span(job, parent, beside, ended_ns=ended_ns)
    yield whole
    yield Span(
        *("model", "internal", parent.trace_id, _id(), whole.span_id),
        begun_ns,
        ended_ns,
        {"hedge.model": job.request.model},
    )


def _span(
    job: Job,
    parent: Traceparent,
    beside: dict[str, float],
    *,
    ended_ns: int,
    error: str | None = None,
) -> Span:
    request, device = job.request, job.device
    return Span(
        *("answer", "consumer", parent.trace_id, _id(), parent.span_id),
        job.came_ns,
        ended_ns,
        {
            "messaging.system": "mqtt",
            "messaging.operation.name": "answer",
            "messaging.operation.type": "process",
            "messaging.destination.template": "hedge/1/{site}/{device}/ask/{stream}",
            "messaging.message.conversation_id": request.id,
            "hedge.site": device.site,
            "hedge.device": device.name,
            "hedge.sample.id": request.id,
            "hedge.model": request.model,
            "hedge.kind": request.kind,
            **beside,
        },
        error,
        remote=True,
    )


def _id() -> int:
    return int.from_bytes(os.urandom(8), "big") or 1
