"""The MQTT link against real brokers, and against servers that are none."""

from __future__ import annotations

import contextlib
import queue
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from hedge.models.errors import ConfigError
from hedge.uplink.backoff import Backoff
from hedge.uplink.link import (
    Connected,
    Delivered,
    Disconnected,
    Event,
    Link,
    Properties,
    Received,
    Subscribed,
    Token,
    Will,
)
from hedge.uplink.mqtt import MqttLink
from hedge.uplink.topics import Device

MakeLink = Callable[..., MqttLink]
StartBroker = Callable[..., "subprocess.Popen[bytes]"]
PASSWORD = "hunter2"  # noqa: S105 -- everybody knows it
E = TypeVar("E", bound=Event)


def until(link: Link, kind: type[E], *, within_s: float = 30.0) -> E:
    """Drive the link until an event of that kind comes; return it and forget the rest."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        for event in link.poll(0.05):
            if isinstance(event, kind):
                return event
    raise AssertionError(f"no {kind.__name__} came")


def nothing(link: Link, *, for_s: float) -> list[Event]:
    """Drive the link for a while and return all that happened."""
    until_s = time.monotonic() + for_s
    events: list[Event] = []
    while time.monotonic() < until_s:
        events += link.poll(0.05)
    return events


@pytest.fixture
def open_link(mqtt_link: MakeLink) -> Iterator[MakeLink]:
    """Give `open_link(url, client_id, will=…)`: an open link that is closed afterwards."""
    with contextlib.ExitStack() as stack:

        def make(
            url: str, client_id: str, *, will: Will | None = None, **options: object
        ) -> MqttLink:
            link = mqtt_link(url, client_id, backoff=Backoff(first_s=0.02, cap_s=0.1), **options)
            stack.callback(link.close, timeout_s=0.2)
            link.open(will)
            return link

        yield make


def test_a_message_goes_from_one_link_to_another(
    broker_url: str, open_link: MakeLink, device: Device
) -> None:
    one, two = open_link(broker_url, f"{device.name}-1"), open_link(broker_url, f"{device.name}-2")
    until(two, Connected)
    two.subscribe((device.answer,))
    assert until(two, Subscribed) == Subscribed(())
    until(one, Connected)
    payload = bytes(range(256)) * 200
    beside = Properties("application/msgpack", "a/b", b"12-345", 9)
    mid = one.send(device.answer, payload, properties=beside)
    assert until(one, Delivered) == Delivered(mid or -1)
    found = until(two, Received)
    assert (found.topic, found.payload, found.retained) == (device.answer, payload, False)
    assert found.token is not None
    two.ack(found.token)
    two.ack(Token(found.token.connection - 1, found.token.mid))  # of an earlier connection
    assert nothing(two, for_s=0.2) == []


def test_tcp_nodelay_is_really_set(broker_url: str, open_link: MakeLink, device: Device) -> None:
    link = open_link(broker_url, device.name)
    until(link, Connected)
    assert link._sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) != 0


def test_the_newest_protocol_that_the_broker_speaks_is_found_and_kept(
    broker_kind: str, start_broker: StartBroker, free_port: int, open_link: MakeLink
) -> None:
    broker = start_broker(broker_kind, free_port)
    link = open_link(f"mqtt://127.0.0.1:{free_port}", "x", connect_timeout_s=1.0)
    spoken = {"mosquitto": "5", "amqtt": "3.1.1"}[broker_kind]
    assert until(link, Connected).protocol == spoken
    for _ in range(2):
        broker.kill()
        broker.wait()
        assert until(link, Disconnected).stood
        broker = start_broker(broker_kind, free_port)
        again: Event = until(link, Connected)
        assert isinstance(again, Connected)
        assert again.protocol == spoken


def test_a_broker_that_is_down_at_the_start_is_awaited(
    broker_kind: str, start_broker: StartBroker, free_port: int, open_link: MakeLink
) -> None:
    version = {"mosquitto": "5", "amqtt": "3.1.1"}[broker_kind]
    link = open_link(f"mqtt://127.0.0.1:{free_port}?version={version}", "x")
    lost = until(link, Disconnected)
    assert not lost.stood
    assert "refused" in lost.reason
    assert link.send("a", b"b") is None
    start_broker(broker_kind, free_port)
    until(link, Connected)


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_refused_connection_is_never_called_connected(
    version: str, start_broker: StartBroker, free_port: int, open_link: MakeLink, tmp_path: Path
) -> None:
    passwords = tmp_path / "passwords"
    passwords.write_text("")
    start_broker("mosquitto", free_port, "allow_anonymous false", f"password_file {passwords}")
    link = open_link(f"mqtt://me@127.0.0.1:{free_port}?version={version}", "x", password=PASSWORD)
    for _ in range(3):
        assert "Not authorized" in until(link, Disconnected).reason
    events = nothing(link, for_s=0.5)
    assert events
    assert all(isinstance(event, Disconnected) and not event.stood for event in events)


def test_being_refused_does_not_make_the_link_doubt_the_protocol(
    start_broker: StartBroker, free_port: int, open_link: MakeLink
) -> None:
    broker = start_broker("mosquitto", free_port, "allow_anonymous false")
    link = open_link(f"mqtt://127.0.0.1:{free_port}", "x")
    until(link, Disconnected)
    until(link, Disconnected)
    broker.kill()
    broker.wait()
    start_broker("mosquitto", free_port)
    assert until(link, Connected).protocol == "5"


def test_a_password_opens_the_door_and_shows_nowhere(
    start_broker: StartBroker, free_port: int, open_link: MakeLink, tmp_path: Path
) -> None:
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    file = tmp_path / "passwords"
    subprocess.run([tool, "-b", "-c", str(file), "me", PASSWORD], check=True, capture_output=True)
    start_broker("mosquitto", free_port, "allow_anonymous false", f"password_file {file}")
    link = open_link(f"mqtt://me@127.0.0.1:{free_port}", "x", password=PASSWORD)
    until(link, Connected)
    assert PASSWORD not in repr(link)


def test_a_subscription_that_the_broker_refuses_is_named(open_link: MakeLink) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = open_link(f"mqtt://127.0.0.1:{listener.getsockname()[1]}?version=3.1.1", "x")
        link.poll(0.01)
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"\x20\x02\x00\x00")  # CONNACK: accepted
            until(link, Connected)
            link.subscribe(("open/a", "closed/a"))
            peer.sendall(b"\x90\x04\x00\x01\x01\x80")  # SUBACK: QoS 1, failure
            assert until(link, Subscribed).refused == ("closed/a",)


def test_the_brokers_own_packet_limit_is_reported(
    start_broker: StartBroker, free_port: int, open_link: MakeLink
) -> None:
    start_broker("mosquitto", free_port, "max_packet_size 30000")
    link = open_link(f"mqtt://127.0.0.1:{free_port}", "x")
    assert until(link, Connected).max_packet_bytes == 30_000


def test_a_will_is_published_when_the_link_vanishes_and_not_when_it_parts(
    broker_url: str, open_link: MakeLink, device: Device
) -> None:
    watcher = open_link(broker_url, f"{device.name}-w")
    until(watcher, Connected)
    watcher.subscribe((device.status,))
    until(watcher, Subscribed)
    parting = open_link(broker_url, device.name, will=Will(device.status, b"parted"))
    until(parting, Connected)
    parting.close(timeout_s=1.0)
    vanishing = open_link(broker_url, device.name, will=Will(device.status, b"vanished"))
    until(vanishing, Connected)
    vanishing._sock.shutdown(socket.SHUT_RDWR)
    assert until(watcher, Received).payload == b"vanished"


def test_mqtt_5_tells_everyone_what_a_message_is_about(
    start_broker: StartBroker, free_port: int, open_link: MakeLink
) -> None:
    start_broker("mosquitto", free_port)
    heard: queue.Queue[MQTTMessage] = queue.Queue()
    stranger = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    ready = threading.Event()
    stranger.on_message = lambda _, __, message: heard.put(message)
    stranger.on_subscribe = lambda *_: ready.set()
    stranger.connect("127.0.0.1", free_port)
    stranger.subscribe("t/#")
    stranger.loop_start()
    assert ready.wait(30)
    link = open_link(f"mqtt://127.0.0.1:{free_port}", "x")
    until(link, Connected)
    link.send("t/a", b"body", properties=Properties("application/msgpack", "a/b", b"12-3", 77))
    until(link, Delivered)
    found = heard.get(timeout=30)
    stranger.disconnect()
    stranger.loop_stop()
    assert found.payload == b"body"
    assert found.properties is not None
    told = vars(found.properties)
    assert told["ContentType"] == "application/msgpack"
    assert told["ResponseTopic"] == "a/b"
    assert told["CorrelationData"] == b"12-3"
    assert told["MessageExpiryInterval"] in {76, 77}


def test_another_thread_can_end_a_poll(mqtt_link: MakeLink) -> None:
    link = mqtt_link("mqtt://127.0.0.1:1", "x")
    waker = threading.Timer(0.05, link.wake)
    waker.start()
    assert link.poll(1e6) == []
    waker.join()
    for _ in range(100_000):  # more than any buffer holds
        link.wake()
    link.close(timeout_s=0)
    link.wake()


def test_why_the_broker_parts_from_us_is_told(open_link: MakeLink) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = open_link(f"mqtt://127.0.0.1:{listener.getsockname()[1]}?version=5", "x")
        link.poll(0.01)
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK: accepted
            until(link, Connected)
            peer.sendall(b"\xe0\x02\x8e\x00")  # DISCONNECT
            assert until(link, Disconnected).reason == "the broker says: Session taken over"


class Stub:
    """A server that notes the protocol level of each CONNECT and then does as it is told."""

    def __init__(self, reply: bytes | None) -> None:
        self.levels: list[int] = []
        self._reply = reply
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = self._listener.accept()
                self.levels.append(peer.recv(64)[8])
                if self._reply is None:
                    self._kept.append(peer)
                else:
                    peer.sendall(self._reply)
                    peer.close()

    def close(self) -> None:
        """Stop."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(30)
        for peer in self._kept:
            peer.close()


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"", "connection lost"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "connection lost"),
        (b"\x20\x02\x00\x01", "Unsupported protocol version"),
        (None, "keeps silent"),
    ],
)
def test_both_protocols_are_tried_in_turn_on_what_accepts_neither(
    reply: bytes | None, says: str, open_link: MakeLink
) -> None:
    with contextlib.closing(Stub(reply)) as server:
        link = open_link(f"mqtt://127.0.0.1:{server.port}", "x", connect_timeout_s=0.3)
        assert says in until(link, Disconnected).reason
        while len(server.levels) < 4:
            assert not until(link, Disconnected).stood
    assert server.levels[:4] == [5, 4, 5, 4]


def test_a_protocol_that_the_url_names_is_the_only_one_tried(open_link: MakeLink) -> None:
    with contextlib.closing(Stub(b"")) as server:
        link = open_link(f"mqtt://127.0.0.1:{server.port}?version=3.1.1", "x")
        while len(server.levels) < 3:
            until(link, Disconnected)
    assert set(server.levels) == {4}


def test_a_name_that_no_host_has_is_a_failed_attempt_and_no_more(open_link: MakeLink) -> None:
    link = open_link("mqtt://no-such-host.invalid", "x")
    assert "cannot connect" in until(link, Disconnected).reason


# paho leaves a socket whose handshake has failed to the garbage collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tls_is_verified_against_the_authority_that_is_named(
    start_broker: StartBroker, free_port: int, open_link: MakeLink, tmp_path: Path
) -> None:
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("openssl is not installed")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subject = ("-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1")
    output = ("-keyout", str(key), "-out", str(certificate), "-days", "2")
    new = ("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    subprocess.run([tool, *new, *output, *subject], check=True, capture_output=True)
    start_broker("mosquitto", free_port, f"certfile {certificate}", f"keyfile {key}")
    url = f"mqtts://127.0.0.1:{free_port}"
    assert "CERTIFICATE_VERIFY_FAILED" in until(open_link(url, "x"), Disconnected).reason
    trusting = open_link(url, "y", ca_file=certificate)
    until(trusting, Connected)
    trusting.subscribe(("t/a",))
    until(trusting, Subscribed)
    payload = b"\7" * 300_000
    trusting.send("t/a", payload)
    assert until(trusting, Received).payload == payload


def test_certificates_that_cannot_be_read_are_named_at_once(
    mqtt_link: MakeLink, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="missing"):
        mqtt_link("mqtts://here", "x", ca_file=tmp_path / "missing.pem")
