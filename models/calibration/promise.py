"""The accuracy promise: how far the gate may open, so that what it lets pass is right enough.

A threshold is never the largest that passes a test: of many, some pass by luck. By row, the
order in which thresholds are tested is fixed on some rows, and each is tested on the others,
until one fails (fixed-sequence testing, which controls the error of them all: Angelopoulos et
al., "Learn then test", 2021). By group, rows of one person are no independent tests, so what
counts is how the groups' own errors spread.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..evidence import Figures
from ..measures import Flags
from .aims import TargetAccuracy

DESIGN = 1 / 3
"""The share of rows that fix the order of the tests; the others are tested on."""

LEAST_GROUPS = 5
_CARE = 0.5  # tested at half the level: who counts how it was kept has only so many samples, too
_SURE = 0.01  # of the level: what a start is to pass its test by
_STEPS = 50  # thresholds from the start up to the loosest
_MOST_ROWS = 10_000_000


class Promised(NamedTuple):
    """The threshold that keeps a promise, and on how many accepted rows and groups it rests."""

    total: float
    rows: int
    groups: int | None = None


def binomial_p_value(wrong: int, rows: int, *, error: float) -> float:
    """Return P(X ≤ ``wrong``) for X ~ Binomial(``rows``, ``error``): that luck explains so few.

    >>> round(binomial_p_value(1, 3, error=0.5), 12)  # (1 + 3) / 8
    0.5
    """
    if wrong >= rows:
        return 1.0
    log_ratio = math.log(error) - math.log1p(-error)
    log_term = rows * math.log1p(-error)
    log_terms = [log_term]
    for k in range(wrong):
        log_term += log_ratio + math.log((rows - k) / (k + 1))
        log_terms.append(log_term)
    top = max(log_terms)
    return min(1.0, math.exp(top) * math.fsum(math.exp(one - top) for one in log_terms))


def design_rows(rows: int, *, seed: int) -> Flags:
    """Return (rows,) which fix the score and the order of the tests: a third, at random."""
    chosen = np.zeros(rows, np.bool_)
    order = np.random.default_rng(seed).permutation(rows)
    chosen[order[: round(rows * DESIGN)]] = True
    return chosen


def promise_rows(score: Figures, correct: Flags, design: Flags, *, aim: TargetAccuracy) -> Promised:
    """Return the threshold on ``score`` (N,) below which the edge keeps the promise.

    The score must not depend on the rows that are not of the ``design`` (N,). With at least
    the confidence asked for, over the draws of those, the edge is right in at least the share
    asked for of the samples below the threshold.

    Raises:
        DataError: it cannot be promised, and how many rows could.
    """
    error, level = 1.0 - aim.accuracy, (1.0 - aim.confidence) * _CARE
    tested_score, tested_wrong = score[~design], ~correct[~design]
    order = _order(
        score[design], ~correct[design], error=error, level=level, tests=int(np.sum(~design))
    )
    kept = None
    for threshold in order:
        accepted = tested_score < threshold
        rows, wrong = int(accepted.sum()), int(tested_wrong[accepted].sum())
        if rows == 0 or binomial_p_value(wrong, rows, error=error) > level:
            break
        kept = Promised(threshold, rows)
    if kept is None:
        raise _too_few(score, correct, error=error, level=level)
    return kept


def _order(score: Figures, wrong: Flags, *, error: float, level: float, tests: int) -> list[float]:
    """Return thresholds, rising, from the first that is all but sure to pass its test.

    Where none is, from one between likely and likeliest: the design rows' own luck is in it.
    """
    thresholds = np.unique(np.quantile(score, np.arange(1, _STEPS + 1) / _STEPS))
    thresholds[-1] = np.nextafter(thresholds[-1], np.inf)
    hopes = []
    for threshold in thresholds:
        accepted = score < threshold
        rows = int(accepted.sum())
        found = (float(wrong[accepted].sum()) + 0.5) / (rows + 1.0)
        expected = round(tests * rows / len(score))
        hopes.append(binomial_p_value(round(expected * found), max(1, expected), error=error))
    enough = max(level * _SURE, math.sqrt(level * min(hopes)), min(hopes))
    first = int(np.argmax(np.array(hopes) <= enough))
    rising: list[float] = thresholds[first:].tolist()
    return rising


def _too_few(score: Figures, correct: Flags, *, error: float, level: float) -> DataError:
    """Return the refusal, with the number of rows that the promise takes."""
    wrong = np.cumsum(~correct[np.argsort(score, kind="stable")])
    count = np.arange(1, len(score) + 1)
    least = max(1, len(score) // 10)
    needed = [
        _rows_needed(float(wrong[at - 1] / at), error=error, level=level) / (at / len(score))
        for at in range(least, len(score) + 1, max(1, len(score) // _STEPS))
    ]
    best = float(np.min((wrong / count)[least - 1 :]))
    promised, found = 1.0 - error, 1.0 - best
    rows = max(min(needed) / (1.0 - DESIGN), len(score) * 1.2)  # where luck failed, a few more
    what = f"{len(score)} rows are too few to promise {promised:.4g}"
    if not math.isfinite(rows) or rows > _MOST_ROWS:
        return DataError(
            f"{promised:.4g} cannot be promised: "
            f"where it is surest, the edge is right in {found:.4g}",
            hint="promise less, or train a better edge",
        )
    return DataError(what, hint=f"about {_rounded(rows)} are needed, or promise less")


def _rows_needed(found: float, *, error: float, level: float) -> float:
    """Return how many accepted rows pass the test if the share ``found`` of them is wrong."""
    if found >= error:
        return math.inf
    rows = max(1, math.ceil(math.log(level) / math.log1p(-error)))
    while binomial_p_value(_unlucky(found * rows), rows, error=error) > level:
        rows = math.ceil(rows * 1.1)
        if rows > _MOST_ROWS:
            return math.inf
    return float(rows)


def _unlucky(wrong: float) -> int:
    """Return how many errors come of ``wrong`` expected ones, one standard deviation above."""
    return math.ceil(wrong + math.sqrt(wrong))


def _rounded(rows: float) -> int:
    """Return ``rows`` rounded up to two digits: it is an estimate."""
    unit: int = 10 ** max(0, math.floor(math.log10(rows)) - 1)
    return int(math.ceil(rows / unit) * unit)


def promise_groups(
    score: Figures, correct: Flags, group: NDArray[Any], *, aim: TargetAccuracy
) -> Promised:
    """Return the threshold on ``score`` (N,) below which a new group's accuracy should lie.

    Of every group the error below the threshold is one number; where a new one is to be
    expected with the confidence asked for, all being draws of one normal distribution, is
    mean + t·s·√(1 + 1/G) (the prediction interval, t of G - 1 degrees of freedom). Errors are
    no normal draws, so this is no guarantee; it is told from one that is by its name.

    Raises:
        DataError: it cannot be promised, and what would help.
    """
    values, place = np.unique(group, return_inverse=True)
    if len(values) < LEAST_GROUPS:
        raise DataError(
            f"{len(values)} groups say too little of how a new one differs",
            where="group",
            hint=f"{LEAST_GROUPS} are needed at least",
        )
    error = 1.0 - aim.accuracy
    thresholds = np.unique(np.quantile(score, np.arange(1, _STEPS + 1) / _STEPS))
    thresholds[-1] = np.nextafter(thresholds[-1], np.inf)
    bounds = [
        _new_group(score < threshold, ~correct, place, confidence=aim.confidence)
        for threshold in thresholds
    ]
    passed = [at for at, bound in enumerate(bounds) if bound <= error]
    if not passed:
        raise DataError(
            f"{aim.accuracy:.4g} cannot be promised for a new group: of {len(values)}, "
            f"{1.0 - min(bounds):.4g} can at most",
            hint="promise less, or give more groups",
        )
    first = next(at for at in passed if at + 1 not in passed)
    accepted = score < thresholds[first]
    return Promised(float(thresholds[first]), int(accepted.sum()), len(values))


def _new_group(
    accepted: Flags, wrong: Flags, place: NDArray[np.intp], *, confidence: float
) -> float:
    """Return up to where a new group's error among what is accepted is to be expected."""
    rows = np.bincount(place, weights=accepted)
    errors = np.bincount(place, weights=accepted & wrong)[rows > 0] / rows[rows > 0]
    groups = len(errors)
    if groups < LEAST_GROUPS:
        return math.inf
    spread = float(np.std(errors, ddof=1)) * math.sqrt(1.0 + 1.0 / groups)
    return float(np.mean(errors)) + student_quantile(confidence, groups - 1) * spread


def student_quantile(probability: float, freedom: int) -> float:
    """Return the quantile of Student's t at a ``probability`` above ½, by halving its integral.

    >>> round(student_quantile(0.95, 5), 3)
    2.015
    """
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if _student(middle, freedom) < probability else (low, middle)
    return (low + high) / 2.0


def _student(x: float, freedom: int) -> float:
    """Return P(T ≤ x) for x ≥ 0: the finite series in θ = atan(x/√f) (Abramowitz, 26.7.3-4)."""
    theta = math.atan(x / math.sqrt(freedom))
    cosine, sine = math.cos(theta), math.sin(theta)
    if freedom % 2:
        term = total = cosine if freedom > 1 else 0.0
        for k in range(3, freedom - 1, 2):
            term *= cosine * cosine * (k - 1) / k
            total += term
        return 0.5 + (theta + sine * total) / math.pi
    term = total = 1.0
    for k in range(2, freedom - 1, 2):
        term *= cosine * cosine * (k - 1) / k
        total += term
    return 0.5 + sine * total / 2.0
