"""Outcomes for others: at least once with their ids, in order, and no faster than allowed."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hedge.models.dataset import load_dataset
from hedge.models.records import Opinion, Outcome, Route
from hedge.runtime.events.event import Event as Told
from hedge.runtime.shipped import bundle_path
from hedge.runtime.sinks.mqtt import MqttSink
from hedge.uplink.link.backoff import Backoff
from hedge.uplink.link.link import (
    Connected,
    Disconnected,
    Event,
    Properties,
    Qos,
    Received,
    Subscribed,
)
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.link.scripted import ScriptedBroker, ScriptedLink
from hedge.uplink.publishers.outcomes import OutcomePublisher
from hedge.uplink.publishers.spool import Spool
from hedge.uplink.pump import Pump
from hedge.uplink.topics import Device

MakeLink = Callable[..., MqttLink]
StartPump = Callable[..., tuple[Pump, threading.Event]]
PATIENCE_S = 30.0
LABELS = {"door": ("nobody", "person"), "hall": ("empty", "full")}
SECOND_NS = 10**9


class Line(ScriptedLink):
    """A link that is connected, and acknowledges when it is told to; ``sent`` records all."""

    def __init__(self) -> None:
        super().__init__(ScriptedBroker())
        self.sent: list[tuple[str, dict[str, Any], Qos]] = []
        self.up = True

    def send(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: Qos = 1,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> int | None:
        assert not retain
        assert properties is None
        if not self.up:
            return None
        self.sent.append((topic, json.loads(payload), qos))
        return len(self.sent)

    def ids(self, begin: int = 0) -> list[str]:
        """Return the ids of what was sent since."""
        return [said["id"] for _, said, _ in self.sent[begin:]]


class Wakes:
    """Counts the calls."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> None:
        self.count += 1


def outcome(
    number: int,
    *,
    stream: str = "door",
    final: bool = True,
    route: Route = "edge",
    degraded: str | None = None,
) -> Outcome:
    """Return the outcome of one sample."""
    probs = np.array([0.25, 0.75], np.float32)
    opinion = Opinion(probs, 0.5, "vacuity", vacuity=0.5)
    return Outcome(stream, f"3-{number}", route, 1, probs, opinion, final, degraded)


def published(
    device: Device,
    *,
    folder: Path | None = None,
    **options: Any,  # noqa: ANN401 -- what the constructors take
) -> tuple[MqttSink, OutcomePublisher, Spool]:
    """Return a sink, its publisher, and that one's spool."""
    which = options.pop("which", "all")
    spool = Spool(folder, min_free_bytes=0, clock=lambda: 0)
    publisher = OutcomePublisher(device, spool=spool, wake=options.pop("wake", Wakes()), **options)
    return MqttSink(publisher, labels=LABELS, which=which, wall=lambda: 5.0), publisher, spool


def acknowledge(publisher: OutcomePublisher, mids: Sequence[int]) -> None:
    """Let the broker answer for messages."""
    assert [publisher.delivered(mid, None) for mid in mids] == [True] * len(mids)


def counts(publisher: OutcomePublisher, *names: str) -> list[int]:
    """Return some of the publisher's counters."""
    return [publisher.counters()[f"outcomes_{name}"] for name in names]


def test_a_final_goes_out_on_its_streams_topic_with_its_id_and_label(device: Device) -> None:
    sink, publisher, _ = published(device)
    line = Line()
    sink.emit(outcome(0))
    sink.emit(outcome(1, stream="hall", route="cloud"))
    publisher.turn(line, 0)
    (topic, said, qos), (other_topic, other, _) = line.sent
    assert (topic, qos) == (f"hedge/1/tests/{device.name}/outcome/door", 1)
    assert said == {
        "stream": "door",
        "id": "3-0",
        "final": True,
        "route": "edge",
        "label": "person",
        "latency_ms": 0.0,
        "probs": [0.25, 0.75],
        "score": 0.5,
        "score_name": "vacuity",
        "at_s": 5.0,
    }
    assert other_topic == device.outcome("hall")
    assert (other["label"], other["route"]) == ("full", "cloud")


def test_a_final_goes_out_again_on_the_next_connection_until_it_is_acknowledged(
    device: Device,
) -> None:
    sink, publisher, spool = published(device)
    line = Line()
    for number in range(4):
        sink.emit(outcome(number))
    publisher.turn(line, 0)
    acknowledge(publisher, [2, 3])
    publisher.disconnected()
    publisher.turn(None, 0)
    sink.emit(outcome(4))
    publisher.connected(line)
    publisher.turn(line, 0)
    assert line.ids(4) == ["3-0", "3-3", "3-4"]
    acknowledge(publisher, [5, 6, 7])
    assert len(spool) == 0
    assert not publisher.delivered(5, None), "an acknowledgement counts once"
    assert counts(publisher, "offered", "sent", "resent", "delivered") == [5, 5, 2, 5]


def test_a_mid_of_another_connection_acknowledges_nothing(device: Device) -> None:
    sink, publisher, spool = published(device)
    sink.emit(outcome(0))
    publisher.turn(Line(), 0)
    publisher.disconnected()
    assert not publisher.delivered(1, None)
    assert len(spool) == 1


def test_a_refused_final_is_counted_and_not_sent_again(device: Device) -> None:
    sink, publisher, spool = published(device)
    sink.emit(outcome(0))
    publisher.turn(Line(), 0)
    assert publisher.delivered(1, "Not authorized")
    assert counts(publisher, "delivered", "undelivered") == [0, 1]
    assert len(spool) == 0


def test_a_killed_device_sends_its_unacknowledged_finals_after_the_restart(
    device: Device, tmp_path: Path
) -> None:
    sink, publisher, spool = published(device, folder=tmp_path / "spool")
    line = Line()
    for number in range(3):
        sink.emit(outcome(number))
    publisher.turn(line, 0)
    acknowledge(publisher, [1])
    for now_s in (1, 2):
        publisher.turn(line, now_s * SECOND_NS)  # then all is on disk
    spool._unlock()  # nothing else happens in a kill
    _, again, _ = published(device, folder=tmp_path / "spool")
    again.turn(line, 0)
    assert line.ids(3) == ["3-1", "3-2"]
    assert counts(again, "recovered") == [2]


@pytest.mark.parametrize(
    ("one", "on_disk"),
    [
        (outcome(0, route="cloud"), True),
        (outcome(0, route="fused"), True),
        (outcome(0, degraded="deadline"), True),
        (outcome(0), False),
        (outcome(0, route="dropped"), False),
    ],
)
def test_the_final_of_an_escalated_sample_is_on_disk_when_the_turn_is_over(
    device: Device, tmp_path: Path, one: Outcome, *, on_disk: bool
) -> None:
    sink, publisher, spool = published(device, folder=tmp_path / "spool")
    sink.emit(one)
    publisher.turn(None, 0)
    assert (spool.counters()["commits"] > 0) == on_disk
    publisher.turn(None, SECOND_NS // 50)
    next_ns = publisher.next_ns()
    if not on_disk:
        assert next_ns == SECOND_NS // 20, "the others wait for the broker's word a moment first"
        publisher.turn(None, next_ns)
        assert spool.counters()["commits"] == 1


def test_a_first_outcome_and_a_late_answer_are_sent_at_most_once(device: Device) -> None:
    sink, publisher, spool = published(device)
    line = Line()
    sink.emit(outcome(0, final=False))
    sink.emit(outcome(1, final=False, route="cloud"))  # late
    publisher.turn(line, 0)
    assert [(said["id"], qos) for _, said, qos in line.sent] == [("3-0", 0), ("3-1", 0)]
    publisher.disconnected()
    publisher.turn(line, 0)
    assert len(line.sent) == 2
    assert len(spool) == 0
    sink.emit(outcome(2, final=False))
    publisher.turn(None, 0)
    publisher.turn(line, 0)
    assert len(line.sent) == 2, "one of no connection is of no use later"
    assert counts(publisher, "offered", "firsts", "unsent") == [3, 2, 1]


def test_a_first_outcome_precedes_its_final_and_never_follows_it(device: Device) -> None:
    sink, publisher, _ = published(device)
    line = Line()
    for number in range(3):
        sink.emit(outcome(number, final=False))
        sink.emit(outcome(number, route="cloud"))
    publisher.turn(line, 0)
    ways = [(said["id"], said["final"]) for _, said, _ in line.sent]
    for number in range(3):
        assert ways.index((f"3-{number}", False)) < ways.index((f"3-{number}", True))


def test_a_sink_of_finals_says_nothing_of_first_outcomes(device: Device) -> None:
    sink, publisher, _ = published(device, which="finals")
    line = Line()
    sink.emit(outcome(0, final=False))
    sink.emit(outcome(1))
    publisher.turn(line, 0)
    assert line.ids() == ["3-1"]
    assert counts(publisher, "offered") == [1]


def test_only_so_much_is_under_way_and_finals_come_through_a_flood_of_first_ones(
    device: Device,
) -> None:
    sink, publisher, _ = published(device)
    line = Line()
    for number in range(50):
        sink.emit(outcome(number, final=False))
        sink.emit(outcome(number))
    publisher.turn(line, 0)
    assert len(line.sent) == 10
    assert sum(said["final"] for _, said, _ in line.sent) == 6
    publisher.turn(line, 0)
    assert len(line.sent) == 10
    acknowledge(publisher, range(1, 11))
    publisher.turn(line, 0)
    assert len(line.sent) == 20


def test_large_outcomes_share_the_window_by_their_bytes(device: Device) -> None:
    labels = {"door": tuple(f"label {number}" for number in range(2000))}
    _, publisher, _ = published(device)
    sink = MqttSink(publisher, labels=labels)
    line = Line()
    probs = np.random.default_rng(1).dirichlet(np.ones(2000)).astype(np.float32)
    for number in range(5):
        sink.emit(Outcome("door", f"3-{number}", "edge", 7, probs, None, True))
    publisher.turn(line, 0)
    assert len(line.sent) == 2
    acknowledge(publisher, [1])
    publisher.turn(line, 0)
    assert len(line.sent) == 3


def test_what_no_broker_would_take_is_counted_and_harms_nothing(device: Device) -> None:
    _, publisher, spool = published(device)
    assert publisher.offer("door", bytes(200_000), final=True, escalated=True)
    publisher.turn(Line(), 0)
    assert counts(publisher, "oversized", "offered") == [1, 0]
    assert len(spool) == 0


def test_a_full_queue_is_told_to_the_loop_and_counted(device: Device) -> None:
    wakes = Wakes()
    sink, publisher, _ = published(device, queue=3, wake=wakes)
    for number in range(3):
        sink.emit(outcome(number))
    with pytest.raises(OSError, match="queue of outcomes"):
        sink.emit(outcome(3))
    publisher.turn(None, 0)
    sink.emit(outcome(4))
    assert counts(publisher, "offered", "queue_full") == [4, 1]


def test_a_steady_flow_of_outcomes_does_not_wake_the_thread_for_each(device: Device) -> None:
    wakes = Wakes()
    sink, publisher, _ = published(device, wake=wakes)
    for number in range(3):
        sink.emit(outcome(number))
    assert wakes.count == 1
    again_ns = 0
    for number in range(3, 9):
        publisher.turn(None, again_ns)
        publisher.turn(None, again_ns + 1)  # as acknowledgements come
        next_ns = publisher.next_ns()
        assert next_ns == again_ns + SECOND_NS // 200, "it looks again by itself"
        again_ns = next_ns
        sink.emit(outcome(number))
    assert wakes.count == 1
    publisher.turn(None, again_ns)
    publisher.turn(None, again_ns + SECOND_NS // 200)
    assert publisher.next_ns() is None
    sink.emit(outcome(9))
    assert wakes.count == 2, "after a pause it has to be woken"


def test_at_qos_0_a_final_is_done_once_it_is_written(device: Device) -> None:
    sink, publisher, spool = published(device, qos=0)
    line = Line()
    sink.emit(outcome(0))
    publisher.turn(line, 0)
    assert [qos for _, _, qos in line.sent] == [0]
    acknowledge(publisher, [1])
    assert len(spool) == 0


def test_nothing_is_lost_where_the_link_turns_out_to_be_down(device: Device) -> None:
    sink, publisher, spool = published(device)
    line = Line()
    line.up = False
    sink.emit(outcome(0))
    sink.emit(outcome(1, final=False))
    publisher.turn(line, 0)
    assert len(spool) == 1
    assert counts(publisher, "sent", "unsent") == [0, 1]
    line.up = True
    publisher.turn(line, 0)
    assert line.ids() == ["3-0"]


def test_beyond_its_rate_a_stream_publishes_the_newest_and_counts_the_rest(device: Device) -> None:
    sink, publisher, _ = published(device, max_rate_hz=2.0)
    line = Line()
    for number in range(5):
        sink.emit(outcome(number))
    sink.emit(outcome(9, stream="hall"))  # has a rate of its own
    publisher.turn(line, 0)
    assert sorted(line.ids()) == ["3-0", "3-9"]
    publisher.turn(line, SECOND_NS // 4)
    assert publisher.next_ns() == SECOND_NS // 2
    publisher.turn(line, SECOND_NS // 2 - 1)
    assert len(line.sent) == 2
    publisher.turn(line, SECOND_NS // 2)
    assert line.ids(2) == ["3-4"]
    assert counts(publisher, "offered", "sent", "thinned") == [6, 3, 3]
    assert publisher.next_ns() is None


def test_finals_of_escalated_samples_are_never_left_out(device: Device) -> None:
    sink, publisher, _ = published(device, max_rate_hz=1.0)
    line = Line()
    for number in range(4):
        sink.emit(outcome(number, final=False))
        sink.emit(outcome(number, route="cloud"))
    sink.emit(outcome(8))
    publisher.turn(line, 0)
    finals = [said["id"] for _, said, _ in line.sent if said["final"]]
    assert finals == ["3-0", "3-1", "3-2", "3-3"]
    firsts = [said["id"] for _, said, _ in line.sent if not said["final"]]
    assert firsts == ["3-0"], "the others gave way to their own finals"
    assert counts(publisher, "thinned") == [3]
    publisher.turn(line, SECOND_NS)
    assert line.ids(5) == ["3-8"]


@given(
    offers=st.lists(
        st.tuples(st.integers(0, 40), st.booleans(), st.booleans(), st.sampled_from(["a", "b"])),
        max_size=60,
    ),
    rate_hz=st.sampled_from([None, 0.05, 0.2, 1.0]),
)
def test_every_outcome_that_was_offered_is_sent_or_counted_as_left_out(
    offers: list[tuple[int, bool, bool, str]], rate_hz: float | None
) -> None:
    device = Device("s", "d")
    sink, publisher, _ = published(device, max_rate_hz=rate_hz)
    sink = MqttSink(publisher, labels={"a": ("x", "y"), "b": ("x", "y")}, which="all")
    line = Line()
    now_ns, acknowledged = 0, 0
    for number, (wait_s, final, escalated, stream) in enumerate(offers):
        now_ns += wait_s * SECOND_NS
        route: Route = "cloud" if escalated else "edge"
        sink.emit(outcome(number, stream=stream, final=final, route=route))
        publisher.turn(line, now_ns)
        acknowledge(publisher, range(acknowledged + 1, len(line.sent) + 1))
        acknowledged = len(line.sent)
    publisher.turn(line, now_ns + 100 * SECOND_NS)
    offered, firsts, sent, thinned, unsent = counts(
        publisher, "offered", "firsts", "sent", "thinned", "unsent"
    )
    assert (offered, unsent) == (len(offers), 0)
    assert firsts + sent == len(line.sent) == offered - thinned
    assert rate_hz is not None or thinned == 0
    kept = {f"3-{number}" for number, (_, final, asked, _) in enumerate(offers) if final and asked}
    assert kept <= set(line.ids())


def event(number: int, *, stream: str = "door", closed: bool = False) -> Told:
    """Return an event that has opened, or closed."""
    opened = Told(
        event="visit",
        stream=stream,
        id=f"3-e{number}",
        state="opened",
        label="person",
        opened_at_s=5.5,
    )
    if not closed:
        return opened
    return msgspec.structs.replace(opened, state="closed", closed_at_s=9.0, why="quiet")


def test_an_event_goes_out_on_a_topic_of_its_own_at_least_once(device: Device) -> None:
    sink, publisher, spool = published(device, which="finals")
    line = Line()
    sink.tell(event(1))
    sink.tell(event(2, stream="hall", closed=True))
    publisher.turn(line, 0)
    assert [(topic, qos) for topic, _, qos in line.sent] == [
        (f"hedge/1/tests/{device.name}/event/door", 1),
        (device.event("hall"), 1),
    ]
    assert line.sent[0][1] == {
        "event": "visit",
        "stream": "door",
        "id": "3-e1",
        "state": "opened",
        "label": "person",
        "opened_at_s": 5.5,
    }
    publisher.disconnected()
    publisher.turn(line, 0)
    assert line.ids(2) == ["3-e1", "3-e2"], "until it is acknowledged"
    acknowledge(publisher, [3, 4])
    assert len(spool) == 0


def test_a_sink_without_events_publishes_none(device: Device) -> None:
    _, publisher, _ = published(device)
    line = Line()
    sink = MqttSink(publisher, labels=LABELS, events=False)
    sink.tell(event(1))
    publisher.turn(line, 0)
    assert line.sent == []


def test_an_event_is_on_disk_when_the_turn_is_over_and_told_after_a_restart(
    device: Device, tmp_path: Path
) -> None:
    sink, publisher, spool = published(device, folder=tmp_path / "spool")
    sink.tell(event(1))
    publisher.turn(None, 0)
    assert spool.counters()["commits"] == 1
    spool._unlock()  # nothing else happens in a kill
    _, again, _ = published(device, folder=tmp_path / "spool")
    line = Line()
    again.turn(line, 0)
    assert [(topic, said["id"]) for topic, said, _ in line.sent] == [(device.event("door"), "3-e1")]


def test_events_are_never_left_out_and_leave_no_outcome_out(device: Device) -> None:
    sink, publisher, _ = published(device, max_rate_hz=1.0)
    line = Line()
    sink.emit(outcome(0))
    sink.emit(outcome(1))  # is held until its time has come
    for number in range(3):
        sink.tell(event(number))
    publisher.turn(line, 0)
    assert sorted(line.ids()) == ["3-0", "3-e0", "3-e1", "3-e2"]
    publisher.turn(line, SECOND_NS)
    assert line.ids(4) == ["3-1"]
    assert counts(publisher, "thinned") == [0]


def test_a_full_queue_refuses_events_too(device: Device) -> None:
    sink, publisher, _ = published(device, queue=1)
    sink.tell(event(0))
    with pytest.raises(OSError, match="queue of outcomes"):
        sink.tell(event(1))
    assert counts(publisher, "queue_full") == [1]


def test_on_closing_what_was_offered_is_kept(device: Device, tmp_path: Path) -> None:
    sink, publisher, _ = published(device, folder=tmp_path / "spool", max_rate_hz=0.001)
    for number in range(3):
        sink.emit(outcome(number))
    publisher.close()
    sink.close()
    _, again, _ = published(device, folder=tmp_path / "spool")
    line = Line()
    again.turn(line, 0)
    assert line.ids() == ["3-0", "3-2"]


class Reader:
    """Another's client: it reads the outcomes of a device, and acknowledges each."""

    def __init__(self, link: MqttLink, device: Device) -> None:
        self.link = link
        self.subscribed = False
        self.read: list[dict[str, Any]] = []
        self._topic = f"{device.outcome('any').removesuffix('any')}+"
        link.open()
        self.until(lambda: self.subscribed)

    def until(self, enough: Callable[[], bool]) -> None:
        """Read until it is enough."""
        until_s = time.monotonic() + PATIENCE_S
        while not enough():
            assert time.monotonic() < until_s, self.ids()
            for event in self.link.poll(0.05):
                self._handle(event)

    def ids(self) -> list[str]:
        """Return the ids of what was read, in order, each once."""
        return list(dict.fromkeys(one["id"] for one in self.read))

    def _handle(self, event: Event) -> None:
        match event:
            case Connected():
                self.link.subscribe((self._topic,))
            case Disconnected():
                self.subscribed = False
            case Subscribed(refused=refused):
                self.subscribed = not refused
            case Received(payload=payload, retained=False, token=token):
                self.read.append(json.loads(payload))
                if token is not None:
                    self.link.ack(token)


@pytest.fixture
def reader(device: Device, mqtt_link: MakeLink) -> Iterator[Callable[..., Reader]]:
    """Give `reader(url, …)`, which has subscribed to the outcomes of a device."""
    with contextlib.ExitStack() as stack:

        def make(url: str, of: Device = device) -> Reader:
            found = Reader(mqtt_link(url, f"reader-{device.name}"), of)
            stack.callback(found.link.close, timeout_s=0)
            return found

        yield make


def test_over_every_broker_all_finals_arrive_in_order(
    device: Device,
    broker_url: str,
    mqtt_link: MakeLink,
    start_pump: StartPump,
    reader: Callable[..., Reader],
    tmp_path: Path,
) -> None:
    other = reader(broker_url)
    link = mqtt_link(broker_url, f"device-{device.name}")
    sink, publisher, spool = published(device, folder=tmp_path / "spool", wake=link.wake)
    start_pump(link, publishers=[publisher])
    for number in range(200):
        sink.emit(outcome(number, route="cloud" if number % 3 else "edge"))
    other.until(lambda: len(other.ids()) == 200)
    assert other.ids() == [f"3-{number}" for number in range(200)]
    other.until(lambda: len(spool) == 0)
    assert counts(publisher, "delivered", "queue_full") == [200, 0]


class Wire:
    """A way to a broker that can be cut: what is under way then is lost, in both directions."""

    def __init__(self, port: int) -> None:
        self._broker = ("127.0.0.1", port)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._ends: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Cut all connections."""
        while self._ends:
            with contextlib.suppress(OSError):
                self._ends.pop().shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Cut for ever."""
        with contextlib.suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(self._broker)
                self._ends += [near, far]
                for one, other in ((near, far), (far, near)):
                    threading.Thread(target=_carry, args=(one, other), daemon=True).start()


def _carry(one: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError), one, other:
        while data := one.recv(512):
            other.sendall(data)
        other.shutdown(socket.SHUT_RDWR)


def test_what_a_lost_connection_has_swallowed_comes_over_the_next_one(
    device: Device,
    start_broker: Callable[..., object],
    free_port: int,
    mqtt_link: MakeLink,
    start_pump: StartPump,
    reader: Callable[..., Reader],
) -> None:
    start_broker("mosquitto", free_port)
    other = reader(f"mqtt://127.0.0.1:{free_port}")
    with contextlib.closing(Wire(free_port)) as wire:
        url = f"mqtt://127.0.0.1:{wire.port}"
        link = mqtt_link(url, "device", backoff=Backoff(first_s=0.01, cap_s=0.05))
        sink, publisher, spool = published(device, wake=link.wake)
        pump, _ = start_pump(link, publishers=[publisher])
        for number in range(300):
            sink.emit(outcome(number))
            if number % 50 == 25:
                other.until(lambda least=number - 20: len(other.ids()) >= least)  # type: ignore[misc]
                wire.cut()
        other.until(lambda: counts(publisher, "delivered") == [300])
        assert pump.counters()["disconnects"] >= 5
    other.until(lambda: len(other.ids()) == 300)
    assert len(spool) == 0
    again = [int(one["id"][2:]) for one in other.read]
    assert set(again) == set(range(300))
    assert other.ids() == [f"3-{number}" for number in range(300)], "each first comes in order"


_DEVICE = """
import sys, time
from pathlib import Path
from hedge.uplink.link.broker_url import Broker
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.outbox.outbox import MemoryOutbox
from hedge.uplink.publishers.outcomes import OutcomePublisher
from hedge.uplink.pump import Pump
from hedge.uplink.publishers.spool import Spool
from hedge.uplink.topics import Device
import threading

url, folder, name, begin, count = sys.argv[1:]
offered = int(begin)

class Witness(OutcomePublisher):
    def turn(self, link, now_ns):
        before = offered
        super().turn(link, now_ns)
        print(before, len(self._spool), flush=True)  # all before are on disk now

link = MqttLink(Broker.parse(url), client_id="device")
device = Device("tests", name)
spool = Spool(Path(folder), min_free_bytes=0)
publisher = Witness(device, spool=spool, wake=link.wake)
pump = Pump(link, device=device, session=3, contracts={}, outbox=MemoryOutbox(),
            bell=threading.Event(), publishers=[publisher])
pump.start()
for _ in range(int(count)):
    line = b'{"id": "3-%d"}' % offered
    while not publisher.offer("door", line, final=True, escalated=True):
        time.sleep(0.001)
    offered += 1
    time.sleep(0.0005)
while len(spool):
    time.sleep(0.005)
pump.close(timeout_s=2.0)
"""


def test_a_device_killed_at_any_moment_publishes_all_that_was_on_disk(
    device: Device,
    start_broker: Callable[..., object],
    free_port: int,
    reader: Callable[..., Reader],
    tmp_path: Path,
) -> None:
    start_broker("mosquitto", free_port)
    url = f"mqtt://127.0.0.1:{free_port}"
    other = reader(url)
    due: set[str] = set()
    begin = 0
    for cycle in range(6):
        count = 100_000 if cycle < 5 else 0
        there = url if cycle % 2 else "mqtt://127.0.0.1:1"  # nobody listens there
        arguments = [there, str(tmp_path / "spool"), device.name, str(begin), str(count)]
        process = subprocess.Popen(
            [sys.executable, "-c", _DEVICE, *arguments], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        with process.stdout:
            if count:
                while int(process.stdout.readline().split()[0]) < begin + 20:
                    pass
                time.sleep(0.017 * cycle)
                process.kill()
            lines = process.stdout.read().splitlines(keepends=True)
        assert process.wait() == (-signal.SIGKILL if count else 0)
        told = [int(line.split()[0]) for line in lines if line.endswith("\n")]
        on_disk = max([begin + 20, *told]) if count else begin
        due.update(f"3-{number}" for number in range(begin, on_disk))
        begin = on_disk + 5000  # another session's ids
    other.until(lambda: due <= set(other.ids()))


@pytest.mark.parametrize("version", ["5", "3.1.1"])
def test_a_device_run_by_its_configuration_publishes_what_its_file_holds(
    start_broker: Callable[..., object],
    free_port: int,
    reader: Callable[..., Reader],
    tmp_path: Path,
    version: str,
) -> None:
    pytest.importorskip("onnxruntime", reason="the shipped bundle needs onnxruntime")
    start_broker("mosquitto", free_port)
    url = f"mqtt://127.0.0.1:{free_port}?version={version}"
    other = reader(url, Device("default", "porch-7"))
    rows = load_dataset(bundle_path("digits").with_name("digits-unseen.npz")).x[:60]
    np.savez(tmp_path / "rows.npz", X=rows)
    (tmp_path / "device.toml").write_text(f"""
        [device]
        name = "porch-7"
        state_dir = "state"
        [[stream]]
        name = "meter"
        bundle = "digits"
        answer_within_ms = 200
        source = {{ kind = "replay", path = "rows.npz", rate_hz = 200 }}
        audit = {{ share = 0 }}
        [uplink]
        broker = "{url}"
        [[sink]]
        kind = "mqtt"
        [[sink]]
        kind = "jsonl"
        path = "outcomes.jsonl"
    """)
    command = [sys.executable, "-m", "hedge", "run", "device.toml", "--json", "report.json"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "outcomes.jsonl").read_text("utf-8").splitlines()
    written = [json.loads(line) for line in lines]
    finals = [one for one in written if one["final"]]
    assert len(finals) == 60
    other.until(lambda: len(other.ids()) == 60)
    read = {one["id"]: one for one in other.read}
    assert [one.pop("at_s") > 1e9 for one in (*finals, *read.values())] == [True] * 120
    assert {one["id"]: one for one in finals} == read
    uplink = json.loads((tmp_path / "report.json").read_text())["uplink"]
    assert uplink["outcomes_offered"] == 60
    assert uplink["outcomes_lost"] == uplink["outcomes_evicted"] == 0
