"""Where a filter has to stand, and what it does there.

Two aims. *Recall* of what matters, held with stated confidence: an operator's, since accuracy
alone may throw away all of a rare class. *Accuracy* as the thesis has it: the share of samples
whose result is the model's own, or was redundant; at accuracy A no filter can take more than
(1 - A) + r_N of them, r_N being the share that is redundant (InFi, ch. 3).

A sample is filtered where its ``score`` is at most the threshold. Every threshold loses the more
the higher it is, so the bound on recall needs no correction for having looked at many: it is the
exact one of an order statistic (Wilks 1941). By group, rows of one person are no independent
draws; what counts then is how the groups' own recalls spread, and that is no guarantee.
"""

from __future__ import annotations

import functools
import math
from bisect import bisect_right
from typing import Any, Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ..calibration.promise import LEAST_GROUPS, binomial_p_value, student_quantile
from ..errors import DataError
from ..evidence import Figures
from ..measures import Flags
from .standing import to_any

_ROUNDING = 1e-12
_STEPS = 200  # thresholds that are looked at by group


class Point(Struct, frozen=True, omit_defaults=True):
    """A threshold and what it comes to: shares of all samples, ``recall`` of those that matter.

    Of several tasks those that matter to any; ``thresholds`` where each has its own, the least of
    which ``threshold`` is then.
    """

    threshold: float
    rate: float
    recall: float
    accuracy: float
    thresholds: tuple[float, ...] = ()


class TaskPoint(Struct, frozen=True, kw_only=True):
    """One of several tasks: its rule, how many rows matter to it, the recall of these."""

    rule: str
    matter: int
    threshold: float
    recall: float


def point_at(score: Figures, matters: Flags, threshold: float) -> Point:
    """Return what a skip filter with this ``threshold`` does on rows (N,) of both kinds."""
    return _point(score <= threshold, matters, (threshold,))


def curve(score: Figures, matters: Flags) -> list[Point]:
    """Return what a skip filter does at each of its rows' scores (N,), by rising threshold."""
    order = np.argsort(score, kind="stable")
    ordered, lost = score[order], np.cumsum(matters[order])
    last = np.flatnonzero(np.append(ordered[1:] > ordered[:-1], True))  # of scores that are equal
    columns = (
        ordered[last],
        (last + 1) / len(score),
        1.0 - lost[last] / lost[-1],
        1.0 - lost[last] / len(score),
    )
    return [Point(*row) for row in zip(*(one.tolist() for one in columns), strict=True)]


def point_of_tasks(scores: Figures, matters: Flags, thresholds: tuple[float, ...]) -> Point:
    """Return what a filter of several tasks does, by ``scores`` (N, T), of those that matter (N,).

    A row is filtered where each of its scores is at most the task's own of the ``thresholds``.
    """
    return _point(~to_any(scores > np.array(thresholds)), matters, thresholds)


def _point(filtered: Flags, matters: Flags, thresholds: tuple[float, ...]) -> Point:
    lost = filtered & matters
    return Point(
        threshold=min(thresholds),
        rate=float(filtered.mean()),
        recall=float(1.0 - lost.sum() / matters.sum()),
        accuracy=float(1.0 - lost.mean()),
        thresholds=thresholds if len(thresholds) > 1 else (),
    )


def recalls(scores: Figures, tasks: Flags, thresholds: tuple[float, ...]) -> tuple[float, ...]:
    """Return the share of what matters to each of the tasks (N, T) that is not filtered."""
    kept = to_any(scores > np.array(thresholds))
    return tuple(float(kept[matters].mean()) for matters in tasks.T)


def for_recall(
    score: Figures,
    matters: Flags,
    *,
    recall: float,
    confidence: float,
    group: NDArray[Any] | None = None,
) -> float:
    """Return the highest threshold that keeps at least ``recall`` of what matters.

    By row that holds with ``confidence`` over the draws of the rows; with a ``group`` (N,) it is
    to be expected of a new one, empirically. -inf where nothing can be filtered.

    Raises:
        DataError: too few rows matter, or too few groups are there, and how many are needed.
    """
    kept = score[matters]
    if group is None:
        return _by_row(kept, lost=1.0 - recall, level=1.0 - confidence)
    return _by_group(kept, group[matters], lost=1.0 - recall, confidence=confidence)


def for_accuracy(score: Figures, matters: Flags, *, accuracy: float) -> float:
    """Return the highest threshold at which the ``accuracy`` on these very rows is reached."""
    order = np.argsort(score, kind="stable")
    sorted_score, lost = score[order], np.cumsum(matters[order])
    last = np.append(sorted_score[1:] > sorted_score[:-1], True)  # of scores that are equal
    allowed = last & (lost <= math.floor((1.0 - accuracy) * len(score) + 1e-9))
    if not allowed.any():
        return -math.inf
    return _beside(float(sorted_score[np.flatnonzero(allowed)[-1]]), way=1)


def optimum(matters: Flags, *, accuracy: float) -> float:
    """Return the greatest rate that any filter can reach at an ``accuracy``: (1 - A) + r_N.

    >>> round(optimum(np.array([True, True, False, False, False]), accuracy=0.9), 6)
    0.7
    """
    return float(min(1.0, 1.0 - accuracy + 1.0 - matters.mean()))


def rows_needed(*, recall: float, confidence: float) -> int:
    """Return how many rows that matter a promise of ``recall`` takes at least.

    >>> rows_needed(recall=0.95, confidence=0.95)
    59
    """
    return math.ceil(math.log(1.0 - confidence) / math.log(recall))


def check_enough(rows: int, *, recall: float, confidence: float) -> None:
    """See to it that so many ``rows`` that matter can bear out a promise of ``recall``.

    Raises:
        DataError: they are too few, and how many are needed.
    """
    needed = rows_needed(recall=recall, confidence=confidence)
    if rows < needed:
        raise DataError(
            f"{rows} rows that matter are too few to hold a recall of {recall:.4g}",
            hint=f"{needed} are needed at least, or ask for less",
        )


def _by_row(kept: Figures, *, lost: float, level: float) -> float:
    """Return the threshold just below the order statistic that may be lost and no more."""
    rows = len(kept)
    check_enough(rows, recall=1.0 - lost, confidence=1.0 - level)
    p_values = functools.partial(binomial_p_value, rows=rows, error=lost)
    most = bisect_right(range(rows), level, key=p_values) - 1  # of them at or below it
    return _beside(float(np.sort(kept)[max(0, most)]), way=-1)


def _by_group(kept: Figures, group: NDArray[Any], *, lost: float, confidence: float) -> float:
    """Return the threshold up to which a new group is expected to lose no more than ``lost``."""
    names, place = np.unique(group, return_inverse=True)
    if len(names) < LEAST_GROUPS:
        raise DataError(
            f"{len(names)} groups with rows that matter say too little of how a new one differs",
            where="group",
            hint=f"{LEAST_GROUPS} are needed at least",
        )
    rows = np.bincount(place)
    quantile = student_quantile(confidence, len(names) - 1) * math.sqrt(1.0 + 1.0 / len(names))
    found = -math.inf
    for threshold in np.unique(np.quantile(kept, np.linspace(0.0, lost * 2, _STEPS))):
        below = _beside(float(threshold), way=-1)
        losses = np.bincount(place, weights=kept <= below) / rows
        if losses.mean() + quantile * losses.std(ddof=1) > lost:
            break
        found = below
    return found


def _beside(score: float, *, way: Literal[-1, 1]) -> float:
    """Return a threshold just below, or above, a score: beyond what rounding makes of it.

    A device compares logits. The logit of a threshold that is the next number to a sigmoid can be
    on the other side of the logit which that is of.
    """
    return score + way * (_ROUNDING * min(abs(score), abs(1.0 - score)) + 4 * math.ulp(score))
