"""Measures under many weightings of the rows at once, for bootstraps.

``weights`` are always (R, N), R weightings of the N rows, not negative, and every measure
gives (R,). With all weights 1 it is that of `measures`; with whole numbers it is that of rows
that are there so many times.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .evidence import Figures
from .measures import BINS, Flags, Ranking, area_up_to, bins_of


def mean(values: Figures | Flags, weights: Figures) -> Figures:
    """Return the weighted mean of ``values`` (N,), NaN where nothing weighs."""
    total = weights.sum(axis=1)
    found: Figures = np.divide(
        weights @ values, total, out=np.full(len(total), np.nan), where=total > 0
    )
    return found


def calibration_error(
    confidence: Figures, correct: Flags, weights: Figures, *, bins: int = BINS
) -> Figures:
    """Return Σ |B|/n · |accuracy(B) - mean confidence(B)|, as `measures.ece_prob` has it."""
    gaps = np.zeros((len(correct), bins))
    gaps[np.arange(len(correct)), bins_of(confidence, bins=bins)] = correct - confidence
    error: Figures = np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1)
    return error


class Covered(NamedTuple):
    """Sums of weights over the rows of least score, (R, G+1), from 0, for the G scores there are.

    ``rows`` are all of them, ``wrong`` those that are wrong.
    """

    rows: Figures
    wrong: Figures

    @classmethod
    def by(cls, ranking: Ranking, correct: Flags, weights: Figures) -> Covered:
        """Return the sums in the order of ``ranking``."""
        ordered = weights[:, ranking.order]
        return cls(ranking.sums(ordered), ranking.sums(ordered * ~correct[ranking.order]))

    def augrc(self) -> Figures:
        """Return `measures.augrc`."""
        total = self.rows[:, -1:]
        return area_up_to(self.rows / total, self.wrong / total, 1.0)

    def aurc(self) -> Figures:
        """Return `measures.aurc`; the weights must be whole numbers.

        Within a group of ties the risk at n rows is (W + (n - C) r) / n, with W wrong of C rows
        before it and r the group's error rate: in sum (W - C r) ΔH + r ΔC, H harmonic numbers.
        """
        count = np.rint(self.rows).astype(np.intp)
        harmonic = np.concatenate(([0.0], np.cumsum(1.0 / np.arange(1, count.max() + 1))))
        rate = np.diff(self.wrong, axis=1)
        rate /= np.maximum(np.diff(self.rows, axis=1), 1.0)
        before = self.wrong[:, :-1] - self.rows[:, :-1] * rate
        risks = np.einsum("rg,rg->r", before, np.diff(harmonic[count], axis=1))
        area: Figures = (risks + self.wrong[:, -1]) / self.rows[:, -1]
        return area


class Escalated(NamedTuple):
    """What it brings to send the rows of greatest score to the cloud.

    ``edge`` and ``cloud`` (R,) are their accuracies, ``covered`` (R, G+1) the shares of rows that
    stay at the edge, and ``lost`` (R, G+1) what the cloud would have gained of them.
    """

    edge: Figures
    cloud: Figures
    covered: Figures
    lost: Figures

    @classmethod
    def by(
        cls, ranking: Ranking, edge_correct: Flags, cloud_correct: Flags, weights: Figures
    ) -> Escalated:
        """Return it in the order of ``ranking``."""
        ordered = weights[:, ranking.order]
        gain = cloud_correct.astype(np.float64) - edge_correct
        rows, lost = ranking.sums(ordered), ranking.sums(ordered * gain[ranking.order])
        total = rows[:, -1:].copy()
        rows /= total
        lost /= total
        return cls(mean(edge_correct, weights), mean(cloud_correct, weights), rows, lost)

    def accuracy_at(self, shares: Figures) -> Figures:
        """Return the accuracy (R, S) where ``shares`` (S,) or (R, S) of the rows escalate."""
        kept = np.broadcast_to(1.0 - shares, (len(self.edge), np.shape(shares)[-1]))
        rows = zip(kept, self.covered, self.lost, strict=True)
        lost = np.array([np.interp(at, covered, sums) for at, covered, sums in rows])
        accuracy: Figures = self.cloud[:, None] - lost
        return accuracy

    def area(self, *, up_to: float = 1.0) -> Figures:
        """Return the mean accuracy over the shares from 0 to ``up_to``: `escalation_area`."""
        lost = area_up_to(self.covered, self.lost, 1.0)
        lost -= area_up_to(self.covered, self.lost, 1.0 - up_to)
        return self.cloud - lost / up_to
