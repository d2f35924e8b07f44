"""The last outcomes and events over HTTP: for this machine alone, and for no stranger's page."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from typing import Any

import numpy as np
import pytest

from hedge.models.records import Outcome
from hedge.runtime.events.event import Event
from hedge.runtime.local_server import endpoint as endpoints
from hedge.runtime.local_server.endpoint import Endpoint, address_of
from hedge.runtime.local_server.page import Page
from hedge.runtime.sinks.over_http import OverHttp, Recent

Eventually = Callable[[Callable[[], bool]], None]
LABELS = {"door": ("nobody", "person"), "hall": ("empty", "full")}


def outcome(number: int, *, stream: str = "door", final: bool = True) -> Outcome:
    """Return an outcome."""
    probs = np.array([0.125, 0.875], np.float32)
    return Outcome(stream, f"3-{number}", "edge", 1, probs, None, final)


def event(number: int, *, stream: str = "door") -> Event:
    """Return an event that has opened."""
    return Event(
        event="visit",
        stream=stream,
        id=f"3-e{number}",
        state="opened",
        label="person",
        opened_at_s=5.5,
    )


@pytest.fixture
def sink() -> Iterator[OverHttp]:
    """Give a sink on a port of its own that keeps three of each."""
    with contextlib.closing(OverHttp("127.0.0.1:0", labels=LABELS, keep=3)) as made:
        yield made


def ask(
    sink: OverHttp, target: str, *, method: str = "GET", host: str | None = None
) -> tuple[int, str, http.client.HTTPMessage]:
    """Return status, text and headers of an answer."""
    assert sink.port is not None
    peer = http.client.HTTPConnection("127.0.0.1", sink.port, timeout=30)
    with contextlib.closing(peer):
        peer.request(method, target, headers={} if host is None else {"Host": host})
        answer = peer.getresponse()
        return answer.status, answer.read().decode(), answer.headers


def got(sink: OverHttp, target: str) -> list[dict[str, Any]]:
    """Return the lines that a question brings."""
    status, text, headers = ask(sink, target)
    assert (status, headers["Content-Type"]) == (HTTPStatus.OK, "application/json")
    found: list[dict[str, Any]] = json.loads(text)
    return found


def test_the_last_of_each_stream_come_oldest_first(sink: OverHttp) -> None:
    assert got(sink, "/outcomes") == []
    for number in range(5):
        sink.emit(outcome(number))
    sink.emit(outcome(9, stream="hall"))
    sink.emit(outcome(5))
    sink.tell(event(1))
    assert [one["id"] for one in got(sink, "/outcomes")] == ["3-3", "3-4", "3-9", "3-5"]
    assert [one["id"] for one in got(sink, "/outcomes?stream=door")] == ["3-3", "3-4", "3-5"]
    assert [one["id"] for one in got(sink, "/outcomes?n=2")] == ["3-9", "3-5"]
    assert [one["id"] for one in got(sink, "/outcomes?stream=door&n=1")] == ["3-5"]
    assert got(sink, "/outcomes?n=0") == []
    (told,) = got(sink, "/events")
    assert (told["event"], told["id"], told["state"]) == ("visit", "3-e1", "opened")
    assert got(sink, "/events?stream=hall") == []


def test_an_outcome_is_told_as_every_sink_tells_it(sink: OverHttp) -> None:
    sink.emit(outcome(1, stream="hall"))
    (line,) = got(sink, "/outcomes")
    assert line.pop("at_s") > 1e9
    assert line == {
        "stream": "hall",
        "id": "3-1",
        "final": True,
        "route": "edge",
        "label": "full",
        "latency_ms": 0.0,
        "probs": [0.125, 0.875],
    }


def test_only_what_is_wanted_is_kept() -> None:
    with contextlib.closing(OverHttp("127.0.0.1:0", labels=LABELS, which="finals")) as sink:
        sink.emit(outcome(1, final=False))
        sink.emit(outcome(2))
        sink.tell(event(1))
        assert [one["id"] for one in got(sink, "/outcomes")] == ["3-2"]
        assert len(got(sink, "/events")) == 1


@pytest.mark.parametrize(
    "target",
    [
        "/outcomes?n=-1",
        "/outcomes?n=1001",
        "/outcomes?n=many",
        "/outcomes?n=" + "9" * 5000,
        "/outcomes?stream=attic",
        "/outcomes?m=1",
        "/outcomes?n",
        "/events?" + "&".join(["n=1"] * 99),
    ],
)
def test_a_question_that_is_none_is_told_what_there_is(sink: OverHttp, target: str) -> None:
    status, text, _ = ask(sink, target)
    assert status == HTTPStatus.BAD_REQUEST
    assert "GET /outcomes?stream=NAME" in text


def test_there_is_a_page_that_says_what_can_be_asked(sink: OverHttp) -> None:
    assert ask(sink, "/")[:2] == (HTTPStatus.OK, ask(sink, "/nothing")[1])
    assert ask(sink, "/nothing")[0] == HTTPStatus.NOT_FOUND


def test_head_has_no_text_and_nothing_else_is_taken(sink: OverHttp) -> None:
    sink.emit(outcome(1))
    status, text, headers = ask(sink, "/outcomes", method="HEAD")
    assert (status, text) == (HTTPStatus.OK, "")
    assert int(headers["Content-Length"]) > 50
    assert ask(sink, "/outcomes", method="POST")[0] == HTTPStatus.NOT_IMPLEMENTED


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:9470",
        "127.0.0.1.evil.example",
        "[127.0.0.1]evil.example",
        "[::1]evil.example",
        "[127.0.0.1]",
        "[::1",
        "::1",
        "localhost:evil.example",
        "localhost:",
        "localhost evil.example",
        "evil@localhost",
        "0x7f000001",
        "",
    ],
)
def test_a_name_that_others_have_made_lead_here_is_refused(sink: OverHttp, host: str) -> None:
    sink.emit(outcome(1))
    status, text, _ = ask(sink, "/outcomes", host=host)
    assert status == HTTPStatus.MISDIRECTED_REQUEST
    assert "3-1" not in text


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9470", "127.0.0.1:1", "[::1]:9470", socket.gethostname()]
)
def test_this_machines_own_names_are_taken_and_no_page_of_others_may_read(
    sink: OverHttp, host: str
) -> None:
    status, _, headers = ask(sink, "/outcomes", host=host)
    assert status == HTTPStatus.OK
    assert not [name for name in headers if name.lower().startswith("access-control")]


def test_a_question_with_two_hosts_is_refused(sink: OverHttp) -> None:
    assert sink.port is not None
    head = b"GET /outcomes HTTP/1.1\r\nHost: localhost\r\nHost: %b\r\n\r\n"
    for other in (b"localhost", b"evil.example"):
        with socket.create_connection(("127.0.0.1", sink.port), 30) as peer:
            peer.sendall(head % other)
            assert peer.recv(4096).startswith(b"HTTP/1.0 421 ")


def test_an_answer_has_a_hundred_unless_it_is_asked_for_more() -> None:
    recent = Recent(labels=LABELS, keep=1000)
    for number in range(1500):
        recent.put(outcome(number, stream="hall" if number % 3 else "door"))
        recent.put(event(number))

    def ids(target: str) -> list[str]:
        return [one["id"] for one in json.loads(recent(target).text)]

    assert ids("/outcomes") == [f"3-{number}" for number in range(1400, 1500)]
    assert ids("/outcomes?n=1000") == [f"3-{number}" for number in range(500, 1500)]
    assert ids("/outcomes?n=1000&stream=door") == [f"3-{3 * number}" for number in range(500)]
    assert ids("/events?n=1000") == [f"3-e{number}" for number in range(500, 1500)]
    assert recent("/events?n=7") == recent("/events?n=7"), "it is told again as it was"


def test_without_a_host_it_listens_on_the_loopback_only() -> None:
    assert address_of("9470") == ("127.0.0.1", 9470)
    assert address_of("[::1]:9470") == ("::1", 9470)
    assert address_of("porch.example:80") == ("porch.example", 80)


def test_a_taken_port_is_waited_for(
    eventually: Eventually, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoints, "_AGAIN_S", 0.02)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        endpoint = Endpoint(f"127.0.0.1:{port}", Page, what="outcomes")
        assert endpoint.port is None
    with contextlib.closing(endpoint):
        eventually(lambda: endpoint.port == port)
    assert "no outcomes for now: " in caplog.text
    assert "outcomes are served at" in caplog.text


def test_it_is_asked_while_the_loop_goes_on() -> None:
    recent, done = Recent(labels=LABELS, keep=50), threading.Event()
    found: list[Page] = []

    def asks() -> None:
        while not done.is_set():
            found.append(recent("/outcomes?n=20"))

    askers = [threading.Thread(target=asks) for _ in range(3)]
    for one in askers:
        one.start()
    for number in range(5000):
        recent.put(outcome(number, stream="hall" if number % 3 else "door"))
    done.set()
    for one in askers:
        one.join()
    for page in found:
        ids = [int(one["id"][2:]) for one in json.loads(page.text)]
        assert ids == sorted(ids)
        assert len(ids) <= 20
    assert len(json.loads(recent("/outcomes").text)) == 100
