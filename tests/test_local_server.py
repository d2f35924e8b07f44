"""The small HTTP server: asked over TCP and over a Unix socket, also by those who mean ill."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http import HTTPStatus
from pathlib import Path

import msgspec
import pytest

from hedge.models.errors import ConfigError
from hedge.runtime.local_server.device_pages import DevicePages
from hedge.runtime.local_server.page import Answer, Page
from hedge.runtime.local_server.server import LocalServer, tcp_listener
from hedge.runtime.local_server.unix_socket import MAX_PATH_BYTES, UnixSocket
from hedge.runtime.snapshots import Snapshots
from hedge.telemetry.ledger import Ledger
from hedge.telemetry.snapshot import Snapshot

Eventually = Callable[[Callable[[], bool]], None]
Serve = Callable[[Answer], LocalServer]
PATIENCE_S = 30.0


def hello(path: str) -> Page:
    """Answer with the path."""
    return Page(f"this is {path}\n")


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Give `serve(answer)`: a server on a port of its own."""
    with contextlib.ExitStack() as stack:

        def start(answer: Answer) -> LocalServer:
            server = LocalServer(tcp_listener("127.0.0.1", 0), answer)
            stack.callback(server.close)
            return server

        yield start


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder whose path leaves room for that of a socket."""
    folder = tmp_path_factory.mktemp("s")
    if len(os.fsencode(folder)) > 80:
        pytest.skip(f"{folder} is too long a path for a Unix socket")
    return folder


def say(data: bytes, *, port: int | None = None, path: Path | None = None) -> bytes:
    """Send bytes and return all that comes back until the other end hangs up."""
    family = socket.AF_INET if path is None else socket.AF_UNIX
    with socket.socket(family, socket.SOCK_STREAM) as peer:
        peer.settimeout(PATIENCE_S)
        peer.connect(("127.0.0.1", port) if path is None else str(path))
        found = b""
        with contextlib.suppress(ConnectionError):
            peer.sendall(data)
        with contextlib.suppress(ConnectionError):
            while part := peer.recv(65536):
                found += part
        return found


def get(server: LocalServer, page: str, method: str = "GET") -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE_S)
    with contextlib.closing(connection):
        connection.request(method, page)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def snapshot() -> Snapshot:
    streams = {"cam": Ledger("cam").report(buckets=True)}
    return Snapshot(session=3, uptime_s=1.5, streams=streams, uplink={}, counts={"x": 2})


# ---- TCP


def test_a_page_is_given_by_its_path_whatever_its_query(serve: Serve) -> None:
    server = serve(hello)
    assert get(server, "/a?b=c") == (200, "this is /a\n")
    assert get(server, "/a", "HEAD") == (200, "")


def test_a_method_other_than_get_and_head_is_refused(serve: Serve) -> None:
    assert get(serve(hello), "/a", "DELETE")[0] == 501


def test_a_page_that_cannot_be_made_is_an_error_and_the_next_is_served(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    def answer(path: str) -> Page:
        if path == "/bad":
            raise RuntimeError("nothing to tell")
        return hello(path)

    server = serve(answer)
    assert get(server, "/bad")[0] == 500
    assert get(server, "/good")[0] == 200
    assert "nothing to tell" in caplog.text


@pytest.mark.parametrize(
    ("data", "statuses"),
    [
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.0\r\n\r\n", {b"414", b""}),
        (b"GET / HTTP/1.0\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", {b"431", b""}),
        (b"GET / HTTP/1.0\r\n" + b"X: y\r\n" * 50_000 + b"\r\n", {b"431", b""}),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\n", {b"400", b""}),
        (bytes(range(256)) * 8 + b"\n", {b"400", b""}),
        (b"GET / HTTP/9.9\r\n\r\n", {b"505"}),
        (b"GET\r\n\r\n", {b"400"}),
        (b"\r\n", {b""}),
    ],
)
def test_a_head_that_is_huge_or_garbage_is_refused_and_the_next_is_served(
    serve: Serve, data: bytes, statuses: set[bytes]
) -> None:
    server = serve(hello)
    found = say(data, port=server.port)  # nothing, where we hang up on what we have not read
    told = re.search(rb"Error code: (\d+)", found)
    assert (b"" if told is None else told[1]) in statuses, found
    assert b"this is" not in found
    assert get(server, "/a")[0] == 200


def test_no_more_of_a_head_is_read_than_it_may_have(serve: Serve) -> None:
    whole = b"GET /a HTTP/1.0\r\nX: " + b"x" * 16_000 + b"\r\n\r\n"
    assert b"this is /a" in say(whole, port=serve(hello).port)
    longer = b"GET /a HTTP/1.0\r\nX: " + b"x" * 16_400
    assert b"this is" not in say(longer, port=serve(hello).port), "no end of the line was needed"


def test_one_who_sends_a_byte_now_and_then_is_cut_off(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedge.runtime.local_server.server._WHOLE_S", 0.3)
    server = serve(hello)
    over = threading.Event()
    with socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as slow:
        for _ in range(600):  # a byte each 50 ms: it would take half a minute
            with contextlib.suppress(ConnectionError):
                slow.send(b"G")
            slow.settimeout(0.05)
            with contextlib.suppress(TimeoutError):
                try:
                    ended = slow.recv(1) == b""
                except ConnectionError:
                    ended = True
                if ended:
                    over.set()
                    break
    assert over.is_set()
    assert get(server, "/a")[0] == 200


def test_more_than_eight_at_once_are_told_so_and_the_eight_are_served(
    serve: Serve, eventually: Eventually
) -> None:
    inside, go_on = threading.Semaphore(0), threading.Event()

    def answer(path: str) -> Page:
        inside.release()
        assert go_on.wait(PATIENCE_S)
        return hello(path)

    server = serve(answer)
    request = b"GET /a HTTP/1.0\r\n\r\n"
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(say(request, port=server.port)))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert inside.acquire(timeout=PATIENCE_S)
    refused = [say(request, port=server.port) for _ in range(100)]
    assert {one.partition(b"\r\n")[0] for one in refused} <= {
        b"HTTP/1.0 503 Service Unavailable",
        b"",
    }
    assert any(refused)
    go_on.set()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert [b"this is /a" in one for one in found] == [True] * 8

    def works() -> bool:
        return b"this is /a" in say(request, port=server.port)

    eventually(works)


def test_a_server_that_was_closed_listens_no_more_and_closing_twice_is_harmless() -> None:
    server = LocalServer(tcp_listener("127.0.0.1", 0), hello)
    port = server.port
    server.close()
    server.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), PATIENCE_S)


def test_over_ipv6_it_serves_the_same() -> None:
    try:
        listener = tcp_listener("::1", 0)
    except ConfigError as error:
        pytest.skip(f"no IPv6 here: {error}")
    server = LocalServer(listener, hello)
    with socket.create_connection(("::1", server.port), PATIENCE_S) as peer:
        peer.sendall(b"GET /six HTTP/1.0\r\n\r\n")
        found = peer.makefile("rb").read()
    server.close()
    assert found.endswith(b"this is /six\n")


def test_a_host_that_is_not_ours_cannot_be_listened_on() -> None:
    with pytest.raises(ConfigError, match=r"^192\.0\.2\.1:9469: cannot be listened on"):
        tcp_listener("192.0.2.1", 9469)


# ---- The Unix socket


def test_over_a_unix_socket_it_serves_the_same(short: Path) -> None:
    place = UnixSocket(short / "hedge.sock")
    server = LocalServer(place.socket, hello)
    found = say(b"GET /a HTTP/1.0\r\n\r\n", path=short / "hedge.sock")
    server.close()
    place.close()
    assert b" 200 OK\r\n" in found
    assert found.endswith(b"\r\n\r\nthis is /a\n")


def test_nobody_but_the_owner_may_connect_and_the_path_goes_with_it(short: Path) -> None:
    path = short / "state" / "hedge.sock"
    place = UnixSocket(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    place.close()
    place.close()
    assert not path.exists()
    UnixSocket(path).close()


def test_the_socket_of_one_who_lives_is_not_taken(short: Path) -> None:
    path = short / "hedge.sock"
    with contextlib.closing(UnixSocket(path)):
        with pytest.raises(ConfigError, match="another process serves there"):
            UnixSocket(path)
        assert path.exists()


def test_the_socket_of_one_that_was_killed_is_replaced(short: Path, eventually: Eventually) -> None:
    path = short / "hedge.sock"
    code = (
        "import pathlib, sys, time\n"
        "from hedge.runtime.local_server.unix_socket import UnixSocket\n"
        "place = UnixSocket(pathlib.Path(sys.argv[1]))\n"
        "time.sleep(600)\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=short)
    try:
        eventually(lambda: path.exists() or other.poll() is not None)
        with pytest.raises(ConfigError, match="another process serves there"):
            UnixSocket(path)
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()
    assert path.exists(), "it was killed"
    place = UnixSocket(path)
    server = LocalServer(place.socket, hello)
    assert b"this is /b" in say(b"GET /b HTTP/1.0\r\n\r\n", path=path)
    server.close()
    place.close()


def test_another_programs_socket_and_a_file_are_left_alone(short: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other:
        other.bind(str(short / "other"))
        other.listen()
        with pytest.raises(ConfigError, match="another program serves there"):
            UnixSocket(short / "other")
    (short / "file").write_text("mine")
    with pytest.raises(ConfigError, match="is there already, and is no socket"):
        UnixSocket(short / "file")
    assert (short / "file").read_text() == "mine"


def test_a_path_that_another_has_taken_since_is_not_removed(short: Path) -> None:
    path = short / "hedge.sock"
    place = UnixSocket(path)
    path.unlink()
    path.write_text("mine")
    place.close()
    assert path.read_text() == "mine"


def test_a_path_that_is_too_long_for_a_socket_says_so(short: Path) -> None:
    path = short / ("x" * (MAX_PATH_BYTES - len(os.fsencode(short)) - 1))
    UnixSocket(path).close()
    with pytest.raises(ConfigError, match=r"is 108 bytes long, .* may have 107 .*state_dir"):
        UnixSocket(path.with_name(f"{path.name}x"))


# ---- The pages of a device


def test_a_device_tells_its_telemetry_as_json_and_its_metrics(serve: Serve) -> None:
    server = serve(DevicePages(snapshot))
    status, text = get(server, "/telemetry")
    assert status == 200
    assert msgspec.json.decode(text, type=Snapshot) == snapshot()
    assert json.loads(text)["streams"]["cam"]["read"] == 0
    status, text = get(server, "/metrics")
    assert status == 200
    assert 'hedge_samples_total{stream="cam",route="accepted"} 0' in text.splitlines()
    assert [get(server, page) for page in ("/healthz", "/readyz")] == [(200, "ok\n")] * 2
    for page in ("/", "/telemetry/", "/../metrics", "/state"):
        assert get(server, page)[0] == 404


def test_a_device_whose_loop_stands_is_unhealthy_only_after_a_while() -> None:
    now_ns = [10**9]
    pages = DevicePages(lambda: None, stuck_s=60, clock=lambda: now_ns[0])
    assert pages("/healthz") == Page("ok, busy\n")
    for path in ("/readyz", "/metrics", "/telemetry"):
        assert pages(path).status == HTTPStatus.SERVICE_UNAVAILABLE
    now_ns[0] += 61 * 10**9
    assert pages("/healthz") == Page(
        "the loop does not turn, for 61 s\n", HTTPStatus.SERVICE_UNAVAILABLE
    )


def test_a_device_without_its_broker_is_ready_all_the_same() -> None:
    away = msgspec.structs.replace(snapshot(), connected=False)
    assert DevicePages(lambda: away)("/readyz") == Page("ok, without a broker\n")


def test_what_the_loop_makes_is_served_and_when_the_loop_ends_it_is_said(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hedge.runtime.snapshots._PATIENCE_S", PATIENCE_S)
    bell, over = threading.Event(), threading.Event()
    snapshots = Snapshots(snapshot, bell=bell)

    def loop() -> None:
        while not over.is_set():
            bell.wait()
            bell.clear()
            snapshots.feed(0)

    thread = threading.Thread(target=loop)
    thread.start()
    server = serve(DevicePages(snapshots.ask))
    assert get(server, "/telemetry")[0] == 200
    over.set()
    bell.set()
    thread.join(PATIENCE_S)
    monkeypatch.setattr("hedge.runtime.snapshots._PATIENCE_S", 0.05)
    assert get(server, "/telemetry")[0] == 503
