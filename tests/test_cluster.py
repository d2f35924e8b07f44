"""A cluster of three NATS servers, one of which is killed while asks are under way.

What else the pump and the worker promise is shown over the same cluster by the tests that
take `broker_url`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from hedge.uplink.asks import Answer, Ask
from hedge.uplink.far_end.worker import Worker
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.pump import Pump
from hedge.uplink.sender import Window

StartPump = Callable[..., tuple[Pump, threading.Event]]
StartWorker = Callable[..., Worker]
MakeAsk = Callable[..., Ask]
MakeLink = Callable[..., MqttLink]
Eventually = Callable[[Callable[[], bool]], None]
Collect = Callable[[Pump, threading.Event, int], dict[str, Answer]]

COUNT = 300


@pytest.mark.timeout(300)
def test_a_node_that_is_killed_under_load_delays_and_loses_nothing(
    start_cluster: Callable[[], Any],
    mqtt_link: MakeLink,
    start_pump: StartPump,
    start_worker: StartWorker,
    ask: MakeAsk,
    collect: Collect,
    eventually: Eventually,
) -> None:
    cluster = start_cluster()
    workers = [
        start_worker(mqtt_link(cluster.url(first), f"w{shard}"), name=f"w{shard}", shard=(shard, 2))
        for shard, first in ((0, 0), (1, 1))  # the first shares its node with the device
    ]
    assert {worker.serving for worker in workers} == {"plain"}
    pump, bell = start_pump(mqtt_link(cluster.url(0), "d"), window=Window(lease_s=1.0))
    ids = [f"7-{number}" for number in range(COUNT)]
    for number, ask_id in enumerate(ids):
        eventually(lambda: pump.offer(ask(ask_id, within_s=None, first=number / 1024)))  # noqa: B023 -- at once
        if number == COUNT // 3:
            eventually(lambda: pump.counters()["answered"] > COUNT // 10)
            cluster.kill(0)
    found: dict[str, Answer] = {}
    for _ in range(5):  # the two that are left vote at leisure
        more = collect(pump, bell, COUNT - len(found))
        assert not found.keys() & more.keys(), "answered twice"
        found |= more
    assert sorted(found) == sorted(ids)
    assert {answer.status for answer in found.values()} == {"answered"}
    first = {
        one: float(answer.probs[0]) for one, answer in found.items() if answer.probs is not None
    }
    assert first == {one: number / 1024 for number, one in enumerate(ids)}
    counts = pump.counters()
    assert (counts["answered"], counts["forged"]) == (COUNT, 0)
    assert counts["disconnects"] >= 1
    assert workers[0].counters()["disconnects"] >= 1
