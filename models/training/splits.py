"""Splits: which rows are trained on, which are calibrated on, and which nobody sees."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..dataset import row_digests
from ..errors import DataError

Rows = NDArray[np.intp]


class Split(NamedTuple):
    """Three lists of row numbers, ascending, without a row in common; together all rows."""

    train: Rows
    calibration: Rows
    unseen: Rows


class Shares(NamedTuple):
    """How much is trained on and calibrated on; the rest stays unseen."""

    train: float
    calibration: float


def by_row(x: NDArray[Any], y: NDArray[np.int64], *, shares: Shares, seed: int) -> Split:
    """Split the rows of ``x`` (n, *shape), every class of ``y`` (n,) in the same shares.

    Rows that are equal stay together, so that none is unseen in name only.
    """
    _, first, which = np.unique(row_digests(x), return_index=True, return_inverse=True)
    random = np.random.default_rng(seed)
    part = np.empty(len(first), np.intp)
    for label in np.unique(y[first]):
        mine = np.flatnonzero(y[first] == label)
        part[random.permutation(mine)] = _parts(len(mine), shares)
    return _split(part[which])


def by_group(group: NDArray[Any], *, shares: Shares, seed: int) -> Split:
    """Split the rows so that each value of ``group`` (n,), a person say, is in one part only.

    Raises:
        DataError: there are too few groups for three parts.
    """
    values, which = np.unique(group, return_inverse=True)
    if len(values) < 3:
        raise DataError(f"{len(values)} groups cannot be split into three parts", where="group")
    part = np.empty(len(values), np.intp)
    part[np.random.default_rng(seed).permutation(len(values))] = _parts(len(values), shares)
    return _split(part[which])


def _parts(count: int, shares: Shares) -> Rows:
    """Return ``count`` part numbers, ascending; at least one of each where there are three."""
    calibration = max(1, round(count * shares.calibration))
    train = max(1, min(round(count * shares.train), count - calibration - 1))
    return np.searchsorted((train, train + calibration), np.arange(count), side="right")


def _split(part: Rows) -> Split:
    return Split(*(np.flatnonzero(part == number) for number in range(3)))
