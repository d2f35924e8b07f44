"""Telemetry: the newest record now and then, made in the loop's thread, at most once."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable

import pytest

from hedge.runtime.telemetry_feed import TelemetryFeed
from hedge.telemetry.ledger import Ledger
from hedge.telemetry.snapshot import Snapshot
from hedge.uplink.link.link import Connected, Received
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.link.scripted import ScriptedBroker, ScriptedLink
from hedge.uplink.publishers.telemetry_topic import TelemetryTopic
from hedge.uplink.pump import Pump
from hedge.uplink.topics import Device

SECOND_NS = 10**9
DEVICE = Device("s", "d")


def record(session: int = 3) -> Snapshot:
    """Return a record; the session tells which."""
    streams = {"cam": Ledger("cam").report()}
    return Snapshot(session=session, uptime_s=1.5, streams=streams, uplink={}, counts={"x": 2})


@pytest.fixture
def link() -> ScriptedLink:
    """Give a link that is connected."""
    made = ScriptedLink(ScriptedBroker())
    made.open()
    assert isinstance(made.poll(1.0)[0], Connected)
    return made


def sessions(link: ScriptedLink) -> list[int]:
    """Return the sessions of what was published, on the one topic there is."""
    assert {topic for topic, _ in link._broker.published} <= {DEVICE.telemetry}
    return [json.loads(payload)["session"] for _, payload in link._broker.published]


def test_a_record_is_made_at_once_and_then_every_so_often() -> None:
    made: list[Snapshot] = []
    feed = TelemetryFeed(made.append, record=record, every_s=10)
    assert feed.feed(5) == 5 + 10 * SECOND_NS
    assert feed.feed(10 * SECOND_NS) == 5 + 10 * SECOND_NS
    assert len(made) == 1
    assert feed.feed(12 * SECOND_NS) == 22 * SECOND_NS
    assert len(made) == 2


def test_while_there_is_no_connection_only_the_newest_is_kept(link: ScriptedLink) -> None:
    wakes: list[None] = []
    topic = TelemetryTopic(DEVICE, wake=lambda: wakes.append(None))
    for session in range(5):
        topic.offer(record(session))
        topic.turn(None, 0)
    topic.turn(link, 0)
    assert sessions(link) == [4]
    assert len(wakes) == 5
    assert topic.counters() == {"telemetry_offered": 5, "telemetry_sent": 1}
    assert link._broker.retained == {}


def test_the_next_is_sent_only_when_the_last_has_been_written(link: ScriptedLink) -> None:
    topic = TelemetryTopic(DEVICE, wake=lambda: None)
    for session in range(3):
        topic.offer(record(session))
        topic.turn(link, 0)
    assert sessions(link) == [0]
    assert not topic.delivered(99, None), "the message of another"
    assert topic.delivered(1, None)
    topic.turn(link, 0)
    assert sessions(link) == [0, 2]
    topic.disconnected()
    topic.offer(record(7))
    topic.turn(link, 0)
    assert sessions(link) == [0, 2, 7]


def test_over_a_real_broker_it_comes_at_qos_0_and_is_not_retained(
    start_broker: Callable[..., object],
    free_port: int,
    device: Device,
    mqtt_link: Callable[..., MqttLink],
    start_pump: Callable[..., tuple[Pump, threading.Event]],
    eventually: Callable[[Callable[[], bool]], None],
) -> None:
    start_broker("mosquitto", free_port)
    link = mqtt_link(f"mqtt://127.0.0.1:{free_port}", "device")
    topic = TelemetryTopic(device, wake=link.wake)
    pump, _ = start_pump(link, publishers=[topic])
    other = mqtt_link(f"mqtt://127.0.0.1:{free_port}", "other")
    other.open()
    heard: list[Received] = []

    def hear() -> bool:
        for event in other.poll(0.02):
            if isinstance(event, Connected):
                other.subscribe((device.telemetry,))
            if isinstance(event, Received) and event.topic == device.telemetry:
                heard.append(event)
        topic.offer(record())
        return len(heard) > 2

    eventually(hear)
    other.close(timeout_s=0)
    assert all(event.token is None and not event.retained for event in heard)
    assert pump.counters()["telemetry_sent"] <= pump.counters()["telemetry_offered"]
    assert json.loads(heard[0].payload)["counts"] == {"x": 2}
