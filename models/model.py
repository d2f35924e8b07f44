"""The Model protocol: a graph that turns a batch of inputs into a batch of outputs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Quantisation(NamedTuple):
    """How integers stand for real numbers: ``scale * (stored - zero_point)``."""

    scale: float
    zero_point: int


class TensorSpec(NamedTuple):
    """A named tensor of a graph; a dimension that may vary is None."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | None, ...]
    quantisation: Quantisation | None = None


class ModelSpec(NamedTuple):
    """What a model takes and gives, by name."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


class Model(Protocol):
    """One open model with one input and one output. Backends implement it.

    The loop and the worker call it, from one thread at a time.
    """

    @property
    def spec(self) -> ModelSpec:
        """The input, and the output that `infer` gives, as the graph has them."""

    @property
    def runs_on(self) -> str:
        """The library with its version, and what it computes with, for people to read."""

    def infer(self, batch: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Run ``batch`` (B, *input shape) and return the output, (B, K) floating.

        A quantised input takes its own integers as they are, or float32, which is then
        quantised (to the nearest, ties to even, clipped); a quantised output comes as float32.

        Raises:
            ModelError: the batch has another shape or dtype, or the library failed.
        """

    def reset(self) -> None:
        """Forget what earlier samples have left behind, where a model keeps something of them."""

    def close(self) -> None:
        """Free what the model holds; closing twice is harmless."""


def infer_all(model: Model, batches: Iterable[NDArray[Any]]) -> NDArray[np.floating[Any]]:
    """Return the outputs (N, K) for all rows of some ``batches``, in float32 or float64.

    Raises:
        ModelError: as `Model.infer` does.
    """
    outputs = np.concatenate([model.infer(batch) for batch in batches])
    return outputs if outputs.dtype.char in "fd" else outputs.astype(np.float32)
