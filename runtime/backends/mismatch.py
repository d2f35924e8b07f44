"""The one message for a batch that does not fit a model."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from ...models.errors import ModelError
from ...models.model import TensorSpec


def wrong_input(batch: NDArray[Any], wanted: TensorSpec, *, where: str) -> ModelError:
    """Return the error for a ``batch`` that is not what the input ``wanted`` takes."""
    shape = ", ".join("B" if extent is None else str(extent) for extent in wanted.shape)
    return ModelError(
        f"given {batch.dtype} {batch.shape}, but {wanted.name!r} takes {wanted.dtype} ({shape})",
        where=where,
    )
