"""What a board takes when it has nothing to do, which net figures leave out.

It is measured by `hedge energy idle` and kept in the device's state directory. It counts only
for the sensor, the board and the power mode that it was measured with.
"""

from __future__ import annotations

import itertools
import logging
import math
import statistics
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from ...models.errors import ConfigError, DataError
from ..boards.detect import Detected
from ..boards.small_file import read_small
from ..power.reader import PowerSource
from ..whole_file import write_whole
from .integral import Totals
from .series import Trace

FILE = "idle.json"
"""The baseline's file, in a device's state directory."""

LEAST_COVERAGE = 0.9
BLOCKS = 10
_STUDENT = 2.262  # 97.5 % of Student's t with BLOCKS - 1 degrees of freedom
_LEAST_POINTS = 2 * BLOCKS
_MAX_BYTES = 65_536
_log = logging.getLogger(__name__)

Watts = Annotated[float, Meta(ge=-1e4, le=1e4)]
Positive = Annotated[float, Meta(ge=0, le=1e9)]


class Baseline(Struct, frozen=True, kw_only=True):
    """The power of the total when idle.

    ``std_w`` is how much the readings scatter (in a long window: means of a few neighbours),
    ``uncertain_w`` how far the mean may be off: half its 95 % interval, from the means of ten
    parts of the window, so that slow drifts count too. ``source`` names the sensor, ``total``
    the rails; ``board`` is `Detected.hardware`. ``cpu_share`` (0 to 1) is how busy the CPUs were
    meanwhile. ``at_s`` is Unix time.
    """

    version: Literal[1] = 1
    power_w: Watts
    std_w: Positive
    uncertain_w: Positive
    window_s: Positive
    samples: Annotated[int, Meta(ge=0)]
    coverage: Annotated[float, Meta(ge=0, le=1)]
    source: str
    total: tuple[str, ...]
    board: str | None = None
    power_mode: str | None = None
    cpu_share: Annotated[float, Meta(ge=0, le=1)] | None = None
    replayed: bool = False
    faults: dict[str, int] = {}
    at_s: float

    def misfit(
        self, source: PowerSource, *, board: str | None, power_mode: str | None
    ) -> str | None:
        """Return why it does not count here, None if it does."""
        pairs = (
            ("sensor", self.source, source.name),
            ("rails", "+".join(self.total), "+".join(source.total)),
            ("board", self.board, board),
            ("power mode", self.power_mode, power_mode),
        )
        wrong = [f"{what} {then}, and it is {now} now" for what, then, now in pairs if then != now]
        return f"was measured with {'; '.join(wrong)}" if wrong else None


def mode_of(board: Detected) -> str | None:
    """Return the name, else the number, of the power mode that a board is in."""
    mode = board.power_mode
    if mode is None:
        return None
    return mode.name if mode.name is not None or mode.id is None else str(mode.id)


def baseline_of(
    totals: Totals,
    trace: Trace,
    *,
    source: PowerSource,
    board: str | None,
    power_mode: str | None,
    cpu_share: float | None,
    at_s: float,
) -> Baseline:
    """Return the baseline that a sampler has measured.

    Raises:
        DataError: too little of the time is covered, or the readings are too few.
    """
    powers = _powers(trace, source)
    if len(powers) < _LEAST_POINTS or totals.coverage < LEAST_COVERAGE:
        faults = ", ".join(f"{count} {name}" for name, count in sorted(totals.faults.items()))
        window = f"{totals.window_ns / 1e9:.1f} s"
        raise DataError(
            f"{totals.samples} readings cover {totals.coverage:.0%} of {window} "
            f"({faults or 'no faults'}); {LEAST_COVERAGE:.0%} and {_LEAST_POINTS} are needed",
            where=source.name,
            hint="measure for longer, or see what the sensor says: hedge energy show",
        )
    return Baseline(
        power_w=totals.total_j / (totals.covered_ns / 1e9),
        std_w=statistics.stdev(powers),
        uncertain_w=uncertainty_w(powers),
        window_s=totals.window_ns / 1e9,
        samples=totals.samples,
        coverage=totals.coverage,
        source=source.name,
        total=source.total,
        board=board,
        power_mode=power_mode,
        cpu_share=cpu_share,
        replayed=source.replayed,
        faults=totals.faults,
        at_s=at_s,
    )


def uncertainty_w(powers: list[float]) -> float:
    """Return half the 95 % interval of the mean of a series (n,), n at least BLOCKS.

    By batch means (Law, Simulation Modeling and Analysis, 9.5.3): neighbouring readings are
    alike, so that the scatter of single ones over the root of n would promise too much.
    """
    cuts = [len(powers) * block // BLOCKS for block in range(BLOCKS + 1)]
    means = [statistics.fmean(powers[a:b]) for a, b in itertools.pairwise(cuts)]
    return _STUDENT * statistics.stdev(means) / math.sqrt(BLOCKS)


def _powers(trace: Trace, source: PowerSource) -> list[float]:
    """Return the total's power at every point of which all rails count."""
    if not source.total:
        return []
    found = zip(*(trace.power_w[label] for label in source.total), strict=True)
    whole = ([one for one in rails if one is not None] for rails in found)
    return [sum(rails) for rails in whole if len(rails) == len(source.total)]


def write_baseline(baseline: Baseline, state_dir: Path) -> Path:
    """Keep a baseline in a state directory, whole or not at all; return its file.

    Raises:
        ConfigError: it cannot be written.
    """
    file = state_dir / FILE
    data = msgspec.json.format(msgspec.json.encode(baseline)) + b"\n"
    try:
        write_whole(file, data)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(file)) from error
    return file


def read_baseline(state_dir: Path) -> Baseline | None:
    """Return the baseline that a state directory holds, None if it holds none.

    Raises:
        ConfigError: it cannot be read, or is damaged.
    """
    file = state_dir / FILE
    if not file.exists():
        return None
    data = read_small(file, max_bytes=_MAX_BYTES)
    try:
        return msgspec.json.decode(data, type=Baseline)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"is no baseline: {error}", where=str(file), hint="measure anew: hedge energy idle"
        ) from error


def fitting_baseline(state_dir: Path, source: PowerSource, *, board: Detected) -> Baseline | None:
    """Return the baseline for this sensor, board and power mode.

    None if there is none; one that is damaged or was measured otherwise is left out with a
    warning: a device starts without it.
    """
    try:
        found = read_baseline(state_dir)
    except ConfigError as error:
        _log.warning("%s", error)
        return None
    if found is None:
        return None
    why = found.misfit(source, board=board.hardware, power_mode=mode_of(board))
    if why is not None:
        _log.warning("%s: %s: energy is told without it", state_dir / FILE, why)
        return None
    return found
