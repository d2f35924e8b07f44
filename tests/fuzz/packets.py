"""The link itself: whatever a broker sends, it is a message, an event or a lost connection."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Sequence

from hedge.uplink.link.broker_url import Broker
from hedge.uplink.link.link import Connected, Event, Received, Subscribed
from hedge.uplink.link.mqtt import MqttLink

from . import messages
from .mutator import Mutator

_OLD, _GREETED = 1, 2
_PATIENCE_S = 5.0
_GREETING = {"5": b"\x20\x03\x00\x00\x00", "3.1.1": b"\x20\x02\x00\x00"}
_LIMITED = b"\x20\x0b\x00\x00\x08\x21\x00\x14\x27\x00\x10\x00\x00"  # receive maximum, packet size


class Packets:
    """A `Target`: one connection; an input is what the broker says on it.

    Its first byte says which protocol is spoken, and whether we were accepted before.
    """

    name = "packets"

    def __init__(self) -> None:
        packets = list(_packets(properties=True))
        rows = [b"".join(packets), *packets]
        old = list(_packets(properties=False))
        self.seeds: Sequence[bytes] = [
            *(bytes((_GREETED,)) + one for one in rows),
            *(bytes((_GREETED | _OLD,)) + one for one in (b"".join(old), *old)),
            *(bytes((0,)) + one for one in (_GREETING["5"], _LIMITED, *packets[:3])),
            *(bytes((_OLD,)) + one for one in (_GREETING["3.1.1"], *old[:3])),
        ]
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(_PATIENCE_S)

    def _connected(self, version: str) -> tuple[MqttLink, socket.socket]:
        """Return a link that has greeted, and the broker's end, which leaves no trace behind."""
        port = self._listener.getsockname()[1]
        link = MqttLink(
            Broker.parse(f"mqtt://127.0.0.1:{port}?version={version}"), client_id="fuzz"
        )
        link.open()
        link.poll(0.0)
        theirs = self._accepted()
        until_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < until_s:
            link.poll(0.001)
            with contextlib.suppress(BlockingIOError):
                if theirs.recv(1 << 10):
                    return link, theirs
                theirs.close()  # of an earlier link, which had called once more
                theirs = self._accepted()
        raise AssertionError("the link does not greet")

    def _accepted(self) -> socket.socket:
        theirs, _ = self._listener.accept()
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.settimeout(0.0)
        return theirs

    def draw(self, mutator: Mutator) -> bytes:
        """Change what is said; see `Target`."""
        seed = mutator.rng.choice(self.seeds)
        return seed[:1] + mutator.bytes_like((seed[1:],))

    def __call__(self, data: bytes) -> None:
        """Say it, and hang up; see `Target`."""
        self._events(data)

    def _events(self, data: bytes) -> list[Event]:
        flags = data[0] if data else 0
        version = "3.1.1" if flags & _OLD else "5"
        link, theirs = self._connected(version)
        events: list[Event] = []
        try:
            if flags & _GREETED:
                theirs.send(_GREETING[version])
                events += link.poll(0.0)
                link.subscribe(("hedge/1/a/b/answer",))
                link.send("hedge/1/a/b/ask/cam", b"body")
            for at in range(1, len(data), 1 << 14):
                theirs.send(data[at : at + (1 << 14)])
                events += link.poll(0.0)
            theirs.close()
            for _ in range(3):
                events += link.poll(0.0)
        except (BrokenPipeError, ConnectionResetError):
            pass  # of ours, at the broker's end: the link has hung up
        finally:
            link.close(timeout_s=0.0)
            theirs.close()
        for event in events:
            if isinstance(event, Received):
                assert len(event.payload) <= len(data)
        return events

    def finish(self) -> None:
        """See that what is said right is heard; see `Target`."""
        for seed in self.seeds[:1]:
            events = self._events(seed)
            assert [type(one) for one in events][:1] == [Connected]
            heard = [one for one in events if isinstance(one, Received)]
            assert [one.payload for one in heard[:2]] == [messages.reply(), messages.reply()]
            assert any(isinstance(one, Subscribed) for one in events)
        self._listener.close()


def _packet(head: int, rest: bytes) -> bytes:
    length, left = bytearray(), len(rest)
    while left > 127:
        length.append(left & 127 | 128)
        left >>= 7
    return bytes((head, *length, left)) + rest


def _packets(*, properties: bool) -> list[bytes]:
    """Return one packet of each kind that a broker sends."""
    topic = messages.DEVICE.answer.encode()
    named = len(topic).to_bytes(2, "big") + topic
    said = b"\x03\x00\x13application/msgpack\x09\x00\x037-1"
    beside = bytes((len(said),)) + said if properties else b""
    none = b"\x00" if properties else b""
    found = [
        _packet(0x30, named + beside + messages.reply()),
        _packet(0x32, named + b"\x00\x05" + beside + messages.reply()),
        _packet(0x90, b"\x00\x01" + none + b"\x01"),
        _packet(0x40, b"\x00\x02"),
        _packet(0x34, named + b"\x00\x06" + none + b"body"),
        _packet(0xB0, b"\x00\x01" + none + (b"\x00" if properties else b"")),
        *(_packet(head, b"\x00\x02") for head in (0x50, 0x62, 0x70)),
        _packet(0xD0, b""),
        _packet(0xC0, b""),
    ]
    if properties:
        found += [_packet(0x40, b"\x00\x02\x10\x00"), _packet(0xE0, b"\x8b\x00")]
        found += [_packet(0x40, b"\x00\x02\x97\x05\x1f\x00\x02no"), _packet(0xE0, b"")]
    return found
