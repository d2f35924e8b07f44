"""The device's loop: every sample has its outcomes, whatever the far end does."""

from __future__ import annotations

import itertools
import threading
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hedge.models.errors import DataError, UplinkError
from hedge.models.manifest import Calibration, Input
from hedge.models.opinion import Assessor
from hedge.models.prepare import preparer
from hedge.models.records import Opinion, Outcome
from hedge.runtime.backends.null import NullModel
from hedge.runtime.filters.screen import Screen
from hedge.runtime.filters.skip import SkipFilter
from hedge.runtime.lane import Lane
from hedge.runtime.loop import Loop
from hedge.runtime.notify import Notifier
from hedge.runtime.policy import Policy
from hedge.runtime.sources.replay import Replay
from hedge.runtime.sources.source import Captured
from hedge.telemetry.ledger import Ledger
from hedge.uplink.asks import Answer, Ask, Audited, Contract, Owed
from hedge.uplink.codecs import Codec

_INPUT = Input(kind="tensor", shape=(2,), dtype="float32")
_SURE = (20.0, -20.0, -20.0)  # label 0, vacuity 0.13
_UNSURE = (-6.0, -4.0, -6.0)  # label 1, vacuity 0.99
_CLOUD = np.array([0.1, 0.2, 0.7], np.float32)  # label 2
_WITHIN_NS = 1_000_000_000
_Fate = Literal["now", "later", "never", "refused", "twice", "full"]


class Clock:
    """Nanoseconds that pass only when someone waits; reading takes one of them."""

    def __init__(self) -> None:
        self.now_ns = 10**9

    def __call__(self) -> int:
        self.now_ns += 1
        return self.now_ns


class Bell(threading.Event):
    """Waiting lets the clock pass at once instead."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None, "the loop would sleep for ever"
        self._clock.now_ns += int(timeout * 1e9) + 1
        return True


class ScriptedUplink:
    """Answers each ask by its fate, in turn: at once, later, never, twice and so on."""

    def __init__(self, fates: Sequence[_Fate], clock: Clock) -> None:
        self._fates = itertools.cycle(fates)
        self._clock = clock
        self.due: list[tuple[int, Answer]] = []
        self.connected = True
        self.asks: list[Ask] = []
        self.finals: list[str] = []
        self.error: UplinkError | None = None

    def offer(self, ask: Ask) -> bool:
        fate = next(self._fates)
        self.asks.append(ask)
        answer = Answer(ask.id, ask.stream, "answered", _CLOUD, asked_at_ns=ask.asked_at_ns)
        soon, late = self._clock.now_ns, self._clock.now_ns + 2 * _WITHIN_NS
        match fate:
            case "now":
                self.due.append((soon, answer))
            case "twice":
                self.due += [(soon, answer), (soon, answer)]
            case "later":
                self.due.append((late, answer))
            case "refused":
                self.due.append(
                    (soon, Answer(ask.id, ask.stream, "refused", detail="no such model"))
                )
            case "never" | "full":
                pass
        return fate != "full"

    def answers(self) -> list[Answer]:
        ready = [answer for due_ns, answer in self.due if due_ns <= self._clock.now_ns]
        self.due = [one for one in self.due if one[0] > self._clock.now_ns]
        return ready

    def audited(self) -> list[Audited]:
        return []

    def final(self, ask_id: str) -> None:
        self.finals.append(ask_id)

    def owed(self) -> list[Owed]:
        return []

    def adopt(
        self,
        contracts: Mapping[str, Contract],
        *,
        codecs: Mapping[str, Codec],
        since: Mapping[str, tuple[int, int]],
    ) -> None:
        self.adopted = (contracts, codecs, since)

    def busy_ns(self) -> int:
        return 0

    def counters(self) -> dict[str, int]:
        return {}

    def start(self) -> None: ...

    def note(self, text: str | None) -> None: ...

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def close(self, *, timeout_s: float) -> None: ...


@dataclass
class Collector:
    """A sink that keeps what it gets."""

    outcomes: list[Outcome] = field(default_factory=list)

    def emit(self, outcome: Outcome) -> None:
        self.outcomes.append(outcome)

    def close(self) -> None: ...

    def by_id(self) -> dict[str, list[Outcome]]:
        found = defaultdict(list)
        for outcome in self.outcomes:
            found[outcome.id].append(outcome)
        return found


def _lane(
    clock: Clock,
    outputs: Sequence[Sequence[float]],
    *,
    name: str = "s",
    drop: Sequence[bool] = (False,),
    rate_hz: float | None = None,
    total: float = 0.5,
    aleatoric: float = 2.0,
    **options: Any,  # noqa: ANN401 -- those of Lane
) -> Lane:
    """A lane whose model gives these outputs, one a sample, and whose filter drops some."""
    filters = []
    if any(drop):
        logits = np.array([[-3.0 if one else 3.0] for one in drop])
        model = NullModel(logits, shape=(2,))
        skip = SkipFilter(model, threshold=0.5, prepare=preparer(_INPUT))
        filters = [Screen(skip, name="skip", kind="skip")]
    calibration = Calibration(
        score="vacuity",
        total=total,
        epistemic=2.0,
        aleatoric=aleatoric,
        fusion=aleatoric < 1,
        method="test",
        rows=1,
        data_sha256="0" * 64,
    )
    x = np.ones((len(drop) if any(drop) else len(outputs), 2), np.float32)
    kept = list(outputs) if len(outputs) else [_SURE]
    return Lane(
        **{
            "name": name,
            "source": Replay(x, rate_hz=rate_hz),
            "input": _INPUT,
            "filters": filters,
            "model": NullModel(np.array(kept), shape=(2,)),
            "prepare": preparer(_INPUT),
            "assessor": Assessor(output="logits", head="evidential", classes=3),
            "policy": Policy.of(calibration),
            "ledger": Ledger(name),
            "clock": clock,
            "answer_within_ns": _WITHIN_NS,
            **options,
        }
    )


def _loop(lanes: Sequence[Lane], clock: Clock, *, sink: Collector, uplink: ScriptedUplink) -> Loop:
    return Loop(
        lanes,
        ids=(f"1-{number}" for number in itertools.count()),
        sinks=[sink],
        uplink=uplink,
        bell=Bell(clock),
        clock=clock,
        feeds=[Notifier({})],
    )


def _run(
    lanes: Sequence[Lane], clock: Clock, *fates: _Fate, uplink: ScriptedUplink | None = None
) -> tuple[Collector, Loop]:
    sink = Collector()
    loop = _loop(lanes, clock, sink=sink, uplink=uplink or ScriptedUplink(fates or ("now",), clock))
    loop.run()
    for lane in lanes:
        assert lane.ledger.imbalance() is None
        assert not lane.waiting
    return sink, loop


def test_a_sure_sample_is_answered_by_the_edge_at_once() -> None:
    clock = Clock()
    sink, _ = _run([_lane(clock, [_SURE])], clock)
    (outcome,) = sink.outcomes
    assert (outcome.route, outcome.label, outcome.final) == ("edge", 0, True)
    assert outcome.latency_ns > 0


def test_an_unsure_sample_has_the_edges_answer_first_and_the_clouds_after() -> None:
    clock = Clock()
    sink, _ = _run([_lane(clock, [_UNSURE])], clock)
    first, final = sink.outcomes
    assert (first.id, first.route, first.label, first.final) == (final.id, "edge", 1, False)
    assert (final.route, final.label, final.final, final.degraded) == ("cloud", 2, True, None)


def test_a_dropped_sample_has_one_unlabelled_final_outcome() -> None:
    clock = Clock()
    lane = _lane(clock, [_SURE], drop=[True, False])
    sink, _ = _run([lane], clock)
    assert [(o.route, o.label, o.final) for o in sink.outcomes] == [
        ("dropped", None, True),
        ("edge", 0, True),
    ]
    assert lane.ledger.report().latency_ms["first"].count == 1, "what is dropped is no answer"


def test_an_answer_that_never_comes_leaves_the_edges_at_the_deadline() -> None:
    clock = Clock()
    sink, _ = _run([_lane(clock, [_UNSURE])], clock, "never")
    final = sink.outcomes[-1]
    assert (final.route, final.label, final.degraded) == ("edge", 1, "deadline")
    assert final.latency_ns == pytest.approx(_WITHIN_NS, rel=0.01)


def test_without_a_connection_the_reason_is_unavailable() -> None:
    clock = Clock()
    uplink = ScriptedUplink(["never"], clock)
    uplink.connected = False
    sink, _ = _run([_lane(clock, [_UNSURE])], clock, uplink=uplink)
    assert sink.outcomes[-1].degraded == "unavailable"


def test_abstaining_gives_no_label_where_the_cloud_gave_none() -> None:
    clock = Clock()
    sink, _ = _run([_lane(clock, [_UNSURE], on_unavailable="abstain")], clock, "never")
    final = sink.outcomes[-1]
    assert (final.label, final.probs, final.degraded) == (None, None, "deadline")
    assert sink.outcomes[0].label == 1, "the first outcome is the edge's all the same"


def test_what_cannot_be_stored_is_final_at_once() -> None:
    clock = Clock()
    lane = _lane(clock, [_UNSURE])
    sink, _ = _run([lane], clock, "full")
    assert sink.outcomes[-1].degraded == "not_stored"
    assert lane.ledger.ends["refused"] == 1


def test_an_error_of_the_worker_finalises_at_once() -> None:
    clock = Clock()
    sink, _ = _run([_lane(clock, [_UNSURE])], clock, "refused")
    final = sink.outcomes[-1]
    assert final.degraded == "refused"
    assert final.latency_ns < _WITHIN_NS


def test_an_answer_after_the_deadline_is_an_event_and_never_a_second_final() -> None:
    clock = Clock()
    lanes = [_lane(clock, [_UNSURE], name="a"), _lane(clock, [_SURE] * 9, name="b", rate_hz=2.0)]
    sink, loop = _run(lanes, clock, "later")
    first, final, late = sink.by_id()["1-0"]
    assert (first.final, final.final, final.degraded) == (False, True, "deadline")
    assert (late.final, late.route, late.label, late.reason) == (False, "cloud", 2, "late")
    assert late.latency_ns > _WITHIN_NS
    assert loop.counts["late_answer"] == 1


def test_a_second_answer_is_never_a_second_final() -> None:
    clock = Clock()
    sink, loop = _run([_lane(clock, [_UNSURE, _SURE])], clock, "twice")
    assert [o.final for o in sink.by_id()["1-0"]] == [False, True, False]
    assert loop.counts["late_answer"] == 1


def test_both_opinions_are_fused_where_the_table_says_so() -> None:
    clock = Clock()
    sink, _ = _run([_lane(clock, [_UNSURE], aleatoric=0.01)], clock, "now")
    final = sink.outcomes[-1]
    assert final.route == "fused"
    assert final.probs is not None
    edge = sink.outcomes[0].probs
    assert edge is not None
    low, high = np.minimum(edge, _CLOUD), np.maximum(edge, _CLOUD)
    assert ((final.probs > low - 1e-6) & (final.probs < high + 1e-6)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_no_numbers_fail_that_sample_only(bad: float) -> None:
    clock = Clock()
    lane = _lane(clock, [_SURE, (bad, 0.0, 1.0), _SURE])
    sink, _ = _run([lane], clock)
    assert [o.route for o in sink.outcomes] == ["edge", "failed", "edge"]
    assert lane.ledger.reasons["ModelError"] == 1


class BadSource:
    """Gives, in turn, a capture or the error in its place."""

    patient, overrun = True, 0

    def __init__(self, captures: Sequence[NDArray[Any] | Exception]) -> None:
        self._captures = list(captures)

    @property
    def ended(self) -> bool:
        return not self._captures

    def due_ns(self) -> int:
        return 0

    def poll(self, now_ns: int) -> Captured | None:
        match self._captures.pop(0):
            case Exception() as error:
                raise error
            case data:
                return Captured(data, now_ns)

    def close(self) -> None: ...


def test_of_a_row_of_failures_the_first_are_logged_and_then_ever_fewer(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clock = Clock()
    sink, _ = _run([_lane(clock, [(np.nan, 0.0, 0.0)] * 100)], clock)
    warnings = [one for one in caplog.records if one.levelname == "WARNING"]
    numbers = [int(one.message.split("failed sample ")[1].split(":")[0]) for one in warnings]
    assert numbers == [*range(1, 17), 17, 18, 20, 24, 32, 48, 80]
    assert "failed sample 80: model: output 0 is nan" in warnings[-1].message
    assert {one.detail for one in sink.outcomes} == {"model: output 0 is nan"}, "each says why"


def test_a_sample_that_does_not_fit_fails_alone_whatever_is_wrong_with_it() -> None:
    clock = Clock()
    source = BadSource(
        [
            np.ones(2, np.float32),
            np.ones(3, np.float32),
            np.ones(2, np.complex128),
            DataError("unreadable", where="a.npy"),
            RuntimeError("a bug"),
            np.ones(2, np.float64),
        ]
    )
    lane = _lane(clock, [_SURE], source=source)
    sink, _ = _run([lane], clock)
    assert [o.route for o in sink.outcomes] == ["edge", *["failed"] * 4, "edge"]
    assert lane.ledger.reasons == {"sure": 2, "DataError": 3, "bug": 1}
    assert len(sink.by_id()) == 6, "each has an id of its own"


def test_waiting_mode_keeps_its_own_stream_waiting_and_no_other() -> None:
    clock = Clock()
    waits = _lane(clock, [_UNSURE, _SURE], name="waits", mode="wait")
    sink, _ = _run([waits, _lane(clock, [_SURE] * 3, name="other")], clock, "never")
    order = [(o.stream, o.final) for o in sink.outcomes]
    assert order == [("waits", False), *[("other", True)] * 3, ("waits", True), ("waits", True)]


def test_a_patient_source_is_kept_waiting_when_too_much_is_outstanding() -> None:
    clock = Clock()
    lane = _lane(clock, [_UNSURE] * 5, window=2)
    sink, _ = _run([lane], clock, "never")
    assert {o.degraded for o in sink.outcomes if o.final} == {"deadline"}


def test_a_live_source_is_never_kept_waiting_and_the_excess_is_degraded() -> None:
    clock = Clock()
    lane = _lane(clock, [_UNSURE] * 5, window=2, rate_hz=1000.0)
    sink, _ = _run([lane], clock, "never")
    finals = sorted(str(o.degraded) for o in sink.outcomes if o.final)
    assert finals == ["deadline"] * 2 + ["not_stored"] * 3


def test_streams_get_their_turns_in_fair_order() -> None:
    clock = Clock()
    lanes = [_lane(clock, [_SURE] * 3, name=name) for name in ("a", "b", "c")]
    sink, _ = _run(lanes, clock)
    assert "".join(o.stream for o in sink.outcomes) == "abcabcabc"


def test_stopping_finishes_what_waits_and_reads_no_more() -> None:
    clock = Clock()
    lane = _lane(clock, [_UNSURE] * 100)
    sink = Collector()
    loop: Loop

    def stop_at_the_fifth(outcome: Outcome) -> None:
        sink.emit(outcome)
        if outcome.id == "1-4":
            loop.stop()

    stopper = Collector()
    stopper.emit = stop_at_the_fifth  # type: ignore[method-assign]
    loop = Loop(
        [lane],
        ids=(f"1-{number}" for number in itertools.count()),
        sinks=[stopper],
        uplink=ScriptedUplink(["never"], clock),
        bell=Bell(clock),
        clock=clock,
        feeds=[Notifier({})],
    )
    loop.run()
    assert lane.ledger.read == 5
    assert [o.degraded for o in sink.outcomes if o.final] == ["stopped"] * 5
    assert lane.ledger.imbalance() is None


def test_a_sink_that_fails_is_counted_and_the_others_get_their_outcomes() -> None:
    clock = Clock()

    class Full(Collector):
        def emit(self, outcome: Outcome) -> None:
            raise OSError(28, f"no space left for {outcome.id}")

    good = Collector()
    loop = Loop(
        [_lane(clock, [_SURE] * 3)],
        ids=(f"1-{number}" for number in itertools.count()),
        sinks=[Full(), good],
        uplink=ScriptedUplink(["now"], clock),
        bell=Bell(clock),
        clock=clock,
        feeds=[Notifier({})],
    )
    loop.run()
    assert len(good.outcomes) == 3
    assert loop.counts["sink_errors"] == 3


def test_a_dead_uplink_takes_the_daemon_down() -> None:
    clock = Clock()
    uplink = ScriptedUplink(["now"], clock)
    uplink.error = UplinkError("its thread has died")
    with pytest.raises(UplinkError, match="died"):
        _run([_lane(clock, [_SURE])], clock, uplink=uplink)


_OUTPUTS = st.sampled_from([_SURE, _UNSURE, (np.nan, 0.0, 0.0)])
_FATES: st.SearchStrategy[list[_Fate]] = st.lists(
    st.sampled_from(["now", "later", "never", "refused", "twice", "full"]), min_size=1
)


@given(
    streams=st.lists(
        st.tuples(
            st.lists(_OUTPUTS, min_size=1, max_size=8),
            st.lists(st.booleans(), min_size=1, max_size=8),
            st.sampled_from([None, 3.0, 500.0]),
            st.sampled_from(["async", "wait"]),
            st.integers(1, 4),
        ),
        min_size=1,
        max_size=3,
    ),
    fates=_FATES,
)
def test_whatever_happens_every_sample_has_one_final_outcome_after_its_first(
    streams: list[tuple[list[tuple[float, ...]], list[bool], float | None, Any, int]],
    fates: list[_Fate],
) -> None:
    clock = Clock()
    lanes = [
        _lane(clock, outputs, name=f"s{n}", drop=drop, rate_hz=rate, mode=mode, window=window)
        for n, (outputs, drop, rate, mode, window) in enumerate(streams)
    ]
    sink, _ = _run(lanes, clock, *fates)
    histories = sink.by_id()
    assert len(histories) == sum(lane.ledger.read for lane in lanes)
    for history in histories.values():
        in_time = [outcome.final for outcome in history if outcome.reason != "late"]
        assert in_time in ([True], [False, True])
    for lane in lanes:
        mine = [o for o in sink.outcomes if o.stream == lane.name and o.reason != "late"]
        firsts = [o.id for o in mine if not o.final]
        assert firsts == sorted(firsts, key=lambda one: int(one[2:])), "in the stream's order"


# ---- What is owed over a restart


def _owed(ask_id: str, *, stream: str = "s", by_ns: int) -> Owed:
    opinion = Opinion(np.array([0.2, 0.5, 0.3], np.float32), 0.9, "vacuity", vacuity=0.9)
    return Owed(id=ask_id, stream=stream, opinion=opinion, asked_at_ns=500, answer_by_ns=by_ns)


def _resumed(
    owed: Sequence[Owed], *fates: _Fate, outputs: Sequence[Sequence[float]] = (_SURE,)
) -> tuple[Collector, Loop, ScriptedUplink, Lane]:
    clock = Clock()
    uplink = ScriptedUplink(fates or ("now",), clock)
    for one in owed:
        if one.id.startswith("answered"):
            answer = Answer(one.id, one.stream, "answered", _CLOUD, asked_at_ns=one.asked_at_ns)
            uplink.due.append((clock.now_ns + 10_000, answer))
    lane = _lane(clock, outputs)
    sink = Collector()
    loop = _loop([lane], clock, sink=sink, uplink=uplink)
    loop.resume(owed)
    loop.run()
    return sink, loop, uplink, lane


def test_what_is_owed_after_a_restart_is_waited_for_if_its_user_still_waits() -> None:
    owed = [_owed("answered-0", by_ns=10**9 + 10**8), _owed("0-1", by_ns=10**9 + 10**7)]
    sink, _, uplink, lane = _resumed(owed)
    (answered,) = sink.by_id()["answered-0"]
    assert (answered.final, answered.route, answered.label) == (True, "cloud", 2)
    (late,) = sink.by_id()["0-1"]
    assert (late.final, late.route, late.label, late.degraded) == (True, "edge", 1, "deadline")
    assert set(uplink.finals) == {"answered-0", "0-1"}
    assert lane.ledger.resumed == 2
    assert lane.ledger.imbalance() is None


def test_what_is_owed_after_a_restart_and_overdue_has_its_final_at_once() -> None:
    sink, _, uplink, lane = _resumed([_owed("0-1", by_ns=10**8)])
    first = sink.outcomes[0]
    assert (first.id, first.final, first.label, first.degraded) == ("0-1", True, 1, "restarted")
    assert uplink.finals == ["0-1"]
    assert (lane.ledger.resumed, lane.ledger.ends["expired"]) == (1, 1)
    assert lane.ledger.imbalance() is None


def test_what_is_owed_of_a_stream_that_is_served_no_more_is_counted_and_let_go() -> None:
    sink, loop, uplink, _ = _resumed([_owed("0-1", stream="gone", by_ns=10**10)])
    assert "0-1" not in sink.by_id()
    assert loop.counts["orphaned"] == 1
    assert uplink.finals == ["0-1"]


def test_an_older_longer_deadline_does_not_hold_up_those_of_this_run() -> None:
    sink, _, _, _ = _resumed([_owed("0-1", by_ns=10**15)], "never", outputs=[_UNSURE])
    ends = {o.id: o for o in sink.outcomes if o.final}
    assert ends["0-1"].degraded == ends["1-0"].degraded == "deadline"
    assert ends["1-0"].latency_ns == pytest.approx(_WITHIN_NS, rel=0.01)


def test_the_uplink_hears_no_finals_of_what_it_has_not_taken() -> None:
    clock = Clock()
    uplink = ScriptedUplink(["full", "now"], clock)
    sink, _ = _run([_lane(clock, [_UNSURE] * 4)], clock, uplink=uplink)
    assert sum(outcome.final for outcome in sink.outcomes) == 4
    assert sorted(uplink.finals) == ["1-1", "1-3"]


def test_a_final_that_a_sink_has_not_taken_is_still_owed() -> None:
    clock = Clock()
    uplink = ScriptedUplink(["now"], clock)

    class Full(Collector):
        def emit(self, outcome: Outcome) -> None:
            super().emit(outcome)
            if outcome.final and outcome.id == "1-0":
                raise OSError("no space left on device")

    loop = _loop([_lane(clock, [_UNSURE, _UNSURE])], clock, sink=Full(), uplink=uplink)
    loop.run()
    assert uplink.finals == ["1-1"]
    assert loop.counts["sink_errors"] == 1
