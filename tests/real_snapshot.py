"""What a real run has counted: loop, pump and worker over a scripted broker, sensors scripted."""

from __future__ import annotations

import contextlib
import itertools
import threading
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from hedge.models.errors import DataError
from hedge.models.manifest import Calibration, Input
from hedge.models.opinion import Assessor
from hedge.models.prepare import preparer
from hedge.models.records import Outcome, Probs
from hedge.runtime.backends.null import NullModel
from hedge.runtime.filters.screen import Screen
from hedge.runtime.filters.skip import SkipFilter
from hedge.runtime.lane import Lane
from hedge.runtime.loop import Loop
from hedge.runtime.policy import Policy
from hedge.runtime.sinks.mqtt import MqttSink
from hedge.runtime.sources.replay import Replay
from hedge.telemetry.clock import boottime_ns
from hedge.telemetry.energy.figures import EnergyReport, Joules, Share, StreamEnergy
from hedge.telemetry.filter_state import CacheState, FilterState, LabelsState, ShadowState
from hedge.telemetry.gate_state import (
    AuditState,
    BudgetState,
    DriftState,
    GateState,
    PromiseState,
)
from hedge.telemetry.ledger import ANSWERS, ENDS, ROUTES, STAGES, Ledger
from hedge.telemetry.snapshot import BoardState, Snapshot
from hedge.uplink.asks import Contract
from hedge.uplink.far_end.worker import Responder, Worker
from hedge.uplink.link.budget import Budget, Limits
from hedge.uplink.link.meter import Meter
from hedge.uplink.link.scripted import ScriptedBroker, ScriptedLink
from hedge.uplink.outbox.durable_outbox import DurableOutbox
from hedge.uplink.publishers.home_assistant import HomeAssistant
from hedge.uplink.publishers.outcomes import OutcomePublisher
from hedge.uplink.publishers.spool import Spool
from hedge.uplink.publishers.telemetry_topic import TelemetryTopic
from hedge.uplink.pump import Pump
from hedge.uplink.topics import Device

_DEVICE = Device("plant-3", "press-7")
_LABELS = {"cam": ("rest", "walk", "run")}
_CONTRACT = Contract(
    name="steps", digest="0123456789abcdef", classes=3, dtype="float32", shape=(2,)
)
_INPUT = Input(kind="tensor", shape=(2,), dtype="float32")
_SURE, _UNSURE = (20.0, -20.0, -20.0), (-6.0, -4.0, -6.0)
_SAMPLES = 60  # of three, the filter drops one; of those kept, one in two is escalated


def real_snapshot(folder: Path) -> Snapshot:
    """Serve `_SAMPLES` samples and a broken one, and return what was counted."""
    bell = threading.Event()
    broker = ScriptedBroker()
    link = Meter(
        ScriptedLink(broker),
        budget=Budget(Limits(bytes_per_day=10**9, messages_per_hour=10**6)),
        quiet=None,
    )
    outcomes = OutcomePublisher(
        _DEVICE,
        spool=Spool(folder / "outcomes", clock=boottime_ns, min_free_bytes=0),
        wake=link.wake,
    )
    topic = TelemetryTopic(_DEVICE, wake=link.wake)
    home = HomeAssistant(
        _DEVICE, streams=_LABELS, version="0", prefix="homeassistant", telemetry=True, wanted=True
    )
    pump = Pump(
        link,
        device=_DEVICE,
        session=7,
        contracts={"cam": _CONTRACT},
        outbox=DurableOutbox(folder / "outbox", min_free_bytes=0),
        publishers=[outcomes, topic, home],
        bell=bell,
    )
    worker = Worker(
        ScriptedLink(broker),
        name="w0",
        responders=[Responder(contract=_CONTRACT, respond=_respond)],
    )
    lane = _lane()
    loop = Loop(
        [lane],
        ids=(f"7-{number}" for number in itertools.count()),
        sinks=[MqttSink(outcomes, labels=_LABELS), _FullDisk()],
        uplink=pump,
        bell=bell,
        clock=boottime_ns,
        feeds=[],
    )
    thread = threading.Thread(target=worker.run, name="worker")
    with contextlib.ExitStack() as stack:
        thread.start()
        stack.callback(thread.join)
        stack.callback(worker.stop)
        pump.start()
        stack.callback(pump.close, timeout_s=1.0)
        loop.run()
        energy = StreamEnergy(stages=_shares(STAGES), routes=_shares(ROUTES))
        return Snapshot(
            session=7,
            uptime_s=12.5,
            streams={
                "cam": lane.ledger.report(
                    model="steps/tiny",
                    energy=energy,
                    gate=_gate(),
                    filters=_filters(),
                    buckets=True,
                )
            },
            uplink=pump.counters(),
            counts=dict(loop.counts),
            rss_bytes=81_000_000,
            cpu_s=3.25,
            device=_DEVICE.name,
            site=_DEVICE.site,
            version="0.1.0",
            at_s=1.75e9,
            connected=pump.connected,
            energy=_energy(),
            board=BoardState(
                temp_c=61.5,
                zone="cpu-thermal",
                throttled=True,
                throttled_by=("cpu-throttle-alert",),
                power_mode="15W",
            ),
        )


def _respond(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
    return np.tile([0.1, 0.2, 0.7], (len(batch), 1)), None


class _FullDisk:
    """A sink that takes nothing, as a full disk does."""

    def emit(self, outcome: Outcome) -> None:
        raise OSError(f"no space for {outcome.id}")

    def close(self) -> None: ...


def _lane() -> Lane:
    drop = np.array([[3.0], [3.0], [-3.0]])
    calibration = Calibration(
        score="vacuity",
        total=0.5,
        epistemic=2.0,
        aleatoric=2.0,
        method="test",
        rows=1,
        data_sha256="0" * 64,
    )
    x = np.ones((_SAMPLES, 2), np.float32)
    return Lane(
        name="cam",
        source=_OneBroken(x, rate_hz=None),
        input=_INPUT,
        filters=[
            Screen(
                SkipFilter(NullModel(drop, shape=(2,)), threshold=0.5, prepare=preparer(_INPUT)),
                name="skip",
                kind="skip",
            )
        ],
        model=NullModel(np.array([_SURE, _UNSURE]), shape=(2,)),
        prepare=preparer(_INPUT),
        assessor=Assessor(output="logits", head="evidential", classes=3),
        policy=Policy.of(calibration),
        ledger=Ledger("cam"),
        clock=boottime_ns,
        answer_within_ns=30 * 10**9,
    )


def _gate() -> GateState:
    """Return how a gate stands of which everything is asked that there is."""
    return GateState(
        score="vacuity",
        total=0.4375,
        calibrated=0.5,
        audit=AuditState(
            drawn=90, asked=61, judged=84, wrong=3, rows=57, error=3 / 57, low=0.0125, high=0.1875
        ),
        promise=PromiseState(accuracy=0.9375, confidence=0.95, state="tightened", tightened=1),
        drift=DriftState(rows=2048, statistic=0.25, limit=0.2, drifting=True, events=2),
        budget=BudgetState(
            unit="messages", per_hour=60.0, last_hour=58.0, mean_per_hour=59.5, strayed=-0.0625
        ),
    )


def _filters() -> tuple[FilterState, ...]:
    """Return how two filters stand, of which all is known that there is."""
    shadow = ShadowState(
        drawn=41, judged=40, wrong=9, error=0.225, low=0.0625, high=0.4375, limit=0.03125
    )
    return (
        FilterState(
            name="skip",
            kind="skip",
            state="off",
            seen=6000,
            filtered=4100,
            failed=2,
            left_out=48,
            why="of 90 samples, drawn by lot, it has ruled out 9 that it should not have",
            shadow=shadow,
            labels=LabelsState(asked=23, by_lot=9, cut=0.375, left=4.5),
        ),
        FilterState(
            name="reuse",
            kind="reuse",
            state="on",
            seen=1900,
            filtered=800,
            failed=0,
            shadow=ShadowState(drawn=7, judged=0, wrong=0),
            cache=CacheState(keys=900, most=1024, evicted=3, expired=17),
        ),
    )


class _OneBroken(Replay):
    """A source whose first sample cannot be read."""

    _broken = True

    def poll(self, now_ns: int) -> Any:  # noqa: ANN401 -- the base's
        if self._broken:
            self._broken = False
            raise DataError("is broken", where="sample 0")
        return super().poll(now_ns)


def _shares(names: tuple[str, ...]) -> dict[str, Share]:
    """Return shares of all kinds: a figure, one that cannot be told, and an unmeasured one."""
    kinds: itertools.cycle[Joules] = itertools.cycle([1.5, "not resolvable", 2.25, None])
    return {
        name: Share(joules=joules, busy_s=0.5, count=9, each_j=None)
        for name, joules in zip(names, kinds, strict=False)
    }


def _energy() -> EnergyReport:
    return EnergyReport(
        source="ina3221",
        scope="module",
        replayed=True,
        window_s=12.0,
        samples=120,
        coverage=0.975,
        resolution_j=0.48,
        net_resolution_j=0.6,
        power_w=6.25,
        idle_w=4.5,
        total_j=75.125,
        net_j=21.5,
        other_j="not resolvable",
        rails_j={"VDD_IN": 75.125, "VDD_SOC": "not resolvable", "NC": None},
        faults={"gap": 2, "frozen": 1},
    )


def with_everything(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot as one in which every stage, route and figure there is occurs."""
    report = snapshot.streams["cam"]
    one = report.latency_ms["infer"]
    full = msgspec.structs.replace(
        report,
        latency_ms=dict.fromkeys(STAGES, one),
        first_ms=dict.fromkeys(ROUTES, one),
        final_ms=dict.fromkeys(ANSWERS, one),
        ends=dict.fromkeys(ENDS, 1),
    )
    assert snapshot.energy is not None
    energy = msgspec.structs.replace(snapshot.energy, other_j=0.75)
    return msgspec.structs.replace(snapshot, streams={"cam": full}, energy=energy)
