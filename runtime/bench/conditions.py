"""What a board was in while it was measured: clocks, power mode, heat, load."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from msgspec import Struct

from ...telemetry.boards.detect import Detected
from ...telemetry.boards.power_mode import GOVERNORS, read_power_mode
from ...telemetry.boards.profile import Thermal
from ...telemetry.boards.thermal import hottest, read_throttling, read_zones
from ...telemetry.boards.tree import Tree
from ...telemetry.clock import Clock, boottime_ns

DEVFREQ = "sys/class/devfreq"
MOST_MOMENTS = 600
"""Then every other is dropped, and half as many are taken from then on."""
_FELL = 0.9
_GPU = re.compile(r"gpu|g[mpva]\d\d?b|v3d|mali")


class Frequency(Struct, frozen=True, kw_only=True):
    """The clock of a cluster of CPUs or of a GPU now, and the most that it may take."""

    name: str
    now_hz: int | None
    limit_hz: int | None


class Conditions(Struct, frozen=True, kw_only=True):
    """A board at one moment; what cannot be read is None, or is not there.

    ``load`` is that of the last minute, this run's own included. ``temps_c`` are the zones
    that count, ``hottest_c`` the hottest; ``too_hot`` those at or above the point where
    the kernel slows down. ``throttled`` is what the board itself says.
    """

    load: float
    power_mode: str | None
    governors: tuple[str, ...]
    cpu: tuple[Frequency, ...]
    gpu: tuple[Frequency, ...]
    temps_c: dict[str, float]
    hottest_c: float | None
    too_hot: tuple[str, ...]
    throttled: bool | None
    throttled_by: tuple[str, ...]

    @property
    def slowed(self) -> tuple[str, ...]:
        """What slows the board down now, in words; empty: nothing is known to."""
        hot = (f"{zone} is at {self.temps_c[zone]:g} °C" for zone in self.too_hot)
        return (*self.throttled_by, *hot)


class Moment(Struct, frozen=True, kw_only=True):
    """One look at the board: ``t_s`` after the first; ``clock_hz`` is the fastest CPU's."""

    t_s: float
    temp_c: float | None
    clock_hz: int | None
    slowed: bool


def read_conditions(board: Detected, *, root: Path = Path("/")) -> Conditions:
    """Return what a board is in now; ``root`` is where /sys lies."""
    tree = Tree(root)
    profile = board.profile
    zones = read_zones(tree, profile.thermal if profile else Thermal())
    counted = [zone for zone in zones if zone.counted and zone.temp_c is not None]
    throttling = read_throttling(tree)
    mode = read_power_mode(tree, profile.power_modes, module=board.module) if profile else None
    hot = hottest(zones)
    return Conditions(
        load=round(os.getloadavg()[0], 2),
        power_mode=None if mode is None else mode.name or f"mode {mode.id}",
        governors=tuple(dict.fromkeys(_governors(tree))),
        cpu=tuple(_cpu_clocks(tree)),
        gpu=tuple(_gpu_clocks(tree)),
        temps_c={zone.name: zone.temp_c for zone in counted if zone.temp_c is not None},
        hottest_c=None if hot is None else hot.temp_c,
        too_hot=tuple(
            zone.name
            for zone in counted
            if zone.throttle_c is not None and (zone.temp_c or 0.0) >= zone.throttle_c
        ),
        throttled=throttling.now,
        throttled_by=throttling.by,
    )


def warnings(
    before: Conditions, after: Conditions, moments: tuple[Moment, ...] = (), *, cpus: int
) -> Iterator[str]:
    """Yield what makes the figures of a run doubtful."""
    for when, one in (("before", before), ("after", after)):
        if one.slowed:
            yield f"THROTTLED {when} the run: {', '.join(one.slowed)}"
    slowed = sum(moment.slowed for moment in moments)
    if slowed:
        yield f"THROTTLED in {slowed} of {len(moments)} looks while it ran"
    yield from _fallen(before, after)
    if before.power_mode != after.power_mode:
        yield f"the power mode changed from {before.power_mode} to {after.power_mode}"
    if before.governors != after.governors:
        yield f"the governor changed from {_all(before.governors)} to {_all(after.governors)}"
    if before.load > cpus:
        yield f"the load was {before.load:g} on {cpus} CPUs before the run: others compete"


class Watch:
    """Keeps what was seen of a board while it was measured, in bounded detail."""

    def __init__(self, read: Callable[[], Conditions], *, clock: Clock = boottime_ns) -> None:
        self._read = read
        self._clock = clock
        self.begun_ns = clock()
        self._moments: list[Moment] = []
        self._every = 1
        self._looks = 0

    @property
    def moments(self) -> tuple[Moment, ...]:
        """What was seen so far, at most MOST_MOMENTS."""
        return tuple(self._moments)

    def look(self) -> None:
        """Look now; meant to be called about once a second, by one thread."""
        self._looks += 1
        if self._looks % self._every:
            return
        seen = self._read()
        clocks = [clock.now_hz for clock in seen.cpu if clock.now_hz is not None]
        moment = Moment(
            t_s=(self._clock() - self.begun_ns) / 1e9,
            temp_c=seen.hottest_c,
            clock_hz=max(clocks, default=None),
            slowed=bool(seen.slowed),
        )
        self._moments.append(moment)
        if len(self._moments) >= MOST_MOMENTS:
            self._moments = self._moments[::2]
            self._every *= 2


def _fallen(before: Conditions, after: Conditions) -> Iterator[str]:
    """Yield the clocks that fell: a limit at all, the clock itself by more than a tenth.

    Of the CPUs only the fastest clock counts: which of them was at work is not known.
    """
    limits = {one.name: one.limit_hz for one in (*after.cpu, *after.gpu)}
    for one in (*before.cpu, *before.gpu):
        limit_hz = limits.get(one.name)
        if one.limit_hz is not None and limit_hz is not None and limit_hz < one.limit_hz:
            yield f"the limit of {one.name} fell from {hertz(one.limit_hz)} to {hertz(limit_hz)}"
    pairs = (("CPUs", before.cpu, after.cpu), ("GPU", before.gpu, after.gpu))
    for what, earlier, later in pairs:
        was_hz = max((one.now_hz or 0 for one in earlier), default=0)
        is_hz = max((one.now_hz or 0 for one in later), default=0)
        if 0 < is_hz < _FELL * was_hz:
            yield f"the clock of the {what} fell from {hertz(was_hz)} to {hertz(is_hz)}"


def hertz(value: int) -> str:
    """Return a clock in words."""
    return f"{value / 1e9:.3g} GHz" if value >= 1_000_000_000 else f"{value / 1e6:.3g} MHz"


def _all(names: tuple[str, ...]) -> str:
    return ", ".join(names) or "unknown"


def _policies(tree: Tree) -> Iterator[str]:
    return (name for name in tree.names(GOVERNORS) if name.startswith("policy"))


def _governors(tree: Tree) -> Iterator[str]:
    for policy in _policies(tree):
        governor = tree.text(f"{GOVERNORS}/{policy}/scaling_governor")
        if governor:
            yield governor[:64]


def _cpu_clocks(tree: Tree) -> Iterator[Frequency]:
    for policy in _policies(tree):
        now_khz = tree.number(f"{GOVERNORS}/{policy}/scaling_cur_freq")
        limit_khz = tree.number(f"{GOVERNORS}/{policy}/scaling_max_freq")
        yield Frequency(
            name=f"CPU {policy}",
            now_hz=None if now_khz is None else now_khz * 1000,
            limit_hz=None if limit_khz is None else limit_khz * 1000,
        )


def _gpu_clocks(tree: Tree) -> Iterator[Frequency]:
    """Yield the GPU's clocks: devfreq tells them in hertz."""
    names = (name for name in tree.names(DEVFREQ) if _GPU.search(name))
    for name in itertools.islice(names, 8):
        now_hz = tree.number(f"{DEVFREQ}/{name}/cur_freq")
        limit_hz = tree.number(f"{DEVFREQ}/{name}/max_freq")
        yield Frequency(name=f"GPU {name}", now_hz=now_hz, limit_hz=limit_hz)
