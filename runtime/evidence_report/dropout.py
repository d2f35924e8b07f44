"""MC dropout: the spread of several runs, of a model whose dropout stays on."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from ...models.bundle import Bundle
from ...models.dataset import Dataset
from ...models.evidence import Figures
from ...models.manifest import Calibration, Edge
from ...models.onnx_graph import check_graph
from ...models.scores import max_prob
from ..backends import open_part
from ..both_models import model_outputs
from .answers import edge_assessor

PASSES = 20
MISSING = "no dropout runs in the graph"
_LOOKED_AT = 64


def mc_dropout(
    bundle: Bundle, data: Dataset, *, edge: Edge, calibration: Calibration | None
) -> Figures | None:
    """Return 1 - max of the mean p over `PASSES` runs, (N,); None where no dropout runs.

    ONNX Runtime runs a Dropout node only where the graph says training_mode = true; most
    exporters leave none. Source: Gal & Ghahramani 2016.

    Raises:
        ModelError: the model fails.
    """
    if edge.format != "onnx":
        return None
    graph = check_graph(bundle.read(edge.file), where=edge.file)
    if ("", "Dropout") not in graph.operators:
        return None
    assessor = edge_assessor(edge, calibration, classes=len(bundle.labels))
    with closing(open_part(bundle, edge)) as model:
        few = data.rows(np.arange(min(_LOOKED_AT, len(data.x))))
        first, again = (model_outputs(model, bundle.input, few) for _ in range(2))
        if np.array_equal(first, again):
            return None
        runs = (model_outputs(model, bundle.input, data) for _ in range(PASSES))
        mean = sum(assessor.assess_batch(outputs).probs for outputs in runs) / PASSES
    return max_prob(np.asarray(mean))
