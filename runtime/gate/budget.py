"""A budget of escalations per hour, held by moving the threshold.

What may be spent comes in evenly. What is not spent is put by, up to three hundredths of an
hour's budget, and what was spent beyond is owed, two hundredths at most, for there the gate is
shut. So any two hours differ by a twentieth at most, and no burst starves the rest of an hour:
after the worst one the gate is open again within two hundredths of it (of a small budget both are
more; see `_least`). What no sample has come for is forgone.

The share of the samples that may go is the pace wanted over the rate at which they come. The
threshold is the quantile of the recent scores that lets so many through. Where money is left over
though the gate is not wide open, the scores are no longer those of a while ago: the older half of
them is forgotten. Of scores that are equal all pass or none, so that the threshold stands now
below and now above them, as often as comes out right.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np

from ...telemetry.gate_state import BudgetState
from .seen import SIZE, Seen

OPEN = 0.0
"""A threshold that no score is below."""

SHUT = 2.0
"""A threshold that every score is below."""

EVERY_NS = 2_000_000_000
"""How often the threshold is looked at again."""

_HOUR_NS = 3_600_000_000_000
_MINUTE_NS = 60_000_000_000
_MINUTES = 60
_PUT_BY, _OWED = 0.03, 0.02
_FEW = 64  # scores that tell where a quantile is
_MEMORY_S = 60.0  # of the rate at which samples come, or as long as thirty of them take
_ENOUGH = 30
_LONGEST_S = 3600.0


class BudgetController:
    """Says where a gate must stand for its stream to spend ``per_hour`` in every hour.

    ``seen`` are the scores of the stream, ``calibrated`` the threshold until there are enough.
    Times are CLOCK_BOOTTIME in nanoseconds; the first `feed` begins the first hour.
    """

    def __init__(
        self,
        per_hour: float,
        *,
        unit: Literal["messages", "bytes"],
        seen: Seen,
        calibrated: float,
    ) -> None:
        self.total = calibrated
        self._per_hour = per_hour
        self._unit: Literal["messages", "bytes"] = unit
        self._seen = seen
        self._known = 0  # scores before this are not of these times
        self._fed: tuple[int, int] | None = None  # when, and how many samples had come
        self._rate_hz = 0.0
        self._credit = 0.0
        self._mean = 1.0 if unit == "messages" else 0.0
        self._asks = 0
        self._dither = 0.5
        self._hours = _Hours(per_hour)

    def spend(self, size_bytes: int) -> bool:
        """Take in what one escalation costs; return whether the gate is shut by that."""
        amount = 1.0 if self._unit == "messages" else float(size_bytes)
        self._asks += 1
        self._mean += (amount - self._mean) / min(self._asks, 100)
        self._credit -= amount
        self._hours.spent += amount
        if self._credit <= -self._reach(_OWED) and self.total < SHUT:
            self.total = SHUT
            return True
        return False

    def feed(self, now_ns: int) -> None:
        """Move the threshold."""
        if self._fed is None:
            self._fed = now_ns, self._seen.count
            self._hours.begin(now_ns)
            return
        passed_s = (now_ns - self._fed[0]) / 1e9
        if passed_s <= 0:
            return
        came = self._seen.count - self._fed[1]
        self._fed = now_ns, self._seen.count
        memory_s = max(_MEMORY_S, min(_LONGEST_S, _ENOUGH / max(self._rate_hz, 1e-9)))
        weight = -math.expm1(-passed_s / memory_s)
        self._rate_hz += weight * (came / passed_s - self._rate_hz)
        self._earn(passed_s)
        self._hours.feed(now_ns)
        if self._credit <= -self._reach(_OWED):
            self.total = SHUT
        elif self._seen.count >= _FEW:
            self.total = self._threshold(self._share())
        elif self._credit >= self._reach(_PUT_BY):
            self.total = OPEN

    def state(self) -> BudgetState:
        """Return how it was held so far."""
        return BudgetState(
            unit=self._unit,
            per_hour=self._per_hour,
            last_hour=round(self._hours.last(), 3),
            mean_per_hour=round(self._hours.mean(), 3),
            strayed=None if self._hours.strayed is None else round(self._hours.strayed, 4),
        )

    def _reach(self, share: float) -> float:
        """Return how much may be put by or owed: a share of the budget, or a few asks."""
        mean = self._mean or 1.0
        asks = self._per_hour / mean
        return max(share * asks, 12.5 * share * math.sqrt(asks), 1.0) * mean

    def _earn(self, passed_s: float) -> None:
        """Put by what may be spent since the last time, and forgo what is too much."""
        self._credit += self._per_hour * passed_s / 3600
        over = self._credit - self._reach(_PUT_BY)
        if over <= 0:
            return
        self._credit -= over
        if self.total <= OPEN:
            self._hours.lacked += over  # no samples
        else:
            known = self._seen.count - max(self._known, self._seen.count - SIZE)
            self._known = self._seen.count - max(_FEW // 2, known // 2)

    def _share(self) -> float:
        """Return the share of the samples that may go now."""
        pace_hz = self._per_hour / 3600 * (1 + self._credit / self._reach(_OWED))
        came_hz = self._rate_hz * self._mean
        return pace_hz / came_hz if came_hz > 0 else 1.0

    def _threshold(self, share: float) -> float:
        """Return the threshold that ``share`` of the recent scores are not below."""
        scores = np.sort(np.nan_to_num(self._seen.last(self._seen.count - self._known), nan=SHUT))
        n = scores.size
        wanted = share * n
        if wanted >= n:
            return OPEN
        at = float(scores[n - 1 - int(wanted)])
        above = n - int(np.searchsorted(scores, at, side="right"))
        equal = n - int(np.searchsorted(scores, at, side="left")) - above
        self._dither += (wanted - above) / equal if equal else 0.0
        if self._dither < 1:
            return float(np.nextafter(at, SHUT))
        self._dither -= 1
        return at


class _Hours:
    """What was spent in the last sixty minutes, in the whole run and in its worst hour."""

    def __init__(self, per_hour: float) -> None:
        self.spent = 0.0
        self.lacked = 0.0
        self.strayed: float | None = None
        self._per_hour = per_hour
        self._minutes = [(0.0, 0.0)] * _MINUTES
        self._at = 0
        self._begun_ns = 0
        self._now_ns = 0
        self._total = 0.0

    def begin(self, now_ns: int) -> None:
        self._begun_ns = self._now_ns = now_ns

    def feed(self, now_ns: int) -> None:
        """Book whole minutes; after a long sleep those of the last hour."""
        self._now_ns = now_ns
        minutes = (now_ns - self._begun_ns) // _MINUTE_NS
        self._at = max(self._at, minutes - 2 * _MINUTES)
        while self._at < minutes:
            self._minutes[self._at % _MINUTES] = self.spent, self.lacked
            self._total += self.spent
            self.spent = self.lacked = 0.0
            self._at += 1
            if self._at >= _MINUTES:
                self._judge()

    def last(self) -> float:
        return sum(spent for spent, _ in self._minutes) + self.spent

    def mean(self) -> float:
        hours = (self._now_ns - self._begun_ns) / _HOUR_NS
        return (self._total + self.spent) / hours if hours > 0 else 0.0

    def _judge(self) -> None:
        off = sum(spent + lacked for spent, lacked in self._minutes) / self._per_hour - 1
        if self.strayed is None or abs(off) > abs(self.strayed):
            self.strayed = off
