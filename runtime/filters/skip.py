"""The skip filter: drops what cannot matter before the model runs (PAPERS: InFi, Skip)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ModelError
from ...models.filtering.standing import check_tasks, logit_of
from ...models.model import Model
from ...models.prepare import Prepare
from .filtered import DROPPED, Filtered


class SkipFilter:
    """Drops a sample where g(x) ≤ ``threshold`` for every task; g is the sigmoid of a logit.

    ``thresholds`` (T,) stand in for that one where each task has its own. ``prepare`` makes of
    samples what the model takes. Its certainty is how far the logit is from that of the threshold
    (from 0 where that is infinite), of several tasks that which is the furthest above it, or the
    least below. At a threshold of 1/2 that orders samples as the thesis' |g(x) - 1/2| does, and
    tells those apart that are as good as 0 or 1.
    """

    def __init__(
        self,
        model: Model,
        *,
        threshold: float,
        prepare: Prepare,
        thresholds: tuple[float, ...] = (),
    ) -> None:
        self._infer = model.infer
        self._prepare = prepare
        self._logit = logit_of(threshold)
        self._thresholds = thresholds
        self._limits = np.array([logit_of(one) for one in thresholds])
        self._middle = self._logit if math.isfinite(self._logit) else 0.0
        self.certainty: float | None = None

    def judge(self, batch: NDArray[Any]) -> Filtered | None:
        """Return `DROPPED` where the one sample of ``batch`` does not matter.

        Raises:
            ModelError: the filter failed, or its output is no number.
        """
        return None if self.keep(batch) else DROPPED

    def keep(self, batch: NDArray[Any]) -> bool:
        """Return whether the one sample of ``batch`` matters; raises as `judge` does."""
        logits = self._infer(self._prepare(batch))[0]
        if self._thresholds:
            return self._keep_any(logits)
        logit = float(logits[0] if len(logits) == 1 else logits.max())
        if math.isnan(logit):
            raise ModelError("the filter's output is NaN", where="filter")
        self.certainty = abs(logit - self._middle)
        return logit > self._logit

    def _keep_any(self, logits: NDArray[Any]) -> bool:
        """Return whether the sample matters to any task, each with its own threshold."""
        check_tasks(len(logits), self._thresholds, where="filter")
        if np.isnan(logits).any():
            raise ModelError("the filter's output is NaN", where="filter")
        limits = self._limits
        beyond = logits.astype(np.float64) - np.where(np.isfinite(limits), limits, 0.0)
        self.certainty = abs(float(beyond.max()))
        return bool((logits > limits).any())
