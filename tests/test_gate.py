"""The gate of a stream: what moves it, which of them wins, and what is told of it."""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest

from hedge.models.manifest import Budget, Calibration, Promise
from hedge.models.records import Opinion
from hedge.runtime.gate.audit import Said
from hedge.runtime.gate.gate import Gate, budget_of
from hedge.runtime.gate.options import AuditOptions, GateOptions
from hedge.telemetry.gate_state import DriftState, GateState

_SEED = 20268
_S = 1_000_000_000
_PROMISE = Promise(accuracy=0.9, confidence=0.95, by="row", coverage=0.6, rows=500)
_CALIBRATION = Calibration(
    score="max_prob",
    total=0.5,
    promise=_PROMISE,
    reference=tuple(number / 20 for number in range(1, 20)),
    method="test",
    rows=2000,
    data_sha256="0" * 64,
)
_ALL = AuditOptions(share=1.0, most_per_hour=1_000_000)


def _gate(calibration: Calibration = _CALIBRATION, **given: Any) -> Gate:  # noqa: ANN401 -- any option
    options = {"options": GateOptions(), "audit": AuditOptions(share=0), **given}
    return Gate(calibration, stream="cam", rng=random.Random(_SEED), clock=_hourly(), **options)  # noqa: S311


def _tell(gate: Gate, *, score: float, wrong: bool) -> None:
    said = Said(score, int(wrong), accepted=score < gate.policy.total)
    gate.learn(said, truth=0)


def _hourly() -> Callable[[], int]:
    """Return a clock on which an hour passes whenever it is looked at: no purse is ever empty."""
    return functools.partial(next, itertools.count(0, 3600 * _S))


def _accepts(gate: Gate, score: float) -> bool:
    opinion = Opinion(np.array([0.6, 0.4]), score, "max_prob")
    decision, _ = gate.policy.decide(opinion, opinion.probs, deepen=lambda one, _: one)
    return decision.action == "accept"


def _audited(gate: Gate, *, rows: int, wrong_from: float, seed: int = _SEED) -> None:
    """Let the gate learn of uniform scores; those from ``wrong_from`` are wrong, half of them."""
    rng = np.random.default_rng(seed)
    for score, coin in rng.random((rows, 2)):
        _tell(gate, score=float(score), wrong=bool(score >= wrong_from and coin < 0.5))


def test_without_anything_to_move_it_the_gate_stands_where_calibration_has_put_it() -> None:
    gate = _gate(msgspec.structs.replace(_CALIBRATION, promise=None, reference=()))
    rng = np.random.default_rng(_SEED)
    for number, score in enumerate(rng.random(5000)):
        assert not gate.note(float(score))
        assert gate.feed(number * _S) is None
    assert gate.state() == GateState(score="max_prob", total=0.5, calibrated=0.5)
    assert (_accepts(gate, 0.49), _accepts(gate, 0.5)) == (True, False)


def test_a_promise_that_fails_tightens_the_gate_and_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    gate = _gate(audit=_ALL)
    _audited(gate, rows=3000, wrong_from=0.2)
    assert gate.policy.total < 0.5
    state = gate.state()
    assert state.promise is not None
    assert (state.promise.state, state.total) == ("tightened", gate.policy.total)
    assert state.audit is not None
    assert state.audit.judged == 3000
    assert "cam: the gate has to stand at" in caplog.text


def test_the_promise_moves_nothing_where_it_is_told_not_to() -> None:
    for gate in (_gate(options=GateOptions(promise=False), audit=_ALL), _gate()):
        _audited(gate, rows=2000, wrong_from=0.0)
        assert gate.policy.total == 0.5
        assert gate.state().promise is None, "without an audit it is not known"


def _play(gate: Gate, *, seconds: int, hz: int, seed: int = _SEED) -> list[int]:
    """Let uniform scores come; return how many were escalated in each second."""
    rng = np.random.default_rng(seed)
    found = []
    for second in range(seconds):
        gate.feed(second * _S)
        escalated = 0
        for score in rng.random(hz):
            gate.note(float(score))
            if not _accepts(gate, float(score)):
                gate.spend(1000)
                escalated += 1
        found.append(escalated)
    return found


def test_a_budget_moves_the_gate_above_and_below_calibration() -> None:
    for per_hour, above in ((360.0, True), (14_400.0, False)):
        gate = _gate(options=GateOptions(messages_per_hour=per_hour))
        escalated = _play(gate, seconds=3600, hz=5)
        assert sum(escalated) == pytest.approx(per_hour, rel=0.05)
        assert (gate.policy.total > 0.5) == above
        state = gate.state()
        assert state.budget is not None
        assert state.budget.last_hour == pytest.approx(sum(escalated), abs=20)
        assert state.calibrated == 0.5


def test_a_burst_that_overspends_a_budget_shuts_the_gate_between_two_feeds() -> None:
    gate = _gate(options=GateOptions(bytes_per_hour=360_000.0))
    gate.feed(0)
    gate.feed(60 * _S)
    escalated = 0
    for _ in range(1000):
        gate.note(0.99)
        if not _accepts(gate, 0.99):
            gate.spend(1000)
            escalated += 1
    assert 1 <= escalated <= 30, "a twentieth of the budget, and what a small one may stray"


def test_a_budget_that_keeps_the_gate_open_though_the_promise_fails_is_named() -> None:
    gate = _gate(options=GateOptions(messages_per_hour=360.0), audit=_ALL)
    _play(gate, seconds=900, hz=5)
    promise = gate.state().promise
    assert promise is not None
    assert (promise.state, promise.why) == ("unkept", "budget"), "above where it was calibrated"
    _audited(gate, rows=3000, wrong_from=0.2)
    gate.feed(901 * _S)
    assert gate.policy.total > 0.5, "the budget alone says where the gate stands"


def test_a_budget_that_lets_more_be_asked_than_the_promise_needs_keeps_it() -> None:
    gate = _gate(options=GateOptions(messages_per_hour=14_400.0), audit=_ALL)
    _play(gate, seconds=600, hz=5)
    promise = gate.state().promise
    assert promise is not None
    assert (promise.state, promise.why) == ("kept", None)


def test_the_stream_s_own_budget_comes_before_the_bundle_s_and_nought_is_none() -> None:
    bundle = Budget(bytes_per_hour=5000.0)
    assert budget_of(GateOptions(), None) is None
    assert budget_of(GateOptions(), bundle) == (5000.0, "bytes")
    assert budget_of(GateOptions(messages_per_hour=7.0), bundle) == (7.0, "messages")
    assert budget_of(GateOptions(bytes_per_hour=0.0), bundle) is None
    assert budget_of(GateOptions(messages_per_hour=0.0), bundle) is None


def test_the_audit_draws_its_share_of_all_samples_whatever_their_score() -> None:
    gate = _gate(audit=AuditOptions(share=0.1, most_per_hour=1_000_000))
    rng = np.random.default_rng(_SEED)
    scores = rng.random(20_000)
    drawn = np.array([gate.note(float(score)) for score in scores])
    assert drawn.mean() == pytest.approx(0.1, abs=0.01)
    assert scores[drawn].mean() == pytest.approx(scores.mean(), abs=0.03)
    gaps = np.diff(np.flatnonzero(drawn))
    assert (gaps == 1).mean() == pytest.approx(0.1, abs=0.02), "each has its own coin"


def test_drift_is_told_once_when_it_begins_and_once_when_it_ends() -> None:
    told: list[DriftState] = []
    gate = _gate(told=told.append)
    rng = np.random.default_rng(_SEED)
    for number, score in enumerate([*rng.random(3000), *rng.beta(4, 1, 3000), *rng.random(5000)]):
        gate.note(float(score))
        gate.feed(number)
    assert [state.drifting for state in told] == [True, False]
    assert gate.feed(99_999) is None, "nothing is due"
    assert gate.state().drift == told[-1] or gate.state().drift is not None


def test_a_score_that_is_no_number_harms_nothing() -> None:
    gate = _gate(options=GateOptions(messages_per_hour=360.0), audit=_ALL)
    for second in range(600):
        gate.feed(second * _S)
        for score in (0.1, float("nan"), 0.7):
            gate.note(score)
    _tell(gate, score=float("nan"), wrong=True)
    assert 0 <= gate.policy.total <= 2
    assert not _accepts(gate, float("nan"))
    msgspec.json.encode(gate.state())
