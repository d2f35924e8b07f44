"""What an operator's probes are told: fetched over HTTP from a worker that really serves."""

from __future__ import annotations

import contextlib
import http.client
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from typing import Any

import msgspec
import pytest

from hedge.models.errors import ConfigError, ModelAwayError
from hedge.runtime.local_server.server import LocalServer, tcp_listener
from hedge.runtime.local_server.worker_pages import WorkerPages, metrics
from hedge.uplink import wire
from hedge.uplink.far_end.responder import Responder
from hedge.uplink.far_end.worker import Worker
from hedge.uplink.far_end.worker_figures import Figures
from hedge.uplink.link.scripted import ScriptedBroker, ScriptedLink
from hedge.uplink.topics import Device

StartWorker = Callable[..., Worker]
Eventually = Callable[[Callable[[], bool]], None]
Watch = Callable[..., LocalServer]


@pytest.fixture
def watch() -> Iterator[Watch]:
    """Give `watch(figures, …)`: the health of a worker on a port of its own."""
    with contextlib.ExitStack() as stack:

        def start(figures: Callable[[], Figures], **options: Any) -> LocalServer:  # noqa: ANN401 -- what the constructor takes
            pages = WorkerPages(figures, **options)
            health = LocalServer(tcp_listener("127.0.0.1", 0), pages)
            stack.callback(health.close)
            return health

        yield start


def fetch(health: LocalServer, path: str) -> tuple[int, str, Message]:
    """Return the status, the text and the headers of a page."""
    url = f"http://127.0.0.1:{health.port}{path}"
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:
            return answer.status, answer.read().decode(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode(), error.headers


def request(ask_id: str, contract: str = "0123456789abcdef") -> bytes:
    """Return an ask that the responder of the tests can answer, or nobody."""
    return wire.encode(
        wire.Request(
            v=1,
            id=ask_id,
            session=7,
            kind="decide",
            model="steps",
            contract=contract,
            entry="input",
            remaining_ms=None,
            dtype="float32",
            shape=(4,),
            codec="raw",
            opinion=None,
            body=bytes(16),
        )
    )


def test_a_worker_that_serves_is_healthy_and_ready(
    start_worker: StartWorker, watch: Watch, eventually: Eventually
) -> None:
    worker = start_worker(ScriptedLink(ScriptedBroker()))
    health = watch(worker.figures)
    eventually(lambda: fetch(health, "/readyz")[:2] == (200, "ok\n"))
    assert fetch(health, "/healthz")[:2] == (200, "ok\n")


def test_a_worker_without_a_broker_is_healthy_but_not_ready(
    start_worker: StartWorker, watch: Watch
) -> None:
    worker = start_worker(ScriptedLink(ScriptedBroker(up=False)), wait=False)
    health = watch(worker.figures)
    assert fetch(health, "/healthz")[0] == 200
    assert fetch(health, "/readyz")[:2] == (503, "not connected to the broker\n")


def test_a_worker_whose_model_is_away_is_not_ready_and_says_why(
    start_worker: StartWorker, watch: Watch, responder: Responder, eventually: Eventually
) -> None:
    def check() -> None:
        raise ModelAwayError("nobody there", where="http://far/m")

    remote = msgspec.structs.replace(responder, check=check)
    worker = start_worker(ScriptedLink(ScriptedBroker()), wait=False, responders=[remote])
    health = watch(worker.figures)
    eventually(lambda: "steps: http://far/m: nobody there\n" in fetch(health, "/readyz")[1])
    assert fetch(health, "/readyz")[0] == 503
    assert 'hedge_worker_model_ready{model="steps"} 0' in fetch(health, "/metrics")[1]


def test_a_worker_that_turns_no_more_is_not_healthy(
    start_worker: StartWorker, watch: Watch
) -> None:
    worker = start_worker(ScriptedLink(ScriptedBroker()))
    turned_ns = worker.figures().turned_ns
    health = watch(worker.figures, clock=lambda: turned_ns + 10**13, stuck_s=60)
    status, text, _ = fetch(health, "/healthz")
    assert status == 503
    assert text == "stuck for 10000 s\n"


def test_the_metrics_count_what_was_done_and_are_well_formed(
    start_worker: StartWorker, watch: Watch, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    worker = start_worker(ScriptedLink(broker))
    health = watch(worker.figures)
    broker.publish(device.ask("cam"), request("7-1"))
    eventually(lambda: worker.counters()["answered"] == 1)
    for payload in (request("7-1"), request("7-2"), request("7-3", "f" * 16), b"?"):
        broker.publish(device.ask("cam"), payload)
    eventually(lambda: 'answers_total{model="steps"} 2' in fetch(health, "/metrics")[1])
    eventually(lambda: "hedge_worker_ready 1" in fetch(health, "/metrics")[1])
    status, text, headers = fetch(health, "/metrics")
    assert (status, headers["Content-Type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    for line in (
        "hedge_worker_connected 1",
        "hedge_worker_asks_total 4",
        "hedge_worker_repeats_total 1",
        "hedge_worker_refusals_total 1",
        'hedge_worker_dropped_total{reason="malformed"} 1',
        'hedge_worker_answer_seconds_count{model="steps"} 2',
        "# TYPE hedge_worker_answer_seconds summary",
    ):
        assert line in text.splitlines()
    sample = r'hedge_worker_[a-z_]+(\{[a-z]+="[^"]*"(,[a-z]+="[^"]*")?\})? (NaN|[0-9.e+-]+)'
    known = set()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            known.add(line.split()[2])
        elif not line.startswith("# HELP "):
            assert re.fullmatch(sample, line), line
            assert re.sub(r"(_sum|_count)?[{ ].*", "", line) in known, line


def test_figures_of_a_worker_that_has_done_nothing_are_metrics_too() -> None:
    worker = Worker(ScriptedLink(ScriptedBroker()), name="w0", responders=[])
    assert "hedge_worker_ready 0" in metrics(worker.figures())


def test_nothing_else_is_served(start_worker: StartWorker, watch: Watch) -> None:
    health = watch(start_worker(ScriptedLink(ScriptedBroker())).figures)
    for path in ("/", "/etc/passwd", "/healthz/", "/../metrics"):
        assert fetch(health, path)[0] == 404
    connection = http.client.HTTPConnection("127.0.0.1", health.port, timeout=10)
    with contextlib.closing(connection):
        connection.request("POST", "/metrics", b"x")
        assert connection.getresponse().status == 501


def test_those_who_connect_and_say_nothing_do_not_pile_up(
    start_worker: StartWorker, watch: Watch, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedge.runtime.local_server.server._WHOLE_S", 0.5)
    health = watch(start_worker(ScriptedLink(ScriptedBroker())).figures)
    with contextlib.ExitStack() as stack:
        silent = [
            stack.enter_context(socket.create_connection(("127.0.0.1", health.port), 10))
            for _ in range(12)
        ]
        for one in silent:  # each is hung up on: those beyond the eighth at once, with a word
            with contextlib.suppress(ConnectionResetError):
                assert one.recv(4096).partition(b"\r\n")[0] in {
                    b"",
                    b"HTTP/1.0 503 Service Unavailable",
                }

    def works() -> bool:
        with contextlib.suppress(OSError):
            return fetch(health, "/healthz")[0] == 200
        return False

    eventually(works)


def test_an_address_that_is_taken_is_an_error_that_names_it(free_port: int) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        with pytest.raises(ConfigError, match=f"127.0.0.1:{free_port}: cannot be listened on"):
            tcp_listener("127.0.0.1", free_port)
