"""The reuse filter: answers from what was answered before (PAPERS: InFi, Reuse)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ModelError
from ...models.model import Model
from ...models.prepare import Prepare
from ...models.records import Probs
from .filtered import Filtered
from .key_cache import KeyCache
from .nearest import Key


class ReuseFilter:
    """Answers a sample where the nearest keys of ``cache`` agree on it.

    ``model`` makes keys (1, ``width``) of samples, ``prepare`` of those what it takes. ``key`` is
    that of the last sample, if it was not answered: the model's answer to it goes to `learn`.
    Its certainty is that of the vote, where it ``weighs`` votes (see `KeyCache.find`).
    """

    def __init__(
        self,
        model: Model,
        *,
        cache: KeyCache,
        width: int,
        prepare: Prepare,
        weighs: bool = False,
    ) -> None:
        self._infer = model.infer
        self._prepare = prepare
        self._shape = (width,)
        self._weighs = weighs
        self.cache = cache
        self.key: Key | None = None

    def judge(self, batch: NDArray[Any]) -> Filtered | None:
        """Return the answer to the one sample of ``batch``; None: nothing like it is known.

        Raises:
            ModelError: the filter failed, or its output is no key.
            DataError: the key is not finite.
        """
        self.key = None
        key = self._infer(self._prepare(batch))[0]
        if key.shape != self._shape:
            raise ModelError(f"its output has shape {key.shape}, not {self._shape}", where="filter")
        if key.dtype != np.float32:
            key = key.astype(np.float32)
        vote = self.cache.find(key, weigh=self._weighs)
        self.key = key
        return None if vote is None else Filtered("reused", vote.probs, vote.label, vote.nearest)

    @property
    def certainty(self) -> float | None:
        """How sure the vote on the last sample was."""
        return self.cache.certainty

    def learn(self, key: Key, probs: Probs, *, sample_id: str) -> None:
        """Take in what the model has answered to the sample of ``key``."""
        self.cache.insert(key, probs, sample_id=sample_id)
