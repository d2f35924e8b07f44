"""What a bundle's models achieve together, from their outputs on rows they have not seen."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..evidence import Array
from ..manifest import Calibration, Edge
from ..measures import Flags, Labels, accuracy, gap_recovered, hits
from ..opinion import Assessor
from .skipping import matters
from .trained import Figures


class Outputs(NamedTuple):
    """Logits (n, K) of edge and cloud, and which rows pass the filter, (n,) bool."""

    edge: Array
    cloud: Array
    passes: Flags


def measure(
    outputs: Outputs,
    y: Labels,
    *,
    edge: Edge,
    calibration: Calibration,
    redundant: NDArray[np.intp] | None,
) -> Figures:
    """Return the figures of ``outputs`` on rows whose classes are ``y`` (n,).

    ``redundant`` are the classes that the filter may drop; None: there is no filter.

    Raises:
        DataError: no row passes, or none matters.
    """
    passes = outputs.passes
    keep = passes if redundant is None else matters(outputs.edge, redundant=redundant)
    if not passes.any() or not keep.any():
        raise DataError("no unseen row passes the filter, or none matters")
    near, far = hits(outputs.edge, y), hits(outputs.cloud, y)
    assessor = Assessor.of(edge, classes=outputs.edge.shape[1], score=calibration.scoring)
    asks = assessor.assess_batch(outputs.edge).score >= calibration.total
    alone, there = accuracy(near[passes]), accuracy(far[passes])
    both = accuracy(np.where(asks, far, near)[passes])
    return Figures(
        rows=len(y),
        passed=int(passes.sum()),
        edge_accuracy_all=accuracy(near),
        edge_accuracy=alone,
        cloud_accuracy=there,
        accuracy=both,
        gap_recovered=gap_recovered(edge=alone, coop=both, cloud=there),
        escalated_share=float(np.mean(asks[passes])),
        dropped_share=float(np.mean(~passes)),
        filter_agreement=None if redundant is None else float(np.mean(passes == keep)),
        filter_recall=None if redundant is None else float(np.mean(passes[keep])),
    )
