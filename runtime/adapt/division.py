"""Which labelled rows an adaptation learns from, which it calibrates on, and which judge it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...models.dataset import Dataset, row_digests
from ...models.errors import DataError
from ...models.measures import Flags

LEAST_ROWS = 50
_SHARES = (0.4, 0.6)  # to calibrate, to judge
_SHARES_WITHOUT_SEEN = (0.3, 0.3, 0.4)  # to learn, to calibrate, to judge

Rows = NDArray[np.intp]


class Division(NamedTuple):
    """Row numbers, ascending, nothing in common; ``by`` is what was kept together."""

    learn: Rows
    calibrate: Rows
    judge: Rows
    by: Literal["group", "row"]


def divide(data: Dataset, *, seen: Flags, seed: int, where: str) -> Division:
    """Divide labelled rows, of which the bundle has ``seen`` (n,) some, reproducibly.

    What it has seen can only be learnt from, once more. Of the others two fifths calibrate and
    three fifths judge; where none was seen, three tenths of them are learnt from, three calibrate
    and four judge. Groups stay together where there are enough, else rows that are equal.

    Raises:
        DataError: the bundle has seen all rows, or too few are left for a part.
    """
    if seen.all():
        raise DataError(
            f"training or calibration saw all {len(seen)} labelled rows",
            where=where,
            hint="an adapted edge is judged on rows that are new: add some",
        )
    shares = _SHARES if seen.any() else _SHARES_WITHOUT_SEEN
    fresh = np.flatnonzero(~seen)
    unit, by = _units(data.rows(fresh), parts=len(shares))
    part = _parts(unit, shares, random=np.random.default_rng(seed))
    found = [fresh[part == number] for number in range(len(shares))]
    *learnt, calibrate, judge = found
    learn = np.flatnonzero(seen) if seen.any() else learnt[0]
    for name, rows in (("to calibrate on", calibrate), ("to judge by", judge)):
        if len(rows) < LEAST_ROWS:
            raise DataError(
                f"{len(rows)} labelled rows that the bundle has not seen are left {name}, "
                f"at least {LEAST_ROWS} are needed",
                where=where,
                hint="give more rows that are new",
            )
    return Division(learn, calibrate, judge, by)


def _units(data: Dataset, *, parts: int) -> tuple[NDArray[np.intp], Literal["group", "row"]]:
    """Return for each row the number (n,) of what it must stay together with."""
    if data.group is not None:
        values, unit = np.unique(data.group, return_inverse=True)
        if len(values) >= parts:
            return unit, "group"
    return np.unique(row_digests(data.x), return_inverse=True)[1], "row"


def _parts(
    unit: NDArray[np.intp], shares: tuple[float, ...], *, random: np.random.Generator
) -> NDArray[Any]:
    """Return each row's part: units in random order, each to the part that lacks most rows."""
    size = np.bincount(unit)
    lacking = np.array(shares) * len(unit)
    part = np.empty(len(size), np.intp)
    for one in random.permutation(len(size)):
        part[one] = int(np.argmax(lacking))
        lacking[part[one]] -= size[one]
    return part[unit]
