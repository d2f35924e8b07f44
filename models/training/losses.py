"""What the nets are taught by. Each takes logits (B, K), labels (B,) and how far training is."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
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
    return dirichlet(functional.softplus(logits) + 1.0, y, progress)


def dirichlet(alpha: Tensor, y: Tensor, kl_weight: float) -> Tensor:
    """Return the loss of `evidential` of Dirichlets ``alpha`` (B, K)."""
    named = functional.one_hot(y, alpha.shape[1]).bool()
    fit = alpha.sum(1).log() - alpha[named].log()
    return (fit + kl_weight * _kl_from_uniform(alpha.masked_fill(named, 1.0))).mean()


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


def cooperative(
    logits: Tensor,
    y: Tensor | None,
    *,
    cloud: Tensor,
    edge_unsure: Tensor,
    cloud_unsure: Tensor,
    xi: float,
) -> Tensor:
    """Return the mean of (1 - w)·CE(y, f) + w·CE(f_cloud, f), what the cloud teaches the edge.

    f is the softmax of ``logits`` (B, K): of an evidential head give ln alpha. ``cloud`` (B, K)
    is what the cloud answered, distributions; the paper takes its label alone, which is one-hot.
    ``edge_unsure`` and ``cloud_unsure`` (B,), in [0, 1], are how unsure both were when they
    answered. The cloud teaches with w = `cloud_weight`, so only where it was sure and the edge was
    not. ``y`` (B,) are the classes, -1 where none is known (None: nowhere): there the first term
    is absent.
    Source: Lu et al., eq. 15-17. Their weight |U_C - U_E| would trust an unsure cloud; the gate
    is that of their abstract.
    """
    log_f = functional.log_softmax(logits, dim=1)
    weight = cloud_weight(edge_unsure, cloud_unsure, xi=xi).to(log_f.dtype)
    taught = -weight * (cloud.to(log_f.dtype) * log_f).sum(1)
    if y is None:
        return taught.mean()
    named = -log_f.gather(1, y.clamp(min=0)[:, None])[:, 0]
    return (taught + (1.0 - weight) * named * (y >= 0)).mean()


def cloud_weight(edge_unsure: Tensor, cloud_unsure: Tensor, *, xi: float) -> Tensor:
    """Return w = max(0, U_E - U_C) (B,) where U_E >= ``xi`` and U_C < ``xi``, else 0.

    Nothing is learnt through it: it says how far to trust, not what to become.
    """
    teaches = (edge_unsure >= xi) & (cloud_unsure < xi)
    gap = (edge_unsure - cloud_unsure).clamp(min=0.0).detach()
    return torch.where(teaches, gap, torch.zeros_like(gap))
