"""The power monitors INA3221 and INA238 on a Jetson's I2C buses.

Their rails are found by the board's profile (`telemetry.boards.rails`), by label, in both
layouts of the kernel. Watts are ``in_power<n>_input`` in mW (iio), ``in<n>_input`` in mV times
``curr<n>_input`` in mA (hwmon, INA3221), ``power1_input`` in uW (hwmon, INA238). Volts and
amperes are read one after the other, so they belong to two moments.

Sources: Linux, Documentation/hwmon/ina3221.rst and ina238.rst; drivers/hwmon/ina3221.c: one step
of a shunt's voltage is 40 uV, a channel that is switched off answers ENODATA, and a conversion of
all channels takes ``update_interval`` ms. For one of those each file waits in older drivers, in
newer ones only in single-shot mode: the slower is assumed. (Both drivers of Linux 6.1 were read
over the kernel's I2C stub: volts, amperes below zero, a channel switched off, a driver unbound and
bound again.)
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import msgspec

from ...models.errors import ConfigError
from ..boards.profile import Power
from ..boards.rails import FoundRail, find_rails, fits
from ..boards.tree import Tree
from ..clock import Clock
from .reader import PowerSource
from .sensor_file import SensorFile, product

DRIVERS = ("ina3221", "ina238")
_SHUNT_STEP_V = 40e-6
_FIRST_PAUSE_NS = 1_000_000_000
_LAST_PAUSE_NS = 60_000_000_000
_HINT = "load the sensor's driver, or give the container /sys; docs/power.md"


class _Slot(NamedTuple):
    """A rail of the source: what it is called, and what it is found again by."""

    name: str
    label: str
    driver: str
    address: str | None = None
    in_total: bool = False

    def fits(self, one: FoundRail) -> bool:
        where = self.address in (None, one.address)
        return where and (self.label, self.driver) == (one.label, one.driver)


class _Channel(NamedTuple):
    """The files whose numbers, multiplied with each other, are so many of a rail's watts."""

    files: tuple[SensorFile, ...]
    per_w: float

    def power_w(self) -> float | None:
        power = product(self.files)
        return None if power is None else power / self.per_w

    @property
    def is_gone(self) -> bool:
        return any(file.is_gone for file in self.files)


class InaReader:
    """Reads the rails of a profile; those that vanish are looked for until they return.

    It looks after a second, then after twice as long, up to a minute, since to look is to
    read every channel once.
    """

    def __init__(self, power: Power, *, root: Path, clock: Clock) -> None:
        rails = tuple(rail for rail in power.rail if rail.driver in DRIVERS)
        self._power = msgspec.structs.replace(power, rail=rails)
        self._root = root
        self._clock = clock
        tree = Tree(root)
        found = find_rails(tree, self._power)
        self._slots = _slots(found, self._power)
        self._channels: list[_Channel | None] = [None] * len(self._slots)
        self._connect(found)
        self._look_at_ns = 0
        self._pause_ns = _FIRST_PAUSE_NS
        self._is_closed = False
        self.source = _source(tree, found, self._slots, self._power)

    def read(self) -> tuple[float | None, ...]:
        """Return the watts of each rail now; None: it cannot be read."""
        if self._is_closed:
            return (None,) * len(self._slots)
        powers = tuple(None if one is None else one.power_w() for one in self._channels)
        if None in powers:
            self._look_again()
        else:
            self._pause_ns = _FIRST_PAUSE_NS
        return powers

    def close(self) -> None:
        """Close the files."""
        self._is_closed = True
        for channel in self._channels:
            _close(channel)

    def _look_again(self) -> None:
        """Find the rails that are gone, wherever they are by now, if it is time."""
        gone = any(one is None or one.is_gone for one in self._channels)
        now_ns = self._clock()
        if gone and now_ns >= self._look_at_ns:
            self._connect(find_rails(Tree(self._root), self._power))
            self._look_at_ns = now_ns + self._pause_ns
            self._pause_ns = min(2 * self._pause_ns, _LAST_PAUSE_NS)

    def _connect(self, found: tuple[FoundRail, ...]) -> None:
        """Give the rails that have no channel, or one that is gone, what was found."""
        for place, slot in enumerate(self._slots):
            channel = self._channels[place]
            one = next((one for one in found if slot.fits(one)), None)
            if one is not None and (channel is None or channel.is_gone):
                _close(channel)
                self._channels[place] = _channel(self._root, one)


def open_ina(power: Power, *, root: Path, clock: Clock) -> InaReader:
    """Return the reader of a profile's INA rails, of which at least one can be read.

    Raises:
        ConfigError: none can.
    """
    labels = ", ".join(rail.label for rail in power.rail if rail.driver in DRIVERS)
    if not labels:
        raise ConfigError(
            "the board's profile names no rail of an INA3221 or INA238",
            hint="docs/boards.md says how to write one that does",
        )
    reader = InaReader(power, root=root, clock=clock)
    if all(power_w is None for power_w in reader.read()):
        reader.close()
        raise ConfigError(f"none of {labels} can be read", where="ina", hint=_HINT)
    return reader


def _slots(found: tuple[FoundRail, ...], power: Power) -> tuple[_Slot, ...]:
    """Return the rails in the profile's order; those that are not there may come."""
    labels = [one.label for one in found]
    slots: list[_Slot] = []
    for rail in power.rail:
        in_total = rail.label in power.total
        there = [one for one in found if fits(one, rail)]
        for one in there:
            name = one.label if labels.count(one.label) == 1 else f"{one.label}@{one.address}"
            slots.append(_Slot(name, one.label, one.driver, one.address, in_total))
        if not there:
            slots.append(_Slot(rail.label, rail.label, rail.driver, rail.address, in_total))
    return tuple(slots)


def _channel(root: Path, one: FoundRail) -> _Channel:
    names: tuple[str, ...] = (f"in{one.channel}_input", f"curr{one.channel}_input")
    per_w = 1e6
    if one.layout == "iio":
        names, per_w = (f"in_power{one.channel}_input",), 1e3
    elif one.driver == "ina238":
        names = ("power1_input",)
    return _Channel(tuple(SensorFile(root, f"{one.folder}/{name}") for name in names), per_w)


def _close(channel: _Channel | None) -> None:
    for file in () if channel is None else channel.files:
        file.close()


def _source(
    tree: Tree, found: tuple[FoundRail, ...], slots: tuple[_Slot, ...], power: Power
) -> PowerSource:
    total = tuple(slot.name for slot in slots if slot.in_total)
    is_whole = set(power.total) <= {rail.label for rail in power.rail}
    return PowerSource(
        name="+".join(dict.fromkeys(slot.driver for slot in slots)),
        kind="power",
        rails=tuple(slot.name for slot in slots),
        total=total if is_whole else (),
        scope=power.scope if is_whole else "none",
        step=_step_w(tree, found) or power.resolution_w,
        fastest_hz=_fastest_hz(tree, found),
        negative=power.negative,
    )


def _step_w(tree: Tree, found: tuple[FoundRail, ...]) -> float | None:
    """Return one step of the coarsest rail of the total, if the chips say all their shunts."""
    steps = [_step_of(tree, one) for one in found if one.in_total]
    known = [step_w for step_w in steps if step_w is not None]
    return max(known) if known and len(known) == len(steps) else None


def _step_of(tree: Tree, one: FoundRail) -> float | None:
    """Return one step of the shunt's current, times the volts: 20 V on 2 mohm make 0.4 W."""
    if one.driver != "ina3221" or one.layout != "hwmon":
        return None
    shunt_uohm = tree.number(f"{one.folder}/shunt{one.channel}_resistor")
    millivolts = tree.number(f"{one.folder}/in{one.channel}_input")
    if not shunt_uohm or not millivolts:
        return None
    return abs(millivolts / 1e3 * _SHUNT_STEP_V / (shunt_uohm / 1e6))


def _fastest_hz(tree: Tree, found: tuple[FoundRail, ...]) -> float | None:
    """Return how often all rails can be read if each file waits for a conversion."""
    waits = [
        2 * (tree.number(f"{one.folder}/update_interval") or 0)
        for one in found
        if one.driver == "ina3221" and one.layout == "hwmon"
    ]
    return 1e3 / sum(waits) if sum(waits) > 0 else None
