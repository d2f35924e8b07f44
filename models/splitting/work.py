"""How much an operator has to do: multiplications with addition (MACs), from its shapes.

Counted are the operators that multiply by weights or by each other, which take nearly all of the
time of most nets; what only adds, compares or moves counts nothing. A loop or a branch counts
nothing either.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

Shape = tuple[int, ...]
_RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
_PRODUCTS = frozenset({"MatMul", "MatMulInteger", "QLinearMatMul", "Gemm"})
_CONVOLUTIONS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3}  # the weights' place


def macs(node: Any, shapes: Mapping[str, Shape]) -> int:  # noqa: ANN401  onnx's
    """Return the MACs of an ONNX operator for tensors of these shapes; 0 where one is unknown."""
    kind = node.op_type
    try:
        given = shapes[node.output[0]]
        if kind in _CONVOLUTIONS:
            weights = shapes[node.input[_CONVOLUTIONS[kind]]]
            return math.prod(given) * math.prod(weights[1:])
        if kind == "ConvTranspose":
            return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
        if kind in _PRODUCTS:
            first = shapes[node.input[0]]
            turned = kind == "Gemm" and any(a.name == "transA" and a.i for a in node.attribute)
            return math.prod(given) * (first[0] if turned else first[-1])
        if kind in _RECURRENT:
            steps = math.prod(shapes[node.input[0]][:2])
            return steps * sum(math.prod(shapes[name]) for name in node.input[1:3])
    except (KeyError, IndexError):
        return 0
    return 0
