"""When has a share of errors left its side of a limit? Detectors that forget a good past.

A test that has watched a stream keep its promise for a month has lost its capital, and would
take weeks to notice that the stream has changed. A Shiryaev-Roberts detector begins a new bet
with every row and holds them all: ``R ← (R + 1)·e``, where e is an e-value of the row, of
expectation 1 at most as long as the mean is on its side of the limit, whatever came before.
Then R less the number of rows is a supermartingale, so that R reaches c after c rows on
average at the earliest (Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for
sequential change detection", 2022, arXiv 2203.03532, definition 2.2 and proposition 2.4). That
holds at any dependence between the rows and for the mean of several such R.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from .errors import DataError

_ODDS = (1.5, 2.0, 3.0, 5.0, 10.0)
_MOST = 1e300  # far beyond any limit on R


class ChangeDetector:
    """Watches ``tests`` streams of rows that are 0 or 1, each against the limit ``mean``.

    ``beyond`` "above": the mean of a stream is at or below the limit until it changes; "below":
    at or above it. The bets are the likelihood ratios to means of 1.5, 2, 3, 5 and 10 times the
    limit's odds, or of one part in as many, and to 0; ``values`` (tests,) float64 holds the mean
    of their R. A threshold of c on it is passed after c rows at the earliest, on average, unless
    the mean has changed.

    Raises:
        DataError: the limit is not between 0 and 1.
    """

    def __init__(self, tests: int, *, mean: float, beyond: Literal["above", "below"]) -> None:
        if not 0 < mean < 1:
            raise DataError(f"a limit of {mean}", hint="it lies between 0 and 1")
        odds = np.array(_ODDS) if beyond == "above" else np.array([0.0, *(1 / x for x in _ODDS)])
        other = odds * mean / (1 - mean + odds * mean)
        self._hit = other / mean
        self._miss = (1 - other) / (1 - mean)
        self._held = np.zeros((tests, len(odds)))
        self.values: NDArray[np.float64] = np.zeros(tests)

    def add(self, hit: bool, *, first: int = 0) -> None:  # noqa: FBT001 -- a row of the stream
        """Take in a row that belongs to the tests from ``first`` on."""
        held = self._held[first:]
        held += 1.0
        held *= self._hit if hit else self._miss
        np.minimum(held, _MOST, out=held)
        held.mean(axis=1, out=self.values[first:])

    def restart(self, first: int = 0) -> None:
        """Forget what the tests from ``first`` on have seen."""
        self._held[first:] = 0.0
        self.values[first:] = 0.0

    def held(self) -> tuple[tuple[float, ...], ...]:
        """Return all that is known of each test, for `resume`."""
        return tuple(tuple(one) for one in self._held.tolist())

    def resume(self, held: Sequence[Sequence[float]]) -> None:
        """Go on from what another detector of as many tests has held.

        Raises:
            DataError: it was one of another kind, or these are no values of one.
        """
        try:
            found = np.array(held, np.float64)
        except ValueError:
            found = np.empty(0)
        if found.shape != self._held.shape or not ((found >= 0) & (found <= _MOST)).all():
            raise DataError("what is held is not of such a detector")
        self._held = found
        self.values = found.mean(axis=1)
