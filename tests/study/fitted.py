"""Evidence for an edge that was taught by cross-entropy, learnt on the calibration rows."""

from __future__ import annotations

import msgspec
import numpy as np

from hedge.models.dataset import Dataset, digest
from hedge.models.evidence import Array
from hedge.models.manifest import Edge
from hedge.models.opinion import Assessor
from hedge.models.training.evidence_fit import fit_head

from .task import FITTED, SOFTMAX


def with_fitted(edge: Edge, outputs: Array, data: Dataset, *, seed: int) -> tuple[Edge, ...]:
    """Return ``edge``, and, if it has no evidence, before it one with what ``outputs`` teach.

    ``outputs`` (N, K) are its own on ``data``. Where rows come from groups, these are held out
    whole while the features of the head are chosen.
    """
    if edge.name != SOFTMAX:
        return (edge,)
    assert data.y is not None
    plain = Assessor.of(edge, classes=outputs.shape[1], score="max_prob")
    found = fit_head(
        plain.logits_batch(outputs),
        data.y,
        unit=None if data.group is None else np.unique(data.group, return_inverse=True)[1],
        seed=seed,
        data_sha256=digest(data),
    )
    fitted = msgspec.structs.replace(edge, name=FITTED, head="evidential", evidence=found.head)
    return fitted, edge
