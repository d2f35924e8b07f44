"""A WebSocket as far as MQTT needs one, over a socket that is connected (RFC 6455).

paho brings one, too. That one answers a ping without a mask, for which servers have to hang
up, puts the answer into the middle of a half-written frame, and masks byte by byte.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import socket
import ssl

_MAGIC = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # §1.3
_MORE, _BINARY, _CLOSE, _PING, _PONG = 0x0, 0x2, 0x8, 0x9, 0xA
_CHUNK_BYTES = 64 << 10  # of one frame that we send, and of one read
_HEADER_BYTES = 16 << 10


class WebSocket:
    """What stands between a socket and an MQTT client: it looks like a socket to it.

    What is read and not yet fetched is bounded by one read; what is not yet written, by one
    frame and a few answers to pings.

    Raises:
        OSError: the other side speaks no WebSocket, or no MQTT over it.
    """

    def __init__(self, sock: socket.socket, *, host: str, path: str) -> None:
        self._sock = sock
        self._raw = bytearray()  # as it came
        self._ready = bytearray()  # unwrapped
        self._left = 0  # of the frame under way, bytes that are still to come
        self._closed = False
        self._out = bytearray()
        self._taken = 0  # of the data given to `send`, what the frame in `_out` holds
        self._greet(host, path)

    def recv(self, count: int) -> bytes:
        """Return up to ``count`` bytes, none once the other side has closed.

        Raises:
            OSError: nothing is there yet (BlockingIOError, or TLS's own), or it is no frame.
        """
        self._unwrap()
        while not self._ready and not self._closed:
            data = self._sock.recv(_CHUNK_BYTES)
            if not data:
                return b""
            self._raw += data
            self._unwrap()
        found = bytes(self._ready[:count])
        del self._ready[:count]
        return found

    def send(self, data: bytes | bytearray) -> int:
        """Return how much of ``data`` has been written, in one frame.

        Raises:
            OSError: not all of the frame can be written yet (BlockingIOError, or TLS's own):
                the same data must be given again.
        """
        if not self._taken:
            chunk = bytes(data[:_CHUNK_BYTES])
            self._out += _frame(_BINARY, chunk)
            self._taken = len(chunk)
        self._flush()
        taken, self._taken = self._taken, 0
        return taken

    def pending(self) -> int:
        """Return how many bytes are here that no selector can see."""
        beneath = self._sock.pending() if isinstance(self._sock, ssl.SSLSocket) else 0
        return len(self._ready) + beneath

    def fileno(self) -> int:
        """Return the socket's number."""
        return self._sock.fileno()

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 -- a socket's signature
        """Wait in `recv` and `send`, or not."""
        self._sock.setblocking(flag)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def _greet(self, host: str, path: str) -> None:
        """Ask for the upgrade and check the answer (§4.1)."""
        key = base64.b64encode(os.urandom(16))
        lines = (
            f"GET {path} HTTP/1.1",
            f"Host: {host}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key.decode()}",
            "Sec-WebSocket-Version: 13",
            "Sec-WebSocket-Protocol: mqtt",
        )
        self._sock.sendall("\r\n".join((*lines, "", "")).encode())
        while b"\r\n\r\n" not in self._raw:
            data = self._sock.recv(_CHUNK_BYTES)
            if not data or len(self._raw) > _HEADER_BYTES:
                raise ConnectionError("no WebSocket answers there")
            self._raw += data
        end = self._raw.index(b"\r\n\r\n")
        status, *rest = bytes(self._raw[:end]).decode("latin-1").split("\r\n")
        del self._raw[: end + 4]
        told = {
            name.strip().lower(): value.strip()
            for name, _, value in (s.partition(":") for s in rest)
        }
        if status.split(" ")[1:2] != ["101"]:
            raise ConnectionError(f"no WebSocket there: {status[:100]!r}")
        proof = hashlib.sha1(key + _MAGIC, usedforsecurity=False).digest()
        if told.get("sec-websocket-accept") != base64.b64encode(proof).decode():
            raise ConnectionError("no WebSocket there: it cannot prove that it is one")
        if told.get("sec-websocket-protocol") != "mqtt":
            raise ConnectionError("a WebSocket is there, but no MQTT over it")

    def _unwrap(self) -> None:
        """Take the data out of all that has come."""
        while not self._closed:
            part = self._raw[: self._left]
            del self._raw[: self._left]
            self._ready += part
            self._left -= len(part)
            if self._left or not self._begin():
                return

    def _begin(self) -> bool:
        """Read the next frame's head; False: not all of it is here (§5.2)."""
        raw = self._raw
        if len(raw) < 2:
            return False
        opcode, length, head = raw[0] & 0x0F, raw[1], 2
        if length > 127 or raw[0] & 0x70:
            raise ConnectionError("no frame of a WebSocket: masked, or of an unknown extension")
        if length > 125:
            head = 4 if length == 126 else 10
            if len(raw) < head:
                return False
            length = int.from_bytes(raw[2:head], "big")
        if opcode in {_MORE, _BINARY}:
            del raw[:head]
            self._left = length
            return True
        return self._control(opcode, head, length)

    def _control(self, opcode: int, head: int, length: int) -> bool:
        """Answer a frame that carries no data; False: not all of it is here (§5.5)."""
        if opcode not in {_CLOSE, _PING, _PONG} or length > 125:
            raise ConnectionError("no frame of a WebSocket that carries MQTT")
        if len(self._raw) < head + length:
            return False
        body = bytes(self._raw[head : head + length])
        del self._raw[: head + length]
        self._closed = opcode == _CLOSE
        if opcode != _PONG and len(self._out) < 2 * _CHUNK_BYTES:
            self._out += _frame(_CLOSE if self._closed else _PONG, body)
            with contextlib.suppress(OSError):  # else it goes with what is sent next
                self._flush()
        return True

    def _flush(self) -> None:
        while self._out:
            del self._out[: self._sock.send(self._out)]


def _frame(opcode: int, data: bytes) -> bytes:
    """Return one whole frame, masked as a client's has to be (§5.3)."""
    size = len(data)
    if size < 126:
        head = bytes([0x80 | opcode, 0x80 | size])
    elif size < 1 << 16:
        head = bytes([0x80 | opcode, 0x80 | 126]) + size.to_bytes(2, "big")
    else:
        head = bytes([0x80 | opcode, 0x80 | 127]) + size.to_bytes(8, "big")
    key = os.urandom(4)
    mask = int.from_bytes((key * (size // 4 + 1))[:size], "little")
    masked = (int.from_bytes(data, "little") ^ mask).to_bytes(size, "little")
    return head + key + masked
