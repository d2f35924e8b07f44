"""The audit: what is drawn, asked and learnt, over restarts, and until the gate is tightened."""

from __future__ import annotations

import itertools
import json
import random
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from hedge.models.bundle import write_bundle
from hedge.models.manifest import Calibration, Cloud, Edge, Input, Manifest, Promise
from hedge.models.opinion import Assessor
from hedge.models.prepare import preparer
from hedge.runtime import outbox_command
from hedge.runtime.backends.null import NullModel
from hedge.runtime.gate.audit import Audit, Said
from hedge.runtime.gate.audit_labels import AuditLabels
from hedge.runtime.gate.gate import Gate
from hedge.runtime.gate.options import AuditOptions, GateOptions
from hedge.runtime.lane import Lane
from hedge.runtime.loop import Loop
from hedge.runtime.policy import Policy
from hedge.runtime.sources.replay import Replay
from hedge.telemetry.clock import boottime_ns
from hedge.telemetry.gate_state import AuditState
from hedge.telemetry.ledger import Ledger
from hedge.uplink import wire
from hedge.uplink.absent import Absent
from hedge.uplink.asks import Answer, Ask, Audited
from hedge.uplink.draws import Draws
from hedge.uplink.link.link import Received
from hedge.uplink.link.scripted import ScriptedBroker, ScriptedLink
from hedge.uplink.outbox.durable_outbox import DurableOutbox
from hedge.uplink.outbox.outbox import MemoryOutbox
from hedge.uplink.publishers.labels import MAX_LABEL_BYTES, LabelTopic
from hedge.uplink.pump import Pump
from hedge.uplink.topics import Device

StartPump = Callable[..., tuple[Pump, threading.Event]]
StartBroker = Callable[..., "subprocess.Popen[bytes]"]
MakeAsk = Callable[..., Ask]
Eventually = Callable[[Callable[[], bool]], None]
Collect = Callable[[Pump, threading.Event, int], dict[str, Answer]]

SEED = 20267
HOUR_NS = 3600 * 10**9
PROBS = np.array([0.7, 0.2, 0.1], np.float32)


class Clock:
    """Stands until it is set."""

    now_ns = 10**9

    def __call__(self) -> int:
        return self.now_ns


def _audit(**options: Any) -> tuple[Audit, Clock]:  # noqa: ANN401 -- those of AuditOptions
    clock = Clock()
    given = {"most_per_hour": 1_000_000, **options}
    audit = Audit(AuditOptions(**given), rng=random.Random(SEED), clock=clock)  # noqa: S311 -- no secret
    clock.now_ns += HOUR_NS
    return audit, clock


# ---- Drawing


def test_the_share_is_drawn_whatever_it_is() -> None:
    for share in (0.0, 0.001, 0.05, 0.5, 1.0):
        audit, _ = _audit(share=share)
        drawn = sum(audit.draw() for _ in range(100_000))
        spread = 4 * (100_000 * share * (1 - share)) ** 0.5
        assert abs(drawn - 100_000 * share) <= spread
        assert audit.state(confidence=0.95).drawn == drawn


def test_every_sample_is_as_likely_as_any_other_and_does_not_depend_on_the_last() -> None:
    audit, _ = _audit(share=0.25)
    drawn = np.array([audit.draw() for _ in range(80_000)])
    after = drawn[1:][drawn[:-1]].mean()
    assert after == pytest.approx(0.25, abs=0.015)
    assert drawn[::2].mean() == pytest.approx(drawn[1::2].mean(), abs=0.015)


def test_no_more_are_asked_about_than_an_hour_allows_and_then_nothing_is_drawn() -> None:
    audit, clock = _audit(share=1.0, most_per_hour=60)

    def asked() -> int:
        found = 0
        for _ in range(200):
            if audit.draw():
                audit.asked()
                found += 1
        return found

    assert asked() == 5, "saved up for five minutes at most"
    assert asked() == 0
    clock.now_ns += HOUR_NS // 20
    assert asked() == 3
    in_an_hour = 0
    for _ in range(60):
        clock.now_ns += HOUR_NS // 60
        in_an_hour += asked()
    assert in_an_hour == 60
    new = Audit(AuditOptions(share=1.0), rng=random.Random(SEED), clock=clock)  # noqa: S311 -- no secret
    assert not new.draw(), "a device that restarts often does not ask more often"
    new.succeed(audit)
    assert new.state(confidence=None).asked == audit.state(confidence=None).drawn == 68
    none, _ = _audit(share=1.0, most_per_hour=0)
    assert not any(none.draw() for _ in range(100))
    assert none.share == 0


def test_what_is_escalated_costs_no_ask_and_labels_cost_none_either() -> None:
    audit, _ = _audit(share=1.0, most_per_hour=1)
    assert all(audit.draw() for _ in range(50)), "none of them was asked about"
    labelled, _ = _audit(share=1.0, most_per_hour=1, truth="label")
    assert not labelled.asks
    assert all(labelled.draw() for _ in range(50))


def test_what_was_drawn_is_remembered_once_and_no_more_than_a_bound() -> None:
    audit, _ = _audit(share=1.0)
    for number in range(5000):
        audit.remember(f"1-{number}", Said(number / 1e4, number % 7, number % 3 > 0))
    assert audit.recall("1-903") is None
    assert audit.recall("1-904") == (0.0904, 904 % 7, True)
    assert audit.recall("1-904") is None


def test_the_state_tells_the_error_of_what_passes_with_its_bounds_since_the_last_move() -> None:
    audit, _ = _audit(share=1.0)
    assert audit.state(confidence=0.95).error is None
    for number in range(40):
        audit.judge(wrong=number % 10 == 0, accepted=True)
        audit.judge(wrong=True, accepted=False)
    state = audit.state(confidence=0.9)
    assert (state.judged, state.rows, state.wrong, state.error) == (80, 40, 4, 0.1)
    assert state.low is not None
    assert state.high is not None
    assert 0 < state.low < 0.1 < state.high < 0.4
    audit.restart()
    assert (audit.state(confidence=0.95).judged, audit.state(confidence=0.95).rows) == (80, 0)


# ---- On its way


def _audit_ask(ask: MakeAsk, name: str, *, score: float = 0.25) -> Ask:
    one = ask(name, within_s=None, score=score)
    return msgspec.structs.replace(one, kind="audit", drawn_by="this")


def _requests(broker: ScriptedBroker, device: Device) -> list[wire.Request]:
    asks = [payload for topic, payload in broker.published if topic == device.ask("cam")]
    return [wire.decode_request(payload) for payload in asks]


def _reply(request: wire.Request) -> bytes:
    return wire.encode(
        wire.Reply(
            v=1,
            id=request.id,
            session=request.session,
            contract=request.contract,
            status="ok",
            detail=None,
            probs=PROBS.tobytes(),
            alpha=None,
            elapsed_ms=1.0,
        )
    )


def test_what_is_said_of_a_drawn_sample_comes_with_what_the_edge_had_said(
    start_pump: StartPump, ask: MakeAsk, device: Device, collect: Collect, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    pump, bell = start_pump(ScriptedLink(broker))
    pump.offer(_audit_ask(ask, "7-1"))
    pump.offer(ask("7-2"))
    pump.offer(msgspec.structs.replace(ask("7-3", score=0.75), drawn_by="this"))
    eventually(lambda: len(_requests(broker, device)) == 3)
    for request in _requests(broker, device):
        broker.publish(device.answer, _reply(request))
    assert collect(pump, bell, 2).keys() == {"7-2", "7-3"}, "for an audit nobody waits"
    eventually(lambda: pump.counters()["answered"] == 3)
    told = pump.audited()
    assert [(one.edge.score, one.accepted) for one in told] == [(0.25, True), (0.75, False)]
    assert {(one.stream, one.drawn_by) for one in told} == {("cam", "this")}
    assert told[0].edge.probs.tolist() == pytest.approx([0.5, 0.3, 0.2])
    assert told[0].probs.tolist() == PROBS.tolist()


def test_audits_travel_after_all_whose_users_wait(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker(up=False)
    pump, _ = start_pump(ScriptedLink(broker))
    for number in range(4):
        pump.offer(_audit_ask(ask, f"7-{number}"))
        pump.offer(ask(f"8-{number}"))
    eventually(lambda: pump.counters()["outbox_held"] == 8)
    broker.up = True
    eventually(lambda: len(_requests(broker, device)) == 8)
    kinds = [request.kind for request in _requests(broker, device)]
    assert kinds == ["decide"] * 4 + ["audit"] * 4


@pytest.mark.parametrize("evict", ["surest", "oldest"])
def test_audits_give_way_to_whatever_is_needed_when_the_outbox_is_full(
    start_pump: StartPump, ask: MakeAsk, evict: str, collect: Collect
) -> None:
    outbox = MemoryOutbox(max_count=3, evict=evict)  # type: ignore[arg-type]
    pump, bell = start_pump(ScriptedLink(ScriptedBroker(up=False)), outbox=outbox)
    pump.offer(ask("7-0", score=0.01))
    pump.offer(_audit_ask(ask, "7-1", score=0.9))
    pump.offer(_audit_ask(ask, "7-2", score=0.9))
    pump.offer(ask("7-3", score=0.02))
    pump.offer(ask("7-4", score=0.03))
    found = collect(pump, bell, 2)
    assert found.keys() == {"7-1", "7-2"}
    assert {answer.status for answer in found.values()} <= {"evicted", "not_stored"}
    assert pump.counters()["outbox_held"] == 3


def test_of_what_an_earlier_run_has_drawn_nothing_is_told_for_some_of_it_is_lost(
    start_pump: StartPump,
    ask: MakeAsk,
    device: Device,
    eventually: Eventually,
    tmp_path: Path,
) -> None:
    broker = ScriptedBroker(up=False)
    outbox = DurableOutbox(tmp_path, min_free_bytes=0)
    pump, _ = start_pump(ScriptedLink(broker), outbox=outbox, keep_for_s=60, session=6)
    pump.offer(_audit_ask(ask, "6-1", score=0.125))
    eventually(lambda: outbox.stats().pending == 1)
    pump.close(timeout_s=1)
    broker.up = True
    again = DurableOutbox(tmp_path, min_free_bytes=0)
    pump, _ = start_pump(ScriptedLink(broker), outbox=again, keep_for_s=60, session=7)
    assert pump.owed() == [], "nobody waits for it"
    eventually(lambda: len(_requests(broker, device)) == 1)
    (request,) = _requests(broker, device)
    broker.publish(device.answer, _reply(request))
    eventually(lambda: pump.counters()["answered"] == 1)
    broker.publish(device.answer, _reply(request))
    eventually(lambda: pump.counters()["duplicate"] == 1)
    assert (pump.answers(), pump.audited()) == ([], [])


def test_after_an_outage_drawn_samples_are_told_of_in_their_order_whatever_became_of_them(
    start_pump: StartPump, ask: MakeAsk, device: Device, collect: Collect, eventually: Eventually
) -> None:
    broker = ScriptedBroker(up=False)
    pump, bell = start_pump(ScriptedLink(broker))
    for number in range(6):
        escalated = ask(f"7-{number}", within_s=60 if number < 4 else 0.05, score=0.5 + number / 10)
        drawn = msgspec.structs.replace(escalated, drawn_by="this")
        pump.offer(_audit_ask(ask, f"7-{number}", score=number / 10) if number % 2 else drawn)
    pump.offer(ask("7-9", within_s=0.05, score=0.9))
    eventually(lambda: pump.counters()["expired"] == 1)  # of those that nobody drew
    broker.up = True
    eventually(lambda: len(_requests(broker, device)) == 6)
    requests = _requests(broker, device)
    assert [one.kind for one in requests] == ["decide"] * 3 + ["audit"] * 3, "as they are urgent"
    for request in requests[:-1]:
        broker.publish(device.answer, _reply(request))
    assert collect(pump, bell, 3).keys() == {"7-0", "7-2", "7-4"}
    eventually(lambda: pump.counters()["answered"] == 5)
    assert [one.edge.score for one in pump.audited()] == pytest.approx([0.5, 0.1, 0.7, 0.3, 0.9])
    broker.publish(device.answer, _reply(requests[-1]))
    eventually(lambda: pump.counters()["answered"] == 6)
    assert [one.edge.score for one in pump.audited()] == [0.5]


def test_one_that_ends_without_an_answer_holds_nobody_up_and_no_line_grows_for_ever(
    ask: MakeAsk,
) -> None:
    draws = Draws(most=3)
    for number in range(3):
        draws.add(_audit_ask(ask, f"7-{number}", score=number / 10))
    draws.add(ask("7-9"))  # none that was drawn
    for name in ("7-2", "7-1", "7-9", "8-1"):
        draws.end(name, PROBS)
    assert draws.taken() == []
    draws.end("7-0", None)
    assert [one.edge.score for one in draws.taken()] == [0.1, 0.2]
    for number in range(3, 8):
        draws.add(_audit_ask(ask, f"7-{number}", score=number / 10))
    draws.end("7-7", PROBS)
    draws.end("7-3", PROBS)
    assert draws.taken() == [], "it had to give way, and the next one is not known yet"
    draws.end("7-5", PROBS)
    draws.end("7-6", None)
    assert [one.edge.score for one in draws.taken()] == [0.5, 0.7]
    other = msgspec.structs.replace(_audit_ask(ask, "7-8"), stream="door")
    draws.add(_audit_ask(ask, "7-10"))
    draws.add(other)
    draws.end("7-8", PROBS)
    assert [one.stream for one in draws.taken()] == ["door"], "each stream has its own"


# ---- Labels


def _calibration(**changes: Any) -> Calibration:  # noqa: ANN401 -- those of Calibration
    given = {
        "score": "max_prob",
        "total": 0.45,
        "promise": Promise(accuracy=0.9, confidence=0.95, by="row", coverage=0.9, rows=500),
        "reference": tuple(np.linspace(0.02, 0.44, 19).round(4).tolist()),
        "method": "by hand",
        "rows": 1000,
        "data_sha256": "0" * 64,
    }
    return Calibration(**{**given, **changes})


class _Lane:
    """What `AuditLabels` needs of a lane."""

    def __init__(self, name: str, gate: Gate) -> None:
        self.name = name
        self.gate = gate


def _labelled(device: Device) -> tuple[LabelTopic, AuditLabels, Gate, threading.Event]:
    bell = threading.Event()
    topic = LabelTopic(device, streams=["cam"], ring=bell.set, most=4)
    options = AuditOptions(share=1.0, truth="label")
    gate = Gate(_calibration(), stream="cam", options=GateOptions(), audit=options)
    lanes: Any = [_Lane("cam", gate)]
    labels = AuditLabels(topic, lanes=lambda: lanes, labels={"cam": ("rest", "walk")})
    return topic, labels, gate, bell


def _say(topic: LabelTopic, device: Device, payload: bytes, *, retained: bool = False) -> None:
    assert topic.received(Received(device.label("cam"), payload, retained))


def test_labels_count_for_what_was_drawn_by_name_or_by_place(device: Device) -> None:
    topic, labels, gate, bell = _labelled(device)
    for name in ("1-1", "1-2"):
        assert gate.note(0.1)
        gate.audit.remember(name, Said(0.1, 1, accepted=True))
    _say(topic, device, b'{"id": "1-1", "label": "walk"}')
    _say(topic, device, b'{"id": "1-2", "label": 0, "by": "Ann"}')
    assert bell.is_set()
    assert _audited(gate).judged == 0, "the loop's thread takes them"
    labels.feed(0)
    state = _audited(gate)
    assert (state.judged, state.rows, state.wrong) == (2, 2, 1)
    assert labels.counters()["labels_counted"] == 2


def test_labels_that_mean_nothing_are_counted_and_passed_over(device: Device) -> None:
    topic, labels, gate, _ = _labelled(device)
    gate.audit.remember("1-1", Said(0.1, 1, accepted=True))
    _say(topic, device, b'{"id": "1-1", "label": "walk"}', retained=True)
    for payload in (
        b"",
        b"[]",
        b'{"id": "1-1"}',
        b'{"id": "1-1", "label": -1}',
        b'{"id": "../1", "label": 1}',
        b'{"id": "1-1", "label": 1.5}',
        b"[" * 800,
        b'{"id": "1-1", "label": 1}' + b" " * MAX_LABEL_BYTES,
    ):
        _say(topic, device, payload)
    _say(topic, device, b'{"id": "1-2", "label": 1}')
    _say(topic, device, b'{"id": "1-1", "label": "run"}')
    _say(topic, device, b'{"id": "1-1", "label": 2}')
    _say(topic, device, b'{"id": "1-1", "label": 1}')
    _say(topic, device, b'{"id": "1-1", "label": 1}')
    labels.feed(0)
    assert _audited(gate).judged == 1
    counts = topic.counters() | labels.counters()
    assert counts == {
        "labels_received": 4,
        "labels_malformed": 8,
        "labels_retained": 1,
        "labels_lost": 1,
        "labels_counted": 1,
        "labels_undrawn": 1,
        "labels_unknown": 2,
    }


def test_only_streams_that_wait_for_labels_are_subscribed_to_also_after_a_reload(
    device: Device,
) -> None:
    topic, _, _, _ = _labelled(device)
    assert topic.filters == (device.label("cam"),)
    assert not topic.received(Received(device.label("door"), b'{"id": "1-1", "label": 1}'))
    asked: list[str] = []

    class Link(ScriptedLink):
        def subscribe(self, filters: Any) -> None:  # noqa: ANN401 -- those of Link
            asked.extend(filters)

    link = Link(ScriptedBroker())
    topic.turn(link, 0)
    assert not asked
    topic.renew(["cam", "door"])
    topic.turn(link, 0)
    topic.turn(link, 0)
    assert asked == [device.label("door")]
    assert topic.received(Received(device.label("door"), b'{"id": "1-1", "label": 1}'))


def test_labels_come_over_the_connection_of_the_asks(
    start_pump: StartPump, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    topic, labels, gate, bell = _labelled(device)
    start_pump(ScriptedLink(broker), publishers=[topic])
    gate.audit.remember("1-1", Said(0.1, 1, accepted=True))

    def arrived() -> bool:
        broker.publish(device.label("cam"), b'{"id": "1-1", "label": "rest"}')
        return bell.is_set()

    eventually(arrived)
    labels.feed(0)
    assert _audited(gate).wrong == 1


# ---- In the loop

_SURE, _DOUBTFUL = (4.0, 0.0, 0.0), (0.2, 0.0, 0.0)  # 1 - max p: 0.04 and 0.62
_ELSE = np.array([0.1, 0.8, 0.1], np.float32)


class _Uplink(Absent):
    """Takes all asks, and answers when it is told to."""

    def __init__(self) -> None:
        self.asks: list[Ask] = []
        self.ready: list[Answer] = []
        self.told: list[Audited] = []

    def offer(self, ask: Ask) -> bool:
        self.asks.append(ask)
        return True

    def answers(self) -> list[Answer]:
        ready, self.ready = self.ready, []
        return ready

    def audited(self) -> list[Audited]:
        told, self.told = self.told, []
        return told


class _Nothing:
    """Shares nothing."""

    entry: Literal["input", "features"] = "input"

    def __call__(self, sample: NDArray[Any]) -> NDArray[Any] | None: ...


def _served(
    outputs: Sequence[tuple[float, ...]],
    *,
    truth: Literal["cloud", "label"] = "cloud",
    budget: float | None = None,
) -> tuple[Loop, Lane, _Uplink, Gate]:
    """Return a loop over a lane whose model gives these outputs, all of them drawn."""
    spec = Input(kind="tensor", shape=(2,), dtype="float32")
    audit = AuditOptions(share=1.0, truth=truth, most_per_hour=1_000_000)
    options = GateOptions(drift=False, messages_per_hour=budget)
    clock = itertools.count(0, 10**9)  # a second passes whenever it is looked at
    gate = Gate(
        _calibration(),
        stream="cam",
        options=options,
        audit=audit,
        of="these",
        clock=lambda: next(clock),
    )
    lane = Lane(
        name="cam",
        source=Replay(np.ones((len(outputs), 2), np.float32)),
        input=spec,
        filters=[],
        model=NullModel(np.array(outputs), shape=(2,)),
        prepare=preparer(spec),
        assessor=Assessor.of(
            Edge(name="tiny", file="edge.onnx"), classes=3, score=_calibration().scoring
        ),
        policy=Policy.of(_calibration()),
        ledger=Ledger("cam"),
        clock=boottime_ns,
        answer_within_ns=10**6,
        gate=gate,
    )
    uplink = _Uplink()
    loop = Loop(
        [lane],
        ids=(f"1-{number}" for number in itertools.count()),
        sinks=[],
        uplink=uplink,
        bell=threading.Event(),
        clock=boottime_ns,
        feeds=[],
    )
    return loop, lane, uplink, gate


def _answered(ask: Ask) -> Answer:
    """Return the far end's answer to an ask."""
    return Answer(ask.id, ask.stream, "answered", PROBS, asked_at_ns=1)


def _told_of(ask: Ask, probs: NDArray[Any] = PROBS) -> Audited:
    """Return what the uplink tells of a drawn sample."""
    assert ask.drawn_by is not None
    assert ask.opinion is not None
    return Audited(ask.stream, ask.drawn_by, ask.opinion, ask.kind == "audit", probs)


def _audited(gate: Gate) -> AuditState:
    found = gate.state().audit
    assert found is not None
    return found


def test_of_what_is_drawn_the_accepted_are_asked_about_and_all_are_learnt_once() -> None:
    loop, lane, uplink, gate = _served([_SURE, _DOUBTFUL, _SURE])
    loop.run()  # the answers come too late for the user of the second
    assert [ask.kind for ask in uplink.asks] == ["audit", "decide", "audit"]
    assert [ask.deadline_ns is None for ask in uplink.asks] == [True, False, True]
    assert (lane.ledger.routes["escalated"], lane.ledger.ends["expired"]) == (1, 1)
    uplink.ready = [_answered(uplink.asks[1])]
    uplink.told = [_told_of(uplink.asks[0]), *(_told_of(one, _ELSE) for one in uplink.asks[1:])]
    loop.run()
    state = _audited(gate)
    assert (state.drawn, state.asked, state.judged) == (3, 2, 3)
    assert (state.rows, state.wrong) == (2, 1), "the escalated one is none that passes"
    assert loop.counts["late_answer"] == 1, "audits are never late"
    assert lane.ledger.imbalance() is None


def test_what_may_not_leave_the_device_is_not_audited() -> None:
    loop, lane, uplink, gate = _served([_SURE])
    lane.share = _Nothing()
    loop.run()
    assert uplink.asks == []
    assert _audited(gate).asked == 0


def test_where_labels_are_the_truth_the_cloud_neither_is_asked_nor_counts() -> None:
    loop, _, uplink, gate = _served([_SURE, _DOUBTFUL], truth="label")
    loop.run()
    assert [ask.kind for ask in uplink.asks] == ["decide"]
    uplink.ready = [_answered(uplink.asks[0])]
    loop.run()
    assert _audited(gate).judged == 0
    assert gate.audit.recall("1-0") is not None
    assert gate.audit.recall("1-1") is not None


def test_what_the_gate_of_another_bundle_has_drawn_tells_nothing_of_this_one() -> None:
    loop, _, uplink, gate = _served([_SURE])
    loop.run()
    told = _told_of(uplink.asks[0])
    gone = msgspec.structs.replace(told, stream="gone")
    uplink.told = [msgspec.structs.replace(told, drawn_by="other"), gone]
    loop.run()
    assert _audited(gate).judged == 0


def test_while_what_is_escalated_is_refused_nothing_is_audited_either() -> None:
    loop, lane, uplink, gate = _served([_DOUBTFUL, _SURE, _DOUBTFUL, _SURE])
    lane.source = Replay(np.ones((4, 2), np.float32), rate_hz=1000)  # it waits for nobody
    lane.window, lane.answer_within_ns = 1, 10**8
    loop.run()
    assert [(ask.kind, ask.drawn_by is None) for ask in uplink.asks] == [("decide", False)]
    assert lane.ledger.ends["refused"] == 1
    assert _audited(gate).asked == 0


def test_under_a_budget_all_that_was_answered_alone_counts_and_no_bounds_are_told() -> None:
    loop, _, uplink, gate = _served([_SURE, _DOUBTFUL], budget=1e6)
    loop.run()
    gate.feed(0)
    uplink.told = [_told_of(ask, _ELSE) for ask in uplink.asks]
    loop.run()
    state = _audited(gate)
    assert (state.judged, state.rows, state.wrong, state.error) == (2, 1, 1, 1.0)
    assert (state.low, state.high) == (None, None)


def test_what_comes_while_the_uplink_is_closed_is_learnt() -> None:
    loop, _, uplink, gate = _served([_SURE])
    loop.run()
    uplink.told = [_told_of(uplink.asks[0])]
    loop.learn()
    assert _audited(gate).judged == 1


# ---- The whole way, with the real commands

_CONFIG = """
[device]
name = "audited"
state_dir = "state"
[[stream]]
name = "cam"
bundle = "bundle"
answer_within_ms = 5000
source = {{ kind = "replay", path = "{rows}", rate_hz = {rate} }}
audit = {{ share = {share}, most_per_hour = 1000000, truth = "{truth}" }}
gate = {{ drift = false }}
[uplink]
broker = "mqtt://127.0.0.1:{port}"
"""
_SHIFT = 150
_ROWS = 8000


def _linear(weights: np.ndarray[Any, Any]) -> bytes:
    """Return the ONNX graph of x W."""
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "W"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", weights.shape[0]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", weights.shape[1]])],
        [numpy_helper.from_array(weights.astype(np.float32), "W")],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    data: bytes = model.SerializeToString()
    return data


def _place(folder: Path, port: int, *, share: float, rate: float, truth: str = "cloud") -> None:
    """Write a device, its bundle and its rows: after _SHIFT of them the cloud says another thing.

    The edge sees the first two numbers of a row, the cloud the other two.
    """
    edge, cloud = np.zeros((4, 2)), np.zeros((4, 2))
    edge[:2], cloud[2:] = np.eye(2), np.eye(2)
    manifest = Manifest(
        format=1,
        name="shifting",
        version="1.0",
        task="classification",
        labels=("left", "right"),
        licence="Apache-2.0",
        input=Input(kind="tensor", shape=(4,), dtype="float32"),
        edge=(Edge(name="tiny", file="edge.onnx"),),
        cloud=Cloud(file="cloud.onnx"),
        calibration=_calibration(),
        files={},
    )
    write_bundle(
        folder / "bundle", manifest, {"edge.onnx": _linear(edge), "cloud.onnx": _linear(cloud)}
    )
    rng = np.random.default_rng(SEED)
    seen = rng.normal(size=(_ROWS, 2)) * 3
    told = np.where(np.arange(_ROWS)[:, None] < _SHIFT, seen, seen[:, ::-1])
    rows = np.hstack([seen, told]).astype(np.float32)
    np.savez(folder / "rows.npz", X=rows, y=told.argmax(1))
    for name, pace in (("rows", rate), ("more", 0.01)):
        text = _CONFIG.format(rows="rows.npz", rate=pace, share=share, port=port, truth=truth)
        (folder / f"{name}.toml").write_text(text)


def _start(place: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hedge", *arguments]
    return subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE)


def _worker(place: Path, port: int) -> subprocess.Popen[bytes]:
    worker = _start(place, "worker", "bundle", "--broker", f"mqtt://127.0.0.1:{port}")
    assert worker.stderr is not None
    assert b"serving" in worker.stderr.readline()
    return worker


def test_a_device_tightens_its_gate_when_the_cloud_begins_to_disagree(
    tmp_path: Path, free_port: int, start_broker: StartBroker, eventually: Eventually
) -> None:
    _place(tmp_path, free_port, share=0.5, rate=200)
    start_broker("mosquitto", free_port)
    worker = _worker(tmp_path, free_port)
    device = _start(tmp_path, "run", "rows.toml", "--json", "rows.json")

    def tightened() -> bool:
        told = _told(tmp_path)
        return bool(told) and told["gate"]["promise"]["state"] != "kept"

    try:
        eventually(tightened)
        eventually(lambda: _told(tmp_path)["routes"]["escalated"] > 20)
        device.terminate()
        _, said = device.communicate(timeout=60)
    finally:
        device.kill()
        worker.terminate()
        _, log = worker.communicate(timeout=60)
    assert (device.returncode, worker.returncode) == (0, 0), (said, log)
    (stream,) = json.loads((tmp_path / "rows.json").read_text())["streams"]
    gate, audit = stream["gate"], stream["gate"]["audit"]
    assert gate["total"] < gate["calibrated"] == 0.45
    assert b"cam: the gate has to stand at" in said
    assert 20 < audit["asked"] < audit["drawn"] < stream["read"]
    assert audit["judged"] <= audit["drawn"]
    assert sum(stream["ends"].values()) == stream["routes"]["escalated"]


def test_audits_of_a_killed_device_are_answered_in_its_next_run_and_count_for_nothing(
    tmp_path: Path,
    free_port: int,
    start_broker: StartBroker,
    eventually: Eventually,
) -> None:
    _place(tmp_path, free_port, share=1.0, rate=400)
    device = _start(tmp_path, "run", "rows.toml")
    folder = tmp_path / "state" / "outbox"

    def stored() -> int:
        return sum(file.stat().st_size for file in folder.glob("*")) if folder.exists() else 0

    eventually(lambda: stored() > 40_000)  # no broker is there: all that is asked waits
    device.kill()
    device.communicate()
    again = DurableOutbox(folder, min_free_bytes=0)
    waiting = Counter(record.request.kind for record in again.due(10_000))
    again.close()
    assert waiting["audit"] > 30
    start_broker("mosquitto", free_port)
    worker = _worker(tmp_path, free_port)
    device = _start(tmp_path, "run", "more.toml", "--json", "more.json")
    try:
        eventually(lambda: _judged(tmp_path) >= 1)  # its own first sample
        eventually(lambda: outbox_command.stat(folder).asks == 0)
        device.terminate()
        _, said = device.communicate(timeout=60)
    finally:
        device.kill()
        worker.kill()
        worker.communicate()
    assert device.returncode == 0, said
    report = json.loads((tmp_path / "more.json").read_text())
    (stream,) = report["streams"]
    audit = stream["gate"]["audit"]
    assert (audit["drawn"], audit["judged"], audit["wrong"]) == (1, 1, 0)
    assert report["uplink"]["answered"] == sum(waiting.values()) + 1
    assert report["counts"].get("late_answer", 0) <= waiting["decide"]


def test_a_device_killed_after_its_gate_was_tightened_stands_tightened_in_its_next_run(
    tmp_path: Path, free_port: int, start_broker: StartBroker, eventually: Eventually
) -> None:
    _place(tmp_path, free_port, share=0.5, rate=200)
    broker = start_broker("mosquitto", free_port)
    worker = _worker(tmp_path, free_port)
    device = _start(tmp_path, "run", "rows.toml")
    try:
        eventually(lambda: _told(tmp_path).get("gate", {}).get("total", 1.0) < 0.45)
        device.kill()
        _, said = device.communicate(timeout=60)
    finally:
        device.kill()
        for other in (worker, broker):  # so that the next run learns nothing
            other.kill()
            other.communicate()
    moves = [line for line in said.splitlines() if b"cam: the gate has to stand at" in line]
    stood = float(moves[-1].partition(b"stand at ")[2].partition(b":")[0])
    kept = tmp_path / "state" / "gates.json"
    assert kept.stat().st_mode & 0o777 == 0o600
    device = _start(tmp_path, "run", "more.toml", "--json", "more.json")
    try:
        eventually(lambda: bool(_told(tmp_path)))
        device.terminate()
        _, said = device.communicate(timeout=60)
    finally:
        device.kill()
    assert device.returncode == 0, said
    report = json.loads((tmp_path / "more.json").read_text())
    gate = report["streams"][0]["gate"]
    assert gate["total"] == pytest.approx(stood, rel=1e-3)
    assert gate["total"] < gate["calibrated"] == 0.45
    assert gate["promise"]["state"] == ("tightened" if stood else "unkept")
    assert gate["audit"]["judged"] == 0
    assert "gate_memories_refused" not in report["counts"]


def _judged(place: Path) -> int:
    """Return how many audits a running device has judged."""
    told = _told(place)
    return told["gate"]["audit"]["judged"] if told else 0


def _told(place: Path) -> dict[str, Any]:
    """Return what a running device tells of its stream on its socket; nothing: it does not yet."""
    with socket.socket(socket.AF_UNIX) as asking:
        try:
            asking.connect(str(place / "state" / "hedge.sock"))
            asking.sendall(b"GET /telemetry HTTP/1.0\r\n\r\n")
            told = b"".join(iter(lambda: asking.recv(1 << 16), b""))
            found: dict[str, Any] = json.loads(told.partition(b"\r\n\r\n")[2])["streams"]["cam"]
        except (OSError, ValueError, KeyError):
            return {}
    return found
