"""The rows that a report judges by: new to the bundle, with classes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...models.bundle import Bundle
from ...models.dataset import Dataset, load_dataset
from ...models.errors import DataError
from ...models.measures import Flags, Labels
from ...models.unseen import seen_rows

LEAST_ROWS = 20
_FEW = 30


class Rows(NamedTuple):
    """Rows of a file: ``places`` (n,) in it; ``y`` (n,) their classes; ``left_out`` were seen."""

    data: Dataset
    y: Labels
    places: NDArray[np.intp]
    left_out: int


def new_rows(path: Path, bundle: Bundle) -> Rows:
    """Return the rows of ``path`` that are new to the bundle.

    Raises:
        DataError: it does not fit the bundle, has no classes or only one, or too little is new.
    """
    where = str(path)
    data = load_dataset(path).fitted(bundle.input, labels=bundle.labels, where=where)
    if data.y is None:
        raise DataError("no array y", where=where, hint="a report needs the classes of the rows")
    new = np.flatnonzero(~seen_rows(bundle, data))
    if len(new) < LEAST_ROWS:
        raise DataError(
            f"{len(new)} of {len(data.x)} rows are new to the bundle, a report needs {LEAST_ROWS}",
            where=where,
            hint="training or calibration saw the others",
        )
    kept = data.rows(new)
    return _with_classes(kept, new, len(data.x) - len(new), where=where, bundle=bundle)


def _with_classes(
    kept: Dataset, places: NDArray[np.intp], left_out: int, *, where: str, bundle: Bundle
) -> Rows:
    y = kept.y
    if y is None or (y == y[0]).all():
        only = "" if y is None else f", {bundle.labels[y[0]]!r}"
        raise DataError(
            f"all {len(places)} rows are of one class{only}", where=where, hint="give rows of all"
        )
    return Rows(kept, y, places, left_out)


def class_concerns(y: Labels, bundle: Bundle) -> Iterator[str]:
    """Yield what too few rows of a class leave open, classes aside that a filter is to drop."""
    known = np.bincount(y, minlength=len(bundle.labels)).tolist()
    redundant = {name for one in bundle.manifest.filter for name in one.redundant}
    counts = {
        name: count
        for name, count in zip(bundle.labels, known, strict=True)
        if name not in redundant
    }
    absent = [name for name, count in counts.items() if not count]
    if absent:
        yield f"no row is of class {_listed(absent)}: nothing here speaks of them"
    few = [name for name, count in counts.items() if 0 < count < _FEW]
    if few:
        yield f"fewer than {_FEW} rows are of class {_listed(few)}"


def _listed(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"


def passing(rows: Rows, passes: Flags, *, where: str) -> Rows:
    """Return the rows that no filter drops.

    Raises:
        DataError: too few are left.
    """
    count = int(passes.sum())
    if count < LEAST_ROWS:
        raise DataError(
            f"the bundle's filters let {count} of {len(passes)} new rows pass, "
            f"a report needs {LEAST_ROWS}",
            where=where,
        )
    return Rows(rows.data.rows(passes), rows.y[passes], rows.places[passes], rows.left_out)
