"""Two filters on the same rows: what each can filter for the same recall, drawn again and again.

Both stand where they reach what is asked for, each on the rows of the drawing itself, so the
interval of the difference knows that thresholds are placed by samples, too.
"""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..evidence import Figures
from ..measures import Flags
from ..resampling import Resampling, interval
from ..weighted import mean

_LEAST = 1e-9


class Aim(Struct, frozen=True):
    """What is kept: a ``recall`` of what matters, or, where that is None, an ``accuracy``."""

    recall: float | None = 0.95
    accuracy: float = 0.9

    def __str__(self) -> str:
        if self.recall is None:
            return f"an accuracy of {self.accuracy:g}"
        return f"a recall of {self.recall:g}"


class Change(Struct, frozen=True, kw_only=True):
    """The filtered share of ``rows`` rows ``before`` and ``after``, at an aim.

    ``low`` and ``high`` hold 95 % of the change, by the paired bootstrap. ``recall_before`` is that
    of the filter before where it reaches the aim, ``recall_after`` that of the other one where it
    filters as much; None for filters that have no such curve.
    """

    rows: int
    matter: int
    before: float
    after: float
    low: float
    high: float
    recall_before: float | None = None
    recall_after: float | None = None

    @property
    def is_better(self) -> bool:
        """Whether more is filtered, clearly."""
        return self.low > 0

    @property
    def is_worse(self) -> bool:
        """Whether less is filtered, clearly."""
        return self.high < 0


class Curve:
    """A skip filter's ``score`` (N,) of rows that matter or do not, for drawings of these rows."""

    def __init__(self, score: Figures, matters: Flags) -> None:
        self._order = np.argsort(score, kind="stable")
        ranked = score[self._order]
        self._last = np.append(ranked[1:] > ranked[:-1], True)  # of scores that are equal
        self._matters = matters[self._order].astype(np.float64)

    def rate(self, weights: Figures, aim: Aim) -> Figures:
        """Return (R,) the greatest share of rows that can be filtered, with ``weights`` (R, N)."""
        taken, lost = self._sums(weights)
        rows, matter = taken[:, -1:], lost[:, -1:]
        most = (1 - aim.accuracy) * rows if aim.recall is None else (1 - aim.recall) * matter
        found: Figures = np.where(self._last & (lost <= most + _LEAST), taken, 0.0).max(axis=1)
        return found / rows[:, 0]

    def recall(self, weights: Figures, rate: Figures) -> Figures:
        """Return (R,) the recall where a ``rate`` (R,) is filtered, or just less."""
        taken, lost = self._sums(weights)
        under = self._last & (taken <= (rate[:, None] + _LEAST) * taken[:, -1:])
        most: Figures = np.where(under, lost, 0.0).max(axis=1)
        found: Figures = 1.0 - most / np.maximum(lost[:, -1], _LEAST)
        return found

    def _sums(self, weights: Figures) -> tuple[Figures, Figures]:
        ordered = weights[:, self._order]
        return ordered.cumsum(axis=1), (ordered * self._matters).cumsum(axis=1)


def compare_skip(
    before: Figures,
    after: Figures,
    matters: Flags,
    aim: Aim,
    *,
    group: NDArray[np.str_] | None = None,
    seed: int = 0,
) -> Change:
    """Compare two skip filters by their scores (N,) of the same rows."""
    old, new = Curve(before, matters), Curve(after, matters)
    resampling = Resampling(len(matters), group=group, seed=seed)
    drawn = resampling.draw(lambda w: {"change": new.rate(w, aim) - old.rate(w, aim)})
    once = np.ones((1, len(matters)))
    rate = old.rate(once, aim)
    low, high = interval(drawn["change"])
    return Change(
        rows=len(matters),
        matter=int(matters.sum()),
        before=float(rate[0]),
        after=float(new.rate(once, aim)[0]),
        low=low,
        high=high,
        recall_before=float(old.recall(once, rate)[0]),
        recall_after=float(new.recall(once, rate)[0]),
    )


def compare_reuse(
    before: Flags,
    after: Flags,
    matters: Flags,
    *,
    group: NDArray[np.str_] | None = None,
    seed: int = 0,
) -> Change:
    """Compare two reuse filters by what each reuses (N,) of the same rows, where it may stand."""
    change = after.astype(np.float64) - before
    drawn = Resampling(len(change), group=group, seed=seed).draw(
        lambda weights: {"change": mean(change, weights)}
    )
    low, high = interval(drawn["change"])
    return Change(
        rows=len(change),
        matter=int(matters.sum()),
        before=float(before.mean()),
        after=float(after.mean()),
        low=low,
        high=high,
    )
