"""Sizes and times for people: at most three digits, and never an exponent."""

from __future__ import annotations

_SIZES = (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3))
_NEXT = 0.9995  # of a unit: what rounds to the whole of it is said in it


def size_text(size_bytes: float) -> str:
    """Return a size for people: kB, MB, GB and TB of 1000 each."""
    for unit, factor in _SIZES:
        if abs(size_bytes) >= _NEXT * factor:
            return f"{_digits(size_bytes / factor)} {unit}"
    return f"{size_bytes:.0f} B"


def time_text(time_s: float) -> str:
    """Return a time for people: milliseconds below a second."""
    if time_s >= _NEXT:
        return f"{_digits(time_s)} s"
    return f"{_digits(max(time_s * 1e3, 0.001))} ms"


def _digits(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.3g}"
