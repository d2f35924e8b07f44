"""Home Assistant's discovery, as its documentation asks for it, over what is really published."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from hedge.models.records import Opinion, Outcome, Route
from hedge.runtime.events.event import Event
from hedge.runtime.sinks.sink import line_of
from hedge.telemetry.ledger import Ledger
from hedge.telemetry.snapshot import Snapshot
from hedge.uplink.link.link import Connected, Received
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.link.scripted import ScriptedBroker, ScriptedLink
from hedge.uplink.publishers.home_assistant import HomeAssistant, discovery
from hedge.uplink.publishers.presence import Presence
from hedge.uplink.pump import Pump
from hedge.uplink.topics import Device

SECOND_NS = 10**9
STREAMS = {"door": ("nobody", "person"), "hall": ("empty", "full")}
PORCH = Device("home", "porch-7")

# From https://www.home-assistant.io/integrations/mqtt/ ("Device discovery payload"), and from
# .../sensor.mqtt/ and .../binary_sensor.mqtt/. Home Assistant refuses a message with a key at
# its root that it does not know.
ROOT = {"dev", "o", "cmps"}
COMMON = {"p", "unique_id", "name", "state_topic", "value_template", "qos"}
KEYS = {
    "sensor": COMMON
    | {"availability", "device_class", "entity_category", "options", "state_class"}
    | {"suggested_display_precision", "unit_of_measurement"},
    "binary_sensor": COMMON
    | {"availability", "device_class", "entity_category", "payload_on", "payload_off"},
}


@pytest.fixture
def told() -> dict[str, Any]:
    """Give a device's message as Home Assistant reads it."""
    message = discovery(PORCH, streams=STREAMS, version="1.2", telemetry=True)
    read: dict[str, Any] = json.loads(msgspec.json.encode(message))
    return read


def rendered(template: str, payload: bytes, *, state: str = "unknown") -> str:
    """Return what Home Assistant makes of a message, whose sensor has that state."""
    jinja2 = pytest.importorskip("jinja2", reason="jinja2 is what Home Assistant renders with")
    sandbox = pytest.importorskip("jinja2.sandbox")
    environment = sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    text: str = environment.from_string(template).render(
        value_json=json.loads(payload), this={"state": state}
    )
    return text


def outcome(
    label: int | None = 1, *, final: bool = True, route: Route = "edge", sure: bool = True
) -> bytes:
    """Return an outcome as it is published."""
    probs = np.array([0.125, 0.875], np.float32)
    opinion = Opinion(probs, 0.375, "vacuity", vacuity=0.375)
    one = Outcome("door", "3-1", route, label, probs, opinion, final)
    if not sure:
        one = Outcome("door", "3-1", route, None, None, None, final)
    return msgspec.json.encode(line_of(one, STREAMS["door"], at_s=5.0))


def telemetry(*, read: int = 50, dropped: int = 10, escalated: int = 9) -> bytes:
    """Return a telemetry record as it is published."""
    ledger = Ledger("door")
    ledger.read = read
    ledger.routes |= {"dropped": dropped, "escalated": escalated}
    record = Snapshot(
        session=3, uptime_s=60.0, streams={"door": ledger.report()}, uplink={}, counts={}
    )
    return msgspec.json.encode(record)


def test_the_message_has_the_keys_that_are_required_and_none_that_is_unknown(
    told: dict[str, Any],
) -> None:
    assert set(told) == ROOT
    assert told["o"] == {"name": "hedge", "sw": "1.2"}, "an origin needs its name"
    assert told["dev"]["ids"] == ["hedge/home/porch-7"]
    assert told["dev"]["name"] == "home porch-7"
    for component in told["cmps"].values():
        assert {"p", "unique_id", "state_topic"} <= set(component) <= KEYS[component["p"]]


def test_each_stream_has_its_label_confidence_uncertainty_and_share(told: dict[str, Any]) -> None:
    assert set(told["cmps"]) == {"connection"} | {
        f"{stream}_{what}"
        for stream in STREAMS
        for what in ("label", "confidence", "doubt", "share")
    }
    label = told["cmps"]["hall_label"]
    assert label["device_class"] == "enum"
    assert label["options"] == ["empty", "full"]
    assert not {"unit_of_measurement", "state_class"} & set(label), "an enum has neither"
    diagnostic = {key for key, one in told["cmps"].items() if "entity_category" in one}
    assert diagnostic == {"connection", "door_share", "hall_share"}


def test_without_telemetry_nothing_is_told_that_would_never_have_a_state() -> None:
    message = discovery(PORCH, streams=STREAMS, version="1", telemetry=False)
    topics = {component["state_topic"] for component in message["cmps"].values()}
    assert topics == {PORCH.status, PORCH.outcome("door"), PORCH.outcome("hall")}


def test_every_sensor_listens_where_the_device_really_publishes(told: dict[str, Any]) -> None:
    topics = {one["state_topic"] for one in told["cmps"].values()}
    assert topics == {PORCH.status, PORCH.telemetry, PORCH.outcome("door"), PORCH.outcome("hall")}


def test_all_but_the_connection_itself_go_unavailable_with_the_device(told: dict[str, Any]) -> None:
    presence = Presence(PORCH, session=3)
    for key, component in told["cmps"].items():
        if key == "connection":
            assert "availability" not in component
            continue
        (availability,) = component["availability"]
        assert availability["topic"] == presence.topic
        template = availability["value_template"]
        assert rendered(template, presence._status("online")) == "online"
        assert rendered(template, presence.will.payload) == "offline"


def test_the_connection_follows_birth_and_will(told: dict[str, Any]) -> None:
    connection, presence = told["cmps"]["connection"], Presence(PORCH, session=3)
    template = connection["value_template"]
    assert rendered(template, presence._status("online")) == connection["payload_on"]
    assert rendered(template, presence.will.payload) == connection["payload_off"]


def test_the_label_is_that_of_the_last_final_and_always_one_of_the_options(
    told: dict[str, Any],
) -> None:
    template = told["cmps"]["door_label"]["value_template"]
    assert rendered(template, outcome()) == "person"
    assert rendered(template, outcome(route="cloud"), state="nobody") == "person"
    for keeps in (outcome(final=False), outcome(route="dropped", sure=False)):
        assert rendered(template, keeps, state="nobody") == "nobody"
        for nothing in ("unknown", "unavailable"):
            assert rendered(template, keeps, state=nothing) == "None", "which is: unknown"
    assert rendered(template, outcome(route="failed", sure=False), state="nobody") == "None"


def test_confidence_and_uncertainty_are_numbers_or_nothing(told: dict[str, Any]) -> None:
    confidence = told["cmps"]["door_confidence"]["value_template"]
    doubt = told["cmps"]["door_doubt"]["value_template"]
    assert rendered(confidence, outcome()) == "87.5"
    assert rendered(doubt, outcome()) == "0.375"
    for template in (confidence, doubt):
        assert rendered(template, outcome(final=False)) == ""
        assert rendered(template, outcome(route="dropped", sure=False)) == ""


def test_the_share_is_of_what_passed_the_filter(told: dict[str, Any]) -> None:
    template = told["cmps"]["door_share"]["value_template"]
    assert rendered(template, telemetry()) == "22.5"
    assert rendered(template, telemetry(read=0, dropped=0, escalated=0)) == ""


def event(state: Literal["opened", "closed", "clip"], *, rule: str = "visit") -> bytes:
    """Return an event as it is published."""
    return msgspec.json.encode(
        Event(event=rule, stream="door", id="3-e1", state=state, label="person", opened_at_s=5.5)
    )


def test_each_rule_of_a_stream_is_on_while_an_event_of_it_is_open() -> None:
    rules = {"door": ("visit", "label"), "hall": ()}
    message = discovery(PORCH, streams=STREAMS, events=rules, version="1", telemetry=True)
    added = set(message["cmps"]) - set(
        discovery(PORCH, streams=STREAMS, version="1", telemetry=True)["cmps"]
    )
    assert added == {"door_EVENT_visit", "door_EVENT_label"}
    visit = message["cmps"]["door_EVENT_visit"]
    assert set(visit) <= KEYS["binary_sensor"]
    assert visit["state_topic"] == PORCH.event("door")
    assert visit["availability"][0]["topic"] == PORCH.status
    template = visit["value_template"]
    assert rendered(template, event("opened")) == visit["payload_on"]
    assert rendered(template, event("closed")) == visit["payload_off"]
    for nothing_new in (event("clip"), event("opened", rule="label")):
        assert rendered(template, nothing_new) == "", "which Home Assistant passes over"


def test_no_rule_takes_the_place_of_a_sensor() -> None:
    streams = {"a": ("x", "y"), "a_event": ("x", "y")}
    rules = dict.fromkeys(streams, ("label", "event_label", "share"))
    message = discovery(PORCH, streams=streams, events=rules, version="1", telemetry=True)
    assert len(message["cmps"]) == 1 + 2 * (4 + 3)


NAMES = st.text("a1_-", min_size=1, max_size=6)


@given(st.lists(st.tuples(NAMES, NAMES, NAMES), min_size=2, max_size=6, unique=True))
def test_no_two_sensors_of_any_devices_share_an_id(places: list[tuple[str, str, str]]) -> None:
    seen: dict[str, str] = {}
    for site, name, stream in places:
        message = discovery(
            Device(site, name), streams={stream: ("a",)}, version="1", telemetry=True
        )
        for component in message["cmps"].values():
            what = f"{site}/{name}/{component['state_topic']}/{component['value_template']}"
            assert seen.setdefault(component["unique_id"], what) == what


def test_the_ids_are_made_of_names_alone_and_so_stay_the_same(told: dict[str, Any]) -> None:
    for key, component in told["cmps"].items():
        assert component["unique_id"] == f"hedge/home/porch-7/{key}"
        assert re.fullmatch("[a-zA-Z0-9_-]+", key)


def connected(publisher: HomeAssistant) -> tuple[ScriptedBroker, ScriptedLink]:
    """Return a broker and a link to it on which the publisher has begun."""
    broker = ScriptedBroker()
    link = ScriptedLink(broker)
    link.open()
    link.poll(0.1)
    publisher.connected(link)
    publisher.turn(link, 0)
    return broker, link


def home(**options: Any) -> HomeAssistant:  # noqa: ANN401 -- what the constructor takes
    """Return the publisher of the device."""
    return HomeAssistant(PORCH, streams=STREAMS, version="1", **options)


TOPIC = "homeassistant/device/home/porch-7/config"


def test_the_topic_is_one_that_home_assistant_reads() -> None:
    name = "[a-zA-Z0-9_-]+"  # from its documentation: prefix, component, node id, object id
    assert re.fullmatch(f"homeassistant/device/{name}/{name}/config", TOPIC)


def test_one_retained_message_tells_of_the_whole_device(told: dict[str, Any]) -> None:
    broker, _ = connected(HomeAssistant(PORCH, streams=STREAMS, version="1.2"))
    assert list(broker.retained) == [TOPIC]
    assert json.loads(broker.retained[TOPIC]) == told
    assert len(broker.published) == 1


def test_it_comes_again_when_home_assistant_has_started_but_not_in_a_flood() -> None:
    publisher = home(prefix="ha")
    broker, link = connected(publisher)
    assert publisher.filters == ("ha/status",)
    assert publisher.next_ns() is None
    for _ in range(9):
        assert publisher.received(Received("ha/status", b"online"))
        publisher.turn(link, SECOND_NS)
    next_ns = publisher.next_ns()
    assert (len(broker.published), next_ns) == (1, 5 * SECOND_NS)
    publisher.turn(link, next_ns or 0)
    assert len(broker.published) == 2
    assert publisher.received(Received("ha/status", b"offline"))
    assert publisher.received(Received("ha/status", b"online", retained=True)), "said on connecting"
    assert not publisher.received(Received(PORCH.answer, b"online"))
    assert publisher.next_ns() is None
    assert publisher.counters() == {"discoveries": 2}


def test_every_connection_gets_it_and_no_connection_makes_it_due() -> None:
    publisher = home()
    broker, link = connected(publisher)
    publisher.connected(link)
    publisher.disconnected()
    publisher.turn(None, 99 * SECOND_NS)
    assert publisher.next_ns() is None, "though it is owed"
    publisher.connected(link)
    publisher.turn(link, 99 * SECOND_NS)
    assert len(broker.published) == 2


def test_what_a_reload_brings_is_told_and_what_it_takes_away_is_removed() -> None:
    publisher = home(events={"door": ("visitor",)})
    broker, link = connected(publisher)
    before = json.loads(broker.retained[TOPIC])["cmps"]
    publisher.renew(streams={"hall": ("empty", "crowd")}, events={"hall": ("rush",)})
    publisher.turn(link, 5 * SECOND_NS)
    told = json.loads(broker.retained[TOPIC])["cmps"]
    assert told["hall_label"]["options"] == ["empty", "crowd"]
    assert told["hall_EVENT_rush"]["p"] == "binary_sensor"
    assert told["door_label"] == {"p": "sensor"}, "which is how one is removed"
    assert told["door_EVENT_visitor"] == {"p": "binary_sensor"}
    assert told.keys() == before.keys() | {"hall_EVENT_rush"}
    publisher.renew(streams={"hall": ("empty", "crowd")}, events={"hall": ("rush",)})
    publisher.turn(link, 99 * SECOND_NS)
    assert len(broker.published) == 2, "nothing new is not said again"


def test_a_device_that_is_not_wanted_is_removed() -> None:
    broker, _ = connected(home(wanted=False))
    assert broker.retained == {TOPIC: b""}


class Listener:
    """What a client that has just connected hears of some topics."""

    def __init__(self, link: MqttLink, topics: str) -> None:
        self.link = link
        self.heard: list[Received] = []
        self._topics = topics
        link.open()

    def hears(self, count: int) -> bool:
        """Listen a moment, and return whether so many messages have come."""
        for event in self.link.poll(0.02):
            if isinstance(event, Connected):
                self.link.subscribe((self._topics,))
            if isinstance(event, Received):
                if event.token is not None:
                    self.link.ack(event.token)
                if topic_matches_sub(self._topics, event.topic):
                    self.heard.append(event)
        return len(self.heard) >= count


def test_over_a_real_broker_the_message_is_retained_and_comes_again_on_a_start(
    broker_url: str,
    device: Device,
    mqtt_link: Callable[..., MqttLink],
    start_pump: Callable[..., tuple[Pump, threading.Event]],
    eventually: Callable[[Callable[[], bool]], None],
) -> None:
    prefix = f"ha-{device.name}"
    publisher = HomeAssistant(device, streams=STREAMS, version="1", prefix=prefix, pause_s=0.0)
    pump, _ = start_pump(mqtt_link(broker_url, f"d-{device.name}"), publishers=[publisher])
    first = Listener(mqtt_link(broker_url, f"first-{device.name}"), f"{prefix}/device/+/+/config")
    eventually(lambda: first.hears(1))
    second = Listener(mqtt_link(broker_url, f"second-{device.name}"), f"{prefix}/device/+/+/config")
    eventually(lambda: second.hears(1))
    assert second.heard[0].retained
    assert second.heard[0].topic == f"{prefix}/device/tests/{device.name}/config"
    assert set(json.loads(second.heard[0].payload)) == ROOT
    first.link.send(f"{prefix}/status", b"online")
    eventually(lambda: pump.counters()["discoveries"] == 2)
    eventually(lambda: first.hears(2))
    assert {event.payload for event in first.heard} == {second.heard[0].payload}
    for one in (first, second):
        one.link.close(timeout_s=0)
