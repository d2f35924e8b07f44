"""Measures: how right a model is, how honest about it, and what cooperation buys.

``correct`` is always (N,) bool, ``score`` (N,) with higher less sure, ``y`` (N,) integer
labels, ``probs`` (N, K). Where scores tie, every measure takes the mean over all orders of
the tied rows, so none depends on how the rows happen to be sorted.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .evidence import Array, Figures, log_probs

Flags = NDArray[np.bool_]
Labels = NDArray[np.integer[Any]]


def hits(probs: Array, y: Labels) -> Flags:
    """Return (N,) whether the most probable class of ``probs`` (N, K) is ``y``."""
    right: Flags = np.argmax(probs, axis=1) == y
    return right


def accuracy(correct: Flags) -> float:
    """Return the share of rows that are right: eq. 18."""
    return float(np.mean(correct))


def brier(probs: Array, y: Labels) -> float:
    """Return the mean of Σ_k (p_k - y_k)², in [0, 2]."""
    rows = np.asarray(probs, np.float64)
    named = rows[np.arange(len(y)), y]
    return float(np.mean(np.square(rows).sum(axis=1) - 2.0 * named + 1.0))


def log_score_nats(probs: Array, y: Labels) -> float:
    """Return the mean of -ln p_y, in nats."""
    named = np.asarray(probs, np.float64)[np.arange(len(y)), y]
    return float(-np.mean(log_probs(named)))


def ece_prob(probs: Array, y: Labels, *, bins: int = 15) -> float:
    """Return the expected calibration error of max p."""
    confidence = np.max(probs, axis=1).astype(np.float64)
    return _calibration_error(confidence, hits(probs, y), bins=bins)


def ece_vacuity(vacuity: Figures, correct: Flags, *, bins: int = 15) -> float:
    """Return the expected calibration error of 1 - u: eq. 18-20.

    The paper's threshold on u is the caller's: it is a choice of rows.
    """
    return _calibration_error(1.0 - vacuity, correct, bins=bins)


def _calibration_error(confidence: Figures, correct: Flags, *, bins: int) -> float:
    """Return Σ |B|/n · |accuracy(B) - mean confidence(B)| over equal bins (i/m, (i+1)/m]."""
    index = np.clip(np.ceil(confidence * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.bincount(index, weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(correct))


def risk_coverage(score: Figures, correct: Flags) -> tuple[Figures, Figures]:
    """Return coverage (N,) and, at each, the error rate of the rows answered (N,)."""
    count = np.arange(1, len(score) + 1)
    return count / len(score), _cumulated(score, ~correct)[1:] / count


def aurc(score: Figures, correct: Flags) -> float:
    """Return the area under the risk-coverage curve: the mean of its N risks.

    Source: Geifman & El-Yaniv 2017.

    >>> aurc(np.array([0.1, 0.2, 0.3]), np.array([True, False, True])) * 3  # 0 + 1/2 + 1/3
    0.8333333333333333
    """
    return float(np.mean(risk_coverage(score, correct)[1]))


def augrc(score: Figures, correct: Flags) -> float:
    """Return the area under the generalised risk-coverage curve, in [0, ½].

    The generalised risk is the share of *all* rows that are answered and wrong, so the
    area is the mean risk of silent failures. With e the error rate and A the probability
    that a wrong row scores above a right one, it is (1 - A)·e·(1 - e) + e²/2.
    Source: Traub et al. 2024, "Overcoming common flaws in the evaluation of selective
    classification systems".

    >>> augrc(np.array([0.1, 0.2, 0.3]), np.array([True, False, True])) * 18  # 0 + 1 + 2
    3.0
    """
    risk = _cumulated(score, ~correct) / len(score)
    return float(np.mean(risk[1:] + risk[:-1]) / 2.0)


def escalation_curve(
    score: Figures, edge_correct: Flags, cloud_correct: Flags
) -> tuple[Figures, Figures]:
    """Return the share escalated (N+1,), from 0 to 1, and the accuracy at each (N+1,).

    The rows that score highest go to the cloud, the others are answered by the edge.
    """
    rows = len(score)
    gain = cloud_correct.astype(np.float64) - edge_correct
    won = _cumulated(-score, gain)
    return np.arange(rows + 1) / rows, (np.count_nonzero(edge_correct) + won) / rows


def escalation_area(
    score: Figures,
    edge_correct: Flags,
    cloud_correct: Flags,
    *,
    up_to: float = 1.0,
    weights: Figures | None = None,
) -> Figures:
    """Return the mean accuracy over the shares escalated from 0 to ``up_to``.

    ``weights`` (B, N) weigh the rows anew B times and make the result (B,); else it is ().
    """
    weight = np.ones(len(score)) if weights is None else weights
    gain = weight * (cloud_correct.astype(np.float64) - edge_correct)
    order, starts = _groups(-score)
    share = _steps(weight[..., order], starts)
    won = _steps(gain[..., order], starts)
    all_rows = share[..., -1:]
    area = _area_up_to(share / all_rows, won / all_rows, up_to)
    edge: Figures = (weight * edge_correct).sum(axis=-1) / all_rows[..., 0]
    return edge + area / up_to


def _groups(score: Figures) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the order (N,) of ascending score and where each group of ties begins in it."""
    order = np.argsort(score, kind="stable")
    ordered = score[order]
    return order, np.flatnonzero(np.append(True, ordered[1:] > ordered[:-1]))


def _steps(values: Figures, starts: NDArray[np.intp]) -> Figures:
    """Return (..., G+1) the sums of ``values`` (..., N) over the first groups, from 0."""
    sums = np.cumsum(np.add.reduceat(values, starts, axis=-1), axis=-1)
    return np.concatenate((np.zeros((*sums.shape[:-1], 1)), sums), axis=-1)


def _area_up_to(x: Figures, y: Figures, limit: float) -> Figures:
    """Return the integral from 0 to ``limit`` of the polygon (x, y) (..., G+1)."""
    left, width = x[..., :-1], np.diff(x, axis=-1)
    inside = np.clip(limit - left, 0.0, width)
    slope = np.divide(np.diff(y, axis=-1), width, out=np.zeros_like(width), where=width > 0)
    area: Figures = (inside * (y[..., :-1] + slope * inside / 2.0)).sum(axis=-1)
    return area


def oracle_score(edge_correct: Flags, cloud_correct: Flags) -> Figures:
    """Return the score (N,) of the oracle router, the best that any score could do.

    First goes what the cloud mends, last what it would break.
    """
    return cloud_correct.astype(np.float64) - edge_correct


def gap_recovered(*, edge: float, coop: float, cloud: float) -> float | None:
    """Return (coop - edge)/(cloud - edge) of three accuracies; None without a gap.

    >>> gap_recovered(edge=0.5, coop=0.625, cloud=0.75)
    0.5
    """
    return None if cloud == edge else (coop - edge) / (cloud - edge)


def _cumulated(score: Figures, values: NDArray[Any]) -> Figures:
    """Return (N+1,) sums of ``values`` over the rows of least score, the mean under ties."""
    _, group, size = np.unique(score, return_inverse=True, return_counts=True)
    mean = np.bincount(group, weights=values) / size
    return np.concatenate(([0.0], np.cumsum(np.repeat(mean, size))))
