"""The budget of a gate, over hours of streams whose scores and rates change."""

from __future__ import annotations

import math
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedge.runtime.gate.budget import OPEN, SHUT, BudgetController
from hedge.runtime.gate.seen import SIZE, Seen

_STREAMS = runpy.run_path(str(Path(__file__).with_name("gate_streams.py")))
_KINDS: dict[str, Any] = _STREAMS["KINDS"]
_play = _STREAMS["play"]
_S = 1_000_000_000
_EVERY_S = 2


@pytest.mark.parametrize("name", sorted(_KINDS))
def test_a_budget_is_held_in_every_hour_whatever_the_stream_does(name: str) -> None:
    played = _play(_KINDS[name], hours=4, per_hour=360, seed=20265)
    assert np.abs(played.hours()[1:] - 1).max() <= 0.05, played.hours()
    assert np.abs(played.any_hour() - 1).max() <= 0.05, "an hour may begin at any minute"
    assert abs(played.strayed) <= 0.1, "which the first hour is among"
    assert played.longest_s <= 120, "no burst shuts the gate for long"


def test_a_budget_of_bytes_is_held_as_one_of_messages_is() -> None:
    played = _play(_KINDS["steady"], hours=3, per_hour=360 * 4000, seed=20266, unit="bytes")
    assert np.abs(played.hours()[1:] - 1).max() <= 0.05, played.hours()


def test_what_is_escalated_under_a_budget_are_the_highest_scores() -> None:
    seeds = (1, 2, 3, 4)
    played = [_play(_KINDS["steady"], hours=2, per_hour=360, seed=seed).caught for seed in seeds]
    assert np.mean(played) > 0.85, played


def test_it_does_not_swing_between_spending_much_and_nothing() -> None:
    spent = _play(_KINDS["steady"], hours=3, per_hour=720, seed=7).spent[60:]
    by_ten = spent.reshape(-1, 10).sum(axis=1) * 6
    assert by_ten.min() > 0.8
    assert by_ten.max() < 1.2
    assert spent.std() * 720 < 1.2 * math.sqrt(720 / 60), "no more than chance would, by minute"


def _fed(per_hour: float, scores: list[float], *, hz: float, seconds: int) -> BudgetController:
    """Return a controller that has seen these scores, over and over, and escalated nothing."""
    seen = Seen()
    budget = BudgetController(per_hour, unit="messages", seen=seen, calibrated=0.5)
    many = 0
    for second in range(0, seconds, _EVERY_S):
        budget.feed(second * _S)
        while many < hz * second:
            seen.put(scores[many % len(scores)])
            many += 1
    return budget


def test_a_stream_with_fewer_samples_than_its_budget_escalates_them_all() -> None:
    budget = _fed(3600, [0.1, 0.2], hz=0.1, seconds=1800)
    assert budget.total == OPEN
    empty = BudgetController(60, unit="messages", seen=Seen(), calibrated=0.5)
    for minute in range(70):
        empty.feed(minute * 60 * _S)
    assert empty.total == OPEN
    assert empty.state().strayed is not None
    assert abs(empty.state().strayed or 0.0) < 0.1, "what no sample came for is not missed"


def test_until_it_has_seen_enough_the_gate_stands_where_calibration_has_put_it() -> None:
    seen = Seen()
    budget = BudgetController(3600, unit="messages", seen=seen, calibrated=0.375)
    budget.feed(0)
    for number in range(20):
        seen.put(number / 20)
    budget.feed(2 * _S)
    assert budget.total == 0.375


def test_an_overspent_budget_shuts_the_gate_at_once_and_opens_it_again_soon() -> None:
    budget = _fed(3600, [0.1, 0.5, 0.9, 0.7, 0.3], hz=5, seconds=600)
    assert OPEN < budget.total < SHUT
    shut_after = next(number for number in range(1, 1000) if budget.spend(100))
    assert budget.total == SHUT
    assert shut_after <= 0.05 * 3600 + 1, "what was put by, and what may be owed"
    for second in range(600, 600 + 30, _EVERY_S):
        budget.feed(second * _S)
    assert budget.total < SHUT


def test_a_budget_of_a_few_messages_is_not_held_shut_by_one() -> None:
    budget = _fed(6, [0.2, 0.4, 0.6, 0.8], hz=1, seconds=1200)
    assert not budget.spend(100)


def test_a_clock_that_stands_or_leaps_does_no_harm() -> None:
    budget = _fed(360, [0.1, 0.4, 0.9], hz=3, seconds=300)
    before = budget.total
    budget.feed(298 * _S)
    budget.feed(298 * _S)
    assert budget.total == before
    budget.feed(400 * 3600 * _S)  # asleep for weeks
    state = budget.state()
    assert state.last_hour == 0.0
    assert math.isfinite(state.mean_per_hour)
    assert OPEN <= budget.total <= SHUT


def test_what_was_spent_is_told_by_the_hour_and_by_the_run() -> None:
    budget = BudgetController(120, unit="bytes", seen=Seen(), calibrated=0.5)
    for minute in range(150):
        budget.feed(minute * 60 * _S)
        budget.spend(3 if minute < 90 else 1)
    budget.feed(150 * 60 * _S)
    state = budget.state()
    assert (state.unit, state.per_hour, state.last_hour) == ("bytes", 120, 60.0)
    assert state.mean_per_hour == pytest.approx((90 * 3 + 60) / 2.5)
    assert state.strayed == pytest.approx(180 / 120 - 1, abs=0.05)


def test_the_ring_keeps_the_last_scores_in_order() -> None:
    seen = Seen()
    assert seen.last().size == 0
    for number in range(SIZE + 700):
        seen.put(float(number))
    assert seen.count == SIZE + 700
    assert seen.last().tolist() == [float(number) for number in range(700, SIZE + 700)]
    assert seen.last(3).tolist() == [SIZE + 697.0, SIZE + 698.0, SIZE + 699.0]
    assert seen.last(1000)[0] == SIZE + 700 - 1000, "across the seam"
    taken = seen.last(2)
    seen.put(-1.0)
    assert taken.tolist() == [SIZE + 698.0, SIZE + 699.0], "a copy"
