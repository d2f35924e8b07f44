"""What a model file of any format takes and gives, read without the library that runs it."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .errors import ModelError
from .model import ModelSpec, TensorSpec
from .onnx_graph import check_graph
from .tflite_graph import check_tflite

Format = Literal["onnx", "tflite"]


def tensors(
    data: bytes,
    *,
    format: str,  # noqa: A002  the manifest's own word
    where: str,
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Return the inputs and outputs of a graph, once it has been found fit to run.

    Raises:
        ModelError: it is unreadable, holds what no bundle may hold, or is of another format.
    """
    match format:
        case "onnx":
            onnx = check_graph(data, where=where)
            return onnx.inputs, onnx.outputs
        case "tflite":
            tflite = check_tflite(data, where=where)
            return tflite.inputs, tflite.outputs
        case _:
            raise ModelError(f"hedge knows no {format} models", where=where)


def model_spec(
    data: bytes,
    *,
    format: str,  # noqa: A002  the manifest's own word
    output: str | None = None,
    where: str,
) -> ModelSpec:
    """Return a graph's input (B, ...) and the output (B, K) that ``output`` names; None: the first.

    Raises:
        ModelError: it may not run, takes several inputs, has no such output, or gives what
            is no row of numbers.
    """
    inputs, outputs = tensors(data, format=format, where=where)
    if len(inputs) != 1 or not inputs[0].shape:
        names = ", ".join(repr(tensor.name) for tensor in inputs)
        raise ModelError(
            f"takes {len(inputs)} inputs ({names}), not one (B, ...)",
            where=where,
            hint="export a graph of one input",
        )
    found = [one for one in outputs if output in (None, one.name)]
    if not found:
        names = ", ".join(repr(one.name) for one in outputs) or "none"
        what = "no output" if output is None else f"no output {output!r}"
        raise ModelError(f"gives {what}", where=where, hint=f"its outputs: {names}")
    given = found[0]
    if len(given.shape) != 2:
        raise ModelError(
            f"output {given.name!r} is {shape_text(given.shape)}, not (B, K)",
            where=where,
            hint="output_name in the manifest names another one" if len(outputs) > 1 else None,
        )
    if given.quantisation is None and not np.issubdtype(given.dtype, np.floating):
        raise ModelError(f"output {given.name!r} is {given.dtype}, not floating", where=where)
    return ModelSpec(inputs, (given,))


def fits(batch: NDArray[Any], wanted: TensorSpec) -> bool:
    """Tell whether a batch of at least one row is what ``wanted`` takes, free extents aside."""
    dtypes = (wanted.dtype,) if wanted.quantisation is None else (wanted.dtype, np.float32)
    return (
        batch.dtype in dtypes
        and batch.ndim == len(wanted.shape)
        and len(batch) > 0
        and all(
            want in (None, have)
            for have, want in zip(batch.shape[1:], wanted.shape[1:], strict=True)
        )
    )


def wrong_input(batch: NDArray[Any], wanted: TensorSpec, *, where: str) -> ModelError:
    """Return the error for a ``batch`` that is not what the input ``wanted`` takes."""
    dtype = str(wanted.dtype) if wanted.quantisation is None else f"{wanted.dtype} or float32"
    return ModelError(
        f"given {batch.dtype} {batch.shape}, but {wanted.name!r} takes {dtype} "
        f"{shape_text(wanted.shape)}",
        where=where,
    )


def shape_text(shape: tuple[int | None, ...]) -> str:
    """Return a shape for people: a free batch axis as B, other free extents as ?."""
    free = ("B" if place == 0 else "?" for place in range(len(shape)))
    texts = [
        word if extent is None else str(extent) for extent, word in zip(shape, free, strict=True)
    ]
    return f"({', '.join(texts)})"
