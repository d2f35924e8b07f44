"""A model without a model: given outputs, for floors, tests and dry runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from ...models.errors import ModelError
from ...models.graph import wrong_input
from ...models.model import ModelSpec, TensorSpec


class NullModel:
    """Answers its i-th sample with row i of ``outputs`` (N, K), over and over.

    It checks shape and dtype as any backend does, and computes nothing.
    """

    def __init__(
        self,
        outputs: NDArray[np.floating[Any]],
        *,
        shape: tuple[int, ...],
        dtype: DTypeLike = np.float32,
        where: str = "null",
    ) -> None:
        if outputs.ndim != 2 or outputs.size == 0:
            raise ModelError(f"outputs {outputs.shape} should be (N, K), none 0", where=where)
        self._outputs: NDArray[np.floating[Any]] = outputs.copy()
        self._input = TensorSpec("x", np.dtype(dtype), (None, *shape))
        self._where = where
        self._next = 0
        self._is_open = True
        self.runs_on = "nothing"

    @property
    def spec(self) -> ModelSpec:
        """One input (B, *shape), one output (B, K)."""
        output = TensorSpec("y", self._outputs.dtype, (None, self._outputs.shape[1]))
        return ModelSpec((self._input,), (output,))

    def infer(self, batch: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Return the next rows of the given outputs, (B, K)."""
        if not self._is_open:
            raise ModelError("is closed", where=self._where)
        shape = batch.shape
        count = shape[0] if shape else 0
        if not count or batch.dtype != self._input.dtype or shape[1:] != self._input.shape[1:]:
            raise wrong_input(batch, self._input, where=self._where)
        start, total = self._next, len(self._outputs)
        self._next = (start + count) % total
        if start + count <= total:
            rows: NDArray[np.floating[Any]] = self._outputs[start : start + count].copy()
        else:
            rows = self._outputs[np.arange(start, start + count) % total]
        return rows

    def reset(self) -> None:
        """Do nothing: it keeps nothing of a sample."""

    def close(self) -> None:
        """Refuse what comes after."""
        self._is_open = False
