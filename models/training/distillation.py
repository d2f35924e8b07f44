"""Calibration distillation: from a model that knows how sure it is to one that does not.

Source: Lu et al., §4.2: a small proxy is taught evidence; a larger model is taught classes, frozen,
and given a layer that learns to be as sure as the proxy, by the divergence of their Dirichlets.
"""

from __future__ import annotations

from torch import Tensor


def divergence(proxy: Tensor, model: Tensor) -> Tensor:
    """Return (B,) KL(Dir(proxy) || Dir(model)) of alphas (B, K), in nats.

    ln Γ(S_p) - Σ ln Γ(p) - ln Γ(S_m) + Σ ln Γ(m) + Σ (p - m)(ψ(p) - ψ(S_p)): eq. 8 and 14.
    """
    sure, other = proxy.sum(1), model.sum(1)
    constants = sure.lgamma() - proxy.lgamma().sum(1) - other.lgamma() + model.lgamma().sum(1)
    return constants + ((proxy - model) * (proxy.digamma() - sure.digamma()[:, None])).sum(1)
