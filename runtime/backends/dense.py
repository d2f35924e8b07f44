"""Small dense nets in plain numpy: for these a library's call alone costs more than the sums.

An ONNX graph that is nothing but dense layers and ReLUs, with constants added and multiplied
between, is folded into one matrix a layer. Of relu(x A + c) = max(x A, -c) + c the last term goes
into the next layer, so that each takes two calls: a product and a maximum.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ModelError
from ...models.graph import fits, model_spec, wrong_input
from ...models.model import ModelSpec

_MOST = 1 << 16  # products; of more, the library is as fast
_VARINT, _WIDE, _BYTES, _NARROW = 0, 1, 2, 5
_FLOAT = 1

_Weights = NDArray[np.float64]


class Layer(NamedTuple):
    """x A, and, where ``floor`` is not None, no less than that: (n, m) and (1, m)."""

    weights: NDArray[np.float32]
    floor: NDArray[np.float32]


class Chain(NamedTuple):
    """A folded net: hidden layers, and the last with its bias, (n, K) and (1, K)."""

    hidden: tuple[Layer, ...]
    last: NDArray[np.float32]
    bias: NDArray[np.float32]


class DenseModel:
    """A folded net behind the `Model` protocol; one thread at a time."""

    runs_on = f"numpy {np.__version__}"

    def __init__(self, chain: Chain, spec: ModelSpec, *, where: str) -> None:
        self.spec: ModelSpec = spec
        self._where = where
        self._last, self._bias = chain.last, chain.bias
        self._hidden = chain.hidden
        self._buffered = tuple(
            (one.weights, one.floor, np.empty_like(one.floor)) for one in chain.hidden
        )
        first = chain.hidden[0].weights
        self._width = len(first)
        self._single_shape = (1, self._width)

    def infer(self, batch: NDArray[Any]) -> NDArray[np.floating[Any]]:
        """Run ``batch`` (B, *input shape); return the output (B, K), NaN and all."""
        if batch.shape != self._single_shape or batch.dtype != np.float32:
            return self._several(batch)
        x = batch
        for weights, floor, buffer in self._buffered:
            np.dot(x, weights, buffer)
            np.maximum(buffer, floor, out=buffer)
            x = buffer
        found: NDArray[np.float32] = np.dot(x, self._last) + self._bias
        return found

    def reset(self) -> None:
        """Do nothing: it keeps nothing of a sample."""

    def close(self) -> None:
        """Free the weights."""
        self._hidden = self._buffered = ()
        self._single_shape = (0, 0)
        self._several = self._refuse  # type: ignore[method-assign]  # as the other backends

    def _several(self, batch: NDArray[Any]) -> NDArray[np.floating[Any]]:
        if not fits(batch, self.spec.inputs[0]):
            raise wrong_input(batch, self.spec.inputs[0], where=self._where)
        x = np.ascontiguousarray(batch).reshape(len(batch), self._width)
        for layer in self._hidden:
            x = np.maximum(x @ layer.weights, layer.floor)
        found: NDArray[np.float32] = x @ self._last + self._bias
        return found

    def _refuse(self, batch: NDArray[Any]) -> NoReturn:  # noqa: ARG002  stands in for the way above
        raise ModelError("is closed", where=self._where)


def dense_model(data: bytes, *, where: str) -> DenseModel | None:
    """Return the net in an ONNX file as a `DenseModel`; None: it is no small dense one.

    Raises:
        ModelError: the file may not run (see `onnx_graph.check_graph`).
    """
    spec = model_spec(data, format="onnx", where=where)
    if spec.inputs[0].dtype != np.float32 or None in spec.inputs[0].shape[1:]:
        return None
    chain = _chain(data, is_flat=len(spec.inputs[0].shape) == 2)
    return None if chain is None else DenseModel(chain, spec, where=where)


class _Node(NamedTuple):
    operator: str
    inputs: tuple[str, ...]
    output: str
    numbers: dict[str, float]


class _Affine:
    """x A + c, as far as the walk along the graph has come; A is None where it is nothing yet."""

    def __init__(self, offset: _Weights | None = None) -> None:
        self.weights: _Weights | None = None
        self.factor: _Weights | None = None
        self.offset: _Weights | float = 0.0 if offset is None else offset

    def times(self, weights: _Weights) -> None:
        """Go through a layer."""
        scaled = weights if self.factor is None else self.factor.reshape(-1, 1) * weights
        self.weights = scaled if self.weights is None else self.weights @ weights
        self.factor = None
        self.offset = np.broadcast_to(self.offset, (1, len(weights))) @ weights

    def scaled(self, factor: _Weights) -> None:
        """Go through a product with a constant (1, n)."""
        if self.weights is None:
            self.factor = factor if self.factor is None else self.factor * factor
        else:
            self.weights = self.weights * factor
        self.offset = self.offset * factor


def _chain(data: bytes, *, is_flat: bool) -> Chain | None:
    """Return the net of a graph that has been checked, if it is a small dense one."""
    graph = _only(data, 7)
    constants = dict(_constant(one) for one in _all(graph, 5))
    nodes = [_node(one) for one in _all(graph, 1)]
    at, state = _name(_all(graph, 11)[0]), _Affine()
    hidden: list[tuple[_Weights, _Weights]] = []
    for node in nodes:
        if not node.inputs or node.inputs[0] != at:
            return None
        given = [constants.get(name) for name in node.inputs[1:]]
        is_flat |= node.operator == "Flatten" and node.numbers.get("axis", 1) == 1
        if any(one is None for one in given) or (node.operator != "Cast" and not is_flat):
            return None
        if node.operator == "Relu" and state.weights is not None:
            offset = np.broadcast_to(state.offset, (1, state.weights.shape[1]))
            hidden.append((state.weights, -offset))
            state = _Affine(offset)
        elif not _step(state, node, [one for one in given if one is not None]):
            return None
        at = node.output
    if state.weights is None or not hidden or at != _name(_all(graph, 12)[0]):
        return None
    if sum(weights.size for weights, _ in hidden) + state.weights.size > _MOST:
        return None
    return Chain(
        tuple(Layer(_single(weights), _single(floor)) for weights, floor in hidden),
        _single(state.weights),
        _single(np.reshape(state.offset, (1, -1))),
    )


def _step(state: _Affine, node: _Node, given: list[_Weights]) -> bool:
    """Go through a node that is no ReLU; False: it is none that can be folded."""
    flat = all(one.ndim < 2 or (one.ndim == 2 and len(one) == 1) for one in given)
    match node.operator:
        case "Flatten" | "Cast" | "Identity":
            return node.numbers in ({"axis": 1}, {"to": _FLOAT}, {})
        case "Sub" | "Add" if len(given) == 1 and flat:
            sign = -1.0 if node.operator == "Sub" else 1.0
            state.offset = state.offset + sign * given[0].reshape(1, -1)
            return True
        case "Mul" if len(given) == 1 and flat:
            state.scaled(given[0].reshape(1, -1))
            return True
        case "Gemm" if given and given[0].ndim == 2 and _is_plain(node):
            state.times(given[0].T if node.numbers.get("transB") else given[0])
            if len(given) > 1:
                state.offset = state.offset + given[1].reshape(1, -1)
            return True
    return False


def _is_plain(node: _Node) -> bool:
    numbers = node.numbers
    return (numbers.get("alpha", 1.0), numbers.get("beta", 1.0), numbers.get("transA", 0)) == (
        1.0,
        1.0,
        0,
    )


def _single(values: _Weights) -> NDArray[np.float32]:
    return np.ascontiguousarray(values, np.float32)


def _node(data: bytes) -> _Node:
    inputs = tuple(one.decode() for one in _all(data, 1))
    numbers = {}
    for attribute in _all(data, 5):
        fields = dict(_fields(attribute))
        number = fields.get(3, fields.get(2, 0))
        if isinstance(number, bytes):
            number = float(np.frombuffer(number, "<f4")[0])
        numbers[fields[1].decode()] = float(number)
    return _Node(_only(data, 4).decode(), inputs, _all(data, 2)[0].decode(), numbers)


def _constant(data: bytes) -> tuple[str, _Weights | None]:
    """Return an initialiser's name and values; None: they are no floats, or stand otherwise."""
    shape, kind, name, raw = [], 0, "", None
    for number, value in _fields(data):
        if number == 1 and isinstance(value, int):
            shape.append(value)
        elif number == 2:
            kind = value
        elif number == 8:
            name = value.decode()
        elif number == 9:
            raw = value
    if kind != _FLOAT or raw is None or len(raw) != 4 * int(np.prod(shape)):
        return name, None
    return name, np.frombuffer(raw, "<f4").reshape(shape).astype(np.float64)


def _name(data: bytes) -> str:
    return _only(data, 1).decode()


def _only(data: bytes, number: int) -> bytes:
    return _all(data, number)[0]


def _all(data: bytes, number: int) -> list[bytes]:
    return [value for found, value in _fields(data) if found == number]


def _fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a protobuf message that has been found sound."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == _VARINT:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        size = {_WIDE: 8, _NARROW: 4}.get(kind)
        if size is None:
            size, at = _varint(data, at)
        yield key >> 3, data[at : at + size]
        at += size


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
