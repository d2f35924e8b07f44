"""The promise kept in the field: the gate is tightened when it fails, and relaxed on evidence.

The gate stands on a ladder: its highest rung is where calibration has put it, the others are
lower quantiles of the score, and below the lowest nothing passes. Every audited sample, be it
accepted or escalated, tells of all rungs that would let it pass. Each has two detectors
(`models.change_detector`): one is passed when its share of errors has risen above what is
promised, the other when it has fallen below. Where the first one of the rung on which the gate
stands is passed, the gate goes down to the greatest rung whose samples since the change would
hardly have so few errors if the promise failed there, by the binomial distribution; where the
second one of a higher rung is passed, by samples since the last move alone, it goes up to that.

So soon after a sharp change hardly a rung has samples enough, and the second detector takes
thousands. Therefore a tightened gate is searched for: the same question is asked again of all
samples since the change, ever more seldom, and the gate goes up to the greatest rung that is
found. It stands there on trial: where the samples since the change no longer speak for such a
rung it is left at once.

When the change was is told by a CUSUM of the rung on which the gate stands: since it was last
at zero (Page 1954). All of it takes a few numbers a rung, however long the stream is.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ...models.change_detector import ChangeDetector
from ...models.errors import DataError
from ...models.manifest import Promise
from ...telemetry.gate_state import PromiseState
from .memory import KeeperMemory

Counts = NDArray[np.int64]

NOTHING = 0.0
"""A gate that lets nothing pass: no score is below it."""

_FEWEST, _HALVINGS = 8, 3  # rungs, and how often the gaps of fewer are halved
_SUSPECTED = 2.0  # times the promised odds of an error: what the CUSUM looks for
_HARDLY = 0.07  # the greatest probability of so few errors at a rung that is trusted
_DOUBTED = 0.2  # and the least at which one on trial is left
_ENOUGH = 5.0  # errors expected where the promise just holds: the luck of a few rows is no sign
_LOOKS = 10, 1.2  # after so many rows the search looks again, later after so many times as many
_NEGLIGIBLE = 1e-12
_SOONER = 10  # times as soon a tightened gate is taken for failing: a change is known then


class PromiseKeeper:
    """Says where the gate has to stand for ``promise`` to hold; it has no clock and asks nobody.

    ``total`` is where calibration has put it, ``reference`` the quantiles of the score there. A
    rung at which the promise holds is taken for failing once in ``rarely`` of its audited rows
    on average, or less often, a tenth of that while the gate is tightened; one at which it fails
    is taken for keeping it once in ``hardly``, or, on trial, at 7 % of the looks, or less often.
    """

    def __init__(
        self,
        promise: Promise,
        *,
        total: float,
        reference: Sequence[float],
        rarely: int = 5_000,
        hardly: int = 1_000,
    ) -> None:
        self._promise = promise
        self._error = 1.0 - promise.accuracy
        self._rarely = rarely
        self._hardly = hardly
        self._rungs = ladder(total, reference)
        count = len(self._rungs)
        self._at = self._top = count - 1
        self._fails, self._holds = self._detector("above"), self._detector("below")
        suspected = _SUSPECTED * self._error / (promise.accuracy + _SUSPECTED * self._error)
        self._if_wrong = math.log(suspected / self._error)
        self._if_right = math.log((1 - suspected) / promise.accuracy)
        self._suspicion = 0.0
        self._rows = np.zeros(count, np.int64)  # since the change, if there was one
        self._wrong = np.zeros(count, np.int64)
        self._searched_rows = np.zeros(count, np.int64)  # since the gate was tightened or relaxed
        self._searched_wrong = np.zeros(count, np.int64)
        self._next_look = 0
        self._on_trial = False
        self._stood = -1  # the rung from which the gate went up to where it stands
        self._tightened = self._relaxed = 0
        self.why: str | None = None

    @property
    def total(self) -> float:
        """Where the gate has to stand: at or below where calibration has put it."""
        return NOTHING if self._at < 0 else self._rungs[self._at]

    def learn(self, *, score: float, wrong: bool) -> bool:
        """Take in an audited sample; return whether the gate has to be moved."""
        first = bisect_right(self._rungs, score)  # the rungs from here on let it pass
        if first > self._top or math.isnan(score):
            return False
        self._fails.add(wrong, first=first)
        self._holds.add(wrong, first=first)
        for rows, errors in (
            (self._rows, self._wrong),
            (self._searched_rows, self._searched_wrong),
        ):
            rows[first:] += 1
            errors[first:] += wrong
        if first <= self._at:
            self._suspect(self._if_wrong if wrong else self._if_right)
            if self._fails.values[self._at] >= self._limit():
                self._tighten()
                return True
            if wrong and self._on_trial and self._doubted():
                return True
        return self._at < self._top and (self._relax() or self._search())

    def state(self) -> PromiseState:
        """Return how the promise stands."""
        lower = self._at < self._top
        return PromiseState(
            accuracy=self._promise.accuracy,
            confidence=self._promise.confidence,
            state="unkept" if self._at < 0 else "tightened" if lower else "kept",
            tightened=self._tightened,
            relaxed=self._relaxed,
            why=self.why,
        )

    def memory(self) -> KeeperMemory:
        """Return all that it knows."""
        return KeeperMemory(
            at=self._at,
            why=self.why,
            rows=_counts(self._rows),
            wrong=_counts(self._wrong),
            searched_rows=_counts(self._searched_rows),
            searched_wrong=_counts(self._searched_wrong),
            next_look=self._next_look,
            on_trial=self._on_trial,
            stood=self._stood,
            suspicion=self._suspicion,
            fails=self._fails.held(),
            holds=self._holds.held(),
        )

    def resume(self, memory: KeeperMemory) -> None:
        """Go on from what another keeper of the same promise and rungs knew.

        Raises:
            DataError: it is not of such a one; then nothing is changed.
        """
        counts = memory.rows, memory.wrong, memory.searched_rows, memory.searched_wrong
        beyond = max(memory.at, memory.stood) > self._top
        if beyond or any(len(one) != len(self._rungs) for one in counts):
            raise DataError("is of a gate with other rungs")
        fails, holds = self._detector("above"), self._detector("below")
        fails.resume(memory.fails)
        holds.resume(memory.holds)
        self._fails, self._holds = fails, holds
        rows, wrong, searched_rows, searched_wrong = (np.array(one, np.int64) for one in counts)
        self._rows, self._wrong = rows, wrong
        self._searched_rows, self._searched_wrong = searched_rows, searched_wrong
        self._next_look, self._on_trial = memory.next_look, memory.on_trial
        self._stood = memory.stood
        self._at, self.why, self._suspicion = memory.at, memory.why, memory.suspicion

    def _detector(self, beyond: Literal["above", "below"]) -> ChangeDetector:
        return ChangeDetector(len(self._rungs), mean=self._error, beyond=beyond)

    def _limit(self) -> float:
        return self._rarely if self._at == self._top else self._rarely / _SOONER

    def _suspect(self, change: float) -> None:
        """Move the CUSUM; what was before it came to zero was before the change."""
        self._suspicion = max(0.0, self._suspicion + change)
        if self._suspicion == 0.0:
            self._rows[:] = 0
            self._wrong[:] = 0

    def _tighten(self) -> None:
        self._searched_rows, self._searched_wrong = self._rows.copy(), self._wrong.copy()
        self._next_look = 0
        self._on_trial = False
        self._lower(_probabilities(self._wrong, self._rows, error=self._error))

    def _lower(self, so_few: NDArray[np.float64]) -> None:
        """Go down to the greatest rung that can be trusted; ``so_few`` of those searched.

        Where that on which it stood before it went up shows no sign of failing, it is one.
        """
        rows, wrong = self._searched_rows[self._at], self._searched_wrong[self._at]
        below = np.flatnonzero(self._trusted(so_few)[: self._at])
        at = int(below[-1]) if len(below) else -1
        if self._stood >= 0 and self._fails.values[self._stood] < self._rarely / _SOONER:
            at = max(at, self._stood)
        self._stood = -1
        self._tightened += 1
        self._move(
            at,
            f"{wrong} of the last {rows} audited answers were wrong; "
            f"{self._error:.3g} of them may be",
        )

    def _trusted(self, so_few: NDArray[np.float64]) -> NDArray[np.bool_]:
        return (so_few <= _HARDLY) & (self._fails.values < self._rarely / _SOONER)

    def _search(self) -> bool:
        """Look again, if it is time, where the gate can stand by all samples since the change."""
        rows = int(self._searched_rows[self._top])
        if rows < self._next_look:
            return False
        few, times = _LOOKS
        self._next_look = max(rows + few, int(rows * times))
        so_few = _probabilities(self._searched_wrong, self._searched_rows, error=self._error)
        trusted = self._trusted(so_few) & (self._searched_rows * self._error >= _ENOUGH)
        higher = np.flatnonzero(trusted[self._at + 1 : self._top])
        if len(higher):
            at = self._at + 1 + int(higher[-1])
            self._relaxed += 1
            self._on_trial = True
            self._stood = self._at
            rows, wrong = self._searched_rows[at], self._searched_wrong[at]
            self._move(
                at, f"up to here {wrong} of {rows} audited answers since it failed were wrong"
            )
            return True
        return False

    def _doubted(self) -> bool:
        """Leave a rung that is on trial where the samples since the change speak for it no more."""
        so_few = _probabilities(self._searched_wrong, self._searched_rows, error=self._error)
        if so_few[self._at] <= _DOUBTED:
            return False
        self._lower(so_few)
        return True

    def _relax(self) -> bool:
        """Go up to the highest rung that has shown to keep the promise again, if there is one."""
        higher = np.flatnonzero(self._holds.values[self._at + 1 :] >= self._hardly)
        if not len(higher):
            return False
        self._relaxed += 1
        at, self._stood = self._at + 1 + int(higher[-1]), self._at
        self._move(at, "audited answers up to here are right often enough again")
        self._fails.restart(at)  # that it failed is refuted
        self._searched_rows[:] = 0
        self._searched_wrong[:] = 0
        self._next_look = 0
        self._on_trial = False
        return True

    def _move(self, at: int, why: str) -> None:
        self._at = at
        self.why = why
        if at < 0:
            self.why += "; no threshold is known to keep the promise, so the edge decides nothing"
        self._holds.restart()
        self._suspicion = 0.0
        self._rows[:] = 0
        self._wrong[:] = 0


def _counts(array: Counts) -> tuple[int, ...]:
    return tuple(array.tolist())


def _probabilities(wrong: Counts, rows: Counts, *, error: float) -> NDArray[np.float64]:
    """Return `so_few` of each rung."""
    counts = zip(wrong.tolist(), rows.tolist(), strict=True)
    return np.array([so_few(one, of, error=error) for one, of in counts])


def so_few(wrong: int, rows: int, *, error: float) -> float:
    """Return how probable at most ``wrong`` errors among ``rows`` are if ``error`` is their share.

    That is the lower tail of the binomial distribution; 1 where they are no fewer than expected.

    >>> round(so_few(1, 3, error=0.6), 6)  # .4^3 + 3 x .6 x .4^2
    0.352
    """
    if wrong >= rows * error:
        return 1.0
    ways = math.lgamma(rows + 1) - math.lgamma(wrong + 1) - math.lgamma(rows - wrong + 1)
    found = term = math.exp(ways + wrong * math.log(error) + (rows - wrong) * math.log1p(-error))
    for fewer in range(wrong, 0, -1):
        term *= fewer / (rows - fewer + 1) * (1 - error) / error
        found += term
        if term < found * _NEGLIGIBLE:
            break
    return min(1.0, found)


def ladder(total: float, reference: Sequence[float]) -> list[float]:
    """Return the rungs, ascending: the quantiles below ``total``, and ``total`` itself.

    Where they are few, there is one more in the middle of each gap.

    >>> ladder(1.0, [0.25, 0.5, 0.5, 2.0])
    [0.25, 0.3125, 0.375, 0.4375, 0.5, 0.625, 0.75, 0.875, 1.0]
    """
    rungs = [*sorted({one for one in reference if one < total}), total]
    for _ in range(_HALVINGS if len(rungs) > 1 else 0):
        if len(rungs) >= _FEWEST:
            break
        between = [(low + high) / 2 for low, high in itertools.pairwise(rungs)]
        rungs = sorted({*rungs, *between})
    return rungs
