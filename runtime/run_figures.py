"""What a run has cost so far, gathered from all its parts; in the loop's thread."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import psutil

from ..telemetry.clock import Clock
from ..telemetry.filter_state import FilterState
from ..telemetry.gate_state import GateState
from ..telemetry.ledger import StreamReport
from ..telemetry.snapshot import Snapshot
from ..uplink.asks import Uplink
from .config import Config
from .cost import Cost
from .lane import Lane
from .loop import Loop
from .notes import Notes
from .report import RunReport
from .streams import Streams
from .version import installed

Counters = Callable[[], dict[str, int]]


class RunFigures:
    """Reads what the loop owns, and so is called by whoever the loop calls.

    ``counters`` are those of other parts.
    """

    def __init__(
        self,
        config: Config,
        *,
        session: int,
        streams: Streams,
        loop: Loop,
        uplink: Uplink,
        notes: Notes,
        cost: Cost,
        counters: Sequence[Counters],
        clock: Clock,
    ) -> None:
        self._device = config.device
        self._has_uplink = config.uplink is not None
        self._session = session
        self._streams = streams
        self._loop = loop
        self._uplink = uplink
        self._notes = notes
        self._cost = cost
        self._counters = counters
        self._clock = clock
        self._begun_ns = clock()
        self._process = psutil.Process()
        self._version = installed()

    def snapshot(self, *, buckets: bool = False) -> Snapshot:
        """Return the figures of this moment; ``buckets`` are `Latency.below`."""
        times = self._process.cpu_times()
        return Snapshot(
            session=self._session,
            uptime_s=round(self._seconds(), 3),
            streams={one.stream: one for one in self._ledgers(buckets=buckets)},
            uplink=self._uplink.counters(),
            counts=self._counts(),
            rss_bytes=self._process.memory_info().rss,
            cpu_s=times.user + times.system,
            device=self._device.name,
            site=self._device.site,
            version=self._version,
            at_s=round(time.time(), 3),
            connected=self._uplink.connected if self._has_uplink else None,
            note=self._notes.line,
            energy=self._cost.report(),
            board=self._cost.board(),
        )

    def report(self) -> RunReport:
        """Return the figures of the whole run."""
        self._cost.settle()
        times = self._process.cpu_times()
        return RunReport(
            device=self._device.name,
            site=self._device.site,
            session=self._session,
            seconds=self._seconds(),
            streams=tuple(self._ledgers()),
            uplink=self._uplink.counters(),
            counts=self._counts(),
            rss_bytes=self._process.memory_info().rss,
            cpu_s=times.user + times.system,
            energy=self._cost.report(),
        )

    def _seconds(self) -> float:
        return (self._clock() - self._begun_ns) / 1e9

    def _ledgers(self, *, buckets: bool = False) -> list[StreamReport]:
        lanes = {name: one.lane for name, one in self._streams.served.items()}
        return [
            ledger.report(
                model=lanes[name].title if name in lanes else None,
                energy=self._cost.stream(name),
                source=lanes[name].source.state() if name in lanes else None,
                gate=_gate(lanes.get(name)),
                filters=_filters(lanes.get(name)),
                buckets=buckets,
            )
            for name, ledger in self._streams.ledgers.items()
        ]

    def _counts(self) -> dict[str, int]:
        found = {**self._loop.counts, **self._streams.counts()}
        for counters in self._counters:
            found |= counters()
        return found


def _gate(lane: Lane | None) -> GateState | None:
    return None if lane is None or lane.gate is None else lane.gate.state()


def _filters(lane: Lane | None) -> tuple[FilterState, ...]:
    return () if lane is None else tuple(one.state() for one in lane.filters)
