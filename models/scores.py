"""The scores a policy may gate on: one number per row, higher is less sure.

Each takes rows along the last axis, (K,) or (N, K), and returns float64 figures, () or
(N,). Beside each stands its form for one row, which is fast and gives exactly the same
number. Which score serves a model best is for calibration to find out: none wins
everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import numpy as np

from .evidence import LEAST, Array, Figures, entropy_nats, vacuity
from .manifest import Score

_EQUAL = 1e-12  # logits closer than this to their mean, as a share of it, are rounding


def max_prob(probs: Array) -> Figures:
    """Return 1 - max p of ``probs`` (..., K).

    >>> float(max_prob(np.array([0.75, 0.25])))
    0.25
    """
    top: Figures = np.maximum.reduce(probs, axis=-1).astype(np.float64)
    return 1.0 - top


def _max_prob_row(probs: Array) -> float:
    return 1.0 - float(probs[probs.argmax()])


def entropy(probs: Array) -> Figures:
    """Return the entropy of ``probs`` (..., K) over ln K.

    >>> float(entropy(np.array([0.5, 0.5, 0.0, 0.0])))
    0.5
    """
    return entropy_nats(probs) / math.log(probs.shape[-1])


def _entropy_row(probs: Array) -> float:
    logs = np.log(np.maximum(probs, LEAST))
    logs *= probs
    return -float(np.add.reduce(logs)) / math.log(probs.size)


def margin(probs: Array) -> Figures:
    """Return 1 - (p1 - p2) of ``probs`` (..., K), p1 and p2 the two greatest.

    >>> float(margin(np.array([0.25, 0.625, 0.125])))
    0.625
    """
    top = np.partition(probs, -2, axis=-1)[..., -2:].astype(np.float64)
    gap: Figures = top[..., 1] - top[..., 0]
    return 1.0 - gap


def _margin_row(probs: Array) -> float:
    top = np.partition(probs, -2)
    return 1.0 - (float(top[-1]) - float(top[-2]))


def p_norm(logits: Array) -> Figures:
    """Return 1 - max(d)/‖d‖₄ of ``logits`` (..., K), in (0, 1], where d = z - mean(z).

    MaxLogit-pNorm (Cattelan & Silva, "How to fix a broken confidence estimator", 2023,
    arXiv 2305.15508), who choose p on held-out data from 0 to 9; a fixed one in the middle of
    that range keeps thresholds comparable. Equal logits score 1. With two classes all rows
    score the same.

    >>> round(float(p_norm(np.array([3.0, 0.0, 0.0]))), 4)  # 1 - 2 / (16 + 1 + 1) ** 0.25
    0.029
    """
    wide = logits.astype(np.float64)  # where fourth powers neither overflow nor vanish
    mean = np.add.reduce(wide, axis=-1, keepdims=True) / logits.shape[-1]
    wide -= mean
    top = np.maximum.reduce(wide, axis=-1)
    wide *= wide
    wide *= wide
    power = np.add.reduce(wide, axis=-1)
    apart = power > np.square(np.square(_EQUAL * mean[..., 0]))
    sure: Figures = np.divide(top, np.sqrt(np.sqrt(power)), out=np.zeros_like(top), where=apart)
    return 1.0 - sure


def _p_norm_row(logits: Array) -> float:
    wide = logits.astype(np.float64)
    mean = float(np.add.reduce(wide)) / logits.size
    wide -= mean
    top = float(wide[wide.argmax()])
    wide *= wide
    wide *= wide
    power = float(np.add.reduce(wide))
    equal = _EQUAL * mean
    equal *= equal
    return 1.0 - top / math.sqrt(math.sqrt(power)) if power > equal * equal else 1.0


def _vacuity_row(alpha: Array) -> float:
    return alpha.size / float(np.add.reduce(alpha))


class Rule(NamedTuple):
    """A score: what it is computed from, for rows (..., K) and for one row (K,)."""

    of: Literal["alpha", "probs", "logits"]
    rows: Callable[[Array], Figures]
    row: Callable[[Array], float]


SCORES: Mapping[Score, Rule] = MappingProxyType(
    {
        "vacuity": Rule("alpha", vacuity, _vacuity_row),
        "max_prob": Rule("probs", max_prob, _max_prob_row),
        "entropy": Rule("probs", entropy, _entropy_row),
        "margin": Rule("probs", margin, _margin_row),
        "p_norm": Rule("logits", p_norm, _p_norm_row),
    }
)
