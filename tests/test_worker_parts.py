"""Requests in parts at the worker: claimed, gathered, answered, refused and given up."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.records import Probs
from hedge.uplink import parts, wire
from hedge.uplink.asks import Answer, Ask, Contract
from hedge.uplink.far_end.responder import Responder
from hedge.uplink.far_end.worker import Worker
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.link.scripted import ScriptedBroker, ScriptedLink
from hedge.uplink.outbox.outbox import MemoryOutbox
from hedge.uplink.pump import Pump
from hedge.uplink.sender import Window
from hedge.uplink.topics import Device

StartWorker = Callable[..., Worker]
Eventually = Callable[[Callable[[], bool]], None]

SHAPE = (1000,)
CONTRACT = "00000000000000aa"


def _first(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
    first = batch[:, 0].astype(np.float64)
    return np.stack([first, 1 - first, np.zeros_like(first)], axis=1), None


@pytest.fixture
def long_responder() -> Responder:
    """Give a responder of inputs so long that they go in parts."""
    return Responder(
        contract=Contract(name="long", digest=CONTRACT, classes=3, dtype="float32", shape=SHAPE),
        respond=_first,
    )


def request(ask_id: str = "7-1", *, first: float = 0.25) -> wire.Request:
    """Return a request that `long_responder` can answer."""
    body = np.zeros(SHAPE, "<f4")
    body[0] = first
    return wire.Request(
        v=1,
        id=ask_id,
        session=7,
        kind="decide",
        model="long",
        contract=CONTRACT,
        entry="input",
        remaining_ms=60_000,
        dtype="float32",
        shape=SHAPE,
        codec="raw",
        opinion=None,
        body=body.tobytes(),
    )


class Asker:
    """A device by hand: it announces, waits for the claim, sends the parts."""

    def __init__(self, broker: ScriptedBroker, device: Device) -> None:
        self._broker = broker
        self.device = device

    def announce(self, one: wire.Request, **changes: object) -> list[wire.Part]:
        """Publish the notice of a request and return its parts."""
        payload = wire.encode(one)
        pieces = parts.split(payload, part_bytes=512)
        notice = wire.Notice(
            v=1,
            id=one.id,
            session=one.session,
            contract=one.contract,
            size=len(payload),
            parts=len(pieces),
            remaining_ms=one.remaining_ms,
        )
        changed = msgspec.structs.replace(notice, **changes)
        self._broker.publish(self.device.notice("cam"), wire.encode(changed))
        return [
            wire.Part(v=1, id=one.id, session=one.session, index=at, count=len(pieces), data=data)
            for at, data in enumerate(pieces)
        ]

    def send(self, given: list[wire.Part], *, worker: str = "w0") -> None:
        """Publish parts to the worker of that name."""
        for part in given:
            self._broker.publish(self.device.part(worker), wire.encode(part))

    def replies(self, status: str) -> Iterator[wire.Reply]:
        """Give the replies of a status, in order."""
        for topic, payload in list(self._broker.published):
            if topic == self.device.answer:
                reply = wire.decode_reply(payload)
                if reply.status == status:
                    yield reply

    def count(self, status: str) -> int:
        """Count the replies of a status."""
        return len(list(self.replies(status)))


@pytest.fixture
def scripted() -> ScriptedBroker:
    """Give a broker that shares subscriptions."""
    return ScriptedBroker()


@pytest.fixture
def asker(scripted: ScriptedBroker, device: Device) -> Asker:
    """Give a device."""
    return Asker(scripted, device)


def test_a_request_in_parts_is_claimed_by_name_gathered_and_answered(
    scripted: ScriptedBroker,
    asker: Asker,
    start_worker: StartWorker,
    long_responder: Responder,
    eventually: Eventually,
) -> None:
    link = ScriptedLink(scripted)
    worker = start_worker(link, responders=[long_responder])
    probes = len(link.acked)
    pieces = asker.announce(request())
    eventually(lambda: asker.count("claim") == 1)
    assert next(asker.replies("claim")).detail == "w0"
    asker.send(pieces[1:])
    eventually(lambda: len(link.acked) == probes + len(pieces) - 1)  # parts, but not the notice
    asker.send(pieces[:1])
    eventually(lambda: asker.count("ok") == 1)
    found = next(asker.replies("ok"))
    assert (found.id, found.session) == ("7-1", 7)
    assert wire.distribution(found.probs, classes=3).tolist() == [0.25, 0.75, 0]
    eventually(lambda: len(link.acked) == probes + len(pieces) + 1)
    assert (worker.counters()["claims"], worker.counters()["parts_joined"]) == (1, 1)


def test_a_notice_that_comes_again_is_claimed_again_and_answered_without_a_second_thought(
    scripted: ScriptedBroker,
    asker: Asker,
    start_worker: StartWorker,
    long_responder: Responder,
    eventually: Eventually,
) -> None:
    worker = start_worker(ScriptedLink(scripted), responders=[long_responder])
    asker.send(asker.announce(request()))
    eventually(lambda: asker.count("ok") == 1)
    asker.send(asker.announce(request()))
    eventually(lambda: asker.count("ok") == 2)
    assert worker.counters()["repeated"] == 1
    other = asker.announce(request(first=0.5))  # a device that counts from the same again
    asker.send(other)
    eventually(lambda: asker.count("ok") == 3)
    *_, last = asker.replies("ok")
    assert wire.distribution(last.probs, classes=3).tolist() == [0.5, 0.5, 0]


def test_two_workers_gather_only_what_each_has_claimed(
    scripted: ScriptedBroker,
    asker: Asker,
    start_worker: StartWorker,
    long_responder: Responder,
    eventually: Eventually,
) -> None:
    workers = [
        start_worker(ScriptedLink(scripted), name=name, responders=[long_responder])
        for name in ("w0", "w1")
    ]
    given = {f"7-{number}": asker.announce(request(f"7-{number}")) for number in range(10)}
    eventually(lambda: asker.count("claim") == 10)
    for claim in asker.replies("claim"):
        asker.send(given[claim.id], worker=str(claim.detail))
    eventually(lambda: asker.count("ok") == 10)
    counts = [worker.counters() for worker in workers]
    assert [count["parts_joined"] for count in counts] == [5, 5]
    assert [count["parts_unannounced"] for count in counts] == [0, 0]


@pytest.mark.parametrize(
    ("changes", "notice", "says"),
    [
        ({}, {"contract": "f" * 16}, "no model of contract ffffffffffffffff"),
        ({"contract": "f" * 16}, {"contract": CONTRACT}, "another request than was announced"),
        ({"session": 8}, {"session": 7}, None),
        ({"codec": "zlib"}, {}, "cannot be read"),
    ],
)
def test_what_was_not_meant_is_refused_with_the_reason(
    changes: dict[str, object],
    notice: dict[str, object],
    says: str | None,
    scripted: ScriptedBroker,
    asker: Asker,
    start_worker: StartWorker,
    long_responder: Responder,
    eventually: Eventually,
) -> None:
    link = ScriptedLink(scripted)
    worker = start_worker(link, responders=[long_responder])
    probes = len(link.acked)
    pieces = asker.announce(msgspec.structs.replace(request(), **changes), **notice)
    asker.send(pieces)
    if says is None:  # parts of another session than announced are no parts of it
        eventually(lambda: worker.counters()["parts_mismatched"] == len(pieces))
        assert asker.count("error") == asker.count("ok") == 0
        return
    eventually(lambda: asker.count("error") == 1)
    assert says in str(next(asker.replies("error")).detail)
    eventually(lambda: len(link.acked) == probes + len(pieces) + 1)


def test_what_nobody_waits_for_or_has_room_for_is_not_claimed(
    scripted: ScriptedBroker,
    asker: Asker,
    start_worker: StartWorker,
    long_responder: Responder,
    eventually: Eventually,
) -> None:
    worker = start_worker(ScriptedLink(scripted), responders=[long_responder])
    asker.announce(request("7-0"), remaining_ms=0)
    for number in range(1, 5):
        asker.announce(request(f"7-{number}"), size=4 << 20)
    eventually(lambda: worker.counters()["parts_no_room"] == 2)
    assert worker.counters()["expired"] == 1
    assert sorted(claim.id for claim in asker.replies("claim")) == ["7-1", "7-2"]


def test_a_claim_whose_device_falls_silent_is_given_up(
    scripted: ScriptedBroker,
    asker: Asker,
    start_worker: StartWorker,
    long_responder: Responder,
    eventually: Eventually,
) -> None:
    now_ns = 0
    link = ScriptedLink(scripted)
    worker = start_worker(link, responders=[long_responder], clock=lambda: now_ns)
    probes = len(link.acked)
    asker.send(asker.announce(request())[:-1])
    eventually(lambda: asker.count("claim") == 1 and len(link.acked) > probes)
    before = len(link.acked)
    now_ns = 3600 * 10**9
    link.wake()
    eventually(lambda: worker.counters()["parts_forgotten"] == 1)
    eventually(lambda: len(link.acked) >= before + 1)


def test_a_long_ask_goes_in_parts_through_a_broker_of_short_packets(
    free_port: int,
    start_broker: Callable[..., subprocess.Popen[bytes]],
    mqtt_link: Callable[..., MqttLink],
    start_worker: StartWorker,
    device: Device,
    long_responder: Responder,
    ask: Callable[..., Ask],
    collect: Callable[[Pump, threading.Event, int], dict[str, Answer]],
) -> None:
    start_broker("mosquitto", free_port, "max_packet_size 2000")
    url = f"mqtt://127.0.0.1:{free_port}"
    worker = start_worker(mqtt_link(url, "w"), name="w", responders=[long_responder])
    bell = threading.Event()
    pump = Pump(
        mqtt_link(url, device.name),
        device=device,
        session=7,
        contracts={"cam": long_responder.contract},
        outbox=MemoryOutbox(),
        bell=bell,
        window=Window(lease_s=0.5),
    )
    pump.start()
    try:
        for number in range(20):
            body = np.zeros(SHAPE, np.float32)
            body[0] = number / 32
            long = msgspec.structs.replace(ask(f"7-{number}"), body=body)
            assert pump.offer(long)
        found = collect(pump, bell, 20)
    finally:
        pump.close(timeout_s=1)
    firsts = {
        one: float(answer.probs[0]) for one, answer in found.items() if answer.probs is not None
    }
    assert firsts == {f"7-{number}": number / 32 for number in range(20)}
    assert worker.counters()["parts_joined"] >= 20
