"""Whether an adapted edge is better than it was, on labelled rows that neither has seen.

Both are judged on the same rows, each with its own calibration from the same other rows, and at
the same share of rows escalated: that which the bundle's gate lets escalate now. The intervals
are of the paired bootstrap (`models.resampling`), by group where there are five or more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...models.evidence import Figures
from ...models.measures import Flags, Ranking, escalation_curve
from ...models.resampling import Resampling
from ...models.weighted import Covered, Escalated, mean

LEVEL = 0.05
_LOOKS = 3  # figures of which one must be better: each is tested at a third of the level


class Side(NamedTuple):
    """One edge on N rows: whether it is right, and its gating score, (N,) each."""

    correct: Flags
    score: Figures


class Shift(Struct, frozen=True, kw_only=True):
    """A figure before and after, and the interval of the change.

    It holds 95 %, or, so that one of three figures may be picked, 98.3 %. ``p_value`` is that of
    McNemar's exact test on the rows, which knows nothing of groups; None for an area.
    """

    before: float
    after: float
    change: float
    low: float
    high: float
    least: float
    most: float
    p_value: float | None


class Verdict(Struct, frozen=True, kw_only=True):
    """An edge before and after on ``rows`` rows, resampled ``by`` row or group: ``units`` of them.

    ``share`` is what escalates in both; ``share_needed`` what would be enough after, for the
    cooperative accuracy from before. ``augrc`` is better where it is less. ``reasons`` say why it
    is not better; there are none where it is.
    """

    rows: int
    by: Literal["row", "group"]
    units: int
    share: float
    share_needed: float
    cloud_accuracy: float
    cooperative: Shift
    edge: Shift
    augrc: Shift
    reasons: tuple[str, ...]

    @property
    def is_better(self) -> bool:
        """Whether it may be written."""
        return not self.reasons


def judge(
    before: Side,
    after: Side,
    *,
    cloud_correct: Flags,
    share: float,
    group: NDArray[Any] | None,
    seed: int,
) -> Verdict:
    """Compare two edges whose cloud is right where ``cloud_correct`` (N,) says."""
    resampling = Resampling(len(cloud_correct), group=group, seed=seed)
    measures: dict[str, Callable[[Side, Figures], Figures]] = {
        "cooperative": lambda side, weights: _cooperative(side, cloud_correct, weights, share),
        "edge": lambda side, weights: mean(side.correct, weights),
        "augrc": lambda side, weights: Covered.by(
            Ranking.of(side.score), side.correct, weights
        ).augrc(),
    }
    drawn = resampling.draw(
        lambda weights: {
            name: measure(after, weights) - measure(before, weights)
            for name, measure in measures.items()
        }
    )
    once = np.ones((1, len(cloud_correct)))
    flags = {
        "cooperative": tuple(_together(side, cloud_correct, share) for side in (before, after)),
        "edge": (before.correct, after.correct),
    }
    shifts = {
        name: _shift(
            float(measure(before, once)[0]),
            float(measure(after, once)[0]),
            drawn[name],
            p_value=_mcnemar(*flags[name]) if name in flags else None,
        )
        for name, measure in measures.items()
    }
    return Verdict(
        rows=len(cloud_correct),
        by=resampling.by,
        units=resampling.units,
        share=share,
        share_needed=_needed(after, cloud_correct, accuracy=shifts["cooperative"].before),
        cloud_accuracy=float(np.mean(cloud_correct)),
        reasons=tuple(_reasons(shifts)),
        **shifts,
    )


def _reasons(shifts: dict[str, Shift]) -> Iterator[str]:
    """Yield why the edge after is not better than before."""
    names = {"cooperative": "cooperative accuracy", "edge": "edge accuracy", "augrc": "AUGRC"}
    gains = {name: -1.0 if name == "augrc" else 1.0 for name in names}
    for name, shift in shifts.items():
        worst = shift.high if gains[name] > 0 else -shift.low
        if worst < 0:
            yield f"{names[name]} is clearly worse: {shift.before:.4f} to {shift.after:.4f}"
    if shifts["cooperative"].change < 0:
        yield "cooperative accuracy falls"
    if not any(
        (shift.least if gains[name] > 0 else -shift.most) > 0 for name, shift in shifts.items()
    ):
        yield "no figure is clearly better: give more pairs, or more labelled rows to judge on"


def _cooperative(side: Side, cloud: Flags, weights: Figures, share: float) -> Figures:
    found = Escalated.by(Ranking.of(side.score), side.correct, cloud, weights)
    return found.accuracy_at(np.array([share]))[:, 0]


def _together(side: Side, cloud: Flags, share: float) -> Flags:
    """Return which rows are right when the least sure ``share`` of them go to the cloud."""
    asks = np.zeros(len(cloud), bool)
    asks[np.argsort(-side.score, kind="stable")[: round(share * len(cloud))]] = True
    return np.where(asks, cloud, side.correct)


def _needed(side: Side, cloud: Flags, *, accuracy: float) -> float:
    """Return the least share that must escalate for an accuracy; 1 where none is enough."""
    shares, reached = escalation_curve(side.score, side.correct, cloud)
    enough = np.flatnonzero(reached >= accuracy - 1e-9)
    return float(shares[enough[0]]) if len(enough) else 1.0


def _shift(before: float, after: float, drawn: Figures, *, p_value: float | None) -> Shift:
    tails = (LEVEL / 2, 1 - LEVEL / 2, LEVEL / 2 / _LOOKS, 1 - LEVEL / 2 / _LOOKS)
    low, high, least, most = (float(one) for one in np.nanquantile(drawn, tails))
    return Shift(
        before=before,
        after=after,
        change=after - before,
        low=low,
        high=high,
        least=least,
        most=most,
        p_value=p_value,
    )


def _mcnemar(before: Flags, after: Flags) -> float:
    """Return the two-sided exact p-value of McNemar's test.

    >>> _mcnemar(np.array([0, 0, 0, 1]) > 0, np.array([1, 1, 1, 1]) > 0)  # 2 · (1/2)³
    0.25
    """
    won, lost = int(np.sum(after & ~before)), int(np.sum(before & ~after))
    trials, most = won + lost, max(won, lost)
    tail = sum(math.comb(trials, k) for k in range(most, trials + 1))
    return min(1.0, 2 * tail / (1 << trials))
