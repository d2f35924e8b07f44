"""A small HTTP server on a socket: GET and HEAD, few at a time, none of them for long.

Each connection is one question. Its head may have `_HEAD_BYTES`; what follows is not read.
It is for a loopback, a closed net or a Unix socket: there is no TLS and no password.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import re
import socket
import threading
from http import HTTPStatus
from http.client import LineTooLong
from http.server import BaseHTTPRequestHandler
from io import BufferedIOBase
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from ...models.errors import ConfigError
from .page import Answer, Page

_log = logging.getLogger(__name__)

_AT_ONCE = 8
_WHOLE_S = 5.0  # for one question and its answer
_HEAD_BYTES = 16_384
_HOST = re.compile(r"(?:\[([0-9a-f:.]+)\]|([^][:/@\s]+))(?::[0-9]{1,5})?")  # RFC 3986, 3.2.2
_FULL = b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"


class LocalServer:
    """Serves what ``answer`` makes of each path, in a thread, until `close`.

    ``listener`` is a bound socket, over TCP or Unix; it is the server's from here on. What is
    ``private`` is not for the pages of strangers that a browser on this machine shows: it is
    asked for by an address or this machine's own name, not by one that leads here (DNS
    rebinding); its answers get the query, too.
    """

    def __init__(self, listener: socket.socket, answer: Answer, *, private: bool = False) -> None:
        self._server = _Server(listener, answer, private=private)
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="hedge-http", daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        """The TCP port, also where 0 left the choice to the system."""
        return int(self._server.socket.getsockname()[1])

    def close(self) -> None:
        """Stop; closing twice is harmless."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def tcp_listener(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to an address; port 0 leaves it to the system.

    Raises:
        ConfigError: the address cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(_AT_ONCE)
    except (OSError, OverflowError) as error:
        listener.close()
        raise ConfigError(f"cannot be listened on: {error}", where=f"{host}:{port}") from error
    return listener


class _Server(ThreadingMixIn, TCPServer):
    """At most `_AT_ONCE` connections, each for `_WHOLE_S` at most; more are told 503."""

    daemon_threads = True
    block_on_close = False

    def __init__(self, listener: socket.socket, answer: Answer, *, private: bool) -> None:
        self.answer = answer
        self.private = private
        self._places = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__(("", 0), _Handler, bind_and_activate=False)
        self.socket.close()  # the base's own
        self.socket = listener
        listener.listen(_AT_ONCE)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401 -- the base's
        if not self._places.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.send(_FULL, socket.MSG_DONTWAIT)
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
        _log.debug("a question over HTTP came to nothing", exc_info=True)


class _Head:
    """What is read of a connection: the lines of one head, which may be only so long."""

    def __init__(self, file: BufferedIOBase) -> None:
        self._file = file
        self._left = _HEAD_BYTES

    def readline(self, limit: int = _HEAD_BYTES) -> bytes:
        line = self._file.readline(min(limit, self._left))
        self._left -= len(line)
        if self._left <= 0:
            raise LineTooLong("head")
        return line

    def close(self) -> None:
        self._file.close()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = _WHOLE_S
    server_version = "hedge"
    sys_version = ""

    def setup(self) -> None:
        """Read no more than a head."""
        super().setup()
        self.rfile = _Head(self.rfile)  # type: ignore[assignment]  # all that is called

    def handle(self) -> None:
        """Answer one question, or say that its first line is too long."""
        try:
            super().handle()
        except LineTooLong:  # of the headers the base says so itself
            self.requestline = self.request_version = self.command = ""
            self.send_error(HTTPStatus.REQUEST_URI_TOO_LONG)

    def do_GET(self) -> None:
        """Answer with a page."""
        self._give(with_body=True)

    def do_HEAD(self) -> None:
        """Answer without the text."""
        self._give(with_body=False)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 -- the base's
        """Leave no line for each probe."""

    def _give(self, *, with_body: bool) -> None:
        page = self._page()
        body = page.text.encode("utf-8", "replace")
        self.send_response(page.status)
        self.send_header("Content-Type", page.kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def _page(self) -> Page:
        private = self.server.private
        hosts = self.headers.get_all("Host", [None])
        if private and not (len(hosts) == 1 and is_own_name(hosts[0])):
            return Page("ask by the address or by localhost\n", HTTPStatus.MISDIRECTED_REQUEST)
        try:
            return self.server.answer(self.path if private else self.path.partition("?")[0])
        except Exception:  # noqa: BLE001 -- one page must not end the others; the log says why
            _log.exception("no page for %r", self.path)
            return Page(
                "it could not be made; the log says why\n", HTTPStatus.INTERNAL_SERVER_ERROR
            )


def is_own_name(host: str | None) -> bool:
    """Return whether a Host header is an address, or a name that only we give to this machine."""
    if host is None:  # no browser
        return True
    parts = _HOST.fullmatch(host.strip().lower())
    if parts is None:
        return False
    address, name = parts.groups()
    own = socket.gethostname().lower()
    if name in {"localhost", own, f"{own}.local"}:
        return True
    try:
        if name is None:
            ipaddress.IPv6Address(address)
        else:
            ipaddress.IPv4Address(name)
    except ValueError:
        return False
    return True


def _cut(request: socket.socket) -> None:
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)
