"""The service at the far end: what it answers, refuses, repeats and passes over."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.errors import ModelAwayError, ModelError
from hedge.models.records import Probs
from hedge.uplink import wire
from hedge.uplink.asks import Answer, Ask, Contract
from hedge.uplink.far_end.responder import Responder
from hedge.uplink.far_end.worker import Worker
from hedge.uplink.link.link import Delivered, Event
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.link.scripted import ScriptedBroker, ScriptedLink
from hedge.uplink.pump import Pump
from hedge.uplink.topics import Device

StartPump = Callable[..., tuple[Pump, threading.Event]]
StartWorker = Callable[..., Worker]
MakeAsk = Callable[..., Ask]
MakeLink = Callable[..., MqttLink]
Eventually = Callable[[Callable[[], bool]], None]
Collect = Callable[[Pump, threading.Event, int], dict[str, Answer]]
Publish = Callable[[ScriptedBroker, Sequence[wire.Request]], None]


def request(ask_id: str = "7-1", **changes: object) -> wire.Request:
    """Return a request that the responder of the tests can answer, changed."""
    sound = wire.Request(
        v=1,
        id=ask_id,
        session=7,
        kind="decide",
        model="steps",
        contract="0123456789abcdef",
        entry="input",
        remaining_ms=60_000,
        dtype="float32",
        shape=(4,),
        codec="raw",
        opinion=None,
        body=np.array([0.25, 0, 0, 0], "<f4").tobytes(),
    )
    return msgspec.structs.replace(sound, **changes)


def replies(broker: ScriptedBroker, device: Device) -> list[wire.Reply]:
    """Return every answer that the device was given."""
    given = [payload for topic, payload in broker.published if topic == device.answer]
    return [wire.decode_reply(payload) for payload in given]


@pytest.fixture
def publish(device: Device) -> Publish:
    """Give `publish(broker, requests)`, which makes them arrive together."""

    def give(broker: ScriptedBroker, given: Sequence[wire.Request]) -> None:
        with broker.changed:
            for one in given:
                broker.publish(device.ask("cam"), wire.encode(one))

    return give


def test_an_ask_is_answered_on_the_topic_that_follows_from_its_own(
    start_worker: StartWorker, publish: Publish, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    link = ScriptedLink(broker)
    start_worker(link)
    probes = len(link.acked)
    publish(broker, [request()])
    eventually(lambda: bool(replies(broker, device)))
    (found,) = replies(broker, device)
    assert (found.id, found.session, found.contract) == ("7-1", 7, "0123456789abcdef")
    assert (found.status, found.detail, found.alpha) == ("ok", None, None)
    assert wire.distribution(found.probs, classes=3).tolist() == [0.25, 0.75, 0]
    eventually(lambda: len(link.acked) == probes + 1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"contract": "f" * 16}, "no model of contract ffffffffffffffff"),
        ({"shape": (2, 2)}, "steps takes float32 (4,)"),
        ({"shape": (8,), "dtype": "int16"}, "steps takes float32 (4,)"),
        ({"entry": "features"}, "steps has no input features"),
    ],
)
def test_what_no_model_here_can_answer_is_refused_with_the_reason(
    changes: dict[str, object],
    says: str,
    start_worker: StartWorker,
    publish: Publish,
    device: Device,
    eventually: Eventually,
) -> None:
    broker = ScriptedBroker()
    worker = start_worker(ScriptedLink(broker))
    publish(broker, [request("7-1", **changes), request("7-2")])
    eventually(lambda: worker.counters()["answered"] == 1)
    found = {reply.id: reply for reply in replies(broker, device)}
    assert (found["7-1"].status, found["7-2"].status) == ("error", "ok")
    assert says in str(found["7-1"].detail)


def test_an_ask_that_comes_twice_gets_the_same_answer_twice_and_is_thought_about_once(
    start_worker: StartWorker,
    publish: Publish,
    responder: Responder,
    device: Device,
    eventually: Eventually,
) -> None:
    seen: list[int] = []

    def respond(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
        seen.append(len(batch))
        return responder.respond(batch)

    broker = ScriptedBroker()
    link = ScriptedLink(broker)
    worker = start_worker(link, responders=[msgspec.structs.replace(responder, respond=respond)])
    probes = len(link.acked)
    publish(broker, [request(), request()])  # together
    eventually(lambda: len(link.acked) == probes + 2)
    publish(broker, [request(remaining_ms=50_000)])  # and again
    eventually(lambda: len(link.acked) == probes + 3)
    first, second = replies(broker, device)
    assert first == second
    assert seen == [1]
    assert worker.counters()["repeated"] == 1


def test_the_answers_it_remembers_are_bounded(
    start_worker: StartWorker, publish: Publish, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    worker = start_worker(ScriptedLink(broker), memory=2)
    for number, total in ((1, 1), (2, 2), (3, 3), (3, 3), (1, 4)):
        publish(broker, [request(f"7-{number}")])
        eventually(lambda total=total: worker.counters()["answered"] == total)  # type: ignore[misc]
    eventually(lambda: worker.counters()["repeated"] == 1)
    assert len(replies(broker, device)) == 5


class _SlowAcks(ScriptedLink):
    """A link whose broker answers for what it was sent only when it is let."""

    def __init__(self, broker: ScriptedBroker) -> None:
        super().__init__(broker)
        self.let = True
        self._kept: list[Event] = []

    def poll(self, timeout_s: float) -> list[Event]:
        events = [*self._kept, *super().poll(timeout_s)]
        self._kept = [one for one in events if isinstance(one, Delivered) and not self.let]
        return [event for event in events if event not in self._kept]


def test_an_ask_is_acknowledged_only_when_the_broker_has_its_answer(
    start_worker: StartWorker, publish: Publish, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    link = _SlowAcks(broker)
    start_worker(link)
    link.let = False
    probes = len(link.acked)
    publish(broker, [request()])
    eventually(lambda: bool(replies(broker, device)))
    publish(broker, [request("7-2", remaining_ms=0)])  # needs no answer
    eventually(lambda: len(link.acked) == probes + 1)
    link.let = True
    link.wake()
    eventually(lambda: len(link.acked) == probes + 2)


def test_an_ask_whose_time_has_run_out_is_passed_over(
    start_worker: StartWorker, publish: Publish, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    link = ScriptedLink(broker)
    worker = start_worker(link)
    probes = len(link.acked)
    publish(broker, [request("7-1", remaining_ms=0), request("7-2", remaining_ms=None)])
    eventually(lambda: len(link.acked) == probes + 2)
    assert [reply.id for reply in replies(broker, device)] == ["7-2"]
    assert worker.counters()["expired"] == 1


def test_the_time_that_an_ask_waits_here_counts_against_it(
    start_worker: StartWorker,
    publish: Publish,
    responder: Responder,
    device: Device,
    eventually: Eventually,
) -> None:
    now_ns = 0

    def respond(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
        nonlocal now_ns
        now_ns += 1_000_000_000  # a second of thought
        return responder.respond(batch)

    broker = ScriptedBroker()
    worker = start_worker(
        ScriptedLink(broker),
        max_batch=1,
        clock=lambda: now_ns,
        responders=[msgspec.structs.replace(responder, respond=respond)],
    )
    publish(broker, [request(f"7-{number}", remaining_ms=1500) for number in range(4)])
    eventually(lambda: worker.counters()["expired"] == 2)
    assert [reply.id for reply in replies(broker, device)] == ["7-0", "7-1"]


def test_a_retained_ask_is_passed_over(
    start_worker: StartWorker, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker(shares=False)  # no broker hands what it retains to a group
    broker.retained[device.ask("cam")] = wire.encode(request())
    worker = start_worker(ScriptedLink(broker))
    eventually(lambda: worker.counters()["retained"] == 1)
    assert replies(broker, device) == []


def test_asks_that_come_together_are_answered_in_batches_of_their_own_contract(
    start_worker: StartWorker,
    publish: Publish,
    responder: Responder,
    device: Device,
    eventually: Eventually,
) -> None:
    seen: list[tuple[str, int]] = []

    def named(name: str) -> Responder:
        def respond(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
            seen.append((name, len(batch)))
            return responder.respond(batch)

        contract = msgspec.structs.replace(responder.contract, name=name, digest=name * 16)
        return Responder(contract=contract, respond=respond)

    broker = ScriptedBroker()
    worker = start_worker(ScriptedLink(broker), responders=[named("a"), named("b")], max_batch=4)
    asks = [request(f"7-{number}", contract="ab"[number % 2] * 16) for number in range(12)]
    publish(broker, asks)
    eventually(lambda: worker.counters()["answered"] == 12)
    assert sorted(seen) == [("a", 2), ("a", 4), ("b", 2), ("b", 4)]
    assert {(reply.id, reply.contract) for reply in replies(broker, device)} == {
        (one.id, one.contract) for one in asks
    }


def test_one_ask_that_spoils_its_batch_is_refused_alone(
    start_worker: StartWorker,
    publish: Publish,
    responder: Responder,
    device: Device,
    eventually: Eventually,
) -> None:
    def respond(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
        if (batch < 0).any():
            raise ZeroDivisionError("a secret of the model")
        return responder.respond(batch)

    broker = ScriptedBroker()
    worker = start_worker(
        ScriptedLink(broker), responders=[msgspec.structs.replace(responder, respond=respond)]
    )
    bad = np.array([-1, 0, 0, 0], "<f4").tobytes()
    publish(broker, [request("7-1"), request("7-2", body=bad), request("7-3")])
    eventually(lambda: len(replies(broker, device)) == 3)
    found = {reply.id: reply for reply in replies(broker, device)}
    assert {one: reply.status for one, reply in found.items()} == {
        "7-1": "ok",
        "7-2": "error",
        "7-3": "ok",
    }
    assert found["7-2"].detail == "the model failed: ZeroDivisionError"
    assert (worker.counters()["answered"], worker.counters()["errors"]) == (2, 1)


@pytest.mark.parametrize(
    "output",
    [
        (np.full((1, 3), np.nan), None),
        (np.full((1, 2), 0.5), None),
        (np.full((1, 3), 0.5), None),
        (np.full((2, 3), 1 / 3), None),
        (np.full((1, 3), 1 / 3), np.zeros((1, 3))),
        (np.full((1, 3), 1 / 3), np.ones((1, 4))),
    ],
)
def test_a_model_that_returns_no_distribution_has_failed(
    output: tuple[Probs, Probs | None],
    start_worker: StartWorker,
    publish: Publish,
    contract: Contract,
    device: Device,
    eventually: Eventually,
) -> None:
    broker = ScriptedBroker()
    responder = Responder(contract=contract, respond=lambda _: output)
    start_worker(ScriptedLink(broker), responders=[responder])
    publish(broker, [request()])
    eventually(lambda: bool(replies(broker, device)))
    assert replies(broker, device)[0].status == "error"


def test_a_models_evidence_travels_with_its_answer(
    start_worker: StartWorker,
    publish: Publish,
    contract: Contract,
    device: Device,
    eventually: Eventually,
) -> None:
    alpha = np.array([[5.0, 2.0, 1.0]])
    broker = ScriptedBroker()
    responder = Responder(contract=contract, respond=lambda _: (alpha / alpha.sum(), alpha))
    start_worker(ScriptedLink(broker), responders=[responder])
    publish(broker, [request()])
    eventually(lambda: bool(replies(broker, device)))
    (found,) = replies(broker, device)
    assert found.alpha is not None
    assert wire.concentration(found.alpha, classes=3).tolist() == [5, 2, 1]


def test_stopping_answers_what_has_come_and_takes_no_more(
    start_worker: StartWorker,
    publish: Publish,
    responder: Responder,
    device: Device,
    eventually: Eventually,
) -> None:
    begun = threading.Event()

    def respond(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
        begun.set()
        time.sleep(0.05)
        return responder.respond(batch)

    broker = ScriptedBroker()
    link = ScriptedLink(broker)
    worker = start_worker(
        link, max_batch=2, responders=[msgspec.structs.replace(responder, respond=respond)]
    )
    publish(broker, [request(f"7-{number}") for number in range(6)])
    assert begun.wait(30)
    worker.stop()
    eventually(lambda: not link.filters and len(replies(broker, device)) == 6)
    publish(broker, [request("7-9")])
    eventually(lambda: not any(t.name == "worker" for t in threading.enumerate()))
    assert len(replies(broker, device)) == 6


def test_it_can_be_stopped_while_there_is_no_broker(
    mqtt_link: MakeLink, free_port: int, start_worker: StartWorker, eventually: Eventually
) -> None:
    worker = start_worker(mqtt_link(f"mqtt://127.0.0.1:{free_port}", "w"), wait=False)
    worker.stop()
    eventually(lambda: not any(t.name == "worker" for t in threading.enumerate()))
    assert worker.serving is None


def test_after_a_disconnection_it_serves_again(
    start_worker: StartWorker, publish: Publish, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    worker = start_worker(ScriptedLink(broker))
    broker.drop()
    eventually(lambda: worker.counters()["connects"] == 2 and worker.serving is not None)
    publish(broker, [request()])
    eventually(lambda: bool(replies(broker, device)))


# ---- Batches


def test_asks_that_come_one_by_one_are_answered_together_where_the_batch_may_wait(
    start_worker: StartWorker,
    publish: Publish,
    responder: Responder,
    device: Device,
    eventually: Eventually,
) -> None:
    seen: list[int] = []

    def respond(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
        seen.append(len(batch))
        return responder.respond(batch)

    broker = ScriptedBroker()
    link = ScriptedLink(broker)
    worker = start_worker(
        link,
        max_batch=3,
        batch_wait_s=3600.0,
        responders=[msgspec.structs.replace(responder, respond=respond)],
    )
    for number in range(5):
        publish(broker, [request(f"7-{number}")])
        eventually(lambda number=number: worker.counters()["asks"] == number + 1)  # type: ignore[misc]
    eventually(lambda: len(replies(broker, device)) == 3)
    assert seen == [3]
    worker.stop()  # which waits for nothing
    eventually(lambda: len(replies(broker, device)) == 5)
    assert seen == [3, 2]


def test_a_batch_waits_no_longer_than_it_may(
    start_worker: StartWorker, publish: Publish, device: Device, eventually: Eventually
) -> None:
    now_ns = 0
    broker = ScriptedBroker()
    link = ScriptedLink(broker)
    worker = start_worker(link, batch_wait_s=0.5, clock=lambda: now_ns)
    publish(broker, [request("7-1")])
    eventually(lambda: worker.counters()["asks"] == 1)
    now_ns = 499_000_000
    publish(broker, [request("7-2")])
    eventually(lambda: worker.counters()["asks"] == 2)
    assert replies(broker, device) == []
    now_ns = 500_000_000
    link.wake()
    eventually(lambda: len(replies(broker, device)) == 2)
    assert worker.counters()["batches"] == 1


def test_a_batch_waits_no_longer_than_the_tightest_of_its_deadlines_allows(
    start_worker: StartWorker,
    publish: Publish,
    responder: Responder,
    eventually: Eventually,
) -> None:
    now_ns = 0

    def respond(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
        nonlocal now_ns
        now_ns += 100_000_000  # what the model takes
        return responder.respond(batch)

    broker = ScriptedBroker()
    link = ScriptedLink(broker)
    worker = start_worker(
        link,
        max_batch=3,
        batch_wait_s=3600.0,
        clock=lambda: now_ns,
        responders=[msgspec.structs.replace(responder, respond=respond)],
    )
    publish(broker, [request(f"7-{number}") for number in range(3)])
    eventually(lambda: worker.counters()["answered"] == 3)
    publish(broker, [request("7-3", remaining_ms=1000), request("7-4", remaining_ms=60_000)])
    eventually(lambda: worker.counters()["asks"] == 5)
    assert worker.counters()["answered"] == 3
    now_ns = 900_000_000  # the deadline less twice the model's time
    link.wake()
    eventually(lambda: worker.counters()["answered"] == 5)
    assert worker.counters()["expired"] == 0


@pytest.mark.parametrize("codec", ["zlib", "jpeg"])
def test_a_body_that_cannot_be_decoded_is_refused_alone(
    codec: str,
    start_worker: StartWorker,
    publish: Publish,
    responder: Responder,
    device: Device,
    eventually: Eventually,
) -> None:
    contract = msgspec.structs.replace(responder.contract, dtype="uint8", shape=(4, 4))
    broker = ScriptedBroker()
    worker = start_worker(
        ScriptedLink(broker),
        responders=[
            Responder(contract=contract, respond=lambda b: responder.respond(b[:, 0] / 32.0))
        ],
    )
    sound = request("7-1", dtype="uint8", shape=(4, 4), body=bytes(16))
    bad = msgspec.structs.replace(sound, id="7-2", codec=codec, body=b"not at all")
    publish(broker, [sound, bad])
    eventually(lambda: len(replies(broker, device)) == 2)
    found = {reply.id: reply for reply in replies(broker, device)}
    assert (found["7-1"].status, found["7-2"].status) == ("ok", "error")
    assert str(found["7-2"].detail).startswith(f"cannot be read: body: {codec}")
    assert worker.counters()["errors"] == 1


# ---- Models that can be away


class Remote:
    """A model on a server that can be switched off; ``deadly`` is an input that ends it."""

    def __init__(self, responder: Responder, *, there: bool = True) -> None:
        self.there = there
        self.deadly: float | None = None
        self.checks = 0
        self._inner = responder
        self.responder = msgspec.structs.replace(
            responder, respond=self._respond, check=self._check
        )

    def _check(self) -> None:
        self.checks += 1
        if not self.there:
            raise ModelAwayError("nobody there", where="far")

    def _respond(self, batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
        if not self.there or (batch[:, 0] == self.deadly).any():
            raise ModelAwayError("it hung up", where="far")
        return self._inner.respond(batch)


def test_asks_come_only_when_the_models_are_there(
    start_worker: StartWorker,
    publish: Publish,
    responder: Responder,
    device: Device,
    eventually: Eventually,
) -> None:
    remote = Remote(responder, there=False)
    waiting: list[str] = []
    broker = ScriptedBroker()
    link = ScriptedLink(broker)
    worker = start_worker(
        link, wait=False, responders=[remote.responder], on_waiting=waiting.append
    )
    eventually(lambda: remote.checks >= 2 and worker.counters()["connects"] == 1)
    assert (link.filters, worker.serving) == ([], None)
    remote.there = True
    eventually(lambda: worker.serving == "shared")
    publish(broker, [request()])
    eventually(lambda: bool(replies(broker, device)))
    assert waiting[0] == "not looked for yet" or "nobody there" in waiting[0]


def test_while_a_model_is_away_its_asks_are_kept_unacknowledged_and_no_more_come(
    start_worker: StartWorker,
    publish: Publish,
    responder: Responder,
    device: Device,
    eventually: Eventually,
) -> None:
    remote = Remote(responder)
    other = msgspec.structs.replace(
        responder, contract=msgspec.structs.replace(responder.contract, digest="b" * 16)
    )
    broker = ScriptedBroker()
    link = ScriptedLink(broker)
    worker = start_worker(link, responders=[remote.responder, other])
    probes = len(link.acked)
    remote.there = False
    publish(broker, [request("7-1"), request("7-2"), request("7-3", contract="b" * 16)])
    eventually(lambda: [reply.id for reply in replies(broker, device)] == ["7-3"])
    eventually(lambda: worker.serving is None and len(link.acked) == probes + 1)
    assert not any("/ask/" in one for one in link.filters)
    remote.there = True
    eventually(lambda: len(replies(broker, device)) == 3)
    eventually(lambda: len(link.acked) == probes + 3 and worker.serving == "shared")
    assert (worker.counters()["errors"], worker.counters()["away"]) == (0, 1)


def test_an_ask_that_sends_its_model_away_each_time_is_refused_in_the_end_and_alone(
    start_worker: StartWorker,
    publish: Publish,
    responder: Responder,
    device: Device,
    eventually: Eventually,
) -> None:
    remote = Remote(responder)
    remote.deadly = 0.5
    broker = ScriptedBroker()
    worker = start_worker(ScriptedLink(broker), responders=[remote.responder])
    deadly = np.array([0.5, 0, 0, 0], "<f4").tobytes()
    publish(broker, [request("7-1"), request("7-2", body=deadly), request("7-3")])
    eventually(lambda: len(replies(broker, device)) == 3)
    found = {reply.id: reply for reply in replies(broker, device)}
    assert (found["7-1"].status, found["7-3"].status) == ("ok", "ok")
    assert found["7-2"].detail == "the model went away 3 times"
    eventually(lambda: worker.serving == "shared")


def test_a_server_that_serves_another_model_ends_the_worker(
    responder: Responder,
) -> None:
    def check() -> None:
        raise ModelError("its input is of another shape", where="far")

    worker = Worker(
        ScriptedLink(ScriptedBroker()),
        name="w0",
        responders=[msgspec.structs.replace(responder, check=check)],
    )
    with pytest.raises(ModelError, match="another shape"):
        worker.run()


def test_stopping_while_a_model_is_away_leaves_its_asks_unacknowledged(
    start_worker: StartWorker,
    publish: Publish,
    responder: Responder,
    device: Device,
    eventually: Eventually,
) -> None:
    remote = Remote(responder)
    broker = ScriptedBroker()
    link = ScriptedLink(broker)
    worker = start_worker(link, responders=[remote.responder])
    probes = len(link.acked)
    remote.there = False
    publish(broker, [request()])
    eventually(lambda: worker.counters()["away"] == 1)
    worker.stop()
    eventually(lambda: not any(t.name == "worker" for t in threading.enumerate()))
    assert (replies(broker, device), len(link.acked)) == ([], probes)


# ---- Sharing the load


def test_where_the_broker_swallows_the_probe_it_subscribes_plainly(
    start_worker: StartWorker, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    class Deaf(ScriptedBroker):
        def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
            if "/_worker/" not in topic:
                super().publish(topic, payload, retain=retain)

    monkeypatch.setattr("hedge.uplink.far_end.probe._PATIENCE_S", 0.05)
    worker = start_worker(ScriptedLink(Deaf()))
    eventually(lambda: worker.serving == "plain")


@pytest.mark.parametrize("shares", [True, False])
def test_two_workers_answer_each_ask_once_between_them(
    shares: bool,  # noqa: FBT001 -- a parameter
    start_worker: StartWorker,
    publish: Publish,
    device: Device,
    eventually: Eventually,
) -> None:
    broker = ScriptedBroker(shares=shares)
    workers = [
        start_worker(ScriptedLink(broker), name=f"w{index}", shard=(index, 2)) for index in (0, 1)
    ]
    assert {worker.serving for worker in workers} == {"shared" if shares else "plain"}
    publish(broker, [request(f"7-{number}") for number in range(100)])
    eventually(lambda: len(replies(broker, device)) == 100)
    counts = [worker.counters() for worker in workers]
    assert sorted(reply.id for reply in replies(broker, device)) == sorted(
        f"7-{number}" for number in range(100)
    )
    assert min(count["answered"] for count in counts) >= 25
    assert sum(count["not_ours"] for count in counts) == (0 if shares else 100)


def test_the_probe_finds_out_what_each_real_broker_does(
    broker_url: str, mqtt_link: MakeLink, start_worker: StartWorker, device: Device
) -> None:
    worker = start_worker(mqtt_link(broker_url, device.name), name=device.name)
    assert worker.serving == ("plain" if "3.1.1" in broker_url else "shared")


def test_two_workers_share_the_load_of_a_real_broker(
    broker_url: str,
    mqtt_link: MakeLink,
    start_pump: StartPump,
    start_worker: StartWorker,
    device: Device,
    ask: MakeAsk,
    collect: Collect,
) -> None:
    workers = [
        start_worker(
            mqtt_link(broker_url, f"{device.name}-{index}"),
            name=f"{device.name}-{index}",
            group=device.name,
            shard=(index, 2),
        )
        for index in (0, 1)
    ]
    pump, bell = start_pump(mqtt_link(broker_url, device.name))
    for number in range(100):
        assert pump.offer(ask(f"7-{number}"))
    assert len(collect(pump, bell, 100)) == 100
    counts = [worker.counters() for worker in workers]
    assert sum(count["answered"] for count in counts) == 100
    assert min(count["answered"] for count in counts) >= 10
    assert pump.counters()["duplicate"] == 0
