"""Energy from readings: the integral against other formulas, and every fault of a sensor."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import trapezoid

from hedge.telemetry.energy.figures import EnergyReport
from hedge.telemetry.energy.integral import (
    BRIDGE_S,
    FINE_STEPS,
    FROZEN_READINGS,
    FROZEN_S,
    GAP_S,
    PLAUSIBLE_W,
    Integral,
    Totals,
    resolution_j,
)
from hedge.telemetry.energy.series import Series
from hedge.telemetry.power.reader import PowerSource

SECOND = 10**9


def source(**changes: Any) -> PowerSource:  # noqa: ANN401 -- what the record takes
    """Return a sensor of two rails, whose total is both."""
    given: dict[str, Any] = {
        "name": "test",
        "kind": "power",
        "rails": ("A", "B"),
        "total": ("A", "B"),
        "scope": "module",
    }
    return PowerSource(**{**given, **changes})


ONE = source(rails=("A",), total=("A",))
COUNTER = source(rails=("A",), total=("A",), kind="energy", scope="package", step=61e-6)


def gathered(
    sensor: PowerSource,
    readings: Iterable[tuple[float, Sequence[float | None]]],
    *,
    rate_hz: float = 10,
) -> Totals:
    """Return what comes of readings (seconds, watts or joules of each rail)."""
    integral = Integral(sensor, rate_hz=rate_hz)
    for at_s, values in readings:
        integral.add(round(at_s * 1e9), values)
    return integral.totals()


def steady(seconds: float, values: Sequence[float | None], *, begin_s: float = 0) -> list[Any]:
    """Return ten readings a second, the same all along."""
    return [(begin_s + tick / 10, tuple(values)) for tick in range(round(seconds * 10) + 1)]


def test_irregular_readings_are_integrated_as_numpy_does() -> None:
    rng = np.random.default_rng(11)
    at_s = 3.0 + np.cumsum(rng.uniform(0.03, 0.3, 400))
    watts = rng.gamma(2.0, 3.0, (400, 2))
    totals = gathered(source(), zip(at_s.tolist(), watts.tolist(), strict=True))
    assert totals.total_j == pytest.approx(trapezoid(watts.sum(axis=1), at_s), rel=1e-8)
    assert totals.rails_j == pytest.approx(trapezoid(watts, at_s, axis=0).tolist(), rel=1e-8)
    assert totals.covered_ns == totals.window_ns == round(at_s[-1] * 1e9) - round(at_s[0] * 1e9)
    assert (totals.samples, totals.faults, totals.coverage) == (400, {}, 1.0)
    assert totals.rails_w == tuple(watts[-1])


def test_a_ramp_is_integrated_exactly_and_a_sine_nearly() -> None:
    at_s = np.cumsum(np.tile([0.05, 0.13, 0.02], 100))
    ramp = gathered(ONE, [(t, [2 + 0.7 * t]) for t in at_s])
    begin, end = at_s[0], at_s[-1]
    assert ramp.total_j == pytest.approx(2 * (end - begin) + 0.35 * (end**2 - begin**2), rel=1e-9)
    sine = gathered(ONE, [(t, [5 + 3 * math.sin(t)]) for t in at_s])
    exact = 5 * (end - begin) + 3 * (math.cos(begin) - math.cos(end))
    assert sine.total_j == pytest.approx(exact, rel=1e-3)


def test_a_counters_joules_are_added_and_its_first_reading_is_none() -> None:
    joules = [None, 0.7, 0.0, 1.9, 0.4]
    totals = gathered(COUNTER, [(tick / 10, [one]) for tick, one in enumerate(joules)])
    assert totals.total_j == pytest.approx(3.0)
    assert (totals.covered_ns, totals.faults) == (400_000_000, {})
    assert totals.power_w == pytest.approx(4.0)


def test_a_rail_outside_the_total_has_its_own_joules_and_takes_no_coverage_when_it_vanishes() -> (
    None
):
    sensor = source(total=("A",))
    totals = gathered(sensor, [(t, (a, None if t > 0.55 else 2.0)) for t, (a,) in steady(1, [3.0])])
    assert totals.total_j == pytest.approx(3.0)
    assert totals.coverage == 1.0
    assert totals.rails_j == pytest.approx((3.0, 1.0))
    assert totals.rails_covered_ns == (10**9, 5 * 10**8)
    assert totals.faults == {"vanished": 5}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (None, "vanished"),
        (math.nan, "vanished"),
        (math.inf, "vanished"),
        (-0.4, "negative"),
        (PLAUSIBLE_W["module"] + 1, "jumped"),
    ],
)
def test_an_interval_beside_a_bad_reading_does_not_count(bad: float | None, reason: str) -> None:
    readings = steady(2, [3.0, 4.0])
    readings[7] = (readings[7][0], (3.0, bad))
    totals = gathered(source(), readings)
    assert totals.faults == {reason: 1}
    assert totals.coverage == pytest.approx(0.9)
    assert totals.total_j == pytest.approx(1.8 * 7)
    assert totals.rails_j == pytest.approx((6.0, 7.2))


def test_a_rail_that_can_read_negative_is_added_as_it_is() -> None:
    totals = gathered(source(negative=True), steady(1, [-0.25, 4.0]))
    assert totals.rails_j == pytest.approx((-0.25, 4.0))
    assert totals.total_j == pytest.approx(3.75)
    assert totals.faults == {}


def test_rails_without_a_total_are_added_up_each_by_itself() -> None:
    totals = gathered(source(total=(), scope="none"), steady(1, [3.0, 4.0]))
    assert totals.rails_j == pytest.approx((3.0, 4.0))
    assert (totals.total_j, totals.coverage, totals.power_w) == (0.0, 0.0, None)


def test_a_jump_below_zero_is_told_too() -> None:
    readings = steady(1, [-900.0, 4.0])
    assert gathered(source(negative=True), readings).faults == {"jumped": 11}


def test_a_long_pause_is_a_gap_that_is_not_filled() -> None:
    readings = [*steady(1, [3.0, 4.0]), *steady(1, [3.0, 4.0], begin_s=61)]
    totals = gathered(source(), readings)
    assert totals.total_j == pytest.approx(14.0)
    assert totals.faults == {"gap": 1}
    assert totals.coverage == pytest.approx(2 / 62)


def test_a_clock_that_goes_back_is_a_gap() -> None:
    readings = [*steady(1, [3.0], begin_s=9), *steady(1, [3.0], begin_s=9.5)]
    totals = gathered(ONE, readings)
    assert totals.faults == {"gap": 1}
    assert totals.total_j == pytest.approx(6.0)
    assert 0 <= totals.coverage <= 1


def test_a_counter_bridges_a_short_pause_but_no_suspend() -> None:
    short = gathered(COUNTER, [(0, [None]), (0.1, [1.0]), (BRIDGE_S - 1, [88.0])])
    assert short.total_j == pytest.approx(89.0)
    assert (short.coverage, short.faults) == (1.0, {})
    long = gathered(COUNTER, [(0, [None]), (0.1, [1.0]), (BRIDGE_S + 1, [88.0])])
    assert (long.total_j, long.faults) == (1.0, {"gap": 1})


def test_a_counter_that_may_have_wrapped_more_than_once_is_told_from_one_that_vanished() -> None:
    begin: list[Any] = [(0, [None]), (0.1, [1.0])]
    assert gathered(COUNTER, [*begin, (500, [None])]).faults == {"wrapped": 1}
    assert gathered(COUNTER, [*begin, (0.2, [None])]).faults == {"vanished": 1}


def test_a_counter_that_leaps_is_told() -> None:
    totals = gathered(COUNTER, [(0, [None]), (0.1, [1.0]), (0.2, [9000.0]), (0.3, [2.0])])
    assert (totals.total_j, totals.faults) == (3.0, {"jumped": 1})
    assert totals.coverage == pytest.approx(2 / 3)


def jittered(seconds: float, power_w: float, *, step: float, begin_s: float = 0) -> list[Any]:
    """Return readings that move by one step."""
    ticks = range(1, round(seconds * 10) + 1)
    return [(begin_s + tick / 10, (power_w + step * (tick % 2),)) for tick in ticks]


def test_a_fine_sensor_that_stands_still_is_frozen_and_counts_no_more() -> None:
    sensor = source(rails=("A",), total=("A",), step=0.01)
    still = [(5 + tick / 10, (7.0,)) for tick in range(1, 301)]
    after = jittered(5, 4.0, step=0.01, begin_s=35)
    totals = gathered(sensor, [*jittered(5, 4.0, step=0.01), *still, *after])
    assert totals.faults == {"frozen": 200 - 1}  # from ten seconds after the first of them
    covered_s = totals.covered_ns / 1e9
    assert covered_s == pytest.approx(4.9 + 0.1 + FROZEN_S + 4.9)
    assert totals.total_j == pytest.approx(4.005 * 9.8 + 0.1 * 5.505 + 7 * FROZEN_S, abs=0.02)


def test_a_sensor_that_has_frozen_tells_no_power() -> None:
    sensor = source(rails=("A",), total=("A",), step=0.01)
    assert gathered(sensor, steady(9, [7.0])).power_w == 7.0
    assert gathered(sensor, steady(12, [7.0])).power_w is None


@pytest.mark.parametrize("step", [None, 0.04, 0.4])
def test_a_coarse_sensor_may_stand_still_honestly_and_it_is_said(step: float | None) -> None:
    totals = gathered(source(rails=("A",), total=("A",), step=step), steady(30, [7.0]))
    assert (totals.faults, totals.coverage) == ({}, 1.0)
    assert totals.total_j == pytest.approx(210.0)
    assert totals.unchanged_ns == 20 * SECOND


def test_one_rail_that_moves_shows_that_the_sensor_lives() -> None:
    sensor = source(step=0.01)
    readings = [(tick / 10, (7.0, 4.0 + 0.01 * (tick % 2))) for tick in range(300)]
    totals = gathered(sensor, readings)
    assert (totals.faults, totals.unchanged_ns) == ({}, 0)


def test_a_slow_sensor_is_given_time_to_say_something_new() -> None:
    slow = source(rails=("A",), total=("A",), scope="battery", step=0.001, fastest_hz=0.5)
    readings = [(2 * tick, (7.0,)) for tick in range(80)]
    assert gathered(slow, readings, rate_hz=10).faults == {}


def test_a_counter_that_stands_still_is_frozen() -> None:
    readings = [(tick / 10, [None if tick == 0 else 0.0]) for tick in range(301)]
    totals = gathered(COUNTER, [*readings, (30.1, [50.0]), (30.2, [1.0])])
    assert totals.faults == {"frozen": 200}
    assert totals.total_j == 1.0  # what it says first may be of all the time that it stood still
    assert totals.covered_ns == round((FROZEN_S + 0.1) * 1e9)


def test_what_was_gathered_since_is_the_difference() -> None:
    integral = Integral(ONE, rate_hz=10)
    for at_s, values in steady(3, [3.0]):
        integral.add(round(at_s * 1e9), values)
    before = integral.totals()
    integral.add(round(3.1 * 1e9), [5.0])
    integral.add(round(3.2 * 1e9), [None])
    found = integral.totals().since(before)
    assert found.total_j == pytest.approx(0.4)
    assert (found.samples, found.window_ns, found.covered_ns) == (2, 2 * 10**8, 10**8)
    assert (found.faults, found.coverage) == ({"vanished": 1}, 0.5)


def test_the_window_goes_on_while_a_reader_blocks() -> None:
    integral = Integral(ONE, rate_hz=10)
    for at_s, values in steady(3, [3.0]):
        integral.add(round(at_s * 1e9), values)
    soon = integral.totals(now_ns=round(3.1 * 1e9))
    assert (soon.coverage, soon.power_w) == (1.0, 3.0)
    late = integral.totals(now_ns=30 * SECOND)
    assert late.coverage == pytest.approx(0.1)
    assert late.power_w is None
    assert late.total_j == pytest.approx(9.0)


def test_the_resolution_is_a_step_of_each_rail_all_the_time_or_one_step_of_a_counter() -> None:
    assert resolution_j(source(step=0.4), covered_s=30) == pytest.approx(24.0)
    assert resolution_j(COUNTER, covered_s=30) == 61e-6
    assert resolution_j(ONE, covered_s=30) is None
    assert resolution_j(source(total=(), step=0.1), covered_s=30) is None


@given(
    st.lists(
        st.tuples(
            st.floats(0.001, 2),
            st.one_of(st.none(), st.floats(-10, 500), st.just(math.nan)),
            st.one_of(st.none(), st.floats(0, 100)),
        ),
        max_size=60,
    ),
    st.sampled_from(["power", "energy"]),
    st.sampled_from([None, 0.001, 0.4]),
)
def test_whatever_a_sensor_says_coverage_is_a_share_and_energy_is_finite(
    steps: list[tuple[float, float | None, float | None]], kind: str, step: float | None
) -> None:
    at_s = np.cumsum([step_s for step_s, _, _ in steps]).tolist()
    readings = zip(at_s, [(a, b) for _, a, b in steps], strict=True)
    totals = gathered(source(kind=kind, step=step), readings)
    assert 0 <= totals.covered_ns <= totals.window_ns
    assert 0 <= totals.coverage <= 1
    assert totals.total_j >= 0
    assert all(math.isfinite(one) for one in (totals.total_j, *totals.rails_j))
    assert totals.samples == len(steps)
    assert all(count <= totals.samples for count in totals.faults.values())


@given(
    st.lists(
        st.tuples(st.floats(0.001, 0.49), st.floats(0, 100), st.floats(0, 100)),
        min_size=2,
        max_size=60,
    )
)
def test_without_faults_it_is_the_trapezoid_of_all(steps: list[tuple[float, float, float]]) -> None:
    at_ns = np.cumsum([round(step_s * 1e9) for step_s, _, _ in steps])
    watts = np.array([(a, b) for _, a, b in steps])
    readings = zip((at_ns / 1e9).tolist(), watts.tolist(), strict=True)
    totals = gathered(source(), readings)
    exact = float(trapezoid(watts.sum(axis=1), at_ns / 1e9))
    assert totals.faults == {}
    assert totals.covered_ns == totals.window_ns
    assert totals.total_j == pytest.approx(exact, rel=1e-6, abs=1e-6)
    assert sum(totals.rails_j) == pytest.approx(totals.total_j, rel=1e-9, abs=1e-12)


def test_a_picture_of_a_long_run_has_few_points_and_the_same_mean() -> None:
    rng = np.random.default_rng(5)
    watts = rng.gamma(2.0, 3.0, 4096)
    series = Series(("A",), points=64)
    for tick, one in enumerate(watts):
        series.add(10**12 + tick * 10**8, (one,))
    trace = series.trace()
    assert trace.begun_ns == 10**12
    assert 32 <= len(trace.t_s) < 64
    shown = np.array(trace.power_w["A"], float)
    groups = watts[: len(shown) * trace.every].reshape(-1, trace.every)
    np.testing.assert_allclose(shown, groups.mean(axis=1))
    middle_s = (np.arange(len(shown)) * trace.every + (trace.every - 1) / 2) / 10
    np.testing.assert_allclose(trace.t_s, middle_s)


def test_a_picture_shows_what_does_not_count_as_a_hole() -> None:
    series = Series(("A", "B"), points=4)
    for tick, one in enumerate((None, 2.0, None, None)):
        series.add(tick * SECOND, (one, 1.0))
    assert series.trace().power_w == {"A": (2.0, None), "B": (1.0, 1.0)}
    assert Series(("A",)).trace().power_w == {"A": ()}


def test_the_page_tells_every_fault_and_every_bound() -> None:
    text = (Path(__file__).parents[1] / "docs" / "energy.md").read_text("utf-8")
    told = re.findall(r"^\| `([a-z]+)` \|", text, re.MULTILINE)
    assert {"vanished", "negative", "jumped", "gap", "wrapped", "frozen"} <= set(told)
    (jumped,) = re.findall(r"^\| `jumped` \|.*$", text, re.MULTILINE)
    for scope in ("module", "board", "battery", "pmic", "package", "gpu"):
        assert f"{PLAUSIBLE_W[scope]:.0f} " in jumped, scope
    for words in (
        f"more than {FROZEN_S:.0f} s and {FROZEN_READINGS} readings",
        f"at least {FINE_STEPS} steps",
        f"at least {GAP_S} s",
        f"counter {BRIDGE_S:.0f} s",
    ):
        assert words in text.replace("\n", " ")
    for field in EnergyReport.__struct_fields__:
        assert f"`{field}`" in text, field
