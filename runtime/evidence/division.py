"""Which rows teach evidence, and on which others it is measured."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...models.dataset import Dataset, row_digests
from ...models.errors import DataError
from ...models.measures import Flags

LEAST_HELD = 50

Rows = NDArray[np.intp]


class Division(NamedTuple):
    """Row numbers, ascending: (t,) that teach, (h,) held out, with nothing in common.

    ``unit`` (n,) numbers what was kept together, which ``by`` names.
    """

    taught: Rows
    held: Rows
    unit: Rows
    by: Literal["group", "row"]


def divide(data: Dataset, *, share: float, seed: int) -> Division:
    """Divide the rows of ``data``: about the ``share`` of them teach, drawn by ``seed``.

    Groups stay together where the data has two or more, else rows that are equal; of these each
    class keeps one that is held out, so that what follows knows all of them.

    Raises:
        DataError: too few are held out.
    """
    unit, by = _units(data)
    size: NDArray[Any] = np.bincount(unit)
    order = np.random.default_rng(seed).permutation(len(size))
    before = np.cumsum(size[order]) - size[order] / 2  # where the middle of each unit lies
    teaches = np.zeros(len(size), bool)
    teaches[order[before <= share * len(unit)]] = True
    if by == "row" and data.y is not None:
        _hold_each_class(teaches, unit, data.y)
    taught, held = np.flatnonzero(teaches[unit]), np.flatnonzero(~teaches[unit])
    if len(held) < LEAST_HELD:
        raise DataError(
            f"{len(held)} rows are held out to measure on, at least {LEAST_HELD} are needed",
            hint="give more rows, or let fewer teach: --share",
        )
    return Division(taught, held, unit, by)


def _hold_each_class(teaches: Flags, unit: Rows, y: NDArray[np.int64]) -> None:
    """Take a unit back from those that teach, for each class that is held out nowhere."""
    classes, of = np.unique(y, return_inverse=True)
    held = np.bincount(of[~teaches[unit]], minlength=len(classes)) > 0
    for place in np.flatnonzero(~held):
        units = np.unique(unit[of == place])
        if len(units) > 1:
            teaches[units[0]] = False


def _units(data: Dataset) -> tuple[Rows, Literal["group", "row"]]:
    if data.group is not None:
        values, unit = np.unique(data.group, return_inverse=True)
        if len(values) > 1:
            return unit, "group"
    return np.unique(row_digests(data.x), return_inverse=True)[1], "row"
