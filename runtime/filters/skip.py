"""The skip filter: drops what cannot matter before the model runs (PAPERS: InFi, Skip)."""

from __future__ import annotations

import math
from typing import Any, Protocol

from numpy.typing import NDArray

from ...models.errors import ModelError
from ...models.model import Model
from ...models.prepare import Prepare


class Keep(Protocol):
    """A filter of single samples, as the loop calls it."""

    def keep(self, batch: NDArray[Any]) -> bool:
        """Whether the one sample of ``batch`` (1, *input shape) goes on."""


class SkipFilter:
    """Drops a sample where g(x) ≤ ``threshold``; g is the sigmoid of the model's logit.

    ``prepare`` makes of samples what the model takes.
    """

    def __init__(self, model: Model, *, threshold: float, prepare: Prepare) -> None:
        self._infer = model.infer
        self._prepare = prepare
        self._logit = _logit(threshold)

    def keep(self, batch: NDArray[Any]) -> bool:
        """Whether the one sample of ``batch`` matters.

        Raises:
            ModelError: the filter failed, or its output is no number.
        """
        logit = float(self._infer(self._prepare(batch))[0, 0])
        if math.isnan(logit):
            raise ModelError("the filter's output is NaN", where="filter")
        return logit > self._logit


def _logit(probability: float) -> float:
    if probability <= 0:
        return -math.inf
    return math.inf if probability >= 1 else math.log(probability / (1 - probability))
