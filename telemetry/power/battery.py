"""The batteries of the machine itself: what they give while they are all it runs on.

On mains they say nothing of what the machine takes, so then there is no reading. A battery that
rests while another gives adds nothing. Drivers disagree about the sign of what is given (the ABI
wants it negative), so it is left out.

Source: Linux, Documentation/ABI/testing/sysfs-class-power: ``status``, ``power_now`` in uW,
``current_now`` in uA, ``voltage_now`` in uV, ``scope`` "Device" for what powers a mouse.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ...models.errors import ConfigError
from ..boards.tree import Tree
from .reader import PowerSource
from .sensor_file import SensorFile, product

SUPPLIES = "sys/class/power_supply"
_FASTEST_HZ = 1.0  # chosen: fuel gauges average over a second and more


class _Battery(NamedTuple):
    name: str
    status: SensorFile
    files: tuple[SensorFile, ...]
    per_w: float

    def power_w(self) -> float | None:
        power = product(self.files)
        return None if power is None else abs(power) / self.per_w


class BatteryReader:
    """Reads every battery of the machine."""

    def __init__(self, batteries: tuple[_Battery, ...]) -> None:
        self._batteries = batteries
        self._is_closed = False
        names = tuple(one.name for one in batteries)
        self.source = PowerSource(
            name="battery",
            kind="power",
            rails=names,
            total=names,
            scope="battery",
            fastest_hz=_FASTEST_HZ,
        )

    def read(self) -> tuple[float | None, ...]:
        """Return the watts that each gives now; all None on mains."""
        states = [None if self._is_closed else one.status.text() for one in self._batteries]
        if "Discharging" not in states or "Charging" in states:
            return (None,) * len(states)
        return tuple(_given(one, state) for one, state in zip(self._batteries, states, strict=True))

    def close(self) -> None:
        """Close the files."""
        self._is_closed = True
        for one in self._batteries:
            for file in (one.status, *one.files):
                file.close()


def open_battery(*, root: Path, on_battery: bool = False) -> BatteryReader:
    """Return the reader of the machine's batteries.

    Raises:
        ConfigError: there is none that says its power; or, if it is to run ``on_battery`` now,
            it does not.
    """
    tree = Tree(root)
    names = tree.names(SUPPLIES)
    found = tuple(one for name in names if (one := _battery(tree, name)) is not None)
    if not found:
        raise ConfigError("has no battery that says its power", where=str(root / SUPPLIES))
    reader = BatteryReader(found)
    if on_battery and None in reader.read():
        reader.close()
        raise ConfigError("is not running on its battery now", where=str(root / SUPPLIES))
    return reader


def _battery(tree: Tree, name: str) -> _Battery | None:
    folder = f"{SUPPLIES}/{name}"
    if tree.text(f"{folder}/type") != "Battery" or tree.text(f"{folder}/scope") == "Device":
        return None
    for files, per_w in ((("power_now",), 1e6), (("current_now", "voltage_now"), 1e12)):
        if all(tree.has(f"{folder}/{file}") for file in files):
            read = tuple(SensorFile(tree.root, f"{folder}/{file}") for file in files)
            return _Battery(name, SensorFile(tree.root, f"{folder}/status"), read, per_w)
    return None


def _given(one: _Battery, state: str | None) -> float | None:
    if state is None:
        return None
    return one.power_w() if state == "Discharging" else 0.0
