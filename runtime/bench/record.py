"""What `hedge bench run` found, as it stands in its JSON."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import Struct

from .accuracy import Accuracy
from .conditions import Conditions, Moment, warnings
from .energy_record import Energy
from .latency import Latency, Ratio
from .machine import Machine
from .opening import Opening
from .scenario_record import ScenarioResult
from .spread import Spread

FORMAT = 2
READABLE = (1, 2)
DISTURBED = 0.1
"""Of the calls beyond a quantile as many may be held up by others: more, and it is theirs."""
"""Format 1 had none of what has a default here."""


class Measured(Struct, frozen=True, kw_only=True):
    """One variant with so many threads; ``sha256`` is that of its model file.

    ``runs_on`` is the backend that was timed, ``ratio`` that to the first of the report.
    ``accuracy`` is None without data, ``energy`` without a power source. ``spread`` holds the
    latencies span by span, to be drawn and compared.
    """

    variant: str
    threads: int
    sha256: str
    precision: str
    runs_on: str
    opening: Opening
    latency: Latency
    ratio: Ratio
    accuracy: Accuracy | None
    energy: Energy | None
    spread: Spread | None = None


class Failed(Struct, frozen=True, kw_only=True):
    """A variant that could not be measured, and why."""

    variant: str
    threads: int
    reason: str


class Phase(Struct, frozen=True, kw_only=True):
    """What was done from when to when, in seconds on the clock of the moments."""

    what: str
    begin_s: float
    end_s: float


class PowerPoint(Struct, frozen=True, kw_only=True):
    """The mean power around a moment; None: no reading counted then."""

    t_s: float
    power_w: float | None


class Course(Struct, frozen=True, kw_only=True):
    """What the board went through while it was measured, in bounded series.

    ``power_source`` is None where there was no power to read; ``replayed`` says that the
    power was recorded elsewhere.
    """

    phases: tuple[Phase, ...] = ()
    moments: tuple[Moment, ...] = ()
    power: tuple[PowerPoint, ...] = ()
    power_source: str | None = None
    replayed: bool = False


class BenchReport(Struct, frozen=True, kw_only=True):
    """The figures of one run; ``floor`` is what the null backend takes in the same rounds.

    ``before`` and ``after`` are the board's conditions, both read while it is warm.
    ``preempted_hz`` is how often a second of the rounds the kernel gave the processor to
    something else: of calls as long as a median, so many a second are not their own.
    """

    format: int
    bundle: str
    version: str
    digest: str
    board: str
    power_mode: str | None
    machine: Machine
    seed: int
    rounds: int
    seen_rows_left_out: int | None
    floor: Latency
    measured: tuple[Measured, ...]
    failed: tuple[Failed, ...]
    floor_spread: Spread | None = None
    before: Conditions | None = None
    after: Conditions | None = None
    course: Course | None = None
    scenarios: tuple[ScenarioResult, ...] = ()
    preempted_hz: float | None = None

    def preempted_share(self, latency: Latency) -> float:
        """Return about which share of such calls was held up by something else, 0 to 1."""
        return min(1.0, (self.preempted_hz or 0.0) * latency.median_ms / 1e3)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the figures doubtful: throttling, a clock that fell, others at work."""
        if self.before is None or self.after is None:
            return ()
        moments = () if self.course is None else self.course.moments
        found = warnings(self.before, self.after, moments, cpus=self.machine.cpus)
        return (*found, *self._disturbed())

    def _disturbed(self) -> Iterator[str]:
        shares = {
            f"{share:.2%} of {one.variant}": share
            for one in self.measured
            if (share := self.preempted_share(one.latency)) > DISTURBED * 0.01
        }
        if shares:
            yield (
                f"something else took the processor {self.preempted_hz:.0f} times a second, from "
                f"about so many calls: {', '.join(shares)}: their tails are not their own"
            )
