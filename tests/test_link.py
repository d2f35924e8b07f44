"""The MQTT link against real brokers, and against servers that are none."""

from __future__ import annotations

import contextlib
import queue
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from hedge.models.errors import ConfigError
from hedge.uplink.link.backoff import Backoff
from hedge.uplink.link.link import (
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
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.link.tls import TlsFiles
from hedge.uplink.topics import Device

MakeLink = Callable[..., MqttLink]
MakeAuthority = Callable[[str], Any]
StartBroker = Callable[..., "subprocess.Popen[bytes]"]
PASSWORD = "hunter2"  # noqa: S105 -- everybody knows it
E = TypeVar("E", bound=Event)

# What `openssl genpkey -algorithm ed25519 -aes256` makes; its password is forgotten.
LOCKED = """-----BEGIN ENCRYPTED PRIVATE KEY-----
MIGbMFcGCSqGSIb3DQEFDTBKMCkGCSqGSIb3DQEFDDAcBAhCswfSJFZq/AICCAAw
DAYIKoZIhvcNAgkFADAdBglghkgBZQMEASoEEBbmy0ir6Y+vjYHG3do2bjUEQPNJ
kF70XTlzTWxAFTjcJyRFbSjMN/CGCKuEtN6OsxvTFniTVNS5qJnrvT3k3mDd7Hn0
OHs3b57iiGsbCtHlw70=
-----END ENCRYPTED PRIVATE KEY-----
"""


def until(link: Link, kind: type[E], *, within_s: float = 30.0) -> E:
    """Drive the link until an event of that kind comes; return it and forget the rest."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        for event in link.poll(0.05):
            if isinstance(event, kind):
                return event
    raise AssertionError(f"no {kind.__name__} came")


def subscribe(link: Link, filters: Sequence[str]) -> Subscribed:
    """Subscribe as an owner does, again on every new connection: amqtt may not answer the first."""
    link.subscribe(filters)
    until_s = time.monotonic() + 60
    while time.monotonic() < until_s:
        for event in link.poll(0.05):
            if isinstance(event, Subscribed):
                return event
            if isinstance(event, Connected):
                link.subscribe(filters)
    raise AssertionError("no Subscribed came")


def several(link: Link, kind: type[E], count: int) -> list[E]:
    """Drive the link until as many events of that kind have come, and return those."""
    until_s = time.monotonic() + 30
    found: list[E] = []
    while len(found) < count:
        assert time.monotonic() < until_s, f"{len(found)} of {count} came"
        found += [event for event in link.poll(0.05) if isinstance(event, kind)]
    return found


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
    assert subscribe(two, (device.answer,)) == Subscribed(())
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


def test_a_subscription_that_is_refused_is_asked_for_again_until_it_is_not_wanted(
    open_link: MakeLink,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = open_link(f"mqtt://127.0.0.1:{listener.getsockname()[1]}?version=3.1.1", "x")
        with accept(listener, link, b"\x20\x02\x00\x00") as peer:
            heard(peer, link)
            link.subscribe(("open/a", "closed/a", "shut/a"))
            assert b"open/a" in heard(peer, link)
            peer.sendall(b"\x90\x05\x00\x01\x01\x80\x80")  # SUBACK: granted, refused twice
            assert until(link, Subscribed).refused == ("closed/a", "shut/a")
            link.unsubscribe(("shut/a",))
            for mid, code in ((3, b"\x80"), (4, b"\x01")):
                said = b""
                while b"closed/a" not in said:
                    said += heard(peer, link)
                assert b"open/a" not in said
                assert said.count(b"shut/a") == (1 if mid == 3 else 0)  # UNSUBSCRIBE
                peer.sendall(b"\x90\x03\x00" + bytes([mid]) + code)
                if mid == 3:
                    assert nothing(link, for_s=0.1) == []  # no news
            assert until(link, Subscribed) == Subscribed(())


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
    subscribe(watcher, (device.status,))
    parting = open_link(broker_url, device.name, will=Will(device.status, b"parted"))
    until(parting, Connected)
    subscribe(parting, (device.answer,))  # amqtt forgets a goodbye that comes sooner than this
    parting.close(timeout_s=1.0)
    vanishing = open_link(broker_url, device.name, will=Will(device.status, b"vanished"))
    until(vanishing, Connected)
    vanishing._sock.shutdown(socket.SHUT_RDWR)
    assert until(watcher, Received).payload == b"vanished"


def test_a_link_that_parts_leaves_the_closing_to_the_broker_and_does_not_wait_for_ever(
    open_link: MakeLink,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        for closes in (True, False):
            link = open_link(f"mqtt://127.0.0.1:{listener.getsockname()[1]}?version=3.1.1", "x")
            with accept(listener, link, b"\x20\x02\x00\x00") as peer:
                parting = threading.Thread(target=link.close, kwargs={"timeout_s": 30})
                parting.start()
                said = b""
                while not said.endswith(b"\xe0\x00"):  # DISCONNECT
                    with contextlib.suppress(TimeoutError):
                        said += peer.recv(4096)
                with pytest.raises(TimeoutError):  # neither an end nor a reset
                    peer.recv(4096)
                if closes:
                    peer.close()
                parting.join(10)
                assert not parting.is_alive()


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


# ---- A broker's limits, and one that does not answer


def accept(listener: socket.socket, link: Link, connack: bytes) -> socket.socket:
    """Accept the link as a broker that sends that CONNACK."""
    listener.settimeout(0)
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        link.poll(0.01)
        with contextlib.suppress(BlockingIOError):
            peer, _ = listener.accept()
            break
    peer.sendall(connack)
    until(link, Connected)
    peer.settimeout(0.2)
    return peer


def heard(peer: socket.socket, link: Link) -> bytes:
    """Return all that the link has to say for now."""
    found = b""
    for _ in range(3):
        link.poll(0)
        with contextlib.suppress(TimeoutError):
            found += peer.recv(1 << 16)
    return found


def test_no_more_is_under_way_than_the_broker_takes_at_once(open_link: MakeLink) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        link = open_link(f"mqtt://127.0.0.1:{listener.getsockname()[1]}?version=5", "x")
        # CONNACK: accepted, Receive Maximum 2
        with accept(listener, link, b"\x20\x06\x00\x00\x03\x21\x00\x02") as peer:
            heard(peer, link)
            mids = [link.send("t", b"number %d" % number) for number in range(5)]
            assert [heard(peer, link).count(b"number") for _ in range(2)] == [2, 0]
            peer.sendall(b"\x40\x02" + (mids[0] or 0).to_bytes(2, "big"))  # PUBACK
            assert until(link, Delivered).mid == mids[0]
            assert b"number 2" in heard(peer, link)


def test_a_broker_that_takes_few_messages_at_once_gets_them_all(
    start_broker: StartBroker, free_port: int, open_link: MakeLink
) -> None:
    start_broker("mosquitto", free_port, "max_inflight_messages 2")
    link = open_link(f"mqtt://127.0.0.1:{free_port}", "x")
    until(link, Connected)
    mids = [link.send("t/a", b"body") for _ in range(50)]
    assert sorted(event.mid for event in several(link, Delivered, 50)) == sorted(
        mid or 0 for mid in mids
    )


def test_what_is_sent_at_most_once_is_delivered_as_soon_as_it_is_written(
    broker_url: str, open_link: MakeLink, device: Device
) -> None:
    one, two = open_link(broker_url, f"{device.name}-1"), open_link(broker_url, f"{device.name}-2")
    until(two, Connected)
    subscribe(two, (device.telemetry,))
    until(one, Connected)
    mids = [one.send(device.telemetry, b"x" * 100_000, qos=0) for _ in range(3)]
    assert [event.mid for event in several(one, Delivered, 3)] == mids
    assert {len(found.payload) for found in several(two, Received, 3)} == {100_000}


def test_closing_writes_what_is_owed_even_at_most_once(
    start_broker: StartBroker, free_port: int, open_link: MakeLink
) -> None:
    start_broker("mosquitto", free_port)
    url = f"mqtt://127.0.0.1:{free_port}"
    one, two = open_link(url, "one"), open_link(url, "two")
    until(two, Connected)
    subscribe(two, ("t/a",))
    until(one, Connected)
    body = bytes(4 << 20)  # more than the kernel takes at once
    one.send("t/a", body, qos=0)
    one.close(timeout_s=10)
    assert until(two, Received).payload == body


@pytest.mark.parametrize(
    ("told", "given", "limit"),
    [(None, None, None), (None, 5000, 5000), (30_000, 5000, 5000), (3000, 5000, 3000)],
)
def test_of_the_packet_limits_told_and_given_the_lower_holds(
    told: int | None, given: int | None, limit: int | None, open_link: MakeLink
) -> None:
    properties = b"" if told is None else b"\x27" + told.to_bytes(4, "big")
    body = b"\x00\x00" + bytes([len(properties)]) + properties
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"mqtt://127.0.0.1:{listener.getsockname()[1]}?version=5"
        link = open_link(url, "x", max_packet_bytes=given)
        link.poll(0.01)
        peer, _ = listener.accept()
        with peer:
            peer.sendall(b"\x20" + bytes([len(body)]) + body)
            assert until(link, Connected).max_packet_bytes == limit


def test_a_broker_that_leaves_a_subscription_unanswered_is_left(open_link: MakeLink) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"mqtt://127.0.0.1:{listener.getsockname()[1]}?version=3.1.1"
        link = open_link(url, "x", answer_timeout_s=0.2)
        with accept(listener, link, b"\x20\x02\x00\x00") as peer:
            link.subscribe(("a/b",))
            peer.sendall(b"\x90\x03\x00\x01\x01")  # SUBACK
            until(link, Subscribed)
            assert nothing(link, for_s=0.4) == []
            link.subscribe(("a/c",))
            lost = until(link, Disconnected)
            assert lost == Disconnected("the broker does not answer a subscription", stood=True)
        with accept(listener, link, b"\x20\x02\x00\x00"):
            assert nothing(link, for_s=0.4) == []


# ---- Several nodes


def test_the_nodes_of_a_cluster_are_tried_in_turn(
    start_broker: StartBroker, open_link: MakeLink
) -> None:
    ports = []
    for _ in range(3):
        with socket.create_server(("127.0.0.1", 0)) as listener:
            ports.append(listener.getsockname()[1])
    hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
    second = start_broker("mosquitto", ports[1])
    link = open_link(f"mqtt://{hosts}?version=5", "x")
    assert not until(link, Disconnected).stood  # the first is down
    until(link, Connected)
    start_broker("mosquitto", ports[2])
    second.kill()
    assert until(link, Disconnected).stood
    assert until(link, Connected).protocol == "5"


# ---- TLS and WebSocket


def reasons(link: Link, wanted: str) -> str:
    """Drive the link until it says why there is no connection, in the words wanted."""
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        if wanted in (reason := until(link, Disconnected).reason):
            return reason
    raise AssertionError(f"nobody said {wanted!r}")


def test_a_broker_is_trusted_only_by_its_authority_and_under_its_name(
    start_broker: StartBroker, free_port: int, open_link: MakeLink, make_authority: MakeAuthority
) -> None:
    ours, other = make_authority("ours"), make_authority("other")
    certificate, key = ours.issue("broker", "localhost")
    start_broker("mosquitto", free_port, f"certfile {certificate}", f"keyfile {key}")
    by_name, by_number = f"mqtts://localhost:{free_port}", f"mqtts://127.0.0.1:{free_port}"
    trusting, tricked = TlsFiles(ca_file=ours.file), TlsFiles(ca_file=other.file)
    for url, files, says in (
        (by_name, TlsFiles(), "unable to get local issuer certificate"),
        (by_name, tricked, "unable to get local issuer certificate"),
        (by_number, trusting, "IP address mismatch"),
    ):
        reason = until(open_link(url, "x", tls=files), Disconnected).reason
        assert "the broker's certificate is not to be trusted: " in reason
        assert says in reason
    until(open_link(by_name, "y", tls=trusting), Connected)


def test_a_broker_whose_certificate_has_expired_is_not_trusted(
    start_broker: StartBroker, free_port: int, open_link: MakeLink, make_authority: MakeAuthority
) -> None:
    ours = make_authority("ours")
    certificate, key = ours.issue("broker", "localhost", days=-1)
    start_broker("mosquitto", free_port, f"certfile {certificate}", f"keyfile {key}")
    link = open_link(f"mqtts://localhost:{free_port}", "x", tls=TlsFiles(ca_file=ours.file))
    assert "not to be trusted: certificate has expired" in until(link, Disconnected).reason


def test_a_certificate_that_is_renewed_while_the_link_runs_is_used(
    start_broker: StartBroker,
    free_port: int,
    open_link: MakeLink,
    make_authority: MakeAuthority,
    tmp_path: Path,
) -> None:
    ours = make_authority("ours")
    certificate, key = ours.issue("broker", "localhost")
    lines = (f"certfile {certificate}", f"keyfile {key}", f"cafile {ours.file}")
    start_broker("mosquitto", free_port, *lines, "require_certificate true")
    mine = tmp_path / "certificate.pem", tmp_path / "key.pem"

    def install(days: int) -> None:
        for source, place in zip(ours.issue("porch", days=days), mine, strict=True):
            shutil.copy(source, place)

    install(days=-1)
    files = TlsFiles(ca_file=ours.file, cert_file=mine[0], key_file=mine[1])
    link = open_link(f"mqtts://localhost:{free_port}", "x", tls=files)
    reason = reasons(link, "certificate expired")
    assert reason == "the broker refuses our side of TLS: certificate expired"
    mine[1].write_text("half a file")
    assert f"{mine[1]}: holds no private key" in reasons(link, "private key")
    install(days=1)
    assert until(link, Connected).protocol == "5"


SIZES = (0, 1, 100, 125, 126, 127, 4096, 9000, 3)


def exchange(link: Link, sizes: Sequence[int]) -> None:
    """Send messages of these sizes to oneself."""
    subscribe(link, ("t/#",))
    for size in sizes:
        assert link.send(f"t/{size}", bytes(size)) is not None
    found: list[Received] = []
    while len(found) < len(sizes):
        found += several(link, Received, 1)
        for event in found:
            if event.token is not None:
                link.ack(event.token)
    assert [len(event.payload) for event in found] == list(sizes)
    assert {event.topic for event in found} == {f"t/{size}" for size in sizes}


@pytest.mark.parametrize("scheme", ["ws", "wss"])
@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_messages_go_over_a_brokers_websocket(
    scheme: str,
    version: str,
    start_broker: StartBroker,
    free_port: int,
    open_link: MakeLink,
    make_authority: MakeAuthority,
    tmp_path: Path,
) -> None:
    lines, files = ["protocol websockets"], TlsFiles()
    if scheme == "wss":
        ours = make_authority("ours")
        certificate, key = ours.issue("broker", "localhost")
        files = TlsFiles(ca_file=ours.file)
        lines += [f"certfile {certificate}", f"keyfile {key}"]
    # mosquitto 2.0.11 starts no WebSocket without a plain listener beside it, and takes a
    # tenth of a second for each 4 KiB: the long messages go through the proxy below.
    start_broker("mosquitto", free_port, *lines, f"listener 0 {tmp_path}/own")
    url = f"{scheme}://localhost:{free_port}/mqtt?version={version}"
    link = open_link(url, "x", tls=files)
    assert until(link, Connected).protocol == version
    assert link._sock.pending() == 0
    exchange(link, SIZES)


@pytest.fixture
def start_proxy(free_port: int) -> Iterator[Callable[..., int]]:
    """Give `start_proxy(certificate, key, pongs)`: the port of a WebSocket before `free_port`.

    An event for each ping that it sends is added to ``pongs``.
    """
    server = pytest.importorskip("websockets.sync.server", reason="websockets serves the proxy")

    def carry(front: Any, pongs: list[threading.Event]) -> None:  # noqa: ANN401 -- a websockets connection
        with socket.create_connection(("127.0.0.1", free_port)) as back:

            def answer() -> None:
                with contextlib.suppress(OSError):
                    while data := back.recv(100_003):  # many packets in one message, or a part
                        front.send([data[:7], data[7:]])  # two frames
                        pongs.append(front.ping())

            thread = threading.Thread(target=answer)
            thread.start()
            for data in front:
                back.sendall(data)
            back.shutdown(socket.SHUT_RDWR)
            thread.join(30)

    with contextlib.ExitStack() as stack:

        def start(certificate: Path, key: Path, pongs: list[threading.Event]) -> int:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            options = {"subprotocols": ["mqtt"], "max_size": None, "compression": None}
            proxy = server.serve(
                lambda front: carry(front, pongs), "127.0.0.1", 0, ssl=context, **options
            )
            thread = threading.Thread(target=proxy.serve_forever)
            thread.start()
            stack.callback(thread.join, 30)
            stack.callback(proxy.shutdown)
            return int(proxy.socket.getsockname()[1])

        yield start


def test_long_messages_that_share_frames_do_not_stall_a_websocket(
    start_broker: StartBroker,
    start_proxy: Callable[..., int],
    free_port: int,
    open_link: MakeLink,
    make_authority: MakeAuthority,
) -> None:
    start_broker("mosquitto", free_port)
    ours = make_authority("ours")
    pongs: list[threading.Event] = []
    port = start_proxy(*ours.issue("proxy", "localhost"), pongs)
    link = open_link(f"wss://localhost:{port}", "x", tls=TlsFiles(ca_file=ours.file))
    assert until(link, Connected).protocol == "5"
    exchange(link, (*SIZES, 65_535, 65_536, 1_000_000, *range(50, 70)))
    nothing(link, for_s=0.1)
    assert pongs
    assert all(pong.wait(10) for pong in pongs)


def test_what_speaks_no_websocket_is_a_failed_attempt(
    start_broker: StartBroker, free_port: int, open_link: MakeLink
) -> None:
    start_broker("mosquitto", free_port)
    link = open_link(f"ws://127.0.0.1:{free_port}", "x", connect_timeout_s=0.5)
    assert "cannot connect" in until(link, Disconnected).reason


def test_files_of_tls_that_are_no_good_are_named_at_once(
    mqtt_link: MakeLink, make_authority: MakeAuthority, tmp_path: Path
) -> None:
    ours = make_authority("ours")
    certificate, key = ours.issue("porch")
    _, stranger = ours.issue("attic")
    missing, prose, damaged = (tmp_path / name for name in ("missing.pem", "prose", "damaged"))
    prose.write_text("no certificate")
    damaged.write_text("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")
    locked = tmp_path / "locked.pem"
    locked.write_text(LOCKED)
    for files, says in (
        (TlsFiles(ca_file=missing), f"{missing}: cannot be read: No such file"),
        (TlsFiles(ca_file=tmp_path), f"{tmp_path}: cannot be read: Is a directory"),
        (TlsFiles(ca_file=prose), f"{prose}: holds no certificates in PEM"),
        (TlsFiles(cert_file=missing, key_file=key), f"{missing}: cannot be read"),
        (TlsFiles(cert_file=certificate, key_file=missing), f"{missing}: cannot be read"),
        (TlsFiles(cert_file=prose, key_file=key), f"{prose}: holds no certificate in PEM"),
        (TlsFiles(cert_file=certificate, key_file=prose), f"{prose}: holds no private key in PEM"),
        (TlsFiles(cert_file=certificate), f"{certificate}: holds no private key in PEM"),
        (TlsFiles(cert_file=damaged, key_file=key), "certificate or key is damaged"),
        (TlsFiles(cert_file=certificate, key_file=stranger), "does not match the certificate"),
        (TlsFiles(cert_file=certificate, key_file=locked), f"{locked}: the key has a password"),
        (TlsFiles(key_file=key), "a key without a certificate"),
    ):
        with pytest.raises(ConfigError) as caught:
            mqtt_link("mqtts://here", "x", tls=files)
        assert says in str(caught.value)


def test_certificates_are_refused_where_there_is_no_tls(
    mqtt_link: MakeLink, make_authority: MakeAuthority
) -> None:
    ours = make_authority("ours")
    with pytest.raises(ConfigError, match="certificates need TLS"):
        mqtt_link("ws://here", "x", tls=TlsFiles(ca_file=ours.file))


def test_a_name_that_takes_long_to_look_up_holds_nothing_up(
    mqtt_link: MakeLink, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up, answered = threading.Event(), threading.Event()

    def slow(*_: object, **__: object) -> list[object]:
        looked_up.set()
        answered.wait(30)
        raise socket.gaierror("nobody knows")

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    link = mqtt_link("mqtt://broker.example", "slow")
    link.open()
    try:
        assert link.poll(0) == []
        assert looked_up.wait(30)
        assert all(link.poll(0.01) == [] for _ in range(20))
        answered.set()
        until_s = time.monotonic() + 30
        while not (events := link.poll(0.1)) and time.monotonic() < until_s:
            pass
        assert isinstance(events[0], Disconnected)
        assert "nobody knows" in events[0].reason
    finally:
        answered.set()
        link.close(timeout_s=0)


def test_a_packet_longer_than_we_asked_for_ends_the_connection_unread(
    mqtt_link: MakeLink, free_port: int
) -> None:
    said = threading.Event()

    def broker(listener: socket.socket) -> None:
        with listener.accept()[0] as sock:
            sock.recv(4096)
            sock.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK of MQTT 5
            sock.sendall(b"\x30\xff\xff\xff\x7f")  # PUBLISH of 256 MiB
            said.set()
            sock.recv(4096)

    with socket.create_server(("127.0.0.1", free_port)) as listener:
        threading.Thread(target=broker, args=(listener,), daemon=True).start()
        link = mqtt_link(f"mqtt://127.0.0.1:{free_port}?version=5", "d")
        link.open()
        events: list[object] = []
        until_s = time.monotonic() + 30
        while not any(isinstance(one, Disconnected) for one in events):
            assert time.monotonic() < until_s
            events += link.poll(0.1)
        link.close(timeout_s=0)
    assert said.wait(10), "the broker never came to say it"


def test_a_puback_with_a_reason_that_nobody_knows_ends_the_connection_and_not_the_thread(
    mqtt_link: MakeLink, free_port: int
) -> None:
    def broker(listener: socket.socket) -> None:
        with listener.accept()[0] as sock:
            sock.recv(4096)
            sock.sendall(b"\x20\x03\x00\x00\x00")  # CONNACK of MQTT 5
            sock.recv(4096)
            sock.sendall(b"\x40\x04\x00\x01\x55\x00")  # PUBACK 1, reason 0x55
            sock.recv(4096)

    with socket.create_server(("127.0.0.1", free_port)) as listener:
        threading.Thread(target=broker, args=(listener,), daemon=True).start()
        link = mqtt_link(f"mqtt://127.0.0.1:{free_port}?version=5", "d")
        link.open()
        seen: list[str] = []
        until_s = time.monotonic() + 30
        while "Disconnected" not in seen:
            assert time.monotonic() < until_s
            for event in link.poll(0.1):
                seen.append(type(event).__name__)
                if isinstance(event, Connected):
                    assert link.send("t", b"x") == 1
        link.close(timeout_s=0)
    assert seen[0] == "Connected"


def test_a_message_longer_than_the_broker_takes_is_refused_here_and_the_connection_stays(
    start_broker: Callable[..., object], free_port: int, mqtt_link: MakeLink
) -> None:
    start_broker("mosquitto", free_port, "max_packet_size 300")
    link = mqtt_link(f"mqtt://127.0.0.1:{free_port}", "d")
    link.open()
    until_s = time.monotonic() + 30
    while not any(isinstance(one, Connected) for one in link.poll(0.1)):
        assert time.monotonic() < until_s
    long = [link.send("t", bytes(400), qos=qos) for qos in (0, 1)]
    short = link.send("t", bytes(200))
    told: list[Delivered] = []
    while len(told) < 3:
        assert time.monotonic() < until_s
        events = link.poll(0.1)
        assert not any(isinstance(one, Disconnected) for one in events)
        told += [one for one in events if isinstance(one, Delivered)]
    link.close(timeout_s=1)
    refused = {one.mid: one.refused for one in told}
    assert refused[short or 0] is None
    assert all("more than the broker takes, 300" in str(refused[mid or 0]) for mid in long)
