"""The link over MQTT, by paho driven from the owner's thread.

MQTT 5 is tried first, and 3.1.1 where the broker refuses it, hangs up or keeps silent.
Every connection gets a new client: what is to be sent again is the outbox's business, so
nothing may survive in the library. paho starts no thread here.
"""

from __future__ import annotations

import contextlib
import logging
import os
import selectors
import socket
import time
from collections.abc import Sequence
from typing import Any

from paho.mqtt.client import Client, ConnectFlags, DisconnectFlags, MQTTMessage
from paho.mqtt.enums import LogLevel, MQTTErrorCode
from paho.mqtt.properties import Properties as PahoProperties
from paho.mqtt.reasoncodes import ReasonCode

from ...models.errors import ConfigError
from ..wire import MAX_REQUEST_BYTES
from .backoff import Backoff
from .broker_url import Broker, Version
from .dial import Dialling
from .greeting import Greeting
from .lean import LeanClient
from .link import (
    KEEPALIVE_S,
    Connected,
    Delivered,
    Disconnected,
    Event,
    Properties,
    Qos,
    Received,
    Token,
    Will,
)
from .packed import Packed
from .subscriptions import Subscriptions
from .tls import TlsFiles, explain, last_words

_log = logging.getLogger(__name__)

_QOS = 1
_BURST = 64  # packets read before their owner gets to see them
_HELD_S = 5.0  # a connection that stood so long ends a row of failures
_LINGER_S = 0.5  # for the broker to close what we have ended
_DOUBT = 3  # hang-ups in a row before a protocol that has worked is given up
_HEAD_BYTES = 9  # of a packet: its own five at most, the length of the topic, and the number
_MARGIN_BYTES = 64 << 10  # topic and properties beside the longest payload


class MqttLink:
    """A `Link` to one broker, or to a cluster whose nodes are tried in turn.

    ``client_id`` must be this client's alone, and always the same. The broker is asked to
    keep what comes for us for ``session_s`` (3.1.1: for ever) while there is no connection.
    ``window`` bounds the messages that the broker has not answered for, and a broker that
    takes fewer is heeded. Each step of a connection attempt takes ``connect_timeout_s`` at
    most (but a name look-up as long as it takes), and none holds `poll` up. A broker that
    does not answer, for ``answer_timeout_s`` and each filter of a subscription, is left.
    ``max_packet_bytes`` is what the broker takes, where it is too old to say so itself: of
    the two limits the lower holds. MQTT 5 brokers are told to keep longer messages than
    ``max_payload_bytes`` to themselves; with 3.1.1 only the broker's own limit keeps them out
    of memory.

    Raises:
        ConfigError: the files of TLS are no good, or are given for a URL without TLS.
    """

    def __init__(
        self,
        broker: Broker,
        *,
        client_id: str,
        password: str | None = None,
        tls: TlsFiles = TlsFiles(),  # noqa: B008 -- frozen
        keepalive_s: int = KEEPALIVE_S,
        session_s: int = 0,
        connect_timeout_s: float = 3.0,
        answer_timeout_s: float = 5.0,
        window: int = 20,
        max_packet_bytes: int | None = None,
        max_payload_bytes: int = MAX_REQUEST_BYTES,
        backoff: Backoff | None = None,
    ) -> None:
        tls.check(tls=broker.tls)
        self._broker = broker
        self._turn = 0  # of the broker's places
        self._tls = tls
        self._keepalive_s = keepalive_s
        self._timeout_s = connect_timeout_s
        self._answer_timeout_s = answer_timeout_s
        self._window = window
        self._max_packet_bytes = max_packet_bytes
        self._greeting = Greeting(
            broker,
            client_id=client_id,
            password=password,
            keepalive_s=keepalive_s,
            session_s=session_s,
            connect_timeout_s=connect_timeout_s,
            window=window,
            max_receive_bytes=max_payload_bytes + _MARGIN_BYTES,
        )
        self._limit: int | None = None  # of this connection
        self._kept_back = 0
        self._backoff = backoff or Backoff()
        self._will: Will | None = None
        self._client: LeanClient | None = None
        self._dialling: Dialling | None = None
        self._connection = 0
        self._since_s: float | None = None  # of the CONNACK; None: not connected
        self._next_s = float("inf")  # the next attempt, or the end of the wait for a CONNACK
        self._version: Version = broker.version or "5"
        self._hangups_left = 1
        self._shaking = False  # connected, but not accepted yet
        self._sock: Any = None
        self._refusal: str | None = None
        self._subscriptions = Subscriptions(timeout_s=answer_timeout_s)
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
        if self._dialling is not None and self._dialling.ended:
            self._connect(self._dialling)
        elif now_s >= self._next_s:
            self._overdue()
        elif self._subscriptions.overdue(now_s=now_s):
            self._refusal = "the broker does not answer a subscription"
            self._hang_up()
        elif filters := self._subscriptions.again(now_s=now_s):
            self._subscribe(filters, again=True)
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
        qos: Qos = 1,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> int | None:
        """Publish; see `Link`."""
        client = self._client
        if client is None or self._since_s is None:
            return None
        beside = None
        if properties is not None and self._version == "5":
            beside = Packed(properties)
        packed = None if beside is None else beside.pack()
        size = _HEAD_BYTES + len(topic.encode()) + len(packed or b"\0") + len(payload)
        if self._limit is not None and size > self._limit:
            return self._keep_back(topic, size)
        if qos == _QOS:
            mid = client.put(topic, payload, retain=retain, properties=packed)
            if mid is not None:
                self._unacked.add(mid)
            return mid
        info = client.publish(topic, payload, qos=qos, retain=retain, properties=beside)
        return info.mid if info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS else None

    def _keep_back(self, topic: str, size: int) -> int:
        """Refuse a message in the broker's stead, which would end the connection for it."""
        self._kept_back += 1
        why = f"{topic}: {size} bytes are more than the broker takes, {self._limit}"
        self._events.append(Delivered(-self._kept_back, why))
        return -self._kept_back

    def subscribe(self, filters: Sequence[str]) -> None:
        """Subscribe at QoS 1; see `Link`."""
        self._subscribe(filters)

    def unsubscribe(self, filters: Sequence[str]) -> None:
        """Unsubscribe; see `Link`."""
        self._subscriptions.dropped(filters)
        if self._client is not None and self._since_s is not None:
            self._client.unsubscribe(list(filters))

    def ack(self, token: Token) -> None:
        """Send the PUBACK; see `Link`."""
        if self._client is not None and token.connection == self._connection:
            self._client.ack(token.mid, _QOS)

    def wake(self) -> None:
        """End a `poll` from another thread; see `Link`."""
        with contextlib.suppress(OSError):  # full: it is awake already; or closed
            self._mouth.send(b"\0")

    def close(self, *, timeout_s: float) -> list[Event]:
        """Flush, disconnect and free; see `Link`."""
        until_s = time.monotonic() + timeout_s
        self._next_s = float("inf")
        while self._owing() and time.monotonic() < until_s:
            self._flow(0.05)
        self._part(min(until_s - time.monotonic(), _LINGER_S))
        if self._dialling is not None:
            self._dialling.abandon()
        self._selector.close()
        self._ear.close()
        self._mouth.close()
        events, self._events = self._events, []
        return events

    def _subscribe(self, filters: Sequence[str], *, again: bool = False) -> None:
        if self._client is not None and self._since_s is not None:
            _, mid = self._client.subscribe([(one, _QOS) for one in filters])
            self._subscriptions.asked(mid, filters, now_s=time.monotonic(), again=again)

    def _wait_s(self) -> float:
        """Return how long nothing can be due: an attempt, an answer, paho's time-keeping."""
        next_s = min(self._next_s, self._subscriptions.next_s())
        return min(next_s - time.monotonic(), self._keepalive_s / 4)

    def _owing(self) -> bool:
        """Return whether something is still to be written, or to be answered for."""
        client = self._client
        if client is None or self._since_s is None:
            return False
        return client.want_write() or bool(self._unacked)

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
            if self._sock is None or not self._buffered():
                return

    def _buffered(self) -> bool:
        """Return whether bytes were read, or decrypted, that no selector can see."""
        if self._client is not None and self._client.reads_ahead:
            return True
        pending = getattr(self._sock, "pending", None)
        return pending is not None and pending() > 0

    def _overdue(self) -> None:
        if self._client is None:
            self._dial()
        else:
            self._refusal = "the broker keeps silent"
            self._hang_up()

    def _dial(self) -> None:
        self._connection += 1
        self._refusal = None
        self._shaking = False
        self._next_s = float("inf")
        places = self._broker.places
        place = places[self._turn % len(places)]
        self._turn += 1
        _log.debug("connecting to %s", place)
        try:
            tls = self._tls.context() if self._broker.tls else None
        except ConfigError as error:
            self._lost(str(error))
            return
        self._dialling = Dialling(
            place,
            tls=tls,
            path=self._broker.path,
            timeout_s=self._timeout_s,
            done=self.wake,
        )

    def _connect(self, dialling: Dialling) -> None:
        """Greet the broker, if somebody was reached."""
        self._dialling = None
        try:
            client = self._client = self._new_client(dialling)
            self._greeting.connect(client, dialling, version=self._version)
        except (OSError, ValueError) as error:  # ValueError: a name that no host can have
            absent = isinstance(error, ConnectionRefusedError)
            self._lost(f"cannot connect: {explain(str(error))}", absent=absent)
        if self._client is not None:
            known = self._broker.version is not None  # else silence may mean "not this one"
            patience_s = self._answer_timeout_s if known else self._timeout_s
            self._next_s = time.monotonic() + patience_s

    def _new_client(self, dialling: Dialling) -> LeanClient:
        client = self._greeting.client(dialling, version=self._version, will=self._will)
        client.on_socket_open = self._on_socket_open
        client.on_socket_close = self._on_socket_close
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_log = self._on_log
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

    def _part(self, linger_s: float) -> None:
        """Hang up, and wait for the broker to do so: some take a goodbye and a close for a cut."""
        sock = self._sock
        if sock is None or self._since_s is None or linger_s <= 0:
            self._hang_up()
            return
        with socket.socket(fileno=os.dup(sock.fileno())) as same:  # paho closes its own
            self._hang_up()
            until_s = time.monotonic() + linger_s
            with contextlib.suppress(OSError):  # a time-out, too
                while (left_s := until_s - time.monotonic()) > 0:
                    same.settimeout(left_s)
                    if not same.recv(4096):
                        break

    def _lost(self, reason: str, *, absent: bool = False) -> None:
        """Put the connection away, and see when and how the next one is to be made."""
        now_s = time.monotonic()
        stood = self._since_s is not None
        if self._since_s is not None and now_s - self._since_s >= _HELD_S:
            self._backoff.reset()
        if self._shaking:
            self._doubt_version()
        self._client = None
        self._since_s = None
        self._subscriptions = Subscriptions(timeout_s=self._answer_timeout_s)
        self._unacked.clear()
        self._next_s = now_s + self._backoff.next_s(absent=absent)
        self._events.append(Disconnected(reason, stood))

    def _refused(self, error: str) -> None:
        """Note why a handshake failed; TLS refuses us, not the protocol within."""
        self._refusal = explain(error)
        if "alert" in error:
            self._shaking = False

    def _doubt_version(self) -> None:
        """Count a handshake that failed, and change the protocol when there were too many."""
        self._hangups_left -= 1
        if self._hangups_left <= 0 and self._broker.version is None:
            self._version = "3.1.1" if self._version == "5" else "5"
            self._hangups_left = 1

    # What paho calls, from within the methods above.

    def _on_socket_open(self, client: Client, userdata: object, sock: Any) -> None:  # noqa: ANN401, ARG002
        with socket.socket(fileno=os.dup(sock.fileno())) as same:  # whatever is wrapped around it
            same.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if hasattr(socket, "TCP_USER_TIMEOUT"):  # a silent cut is noticed by unanswered bytes
                patience_ms = 1500 * self._keepalive_s
                same.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, patience_ms)
        self._sock = sock
        self._selector.register(sock, selectors.EVENT_READ)
        self._shaking = True

    def _on_socket_close(self, client: Client, userdata: object, sock: Any) -> None:  # noqa: ANN401, ARG002
        if sock is self._sock:
            if self._shaking and (words := last_words(sock)) is not None:
                self._refused(words)
            self._sock = None
            self._selector.unregister(sock)

    def _on_connect(
        self,
        client: Client,
        userdata: object,  # noqa: ARG002
        flags: ConnectFlags,
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
        self._refusal = None
        self._hangups_left = _DOUBT
        self._since_s = time.monotonic()
        self._next_s = float("inf")
        client.on_log = None  # it would cost time for every message
        window = min(self._window, getattr(properties, "ReceiveMaximum", self._window))
        client._max_inflight_messages = max(1, window)  # noqa: SLF001 -- its setter is for the unconnected
        told = getattr(properties, "MaximumPacketSize", None)
        limits = [limit for limit in (told, self._max_packet_bytes) if limit is not None]
        self._limit = min(limits, default=None)
        self._events.append(Connected(self._version, self._limit, flags.session_present))

    def _on_log(self, client: Client, userdata: object, level: int, text: str) -> None:  # noqa: ARG002
        """Keep why a handshake failed: paho tells nobody else."""
        if level == LogLevel.MQTT_LOG_ERR and self._refusal is None:
            self._refused(text)

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
        refused = str(reason) if reason.is_failure else None
        unheard = reason == "No matching subscribers"
        self._events.append(Delivered(mid, refused, unheard))

    def _on_subscribe(
        self,
        client: Client,  # noqa: ARG002
        userdata: object,  # noqa: ARG002
        mid: int,
        reasons: list[ReasonCode],
        properties: PahoProperties | None,  # noqa: ARG002
    ) -> None:
        failures = [reason.is_failure for reason in reasons]
        found = self._subscriptions.answered(mid, failures, now_s=time.monotonic())
        if found is not None:
            self._events.append(found)

    def _on_message(self, client: Client, userdata: object, message: MQTTMessage) -> None:  # noqa: ARG002
        try:
            topic = message.topic
        except UnicodeDecodeError:
            topic = "(no UTF-8)"
        token = Token(self._connection, message.mid) if message.qos else None
        self._events.append(Received(topic, bytes(message.payload), message.retain, token))
