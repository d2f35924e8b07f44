"""A link that costs: the pump keeps to its budget, and rests in quiet hours."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from hedge.uplink import wire
from hedge.uplink.asks import Answer, Ask
from hedge.uplink.far_end.worker import Worker
from hedge.uplink.link.budget import Budget, BudgetFile, Limits, wire_bytes
from hedge.uplink.link.meter import Meter
from hedge.uplink.link.quiet import QuietHours
from hedge.uplink.link.scripted import ScriptedBroker, ScriptedLink
from hedge.uplink.pump import Pump
from hedge.uplink.sender import Window
from hedge.uplink.topics import Device

StartPump = Callable[..., tuple[Pump, threading.Event]]
StartWorker = Callable[..., Worker]
MakeAsk = Callable[..., Ask]
Eventually = Callable[[Callable[[], bool]], None]
Collect = Callable[[Pump, threading.Event, int], dict[str, Answer]]


class Clock:
    """A time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now_ns = 10**12

    def __call__(self) -> int:
        return self.now_ns


def sent(broker: ScriptedBroker, device: Device) -> list[str]:
    """Return the ids of all requests that the broker has seen."""
    asks = [payload for topic, payload in broker.published if topic == device.ask("cam")]
    return [wire.decode_request(payload).id for payload in asks]


def metered(broker: ScriptedBroker, clock: Clock, **options: Any) -> Meter:  # noqa: ANN401 -- those of Meter
    given = {"budget": None, "quiet": None, "clock": clock, **options}
    return Meter(ScriptedLink(broker), **given)


def test_no_more_messages_go_than_the_budget_allows_and_the_rest_follows_in_time(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually
) -> None:
    broker, clock = ScriptedBroker(), Clock()
    budget = Budget(Limits(messages_per_minute=5), clock=clock)
    link = metered(broker, clock, budget=budget)
    pump, _ = start_pump(link, clock=clock, window=Window(lease_s=10**6))
    eventually(lambda: pump.counters()["births"] >= 1)
    for number in range(8):
        pump.offer(ask(f"7-{number}", within_s=None))
    eventually(lambda: len(sent(broker, device)) == 3)  # the birth went, and was heard
    eventually(lambda: pump.counters()["left_messages_per_minute"] <= 0)
    assert len(sent(broker, device)) == 3
    clock.now_ns += 24 * 10**9  # two fifths of a minute: two messages
    eventually(lambda: len(sent(broker, device)) == 5)
    clock.now_ns += 60 * 10**9
    eventually(lambda: sent(broker, device) == [f"7-{number}" for number in range(8)])


def test_bytes_count_both_ways_with_all_that_surrounds_them(
    start_pump: StartPump, device: Device, eventually: Eventually
) -> None:
    broker, clock = ScriptedBroker(), Clock()
    budget = Budget(Limits(bytes_per_day=100_000), clock=clock)
    pump, _ = start_pump(metered(broker, clock, budget=budget, tls=False), clock=clock)
    eventually(lambda: pump.counters()["births"] >= 1)
    broker.publish(device.answer, b"x" * 3000)
    eventually(lambda: pump.counters()["malformed"] == 1)
    birth = next(payload for topic, payload in broker.published if topic == device.status)
    spent = 2 * wire_bytes(device.status, len(birth), tls=False)  # it hears its own birth
    spent += wire_bytes(device.answer, 3000, tls=False)
    eventually(lambda: pump.counters()["left_bytes_per_day"] == 100_000 - spent)


def test_nothing_that_can_wait_is_sent_in_quiet_hours(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually
) -> None:
    broker, clock = ScriptedBroker(), Clock()
    wall = [23 * 3600.0]
    quiet = QuietHours(("22:00-06:00",), offset_s=lambda _: 0)
    pump, _ = start_pump(metered(broker, clock, quiet=quiet, wall=lambda: wall[0]), clock=clock)
    pump.offer(ask("7-1", within_s=None))
    eventually(lambda: pump.counters()["births"] >= 1)
    assert sent(broker, device) == []
    wall[0] = 30 * 3600.0
    clock.now_ns += 10**10
    eventually(lambda: sent(broker, device) == ["7-1"])


def test_a_device_that_starts_again_goes_on_with_what_is_left_of_its_budget(
    tmp_path: Path,
) -> None:
    clock, file = Clock(), BudgetFile(tmp_path / "budget")
    limits = Limits(messages_per_day=100)
    own: dict[str, Any] = {"clock": clock, "boot": "one", "wall": lambda: None}
    link = metered(ScriptedBroker(), clock, budget=Budget(limits, **own), file=file)
    link.open()
    link.poll(0)
    for _ in range(60):
        link.send("t", b"x")
    link.close(timeout_s=0)
    assert (tmp_path / "budget").stat().st_mode & 0o777 == 0o600
    again = Budget(limits, state=file.read(), **own)
    assert again.left(clock())["messages_per_day"] == 40
    damaged = bytearray(file.read() or b"")
    damaged[7] ^= 1
    assert Budget(limits, state=bytes(damaged), **own).left(clock())["messages_per_day"] == 100


def test_a_budget_over_a_real_broker_lets_through_what_it_says_and_no_more(
    start_broker: Callable[..., subprocess.Popen[bytes]],
    free_port: int,
    mqtt_link: Callable[..., Any],
    start_pump: StartPump,
    start_worker: StartWorker,
    ask: MakeAsk,
    device: Device,
    collect: Collect,
    eventually: Eventually,
) -> None:
    start_broker("mosquitto", free_port)
    url = f"mqtt://127.0.0.1:{free_port}"
    start_worker(mqtt_link(url, "w0"))
    budget = Budget(Limits(messages_per_day=50))
    pump, bell = start_pump(Meter(mqtt_link(url, device.name), budget=budget, quiet=None))
    eventually(lambda: pump.connected)
    for number in range(100):
        assert pump.offer(ask(f"7-{number}", first=number / 128))
    found = collect(pump, bell, 20)
    eventually(lambda: pump.counters()["left_messages_per_day"] <= 0)
    counts = pump.counters()
    assert len(found) >= 20
    # the birth went, too; each answer is a message that came, and is counted when it has
    assert counts["sent"] + counts["answered"] + 1 >= 50
    assert counts["sent"] <= 49


@pytest.mark.parametrize("field", msgspec.structs.fields(Limits), ids=lambda field: field.name)
def test_every_limit_holds_the_sending_up(field: Any) -> None:  # noqa: ANN401 -- msgspec's own
    clock = Clock()
    budget = Budget(Limits(**{field.name: 2000}), clock=clock)
    link = metered(ScriptedBroker(), clock, budget=budget)
    link.open()
    link.poll(0)
    count = 0
    while link.admits("topic", 50, now_ns=clock()):
        assert link.next_ns(clock()) is None
        link.send("topic", b"x" * 50)
        count += 1
        assert count < 5000
    assert count >= 2
    due_ns = link.next_ns(clock())
    assert due_ns is not None
    clock.now_ns = due_ns
    assert link.admits("topic", 50, now_ns=clock())
