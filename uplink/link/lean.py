"""paho's client without what nobody here looks at.

paho keeps the state of a whole conversation for every message that it sends, takes the
properties of every message that it receives apart though all that matters stands in the
envelope, and asks the system for each byte of a packet's head: 0.2 ms for a message and its
acknowledgement. Here a message at QoS 1 is a packet and a number that waits for its PUBACK.
Connecting, subscribing and keeping alive are paho's own.
"""

from __future__ import annotations

from collections import deque
from typing import Any, Literal

from paho.mqtt.client import MQTTMessage, MQTTv5
from paho.mqtt.enums import MessageType, MQTTErrorCode
from paho.mqtt.exception import MalformedPacket
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from .dial import DialledClient

_AHEAD_BYTES = 64 << 10
_QOS_1 = 2  # among the flags of a PUBLISH
_DELIVERED = ReasonCode(PacketTypes.PUBACK)
_NONE = Properties(PacketTypes.PUBACK)  # type: ignore[no-untyped-call]


class LeanClient(DialledClient):
    """A paho client for messages at QoS 1, driven by one thread; the callbacks are paho's.

    Not more messages than the broker takes are under way; the others wait for their turn. A
    packet longer than ``max_packet_bytes`` ends the connection before it is read.
    """

    def __init__(self, *, max_packet_bytes: int, **options: Any) -> None:  # noqa: ANN401 -- those of `DialledClient`
        super().__init__(**options)
        self.max_packet_bytes = max_packet_bytes
        self._ahead = memoryview(b"")
        self._under_way: set[int] = set()
        self._waiting: deque[tuple[int, bytes | bytearray]] = deque()

    @property
    def reads_ahead(self) -> bool:
        """Whether there is more to read than the socket knows of."""
        return len(self._ahead) > 0

    def put(
        self, topic: str, payload: bytes, *, retain: bool, properties: bytes | None
    ) -> int | None:
        """Publish at QoS 1 and return what `on_publish` will name; None: not connected.

        ``properties`` are a packet's, packed; MQTT 5 only.
        """
        if self._sock is None:
            return None
        mid, name = self._mid_generate(), topic.encode()
        beside = b"" if self._protocol != MQTTv5 else properties or b"\0"
        rest = (len(name).to_bytes(2, "big"), name, mid.to_bytes(2, "big"), beside, payload)
        packet = bytearray((MessageType.PUBLISH | _QOS_1 | retain,))
        self._pack_remaining_length(packet, sum(map(len, rest)))
        packet += b"".join(rest)
        if len(self._under_way) >= self._max_inflight_messages:
            self._waiting.append((mid, packet))
            return mid
        return mid if self._depart(mid, packet) == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def _depart(self, mid: int, packet: bytes | bytearray) -> MQTTErrorCode:
        self._under_way.add(mid)
        return self._packet_queue(MessageType.PUBLISH, packet, mid, 1)

    def _handle_pubackcomp(self, cmd: Literal["PUBACK", "PUBCOMP"]) -> MQTTErrorCode:
        packet = self._in_packet["packet"]
        if cmd != "PUBACK" or len(packet) < 2:
            return super()._handle_pubackcomp(cmd)
        mid = int.from_bytes(packet[:2], "big")
        if mid not in self._under_way:
            return MQTTErrorCode.MQTT_ERR_SUCCESS
        self._under_way.remove(mid)
        reason = _DELIVERED if len(packet) == 2 else _reason(packet[2])
        if self.on_publish is not None:
            self.on_publish(self, None, mid, reason, _NONE)  # type: ignore[call-arg]
        if self._waiting:
            return self._depart(*self._waiting.popleft())
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _sock_recv(self, bufsize: int) -> bytes:
        if bufsize > self.max_packet_bytes:
            raise ConnectionError(f"a packet of {bufsize} bytes, which we had not asked for")
        if self._transport == "websockets":  # which has a buffer of its own
            return super()._sock_recv(bufsize)
        if not self._ahead:
            self._ahead = memoryview(super()._sock_recv(_AHEAD_BYTES))
        found, self._ahead = self._ahead[:bufsize], self._ahead[bufsize:]
        return bytes(found)

    def _handle_publish(self) -> MQTTErrorCode:
        command, packet = self._in_packet["command"], bytes(self._in_packet["packet"])
        qos = command >> 1 & 3
        if qos > 1:
            return super()._handle_publish()
        try:
            at = 2 + int.from_bytes(packet[:2], "big")
            topic = packet[2:at]
            mid = int.from_bytes(packet[at : at + 2], "big") if qos else 0
            at += 2 if qos else 0
            if self._protocol == MQTTv5:
                at = _past_properties(packet, at)
        except IndexError as error:
            raise MalformedPacket("a PUBLISH that is cut short") from error
        if at > len(packet):
            raise MalformedPacket("a PUBLISH that is cut short")
        message = MQTTMessage(mid, topic)
        message.qos = qos
        message.retain = bool(command & 1)
        message.payload = packet[at:]
        if self.on_message is not None:
            self.on_message(self, None, message)
        return MQTTErrorCode.MQTT_ERR_SUCCESS


def _past_properties(packet: bytes, at: int) -> int:
    """Return where the properties end that begin with their length (MQTT 5, §1.5.5)."""
    length = 0
    for shift in (0, 7, 14, 21):
        byte = packet[at]
        at += 1
        length |= (byte & 127) << shift
        if byte < 128:
            return at + length
    raise MalformedPacket("the length of the properties has no end")


def _reason(code: int) -> ReasonCode:
    try:
        return ReasonCode(PacketTypes.PUBACK, identifier=code)
    except (KeyError, ValueError) as error:
        raise MalformedPacket(f"PUBACK with reason {code}") from error
