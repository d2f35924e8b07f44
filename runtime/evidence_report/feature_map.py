"""The last feature map of an ONNX classifier: the graph is asked for one more output.

It is the last tensor (B, C, H, W), H or W above 1, that the answer comes from: what goes into the
pooling or the flattening. Transposes and the like only move it, and are passed over.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np

from ...models.bundle import Bundle
from ...models.dataset import Dataset
from ...models.errors import MissingExtraError, ModelError
from ...models.evidence import Array
from ...models.manifest import Edge
from ..backends import open_model
from ..backends.first_line import first_line
from ..both_models import model_outputs

_NAME = "hedge_last_feature_map"
_MOVES = frozenset(
    {
        *("Cast", "DequantizeLinear", "Flatten", "Identity", "QuantizeLinear", "Reshape"),
        *("Squeeze", "Transpose", "Unsqueeze"),
    }
)


class FeatureMap(NamedTuple):
    """An ONNX file that also gives its feature map, flat, as the output `_NAME`."""

    data: bytes
    layer: str
    shape: tuple[int, int, int]

    def of(self, bundle: Bundle, edge: Edge, rows: Dataset) -> Array:
        """Return the feature maps (N, C, H, W) of ``rows``.

        Raises:
            ModelError: the model fails.
        """
        opened = open_model(self.data, format="onnx", where=edge.file, output=_NAME)
        with closing(opened) as model:
            flat = model_outputs(model, bundle.input, rows)
        return flat.reshape(-1, *self.shape)


def feature_map(bundle: Bundle, edge: Edge) -> FeatureMap | None:
    """Return the graph of an edge with its last feature map, None where it has none.

    Raises:
        MissingExtraError: `onnx` is not installed.
        ModelError: `onnx` cannot read the graph.
    """
    if find_spec("onnx") is None:
        raise MissingExtraError("onnx", extra="quantize")
    import onnx  # noqa: PLC0415  an extra
    from onnx import helper, shape_inference  # noqa: PLC0415

    try:
        model = onnx.load_from_string(bundle.read(edge.file))
        _fix_input(model, bundle.input.shape)
        known = shape_inference.infer_shapes(model)
    except Exception as error:  # the library's errors share no base
        raise ModelError(f"onnx cannot read it: {first_line(error)}", where=edge.file) from error
    found = next(_maps(known, edge.output_name), None)
    if found is None:
        return None
    name, shape = found
    model.graph.node.append(helper.make_node("Flatten", [name], [_NAME], axis=1))
    kind = onnx.TensorProto.FLOAT
    batch = known.graph.input[0].type.tensor_type.shape.dim[0]
    extent = batch.dim_value if batch.HasField("dim_value") else "B"
    flat = helper.make_tensor_value_info(_NAME, kind, [extent, int(np.prod(shape))])
    model.graph.output.append(flat)
    return FeatureMap(model.SerializeToString(), name, shape)


def _fix_input(model: Any, shape: tuple[int, ...]) -> None:  # noqa: ANN401  the library is untyped
    """Write the sample's extents into the graph's input, so that all others can be inferred."""
    weights = {one.name for one in model.graph.initializer}
    source = next(one for one in model.graph.input if one.name not in weights)
    for extent, size in zip(source.type.tensor_type.shape.dim[1:], shape, strict=True):
        extent.dim_value = size


def _maps(model: Any, output: str | None) -> Iterator[tuple[str, tuple[int, int, int]]]:  # noqa: ANN401
    """Yield the feature maps that lead to the output, the last one first."""
    graph = model.graph
    shapes = {one.name: _extents(one) for one in graph.value_info}
    leading = {output or graph.output[0].name}
    for node in reversed(graph.node):
        if leading.isdisjoint(node.output):
            continue
        leading.update(node.input)
        for name in node.output:
            extents = shapes.get(name)
            if extents is not None and node.op_type not in _MOVES and max(extents[1:]) > 1:
                yield name, extents


def _extents(value: Any) -> tuple[int, int, int] | None:  # noqa: ANN401
    """Return (C, H, W) of a float tensor (B, C, H, W) whose extents are known; else None."""
    tensor = value.type.tensor_type
    extents = tuple(one.dim_value for one in tensor.shape.dim)
    if tensor.elem_type != 1 or len(extents) != 4 or min(extents[1:]) < 1:
        return None
    return extents[1], extents[2], extents[3]
