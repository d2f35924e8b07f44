"""The energy account: what each stage and each route of each stream has taken.

The rule. Between two calls of `EnergyAccount.settle` the sensor took some joules; without the
idle baseline for the time that is covered, they are net: what all the work on the board took
that is not done when it is idle. The streams get as much of them as their work took of the time
of all processors; the rest, other programs' and the daemon's own, is "other". Their part is
shared by how long each was at work, and a stream's part twice: over its stages by how long each
took, and over the routes of its samples by how long those took. So its stages and its routes add
up to the same.

Its limits. Time at work stands for power: two stages that share a second are told apart by
their durations, not by how hard they worked. What a GPU or a radio does after the call that
set it to work counts to whoever is at work then. The readings lag behind by up to one period.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from ..ledger import Done, Work
from .baseline import Baseline
from .figures import EnergyReport, Joules, Share, StreamEnergy
from .integral import resolution_j
from .sampler import PowerSampler

_NEVER = Done(0, 0)
_NO_WORK = Work({}, {})


class Processors(NamedTuple):
    """How long the processors of the board have worked since some moment, added up.

    ``ours_ns`` for the streams (or longer, as a stage may wait for an accelerator),
    ``others_ns`` for all else: other programs, and the daemon's own upkeep.
    """

    ours_ns: int
    others_ns: int


NOTHING_ELSE = Processors(0, 0)


class _Tally:
    """What one stage or route has been given, and for how much work."""

    __slots__ = ("busy_ns", "count", "covered_count", "joules")

    def __init__(self) -> None:
        self.joules = 0.0
        self.busy_ns = 0
        self.count = 0
        self.covered_count = 0.0  # those of the time that is covered


class _Stream:
    """The tallies of one stream, and its work when they were last brought up to date."""

    def __init__(self) -> None:
        self.stages: dict[str, _Tally] = {}
        self.routes: dict[str, _Tally] = {}
        self.done = _NO_WORK


class EnergyAccount:
    """Shares out the energy that a sampler gathers from now on; for one thread, the loop's."""

    def __init__(
        self,
        sampler: PowerSampler,
        *,
        baseline: Baseline | None,
        processors: Processors = NOTHING_ELSE,
    ) -> None:
        self._sampler = sampler
        self._baseline = baseline
        self._begun = self._settled = sampler.totals()
        self._streams: dict[str, _Stream] = {}
        self._other_j = 0.0
        self._processors = processors

    def settle(self, works: Mapping[str, Work], *, processors: Processors = NOTHING_ELSE) -> None:
        """Share out what was taken since the last call; ``works`` is all that was ever done.

        So is what the ``processors`` have worked. A stream whose figures went down has begun
        anew.
        """
        now = self._sampler.totals()
        gained = now.since(self._settled)
        self._settled = now
        net_j = gained.total_j - self._idle_w * gained.covered_ns / 1e9
        fresh = {name: self._fresh(name, work) for name, work in works.items()}
        busy = {name: _at_work(work) for name, work in fresh.items()}
        whole_ns, given_j = sum(busy.values()), 0.0
        ours_j = net_j * self._our_share(whole_ns, processors, window_ns=gained.window_ns)
        for name, work in fresh.items():
            stream = self._streams[name]
            part_j = ours_j * busy[name] / whole_ns if busy[name] else 0.0
            given_j += part_j
            _share(part_j, work.stages, stream.stages, coverage=gained.coverage)
            _share(part_j, work.routes, stream.routes, coverage=gained.coverage)
        self._other_j += net_j - given_j

    def report(self) -> EnergyReport:
        """Return the energy since this account was opened, as of the last `settle`."""
        source, gained = self._sampler.source, self._settled.since(self._begun)
        covered_s = gained.covered_ns / 1e9
        least_j = resolution_j(source, covered_s=covered_s)
        net_j = self._net_j()
        known = self._baseline is not None and covered_s > 0
        step = source.step
        return EnergyReport(
            source=source.name,
            scope=source.scope,
            replayed=source.replayed,
            window_s=gained.window_ns / 1e9,
            samples=gained.samples,
            coverage=gained.coverage,
            resolution_j=least_j,
            net_resolution_j=self._net_least_j(),
            power_w=gained.power_w,
            idle_w=None if self._baseline is None else self._baseline.power_w,
            total_j=_told(gained.total_j if covered_s else None, least_j),
            net_j=_told(net_j if known else None, self._net_least_j()),
            other_j=_told(self._other_j if known else None, self._net_least_j()),
            rails_j={
                label: _told(
                    joules if covered_ns else None,
                    step if step is None or source.kind == "energy" else step * covered_ns / 1e9,
                )
                for label, joules, covered_ns in zip(
                    source.rails, gained.rails_j, gained.rails_covered_ns, strict=True
                )
            },
            faults=gained.faults,
            unchanged_s=gained.unchanged_ns / 1e9,
        )

    def stream(self, name: str) -> StreamEnergy | None:
        """Return the shares of one stream as of the last `settle`; None: it never came."""
        found = self._streams.get(name)
        if found is None:
            return None
        return StreamEnergy(stages=self._shares(found.stages), routes=self._shares(found.routes))

    @property
    def _idle_w(self) -> float:
        return 0.0 if self._baseline is None else self._baseline.power_w

    def _our_share(self, busy_ns: int, now: Processors, *, window_ns: int) -> float:
        """Return the streams' share of the work since the last call, idle work left out."""
        before, self._processors = self._processors, now
        idle = 0.0 if self._baseline is None else self._baseline.cpu_share or 0.0
        idle_ns = idle * (os.cpu_count() or 1) * window_ns
        ours_ns = max(busy_ns, now.ours_ns - before.ours_ns)
        others_ns = max(0.0, now.others_ns - before.others_ns - idle_ns)
        return ours_ns / (ours_ns + others_ns) if busy_ns else 0.0

    def _net_j(self) -> float:
        gained = self._settled.since(self._begun)
        return gained.total_j - self._idle_w * gained.covered_ns / 1e9

    def _net_least_j(self) -> float | None:
        """Return the least net energy that can be told from nothing; None: not known."""
        if self._baseline is None:
            return None
        covered_s = self._settled.since(self._begun).covered_ns / 1e9
        least_j = resolution_j(self._sampler.source, covered_s=covered_s)
        return None if least_j is None else least_j + self._baseline.uncertain_w * covered_s

    def _shares(self, tallies: Mapping[str, _Tally]) -> dict[str, Share]:
        least_j = self._net_least_j()
        return {name: self._as_share(tally, least_j) for name, tally in tallies.items()}

    def _as_share(self, tally: _Tally, least_j: float | None) -> Share:
        measured = self._baseline is not None and tally.busy_ns > 0 and tally.covered_count > 0
        joules = _told(tally.joules if measured else None, least_j)
        each_j = joules / tally.covered_count if isinstance(joules, float) else joules
        return Share(joules=joules, busy_s=tally.busy_ns / 1e9, count=tally.count, each_j=each_j)

    def _fresh(self, name: str, work: Work) -> Work:
        """Return what a stream has done since the last call."""
        stream = self._streams.setdefault(name, _Stream())
        before, stream.done = stream.done, work
        return Work(_since(work.stages, before.stages), _since(work.routes, before.routes))


def _since(now: Mapping[str, Done], before: Mapping[str, Done]) -> dict[str, Done]:
    found = {}
    for name, one in now.items():
        old = before.get(name, _NEVER)
        if one.times < old.times or one.busy_ns < old.busy_ns:
            old = _NEVER
        found[name] = Done(one.times - old.times, one.busy_ns - old.busy_ns)
    return found


def _at_work(work: Work) -> int:
    """Return for how long a stream was at work; 0 unless both its stages and routes say so."""
    stages_ns = sum(one.busy_ns for one in work.stages.values())
    routes_ns = sum(one.busy_ns for one in work.routes.values())
    return max(stages_ns, routes_ns) if stages_ns and routes_ns else 0


def _share(
    joules: float, done: Mapping[str, Done], tallies: dict[str, _Tally], *, coverage: float
) -> None:
    """Share joules out by the time at work, and count the work."""
    whole_ns = sum(one.busy_ns for one in done.values())
    for name, one in done.items():
        tally = tallies.setdefault(name, _Tally())
        tally.count += one.times
        tally.covered_count += one.times * coverage
        tally.busy_ns += one.busy_ns
        if whole_ns:
            tally.joules += joules * one.busy_ns / whole_ns


def _told(joules: float | None, least_j: float | None) -> Joules:
    """Return joules as they are reported: fewer than the sensor can tell are no number."""
    unclear = joules is not None and least_j is not None and abs(joules) < least_j
    return "not resolvable" if unclear else joules
