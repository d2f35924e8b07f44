"""Recordings that lie end to end in one .npz, and the windows they are cut into."""

from __future__ import annotations

import itertools
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError

Arrays = dict[str, NDArray[Any]]
_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    zipfile.BadZipFile,
    zlib.error,
)


def load_arrays(path: Path | None, names: Sequence[str], *, recipe: str, suffix: str) -> Arrays:
    """Return the arrays ``names`` of the .npz at ``path``, or of the only one in that folder.

    The first of them is the recordings end to end, which ``offset`` (r + 1,) bounds;
    ``suffix`` ends the names of the files that are looked at in a folder.

    Raises:
        DataError: there is no such file, an array is missing, or they do not fit each other.
    """
    file = the_file(path, recipe=recipe, pattern=f"*{suffix}")
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as npz:
            arrays: Arrays = {name: npz[name] for name in names}
    except _UNREADABLE as error:
        raise DataError(
            f"cannot be read: {error}",
            where=str(file),
            hint=f"the recipe {recipe} takes an .npz with {', '.join(names)}",
        ) from error
    bounds, whole = arrays["offset"], arrays[names[0]]
    if bounds.ndim != 1 or len(bounds) < 2 or bounds[0] != 0 or bounds[-1] != len(whole):
        raise DataError(f"offset does not bound the {len(whole)} rows", where=str(file))
    if np.any(np.diff(bounds) < 0):
        raise DataError("offset does not ascend", where=str(file))
    return arrays


def the_file(path: Path | None, *, recipe: str, pattern: str) -> Path:
    """Return the file at ``path``; of a folder, the only one there that is like ``pattern``.

    Raises:
        DataError: nothing is named, or there is none or more than one.
    """
    if path is None:
        raise DataError(f"the recipe {recipe} brings no data along", hint="name some with --data")
    if not path.is_dir():
        return path
    found = sorted(path.glob(pattern))
    if len(found) != 1:
        raise DataError(f"{len(found)} files {pattern} in this folder", where=str(path))
    return found[0]


def bounds(offset: NDArray[Any]) -> Iterator[tuple[int, int]]:
    """Give begin and end of each recording."""
    return itertools.pairwise(offset.tolist())


def windows(rows: NDArray[Any], *, length: int, hop: int) -> NDArray[Any]:
    """Return the windows (w, length, …) of ``rows`` (n, …), each ``hop`` rows after another.

    >>> windows(np.arange(7), length=3, hop=2).tolist()
    [[0, 1, 2], [2, 3, 4], [4, 5, 6]]
    """
    if len(rows) < length:
        return rows[:0].reshape(0, length, *rows.shape[1:])
    cut = np.lib.stride_tricks.sliding_window_view(rows, length, axis=0)[::hop]
    return np.moveaxis(cut, -1, 1)
