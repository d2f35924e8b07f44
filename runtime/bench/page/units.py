"""Units that leave few zeros before a figure."""

from __future__ import annotations

from collections.abc import Sequence

Units = Sequence[tuple[float, str]]

OF_MS: Units = ((1000.0, "s"), (1.0, "ms"), (1e-3, "µs"))
OF_J: Units = ((1.0, "J"), (1e-3, "mJ"), (1e-6, "µJ"), (1e-9, "nJ"))


def unit_for(value: float, units: Units) -> tuple[float, str]:
    """Return the largest unit in which a value is at least 1, else the smallest, and its name."""
    return next((one for one in units if abs(value) >= one[0]), units[-1])


def shown(value: float, units: Units) -> str:
    """Return a value with its unit, in three figures: 0.0123 of OF_MS is 12.3 µs."""
    size, name = unit_for(value, units)
    given = value / size
    return f"{given:.0f} {name}" if abs(given) >= 100 else f"{given:.3g} {name}"
