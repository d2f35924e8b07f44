"""How hot a board is, and whether it is slowed down for it."""

from __future__ import annotations

from msgspec import Struct

from .profile import Thermal, matches
from .tree import Tree

ZONES = "sys/class/thermal"
PLATFORM = "sys/devices/platform"

_NOW = ((1, "frequency capped"), (2, "throttled"), (3, "soft temperature limit"))
_MAX_TRIPS = 16


class ThermalZone(Struct, frozen=True, kw_only=True):
    """One zone now. ``temp_c`` is None where it cannot be read (a GPU that is off).

    ``throttle_c`` is its lowest passive trip point, ``critical_c`` the one that shuts the
    board down. ``counted`` is false for constants and estimates.
    """

    name: str
    temp_c: float | None
    throttle_c: float | None
    critical_c: float | None
    counted: bool


class Throttling(Struct, frozen=True, kw_only=True):
    """Whether the board is slowed down now, and what says so; ``now`` is None: not known."""

    now: bool | None
    by: tuple[str, ...] = ()


def read_zones(tree: Tree, thermal: Thermal) -> tuple[ThermalZone, ...]:
    """Return every thermal zone, in the kernel's order."""
    names = [name for name in tree.names(ZONES) if name.startswith("thermal_zone")]
    found = (_zone(tree, f"{ZONES}/{name}", thermal) for name in names)
    return tuple(zone for zone in found if zone is not None)


def hottest(zones: tuple[ThermalZone, ...]) -> ThermalZone | None:
    """Return the hottest zone that counts, None if none can be read."""
    known = [zone for zone in zones if zone.counted and zone.temp_c is not None]
    return max(known, key=lambda zone: zone.temp_c or 0.0, default=None)


def read_throttling(tree: Tree) -> Throttling:
    """Return whether a Jetson's throttle alerts or a Raspberry Pi's firmware slow it down."""
    states: dict[str, bool] = {}
    for name in tree.names(ZONES):
        kind = tree.text(f"{ZONES}/{name}/type") if name.startswith("cooling_device") else None
        if kind is not None and kind.endswith("-throttle-alert"):
            state = tree.number(f"{ZONES}/{name}/cur_state")
            states |= {} if state is None else {kind: state > 0}
    flags = _pi_flags(tree)
    if flags is not None:
        states |= {what: bool(flags >> bit & 1) for bit, what in _NOW}
    by = tuple(what for what, is_so in states.items() if is_so)
    return Throttling(now=bool(by) if states else None, by=by)


def _pi_flags(tree: Tree) -> int | None:
    """Return the firmware's flags. Source: raspberrypi/linux, drivers/firmware/raspberrypi.c."""
    for soc in tree.names(PLATFORM):
        if soc.startswith("soc"):
            text = tree.text(f"{PLATFORM}/{soc}/{soc}:firmware/get_throttled")
            try:
                return None if text is None else int(text[:16], 16)  # with 0x or without
            except ValueError:
                return None
    return None


def _zone(tree: Tree, folder: str, thermal: Thermal) -> ThermalZone | None:
    name = tree.text(f"{folder}/type")
    if not name:
        return None
    trips = dict(_trips(tree, folder))
    return ThermalZone(
        name=name,
        temp_c=_celsius(tree.number(f"{folder}/temp")),
        throttle_c=trips.get("passive", thermal.throttle_c),
        critical_c=trips.get("critical", thermal.critical_c),
        counted=matches(name, thermal.ignored) is None,
    )


def _trips(tree: Tree, folder: str) -> list[tuple[str, float]]:
    """Return (type, degrees) of the trip points, the highest first: the lowest stays in a dict."""
    found = []
    for place in range(_MAX_TRIPS):
        kind = tree.text(f"{folder}/trip_point_{place}_type")
        if kind is None:
            break
        temp_c = _celsius(tree.number(f"{folder}/trip_point_{place}_temp"))
        found += [] if temp_c is None or temp_c <= 0 else [(kind, temp_c)]
    return sorted(found, key=lambda trip: -trip[1])


def _celsius(milli: int | None) -> float | None:
    """Return degrees; None for what no board survives, such as the -256 of a sensor that is off."""
    return None if milli is None or not -60_000 < milli < 200_000 else milli / 1000
