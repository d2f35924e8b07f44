"""Power integrated over time, without what cannot be believed.

The trapezoid rule over the readings of a power sensor, the sum of what an energy counter
counts. An interval counts if the readings at both its ends do; energy is never made up for
the time between. What a source may honestly do is bounded here, once, for all of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

from ..power.reader import PowerSource

GAP_PERIODS, GAP_S = 5, 0.25
"""Two readings of power further apart than so many periods (at least GAP_S) are no interval."""

BRIDGE_S = 10.0
"""A counter goes on counting between reads, but a longer pause may be a suspend that reset it."""

FROZEN_S, FROZEN_READINGS = 10.0, 100
"""Values that stay the same to the last digit for longer than both of these are suspect."""

FINE_STEPS, FINE_W = 500, 0.01
"""What is suspect is frozen only where the sensor is so fine that it would have to jitter.

Of kind "power": the total is at least FINE_STEPS steps, so that two in a thousand would show; a
coarser one repeats itself honestly on an idle board (5 W on an Orin Nano are 130 steps, on an AGX
Orin a dozen). Of kind "energy": a counter that stands still means less than FINE_W.
"""

PLAUSIBLE_W = {
    "none": 2000.0,  # rails that add up to nothing known
    "module": 200.0,  # the thirstiest, AGX Thor, takes 130 W
    "board": 400.0,
    "pmic": 50.0,  # a Raspberry Pi 5 is fed 25 W
    "package": 1500.0,
    "gpu": 2000.0,
    "battery": 400.0,  # USB-C ends at 240 W
}
"""No rail of such a source takes more watts, in either direction: such a reading has jumped."""

_SHORTEST_S = 0.1  # counters are brought up to date in bursts


class Totals(Struct, frozen=True, kw_only=True):
    """All that was gathered so far; see `since`.

    ``total_j`` and ``covered_ns`` are of the intervals in which every rail of the total
    counts, ``rails_j`` and ``rails_covered_ns`` of each rail by itself, in the order of the
    source. ``window_ns`` is the time from the first reading to the last. ``unchanged_ns`` of
    the covered time the sensor was suspiciously still, but too coarse to be called frozen.
    ``power_w`` and ``rails_w`` are what was read last, None where that does not count.
    """

    window_ns: int
    covered_ns: int
    unchanged_ns: int
    samples: int
    total_j: float
    rails_j: tuple[float, ...]
    rails_covered_ns: tuple[int, ...]
    power_w: float | None
    rails_w: tuple[float | None, ...]
    faults: dict[str, int]

    def since(self, before: Totals) -> Totals:
        """Return what was gathered after ``before``, an earlier record of the same sensor."""
        faults = {name: n - before.faults.get(name, 0) for name, n in self.faults.items()}
        return msgspec.structs.replace(
            self,
            window_ns=self.window_ns - before.window_ns,
            covered_ns=self.covered_ns - before.covered_ns,
            unchanged_ns=self.unchanged_ns - before.unchanged_ns,
            samples=self.samples - before.samples,
            total_j=self.total_j - before.total_j,
            rails_j=tuple(a - b for a, b in zip(self.rails_j, before.rails_j, strict=True)),
            rails_covered_ns=tuple(
                a - b for a, b in zip(self.rails_covered_ns, before.rails_covered_ns, strict=True)
            ),
            faults={name: n for name, n in faults.items() if n},
        )

    @property
    def coverage(self) -> float:
        """The share of the window that counts, 0 to 1; 0 where there is no window."""
        return min(1.0, self.covered_ns / self.window_ns) if self.window_ns > 0 else 0.0


def resolution_j(source: PowerSource, *, covered_s: float) -> float | None:
    """Return the least energy that the total can tell from nothing; None: not known.

    Of kind "power" every rail of the total may be wrong by a step all the time; of kind
    "energy" by one step in all, however long: the first and the last read are by half each.
    """
    if source.step is None or not source.total:
        return None
    step = source.step * len(source.total)
    return step * covered_s if source.kind == "power" else step


class Integral:
    """Adds up readings; its memory does not grow.

    ``rate_hz`` is how often they are meant to come. Time is that of a clock that never steps:
    if it does, it is a gap like any other.
    """

    def __init__(self, source: PowerSource, *, rate_hz: float) -> None:
        rails = len(source.rails)
        fresh_hz = min(rate_hz, source.fastest_hz or rate_hz)
        self._source = source
        self._is_power = source.kind == "power"
        self._total = tuple(source.rails.index(label) for label in source.total)
        self._most_w = PLAUSIBLE_W[source.scope]
        self._shortest_s = max(1 / fresh_hz, _SHORTEST_S)
        gap_s = max(GAP_PERIODS / fresh_hz, GAP_S)
        self.gap_ns = int(1e9 * (gap_s if self._is_power else max(gap_s, BRIDGE_S)))
        self._frozen_ns = int(1e9 * max(FROZEN_S, FROZEN_READINGS / fresh_hz))
        self._begun_ns: int | None = None
        self._at_ns = 0  # of the last reading
        self._changed_ns = 0  # when it said something new
        self._said: tuple[float | None, ...] = ()
        self._nothing: tuple[float | None, ...] = (None,) * rails
        self._good: tuple[float | None, ...] = self._nothing
        self._stale = False
        self._covered_ns = self._unchanged_ns = self._samples = 0
        self._total_j = 0.0
        self._rails_j = [0.0] * rails
        self._rails_covered_ns = [0] * rails
        self._faults: Counter[str] = Counter()
        self.rails_w: tuple[float | None, ...] = self._nothing

    def add(self, at_ns: int, values: Sequence[float | None]) -> None:
        """Take one reading, each rail of the source in its order (see `PowerReader.read`)."""
        said = tuple(values)
        passed_ns = at_ns - self._at_ns
        first = self._begun_ns is None
        if self._begun_ns is None:
            self._begun_ns = self._changed_ns = at_ns
        adjoins = not first and 0 < passed_ns <= self.gap_ns
        faults: set[str] = set() if adjoins or first else {"gap"}
        good = self._judged(said, passed_ns / 1e9, faults, first=first)
        if "wrapped" in faults:
            faults.discard("gap")
        was_stale, still = self._stale, self._is_still(at_ns, said, adjoins=adjoins)
        self._stale = still and self._is_fine(good)
        if self._stale:
            faults.add("frozen")
        self.rails_w = self._watts(good, passed_ns, adjoins=adjoins)
        if adjoins and not (self._stale or was_stale):
            self._integrate(good, passed_ns, still=still)
        if faults:
            self._faults.update(faults)
        self._samples += 1
        self._at_ns, self._said, self._good = at_ns, said, good

    def totals(self, *, now_ns: int | None = None) -> Totals:
        """Return all that was gathered.

        ``now_ns``: if readings should have come since, the window reaches to now.
        """
        late = now_ns is not None and now_ns - self._at_ns > self.gap_ns
        last_ns = now_ns if late and now_ns is not None else self._at_ns
        rails_w = self._nothing if late else self.rails_w
        return Totals(
            window_ns=0 if self._begun_ns is None else max(0, last_ns - self._begun_ns),
            covered_ns=self._covered_ns,
            unchanged_ns=self._unchanged_ns,
            samples=self._samples,
            total_j=self._total_j,
            rails_j=tuple(self._rails_j),
            rails_covered_ns=tuple(self._rails_covered_ns),
            power_w=self._sum(rails_w),
            rails_w=rails_w,
            faults=dict(self._faults),
        )

    def _judged(
        self,
        said: tuple[float | None, ...],
        passed_s: float,
        faults: set[str],
        *,
        first: bool,
    ) -> tuple[float | None, ...]:
        """Return the values that can be believed, and add to ``faults`` why others cannot."""
        most = self._most_w
        if not self._is_power:
            if first:  # nothing was read before
                return self._nothing
            most *= max(passed_s, self._shortest_s)
        if None not in said and self._are_believable(said, most):
            return said
        good: list[float | None] = []
        for value in said:
            if value is None or not math.isfinite(value):
                long = not self._is_power and "gap" in faults
                faults.add("wrapped" if long else "vanished")
                good.append(None)
            elif value < 0 and not self._source.negative:
                faults.add("negative")
                good.append(None)
            elif abs(value) > most:
                faults.add("jumped")
                good.append(None)
            else:
                good.append(value)
        return tuple(good)

    def _are_believable(self, said: tuple[Any, ...], most: float) -> bool:
        """Whether all values are: what nearly always holds, and is soon found out."""
        least = -most if self._source.negative else 0.0
        return math.isfinite(sum(said)) and least <= min(said) and max(said) <= most

    def _is_still(self, at_ns: int, said: tuple[float | None, ...], *, adjoins: bool) -> bool:
        """Whether the sensor has said the same for suspiciously long."""
        same = said == self._said if self._is_power else not any(said)
        if not (adjoins and same) or said == self._nothing:
            self._changed_ns = at_ns
        return at_ns - self._changed_ns > self._frozen_ns

    def _is_fine(self, good: tuple[float | None, ...]) -> bool:
        """Whether the sensor is so fine that standing still cannot be honest."""
        step = self._source.step
        if step is None:
            return False
        if not self._is_power:
            return step <= FINE_W * self._frozen_ns / 1e9
        power_w = self._sum(good)
        return power_w is not None and abs(power_w) >= FINE_STEPS * step

    def _watts(
        self, good: tuple[float | None, ...], passed_ns: int, *, adjoins: bool
    ) -> tuple[float | None, ...]:
        """Return the power of each rail now, None where it is not known."""
        if self._stale or not (adjoins or self._is_power):
            return self._nothing
        if self._is_power:
            return good
        return tuple(None if joules is None else joules * 1e9 / passed_ns for joules in good)

    def _integrate(self, good: tuple[float | None, ...], passed_ns: int, *, still: bool) -> None:
        """Add what each rail took since the reading before, and the total if all of it counts."""
        added: list[float | None] = []
        half_s = passed_ns / 2e9
        for rail, (before, now) in enumerate(zip(self._good, good, strict=True)):
            if now is None or (self._is_power and before is None):
                added.append(None)
                continue
            joules = now if before is None or not self._is_power else (before + now) * half_s
            self._rails_j[rail] += joules
            self._rails_covered_ns[rail] += passed_ns
            added.append(joules)
        total_j = self._sum(added)
        if total_j is not None:
            self._total_j += total_j
            self._covered_ns += passed_ns
            self._unchanged_ns += passed_ns if still else 0

    def _sum(self, values: Sequence[float | None]) -> float | None:
        """Return the sum over the rails of the total; None if there are none, or one is missing."""
        total = 0.0
        for rail in self._total:
            value = values[rail]
            if value is None:
                return None
            total += value
        return total if self._total else None
