"""The WebSocket, against a server of its own on a socket pair."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import random
import re
import socket
import struct
import threading
from collections.abc import Iterator, Mapping
from types import MappingProxyType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hedge.uplink.link.websocket import WebSocket

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def answer(request: bytes, changes: Mapping[str, str]) -> bytes:
    """Return the answer of a server that speaks MQTT over WebSocket, changed."""
    (key,) = re.findall(rb"Sec-WebSocket-Key: (\S+)\r\n", request)
    told = {
        "status": "101 Switching Protocols",
        "accept": base64.b64encode(hashlib.sha1(key + GUID).digest()).decode(),  # noqa: S324 -- RFC 6455 says so
        "protocol": "mqtt",
        **changes,
    }
    lines = (
        f"HTTP/1.1 {told['status']}",
        "Connection: upgrade",
        "UPGRADE: WebSocket",
        f"sec-websocket-accept: {told['accept']}",
        f"Sec-WebSocket-Protocol: {told['protocol']}",
    )
    return "\r\n".join((*lines, "", "")).encode()


@contextlib.contextmanager
def opened(
    then: bytes = b"", changes: Mapping[str, str] = MappingProxyType({})
) -> Iterator[tuple[WebSocket, socket.socket]]:
    """Give a WebSocket and its server's end, which sends ``then`` with its answer."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        for end in (ours, theirs):
            end.settimeout(10)
        greeter = threading.Thread(
            target=lambda: theirs.sendall(answer(theirs.recv(4096), changes) + then)
        )
        greeter.start()
        try:
            found = WebSocket(ours, host="here:99", path="/mqtt")
        finally:
            greeter.join(30)
        yield found, theirs


def frame(opcode: int, body: bytes, *, final: bool = True) -> bytes:
    """Return a server's frame."""
    head = bytes([opcode | final << 7])
    if len(body) < 126:
        return head + bytes([len(body)]) + body
    if len(body) < 65_536:
        return head + struct.pack("!BH", 126, len(body)) + body
    return head + struct.pack("!BQ", 127, len(body)) + body


def unmasked(data: bytes) -> list[tuple[int, bytes]]:
    """Return opcode and body of each of a client's frames."""
    found = []
    while data:
        size, head = data[1] & 127, 2
        assert data[0] & 0x80, "not final"
        assert data[1] & 0x80, "not masked"
        if size > 125:
            head = 4 if size == 126 else 10
            size = int.from_bytes(data[2:head], "big")
        key, body = data[head : head + 4], data[head + 4 : head + 4 + size]
        found.append((data[0] & 15, bytes(byte ^ key[i % 4] for i, byte in enumerate(body))))
        data = data[head + 4 + size :]
    return found


def everything(link: WebSocket, count: int) -> bytes:
    """Read that many bytes, in pieces of any size."""
    sizes = random.Random(5)  # noqa: S311 -- no secret
    found = b""
    while len(found) < count:
        found += link.recv(sizes.choice((1, 2, 100, 1 << 20)))
    return found


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0, 1, 125, 126, 65_535, 65_536, 70_000]),
            st.booleans(),
            st.booleans(),
        ),
        max_size=6,
    )
)
def test_frames_of_every_size_with_pings_between_them_are_read_as_they_were_sent(
    script: list[tuple[int, bool, bool]],
) -> None:
    body, sent, pings = b"", b"", 0
    for number, (size, final, ping) in enumerate(script):
        part = bytes([number + 1]) * size
        body += part
        sent += frame(0x2 if number % 2 else 0x0, part, final=final)
        if ping:
            pings += 1
            sent += frame(0x9, b"%d" % pings) + frame(0xA, b"unasked")
    with opened() as (link, peer):
        sender = threading.Thread(target=lambda: peer.sendall(sent + frame(0x2, b"end")))
        sender.start()
        assert everything(link, len(body) + 3) == body + b"end"
        sender.join(30)
        if pings:
            wanted = [(0xA, b"%d" % number) for number in range(1, pings + 1)]
            assert unmasked(peer.recv(1 << 16)) == wanted


def test_what_comes_with_the_servers_answer_is_not_lost() -> None:
    with opened(then=frame(0x2, b"early")) as (link, _):
        assert link.recv(2) == b"ea"
        assert link.pending() == 3
        assert link.recv(100) == b"rly"
        assert link.pending() == 0


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536])
def test_what_is_sent_is_masked_and_whole(size: int) -> None:
    data = random.Random(size).randbytes(size)  # noqa: S311 -- no secret
    with opened() as (link, peer):
        assert link.send(data) == size
        found = b""
        while len(found) < size + 6:
            found += peer.recv(1 << 20)
        while not unmasked(found) or len(unmasked(found)[0][1]) < size:
            found += peer.recv(1 << 20)
    assert unmasked(found) == [(0x2, data)]


def test_what_cannot_be_written_at_once_is_finished_before_anything_else() -> None:
    data = random.Random(3).randbytes(3_000_000)  # noqa: S311 -- no secret
    with opened() as (link, peer):
        peer.sendall(frame(0x9, b"are you there"))
        link.setblocking(False)
        place, found = 0, b""
        peer.settimeout(0.01)
        while place < len(data):
            try:
                place += link.send(data[place:])
            except BlockingIOError:
                with contextlib.suppress(BlockingIOError):
                    link.recv(1)  # answers the ping, with half a frame written
                found += peer.recv(1 << 20)
        with contextlib.suppress(TimeoutError):
            while True:
                found += peer.recv(1 << 20)
    frames = unmasked(found)
    assert b"".join(body for opcode, body in frames if opcode == 0x2) == data
    assert [body for opcode, body in frames if opcode == 0xA] == [b"are you there"]


def test_a_server_that_closes_is_answered_and_the_end_of_the_data() -> None:
    with opened() as (link, peer):
        peer.sendall(frame(0x2, b"last") + frame(0x8, b"\x03\xe8bye") + frame(0x2, b"never"))
        assert everything(link, 4) == b"last"
        assert link.recv(10) == b""
        assert unmasked(peer.recv(100)) == [(0x8, b"\x03\xe8bye")]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"status": "404 Not Found"}, "no WebSocket there: 'HTTP/1.1 404 Not Found'"),
        ({"status": "x" * 20_000 + "\n"}, "no WebSocket there"),
        ({"accept": "AAAA"}, "cannot prove"),
        ({"protocol": "chat"}, "no MQTT over it"),
    ],
)
def test_a_server_that_is_none_is_left(changes: dict[str, str], says: str) -> None:
    with pytest.raises(ConnectionError, match=says), opened(changes=changes):
        pass


@pytest.mark.parametrize(
    "data",
    [
        b"\x82\x81\0\0\0\0x",  # masked, by a server
        b"\xc2\x01x",  # of an extension
        b"\x81\x01x",  # text
        b"\x89\x7e\x01\x00" + bytes(256),  # a ping that is too long
    ],
)
def test_what_is_no_frame_for_us_ends_the_connection(data: bytes) -> None:
    with opened() as (link, peer):
        peer.sendall(data)
        with pytest.raises(ConnectionError, match="no frame"):
            link.recv(10)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_any_bytes_are_data_or_an_error_of_the_connection(data: bytes) -> None:
    with opened(then=data) as (link, peer):
        peer.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while link.recv(64):
                pass
        assert len(link._ready) <= len(data)
