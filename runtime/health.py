"""What an operator's probes and Prometheus ask of a worker, over HTTP.

`/healthz`: the process lives and its link's thread turns; `/readyz`: asks can come and will
be answered; `/metrics`: Prometheus' text format 0.0.4. Nothing else is served, nothing is
read but the first line, and few are served at a time: it is for a loopback or a closed net.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from ..models.errors import ConfigError
from ..telemetry.clock import Clock, boottime_ns
from ..uplink.far_end.worker_figures import QUANTILES, Figures, ModelFigures, Times

_log = logging.getLogger(__name__)

_AT_ONCE = 8
_WHOLE_S = 5.0  # for one question and its answer
_TEXT = "text/plain; version=0.0.4; charset=utf-8"
_DROPS = {
    "expired": "expired",
    "retained": "retained",
    "malformed": "malformed",
    "oversized": "oversized",
    "shed": "no_room",
    "parts_no_room": "no_room_for_parts",
    "parts_forgotten": "parts_missing",
}
"""By counter, the reason for which a message came to nothing."""


class Health:
    """Serves until `close`. ``figures`` may be called from several threads.

    After ``stuck_s`` without a turn of the worker it is no longer healthy: longer than its
    model and the set-up of a connection may take.

    Raises:
        ConfigError: the address cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        figures: Callable[[], Figures],
        stuck_s: float = 60.0,
        clock: Clock = boottime_ns,
    ) -> None:
        def answer(path: str) -> tuple[HTTPStatus, str]:
            return _answer(path, figures(), now_ns=clock(), stuck_s=stuck_s)

        try:
            self._server = _Server(host, port, answer)
        except (OSError, OverflowError) as error:
            raise ConfigError(f"cannot be listened on: {error}", where=f"{host}:{port}") from error
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="hedge-health", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The port, also where 0 left the choice to the system."""
        return int(self._server.server_address[1])

    def close(self) -> None:
        """Stop; closing twice is harmless."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    """At most `_AT_ONCE` connections, each for `_WHOLE_S` at most; more are hung up on."""

    daemon_threads = True
    block_on_close = False
    request_queue_size = _AT_ONCE

    def __init__(
        self, host: str, port: int, answer: Callable[[str], tuple[HTTPStatus, str]]
    ) -> None:
        self.answer = answer
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 -- the base's
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        end = threading.Timer(_WHOLE_S, _cut, (request,))
        end.daemon = True
        end.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            end.cancel()
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401, ARG002
        _log.debug("a question about our health came to nothing", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _WHOLE_S
    server_version = "hedge"
    sys_version = ""

    def do_GET(self) -> None:
        """Answer one of the three paths."""
        self._give(with_body=True)

    def do_HEAD(self) -> None:
        """Answer without the text."""
        self._give(with_body=False)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 -- the base's
        """Leave no line for each probe."""

    def _give(self, *, with_body: bool) -> None:
        status, text = self.server.answer(self.path)
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", _TEXT)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _cut(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _answer(path: str, figures: Figures, *, now_ns: int, stuck_s: float) -> tuple[HTTPStatus, str]:
    match path.partition("?")[0]:
        case "/healthz":
            still_s = (now_ns - figures.turned_ns) / 1e9
            if still_s > stuck_s:
                return HTTPStatus.SERVICE_UNAVAILABLE, f"stuck for {still_s:.0f} s\n"
            return HTTPStatus.OK, "ok\n"
        case "/readyz":
            why = _unready(figures)
            return (HTTPStatus.OK, "ok\n") if not why else (HTTPStatus.SERVICE_UNAVAILABLE, why)
        case "/metrics":
            return HTTPStatus.OK, metrics(figures)
        case _:
            return HTTPStatus.NOT_FOUND, "there are /healthz, /readyz and /metrics\n"


def _unready(figures: Figures) -> str:
    """Return a line for each thing that is missing."""
    lines = [f"{one.name}: {one.away}\n" for one in figures.models if one.away is not None]
    if not figures.connected:
        lines.append("not connected to the broker\n")
    elif figures.serving is None:
        lines.append("not subscribed\n")
    return "".join(lines)


def metrics(figures: Figures) -> str:
    """Return the figures in Prometheus' text format."""
    counts = figures.counters
    lines = [
        *_one("connected", "gauge", "Whether the broker has accepted us.", figures.connected),
        *_one("ready", "gauge", "Whether asks can come and will be answered.", figures.ready),
        *_one("waiting_asks", "gauge", "Asks in hand, not answered yet.", figures.waiting),
        *_one("claimed_requests", "gauge", "Requests of which parts miss.", figures.gathering),
        *_one("asks_total", "counter", "Asks that came.", counts["asks"]),
        *_one("repeats_total", "counter", "Asks that came again.", counts["repeated"]),
        *_one("refusals_total", "counter", "Asks answered by an error.", counts["errors"]),
        *_one("connects_total", "counter", "Connections that the broker took.", counts["connects"]),
        *_one("sent_bytes_total", "counter", "Of topics and payloads.", counts["bytes_up"]),
        *_one("received_bytes_total", "counter", "Of topics and payloads.", counts["bytes_down"]),
        *_head("dropped_total", "counter", "Messages that came to nothing."),
        *_drops(counts),
        *_models(figures),
    ]
    return "\n".join(lines) + "\n"


def _head(name: str, kind: str, text: str) -> Iterator[str]:
    yield f"# HELP hedge_worker_{name} {text}"
    yield f"# TYPE hedge_worker_{name} {kind}"


def _one(name: str, kind: str, text: str, value: int) -> Iterator[str]:
    yield from _head(name, kind, text)
    yield f"hedge_worker_{name} {value:d}"


def _drops(counts: Mapping[str, int]) -> Iterator[str]:
    for counter, reason in _DROPS.items():
        yield f'hedge_worker_dropped_total{{reason="{reason}"}} {counts[counter]}'


def _models(figures: Figures) -> Iterator[str]:
    """Give the figures of each model; a name needs no escaping (see the manifest)."""
    rows: tuple[tuple[str, str, str, Callable[[ModelFigures], int]], ...] = (
        ("model_ready", "gauge", "Whether the model is there.", lambda one: one.away is None),
        ("answers_total", "counter", "Asks answered.", lambda one: one.answers.count),
        ("batches_total", "counter", "Calls of the model.", lambda one: one.batches),
    )
    for name, kind, text, value in rows:
        yield from _head(name, kind, text)
        for one in figures.models:
            yield f'hedge_worker_{name}{{model="{one.name}"}} {value(one):d}'
    yield from _head("answer_seconds", "summary", "From an ask's arrival to its answer.")
    for one in figures.models:
        yield from _summary("answer_seconds", one.name, one.answers)
    yield from _head("model_seconds", "summary", "The model alone, by batch.")
    for one in figures.models:
        yield from _summary("model_seconds", one.name, one.calls)


def _summary(name: str, model: str, times: Times) -> Iterator[str]:
    for share, value_s in zip(QUANTILES, times.quantiles_s, strict=True):
        shown = "NaN" if value_s is None else f"{value_s:.9g}"
        yield f'hedge_worker_{name}{{model="{model}",quantile="{share:g}"}} {shown}'
    yield f'hedge_worker_{name}_sum{{model="{model}"}} {times.sum_s:.9g}'
    yield f'hedge_worker_{name}_count{{model="{model}"}} {times.count}'
