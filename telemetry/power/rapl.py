"""RAPL: what the packages of an x86 processor have used, by the kernel's counters.

Only package domains count: core, uncore and dram are parts of a package or apart from it, and
psys holds the packages. A counter goes on at 0 after ``max_energy_range_uj``. What it says is no
longer certain once so much time has passed that `PLAUSIBLE_W` could have brought it round more
than once, nor is a step that would have taken more than that.

Sources: Linux, Documentation/power/powercap/powercap.rst (names, microjoules, the range);
drivers/powercap/intel_rapl_common.c, get_max_energy_counter: the range is 2^32 - 1 steps, which
tells the step. Intel SDM, volume 3, "RAPL Interfaces": the counter moves about once a
millisecond. energy_uj is for root alone since Linux 5.10 (CVE-2020-8694, "PLATYPUS").
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ...models.errors import ConfigError
from ..boards.profile import Power, Rail
from ..boards.rails import RAPL, FoundRail, find_rails
from ..boards.tree import Tree
from ..clock import Clock
from .reader import PowerSource
from .sensor_file import SensorFile

PLAUSIBLE_W = 1000.0
"""More than any package takes: what is above it was not measured."""

_PACKAGES = Power(
    rail=(Rail(label="package-*", driver="rapl"),), total=("package-*",), scope="package"
)
_SLACK_S = 0.01  # the counter moves in steps of a millisecond, and a reading may have waited
_FASTEST_HZ = 1000.0
_STEPS = 2**32 - 1
_HINT = "it is for root alone: `hedge service install --rapl` has the udev rule and the group"


class _Counter(NamedTuple):
    label: str
    file: SensorFile
    range_uj: int


class RaplReader:
    """Reads the counter of each package."""

    def __init__(self, counters: tuple[_Counter, ...], *, clock: Clock) -> None:
        self._counters = counters
        self._clock = clock
        self._before: list[int | None] = [None] * len(counters)
        self._before_ns = clock()
        self._is_closed = False
        labels = tuple(one.label for one in counters)
        self.source = PowerSource(
            name="rapl",
            kind="energy",
            rails=labels,
            total=labels,
            scope="package",
            step=max(one.range_uj for one in counters) / _STEPS / 1e6,
            fastest_hz=_FASTEST_HZ,
        )

    def read(self) -> tuple[float | None, ...]:
        """Return the joules of each package since the read before; None: not known."""
        if self._is_closed:
            return (None,) * len(self._counters)
        now = [one.file.number() for one in self._counters]
        now_ns = self._clock()
        elapsed_s = (now_ns - self._before_ns) / 1e9
        joules = tuple(
            used_j(before, after, range_uj=one.range_uj, elapsed_s=elapsed_s)
            for one, before, after in zip(self._counters, self._before, now, strict=True)
        )
        self._before, self._before_ns = now, now_ns
        return joules

    def close(self) -> None:
        """Close the files."""
        self._is_closed = True
        for one in self._counters:
            one.file.close()


def used_j(
    before: int | None, after: int | None, *, range_uj: int, elapsed_s: float
) -> float | None:
    """Return the joules between two states of a counter in microjoules, None if not certain.

    >>> used_j(999_000, 500_000, range_uj=1_000_000, elapsed_s=0.0001)
    0.501
    """
    if before is None or after is None or not 0 <= after <= range_uj:
        return None
    if elapsed_s * PLAUSIBLE_W * 1e6 >= range_uj:
        return None  # it may have come round more than once
    step_uj = after - before if after >= before else after - before + range_uj
    if step_uj > (elapsed_s + _SLACK_S) * PLAUSIBLE_W * 1e6:
        return None  # it was set back, not come round
    return step_uj / 1e6


def open_rapl(*, root: Path, clock: Clock) -> RaplReader:
    """Return the reader of every package's counter.

    Raises:
        ConfigError: there is none, or one cannot be read.
    """
    tree = Tree(root)
    found = find_rails(tree, _PACKAGES)
    if not found:
        raise ConfigError(
            "has no package domain", where=str(root / RAPL), hint="the kernel needs intel_rapl_msr"
        )
    return RaplReader(tuple(_counter(tree, one) for one in found), clock=clock)


def _counter(tree: Tree, one: FoundRail) -> _Counter:
    energy, whole = f"{one.folder}/energy_uj", f"{one.folder}/max_energy_range_uj"
    range_uj = tree.number(whole)
    for path, number, least in ((energy, tree.number(energy), 0), (whole, range_uj, 1)):
        if path in tree.unread:
            what = f"cannot be read: {tree.unread[path]}"
            raise ConfigError(what, where=str(tree.root / path), hint=_HINT)
        if number is None or number < least:
            raise ConfigError("says no energy", where=str(tree.root / path))
    return _Counter(one.label, SensorFile(tree.root, energy), range_uj or 0)
