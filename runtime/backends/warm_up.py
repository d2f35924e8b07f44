"""The first calls of a model, which are slower than all others, made before they count."""

from __future__ import annotations

import numpy as np

from ...models.model import Model


def warm_up(model: Model, *, rows: int = 1, runs: int = 2) -> None:
    """Run ``model`` on ``rows`` samples of zeros, ``runs`` times; extents that are free are 1.

    It forgets them again.

    Raises:
        ModelError: it fails even on zeros.
    """
    wanted = model.spec.inputs[0]
    shape = (rows, *(1 if extent is None else extent for extent in wanted.shape[1:]))
    zeros = np.zeros(shape, wanted.dtype)
    for _ in range(runs):
        model.infer(zeros)
    model.reset()
