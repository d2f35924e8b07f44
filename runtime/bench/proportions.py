"""How much more often one model is right than another, and how sure that is."""

from __future__ import annotations

import math

from msgspec import Struct

from ...models.measures import Flags

_Z_95 = 1.959964


class Difference(Struct, frozen=True, kw_only=True):
    """A share less another share, its 95 % interval, and whether it is of the same rows."""

    value: float
    low: float
    high: float
    paired: bool


def paired_difference(before: Flags, after: Flags) -> Difference:
    """Compare two models on the same rows (n,), by the rows where only one is right.

    The adjusted Wald interval of Agresti and Min (Statistics in Medicine 24, 2005, 729):
    half a row is added to each of the four cells. Of rows 1 1 0 0 and 1 0 0 0 the
    difference is -1/4.
    """
    rows = len(before)
    lost, won = int((before & ~after).sum()), int((after & ~before).sum())
    size, fewer, more = rows + 2, lost + 0.5, won + 0.5
    middle = (more - fewer) / size
    half = _Z_95 * math.sqrt(more + fewer - (more - fewer) ** 2 / size) / size
    return _difference((won - lost) / rows, middle, half, paired=True)


def difference(before: tuple[float, int], after: tuple[float, int]) -> Difference:
    """Compare two (share, rows) of different rows.

    The adjusted Wald interval of Agresti and Caffo (The American Statistician 54, 2000,
    280): two rows are added to each, one of them right.
    """
    (was, few), (now, many) = before, after
    first, second = (was * few + 1) / (few + 2), (now * many + 1) / (many + 2)
    variance = first * (1 - first) / (few + 2) + second * (1 - second) / (many + 2)
    return _difference(now - was, second - first, _Z_95 * math.sqrt(variance), paired=False)


def _difference(value: float, middle: float, half: float, *, paired: bool) -> Difference:
    """Return an interval that holds the value, which few rows shrink towards zero."""
    low, high = max(-1.0, middle - half), min(1.0, middle + half)
    return Difference(value=value, low=min(low, value), high=max(high, value), paired=paired)
