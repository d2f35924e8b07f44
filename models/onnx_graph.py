"""What a device must know of an ONNX file before it trusts it, read without any library.

The file is protobuf (onnx.proto, IR 10). Only what matters for safety and for the match
with the manifest is decoded: versions, operators (of subgraphs and local functions too),
tensors whose data lies outside, inputs and outputs. Weights are skipped over. Where
protobuf would merge, truncate or forget, this reader refuses, so that no parser behind it
can see another graph than this one saw.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Any, NamedTuple

import numpy as np

from .endings import Maker, ending
from .errors import ModelError
from .model import TensorSpec

MAX_IR = 10
MAX_OPSET = 21
MAX_DEPTH = 64
MAX_FIELDS = 1_000_000
DOMAINS = frozenset({"", "ai.onnx.ml"})
_RESERVED = ("ai.onnx", "com.microsoft")  # no local function may pass for a runtime's own

# message -> field number -> (name, content, whether it may come more than once)
_MESSAGES: dict[str, dict[int, tuple[str, str, bool]]] = {
    "model": {
        1: ("ir_version", "int", False),
        7: ("graph", "graph", False),
        8: ("opset_import", "opset", True),
        20: ("training_info", "skip", True),
        25: ("functions", "function", True),
    },
    "opset": {1: ("domain", "str", False), 2: ("version", "int", False)},
    "function": {
        1: ("name", "str", False),
        7: ("node", "node", True),
        9: ("opset_import", "opset", True),
        10: ("domain", "str", False),
        11: ("attribute_proto", "attribute", True),
    },
    "graph": {
        1: ("node", "node", True),
        5: ("initializer", "tensor", True),
        11: ("input", "value", True),
        12: ("output", "value", True),
        15: ("sparse_initializer", "sparse", True),
    },
    "node": {
        1: ("input", "str", True),
        2: ("output", "str", True),
        4: ("op_type", "str", False),
        5: ("attribute", "attribute", True),
        7: ("domain", "str", False),
    },
    "attribute": {
        5: ("t", "tensor", False),
        6: ("g", "graph", False),
        10: ("tensors", "tensor", True),
        11: ("graphs", "graph", True),
        22: ("sparse_tensor", "sparse", False),
        23: ("sparse_tensors", "sparse", True),
    },
    "tensor": {
        8: ("name", "str", False),
        13: ("external_data", "skip", True),
        14: ("data_location", "int", False),
    },
    "sparse": {},
    "skip": {},
    "value": {1: ("name", "str", False), 2: ("type", "type", False)},
    "type": {
        1: ("tensor_type", "tensor_type", False),
        4: ("sequence_type", "skip", False),
        5: ("map_type", "skip", False),
        8: ("sparse_tensor_type", "skip", False),
        9: ("optional_type", "skip", False),
    },
    "tensor_type": {1: ("elem_type", "int", False), 2: ("shape", "shape", False)},
    "shape": {1: ("dim", "dim", True)},
    "dim": {1: ("dim_value", "int", False), 2: ("dim_param", "str", False)},
}
_DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
}


class GraphInfo(NamedTuple):
    """What an ONNX file holds, subgraphs and local functions included.

    ``opsets`` are (domain, version), ``operators`` and ``functions`` (domain, name), the
    domain "ai.onnx" written as "". ``external`` names the tensors whose data lies outside.
    ``endings`` are how each output comes about (see `endings.ending`).
    """

    ir_version: int
    opsets: frozenset[tuple[str, int]]
    operators: frozenset[tuple[str, str]]
    functions: frozenset[tuple[str, str]]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    endings: tuple[tuple[str, ...], ...]
    external: tuple[str, ...]
    sparse: bool
    training: bool


class _Message(NamedTuple):
    kind: str
    fields: dict[str, list[Any]]

    def one(self, name: str, default: Any) -> Any:  # noqa: ANN401  int, str or message
        values = self.fields.get(name)
        return values[0] if values else default

    def many(self, name: str) -> list[Any]:
        return self.fields.get(name, [])

    def domain(self) -> str:
        domain: str = self.one("domain", "")
        return "" if domain == "ai.onnx" else domain

    def walk(self) -> Iterator[_Message]:
        yield self
        for values in self.fields.values():
            for value in values:
                if isinstance(value, _Message):
                    yield from value.walk()


def check_graph(data: bytes, *, where: str) -> GraphInfo:
    """Read an ONNX file and refuse what no bundle may hold.

    Refused are operators outside `DOMAINS` that are no local functions of standard ones,
    data outside the file, sparse tensors, training graphs, and versions that the oldest
    supported runtime does not know.

    Raises:
        ModelError: the graph is refused or unreadable.
    """
    info = read_graph(data, where=where)
    _check_versions(info, where=where)
    _check_operators(info, where=where)
    if info.external:
        raise ModelError(
            f"tensor {info.external[0]!r} has its data outside the file",
            where=where,
            hint="save the model with its weights inside",
        )
    if info.sparse:
        raise ModelError("sparse tensors are not supported", where=where)
    if info.training:
        raise ModelError("carries a training graph", where=where, hint="export for inference")
    return info


def read_graph(data: bytes, *, where: str) -> GraphInfo:
    """Read an ONNX file as it is; see `check_graph`.

    Raises:
        ModelError: not a readable ONNX graph; the message says at which byte.
    """
    if data[4:8] == b"ORTM":  # also valid protobuf if its first bytes are chosen well
        raise ModelError("an ORT flatbuffer, not ONNX", where=where)
    if not data:
        raise ModelError("is empty", where=where)
    model = _Reader(data, where=where).message("model", 0, len(data), depth=0)
    graph = model.one("graph", None)
    if graph is None:
        raise ModelError("not a readable ONNX graph: it has no graph", where=where)
    parts = list(model.walk())
    return GraphInfo(
        ir_version=model.one("ir_version", 0),
        opsets=frozenset((p.domain(), p.one("version", 0)) for p in parts if p.kind == "opset"),
        operators=frozenset((p.domain(), p.one("op_type", "")) for p in parts if p.kind == "node"),
        functions=frozenset((p.domain(), p.one("name", "")) for p in model.many("functions")),
        inputs=_inputs(graph, where=where),
        outputs=tuple(_spec(value, where=where) for value in graph.many("output")),
        endings=_endings(graph),
        external=tuple(p.one("name", "") for p in parts if _is_external(p)),
        sparse=any(p.kind == "sparse" for p in parts),
        training="training_info" in model.fields,
    )


def _check_versions(info: GraphInfo, *, where: str) -> None:
    if not 3 <= info.ir_version <= MAX_IR:
        raise ModelError(
            f"IR version {info.ir_version}, supported are 3 to {MAX_IR}",
            where=where,
            hint="set model.ir_version on export",
        )
    standard = {version for domain, version in info.opsets if domain == ""}
    wrong = [version for version in standard if not 1 <= version <= MAX_OPSET]
    if wrong or not standard:
        found = wrong[0] if wrong else "missing"
        raise ModelError(
            f"opset {found}, supported are 1 to {MAX_OPSET}",
            where=where,
            hint="export with an older opset",
        )


def _check_operators(info: GraphInfo, *, where: str) -> None:
    for domain, name in sorted(info.functions):
        if domain in DOMAINS or domain.startswith(_RESERVED):
            raise ModelError(f"local function {name!r} in domain {domain!r}", where=where)
    for domain, name in sorted(info.operators - info.functions):
        if domain not in DOMAINS:
            raise ModelError(
                f"custom operator {name!r} of domain {domain!r}",
                where=where,
                hint="only standard ONNX operators are run",
            )


def _is_external(part: _Message) -> bool:
    # Any location but 0 counts: protobuf cuts enums to 32 bits, so 2**32 + 1 is EXTERNAL.
    return part.kind == "tensor" and (
        "external_data" in part.fields or part.one("data_location", 0) != 0
    )


def _inputs(graph: _Message, *, where: str) -> tuple[TensorSpec, ...]:
    """Return what must be fed: before IR 4 initialisers were listed as inputs too."""
    given = {tensor.one("name", "") for tensor in graph.many("initializer")}
    fed = (value for value in graph.many("input") if value.one("name", "") not in given)
    return tuple(_spec(value, where=where) for value in fed)


def _spec(value: _Message, *, where: str) -> TensorSpec:
    name = value.one("name", "")
    kind = value.one("type", None)
    if kind is None or list(kind.fields) != ["tensor_type"]:
        raise ModelError(f"{name!r} is no dense tensor", where=where)
    tensor = kind.one("tensor_type", None)
    elem_type, shape = tensor.one("elem_type", 0), tensor.one("shape", None)
    if elem_type not in _DTYPES:
        raise ModelError(f"{name!r} has the unsupported element type {elem_type}", where=where)
    if shape is None:
        raise ModelError(f"{name!r} declares no shape", where=where)
    extents = tuple(_extent(dim) for dim in shape.many("dim"))
    return TensorSpec(name=name, dtype=np.dtype(_DTYPES[elem_type]), shape=extents)


def _endings(graph: _Message) -> tuple[tuple[str, ...], ...]:
    makers: dict[Hashable, Maker] = {}
    for node in graph.many("node"):
        maker = Maker(node.one("op_type", ""), next(iter(node.many("input")), None))
        makers |= dict.fromkeys(node.many("output"), maker)
    return tuple(ending(value.one("name", ""), makers) for value in graph.many("output"))


def _extent(dim: _Message) -> int | None:
    if list(dim.fields) != ["dim_value"]:
        return None
    value: int = dim.one("dim_value", 0)
    return value if value >= 0 else None  # some exporters write -1 for "any"


class _Reader:
    """Decodes protobuf's wire format by `_MESSAGES`, within bounds."""

    def __init__(self, data: bytes, *, where: str) -> None:
        self._data = data
        self._where = where
        self._fields_left = MAX_FIELDS

    def message(self, kind: str, start: int, end: int, *, depth: int) -> _Message:
        """Decode the message of ``kind`` that fills the bytes ``start`` to ``end``."""
        if depth > MAX_DEPTH:
            raise self._error("nested too deeply", start)
        known = _MESSAGES[kind]
        found: dict[str, list[Any]] = {}
        at = start
        while at < end:
            field_at = at
            number, wire, at = self._tag(at, end)
            begin, at = self._skip(wire, at, end)
            if number not in known:
                continue
            name, content, repeats = known[number]
            if name in found and not repeats:
                raise self._error(f"{kind}.{name} comes twice", field_at)
            if wire != (0 if content == "int" else 2):
                raise self._error(f"{kind}.{name} has wire type {wire}", field_at)
            found.setdefault(name, []).append(self._content(content, begin, at, depth=depth))
        return _Message(kind, found)

    def _content(self, content: str, begin: int, end: int, *, depth: int) -> int | str | _Message:
        match content:
            case "int":
                value, _ = self._varint(begin, end)
                return value - (1 << 64) if value >> 63 else value
            case "str":
                try:
                    return self._data[begin:end].decode()
                except UnicodeDecodeError as error:
                    raise self._error("a name is not UTF-8", begin) from error
            case _:
                return self.message(content, begin, end, depth=depth + 1)

    def _tag(self, at: int, end: int) -> tuple[int, int, int]:
        self._fields_left -= 1
        if self._fields_left < 0:
            raise self._error("more fields than a model has", at)
        tag, after = self._varint(at, end)
        if tag < 8 or tag >> 32:
            raise self._error("no such field", at)
        return tag >> 3, tag & 7, after

    def _skip(self, wire: int, at: int, end: int) -> tuple[int, int]:
        """Return where the content of a field begins and ends."""
        match wire:
            case 0:
                begin, after = at, self._varint(at, end)[1]
            case 1:
                begin, after = at, at + 8
            case 2:
                length, begin = self._varint(at, end)
                after = begin + length
            case 5:
                begin, after = at, at + 4
            case _:
                raise self._error(f"wire type {wire}", at)
        if after > end:
            raise self._error("cut short", at)
        return begin, after

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for place in range(10):
            if at + place >= end:
                raise self._error("cut short", at)
            byte = self._data[at + place]
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                return value & ((1 << 64) - 1), at + place + 1
        raise self._error("a number of more than ten bytes", at)

    def _error(self, what: str, at: int) -> ModelError:
        return ModelError(f"not a readable ONNX graph: {what}, at byte {at}", where=self._where)
