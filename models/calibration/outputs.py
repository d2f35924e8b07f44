"""Outputs that no softmax can have made, and none can be made of: refused before they mislead.

A sigmoid for each class looks like logits that are all alike: softmaxed it is sure of nothing, a
temperature of 0.05 then makes something of it, and all figures that follow are of a model that is
none. Logits proper lie outside [0, 1] sooner or later, so what never does, in 40 numbers, is none.
"""

from __future__ import annotations

import numpy as np

from ..errors import ModelError
from ..evidence import Array
from ..manifest import Cloud, Edge
from ..opinion import INT8_STEP

_LEAST_VALUES = 40


def check_outputs(outputs: Array, *, model: Edge | Cloud, where: str) -> None:
    """Refuse raw ``outputs`` (N, K) of a softmax classifier that are not what they are said to be.

    Raises:
        ModelError: they are distributions, and said to be logits, or each class's own
            probability, which sum to anything, or all the same number.
    """
    if model.head == "evidential" and model.evidence is None:
        return
    if outputs.size >= _LEAST_VALUES and np.ptp(outputs) == 0.0:
        raise ModelError(
            f"every output is {outputs.flat[0]:.4g}, of every row and class: nothing is told apart",
            where=where,
        )
    if outputs.size < _LEAST_VALUES or not ((outputs >= 0.0) & (outputs <= 1.0)).all():
        return
    is_int8 = isinstance(model, Edge) and model.precision == "int8"
    slack = 1e-3 + (outputs.shape[1] * INT8_STEP / 2 if is_int8 else 0.0)
    sums = outputs.sum(axis=1, dtype=np.float64)
    off = np.abs(sums - 1.0) > slack
    if model.output == "logits" and not off.any():
        raise ModelError(
            "every output is a distribution, and they are said to be logits",
            where=where,
            hint='output = "probabilities" in the manifest says what they are',
        )
    if off.mean() > 0.5 or (model.output == "logits" and off.any()):
        raise ModelError(
            f"the outputs are no distribution, and no logits: all lie within 0 and 1, and a row's "
            f"sum is {sums.min():.3g} to {sums.max():.3g}, as sigmoids give, each class alone",
            where=where,
            hint="end the graph before its sigmoid, or in a softmax; logits that are so small, as "
            "cosines are, multiply there by 20, say: a temperature takes it back",
        )
