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

import math
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from .evidence import Array, Figures, depth_of, depths_of, ones_of
from .manifest import EvidenceHead
from .scores import SCORES, p_norm_below

FEATURES = ("confidence", "order", "peak")
CLIP = (-4.0, 12.0)  # of ln((S - K)/K): vacuity from .982 to 6e-6
MARK = 1.0 + 2.0**-12
LEAST = 1e-30  # what stands for nothing before a logarithm, in float32 too
_PEAK = SCORES["p_norm"]
_ONE = MappingProxyType({dtype: np.array(1.0, dtype) for dtype in ("f", "d")})


class HeadForm:
    """The head as numpy computes it; both forms give the same numbers.

    Logits may be of any scale and offset; of probabilities give the logarithms.
    """

    def __init__(self, head: EvidenceHead, *, classes: int) -> None:
        self._order, self._peak = head.weights[1] != 0.0, head.weights[2] != 0.0
        self._weights = head.weights
        self._bias = head.bias
        cold = 1.0 / head.temperature
        self._cold = {dtype: np.array(cold, dtype) for dtype in ("f", "d")}
        self._classes = classes
        self._stands_out = p_norm_below(classes)
        self._log_classes = math.log(classes)
        self._ones = ones_of(classes)

    def row(self, logits: Array) -> tuple[Array, float]:
        """Return alpha (K,) of ``logits`` (K,), in their dtype, and its sum S."""
        return self.below(*depth_of(logits))

    def below(self, depth: Array, at: np.intp) -> tuple[Array, float]:
        """Return what `row` does of the row's `depth_of`."""
        kind = depth.dtype.char
        colder = depth * self._cold[kind]
        alpha: Array = np.exp(colder)
        alpha[at] = 0.0
        rest = float(alpha.dot(self._ones[kind]))
        spread = float(alpha.dot(colder)) if self._order else 0.0
        peak = self._stands_out(depth, at) if self._peak else 0.0
        scale = self._scale(rest, spread, peak)
        alpha *= np.array(scale, kind)
        alpha += _ONE[kind]
        alpha[at] = 1.0 + MARK * scale
        return alpha, self._classes + scale * (MARK + rest)

    def rows(self, logits: Array) -> tuple[Array, Figures]:
        """Return alpha (N, K) of ``logits`` (N, K), in their dtype, and the sums (N,)."""
        return self.rows_below(*depths_of(logits))

    def rows_below(self, depth: Array, at: NDArray[np.intp]) -> tuple[Array, Figures]:
        """Return what `rows` does of the rows' `depths_of`."""
        alphas = np.empty_like(depth)
        sums = np.empty(len(depth))
        for row, one in enumerate(zip(depth, at, strict=True)):
            alphas[row], sums[row] = self.below(*one)
        return alphas, sums

    def _scale(self, rest: float, spread: float, peak: float) -> float:
        """Return (S - K)/Σ exp of a row, exp that of d = (z - max z)/T.

        ``rest`` is Σ exp but for the greatest, ``spread`` Σ exp d, ``peak`` the p-norm score.
        """
        total = 1.0 + rest
        confidence, order, stands_out = self._weights
        evidence = self._bias - confidence * math.log(max(rest, LEAST))
        if self._order:
            entropy = (math.log1p(rest) - spread / total) / self._log_classes
            evidence -= order * math.log(max(entropy, LEAST))
        if self._peak:
            evidence += stands_out * (1.0 - peak)
        least, most = CLIP
        evidence = least if evidence < least else min(evidence, most)
        return self._classes * math.exp(evidence) / total


def features(logits: Array, *, temperature: float = 1.0) -> Figures:
    """Return the `FEATURES` (N, 3) of ``logits`` (N, K): what a head's weights are for."""
    wide = logits.astype(np.float64)
    at = np.arange(len(wide)), wide.argmax(axis=1)
    depth = (wide - wide[at][:, None]) / temperature
    exp = np.exp(depth)
    exp[at] = 0.0
    rest = exp.sum(axis=1)
    spread = (exp * depth).sum(axis=1)
    entropy = (np.log1p(rest) - spread / (1.0 + rest)) / math.log(wide.shape[1])
    columns = -np.log(np.maximum(rest, LEAST)), -np.log(np.maximum(entropy, LEAST))
    return np.stack((*columns, 1.0 - _PEAK.rows(wide)), axis=1)
