"""Which samples are labelled: those that a filter is least certain of, and others by lot.

A shifted filter can be sure and wrong, and then those that it is least certain of are not those
that it errs on. So of the share that is asked for one part is drawn from all samples, whatever the
filter makes of them, and only the rest by certainty.

Of the rest a sample is chosen by its rank among the certainties of the last 1000, itself included;
where several are equal it is placed among them by lot. If one order of samples is as likely as
another, that rank is as likely to be any: each sample is then chosen with a probability of just
that share, from the first one on (the smoothed p-value of conformal prediction; Vovk et al.,
"Algorithmic Learning in a Random World", 2005, §2.5). Where a filter becomes ever less certain it
is more for a while, and less where it becomes surer: as much as the ranks have moved within 1000
samples.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import deque
from random import Random

from ...telemetry.clock import Clock
from ...telemetry.filter_state import LabelsState
from .label_options import LabelOptions

_LAST = 1000  # certainties that a new one is held against
_HOUR_NS = 3600 * 10**9
_SAVED_NS = 300 * 10**9


class LeastCertain:
    """Chooses samples by a filter's certainty of them, within what the options allow.

    Their ``most_per_hour`` come in evenly from the start on and are saved up for five minutes:
    while there are none left nothing is chosen. ``rng`` draws lots, and places equal certainties.
    """

    def __init__(self, options: LabelOptions, *, rng: Random, clock: Clock) -> None:
        self._by_lot = options.share * options.by_lot
        others = 1.0 - self._by_lot  # of which so many are chosen that all of it is the share
        self._share = (options.share - self._by_lot) / others if others else 0.0
        self._most = options.most_per_hour
        self._rng = rng
        self._clock = clock
        self._last = deque[float]()
        self._ranked: list[float] = []
        self._saved = 0.0
        self._most_saved = max(1.0, self._most * _SAVED_NS / _HOUR_NS)
        self._saved_ns = clock()
        self._asked = self._lots = 0
        self._was_lot = False

    def choose(self, certainty: float) -> bool:
        """Take in how certain the filter is of the next sample; return whether to ask about it."""
        ranked = self._ranked
        below = bisect_left(ranked, certainty)
        equal = bisect_right(ranked, certainty, below) - below + 1  # itself
        rank = below + self._rng.random() * equal
        among = rank < self._share * (len(ranked) + 1)
        self._was_lot = by_lot = self._rng.random() < self._by_lot
        self._remember(certainty)
        return (by_lot or among) and self._take()

    def asked(self) -> None:
        """Take in that the far end is asked about one that was chosen."""
        self._asked += 1
        self._lots += self._was_lot

    def succeed(self, other: LeastCertain) -> None:
        """Go on where another one of the same filter stops."""
        self._last, self._ranked = other._last, other._ranked
        self._asked, self._lots = other._asked, other._lots
        self._saved, self._saved_ns = min(other._saved, self._most_saved), other._saved_ns

    def state(self) -> LabelsState:
        """Return how many were asked about, where the cut is now, and what is left."""
        place = min(len(self._ranked), int(self._share * (len(self._ranked) + 1)))
        return LabelsState(
            asked=self._asked,
            by_lot=self._lots,
            cut=self._ranked[place - 1] if place else None,
            left=self._grown(self._clock() - self._saved_ns),
        )

    def _remember(self, certainty: float) -> None:
        if len(self._last) == _LAST:
            del self._ranked[bisect_left(self._ranked, self._last.popleft())]
        self._last.append(certainty)
        insort(self._ranked, certainty)

    def _take(self) -> bool:
        """Spend one of those that were saved up, if there is one."""
        now_ns = self._clock()
        passed_ns, self._saved_ns = now_ns - self._saved_ns, now_ns
        self._saved = self._grown(passed_ns)
        if self._saved < 1.0:
            return False
        self._saved -= 1.0
        return True

    def _grown(self, passed_ns: int) -> float:
        """Return what is saved up after so long."""
        return min(self._most_saved, self._saved + self._most * max(0, passed_ns) / _HOUR_NS)
