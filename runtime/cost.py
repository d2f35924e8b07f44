"""What the device's power sensors say of its work: read, and shared out over streams."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
import psutil

from ..telemetry.boards.detect import Detected
from ..telemetry.boards.power_mode import read_power_mode
from ..telemetry.boards.thermal import hottest, read_throttling, read_zones
from ..telemetry.boards.tree import Tree
from ..telemetry.clock import Clock
from ..telemetry.energy.account import EnergyAccount, Processors
from ..telemetry.energy.baseline import fitting_baseline
from ..telemetry.energy.figures import EnergyReport, StreamEnergy
from ..telemetry.energy.sampler import PowerSampler
from ..telemetry.ledger import Done, Ledger, Work
from ..telemetry.power.reader import PowerReader
from ..telemetry.snapshot import BoardState
from ..uplink.asks import Uplink

_SETTLED_NS = 1_000_000_000


class Cost:
    """A `Feed` that settles the energy account about once a second, in the loop's thread.

    It owns the reader once it has begun. ``ledgers`` may grow meanwhile; what the uplink's
    thread has taken goes to the streams that have asked something since the last time.
    """

    def __init__(
        self,
        reader: PowerReader,
        *,
        rate_hz: float,
        board: Detected,
        state: Path,
        ledgers: Mapping[str, Ledger],
        uplink: Uplink,
        clock: Clock,
    ) -> None:
        self._has_rails = bool(reader.source.rails)
        self._sampler = PowerSampler(
            reader, rate_hz=rate_hz, clock=clock, also=(board_reader(board),)
        )
        self._ledgers = ledgers
        self._uplink = uplink
        self._account = EnergyAccount(
            self._sampler,
            baseline=fitting_baseline(state, reader.source, board=board),
            processors=self._processors({}),
        )
        self._due_ns = 0
        self._uplink_ns = 0
        self._asked: dict[str, int] = {}
        self._uplink_of: dict[str, int] = {}

    def start(self) -> None:
        """Begin to read."""
        self._sampler.start()

    def close(self) -> None:
        """Stop, and close the reader."""
        self._sampler.close()

    def feed(self, now_ns: int) -> int:
        """Share out what was measured since the last time, if a second is over.

        Raises:
            HedgeError: the sampler's thread has died.
        """
        if now_ns >= self._due_ns:
            self._due_ns = now_ns + _SETTLED_NS
            self._sampler.check()
            self.settle()
        return self._due_ns

    def settle(self) -> None:
        """Share out what was measured since the last time."""
        if self._has_rails:
            works = self._works()
            self._account.settle(works, processors=self._processors(works))

    def report(self) -> EnergyReport | None:
        """Return the energy of the run so far; None where no sensor is read."""
        return self._account.report() if self._has_rails else None

    def stream(self, name: str) -> StreamEnergy | None:
        """Return that of one stream."""
        return self._account.stream(name) if self._has_rails else None

    def board(self) -> BoardState | None:
        """Return how the board was a second ago at most; None: it was not read yet."""
        state = self._sampler.latest()[0]
        return state if isinstance(state, BoardState) else None

    def _processors(self, works: Mapping[str, Work]) -> Processors:
        """Return how long the processors have worked so far; in the loop's thread.

        For the streams work the stages, the uplink, and the threads of a model's library,
        which are those of the process that are none of ours.
        """
        times = psutil.cpu_times()
        machine_ns = int((times.user + times.nice + times.system + times.irq + times.softirq) * 1e9)
        own_ns = time.thread_time_ns() + self._uplink.busy_ns() + self._sampler.busy_ns()
        pool_ns = max(0, time.process_time_ns() - own_ns)
        stages = (done.busy_ns for work in works.values() for done in work.stages.values())
        ours_ns = sum(stages) + pool_ns
        return Processors(ours_ns, machine_ns - ours_ns)

    def _works(self) -> dict[str, Work]:
        uplink_ns = self._uplink.busy_ns()
        fresh_ns, self._uplink_ns = uplink_ns - self._uplink_ns, uplink_ns
        asked = {name: ledger.routes["escalated"] for name, ledger in self._ledgers.items()}
        since = {name: count - self._asked.get(name, 0) for name, count in asked.items()}
        self._asked = asked
        together = sum(since.values())
        works = {}
        for name, ledger in self._ledgers.items():
            share_ns = fresh_ns * since[name] // together if together else 0
            self._uplink_of[name] = self._uplink_of.get(name, 0) + share_ns
            works[name] = _with_uplink(ledger.work(), self._uplink_of[name])
        return works


def _with_uplink(work: Work, uplink_ns: int) -> Work:
    """Return the work with that of the uplink's thread, which is all for what is escalated."""
    asked, escalated = work.stages["uplink"], work.routes["escalated"]
    return Work(
        stages={**work.stages, "uplink": Done(asked.times, uplink_ns)},
        routes={
            **work.routes,
            "escalated": Done(escalated.times, escalated.busy_ns + uplink_ns),
        },
    )


def board_reader(board: Detected, *, root: Path = Path("/")) -> Callable[[], BoardState]:
    """Return what reads how the board is now."""
    profile = board.profile

    def read() -> BoardState:
        tree = Tree(root)
        throttling = read_throttling(tree)
        found = BoardState(throttled=throttling.now, throttled_by=throttling.by)
        if profile is None:
            return found
        zone = hottest(read_zones(tree, profile.thermal))
        mode = read_power_mode(tree, profile.power_modes, module=board.module)
        return msgspec.structs.replace(
            found,
            temp_c=None if zone is None else zone.temp_c,
            zone=None if zone is None else zone.name,
            power_mode=None if mode is None else mode.name,
        )

    return read
