"""Which rows teach a filter, which stop and place it, and which judge it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...dataset import Dataset, row_digests
from ...errors import DataError
from ...measures import Flags

LEAST_ROWS = 60
_JUDGED, _HELD = 0.2, 0.2
_BLOCKS = 20
_GAP = 0.05  # of a block, where the one before is in another part

Rows = NDArray[np.intp]


class Division(NamedTuple):
    """Row numbers, ascending, with none in common; ``by`` says what was kept together."""

    taught: Rows
    held: Rows
    judged: Rows
    by: Literal["group", "time", "row"]


def divide(data: Dataset, *, seen: Flags, in_order: bool = False, seed: int = 0) -> Division:
    """Divide the rows of ``data``: a fifth is held out, and a fifth judges, drawn by ``seed``.

    Groups stay together where there are three or more; else, where there is a time or the rows
    are ``in_order``, blocks of time do, with gaps between the parts; else equal rows. What the
    model has ``seen`` (n,) in its own training judges only if there is not enough else.

    Raises:
        DataError: there are too few rows.
    """
    if len(data.x) < LEAST_ROWS:
        raise DataError(
            f"{len(data.x)} rows, at least {LEAST_ROWS} are needed", hint="give more rows"
        )
    unit, by = _units(data, in_order=in_order)
    part = _dealt(unit, seen, seed=seed)
    if by == "time":
        part = _with_gaps(part, unit, _time(data))
    taught, held, judged = (np.flatnonzero(part == number) for number in range(3))
    found = Division(taught, held, judged, by)
    if min(len(taught), len(held), len(judged)) == 0:
        raise DataError(
            f"{int(unit.max()) + 1} that stay together cannot be divided in three",
            where=by,
            hint="give more groups, or more rows that differ",
        )
    return found


def _units(data: Dataset, *, in_order: bool) -> tuple[Rows, Literal["group", "time", "row"]]:
    if data.group is not None:
        values, unit = np.unique(data.group, return_inverse=True)
        if len(values) > 2:
            return unit, "group"
    if data.time is not None or in_order:
        unit = np.empty(len(data.x), np.intp)
        unit[_time(data)] = np.arange(len(data.x)) * _BLOCKS // len(data.x)
        return unit, "time"
    return np.unique(row_digests(data.x), return_inverse=True)[1], "row"


def _time(data: Dataset) -> Rows:
    """Return the rows as they came."""
    if data.time is None:
        return np.arange(len(data.x))
    return np.argsort(data.time, kind="stable")


def _dealt(unit: Rows, seen: Flags, *, seed: int) -> Rows:
    """Return (n,) parts: 2 judges, 1 is held out, 0 teaches; what was seen is the last to judge."""
    size = np.bincount(unit)
    old = np.bincount(unit, weights=seen) > size / 2
    order = np.random.default_rng(seed).permutation(len(size))
    order = order[np.argsort(old[order], kind="stable")]
    judges = _first(size[order], _JUDGED * len(unit))
    rest = np.random.default_rng(seed + 1).permutation(order[judges:])
    holds = _first(size[rest], _HELD * len(unit))
    part = np.zeros(len(size), np.intp)
    part[order[:judges]], part[rest[:holds]] = 2, 1
    return part[unit]


def _first(sizes: Rows, wanted: float) -> int:
    """Return how many units come nearest to the rows that are ``wanted``; one at least."""
    if len(sizes) == 0:
        return 0
    return 1 + int(np.argmin(np.abs(np.cumsum(sizes) - wanted)))


def _with_gaps(part: Rows, unit: Rows, order: Rows) -> Rows:
    """Take the first rows of each block out, where the block before is in another part."""
    ordered, blocks = part[order].copy(), unit[order]
    for block in range(1, int(blocks.max()) + 1):
        mine = np.flatnonzero(blocks == block)
        if len(mine) and mine[0] > 0 and part[order[mine[0] - 1]] != part[order[mine[0]]]:
            ordered[mine[: int(np.ceil(len(mine) * _GAP))]] = -1
    gapped = np.empty_like(part)
    gapped[order] = ordered
    return gapped
