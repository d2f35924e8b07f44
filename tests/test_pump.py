"""The uplink's thread: against a scripted far end, and over real brokers."""

from __future__ import annotations

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import numpy as np
import pytest

from hedge.models.errors import UplinkError
from hedge.models.records import Opinion
from hedge.uplink import wire
from hedge.uplink.asks import Answer, Ask
from hedge.uplink.far_end.worker import Worker
from hedge.uplink.link.link import Connected, Event, Link, Received, Subscribed
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.link.scripted import Faults, ScriptedBroker, ScriptedLink
from hedge.uplink.outbox.durable_outbox import DurableOutbox
from hedge.uplink.outbox.outbox import MemoryOutbox, Placed, Record
from hedge.uplink.pump import Pump
from hedge.uplink.sender import Window
from hedge.uplink.topics import Device

StartPump = Callable[..., tuple[Pump, threading.Event]]
StartWorker = Callable[..., Worker]
StartBroker = Callable[..., "subprocess.Popen[bytes]"]
MakeAsk = Callable[..., Ask]
MakeLink = Callable[..., MqttLink]
Eventually = Callable[[Callable[[], bool]], None]
Collect = Callable[[Pump, threading.Event, int], dict[str, Answer]]

E = TypeVar("E", bound=Event)
PROBS = np.array([0.7, 0.2, 0.1], np.float32)


def requests(broker: ScriptedBroker, device: Device) -> list[wire.Request]:
    """Return every request that the broker has seen."""
    asks = [payload for topic, payload in broker.published if topic == device.ask("cam")]
    return [wire.decode_request(payload) for payload in asks]


def reply_to(request: wire.Request, **changes: object) -> bytes:
    """Return a sound reply, changed."""
    sound = wire.Reply(
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
    return wire.encode(msgspec.structs.replace(sound, **changes))


def statuses(broker: ScriptedBroker, device: Device) -> list[str]:
    """Return every state that was published for the device."""
    said = [payload for topic, payload in broker.published if topic == device.status]
    return [json.loads(payload)["state"] for payload in said]


# ---- Asking and answering


def test_an_ask_says_all_that_its_answer_needs(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    pump, _ = start_pump(ScriptedLink(broker), session=7)
    assert pump.offer(ask("7-1", score=0.25, within_s=60))
    eventually(lambda: bool(requests(broker, device)))
    (found,) = requests(broker, device)
    assert (found.id, found.session, found.kind, found.entry) == ("7-1", 7, "decide", "input")
    assert (found.model, found.contract) == ("steps", "0123456789abcdef")
    assert found.remaining_ms is not None
    assert 0 < found.remaining_ms <= 60_000
    assert wire.tensor(found).tolist() == [1, 0, 0, 0]
    assert found.opinion is not None
    assert (found.opinion.score, found.opinion.score_name) == (0.25, "vacuity")


def test_an_answer_comes_back_once_and_the_bell_rings(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    pump, bell = start_pump(ScriptedLink(broker))
    pump.offer(ask("7-1"))
    eventually(lambda: bool(requests(broker, device)))
    assert not bell.is_set()
    alpha = np.array([8.0, 3.0, 2.0], np.float32)
    answer = reply_to(requests(broker, device)[0], alpha=alpha.tobytes())
    broker.publish(device.answer, answer)
    assert bell.wait(30)
    (found,) = pump.answers()
    assert (found.id, found.status, found.detail) == ("7-1", "answered", None)
    assert found.probs is not None
    assert found.alpha is not None
    assert np.array_equal(found.probs, PROBS)
    assert np.array_equal(found.alpha, alpha)
    broker.publish(device.answer, answer)
    eventually(lambda: pump.counters()["duplicate"] == 1)
    assert pump.answers() == []


def test_an_error_ends_the_ask_at_once_and_says_why(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    pump, bell = start_pump(ScriptedLink(broker))
    pump.offer(ask("7-1"))
    eventually(lambda: bool(requests(broker, device)))
    refusal = reply_to(
        requests(broker, device)[0], status="error", detail="no such model", probs=b""
    )
    broker.publish(device.answer, refusal)
    assert bell.wait(30)
    assert pump.answers() == [Answer("7-1", "cam", "refused", detail="no such model")]


@pytest.mark.parametrize(
    ("changes", "counted"),
    [
        ({"probs": PROBS[:2].tobytes()}, "forged"),
        ({"probs": np.full(4, 0.25, np.float32).tobytes()}, "forged"),
        ({"probs": np.array([np.nan, 0.5, 0.5], np.float32).tobytes()}, "forged"),
        ({"probs": np.array([np.inf, 0, 0], np.float32).tobytes()}, "forged"),
        ({"probs": np.array([1.5, -0.5, 0], np.float32).tobytes()}, "forged"),
        ({"probs": np.array([0.5, 0.4, 0], np.float32).tobytes()}, "forged"),
        ({"alpha": np.array([1, 2, -3], np.float32).tobytes()}, "forged"),
        ({"alpha": np.array([1, 2], np.float32).tobytes()}, "forged"),
        ({"id": "7-2"}, "forged"),
        ({"id": "6-2", "session": 6}, "late"),  # to an earlier run, whose ends are forgotten
        ({"contract": "f" * 16}, "forged"),
        ({"session": 8}, "forged"),
        ({"probs": b""}, "malformed"),
        ({"status": "fine"}, "malformed"),
        ({"detail": "x" * (wire.MAX_REPLY_BYTES)}, "oversized"),
    ],
)
def test_a_forged_answer_is_counted_and_dropped_and_the_true_one_still_counts(
    changes: dict[str, object],
    counted: str,
    start_pump: StartPump,
    ask: MakeAsk,
    device: Device,
    eventually: Eventually,
) -> None:
    broker = ScriptedBroker()
    pump, bell = start_pump(ScriptedLink(broker))
    pump.offer(ask("7-1"))
    eventually(lambda: bool(requests(broker, device)))
    (request,) = requests(broker, device)
    broker.publish(device.answer, reply_to(request, **changes))
    eventually(lambda: pump.counters()[counted] == 1)
    assert pump.answers() == []
    broker.publish(device.answer, reply_to(request))
    assert bell.wait(30)
    assert [answer.status for answer in pump.answers()] == ["answered"]


def test_an_answer_after_the_deadline_is_late_and_not_forged(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    pump, _ = start_pump(ScriptedLink(broker))
    pump.offer(ask("7-1", within_s=0.2))
    eventually(lambda: pump.counters()["expired"] == 1)
    broker.publish(device.answer, reply_to(requests(broker, device)[0]))
    eventually(lambda: pump.counters()["late"] == 1)
    assert pump.answers() == []
    assert pump.counters()["forged"] == 0


# ---- Losing and finding the broker again


def test_what_is_unanswered_is_sent_again_after_a_reconnection_with_the_time_that_is_left(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    pump, bell = start_pump(ScriptedLink(broker))
    pump.offer(ask("7-1"))
    eventually(lambda: len(requests(broker, device)) == 1)
    time.sleep(0.05)
    broker.drop()
    eventually(lambda: len(requests(broker, device)) == 2)
    first, second = requests(broker, device)
    assert first.remaining_ms is not None
    assert second.remaining_ms is not None
    assert second.remaining_ms <= first.remaining_ms - 50
    assert msgspec.structs.replace(second, remaining_ms=first.remaining_ms) == first
    broker.publish(device.answer, reply_to(second))
    assert bell.wait(30)
    counts = pump.counters()
    assert (counts["sent"], counts["resent"], counts["disconnects"]) == (1, 1, 1)


def test_what_gets_no_answer_is_sent_again_when_its_lease_ends(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    pump, _ = start_pump(ScriptedLink(broker), window=Window(lease_s=0.05))
    pump.offer(ask("7-1"))
    eventually(lambda: len(requests(broker, device)) >= 3)
    assert pump.counters()["resent"] >= 2


def test_no_more_asks_are_under_way_than_the_window_holds(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    pump, bell = start_pump(ScriptedLink(broker), window=Window(unanswered=3))
    for number in range(10):
        assert pump.offer(ask(f"7-{number}"))
    eventually(lambda: len(requests(broker, device)) == 3)
    time.sleep(0.05)
    assert len(requests(broker, device)) == 3
    broker.publish(device.answer, reply_to(requests(broker, device)[1]))
    assert bell.wait(30)
    eventually(lambda: len(requests(broker, device)) == 4)
    assert [request.id for request in requests(broker, device)] == ["7-0", "7-1", "7-2", "7-3"]


def test_the_birth_and_the_will_are_retained_and_name_the_session(
    start_pump: StartPump, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    pump, _ = start_pump(ScriptedLink(broker), session=41)
    eventually(lambda: statuses(broker, device) == ["online"])
    assert json.loads(broker.retained[device.status]) == {"state": "online", "session": 41}
    broker.up = False
    broker.drop()
    eventually(lambda: not pump.connected)
    will = {"state": "offline", "session": 41, "reason": "lost"}
    assert json.loads(broker.retained[device.status]) == will
    broker.up = True
    eventually(lambda: statuses(broker, device)[-1] == "online")


def test_the_status_says_what_the_device_is_busy_with_until_it_is_done(
    start_pump: StartPump, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    pump, _ = start_pump(ScriptedLink(broker), session=41)
    eventually(lambda: statuses(broker, device) == ["online"])
    pump.note("building an engine: 40%")
    pump.note("building an engine: 50%")
    busy = {"state": "online", "session": 41, "note": "building an engine: 50%"}
    eventually(lambda: json.loads(broker.retained[device.status]) == busy)
    broker.up = False
    broker.drop()
    eventually(lambda: not pump.connected)
    pump.note(None)
    broker.up = True
    plain = {"state": "online", "session": 41}
    eventually(lambda: json.loads(broker.retained[device.status]) == plain)


def test_a_stale_will_is_contradicted_though_not_in_a_flood(
    start_pump: StartPump, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    pump, _ = start_pump(ScriptedLink(broker))
    eventually(lambda: statuses(broker, device) == ["online"])
    for _ in range(50):
        broker.publish(device.status, b'{"state": "offline", "session": 6}', retain=True)
    eventually(lambda: json.loads(broker.retained[device.status])["state"] == "online")
    assert pump.counters()["births"] == 2


def test_parting_leaves_word_and_no_thread(
    start_pump: StartPump, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    pump, _ = start_pump(ScriptedLink(broker), session=3)
    eventually(lambda: pump.connected)
    pump.close(timeout_s=5)
    parted = {"state": "offline", "session": 3, "reason": "closed"}
    assert json.loads(broker.retained[device.status]) == parted
    assert not pump._thread.is_alive()
    pump.close(timeout_s=5)


# ---- What outlives its user, and its process


def test_an_ask_is_kept_for_delivery_though_its_user_waits_no_more(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker(up=False)
    pump, bell = start_pump(ScriptedLink(broker), keep_for_s=3600)
    pump.offer(ask("7-1", within_s=0.01))
    pump.offer(ask("7-2", within_s=0.01))
    pump.offer(ask("7-3"))
    time.sleep(0.05)
    for ask_id in ("7-1", "7-2"):
        pump.final(ask_id)
    time.sleep(0.05)
    broker.up = True
    eventually(lambda: len(requests(broker, device)) == 3)
    found = requests(broker, device)
    assert [request.id for request in found] == ["7-3", "7-1", "7-2"]
    assert all(3500e3 < (request.remaining_ms or 0) <= 3600e3 for request in found)
    broker.publish(device.answer, reply_to(found[1]))
    assert bell.wait(30)
    (late,) = pump.answers()
    assert (late.id, late.stream, late.status) == ("7-1", "cam", "answered")
    assert pump.counters()["expired"] == 0


def test_what_was_stored_is_owed_and_sent_by_the_next_run(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually, tmp_path: Path
) -> None:
    broker = ScriptedBroker(up=False)
    outbox = DurableOutbox(tmp_path, min_free_bytes=0)
    pump, _ = start_pump(ScriptedLink(broker), outbox=outbox, keep_for_s=60, session=6)
    for number in range(3):
        pump.offer(ask(f"6-{number}", score=0.25, first=number / 4))
    pump.final("6-1")
    eventually(lambda: outbox.stats().pending == 3)
    pump.close(timeout_s=1)
    broker.up = True
    again = DurableOutbox(tmp_path, min_free_bytes=0)
    bell = threading.Event()
    pump = Pump(
        ScriptedLink(broker), device=device, session=7, contracts={}, outbox=again, bell=bell
    )
    owed = pump.owed()
    pump.start()
    try:
        assert [one.id for one in owed] == ["6-0", "6-2"]
        told = [one.opinion for one in owed if one.opinion is not None]
        assert [one.score for one in told] == [0.25] * 2
        assert told[0].probs.tolist() == pytest.approx([0.5, 0.3, 0.2])
        assert owed[0].answer_by_ns - owed[0].asked_at_ns == 60 * 10**9
        eventually(lambda: len(requests(broker, device)) == 3)
        found = requests(broker, device)
        assert [(one.id, one.session) for one in found] == [("6-0", 6), ("6-2", 6), ("6-1", 6)]
        broker.publish(device.answer, reply_to(found[2]))
        assert bell.wait(30)
        assert [answer.id for answer in pump.answers()] == ["6-1"]
    finally:
        pump.close(timeout_s=1)


def test_a_far_end_that_was_away_for_long_kills_no_ask(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually, collect: Collect
) -> None:
    broker = ScriptedBroker()
    pump, bell = start_pump(
        ScriptedLink(broker), outbox=MemoryOutbox(max_strikes=2), window=Window(lease_s=0.01)
    )
    pump.offer(ask("7-1"))
    eventually(lambda: len(requests(broker, device)) > 6)
    pump.check()
    broker.publish(device.answer, reply_to(requests(broker, device)[0]))
    assert collect(pump, bell, 1)["7-1"].status == "answered"


class _Watched(ScriptedLink):
    """Keeps how long each poll was ready to wait."""

    waits: list[float]

    def poll(self, timeout_s: float) -> list[Event]:
        self.waits.append(timeout_s)
        return super().poll(timeout_s)


def test_parting_does_not_wait_for_anything_when_there_is_nothing_to_say(
    start_pump: StartPump, eventually: Eventually
) -> None:
    link = _Watched(ScriptedBroker())
    link.waits = []
    pump, _ = start_pump(link)
    eventually(lambda: pump.connected)
    pump.close(timeout_s=5)
    assert link.waits[-1] == 0


# ---- Having no room


def test_an_offer_is_refused_at_once_when_the_queue_is_full(
    start_pump: StartPump, ask: MakeAsk
) -> None:
    broker = ScriptedBroker()
    pump, _ = start_pump(ScriptedLink(broker), queue=2)
    with broker.changed:  # the thread cannot get on
        assert [pump.offer(ask(f"7-{number}")) for number in range(2)] == [True] * 2
        results = [pump.offer(ask(f"7-{number}")) for number in range(2, 5)]
    assert results[1:] == [False] * 2
    assert pump.counters()["queue_full"] >= 2


def test_what_the_outbox_cannot_hold_comes_back_as_not_stored_or_evicted(
    start_pump: StartPump, ask: MakeAsk, collect: Collect
) -> None:
    broker = ScriptedBroker(up=False)
    pump, bell = start_pump(ScriptedLink(broker), outbox=MemoryOutbox(max_count=2))
    for number, score in enumerate((0.5, 0.6, 0.1, 0.9)):
        pump.offer(ask(f"7-{number}", score=score))
        time.sleep(0.02)
    found = collect(pump, bell, 2)
    assert {one: answer.status for one, answer in found.items()} == {
        "7-2": "not_stored",
        "7-0": "evicted",
    }


def test_an_ask_too_large_for_the_wire_or_the_broker_is_refused(
    start_pump: StartPump, ask: MakeAsk, collect: Collect
) -> None:
    broker = ScriptedBroker(max_packet_bytes=700)
    pump, bell = start_pump(ScriptedLink(broker))
    huge = np.zeros(wire.MAX_REQUEST_BYTES // 4, np.float32)
    pump.offer(msgspec.structs.replace(ask("7-1"), body=huge))
    pump.offer(msgspec.structs.replace(ask("7-2"), body=np.zeros(3000, np.float32)))
    pump.offer(ask("7-3"))
    found = collect(pump, bell, 2)
    assert {answer.status for answer in found.values()} == {"refused"}
    assert "too many" in str(found["7-1"].detail)
    assert "packets of 700" in str(found["7-2"].detail)


def test_asks_wait_at_home_while_nobody_listens_and_leave_when_somebody_does(
    free_port: int,
    start_broker: StartBroker,
    start_pump: StartPump,
    start_worker: StartWorker,
    mqtt_link: MakeLink,
    ask: MakeAsk,
    collect: Collect,
    eventually: Eventually,
) -> None:
    start_broker("mosquitto", free_port)
    url = f"mqtt://127.0.0.1:{free_port}"
    pump, bell = start_pump(mqtt_link(url, "device"), outbox=MemoryOutbox(max_strikes=1))
    eventually(lambda: pump.connected)
    for number in range(50):
        assert pump.offer(ask(f"7-{number}", first=number / 64))
    eventually(lambda: pump.counters()["unheard"] >= 2)
    assert pump.counters()["sent"] < 50, "not everything is sent to nobody"
    start_worker(mqtt_link(url, "w0"))
    found = collect(pump, bell, 50)
    assert {answer.status for answer in found.values()} == {"answered"}
    assert len(found) == 50


class _Slow(MemoryOutbox):
    """Commits only when it is let, or not at all."""

    def __init__(self, *, refuses: bool = False) -> None:
        super().__init__()
        self.may_commit = threading.Event()
        self._refuses = refuses

    def put(self, records: Sequence[Record]) -> Placed:
        assert self.may_commit.wait(30)
        if self._refuses:
            return Placed([record.id for record in records], [])
        return super().put(records)


def test_an_ask_travels_while_the_disk_makes_it_durable(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually, collect: Collect
) -> None:
    broker, outbox = ScriptedBroker(), _Slow()
    pump, bell = start_pump(ScriptedLink(broker), outbox=outbox)
    eventually(lambda: pump.connected)
    pump.offer(ask("7-1"))
    eventually(lambda: len(requests(broker, device)) == 1)
    assert outbox.stats() == (0, 0, 0)
    broker.publish(device.answer, reply_to(requests(broker, device)[0]))
    outbox.may_commit.set()
    assert collect(pump, bell, 1)["7-1"].status == "answered"
    assert (pump.counters()["sent"], pump.counters()["resent"]) == (1, 0)


def test_the_answer_to_what_could_not_be_stored_is_late_and_not_forged(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually, collect: Collect
) -> None:
    broker, outbox = ScriptedBroker(), _Slow(refuses=True)
    pump, bell = start_pump(ScriptedLink(broker), outbox=outbox)
    eventually(lambda: pump.connected)
    pump.offer(ask("7-1"))
    eventually(lambda: len(requests(broker, device)) == 1)
    outbox.may_commit.set()
    assert collect(pump, bell, 1)["7-1"].status == "not_stored"
    broker.publish(device.answer, reply_to(requests(broker, device)[0]))
    eventually(lambda: pump.counters()["late"] == 1)
    assert pump.answers() == []


# ---- In parts, where the broker's packets are too short


def notices(broker: ScriptedBroker, device: Device) -> list[wire.Notice]:
    """Return every notice that the broker has seen."""
    topic = device.notice("cam")
    return [wire.decode_notice(payload) for at, payload in broker.published if at == topic]


def parts_for(broker: ScriptedBroker, device: Device, worker: str) -> list[wire.Part]:
    """Return every part that the broker has seen for a worker."""
    topic = device.part(worker)
    return [wire.decode_part(payload) for at, payload in broker.published if at == topic]


def claim(notice: wire.Notice, worker: str, **changes: object) -> bytes:
    """Return a worker's claim, changed."""
    sound = wire.Reply(
        v=1,
        id=notice.id,
        session=notice.session,
        contract=notice.contract,
        status="claim",
        detail=worker,
        probs=b"",
        alpha=None,
        elapsed_ms=0.0,
    )
    return wire.encode(msgspec.structs.replace(sound, **changes))


def test_an_ask_too_long_for_a_packet_is_announced_and_goes_in_parts_to_who_claims_it(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually, collect: Collect
) -> None:
    broker = ScriptedBroker(max_packet_bytes=10_000)
    pump, bell = start_pump(ScriptedLink(broker), window=Window(unacked=2))
    body = np.random.default_rng(3).normal(size=20_000).astype(np.float32)
    pump.offer(msgspec.structs.replace(ask("7-1"), body=body))
    eventually(lambda: len(notices(broker, device)) == 1)
    (notice,) = notices(broker, device)
    assert notice.size > 80_000
    assert requests(broker, device) == []
    broker.publish(device.answer, claim(notice, "w-other", session=9))
    broker.publish(device.answer, claim(notice, "w-a"))
    eventually(lambda: len(parts_for(broker, device, "w-a")) == notice.parts)
    found = parts_for(broker, device, "w-a")
    assert [(part.index, part.count) for part in found] == [
        (index, notice.parts) for index in range(notice.parts)
    ]
    assert all(len(payload) < 10_000 for _, payload in broker.published)
    request = wire.decode_request(b"".join(part.data for part in found))
    assert np.array_equal(wire.tensor(request), body)
    assert parts_for(broker, device, "w-other") == []
    broker.publish(device.answer, claim(notice, "w-b"))  # the first one has died
    eventually(lambda: len(parts_for(broker, device, "w-b")) == notice.parts)
    broker.publish(device.answer, reply_to(request))
    assert collect(pump, bell, 1)["7-1"].status == "answered"
    counts = pump.counters()
    assert (counts["claims"], counts["forged"], counts["sent"]) == (2, 1, 1)


def test_a_connection_that_is_lost_midway_begins_with_a_notice_again(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker(max_packet_bytes=5_000)
    pump, _ = start_pump(ScriptedLink(broker))
    pump.offer(msgspec.structs.replace(ask("7-1"), body=np.zeros(50_000, np.float32)))
    eventually(lambda: len(notices(broker, device)) == 1)
    broker.drop()
    eventually(lambda: len(notices(broker, device)) == 2)
    broker.publish(device.answer, claim(notices(broker, device)[1], "w-a"))
    eventually(lambda: len(parts_for(broker, device, "w-a")) == notices(broker, device)[1].parts)


def test_an_ask_of_a_stream_without_a_far_end_is_refused(
    start_pump: StartPump, ask: MakeAsk, collect: Collect
) -> None:
    pump, bell = start_pump(ScriptedLink(ScriptedBroker()))
    pump.offer(msgspec.structs.replace(ask("7-1"), stream="other"))
    assert "no far end" in str(collect(pump, bell, 1)["7-1"].detail)


def test_scores_of_any_number_type_can_be_asked_about(
    start_pump: StartPump, ask: MakeAsk, device: Device, eventually: Eventually
) -> None:
    broker = ScriptedBroker()
    pump, _ = start_pump(ScriptedLink(broker))
    opinion = Opinion(
        np.array([0.5, 0.3, 0.2], np.float16), np.float32(0.5), "vacuity", np.float64(0.5)
    )
    pump.offer(msgspec.structs.replace(ask("7-1", within_s=None), opinion=opinion))
    eventually(lambda: len(requests(broker, device)) == 1)
    assert requests(broker, device)[0].remaining_ms is None
    pump.check()


class _BrokenOutbox(MemoryOutbox):
    def put(self, records: object) -> Placed:
        raise RuntimeError(f"cannot store {records}")


def test_a_thread_that_dies_rings_the_bell_and_tells_the_loop(
    start_pump: StartPump, ask: MakeAsk
) -> None:
    pump, bell = start_pump(ScriptedLink(ScriptedBroker()), outbox=_BrokenOutbox())
    pump.check()
    pump.offer(ask("7-1"))
    assert bell.wait(30)
    with pytest.raises(UplinkError, match="cannot store") as caught:
        pump.check()
    assert isinstance(caught.value.__cause__, RuntimeError)
    pump._thread.join(30)
    assert not pump.offer(ask("7-2"))
    assert not pump.connected


# ---- Faults of every kind, seeded


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shares", [True, False])
def test_over_a_link_that_loses_repeats_delays_and_reorders_each_ask_ends_exactly_once(
    seed: int,
    shares: bool,  # noqa: FBT001 -- a parameter
    start_pump: StartPump,
    start_worker: StartWorker,
    ask: MakeAsk,
    collect: Collect,
) -> None:
    rng = random.Random(seed)  # noqa: S311 -- faults, not secrets
    broker = ScriptedBroker(seed=seed, shares=shares)
    start_worker(ScriptedLink(broker))
    pump, bell = start_pump(ScriptedLink(broker), window=Window(unanswered=8, lease_s=0.05))
    broker.faults = Faults(lose=0.2, duplicate=0.2, delay=0.2, reorder=0.3)
    wanted = {f"7-{number}": number / 128 for number in range(100)}
    for number, (ask_id, first) in enumerate(wanted.items()):
        assert pump.offer(ask(ask_id, first=first))
        if number % 10 == 0:
            time.sleep(0.001 * rng.random())
        if number % 33 == 32:
            broker.faults = Faults()  # the probe has to get through
            broker.drop()
            time.sleep(0.02)
            broker.faults = Faults(lose=0.2, duplicate=0.2, delay=0.2, reorder=0.3)
    found = collect(pump, bell, len(wanted))
    assert {
        one: float(answer.probs[0]) for one, answer in found.items() if answer.probs is not None
    } == wanted
    counts = pump.counters()
    assert (counts["answered"], counts["forged"], counts["malformed"]) == (100, 0, 0)


# ---- Real brokers


def test_asks_are_answered_over_a_real_broker(
    broker_url: str,
    mqtt_link: MakeLink,
    start_pump: StartPump,
    start_worker: StartWorker,
    device: Device,
    ask: MakeAsk,
    collect: Collect,
) -> None:
    start_worker(mqtt_link(broker_url, f"{device.name}-w"), name=device.name, group=device.name)
    pump, bell = start_pump(mqtt_link(broker_url, device.name))
    for number in range(100):
        assert pump.offer(ask(f"7-{number}", first=number / 128))
    found = collect(pump, bell, 100)
    first = {one: answer.probs[0] for one, answer in found.items() if answer.probs is not None}
    assert first == {f"7-{number}": number / 128 for number in range(100)}
    counts = pump.counters()
    assert (counts["sent"], counts["answered"], counts["forged"]) == (100, 100, 0)


def test_a_broker_that_is_down_at_the_start_and_killed_midway_delays_and_loses_nothing(
    broker_kind: str,
    start_broker: StartBroker,
    free_port: int,
    mqtt_link: MakeLink,
    start_pump: StartPump,
    start_worker: StartWorker,
    ask: MakeAsk,
    collect: Collect,
    eventually: Eventually,
) -> None:
    version = {"mosquitto": "5", "amqtt": "3.1.1"}[broker_kind]
    url = f"mqtt://127.0.0.1:{free_port}?version={version}"
    worker = start_worker(mqtt_link(url, "w"), wait=False)
    pump, bell = start_pump(mqtt_link(url, "d"), window=Window(lease_s=1.0))
    assert pump.offer(ask("7-0"))
    eventually(lambda: pump.trouble is not None)
    assert not pump.connected
    assert pump.answers() == []
    broker = start_broker(broker_kind, free_port)
    assert list(collect(pump, bell, 1)) == ["7-0"]
    ids = [f"7-{number}" for number in range(1, 200)]
    for number, ask_id in enumerate(ids):
        assert pump.offer(ask(ask_id))
        if number == 100:
            eventually(lambda: pump.counters()["answered"] > 20)
            broker.kill()
            broker.wait()
            eventually(lambda: not pump.connected)
            broker = start_broker(broker_kind, free_port)
    found = collect(pump, bell, len(ids))
    assert sorted(found) == sorted(ids)
    assert {answer.status for answer in found.values()} == {"answered"}
    assert pump.counters()["disconnects"] == worker.counters()["disconnects"] == 1


def test_a_worker_that_is_killed_midway_delays_and_loses_nothing(
    broker_url: str,
    mqtt_link: MakeLink,
    start_pump: StartPump,
    device: Device,
    ask: MakeAsk,
    collect: Collect,
    eventually: Eventually,
) -> None:
    program = Path(__file__).with_name("scripted_worker.py")
    command = [sys.executable, str(program), broker_url, f"{device.name}-w", device.name]

    def start() -> subprocess.Popen[bytes]:
        worker = subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/")
        stack.callback(worker.wait)
        stack.callback(worker.kill)
        assert worker.stdout is not None
        stack.callback(worker.stdout.close)
        assert worker.stdout.readline().strip() in {b"shared", b"plain"}
        return worker

    with contextlib.ExitStack() as stack:
        worker = start()
        pump, bell = start_pump(mqtt_link(broker_url, device.name), window=Window(lease_s=0.5))
        ids = [f"7-{number}" for number in range(200)]
        for ask_id in ids:
            assert pump.offer(ask(ask_id))
        eventually(lambda: pump.counters()["answered"] > 30)
        worker.kill()
        worker.wait()
        found = {answer.id: answer for answer in pump.answers()}
        time.sleep(0.1)
        start()
        found |= collect(pump, bell, len(ids) - len(found))
        assert sorted(found) == sorted(ids)
        assert {answer.status for answer in found.values()} == {"answered"}
        assert pump.counters()["resent"] > 0


def test_garbage_on_every_topic_in_both_directions_harms_nobody(
    broker_url: str,
    mqtt_link: MakeLink,
    start_pump: StartPump,
    start_worker: StartWorker,
    device: Device,
    ask: MakeAsk,
    collect: Collect,
    eventually: Eventually,
) -> None:
    worker = start_worker(
        mqtt_link(broker_url, f"{device.name}-w"), name=device.name, group=device.name
    )
    pump, bell = start_pump(mqtt_link(broker_url, device.name))
    eventually(lambda: pump.connected)
    rng = np.random.default_rng(11)
    places = (device.answer, device.status, device.ask("cam"), f"{device.ask('cam')}/x/y")
    mischief = mqtt_link(broker_url, f"{device.name}-m")
    mischief.open()
    with contextlib.ExitStack() as stack:  # amqtt forgets what a client sent if it leaves at once
        stack.callback(mischief.close, timeout_s=1.0)
        wait_for(mischief, Connected)
        for number in range(40):
            for topic in (*places, f"hedge/1/_worker/{device.name}/plain"):
                body = rng.bytes(int(rng.integers(0, 300)))
                mischief.send(topic, body, retain=number % 20 == 0)
        mischief.send(device.answer, bytes(wire.MAX_REPLY_BYTES + 1))
        for topic in places:
            mischief.send(topic, b"", retain=True)  # so that no later test finds them
        eventually(lambda: not mischief.poll(0.01) and pump.counters()["oversized"] == 1)
        eventually(lambda: worker.counters()["malformed"] >= 40)
    assert pump.counters()["malformed"] >= 40
    assert pump.offer(ask("7-1", first=0.25))
    assert collect(pump, bell, 1)["7-1"].status == "answered"
    counts = worker.counters()
    assert (counts["answered"], counts["disconnects"], counts["errors"]) == (1, 0, 0)


def test_a_stale_will_on_a_real_broker_is_followed_by_the_birth_again(
    broker_url: str,
    mqtt_link: MakeLink,
    start_pump: StartPump,
    device: Device,
    eventually: Eventually,
) -> None:
    pump, _ = start_pump(mqtt_link(broker_url, device.name), session=9)
    eventually(lambda: pump.connected)
    other = mqtt_link(broker_url, f"{device.name}-o")
    with contextlib.ExitStack() as stack:
        stack.callback(other.close, timeout_s=1.0)
        other.open()
        wait_for(other, Connected)
        subscribe(other, device.status)
        birth, stale = ({"state": "online", "session": 9}, {"state": "offline", "session": 8})
        said: list[object] = []

        def contradicted() -> bool:
            events = [event for event in other.poll(0.05) if isinstance(event, Received)]
            said.extend(json.loads(event.payload) for event in events)
            return pump.counters()["births"] > 1 and stale in said and said[-1] == birth

        for _ in range(10):  # a cluster may serve the device's own subscription late
            other.send(device.status, json.dumps(stale).encode(), retain=True)
            until_s = time.monotonic() + 3
            while not contradicted() and time.monotonic() < until_s:
                pass
            if contradicted():
                break
        assert contradicted()


def subscribe(link: Link, topic: str) -> None:
    """Subscribe, on a new connection where the link has left a broker that did not answer."""
    link.subscribe((topic,))
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        for event in link.poll(0.05):
            if isinstance(event, Subscribed):
                return
            if isinstance(event, Connected):
                link.subscribe((topic,))
    raise AssertionError(f"no broker takes the subscription to {topic}")


def wait_for(link: Link, kind: type[E], *, within_s: float = 30.0) -> E:
    """Drive a link until an event of that kind comes."""
    until_s = time.monotonic() + within_s
    while time.monotonic() < until_s:
        for event in link.poll(0.05):
            if isinstance(event, kind):
                return event
    raise AssertionError(f"no {kind.__name__} came")


def test_answers_that_come_while_the_device_is_away_wait_for_it_at_the_broker(
    free_port: int,
    start_broker: StartBroker,
    start_pump: StartPump,
    start_worker: StartWorker,
    mqtt_link: MakeLink,
    ask: MakeAsk,
    collect: Collect,
    eventually: Eventually,
    tmp_path: Path,
) -> None:
    start_broker("mosquitto", free_port)
    url = f"mqtt://127.0.0.1:{free_port}"
    start_worker(mqtt_link(url, "w0"), batch_wait_s=0.5)
    outbox = DurableOutbox(tmp_path, min_free_bytes=0)
    pump, _ = start_pump(mqtt_link(url, "device", session_s=60), outbox=outbox, keep_for_s=60)
    eventually(lambda: pump.connected)
    pump.offer(ask("7-1"))
    eventually(lambda: pump.counters()["delivered"] == 1)
    pump.close(timeout_s=2)
    time.sleep(1)
    again = DurableOutbox(tmp_path, min_free_bytes=0)
    pump, bell = start_pump(mqtt_link(url, "device", session_s=60), outbox=again, keep_for_s=60)
    assert collect(pump, bell, 1)["7-1"].status == "answered"


@pytest.mark.parametrize("resumed", [True, False])
def test_a_broker_that_has_kept_the_session_is_not_told_again_what_it_has(
    resumed: bool,  # noqa: FBT001 -- a parameter
    start_pump: StartPump,
    ask: MakeAsk,
    device: Device,
    eventually: Eventually,
) -> None:
    broker = ScriptedBroker(resumes=resumed)
    pump, _ = start_pump(ScriptedLink(broker))
    pump.offer(ask("7-1"))
    eventually(lambda: pump.counters()["delivered"] == 1)
    broker.drop()
    eventually(lambda: pump.counters()["connects"] == 2)
    pump.offer(ask("7-2"))
    eventually(lambda: "7-2" in [request.id for request in requests(broker, device)])
    assert len(requests(broker, device)) == (2 if resumed else 3)


def test_a_small_ask_fits_a_small_packet_and_what_does_not_is_said_once(
    free_port: int,
    start_broker: StartBroker,
    start_pump: StartPump,
    start_worker: StartWorker,
    mqtt_link: MakeLink,
    ask: MakeAsk,
    collect: Collect,
    caplog: pytest.LogCaptureFixture,
) -> None:
    start_broker("mosquitto", free_port, "max_packet_size 500")
    url = f"mqtt://127.0.0.1:{free_port}"
    start_worker(mqtt_link(url, "w0"))
    pump, bell = start_pump(mqtt_link(url, "device"))
    long = np.zeros(200, np.float32)
    for number in range(3):
        pump.offer(ask(f"7-{number}"))
        pump.offer(msgspec.structs.replace(ask(f"8-{number}"), body=long))
    found = collect(pump, bell, 6)
    ends = {one: answer.status for one, answer in found.items()}
    assert ends == {
        **dict.fromkeys((f"7-{n}" for n in range(3)), "answered"),
        **dict.fromkeys((f"8-{n}" for n in range(3)), "refused"),
    }
    assert pump.counters()["disconnects"] == 0
    assert caplog.text.count("unsendable") == 1
