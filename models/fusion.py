"""Fusion: one distribution from the edge's opinion and the cloud's.

Source: Lu et al., eq. 6-7. Each side is weighted with the *other's* aleatoric uncertainty,
so the side that finds the sample less ambiguous counts for more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import ModelError
from .evidence import Array, Figures, aleatoric, aleatoric_paper
from .opinion import Opinions
from .records import Opinion


def fuse(edge: Opinion | Opinions, cloud: Opinion | Opinions) -> Array:
    """Return the fused probabilities (..., K), in the wider of the two dtypes.

    Two `Opinion`s give (K,), two `Opinions` (N, K). Where either side has no evidence, the
    entropy of the mean stands for the aleatoric uncertainty of both: only like can be
    weighed against like.

    Raises:
        ModelError: the two sides do not have the same shape.
    """
    if edge.probs.shape != cloud.probs.shape:
        raise ModelError(
            f"cannot fuse probabilities {edge.probs.shape} of the edge "
            f"with {cloud.probs.shape} of the cloud"
        )
    doubt_edge, doubt_cloud = _doubts(edge, cloud)
    return combine(edge.probs, cloud.probs, doubt_edge=doubt_edge, doubt_cloud=doubt_cloud)


def combine(
    edge: Array, cloud: Array, *, doubt_edge: float | Figures, doubt_cloud: float | Figures
) -> Array:
    """Return w_E p_E + w_C p_C of ``edge`` and ``cloud`` (..., K): eq. 6.

    The weights are w_E = a_C/(a_E + a_C) and w_C = 1 - w_E, from the aleatoric
    uncertainties ``doubt_edge`` and ``doubt_cloud`` (...), not negative; 0/0 is ½ (eq. 7).

    >>> edge, cloud = np.array([0.8, 0.2]), np.array([0.4, 0.6])
    >>> combine(edge, cloud, doubt_edge=0.1, doubt_cloud=0.3).round(3).tolist()
    [0.7, 0.3]
    """
    doubt_edge = np.asarray(doubt_edge, np.float64)
    doubt_cloud = np.asarray(doubt_cloud, np.float64)
    both = doubt_edge + doubt_cloud
    weight = np.divide(doubt_cloud, both, out=np.full_like(both, 0.5), where=both > 0)[..., None]
    fused = weight * edge + (1.0 - weight) * cloud
    kept: NDArray[Any] = fused.astype(np.result_type(edge, cloud))
    return kept


def _doubts(
    edge: Opinion | Opinions, cloud: Opinion | Opinions
) -> tuple[float | Figures, float | Figures]:
    if edge.alpha is None or cloud.alpha is None:
        return aleatoric_paper(edge.probs), aleatoric_paper(cloud.probs)
    return _aleatoric(edge, edge.alpha), _aleatoric(cloud, cloud.alpha)


def _aleatoric(opinion: Opinion | Opinions, alpha: Array) -> float | Figures:
    if opinion.aleatoric is not None:
        return opinion.aleatoric
    # What came over the wire may add up to more than float32 holds.
    return aleatoric(alpha.astype(np.float64))
