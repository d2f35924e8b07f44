"""Rows that are given oftener than once: copies tell no more than the row that they are copies of.

Who counts copies takes sixty rows for thousands, and promises what sixty cannot bear out; and a
row that is on both sides of a division is judged by what it taught.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..measures import Flags


class Repeats(NamedTuple):
    """Which rows stand for all that are equal, (N,), and what is known of the others.

    ``copies`` rows are left out, being equal to one that is kept; ``torn`` of those kept are there
    under more than one class.
    """

    kept: Flags
    copies: int
    torn: int


def find_repeats(
    same: NDArray[np.uint64],
    y: NDArray[np.integer[Any]] | None = None,
    *,
    group: NDArray[Any] | None = None,
    seed: int = 0,
) -> Repeats:
    """Return which rows count: of those whose ``same`` (N,), a row's digest, is equal just one.

    It is drawn by ``seed``, so that the order of the rows, by class perhaps, has no say in which
    of its classes ``y`` (N,) counts; but from the ``group`` (N,) that comes first, so that a
    person who is there under two names is one.

    >>> find_repeats(np.array([7, 4, 7, 7], np.uint64), np.array([0, 1, 0, 2]))[1:]
    (2, 1)
    """
    order = np.random.default_rng((seed, 1)).permutation(len(same))
    if group is not None:
        _, first, place = np.unique(group, return_index=True, return_inverse=True)
        come = np.argsort(np.argsort(first))[place.reshape(-1)]
        order = order[np.argsort(come[order], kind="stable")]
    kept = np.zeros(len(same), np.bool_)
    values, at, unit = np.unique(same[order], return_index=True, return_inverse=True)
    kept[order[at]] = True
    torn = 0
    if y is not None:
        both = np.unique(np.stack((unit.reshape(-1), y[order])), axis=1)[0]
        torn = int(np.sum(np.bincount(both) > 1))
    return Repeats(kept, len(same) - len(values), torn)


def copies_sentence(copies: int, torn: int, *, rows: int) -> str:
    """Return in words that ``copies`` of ``rows`` rows are copies, ``torn`` under two classes."""
    under = f" ({torn} of these under more than one class)" if torn else ""
    left = rows - copies
    return f"{copies} of {rows} rows are copies, equal to the byte, of the other {left}{under}"
