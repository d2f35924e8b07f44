"""What LoadGen must be told beforehand: about how fast the samples are served."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import numpy as np
from msgspec import Struct

from ..scenario_record import Scenario
from .way import Row, Way

SAMPLES_PER_QUERY = 8
"""Of MultiStream (MLPerf Inference rules)."""

_BURST_S = 0.1
_MOST_BURST = 256
_LEAST_BURSTS = 4


class Warm(Struct, frozen=True, kw_only=True):
    """How long a burst of samples took, all at once, and how many were served altogether."""

    burst: int
    burst_ns: float
    samples: int

    @property
    def samples_per_s(self) -> float:
        """How many were served a second."""
        return self.burst * 1e9 / self.burst_ns


def warm_up(way: Way, rows: Sequence[Row], scenario: Scenario, *, seconds: float) -> Warm:
    """Serve samples as the scenario asks for them for a while.

    One after the other for SingleStream, 8 at once for MultiStream, many at once for the
    others. What else the machine does slows it down: the fastest quarter counts.
    """
    first_ns = max(_burst_ns(way, rows[:1]), _burst_ns(way, rows[:1]), 1)
    match scenario:
        case "SingleStream":
            burst = 1
        case "MultiStream":
            burst = SAMPLES_PER_QUERY
        case "Server" | "Offline":
            burst = min(max(round(_BURST_S * 1e9 / first_ns), 1), _MOST_BURST)
    spent_ns: list[int] = []
    until_s = time.monotonic() + seconds
    while len(spent_ns) < _LEAST_BURSTS or time.monotonic() < until_s:
        places = range(len(spent_ns) * burst, (len(spent_ns) + 1) * burst)
        spent_ns.append(_burst_ns(way, [rows[place % len(rows)] for place in places]))
    quarters = np.array_split(np.array(spent_ns), _LEAST_BURSTS)
    return Warm(
        burst=burst,
        burst_ns=min(float(quarter.mean()) for quarter in quarters),
        samples=2 + len(spent_ns) * burst,
    )


def _burst_ns(way: Way, rows: Sequence[Row]) -> int:
    finished = threading.Semaphore(0)
    begun_ns = time.perf_counter_ns()
    for row in rows:
        way.serve(row, finished.release)
    for _ in rows:
        finished.acquire()
    return time.perf_counter_ns() - begun_ns
