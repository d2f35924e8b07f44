"""The link over MQTT, by paho driven from the owner's thread.

MQTT 5 is tried first, and 3.1.1 where the broker refuses it, hangs up or keeps silent.
Every connection gets a new client: what is to be sent again is the outbox's business, so
nothing may survive in the library. paho starts no thread here.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import ssl
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paho.mqtt.client import (
    Client,
    ConnectFlags,
    DisconnectFlags,
    MQTTMessage,
    MQTTv5,
    MQTTv311,
)
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode

from ..models.errors import ConfigError
from .backoff import Backoff
from .broker_url import Broker, Version
from .link import (
    Connected,
    Delivered,
    Disconnected,
    Event,
    Properties,
    Received,
    Subscribed,
    Token,
    Will,
)
from .packed import Packed
from .wire import MAX_REQUEST_BYTES

_QOS = 1
_BURST = 64  # packets read before their owner gets to see them
_HELD_S = 5.0  # a connection that stood so long ends a row of failures
_DOUBT = 3  # hang-ups in a row before a protocol that has worked is given up
_MARGIN_BYTES = 64 << 10  # topic and properties beside the longest payload


class MqttLink:
    """A `Link` to one broker.

    ``client_id`` must be this client's alone, and always the same. ``window`` bounds the
    messages that the broker has not answered for. A connection attempt blocks `poll` for
    ``connect_timeout_s`` at most (and for as long as a name look-up takes). MQTT 5 brokers
    are told to keep longer messages than ``max_payload_bytes`` to themselves; with 3.1.1
    only the broker's own limit keeps them out of memory.

    Raises:
        ConfigError: the file of certificates cannot be read.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        client_id: str,
        password: str | None = None,
        ca_file: Path | None = None,
        keepalive_s: int = 20,
        connect_timeout_s: float = 3.0,
        window: int = 20,
        max_payload_bytes: int = MAX_REQUEST_BYTES,
        backoff: Backoff | None = None,
    ) -> None:
        self._broker = broker
        self._client_id = client_id
        self._password = password
        self._tls = _tls(ca_file) if broker.tls else None
        self._keepalive_s = keepalive_s
        self._timeout_s = connect_timeout_s
        self._window = window
        self._max_packet_bytes = max_payload_bytes + _MARGIN_BYTES
        self._backoff = backoff or Backoff()
        self._will: Will | None = None
        self._client: Client | None = None
        self._connection = 0
        self._since_s: float | None = None  # of the CONNACK; None: not connected
        self._next_s = float("inf")  # the next attempt, or the end of the wait for a CONNACK
        self._version: Version = broker.version or "5"
        self._hangups_left = 1
        self._shaking = False  # connected, but not accepted yet
        self._sock: Any = None
        self._refusal: str | None = None
        self._filters: dict[int | None, Sequence[str]] = {}
        self._unacked: set[int] = set()
        self._events: list[Event] = []
        self._selector = selectors.DefaultSelector()
        self._ear, self._mouth = socket.socketpair()
        for end in (self._ear, self._mouth):
            end.settimeout(0)
        self._selector.register(self._ear, selectors.EVENT_READ)

    def open(self, will: Will | None = None) -> None:
        """Begin; see `Link`."""
        self._will = will
        self._next_s = time.monotonic()

    def poll(self, timeout_s: float) -> list[Event]:
        """Connect, read, write and wait; see `Link`."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._overdue()
        patience_s = 0.0 if self._events or self._buffered() else min(timeout_s, self._wait_s())
        self._flow(max(0.0, patience_s))
        if self._client is not None:
            self._client.loop_misc()
        events, self._events = self._events, []
        return events

    def send(
        self,
        topic: str,
        payload: bytes,
        *,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> int | None:
        """Publish at QoS 1; see `Link`."""
        client = self._client
        if client is None or self._since_s is None:
            return None
        beside = None
        if properties is not None and self._version == "5":
            beside = Packed(properties)
        info = client.publish(topic, payload, qos=_QOS, retain=retain, properties=beside)
        if info.rc != MQTTErrorCode.MQTT_ERR_SUCCESS:
            return None
        self._unacked.add(info.mid)
        return info.mid

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe at QoS 1; see `Link`."""
        if self._client is not None:
            _, mid = self._client.subscribe([(one, _QOS) for one in filters])
            self._filters[mid] = filters

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe; see `Link`."""
        if self._client is not None:
            self._client.unsubscribe(list(filters))

    def ack(self, token: Token) -> None:
        """Send the PUBACK; see `Link`."""
        if self._client is not None and token.connection == self._connection:
            self._client.ack(token.mid, _QOS)

    def wake(self) -> None:
        """End a `poll` from another thread; see `Link`."""
        with contextlib.suppress(OSError):  # full: it is awake already; or closed
            self._mouth.send(b"\0")

    def close(self, *, timeout_s: float) -> None:
        """Flush, disconnect and free; see `Link`."""
        until_s = time.monotonic() + timeout_s
        self._next_s = float("inf")
        while self._since_s is not None and self._unacked and time.monotonic() < until_s:
            self._flow(0.05)
        self._hang_up()
        self._selector.close()
        self._ear.close()
        self._mouth.close()

    def _wait_s(self) -> float:
        """Return how long nothing can be due: an attempt, or paho's own time-keeping."""
        return min(self._next_s - time.monotonic(), self._keepalive_s / 4)

    def _flow(self, timeout_s: float) -> None:
        """Wait for the socket and for `wake`, and do what they ask for."""
        client, sock = self._client, self._sock
        if client is not None and sock is not None:
            interest = selectors.EVENT_READ | client.want_write() * selectors.EVENT_WRITE
            if self._selector.get_key(sock).events != interest:
                self._selector.modify(sock, interest)
        ready = {key.fileobj: mask for key, mask in self._selector.select(timeout_s)}
        if self._ear in ready:
            self._ear.recv(4096)
        if client is None or sock is None:
            return
        if ready.get(sock, 0) & selectors.EVENT_READ or self._buffered():
            self._read(client)
        if ready.get(sock, 0) & selectors.EVENT_WRITE:
            client.loop_write()

    def _read(self, client: Client) -> None:
        """Read what has come, but let the owner see it after a burst."""
        for _ in range(_BURST):
            client.loop_read()
            if self._sock is None or not (self._readable() or self._buffered()):
                return

    def _readable(self) -> bool:
        ready = self._selector.select(0)
        return any(key.fileobj is self._sock and mask & selectors.EVENT_READ for key, mask in ready)

    def _buffered(self) -> bool:
        """Return whether TLS holds decrypted bytes, which no selector can see."""
        return isinstance(self._sock, ssl.SSLSocket) and self._sock.pending() > 0

    def _overdue(self) -> None:
        if self._client is None:
            self._connect()
        else:
            self._refusal = "the broker keeps silent"
            self._hang_up()

    def _connect(self) -> None:
        self._connection += 1
        self._refusal = None
        self._shaking = False
        self._next_s = float("inf")
        client = self._client = self._new_client()
        properties = None
        if self._version == "5":
            properties = PahoProperties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.MaximumPacketSize = self._max_packet_bytes
        broker = self._broker
        try:
            client.connect(broker.host, broker.port, self._keepalive_s, properties=properties)
        except (OSError, ValueError) as error:  # ValueError: a name that no host can have
            self._lost(f"cannot connect: {error}")
        if self._client is client:
            self._next_s = time.monotonic() + self._timeout_s

    def _new_client(self) -> Client:
        client = Client(
            CallbackAPIVersion.VERSION2,
            client_id=self._client_id,
            protocol=MQTTv5 if self._version == "5" else MQTTv311,
            reconnect_on_failure=False,
            manual_ack=True,
        )
        client.connect_timeout = self._timeout_s
        client.max_inflight_messages = self._window
        if self._broker.username is not None:
            client.username_pw_set(self._broker.username, self._password)
        if self._tls is not None:
            client.tls_set_context(self._tls)
        if self._will is not None:
            client.will_set(self._will.topic, self._will.payload, qos=_QOS, retain=True)
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _hang_up(self) -> None:
        """Disconnect; what cannot be written at once is left unsaid."""
        client = self._client
        if client is None:
            return
        client.disconnect()
        sock = client.socket()
        if sock is not None:
            self._on_socket_close(client, None, sock)
            sock.close()
        if self._client is client:
            self._lost(self._refusal or "closed")

    def _lost(self, reason: str) -> None:
        """Put the connection away, and see when and how the next one is to be made."""
        now_s = time.monotonic()
        stood = self._since_s is not None
        if self._since_s is not None and now_s - self._since_s >= _HELD_S:
            self._backoff.reset()
        if self._shaking:
            self._doubt_version()
        self._client = None
        self._since_s = None
        self._filters.clear()
        self._unacked.clear()
        self._next_s = now_s + self._backoff.next_s()
        self._events.append(Disconnected(reason, stood))

    def _doubt_version(self) -> None:
        """Count a handshake that failed, and change the protocol when there were too many."""
        self._hangups_left -= 1
        if self._hangups_left <= 0 and self._broker.version is None:
            self._version = "3.1.1" if self._version == "5" else "5"
            self._hangups_left = 1

    # What paho calls, from within the methods above.

    def _on_socket_open(self, client: Client, userdata: object, sock: Any) -> None:  # noqa: ANN401, ARG002
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # a silent cut is noticed by unanswered bytes
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 1500 * self._keepalive_s)
        self._sock = sock
        self._selector.register(sock, selectors.EVENT_READ)
        self._shaking = True

    def _on_socket_close(self, client: Client, userdata: object, sock: Any) -> None:  # noqa: ANN401, ARG002
        if sock is self._sock:
            self._sock = None
            self._selector.unregister(sock)

    def _on_connect(
        self,
        client: Client,  # noqa: ARG002
        userdata: object,  # noqa: ARG002
        flags: ConnectFlags,  # noqa: ARG002
        reason: ReasonCode,
        properties: PahoProperties | None,
    ) -> None:
        if reason.is_failure:
            self._refusal = f"the broker refuses us: {reason}"
            self._shaking = reason == "Unsupported protocol version"
            if self._shaking:
                self._hangups_left = 1
            return
        self._shaking = False
        self._hangups_left = _DOUBT
        self._since_s = time.monotonic()
        self._next_s = float("inf")
        # paho cannot be told now; a broker that is kept to less hangs up once, no more
        self._window = min(self._window, getattr(properties, "ReceiveMaximum", self._window))
        limit = getattr(properties, "MaximumPacketSize", None)
        self._events.append(Connected(self._version, limit))

    def _on_disconnect(
        self,
        client: Client,
        userdata: object,  # noqa: ARG002
        flags: DisconnectFlags,
        reason: ReasonCode,
        properties: PahoProperties | None,  # noqa: ARG002
    ) -> None:
        if client is not self._client:
            return
        said = f"the broker says: {reason}" if flags.is_disconnect_packet_from_server else None
        self._lost(self._refusal or said or "connection lost")

    def _on_publish(
        self,
        client: Client,  # noqa: ARG002
        userdata: object,  # noqa: ARG002
        mid: int,
        reason: ReasonCode,
        properties: PahoProperties | None,  # noqa: ARG002
    ) -> None:
        self._unacked.discard(mid)
        self._events.append(Delivered(mid, str(reason) if reason.is_failure else None))

    def _on_subscribe(
        self,
        client: Client,  # noqa: ARG002
        userdata: object,  # noqa: ARG002
        mid: int,
        reasons: list[ReasonCode],
        properties: PahoProperties | None,  # noqa: ARG002
    ) -> None:
        pairs = zip(self._filters.pop(mid, ()), reasons, strict=False)
        self._events.append(Subscribed(tuple(one for one, why in pairs if why.is_failure)))

    def _on_message(self, client: Client, userdata: object, message: MQTTMessage) -> None:  # noqa: ARG002
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "(no UTF-8)"
        token = Token(self._connection, message.mid) if message.qos else None
        self._events.append(Received(topic, bytes(message.payload), message.retain, token))


def _tls(ca_file: Path | None) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(f"no certificates: {error}", where=str(ca_file)) from error
