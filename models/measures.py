"""Measures: how right a model is, how honest about it, and what cooperation buys.

``correct`` is always (N,) bool, ``score`` (N,) with higher less sure, ``y`` (N,) integer
labels, ``probs`` (N, K). Where scores tie, every measure takes the mean over all orders of
the tied rows, so none depends on how the rows happen to be sorted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .evidence import Array, Figures, log_probs

Flags = NDArray[np.bool_]
Labels = NDArray[np.integer[Any]]
BINS = 15
"""In how many equal parts of [0, 1] confidence is divided."""


def hits(probs: Array, y: Labels) -> Flags:
    """Return (N,) whether the most probable class of ``probs`` (N, K) is ``y``."""
    right: Flags = np.argmax(probs, axis=1) == y
    return right


def accuracy(correct: Flags) -> float:
    """Return the share of rows that are right: eq. 18."""
    return float(np.mean(correct))


def brier(probs: Array, y: Labels) -> float:
    """Return the mean of Σ_k (p_k - y_k)², in [0, 2]."""
    return float(np.mean(row_briers(probs, y)))


def row_briers(probs: Array, y: Labels) -> Figures:
    """Return Σ_k (p_k - y_k)² of each row, (N,)."""
    rows = np.asarray(probs, np.float64)
    each: Figures = np.square(rows).sum(axis=1) - 2.0 * rows[np.arange(len(y)), y] + 1.0
    return each


def log_score_nats(probs: Array, y: Labels) -> float:
    """Return the mean of -ln p_y, in nats."""
    return float(np.mean(row_log_scores(probs, y)))


def row_log_scores(probs: Array, y: Labels) -> Figures:
    """Return -ln p_y of each row, (N,), in nats."""
    named = np.asarray(probs, np.float64)[np.arange(len(y)), y]
    return -log_probs(named).astype(np.float64)


def ece_prob(probs: Array, y: Labels, *, bins: int = BINS) -> float:
    """Return the expected calibration error of max p."""
    confidence = np.max(probs, axis=1).astype(np.float64)
    return _calibration_error(confidence, hits(probs, y), bins=bins)


def ece_vacuity(vacuity: Figures, correct: Flags, *, bins: int = BINS) -> float:
    """Return the expected calibration error of 1 - u: eq. 18-20.

    The paper's threshold on u is the caller's: it is a choice of rows.
    """
    return _calibration_error(1.0 - vacuity, correct, bins=bins)


def _calibration_error(confidence: Figures, correct: Flags, *, bins: int) -> float:
    """Return Σ |B|/n · |accuracy(B) - mean confidence(B)| over equal bins (i/m, (i+1)/m]."""
    gaps = np.bincount(bins_of(confidence, bins=bins), weights=correct - confidence, minlength=bins)
    return float(np.abs(gaps).sum() / len(correct))


def bins_of(confidence: Figures, *, bins: int = BINS) -> NDArray[np.intp]:
    """Return in which of the equal bins (i/m, (i+1)/m] each confidence lies, (N,); 0 in the first.

    >>> bins_of(np.array([0.0, 0.2, 0.2001, 1.0]), bins=5).tolist()
    [0, 0, 1, 4]
    """
    index: NDArray[np.intp] = np.ceil(confidence * bins).astype(np.intp) - 1
    return np.clip(index, 0, bins - 1)


class Reliability(NamedTuple):
    """A reliability diagram: of each bin the rows in it, and of these two means, NaN of none.

    All are (bins,). Their differences, weighted with the rows, are the calibration error.
    """

    rows: NDArray[np.intp]
    confidence: Figures
    accuracy: Figures


def reliability(confidence: Figures, correct: Flags, *, bins: int = BINS) -> Reliability:
    """Return how right rows are that are equally sure, by `bins_of` their ``confidence`` (N,).

    Source: Guo et al. 2017, "On calibration of modern neural networks", fig. 1.

    >>> found = reliability(np.array([0.3, 0.4, 0.9]), np.array([True, False, True]), bins=2)
    >>> found.rows.tolist(), found.confidence.round(3).tolist(), found.accuracy.tolist()
    ([2, 1], [0.35, 0.9], [0.5, 1.0])
    """
    index = bins_of(confidence, bins=bins)
    rows = np.bincount(index, minlength=bins)
    sure, right = (
        np.bincount(index, weights=values, minlength=bins) for values in (confidence, correct)
    )
    with np.errstate(invalid="ignore"):  # 0/0 is NaN, as it should be
        return Reliability(rows, sure / rows, right / rows)


def auroc(inside: Figures, outside: Figures) -> float:
    """Return the probability that a figure of ``outside`` (m,) is above one of ``inside`` (n,).

    Ties count half; ½ is chance.

    >>> auroc(np.array([1.0, 2.0]), np.array([2.0, 3.0]))  # above: 3 of 4 pairs, one ties
    0.875
    """
    ordered = np.sort(inside)
    below = np.searchsorted(ordered, outside, side="left")
    at_most = np.searchsorted(ordered, outside, side="right")
    return float(np.mean(below + at_most) / (2 * len(inside)))


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
    ranking = Ranking.of(-score)
    share = ranking.sums(weight[..., ranking.order])
    won = ranking.sums(gain[..., ranking.order])
    all_rows = share[..., -1:]
    area = area_up_to(share / all_rows, won / all_rows, up_to)
    edge: Figures = (weight * edge_correct).sum(axis=-1) / all_rows[..., 0]
    return edge + area / up_to


class Ranking(NamedTuple):
    """Rows by ascending score: their ``order`` (N,), and where the G groups of ties begin, (G,)."""

    order: NDArray[np.intp]
    starts: NDArray[np.intp]

    @classmethod
    def of(cls, score: Figures) -> Ranking:
        """Return the ranking by ``score`` (N,)."""
        order = np.argsort(score, kind="stable")
        ordered = score[order]
        return cls(order, np.flatnonzero(np.append(True, ordered[1:] > ordered[:-1])))

    def sums(self, ordered: Figures) -> Figures:
        """Return (..., G+1) the sums of values in this order (..., N) over the groups, from 0."""
        ties = len(self.starts) < len(self.order)
        grouped = np.add.reduceat(ordered, self.starts, axis=-1) if ties else ordered
        sums = np.zeros((*grouped.shape[:-1], grouped.shape[-1] + 1))
        np.cumsum(grouped, axis=-1, out=sums[..., 1:])
        return sums


def area_up_to(x: Figures, y: Figures, limit: float) -> Figures:
    """Return the integral from 0 to ``limit`` of the polygon (x, y) (..., G+1)."""
    left, width = x[..., :-1], np.diff(x, axis=-1)
    if limit >= x[..., -1].max():  # all of it, which is quick
        whole: Figures = np.einsum("...i,...i->...", width, y[..., :-1] + y[..., 1:]) / 2.0
        return whole
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
