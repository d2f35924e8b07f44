"""The temperature that makes a softmax as sure as it is right, by maximum likelihood."""

from __future__ import annotations

import math

import numpy as np

from ..evidence import Array, Figures
from ..measures import Labels

COLDEST, HOTTEST = 0.05, 20.0
_HALVINGS = 40


def fit_temperature(logits: Array, y: Labels) -> float:
    """Return the T that makes the labels ``y`` (N,) likeliest under softmax(z/T), z (N, K).

    The likelihood is concave in 1/T, so its slope is halved down to the root. T stays within
    0.05 and 20, where it goes if all rows are right, or the logits say nothing.
    Source: Guo et al., "On calibration of modern neural networks", 2017.
    """
    wide = logits.astype(np.float64)
    wide -= wide.max(axis=1, keepdims=True)
    named = wide[np.arange(len(y)), y]
    cold, hot = math.log(COLDEST), math.log(HOTTEST)
    for _ in range(_HALVINGS):
        middle = (cold + hot) / 2.0
        if float(np.mean(_expected(wide, temperature=math.exp(middle)) - named)) > 0.0:
            cold = middle
        else:
            hot = middle
    return math.exp((cold + hot) / 2.0)


def _expected(logits: Figures, *, temperature: float) -> Figures:
    """Return Σ p_k z_k (N,) under p = softmax(z/T): it falls as T rises."""
    shares = np.exp(logits / temperature)
    mean: Figures = (shares * logits).sum(axis=1) / shares.sum(axis=1)
    return mean
