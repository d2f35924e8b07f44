"""The last layer of a classifier in an ONNX graph: found, cut off, and put back with new weights.

It is the nearest Gemm or MatMul of K columns through which all that the output is made of comes:
what follows it may be a softmax, or a head that makes evidence of the logits, but takes nothing
else of the sample. Weights go back into the initialisers they came from; nothing else changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from ....models.errors import ModelError

_HINT = "the last layer must be a Gemm or a MatMul with its weights in the file"


class Head(NamedTuple):
    """The last layer: ``logits`` = ``features`` (B, F) @ weight (F, K) + bias (K,), by name.

    ``bias_name`` is None where it has none. ``is_last`` says that its logits are the output.
    """

    features: str
    logits: str
    weight_name: str
    bias_name: str | None
    is_transposed: bool
    is_last: bool
    weight: NDArray[np.float32]
    bias: NDArray[np.float32]

    def arrays(
        self, weight: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> dict[str, NDArray[np.float32]]:
        """Return new weights as the initialisers hold them."""
        found = {self.weight_name: weight.T if self.is_transposed else weight}
        return found if self.bias_name is None else {**found, self.bias_name: bias}


def read_model(data: bytes, *, where: str) -> onnx.ModelProto:
    """Return a graph that `models.onnx_graph` has found sound.

    Raises:
        ModelError: `onnx` cannot read it all the same.
    """
    try:
        return onnx.load_from_string(data)
    except Exception as error:  # protobuf's own, which share no base that is public
        raise ModelError(f"onnx cannot read it: {error}", where=where) from error


def find_head(model: onnx.ModelProto, *, output: str | None, classes: int, where: str) -> Head:
    """Return the last layer of a graph whose output (B, ``classes``) is ``output`` (None: first).

    Raises:
        ModelError: there is none, or its weights serve elsewhere, too.
    """
    graph = model.graph
    held = {one.name: one for one in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    target = output or graph.output[0].name
    queue, seen = [target], {target}
    while queue:
        name = queue.pop(0)
        node = makers.get(name)
        if node is None:
            continue
        head = _head(node, makers, held, classes=classes, name=name)
        if head is not None and not _reaches_input(model, target, without=name):
            _check_own(graph, head, where=where)
            return head._replace(is_last=name == target)
        for one in node.input:
            if one and one not in seen:
                seen.add(one)
                queue.append(one)
    raise ModelError(f"its last layer of {classes} classes is not found", where=where, hint=_HINT)


def with_features(model: onnx.ModelProto, head: Head) -> bytes:
    """Return the graph with the features (B, F) of its last layer as one output more."""
    wider = onnx.ModelProto()
    wider.CopyFrom(model)
    wider.graph.output.append(
        onnx.helper.make_tensor_value_info(
            head.features, onnx.TensorProto.FLOAT, ["B", len(head.weight)]
        )
    )
    data: bytes = wider.SerializeToString()
    return data


def with_weights(model: onnx.ModelProto, arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Return the graph with other numbers in the initialisers that ``arrays`` names."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    for tensor in changed.graph.initializer:
        if tensor.name in arrays:
            before = numpy_helper.to_array(tensor)
            after = np.ascontiguousarray(arrays[tensor.name], before.dtype)
            tensor.CopyFrom(numpy_helper.from_array(after.reshape(before.shape), tensor.name))
    data: bytes = changed.SerializeToString(deterministic=True)
    return data


def _head(
    node: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    held: Mapping[str, onnx.TensorProto],
    *,
    classes: int,
    name: str,
) -> Head | None:
    """Return the layer whose logits are ``name``, if ``node`` is one of ``classes`` columns."""
    found: Head | None = None
    if node.op_type == "Gemm":
        found = _gemm(node, held)
    elif node.op_type == "MatMul":
        found = _matmul(node, held)
    elif node.op_type == "Add":
        found = _matmul_and_bias(node, makers, held)
    if found is None or found.weight.shape[1] != classes or found.bias.shape != (classes,):
        return None
    return found._replace(logits=name)


def _gemm(node: onnx.NodeProto, held: Mapping[str, onnx.TensorProto]) -> Head | None:
    given = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
    plain = given.get("alpha", 1.0) == given.get("beta", 1.0) == 1.0 and not given.get("transA", 0)
    if not plain or any(name not in held for name in node.input[1:]):
        return None
    transposed = bool(given.get("transB", 0))
    weight = _floats(held[node.input[1]])
    if weight is None or weight.ndim != 2:
        return None
    weight = weight.T if transposed else weight
    return _made(
        node.input[0],
        weight,
        node.input[1],
        held,
        bias_name=node.input[2] if len(node.input) > 2 else None,
        transposed=transposed,
    )


def _matmul(node: onnx.NodeProto, held: Mapping[str, onnx.TensorProto]) -> Head | None:
    weight = _floats(held[node.input[1]]) if node.input[1] in held else None
    if weight is None or weight.ndim != 2:
        return None
    return _made(node.input[0], weight, node.input[1], held, bias_name=None, transposed=False)


def _matmul_and_bias(
    node: onnx.NodeProto,
    makers: Mapping[str, onnx.NodeProto],
    held: Mapping[str, onnx.TensorProto],
) -> Head | None:
    for product, bias in (tuple(node.input), tuple(reversed(node.input))):
        maker = makers.get(product)
        if maker is None or maker.op_type != "MatMul" or bias not in held:
            continue
        found = _matmul(maker, held)
        values = _floats(held[bias])
        if found is not None and values is not None and values.size == found.weight.shape[1]:
            return found._replace(bias_name=bias, bias=values.reshape(-1))
    return None


def _made(
    features: str,
    weight: NDArray[np.float32],
    weight_name: str,
    held: Mapping[str, onnx.TensorProto],
    *,
    bias_name: str | None,
    transposed: bool,
) -> Head:
    bias = None if bias_name is None else _floats(held[bias_name])
    if bias is None or bias.size != weight.shape[1]:
        bias, bias_name = np.zeros(weight.shape[1], np.float32), None
    return Head(
        features=features,
        logits="",
        weight_name=weight_name,
        bias_name=bias_name,
        is_transposed=transposed,
        is_last=False,
        weight=weight,
        bias=bias.reshape(-1),
    )


def _floats(tensor: onnx.TensorProto) -> NDArray[np.float32] | None:
    found = numpy_helper.to_array(tensor)
    return found.astype(np.float32) if found.dtype == np.float32 else None


def _reaches_input(model: onnx.ModelProto, target: str, *, without: str) -> bool:
    """Tell whether ``target`` takes anything of the sample but through ``without``."""
    graph = model.graph
    fed = {one.name for one in graph.input} - {one.name for one in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    queue, seen = [target], {target, without}
    if target == without:
        return False
    while queue:
        name = queue.pop()
        if name in fed:
            return True
        node = makers.get(name)
        for one in () if node is None else node.input:
            if one not in seen:
                seen.add(one)
                queue.append(one)
    return False


def _check_own(graph: onnx.GraphProto, head: Head, *, where: str) -> None:
    names = {head.weight_name, head.bias_name} - {None}
    uses = [name for node in graph.node for name in node.input if name in names]
    if len(uses) > len(names):
        raise ModelError(
            "the weights of its last layer serve elsewhere, too", where=where, hint=_HINT
        )
