"""The power rails: without them no decision can be charged with its energy."""

from __future__ import annotations

from collections.abc import Iterator

from ...telemetry.boards.detect import Detected
from .finding import Finding, ok, warning


def check_sensors(found: Detected) -> Iterator[Finding]:
    """Yield whether the rails that the board's profile names are there and can be read."""
    if found.profile is None or not found.profile.power.rail:
        yield ok("sensors", "power", "no power sensor is known on this board")
        return
    is_generic = found.evidence is not None and found.evidence.kind == "machine"
    tell = ok if is_generic else warning  # of such machines many have no sensor
    for label in found.rails_missing:
        yield tell(
            "sensors",
            label,
            "this power rail is not there, so the energy is not, or not all of it, known",
            todo="load the sensor's driver, or give the container /sys",
        )
    for rail in found.rails:
        reads = "is there" if rail.power_w is None else f"reads {rail.power_w:.2f} W"
        yield ok("sensors", rail.label, f"{reads} ({rail.driver})")
