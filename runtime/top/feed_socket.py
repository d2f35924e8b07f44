"""A device on this machine, asked over its own socket: HTTP, ``GET /telemetry``."""

from __future__ import annotations

import errno
import http.client
import io
import selectors
import socket
import time
from pathlib import Path

from .seen import MAX_BYTES, Seen, Watch

SOCKET = "hedge.sock"
"""The socket's name, below a device's state directory."""

_HEAD_BYTES = 64 << 10  # beside the snapshot
_ASK = b"GET /telemetry HTTP/1.0\r\nHost: hedge\r\nAccept: application/json\r\n\r\n"
_HINTS = {
    errno.ENOENT: "there is no socket: is the device running?",
    errno.ECONNREFUSED: "nobody listens on the socket: is the device running?",
    errno.EACCES: "the socket is another user's: run this as the user of the device",
    errno.EPERM: "the socket is another user's: run this as the user of the device",
    errno.EAGAIN: "the device is too busy to answer",
}


class SocketFeed:
    """A `Feed` that asks every ``every_s`` and gives each answer ``patience_s``."""

    def __init__(
        self,
        path: Path,
        *,
        every_s: float,
        patience_s: float = 5.0,
        device: str | None = None,
        site: str | None = None,
    ) -> None:
        self._path = path
        self._every_s = every_s
        self._patience_s = patience_s
        self._watch = Watch(device=device, site=site, usual_s=every_s)
        self._next_s = 0.0
        self._until_s = 0.0
        self._sock: socket.socket | None = None
        self._answer = bytearray()

    def poll(self, timeout_s: float) -> None:
        """Ask if it is time, and read what has come; see `Feed`."""
        now_s = time.monotonic()
        if self._sock is None and now_s >= self._next_s:
            self._ask(now_s)
        sock = self._sock
        if sock is None:
            time.sleep(max(0.0, min(timeout_s, self._next_s - now_s)))
            return
        with selectors.DefaultSelector() as selector:
            selector.register(sock, selectors.EVENT_READ)
            ready = selector.select(timeout_s)
        if ready:
            self._read(sock)
        elif time.monotonic() >= self._until_s:
            self._end(f"no answer within {self._patience_s:g} s")

    def seen(self) -> Seen:
        """Return what is known now."""
        return self._watch.seen()

    def close(self) -> None:
        """Hang up."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _ask(self, now_s: float) -> None:
        self._next_s = now_s + self._every_s
        self._until_s = now_s + self._patience_s
        self._answer.clear()
        self._sock = sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.setblocking(False)  # noqa: FBT003 -- the socket's own signature
        try:
            sock.connect(str(self._path))
            sock.sendall(_ASK)  # far shorter than what a socket takes at once
        except OSError as error:
            self._end(_HINTS.get(error.errno or 0, f"cannot be asked: {error.strerror or error}"))

    def _read(self, sock: socket.socket) -> None:
        try:
            came = sock.recv(1 << 16)
        except OSError as error:
            self._end(f"hung up: {error.strerror or error}")
            return
        self._answer += came
        if len(self._answer) > MAX_BYTES + _HEAD_BYTES:
            self._watch.pass_over(oversized=True)
            self._end("the answer is too long")
        elif not came:
            self._end(self._take())

    def _take(self) -> str | None:
        """Take the whole answer; return what is wrong with it."""
        response = http.client.HTTPResponse(_Whole(self._answer))  # type: ignore[arg-type]  # no socket left
        try:
            response.begin()
            body = response.read()
        except (http.client.HTTPException, ValueError, OSError):
            self._watch.pass_over(oversized=False)
            return "the answer is no HTTP"
        if response.status != http.HTTPStatus.OK:
            return f"the device answers {response.status} {response.reason}"
        before = self._watch.seen()
        self._watch.take(body)
        after = self._watch.seen()
        passed_over = after.malformed + after.oversized > before.malformed + before.oversized
        return "the answer is no snapshot" if passed_over else None

    def _end(self, trouble: str | None) -> None:
        self.close()
        self._answer.clear()
        self._watch.trouble(None if trouble is None else f"{self._path}: {trouble}")
        self._watch.say(state="answering" if trouble is None else None)


class _Whole:
    """Bytes that have come, where `HTTPResponse` wants a socket to read them from."""

    def __init__(self, data: bytes | bytearray) -> None:
        self._data = bytes(data)

    def makefile(self, mode: str) -> io.BytesIO:  # noqa: ARG002 -- the socket's own signature
        return io.BytesIO(self._data)
