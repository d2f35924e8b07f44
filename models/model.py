"""The Model protocol: a graph that turns a batch of inputs into a batch of outputs."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class TensorSpec(NamedTuple):
    """A named tensor of a graph; a dimension that may vary is None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]


class ModelSpec(NamedTuple):
    """What a model takes and gives, by name."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Model(Protocol):
    """One open model. Backends implement it; the loop and the worker call it."""

    @property
    def spec(self) -> ModelSpec:
        """The graph's inputs and outputs."""

    def infer(self, batch: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Run ``batch`` (B, *input shape) and return the first output, (B, K) floating.

        Raises:
            ModelError: the batch has another shape or dtype, or the library failed.
        """

    def close(self) -> None:
        """Free what the model holds; closing twice is harmless."""
