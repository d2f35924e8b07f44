"""Spans on their way to a collector, by OpenTelemetry's SDK and OTLP over HTTP.

A thread of the SDK sends them in batches. Who tells of them never waits: what the queue has
no room for is counted and dropped, and so is what the collector does not take in time.
"""

from __future__ import annotations

import logging
import ssl
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ...models.errors import MissingExtraError
from ...telemetry.clock import Clock
from ..logs import rarely
from .spans import Span

_log = logging.getLogger(__name__)

_QUEUE = 1024
_BATCH = 128
_EVERY_MS = 1000.0
_PATIENCE_S = 5  # with the collector, for one batch
_GOODBYE_S = 0.9


class OtlpSpans:
    """A `Spans` that sends to the collector at ``url``, given with its path.

    ``headers`` go with every request, and are told to nobody else; ``ca_file`` is PEM (None:
    the system's). ``resource`` says who tells. ``queue`` bounds the spans that are not yet sent.

    Raises:
        MissingExtraError: the SDK or its exporter is not installed.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Mapping[str, str],
        ca_file: str | None,
        resource: Mapping[str, str],
        clock: Clock,
        queue: int = _QUEUE,
    ) -> None:
        try:
            import requests  # noqa: PLC0415 -- the exporter's
            from opentelemetry import trace  # noqa: PLC0415 -- an extra, and slow to import
            from opentelemetry.context import Context  # noqa: PLC0415 -- as above
            from opentelemetry.exporter.otlp.proto.http import (  # noqa: PLC0415 -- as above
                Compression,
                trace_exporter,
            )
            from opentelemetry.sdk.resources import Resource  # noqa: PLC0415 -- as above
            from opentelemetry.sdk.trace import TracerProvider, export  # noqa: PLC0415 -- as above
            from opentelemetry.sdk.trace.sampling import ALWAYS_ON  # noqa: PLC0415 -- as above
        except ImportError as error:
            raise MissingExtraError("OpenTelemetry's SDK or exporter", extra="otel") from error
        # It would say every try of every batch; `_Counting` says it rarely.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        session = requests.Session()
        session.trust_env = False  # it would take another ca_file for ours, and a .netrc
        session.max_redirects = 0  # the headers are for this place alone
        self._library = trace
        self._nothing = Context()
        self._ids = _Ids()
        self._exporter = _Counting(
            trace_exporter.OTLPSpanExporter(
                endpoint=url,
                certificate_file=ca_file or _system_trust(),
                headers=dict(headers),
                timeout=_PATIENCE_S,
                compression=Compression.Gzip,
                session=session,
            ),
            url=url,
            taken=export.SpanExportResult.SUCCESS,
        )
        self._provider = TracerProvider(
            sampler=ALWAYS_ON,
            resource=Resource.create(dict(resource)),
            shutdown_on_exit=False,
            id_generator=cast("Any", self._ids),
        )
        self._provider.add_span_processor(
            export.BatchSpanProcessor(
                cast("Any", self._exporter),
                max_queue_size=queue,
                schedule_delay_millis=_EVERY_MS,
                max_export_batch_size=min(_BATCH, queue),
            )
        )
        self._tracer = self._provider.get_tracer("hedge")
        self._clock = clock
        self._queue = queue
        self._handed = 0
        self._dropped = 0
        self._closed = False

    def tell(self, spans: Sequence[Span]) -> None:
        """Take a group; see `Spans`."""
        if self._closed or self._handed - self._exporter.done + len(spans) > self._queue:
            self._dropped += len(spans)
            return
        self._handed += len(spans)
        ahead_ns = time.time_ns() - self._clock()  # one for all, so that they fit each other
        for span in spans:
            self._tell(span, ahead_ns)

    def counters(self) -> dict[str, int]:
        """Return what was counted; see `Spans`."""
        return {
            "spans_sent": self._exporter.sent,
            "spans_failed": self._exporter.done - self._exporter.sent,
            "spans_dropped": self._dropped,
        }

    def close(self) -> None:
        """Stop; see `Spans`. The SDK would wait for its thread for half a minute."""
        if self._closed:
            return
        self._closed = True
        stop = threading.Thread(
            target=self._provider.shutdown, name="hedge-traces-stop", daemon=True
        )
        stop.start()
        stop.join(_GOODBYE_S)
        self._exporter.shutdown()  # a second time, perhaps: it ends the wait for the next try
        stop.join(_GOODBYE_S / 10)
        left = self._handed - self._exporter.done
        if left:
            _log.warning("stopped with %d spans of traces unsent", left)

    def _tell(self, span: Span, ahead_ns: int) -> None:
        """Make the span and end it, with the ids and the times that it has."""
        self._ids.trace_id, self._ids.span_id = span.trace_id, span.span_id
        made = self._tracer.start_span(
            span.name,
            context=self._parent(span),
            kind=self._library.SpanKind[span.kind.upper()],
            attributes=span.attributes,
            start_time=max(0, span.begun_ns + ahead_ns),  # of a clock that was never set
        )
        if span.error is not None:
            made.set_status(self._library.StatusCode.ERROR, span.error)
        made.end(max(0, span.ended_ns + ahead_ns))

    def _parent(self, span: Span) -> Any:  # noqa: ANN401 -- a `Context` of the extra
        """Return the context that a span begins in; a root's has nothing in it."""
        if span.parent_id is None:
            return self._nothing
        parent = self._library.SpanContext(
            span.trace_id,
            span.parent_id,
            is_remote=span.remote,
            trace_flags=self._library.TraceFlags(self._library.TraceFlags.SAMPLED),
        )
        return self._library.set_span_in_context(
            self._library.NonRecordingSpan(parent), self._nothing
        )


def _system_trust() -> str | None:
    """Return the system's certificates; None: the exporter has some of its own."""
    found = ssl.get_default_verify_paths()
    return found.cafile or found.capath


class _Ids:
    """An SDK's `IdGenerator` that gives the ids of the span in hand."""

    trace_id = 0
    span_id = 0

    def generate_trace_id(self) -> int:
        """Return the trace's."""
        return self.trace_id

    def generate_span_id(self) -> int:
        """Return the span's."""
        return self.span_id

    def is_trace_id_random(self) -> bool:
        """Say whether the last 56 bits were drawn."""
        return True


class _Counting:
    """An SDK's `SpanExporter` that counts what became of the spans; the SDK's thread counts."""

    def __init__(self, exporter: Any, *, url: str, taken: object) -> None:  # noqa: ANN401 -- of an extra
        self._exporter = exporter
        self._url = url
        self._taken = taken
        self._failures = 0
        self.sent = 0
        self.done = 0

    def export(self, spans: Sequence[Any]) -> object:
        """Send a batch; what is not taken is lost."""
        result: object = None
        try:
            result = self._exporter.export(spans)
        except Exception as error:  # noqa: BLE001 -- older exporters let HTTP's errors through
            _log.debug("spans were not sent: %s", error)
        if result == self._taken:
            self.sent += len(spans)
        else:
            self._failures += 1
            level = rarely(self._failures)
            _log.log(level, "%s does not take spans; %d are lost", self._url, len(spans))
        self.done += len(spans)
        return result

    def shutdown(self) -> None:
        """Stop."""
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30_000) -> bool:
        """Have nothing to flush."""
        return bool(self._exporter.force_flush(timeout_millis))
