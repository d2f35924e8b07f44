"""An MQTT topic as a source, by real brokers that come and go."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from hedge.models.errors import ConfigError, DataError, SourceError
from hedge.models.manifest import Input, TensorInput
from hedge.runtime.config import UplinkConfig
from hedge.runtime.sources.live import Live
from hedge.runtime.sources.opening import Surroundings
from hedge.runtime.sources.options import MqttSource
from hedge.runtime.sources.topic import TopicReader, check_filter
from hedge.uplink.link.mqtt import MqttLink

Eventually = Callable[[Callable[[], bool]], None]
StartBroker = Callable[..., "subprocess.Popen[bytes]"]
VALUE = Input(kind="tensor", shape=(1,), dtype="float32", tensor=TensorInput(channels=("v",)))


@pytest.fixture
def url(start_broker: StartBroker, free_port: int) -> str:
    """Give the URL of a mosquitto of this test's own."""
    start_broker("mosquitto", free_port)
    return f"mqtt://127.0.0.1:{free_port}"


@pytest.fixture
def publish() -> Iterator[Callable[..., None]]:
    """Give `publish(url, topic, payload, …)`, which returns when the broker has it."""
    with contextlib.ExitStack() as stack:
        clients: dict[str, Client] = {}

        def connected(port: str) -> Client:
            client = Client(CallbackAPIVersion.VERSION2)
            client.connect("127.0.0.1", int(port))
            client.loop_start()
            stack.callback(client.loop_stop)
            stack.callback(client.disconnect)
            return client

        def send(
            url: str, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False
        ) -> None:
            port = url.rpartition(":")[2].partition("?")[0]
            client = clients.get(port) or clients.setdefault(port, connected(port))
            client.publish(topic, payload, qos, retain).wait_for_publish(30)

        yield send


def reader_of(url: str | None, spec: Input = VALUE, **options: Any) -> TopicReader:  # noqa: ANN401
    """Return a reader by the uplink's broker."""
    uplink = None if url is None else UplinkConfig(broker=url)
    around = Surroundings(base=Path("/nowhere"), device="porch", uplink=uplink)
    return TopicReader(MqttSource(**options), spec, name="s", around=around)


@contextlib.contextmanager
def reading(url: str, spec: Input = VALUE, **options: Any) -> Iterator[TopicReader]:  # noqa: ANN401
    """Give an open reader."""
    reader = reader_of(url, spec, **options)
    try:
        reader.open()
        yield reader
    finally:
        reader.close()


class _Parted:
    """A link that was never open."""

    def __init__(self, link: MqttLink) -> None:
        self.link = link

    def close(self) -> None:
        self.link.close(timeout_s=0)


def gather(reader: TopicReader, count: int) -> list[Any]:
    """Read until so much has come: values, and what is said of the rest."""
    found: list[Any] = []
    until_s = time.monotonic() + 30
    while len(found) < count:
        assert time.monotonic() < until_s, found
        try:
            found += [one.data.reshape(-1).tolist() for one in reader.read()]
        except DataError as error:
            found.append(str(error))
    return found


@pytest.mark.parametrize("qos", [0, 1])
def test_what_is_published_is_read_with_its_topic(
    qos: int, url: str, publish: Callable[..., None]
) -> None:
    with reading(url, topic="sensors/+/v", qos=qos) as reader:
        publish(url, "sensors/a/v", b"[1, 2]", qos=qos)
        publish(url, "sensors/b/w", b"99", qos=qos)
        publish(url, "sensors/b/v", b'{"v": 3}', qos=qos)
        found: list[Any] = []
        while len(found) < 3:
            found += reader.read()
        assert [one.data.tolist() for one in found] == [[[1]], [[2]], [[3]]]
        assert [one.meta["topic"] for one in found] == ["sensors/a/v"] * 2 + ["sensors/b/v"]


def test_raw_rows_and_garbage_come_as_they_are(url: str, publish: Callable[..., None]) -> None:
    with reading(url, topic="v", format="tensor", max_bytes=40) as reader:
        publish(url, "v", struct.pack("<2f", 1, 2.5))
        publish(url, "v", b"odd")
        publish(url, "v", b"\0" * 41)
        publish(url, "v", struct.pack("<f", -3))
        assert gather(reader, 5) == [
            [1],
            [2.5],
            "v: 3 bytes are no whole rows (a row is 1 float32: 4 bytes)",
            "v: a message of 41 bytes, and max_bytes is 40",
            [-3],
        ]


def test_windows_are_cut_topic_by_topic(url: str, publish: Callable[..., None]) -> None:
    spec = Input(
        kind="tensor", shape=(2, 1), dtype="float32", tensor=TensorInput(channels=("v",), rows=2)
    )
    with reading(url, spec, topic="v/#") as reader:
        for topic, value in (("v/a", 1), ("v/b", 10), ("v/a", 2), ("v/b", 20)):
            publish(url, topic, str(value).encode())
        assert gather(reader, 2) == [[1, 2], [10, 20]]


def test_of_too_many_topics_the_one_longest_silent_is_forgotten() -> None:
    reader = reader_of("mqtt://127.0.0.1:1", topic="v/#")
    first = reader._of("v/0")
    for number in range(300):
        reader._of(f"v/{number}")
        assert reader._of("v/0") is first, "it is not silent"
    assert len(reader._series) == 256
    assert "v/1" not in reader._series


def test_what_was_retained_is_passed_over_and_what_comes_then_is_not(
    url: str, publish: Callable[..., None]
) -> None:
    publish(url, "v", b"1", retain=True)
    with reading(url, topic="v") as reader:
        publish(url, "v", b"2", retain=True)
        assert gather(reader, 1) == [[2]]


def test_after_the_brokers_restart_the_stream_goes_on(
    start_broker: StartBroker,
    broker_kind: str,
    free_port: int,
    publish: Callable[..., None],
    eventually: Eventually,
) -> None:
    url = f"mqtt://127.0.0.1:{free_port}"
    live = Live(reader_of(url, topic="v"), name="s", policy="latest", buffer=8, ring=lambda: None)
    try:
        eventually(lambda: live.state().lost > 0)
        assert "no broker: cannot connect" in str(live.state().why)
        broker = start_broker(broker_kind, free_port)
        eventually(lambda: live.state().state == "open")
        broker.kill()
        broker.wait()
        eventually(lambda: live.state().state == "away")
        assert live.state().why is not None
        start_broker(broker_kind, free_port)
        eventually(lambda: live.state().state == "open")
        assert live.state().opened == 2
        publish(url, "v", b"7")
        eventually(lambda: live.due_ns() is not None)
        found = live.poll(0)
        assert found is not None
        assert found.data.tolist() == [[7]]
    finally:
        live.close()


def test_a_message_that_a_broker_should_not_have_sent_costs_the_connection_and_no_more(
    url: str, publish: Callable[..., None]
) -> None:
    reader = reader_of(f"{url}?version=3.1.1", topic="v")
    reader.open()
    publish(url, "v", b"[" + b" " * (5 << 20) + b"1]")
    with pytest.raises(SourceError, match="the broker is gone"):
        gather(reader, 1)
    reader.close()
    reader.open()
    publish(url, "v", b"2")
    assert gather(reader, 1) == [[2]]
    reader.close()


def test_with_every_the_broker_keeps_what_the_loop_has_not_taken(
    url: str, publish: Callable[..., None], eventually: Eventually
) -> None:
    reader, bell = reader_of(url, topic="v", qos=1), threading.Event()
    live = Live(reader, name="s", policy="every", buffer=2, ring=bell.set)
    try:
        eventually(lambda: live.state().state == "open")
        for number in range(200):
            publish(url, "v", str(number).encode())
        eventually(lambda: len(live._captured) == 2)
        assert len(reader._owed) <= 20, "more than that mosquitto does not send unanswered"
        found: list[float] = []
        while len(found) < 200:
            assert bell.wait(30)
            bell.clear()
            while (one := live.poll(0)) is not None:
                found.append(one.data[0, 0])
        assert found == list(range(200))
    finally:
        live.close()


def test_a_broker_that_does_not_let_us_in_is_told(
    tmp_path: Path, start_broker: StartBroker, free_port: int
) -> None:
    (tmp_path / "nobody").touch(mode=0o600)
    start_broker(
        "mosquitto", free_port, "allow_anonymous false", f"password_file {tmp_path}/nobody"
    )
    refused = pytest.raises(
        SourceError, match="v: no broker: the broker refuses us: Not authorized"
    )
    with refused, reading(f"mqtt://127.0.0.1:{free_port}", topic="v"):
        pass


def test_two_readers_of_one_stream_do_not_push_each_other_out(
    url: str, publish: Callable[..., None]
) -> None:
    with reading(url, topic="v") as one, reading(url, topic="v") as two:
        publish(url, "v", b"1")
        assert gather(one, 1) == gather(two, 1) == [[1]]
        assert one._client_id != two._client_id
        assert one._client_id.startswith("hedge-porch-s-")


def test_a_broker_of_its_own_does_not_get_the_uplinks_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEDGE_BROKER_PASSWORD", "of the uplink")
    (tmp_path / "secret").write_text("its own\n")
    uplink = UplinkConfig(broker="mqtt://me@127.0.0.1:1")
    around = Surroundings(base=tmp_path, device="d", uplink=uplink)

    def password(**options: Any) -> str | None:  # noqa: ANN401
        reader = TopicReader(MqttSource(topic="v", **options), VALUE, name="s", around=around)
        with contextlib.closing(_Parted(reader._new_link())) as link:
            return link.link._greeting._password

    other = "mqtt://me@127.0.0.2:1"
    assert password() == "of the uplink"
    assert password(broker=other) is None
    assert password(broker=other, password_file="secret") == "its own"  # noqa: S106 -- a file


@pytest.mark.parametrize(
    ("url", "options", "what"),
    [
        (None, {}, r"source of s: no broker .*\[uplink\]"),
        ("mqtt://127.0.0.1", {"broker": "http://x"}, "not a broker's URL"),
        ("mqtt://127.0.0.1", {"format": "text"}, "the bundle takes tensor"),
        ("mqtt://127.0.0.1", {"broker": "mqtt://x", "ca_file": "missing"}, "need TLS"),
    ],
)
def test_what_can_never_work_is_refused_at_once(
    url: str | None, options: dict[str, Any], what: str
) -> None:
    with pytest.raises(ConfigError, match=what):
        reader_of(url, topic="v", **options)


@pytest.mark.parametrize(
    "options",
    [
        {"broker": "mqtts://x", "ca_file": "missing"},
        {"broker": "mqtt://me@x", "password_file": "missing"},
    ],
)
def test_a_file_that_cannot_be_read_is_told_and_tried_again(options: dict[str, Any]) -> None:
    reader = reader_of(None, topic="v", **options)
    for _ in range(2):
        with pytest.raises(SourceError, match=r"/nowhere/missing: .*cannot be read.* \("):
            reader.open()
        reader.close()


def test_a_good_row_is_not_held_up_by_garbage_on_another_topic(
    url: str, publish: Callable[..., None], eventually: Eventually
) -> None:
    live = Live(
        reader_of(url, topic="u/+"), name="s", policy="latest", buffer=4096, ring=lambda: None
    )
    found: list[Any] = []

    def drain() -> int:
        while live.due_ns() is not None:
            with contextlib.suppress(DataError):
                found.append(live.poll(0))
                continue
            found.append(None)
        return len(found) + live.overrun

    try:
        eventually(lambda: live.state().state == "open")
        for _ in range(3000):
            publish(url, "u/bad", b"garbage")
        publish(url, "u/good", b"7")
        eventually(lambda: drain() == 3001)
        (good,) = [one for one in found if one is not None]
        assert good.data.tolist() == [[7]]
        assert live.overrun > 0
    finally:
        live.close()


@pytest.mark.parametrize(
    "topic",
    [
        "a",
        "a/b",
        "/a",
        "a//b",
        "+/temperature",
        "a/#",
        "+/+/state",
        "$SYS/broker/#",
        "hedge",
        "hedge/2/#",
        "home/1/#",
        "hedge/1",
    ],
)
def test_filters_that_hear_sensors_are_taken(topic: str) -> None:
    assert check_filter(topic) == topic


@pytest.mark.parametrize(
    ("topic", "what"),
    [
        ("a/#/b", "no topic filter"),
        ("a/b#", "no topic filter"),
        ("a+/b", "no topic filter"),
        ("a" * 65_536, "no topic filter"),
        ("$share/group/a", "shares its topic with nobody"),
        ("#", "what devices say"),
        ("+/#", "what devices say"),
        ("+/+/+/+/+", "what devices say"),
        ("+/1/+/+/+/+", "what devices say"),
        ("hedge/#", "what devices say"),
        ("hedge/1/#", "what devices say"),
        ("hedge/1/site/device/outcome/s", "what devices say"),
    ],
)
def test_filters_that_are_none_or_hear_devices_are_refused(topic: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        check_filter(topic)


def test_a_topic_of_others_cannot_break_a_line_of_the_log() -> None:
    series = reader_of("mqtt://127.0.0.1:1", topic="v/#")._of("v/a\nb\x1b[31m")
    with pytest.raises(DataError, match=r"^v/a\?b\?\[31m: no JSON"):
        series.captures(b"oops", 0)
