"""What the nets are taught by. Each takes logits (B, K), labels (B,) and how far training is."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn import functional

Loss = Callable[[Tensor, Tensor, float], Tensor]


def evidential(logits: Tensor, y: Tensor, progress: float) -> Tensor:
    """Return the mean of ln S - ln alpha_y + ``progress`` · KL(Dir(alpha~) || Dir(1)).

    alpha = softplus(z) + 1, S its sum, and alpha~ is alpha with the true class set to 1, so
    that the second term takes evidence from what is wrong only. Its weight grows from 0 to 1
    over the whole training (``progress``): given sooner, it costs small nets accuracy.
    Source: Lu et al., eq. 13; Sensoy et al. 2018, eq. 3 and 5.
    """
    alpha = functional.softplus(logits) + 1.0
    named = functional.one_hot(y, logits.shape[1]).bool()
    fit = alpha.sum(1).log() - alpha[named].log()
    return (fit + progress * _kl_from_uniform(alpha.masked_fill(named, 1.0))).mean()


def _kl_from_uniform(alpha: Tensor) -> Tensor:
    """Return (B,) KL(Dir(alpha) || Dir(1)) of ``alpha`` (B, K)."""
    total = alpha.sum(1)
    spread = total.lgamma() - math.lgamma(alpha.shape[1]) - alpha.lgamma().sum(1)
    return spread + ((alpha - 1.0) * (alpha.digamma() - total.digamma()[:, None])).sum(1)


def cross_entropy(logits: Tensor, y: Tensor, progress: float) -> Tensor:  # noqa: ARG001  a Loss
    """Return the mean cross-entropy against labels that are smoothed by 5 %."""
    return functional.cross_entropy(logits, y, label_smoothing=0.05)


def binary(logits: Tensor, y: Tensor, progress: float) -> Tensor:  # noqa: ARG001  a Loss
    """Return the mean binary cross-entropy of ``logits`` (B, 1) against ``y`` (B,) of 0 and 1."""
    return functional.binary_cross_entropy_with_logits(logits[:, 0], y.float())
