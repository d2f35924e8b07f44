"""Records what the board goes through while it is measured: power, heat, and what was done."""

from __future__ import annotations

import contextlib
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from ...telemetry.boards.detect import Detected
from ...telemetry.clock import Clock, boottime_ns
from ...telemetry.energy.sampler import PowerSampler
from ...telemetry.power.reader import PowerReader
from .conditions import Conditions, Watch, read_conditions
from .energy import WINDOWS, Reading, Window, energy_of
from .energy_record import Energy
from .record import Course, Phase, PowerPoint

_MOST_PHASES = 500
_POINTS = 600

Joules = Callable[[int, int, int], Energy]
"""The energy of so many samples between two moments of the clock."""


class Recorder:
    """Reads the power sensors, and looks at the board about once a second, from with to with.

    It owns the reader; one without rails leaves the course without power.
    """

    def __init__(
        self,
        board: Detected,
        reader: PowerReader,
        *,
        rate_hz: float,
        root: Path = Path("/"),
        clock: Clock = boottime_ns,
    ) -> None:
        self._board = board
        self._root = root
        self._clock = clock
        self._watch = Watch(self.conditions, clock=clock)
        self._sampler = PowerSampler(
            reader, rate_hz=rate_hz, clock=clock, also=(self._watch.look,), points=_POINTS
        )
        self._phases: list[Phase] = []
        self.source = reader.source
        self.period_s = 1 / self._sampler.rate_hz

    def __enter__(self) -> Recorder:  # noqa: PYI034 -- typing has Self from 3.11
        """Begin."""
        self._sampler.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        """End the thread, and close the reader."""
        self._sampler.close()

    def conditions(self) -> Conditions:
        """Return what the board is in now."""
        return read_conditions(self._board, root=self._root)

    @contextlib.contextmanager
    def phase(self, what: str) -> Iterator[None]:
        """Note that this is done in the block; of more than 500 phases, the first."""
        begin_s = self._now_s()
        try:
            yield
        finally:
            if len(self._phases) < _MOST_PHASES:
                self._phases.append(Phase(what=what, begin_s=begin_s, end_s=self._now_s()))

    def meter(self) -> Reading:
        """Return the joules of the total so far.

        Raises:
            HedgeError: the thread that reads the sensors died.
        """
        self._sampler.check()
        totals = self._sampler.totals()
        return Reading(joules=totals.total_j, covered_s=totals.covered_ns / 1e9)

    def course(self) -> Course:
        """Return what was recorded so far."""
        return Course(
            phases=tuple(self._phases),
            moments=self._watch.moments,
            power=tuple(self._power()),
            power_source=self.source.name if self.source.rails else None,
            replayed=self.source.replayed,
        )

    def scenario_energy(self, energies: Sequence[Energy | None]) -> Joules | None:
        """Return what gives the energy of a stretch of time; None: there is no idle power.

        Idle was measured for ``energies``, some time before: how much its windows differ
        widens the intervals.
        """
        idle = [one.idle_windows_w for one in energies if one is not None]
        turns = [turn for turn in zip(*idle, strict=False) if turn]
        if len(turns) < WINDOWS:
            return None
        idle_w = [sum(turn) / len(turn) for turn in turns]
        return functools.partial(self._between, idle_w=idle_w)

    def _between(
        self, begun_ns: int, ended_ns: int, samples: int, *, idle_w: Sequence[float]
    ) -> Energy:
        """Return the energy of the samples served between two moments, in equal windows."""
        edges_ns = np.linspace(begun_ns, ended_ns, WINDOWS + 1)
        span_s = (ended_ns - begun_ns) / 1e9
        points = list(self._power())
        at_ns = np.array([self._watch.begun_ns + round(one.t_s * 1e9) for one in points], np.int64)
        watts = np.array([math.nan if one.power_w is None else one.power_w for one in points])
        windows = []
        for (begin_ns, end_ns), idle in zip(itertools.pairwise(edges_ns), idle_w, strict=True):
            inside = watts[(at_ns >= begin_ns) & (at_ns < end_ns)]
            known = inside[np.isfinite(inside)]
            windows.append(
                Window(
                    busy_w=float(known.mean()) if len(known) else math.nan,
                    idle_w=idle,
                    rate_hz=samples / span_s,
                    samples=samples / WINDOWS,
                    window_s=span_s / WINDOWS,
                    covered_s=span_s / WINDOWS * len(known) / max(len(inside), 1),
                )
            )
        return energy_of(windows, source=self.source)

    def _power(self) -> Iterator[PowerPoint]:
        """Yield the power of the total: None where one of its rails is."""
        trace = self._sampler.recent()
        begun_s = (trace.begun_ns - self._watch.begun_ns) / 1e9
        rails = [trace.power_w[label] for label in self.source.total]
        for place, t_s in enumerate(trace.t_s):
            watts = [rail[place] for rail in rails]
            known = [one for one in watts if one is not None]
            whole = len(known) == len(watts) > 0
            yield PowerPoint(t_s=begun_s + t_s, power_w=sum(known) if whole else None)

    def _now_s(self) -> float:
        return (self._clock() - self._watch.begun_ns) / 1e9
