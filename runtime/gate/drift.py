"""Whether the scores of a stream are still those that its gate was calibrated on.

The last scores are counted between the quantiles of calibration, and the population stability
index of the counts says how far they are off: the sum over the bins of (a - e) ln(a / e), with a
the share found and e that expected (Siddiqi, "Credit risk scorecards", 2006, whose rule is
used: from 0.1 it is worth a look, from 0.25 the population is another; drift begins at 0.2 and
ends below 0.1).

The index of few rows is noise. Without drift it is, times the number of rows, about chi-square
with one degree less than bins: E = (bins - 1) / rows. Two things make it more: the quantiles
themselves come from so many calibration rows, so that 1/rows becomes 1/rows + 1/calibrated; and
the samples of a stream are alike when they follow each other, so that they count for fewer.
By how much is told from the rows: their counts in blocks of 64, 128 and 256 vary so much more
than those of independent ones would (the design effect; Rao & Scott, "The analysis of categorical
data from complex sample surveys", 1981). Drift begins only where the index is, beside its limit,
more than that noise would give once in 30,000 looks. A stream whose scores stay high or low for
longer than its last 2048 samples does look like one that drifts: for so long it has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...telemetry.gate_state import DriftState

EVERY = 512
"""After so many samples the scores are compared again."""

LIMIT = 0.2
_OVER = 0.1
_BLOCK = 64
_LEAST, _MOST = 16, 32  # blocks that are looked at
_BLOCKS = 4  # whose spread can be told
_SIGMAS = 4.0  # one-sided 3e-5

Figures = NDArray[np.float64]


class Bins(Struct, frozen=True):
    """Where scores are counted: up to each of ``edges`` (E,), which ``upto`` (E,) of them are due.

    ``step`` is the share from one quantile to the next.
    """

    edges: Figures
    upto: Figures
    step: float

    @classmethod
    def of(cls, reference: Sequence[float]) -> Bins:
        """Return the bins between the quantiles at 1/(n + 1), 2/(n + 1) … of n.

        >>> Bins.of([0.0, 0.0, 0.2]).edges, Bins.of([0.0, 0.0, 0.2]).upto
        (array([0. , 0.2]), array([0.5 , 0.75]))
        """
        step = 1 / (len(reference) + 1)
        upto = {edge: number * step for number, edge in enumerate(reference, start=1)}
        return cls(np.array(list(upto)), np.array(list(upto.values())), step)

    def cells(self, scores: Figures) -> Figures:
        """Return (n / 64, 2 E + 1) the counts of ``scores`` (n,) by blocks of rows.

        Below the first edge, on it, between it and the second, and so on.
        """
        blocks, width = scores.size // _BLOCK, 2 * self.edges.size + 1
        cells = np.searchsorted(self.edges, scores)
        cells += np.searchsorted(self.edges, scores, side="right")
        cells += width * (np.arange(cells.size) // _BLOCK)
        counts = np.bincount(cells, minlength=blocks * width).reshape(blocks, width)
        found: Figures = counts.astype(np.float64)
        return found

    def due(self, cells: Figures) -> Figures:
        """Return (E + 1,) the shares that are due where ``cells`` (2 E + 1,) are found.

        Of many equal scores on an edge some lie beyond the quantile, but not beyond the next, and
        no more than there are: they are due as they are found.
        """
        rows = cells.sum()
        found = _bins(cells).cumsum()[:-1] / rows
        beyond = np.minimum(cells[1::2] / rows, self.step)
        upto = np.clip(found, self.upto, self.upto + beyond)
        due: Figures = np.maximum(np.diff([0.0, *upto, 1.0]), 0.5 / rows)
        return due


def _bins(cells: Figures) -> Figures:
    """Return (..., E + 1) of cells (..., 2 E + 1): what is on an edge is counted below it."""
    bins: Figures = cells[..., ::2].copy()
    bins[..., :-1] += cells[..., 1::2]
    return bins


def stability_index(counts: Figures, shares: Figures) -> float:
    """Return the population stability index of ``counts`` (M,) where ``shares`` (M,) are due.

    Where nothing is found half a row is counted.

    >>> round(stability_index(np.array([30.0, 70.0]), np.array([0.5, 0.5])), 4)
    0.1695
    """
    found = np.maximum(counts, 0.5) / counts.sum()
    return float(((found - shares) * np.log(found / shares)).sum())


def design_effect(blocks: Figures) -> float:
    """Return how many times more ``blocks`` (B, M) of counts vary than independent rows would.

    1 at least; the mean over the bins of Rao and Scott's first-order correction, the greatest
    of the blocks as they are and of two and of four taken together.

    >>> design_effect(np.array([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0], [0.0, 2.0]]))
    2.6666666666666665
    """
    found = 1.0
    for together in (1, 2, 4):
        whole = blocks.shape[0] // together
        if whole < _BLOCKS:
            break
        some = blocks[: whole * together].reshape(whole, together, -1).sum(axis=1)
        share = some.sum(axis=0) / some.sum()
        expected = some[0].sum() * (share * (1 - share)).sum()
        if expected > 0:
            found = max(found, float(some.var(axis=0, ddof=1).sum() / expected))
    return found


def noise(bins: int, *, rows: float, calibrated: int) -> float:
    """Return what the index of ``rows`` independent rows without drift stays below.

    By Wilson and Hilferty's approximation of chi-square.
    """
    free = bins - 1
    part = 2 / (9 * free)
    quantile = free * (1 - part + _SIGMAS * math.sqrt(part)) ** 3
    return quantile * (1 / rows + 1 / calibrated)


class DriftWatch:
    """Compares the scores of a stream with those of calibration.

    ``reference`` are the quantiles of these at 1/20 … 19/20, of ``calibrated`` rows.
    """

    def __init__(self, reference: Sequence[float], *, calibrated: int) -> None:
        self._bins = Bins.of(reference)
        self._calibrated = calibrated
        self._blocks = np.empty((0, 2 * self._bins.edges.size + 1))
        self._events = 0
        self.statistic: float | None = None
        self.drifting = False

    def look(self, scores: Figures) -> bool:
        """Take in the next ``scores`` (EVERY,); return whether drift has begun or ended."""
        self._blocks = np.concatenate([self._blocks, self._bins.cells(scores)])[-_MOST:]
        if len(self._blocks) < _LEAST:
            return False
        cells = self._blocks.sum(axis=0)
        index = self.statistic = stability_index(_bins(cells), self._bins.due(cells))
        before = self.drifting
        self.drifting = index >= _OVER if before else index >= LIMIT and index >= self._noise()
        self._events += self.drifting and not before
        return self.drifting != before

    def state(self) -> DriftState:
        """Return how it stands."""
        return DriftState(
            rows=_BLOCK * len(self._blocks),
            statistic=None if self.statistic is None else round(self.statistic, 4),
            limit=LIMIT,
            drifting=self.drifting,
            events=self._events,
        )

    def _noise(self) -> float:
        blocks = _bins(self._blocks)
        rows = _BLOCK * len(blocks) / design_effect(blocks)
        return noise(blocks.shape[1], rows=rows, calibrated=self._calibrated)
