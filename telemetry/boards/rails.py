"""Which of a board's power rails are there now, found by label.

Two layouts of the kernel are known, below ``bus/i2c/drivers/<driver>/<bus-address>``: the
older ``iio:device*/`` with ``rail_name_<n>`` and ``in_power<n>_input`` in mW (n from 0), and
``hwmon/hwmon*/`` with ``in<n>_label``, ``in<n>_input`` in mV and ``curr<n>_input`` in mA (n
from 1), or ``power1_input`` in uW on a chip of one channel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from typing import Literal

import msgspec
from msgspec import Struct

from .profile import Power, Rail, matches
from .tree import Tree

I2C = "sys/bus/i2c/drivers"
RAPL = "sys/class/powercap"
VCGENCMD = "usr/bin/vcgencmd"
Layout = Literal["iio", "hwmon", "rapl", "vcgencmd"]
_DRIVERS = {"ina3221": "ina3221", "ina3221x": "ina3221", "ina238": "ina238"}
_CHANNELS = 3  # the INA3221's; in4 to in7 of its hwmon are shunt voltages and their sum
_INA238 = "VIN"  # its one channel has no label on some kernels
_PACKAGE = re.compile(r"intel-rapl:\d+")


class FoundRail(Struct, frozen=True, kw_only=True):
    """A rail that is there: where, and what it reads now.

    ``label`` is the machine's own. ``folder`` lies below the root. ``channel`` counts as
    the layout does. ``power_w`` is one reading, to show that it works; None: it failed, or
    there is no power to read (rapl counts energy, vcgencmd is a command). ``in_total``: it
    is one of those whose sum is the board's power.
    """

    label: str
    driver: str
    address: str | None = None
    layout: Layout
    folder: str
    channel: int = 0
    power_w: float | None = None
    in_total: bool = False


def find_rails(tree: Tree, power: Power) -> tuple[FoundRail, ...]:
    """Return the rails of the profile that are there, in the profile's order."""
    there = tuple(_there(tree)) if power.rail else ()
    return tuple(
        msgspec.structs.replace(one, in_total=rail.label in power.total)
        for rail in power.rail
        for one in (*there, *_command(tree, rail))
        if fits(one, rail)
    )


def missing_rails(found: tuple[FoundRail, ...], power: Power) -> tuple[str, ...]:
    """Return the labels of the profile's rails that are not there."""
    return tuple(rail.label for rail in power.rail if not any(fits(one, rail) for one in found))


def fits(one: FoundRail, rail: Rail) -> bool:
    """Return whether it is that rail of a profile."""
    return (
        one.driver == rail.driver
        and rail.address in (None, one.address)
        and matches(one.label, (rail.label,)) is not None
    )


def _there(tree: Tree) -> Iterator[FoundRail]:
    for name, driver in _DRIVERS.items():
        for address in tree.names(f"{I2C}/{name}"):
            chip = f"{I2C}/{name}/{address}"
            for folder in tree.names(chip):
                if folder.startswith("iio"):
                    yield from _iio(tree, f"{chip}/{folder}", driver, address)
            for folder in tree.names(f"{chip}/hwmon"):
                yield from _hwmon(tree, f"{chip}/hwmon/{folder}", driver, address)
    for name in tree.names(RAPL):
        folder = f"{RAPL}/{name}"
        if _PACKAGE.fullmatch(name) and (label := tree.text(f"{folder}/name")):
            yield FoundRail(label=label, driver="rapl", layout="rapl", folder=folder)


def _iio(tree: Tree, folder: str, driver: str, address: str) -> Iterator[FoundRail]:
    make = partial(FoundRail, driver=driver, address=address, layout="iio", folder=folder)
    for channel in range(_CHANNELS):
        if label := tree.text(f"{folder}/rail_name_{channel}"):
            milliwatts = tree.number(f"{folder}/in_power{channel}_input")
            power_w = None if milliwatts is None else milliwatts / 1e3
            yield make(label=label, channel=channel, power_w=power_w)


def _hwmon(tree: Tree, folder: str, driver: str, address: str) -> Iterator[FoundRail]:
    make = partial(FoundRail, driver=driver, address=address, layout="hwmon", folder=folder)
    if driver == "ina238":
        microwatts = tree.number(f"{folder}/power1_input")
        power_w = None if microwatts is None else microwatts / 1e6
        yield make(label=tree.text(f"{folder}/in1_label") or _INA238, channel=1, power_w=power_w)
        return
    for channel in range(1, _CHANNELS + 1):
        if label := tree.text(f"{folder}/in{channel}_label"):
            millivolts = tree.number(f"{folder}/in{channel}_input")
            milliamps = tree.number(f"{folder}/curr{channel}_input")
            known = millivolts is not None and milliamps is not None
            power_w = (millivolts or 0) * (milliamps or 0) / 1e6 if known else None
            yield make(label=label, channel=channel, power_w=power_w)


def _command(tree: Tree, rail: Rail) -> Iterator[FoundRail]:
    """Yield a rail of the Raspberry Pi's firmware, of which only its command can tell."""
    if rail.driver == "vcgencmd" and tree.has(VCGENCMD):
        yield FoundRail(label=rail.label, driver="vcgencmd", layout="vcgencmd", folder=VCGENCMD)
