"""Measures what a sample costs in joules, in windows that a power sensor can resolve.

The rounds in which latencies are timed are far too short for sensors. So each model runs in
windows of its own, in turn with the others, each right after a window in which nothing runs:
what it takes is what its window draws more than that one.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...telemetry.clock import Clock, boottime_ns
from ...telemetry.energy.integral import resolution_j
from ...telemetry.power.reader import PowerSource
from .energy_record import Energy
from .rounds import Batches, Contender

WINDOWS = 5
_T_95 = 2.776  # Student's t for WINDOWS - 1 degrees of freedom
_LEAST_WINDOW_S = 0.3
_PERIODS = 20  # of the sensor in a window
_SETTLE = 3  # periods until no reading mixes two windows


class Reading(NamedTuple):
    """What a meter has gathered so far: joules of the total, over the seconds that count."""

    joules: float
    covered_s: float


class Window(NamedTuple):
    """A model's window: the watts in it and in the idle one before, and samples a second."""

    busy_w: float
    idle_w: float
    rate_hz: float
    samples: float
    window_s: float
    covered_s: float


Meter = Callable[[], Reading]


def measure_energy(
    contenders: Sequence[Contender],
    batches: Batches,
    *,
    meter: Meter,
    source: PowerSource,
    period_s: float,
    show: Callable[[int, str], object] = lambda _which, _state: None,
    clock: Clock = boottime_ns,
    sleep: Callable[[float], object] = time.sleep,
) -> list[Energy]:
    """Return for each contender what a sample costs; all are warm.

    ``meter`` gives running totals that a sensor read every ``period_s`` seconds adds to.
    ``show`` hears which contender has its turn, in which window.

    Raises:
        ModelError: a model failed.
    """
    found: list[list[Window]] = [[] for _ in contenders]
    window_s = max(_LEAST_WINDOW_S, _PERIODS * period_s)
    for turn in range(WINDOWS):
        for which, contender in enumerate(contenders):
            show(which, f"energy window {turn + 1} of {WINDOWS}")
            idle_w = _idle(meter, window_s / 2, settle_s=_SETTLE * period_s, sleep=sleep)
            window = _busy(
                contender,
                batches,
                meter,
                window_s=window_s,
                settle_s=_SETTLE * period_s,
                idle_w=idle_w,
                clock=clock,
            )
            found[which].append(window)
    return [energy_of(windows, source=source) for windows in found]


def energy_of(windows: Sequence[Window], *, source: PowerSource) -> Energy:
    """Return what the windows (at least one) of a model come to.

    Each window gives (busy watts - idle watts) / samples per second; the interval is that
    of their mean, by Student's t. Windows without a reading that counts give nothing.
    """
    good = [one for one in windows if math.isfinite(one.busy_w - one.idle_w)]
    each_j = [(one.busy_w - one.idle_w) / one.rate_hz for one in good]
    mean_j = float(np.mean(each_j)) if good else math.nan
    low_j, high_j = _interval(each_j)
    finest_j = _resolution(windows, source)
    told = len(good) == WINDOWS and low_j is not None and low_j > 0 and mean_j > (finest_j or 0.0)
    return Energy(
        per_sample_j=mean_j if told else "not resolvable",
        source=source.name,
        window_s=sum(one.window_s for one in windows),
        samples=round(sum(one.samples for one in windows)),
        low_j=low_j,
        high_j=high_j,
        windows_j=tuple(each_j),
        coverage=min(1.0, sum(one.covered_s for one in windows) / _all_s(windows)),
        resolution_j=finest_j,
        idle_w=float(np.mean([one.idle_w for one in good])) if good else None,
        idle_windows_w=tuple(one.idle_w for one in good),
        busy_w=float(np.mean([one.busy_w for one in good])) if good else None,
        replayed=source.replayed,
    )


def _all_s(windows: Sequence[Window]) -> float:
    return sum(one.window_s for one in windows)


def _interval(each_j: list[float]) -> tuple[float, float] | tuple[None, None]:
    if len(each_j) < WINDOWS:
        return None, None
    mean_j = float(np.mean(each_j))
    half_j = _T_95 * float(np.std(each_j, ddof=1)) / math.sqrt(len(each_j))
    return mean_j - half_j, mean_j + half_j


def _resolution(windows: Sequence[Window], source: PowerSource) -> float | None:
    """Return the joules that the sensor's steps make of a sample.

    Two mean powers are compared. Of kind "power", a step may be wrong between them; of kind
    "energy", each is off by what a step is over its window.
    """
    window_s = _all_s(windows)
    least_j = resolution_j(source, covered_s=window_s)
    if least_j is None:
        return None
    counters = 2 * len(windows) if source.kind == "energy" else 1
    return counters * least_j / sum(one.samples for one in windows)


def _idle(
    meter: Meter, window_s: float, *, settle_s: float, sleep: Callable[[float], object]
) -> float:
    """Return the watts while nothing runs; NaN if no reading counted."""
    sleep(settle_s)
    begun = meter()
    sleep(window_s)
    return _power(begun, meter())


def _busy(
    contender: Contender,
    batches: Batches,
    meter: Meter,
    *,
    window_s: float,
    settle_s: float,
    idle_w: float,
    clock: Clock,
) -> Window:
    """Run a model for a window, after it has run long enough for the sensor to notice."""
    _served(contender, batches, settle_s, clock=clock)
    begun, begun_ns = meter(), clock()
    samples = _served(contender, batches, window_s, clock=clock)
    ended, spent_s = meter(), (clock() - begun_ns) / 1e9
    return Window(
        busy_w=_power(begun, ended),
        idle_w=idle_w,
        rate_hz=samples / spent_s,
        samples=samples,
        window_s=spent_s,
        covered_s=ended.covered_s - begun.covered_s,
    )


def _power(begun: Reading, ended: Reading) -> float:
    covered_s = ended.covered_s - begun.covered_s
    return (ended.joules - begun.joules) / covered_s if covered_s > 0 else math.nan


def _served(contender: Contender, batches: Batches, seconds: float, *, clock: Clock) -> int:
    """Serve one sample after the other for so long, at least one; return how many."""
    prepare, infer = contender
    until_ns = clock() + round(seconds * 1e9)
    served = 0
    for batch in _endless(batches):
        infer(prepare(batch))
        served += 1
        if clock() >= until_ns:
            break
    return served


def _endless(batches: Batches) -> Iterator[NDArray[Any]]:
    while True:
        yield from batches
