"""The board's temperature: one that is slowed down measures wrong and answers late."""

from __future__ import annotations

from collections.abc import Iterator

from ...telemetry.boards.detect import Detected
from ...telemetry.boards.thermal import hottest
from .finding import Finding, ok, warning

_NEAR_C = 10.0


def check_heat(found: Detected) -> Iterator[Finding]:
    """Yield whether the board is slowed down, or near it."""
    if found.throttling.now:
        yield warning(
            "heat",
            "board",
            f"is slowed down now: {', '.join(found.throttling.by)}",
            todo="cool it, or give it a stronger supply or another power mode",
        )
    zone = hottest(found.thermal)
    if zone is None or zone.temp_c is None:
        yield ok("heat", "board", "no temperature can be read")
    elif zone.throttle_c is None:
        yield ok("heat", zone.name, f"{zone.temp_c:.0f} °C")
    elif zone.temp_c >= zone.throttle_c - _NEAR_C:
        yield warning(
            "heat",
            zone.name,
            f"{zone.temp_c:.0f} °C, and at {zone.throttle_c:.0f} °C the board is slowed down",
            todo="cool it, or choose a lower power mode",
        )
    else:
        yield ok("heat", zone.name, f"{zone.temp_c:.0f} °C, slowed down at {zone.throttle_c:.0f}")
