"""The router: a logistic regression on the edge's own outputs, of whether the edge is wrong.

It is fitted by penalised maximum likelihood. The slope on what speaks against the answer is
free, the biases of the answers are drawn to none, by as much as cross-validation finds best:
where they tell nothing, the router orders the rows as max probability does.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..evidence import Figures
from ..manifest import Router
from ..measures import Flags

PENALTIES = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
FOLDS = 5
LEAST_OF_EACH = 10
"""Right rows, and wrong rows, without which there is no router."""

_FREE = 0.1  # on the slope: enough to keep it finite where right and wrong are parted
_STEPS = 60
_ENOUGH = 1e-9  # of the objective, in which a step must gain more to be followed by another


class Fitted(NamedTuple):
    """A router, and what it says of each row it was fitted on when fitted without it, (N,)."""

    router: Router
    honest: Figures
    penalty: float


def fit_router(features: Figures, wrong: Flags, fold: NDArray[np.intp]) -> Fitted | None:
    """Return the router for ``features`` (N, F) of rows that the edge got ``wrong`` (N,) or not.

    ``fold`` (N,) are the numbers of the parts of the cross-validation (`folds`). None: too few
    rows are wrong, or right, to learn from.
    """
    kinds = np.bincount(wrong, minlength=2)
    if kinds.min() < LEAST_OF_EACH or len(np.unique(fold)) < 2:
        return None
    honest = {penalty: _cross_fitted(features, wrong, fold, penalty) for penalty in PENALTIES}
    best = min(PENALTIES, key=lambda penalty: _loss(honest[penalty], wrong))
    weights = _fit(features, wrong, penalty=best)
    router = Router(weights=tuple(weights[1:].tolist()), bias=float(weights[0]))
    return Fitted(router, _logistic(honest[best]), best)


def folds(rows: int, group: NDArray[Any] | None, *, seed: int) -> NDArray[np.intp]:
    """Return the number (N,) of the part that each row is in: of 5, groups being kept together."""
    unit = np.arange(rows) if group is None else np.unique(group, return_inverse=True)[1]
    units = int(unit.max()) + 1
    place = np.random.default_rng(seed).permutation(units)
    part: NDArray[np.intp] = place[unit] % min(FOLDS, units)
    return part


def _cross_fitted(
    features: Figures, wrong: Flags, fold: NDArray[np.intp], penalty: float
) -> Figures:
    """Return the log-odds (N,) of each row by a fit to the other parts."""
    odds = np.empty(len(wrong))
    for part in np.unique(fold):
        out = fold == part
        weights = _fit(features[~out], wrong[~out], penalty=penalty)
        odds[out] = weights[0] + features[out] @ weights[1:]
    return odds


def _fit(features: Figures, wrong: Flags, *, penalty: float) -> Figures:
    """Return bias and weights (1 + F,): iteratively reweighted least squares, step halved."""
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale[scale < 1e-9] = 1.0
    design = np.column_stack((np.ones(len(wrong)), (features - centre) / scale))
    pull = np.full(design.shape[1], penalty)
    pull[:2] = 0.0, _FREE
    share = (wrong.sum() + 0.5) / (len(wrong) + 1.0)
    weights = np.zeros(design.shape[1])
    weights[0] = np.log(share / (1.0 - share))
    reached = _objective(design, wrong, weights, pull)
    for _ in range(_STEPS):
        step = _newton(design, wrong, weights, pull)
        before, length = reached, 1.0
        while (reached := _objective(design, wrong, weights - length * step, pull)) > before:
            length /= 2.0
            if length < 1e-6:
                return _unscaled(weights, centre, scale)
        weights = weights - length * step
        if before - reached <= _ENOUGH * before:
            break
    return _unscaled(weights, centre, scale)


def _newton(design: Figures, wrong: Flags, weights: Figures, pull: Figures) -> Figures:
    probability = _logistic(design @ weights)
    spread = np.maximum(probability * (1.0 - probability), 1e-10)
    slope = design.T @ (probability - wrong) + pull * weights
    bend = (design.T * spread) @ design + np.diag(pull)
    step: Figures = np.linalg.solve(bend, slope)
    return step


def _objective(design: Figures, wrong: Flags, weights: Figures, pull: Figures) -> float:
    return _loss(design @ weights, wrong) + 0.5 * float(pull @ np.square(weights))


def _loss(odds: Figures, wrong: Flags) -> float:
    return float(np.sum(np.logaddexp(0.0, odds) - odds * wrong))


def _logistic(odds: Figures) -> Figures:
    probability: Figures = 1.0 / (1.0 + np.exp(-np.clip(odds, -700.0, 700.0)))
    return probability


def _unscaled(weights: Figures, centre: Figures, scale: Figures) -> Figures:
    """Return the weights for features as they are."""
    plain = weights[1:] / scale
    return np.concatenate(([weights[0] - plain @ centre], plain))
