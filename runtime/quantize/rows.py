"""Which rows of a data set give the ranges of a quantisation, and which it is measured on."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...models.dataset import Dataset, row_digests
from ...models.errors import DataError
from ...models.measures import Flags

LEAST_RANGES = 16
MOST_RANGES = 2000  # the calibrators keep what every layer makes of them
LEAST_MEASURED = 50
_USUAL = 256
_SHARE = 3  # a third of the rows at most, where nothing was asked for
_GROUPS = 4  # ranges come from a quarter of the groups at least: people differ

Rows = NDArray[np.intp]


class Division(NamedTuple):
    """Row numbers, ascending: (r,) for the ranges, (m,) to measure on, with nothing in common.

    ``by`` is what was kept together. ``seen`` are the rows on the measuring side that the
    bundle's training or calibration saw, and that are not measured on for that.
    """

    ranges: Rows
    measured: Rows
    by: Literal["group", "row"]
    seen: int


def divide(data: Dataset, *, seen: Flags, rows: int | None = None, seed: int = 0) -> Division:
    """Divide the rows of ``data``, of which ``seen`` (n,) were seen before, reproducibly.

    Groups stay together where the data has two or more, else rows that are equal. What was
    seen most gives ranges first, since nothing may be measured on it. ``rows`` is how many
    give ranges; None: 256, or a third of all where that is less.

    Raises:
        DataError: too few rows for either.
    """
    wanted = min(_USUAL, len(data.x) // _SHARE) if rows is None else rows
    unit, by = _units(data)
    random = np.random.default_rng(seed)
    mine = _first_units(unit, seen, rows=wanted, by=by, random=random)[unit]
    ranges = np.flatnonzero(mine)
    if len(ranges) > wanted:
        ranges = np.sort(random.choice(ranges, wanted, replace=False))
    measured = np.flatnonzero(~mine & ~seen)
    _check(len(ranges), len(measured), wanted=wanted)
    return Division(ranges, measured, by, int(np.sum(~mine & seen)))


def _units(data: Dataset) -> tuple[NDArray[np.intp], Literal["group", "row"]]:
    """Return for each row the number (n,) of what it must stay together with."""
    if data.group is not None:
        values, unit = np.unique(data.group, return_inverse=True)
        if len(values) > 1:
            return unit, "group"
    return np.unique(row_digests(data.x), return_inverse=True)[1], "row"


def _first_units(
    unit: NDArray[np.intp], seen: Flags, *, rows: int, by: str, random: np.random.Generator
) -> Flags:
    """Mark (units,) those whose rows may give ranges: as many as hold ``rows`` rows."""
    size = np.bincount(unit)
    share_seen: NDArray[Any] = np.bincount(unit, weights=seen) / size
    order = np.lexsort((random.random(len(size)), -share_seen))
    enough = int(np.searchsorted(np.cumsum(size[order]), rows)) + 1
    if by == "group":
        enough = max(enough, len(size) // _GROUPS)
    marked = np.zeros(len(size), bool)
    marked[order[: min(enough, len(size) - 1)]] = True
    return marked


def _check(ranges: int, measured: int, *, wanted: int) -> None:
    if min(ranges, wanted) < LEAST_RANGES:
        raise DataError(f"{ranges} rows for the ranges, at least {LEAST_RANGES} are needed")
    if measured < LEAST_MEASURED:
        raise DataError(
            f"{measured} rows are left to measure on, at least {LEAST_MEASURED} are needed",
            hint="give more rows that the bundle has not seen, or fewer for the ranges: --rows",
        )
