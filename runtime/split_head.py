"""The device's half of a model in two: features of samples, made once for all who want them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..models.manifest import Edge, Split
from ..models.model import Model
from ..models.prepare import Prepare


def head_of(split: Split) -> Edge:
    """Return the head of a [split] as a model that the device opens."""
    return Edge(
        name="split",
        file=split.file,
        format=split.format,
        head="none",
        output_name=split.output_name,
    )


class SplitHead:
    """Makes features of samples; the last batch's are kept for who asks for them after.

    Filters and a tail on the device are given a batch, one after the other, and what is sent of
    the sample is asked for when they are done: the head runs once for all of them. A batch is
    known again by being the same object, so one that comes anew in the same place is not mistaken
    for it; who asks for a sample's features has been handed that sample just before. They travel as
    ``dtype``.
    """

    def __init__(self, model: Model, prepare: Prepare, *, dtype: str) -> None:
        self.dtype = np.dtype(dtype)
        self._model = model
        self._prepare = prepare
        self._batch: NDArray[Any] | None = None
        self._features: NDArray[np.floating[Any]] | None = None

    def __call__(self, batch: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Return the features (B, width) of a batch.

        Raises:
            ModelError: the model failed.
        """
        features = self._features if batch is self._batch else None
        if features is None:
            self._batch = self._features = None
            features = self._model.infer(self._prepare(batch))
            self._batch, self._features = batch, features
        return features

    def of(self, sample: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Return the features (width,) of one sample, which may be that of the last batch.

        Raises:
            ModelError: the model failed.
        """
        batch, held = sample[None], self._batch
        if held is not None and self._features is not None and _is_same(held, batch):
            row: NDArray[np.floating[Any]] = self._features[0]
            return row
        first: NDArray[np.floating[Any]] = self._model.infer(self._prepare(batch))[0]
        return first

    def feeding(self, prepare: Prepare) -> Prepare:
        """Return what makes of samples what a model takes of which ``prepare`` feeds features."""

        def fed(batch: NDArray[Any]) -> NDArray[Any]:
            return prepare(self(batch))

        return fed


def _is_same(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Tell whether two arrays are the same part of memory, seen in the same way."""
    first, second = one.__array_interface__, other.__array_interface__
    same = (first["data"], first["shape"], first["typestr"], first["strides"])
    return same == (second["data"], second["shape"], second["typestr"], second["strides"])
