"""Evidence for a classifier that gives none: alpha = 1 + (S - K) q, with S learnt after it.

q is the softmax that the model has anyway, at a temperature, so the answer stays what it was;
how much evidence stands behind it, S - K, comes from three things that q says of itself:

- confidence: ln p - ln(1 - p) of the greatest p,
- order: -ln of the entropy of q over ln K,
- peak: how far the greatest logit stands out, max d/‖d‖₄ of d = z - mean(z) (`scores.p_norm`).

(S - K)/K = exp(clip(bias + weights · features)), so vacuity K/S is the logistic function of
-(bias + weights · features). With only one weight not 0 vacuity orders samples as that plain
score does: so a fitted one need be no worse.

The greatest class gets 1/4096 more evidence than the formula says. Rounding, which may make
two nearly equal classes equal, can then not change the answer, neither here nor in a graph.

Source: Lu et al., §4.2 (calibration distillation), with S alone learnt: other layers may change
the argmax.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log, log1p

import numpy as np

from .evidence import Array, Figures, depth_of, ones_of
from .manifest import EvidenceHead
from .scores import SCORES, p_norm_below

FEATURES = ("confidence", "order", "peak")
CLIP = (-4.0, 12.0)  # of ln((S - K)/K): vacuity from .982 to 6e-6
MARK = 1.0 + 2.0**-12
LEAST = 1e-30  # what stands for nothing before a logarithm, in float32 too
_LOG_LEAST = log(LEAST)
_PEAK = SCORES["p_norm"]


class HeadForm:
    """The head as numpy computes it.

    Logits may be of any scale and offset; of probabilities give the logarithms. ``below`` tells
    p = alpha/S (K,) and S of a row's `depth_of`, for the hot path: alpha itself is wanted past the
    gate only, and is `alpha_of` these two.
    """

    def __init__(self, head: EvidenceHead, *, classes: int) -> None:
        self.below = _below(head, classes=classes)

    def row(self, logits: Array) -> tuple[Array, float]:
        """Return alpha (K,) of ``logits`` (K,), in their dtype, and its sum S."""
        probs, total = self.below(*depth_of(logits))
        return alpha_of(probs, total), total

    def rows(self, logits: Array) -> tuple[Array, Figures]:
        """Return alpha (N, K) of ``logits`` (N, K), in their dtype, and the sums (N,)."""
        alphas = np.empty_like(logits)
        sums = np.empty(len(logits))
        for row, one in enumerate(logits):
            alphas[row], sums[row] = self.row(one)
        return alphas, sums


def alpha_of(probs: Array, total: float | Figures) -> Array:
    """Return alpha = S p of ``probs`` (..., K) and S = ``total`` (), (..., 1), in their dtype."""
    alpha: Array = probs * np.array(total, probs.dtype)
    return alpha


def _below(head: EvidenceHead, *, classes: int) -> Callable[[Array, np.intp], tuple[Array, float]]:
    """Return `HeadForm.below`: the hot path, so in one piece, and bound to what it needs.

    With d = (z - max z)/T ``rest`` is Σ exp d but for the greatest, ``spread`` Σ d exp d, and
    ``scale`` is (S - K)/Σ exp d. Where a number is out of range is asked before it is put right:
    min and max take as long as a short sum. p is at least (1 + a few roundings)/S, so that no alpha
    made of it is below 1.
    """
    confidence, order, stands_out = head.weights
    bias, least, most, log_classes = head.bias, *CLIP, log(classes)
    peak_of = p_norm_below(classes)
    ones = ones_of(classes)
    cold = 1.0 / head.temperature
    kinds = {
        dtype: (np.array(cold, dtype), ones[dtype], 1.0 + 4.0 * float(np.finfo(dtype).eps))
        for dtype in ones
    }

    def below(depth: Array, at: np.intp) -> tuple[Array, float]:
        kind = depth.dtype.char
        cold, ones, more = kinds[kind]
        colder = depth * cold
        probs: Array = np.exp(colder)
        probs[at] = 0.0
        rest = float(probs.dot(ones))
        total = 1.0 + rest
        evidence = bias - confidence * (log(rest) if rest > LEAST else _LOG_LEAST)
        if order:
            spread = float(probs.dot(colder))
            entropy = (log1p(rest) - spread / total) / log_classes
            evidence -= order * (log(entropy) if entropy > LEAST else _LOG_LEAST)
        if stands_out:
            evidence += stands_out * (1.0 - peak_of(depth, at))
        if not least <= evidence <= most:
            evidence = least if evidence < least else most
        scale = classes * exp(evidence) / total
        total = classes + scale * (MARK + rest)
        probs *= np.array(scale / total, kind)
        probs += np.array(more / total, kind)
        probs[at] = (1.0 + MARK * scale) / total
        return probs, total

    return below


def features(logits: Array, *, temperature: float = 1.0) -> Figures:
    """Return the `FEATURES` (N, 3) of ``logits`` (N, K): what a head's weights are for."""
    wide = logits.astype(np.float64)
    at = np.arange(len(wide)), wide.argmax(axis=1)
    depth = (wide - wide[at][:, None]) / temperature
    exp = np.exp(depth)
    exp[at] = 0.0
    rest = exp.sum(axis=1)
    spread = (exp * depth).sum(axis=1)
    entropy = (np.log1p(rest) - spread / (1.0 + rest)) / log(wide.shape[1])
    columns = -np.log(np.maximum(rest, LEAST)), -np.log(np.maximum(entropy, LEAST))
    return np.stack((*columns, 1.0 - _PEAK.rows(wide)), axis=1)
