"""Figures as short text: three digits that count, and a dash for what is not known."""

from __future__ import annotations

import math

from ...telemetry.energy.figures import NOT_RESOLVABLE, Joules

MISSING = "–"  # noqa: RUF001 -- a dash, wider than a minus
_PREFIXES = ("n", "µ", "m", "", "k", "M", "G", "T")
_NONE_AT = _PREFIXES.index("")


def count(value: int | None) -> str:
    """Return a count, in full below ten millions."""
    if value is None:
        return MISSING
    return f"{value:,}" if abs(value) < 10_000_000 else si(value, "")


def si(value: float | None, unit: str) -> str:
    """Return a value with the prefix that leaves one to three digits before the point.

    >>> si(0.00123, "J"), si(999.96, "B"), si(-48.25, "W")
    ('1.23 mJ', '1.00 kB', '-48.2 W')
    """
    if value is None:
        return MISSING
    rounded = float(f"{value:.3g}")
    if abs(rounded) < 1e-12:
        return f"0 {unit}".rstrip()
    power = math.floor(math.log10(abs(rounded)) / 3)
    power = max(-_NONE_AT, min(len(_PREFIXES) - 1 - _NONE_AT, power))
    return f"{_three(rounded / 1000.0**power)} {_PREFIXES[power + _NONE_AT]}{unit}".rstrip()


def rate(value: float | None, unit: str = "") -> str:
    """Return how many a second."""
    if value is None:
        return f"{MISSING}/s"
    if unit:
        return f"{si(value, unit)}/s"
    return f"{value:,.0f}/s" if value >= 1000 else f"{_three(value)}/s"


def share(value: float | None) -> str:
    """Return a share of 0 to 1 in percent; what is more than nothing never reads as nothing."""
    if value is None:
        return MISSING
    return "<0.1 %" if 0 < value < 0.0005 else f"{100 * value:.1f} %"


def ms(value: float | None) -> str:
    """Return milliseconds, without the unit."""
    if value is None:
        return MISSING
    if value >= 1000:
        return f"{value:,.0f}"
    if 0 < value < 0.1:
        return f"{value:.3f}" if value >= 0.0005 else "<0.001"
    return _three(value)


def joules(value: Joules) -> str:
    """Return an energy, or in words that the sensor cannot tell it."""
    if isinstance(value, str):
        return NOT_RESOLVABLE
    return si(value, "J")


def duration(value_s: float | None) -> str:
    """Return a time by its two largest units.

    >>> duration(34.9), duration(3605), duration(190_000)
    ('34 s', '1 h 00 min', '2 d 04 h')
    """
    if value_s is None:
        return MISSING
    seconds = int(value_s)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02} s"
    if seconds < 86_400:
        return f"{seconds // 3600} h {seconds // 60 % 60:02} min"
    return f"{seconds // 86_400} d {seconds // 3600 % 24:02} h"


def _three(value: float) -> str:
    digits = 0 if abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f}"
