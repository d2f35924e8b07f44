"""A model that is served by one backend until a better one is ready."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ModelError
from ...models.model import Model, ModelSpec

_log = logging.getLogger(__name__)


class Losable(Model, Protocol):
    """A model on a device that can be lost."""

    @property
    def lost(self) -> bool:
        """Whether no call can succeed any more."""


class SwappingModel:
    """Serves with ``model`` until `swap` brings an engine, and if that is lost, with a spare.

    ``engine`` is the model itself where it is one already. ``spare`` opens what serves
    after a loss; None: the engine's errors stand. ``counts`` gets "fell_back". The spec is
    the first model's, and a later one must take and give the same. One thread, as a Model.
    """

    def __init__(
        self,
        model: Model,
        *,
        where: str,
        engine: Losable | None = None,
        spare: Callable[[], Model] | None,
        counts: Counter[str],
    ) -> None:
        self._model = model
        self._engine = engine
        self._spare = spare
        self._where = where
        self._counts = counts
        self._is_open = True
        self.spec: ModelSpec = model.spec

    @property
    def runs_on(self) -> str:
        """What serves now."""
        return self._model.runs_on

    def infer(self, batch: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Run ``batch``; see `Model.infer`."""
        try:
            return self._model.infer(batch)
        except ModelError as error:
            if self._engine is None or not self._engine.lost or self._spare is None:
                raise
            self._fall_back(self._spare, error)
        return self._model.infer(batch)

    def swap(self, engine: Losable) -> None:
        """Serve with ``engine`` from the next call on, and close what has served so far.

        Raises:
            ModelError: the engine takes or gives something else, or answers zeros with
                NaN where the present model does not (float16 ends at 65504); it is closed.
        """
        try:
            self._check(engine)
        except BaseException:
            engine.close()
            raise
        before, self._model = self._model, engine
        self._engine = engine
        before.close()

    def reset(self) -> None:
        """Do what the present model does."""
        self._model.reset()

    def close(self) -> None:
        """Free what serves; twice is harmless."""
        self._is_open = False
        self._model.close()

    def _fall_back(self, spare: Callable[[], Model], error: ModelError) -> None:
        _log.warning("%s: serves without its engine from now on: %s", self._where, error.what)
        self._counts["fell_back"] += 1
        lost, self._engine = self._model, None
        self._model = spare()
        lost.close()

    def _check(self, engine: Losable) -> None:
        if not self._is_open:
            raise ModelError("is closed", where=self._where)
        for ours, theirs in zip(
            (*self.spec.inputs, *self.spec.outputs),
            (*engine.spec.inputs, *engine.spec.outputs),
            strict=True,
        ):
            fits = all(
                have in (None, want) for have, want in zip(ours.shape, theirs.shape, strict=False)
            )
            if ours[:2] != theirs[:2] or len(ours.shape) != len(theirs.shape) or not fits:
                raise ModelError(f"its engine has {theirs}, not {ours}", where=self._where)
        source = engine.spec.inputs[0]
        zeros = np.zeros([extent or 1 for extent in source.shape], source.dtype)
        if not np.isfinite(engine.infer(zeros)).all() and np.isfinite(self.infer(zeros)).all():
            raise ModelError(
                "its engine answers zeros with NaN or Inf",
                where=self._where,
                hint='precision = "fp32" has the range for it',
            )
