"""What a device must know of a TFLite file before it trusts it, read without any library.

The file is a flatbuffer (TensorFlow Lite's schema.fbs, version 3). Only what matters for
safety and for the match with the manifest is decoded: the operators, which subgraphs they
call, where the tensors' data lies, inputs and outputs. Weights are skipped over. No offset
is followed before it is known to lie within the file, and however often a file points at
the same bytes, no more than `MAX_READ_BYTES` are read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Collection, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from .endings import Maker, ending
from .errors import ModelError
from .model import Quantisation, TensorSpec

IDENTIFIER = b"TFL3"
VERSION = 3
MAX_READ_BYTES = 1 << 22  # of tables, names and shapes; a table counts for 16 more
MAX_NAME_BYTES = 1 << 16
MAX_TENSOR_BYTES = 1 << 31
MAX_DEPTH = 64  # of subgraphs that call subgraphs
_TABLE_BYTES = 16

_Table = dict[str, Any]
_Slots = Mapping[int, tuple[str, str]]

# table -> slot -> (name, content). The content is a number, "str", "size" (of a blob, in
# bytes), "place" (of a table that is read later), another table, or a list: "[content]".
_TABLES: dict[str, _Slots] = {
    "model": {
        0: ("version", "uint32"),
        1: ("operator_codes", "[operator_code]"),
        2: ("subgraphs", "[subgraph]"),
        4: ("buffers", "[buffer]"),
        8: ("external_buffer_groups", "[any]"),
        9: ("external_buffers", "[any]"),
    },
    "operator_code": {
        0: ("old_code", "int8"),
        1: ("custom_code", "str"),
        3: ("code", "int32"),
    },
    "subgraph": {
        0: ("tensors", "[tensor]"),
        1: ("inputs", "[int32]"),
        2: ("outputs", "[int32]"),
        3: ("operators", "[operator]"),
    },
    "tensor": {
        0: ("shape", "[int32]"),
        1: ("type", "int8"),
        2: ("buffer", "uint32"),
        3: ("name", "str"),
        4: ("quantization", "place"),
        5: ("is_variable", "uint8"),
        6: ("sparsity", "any"),
        7: ("shape_signature", "[int32]"),
        10: ("external_buffer", "uint32"),
    },
    "quantization": {
        2: ("scale", "[float32]"),
        3: ("zero_point", "[int64]"),
        4: ("details_type", "uint8"),
    },
    "buffer": {0: ("data", "size"), 1: ("offset", "uint64"), 2: ("size", "uint64")},
    "operator": {
        0: ("opcode_index", "uint32"),
        1: ("inputs", "[int32]"),
        2: ("outputs", "[int32]"),
        4: ("options", "place"),
        8: ("intermediates", "[int32]"),
        12: ("options_2", "place"),
    },
    "any": {},
}
_NUMBERS = {
    "int8": "b",
    "uint8": "B",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
    "float32": "f",
}
_DTYPES = {
    0: "float32",
    1: "float16",
    2: "int32",
    3: "uint8",
    4: "int64",
    6: "bool",
    7: "int16",
    9: "int8",
    10: "float64",
    12: "uint64",
    15: "uint32",
    16: "uint16",
}
_OPERATORS = """
    ADD AVERAGE_POOL_2D CONCATENATION CONV_2D DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
    EMBEDDING_LOOKUP FLOOR FULLY_CONNECTED HASHTABLE_LOOKUP L2_NORMALIZATION L2_POOL_2D
    LOCAL_RESPONSE_NORMALIZATION LOGISTIC LSH_PROJECTION LSTM MAX_POOL_2D MUL RELU RELU_N1_TO_1
    RELU6 RESHAPE RESIZE_BILINEAR RNN SOFTMAX SPACE_TO_DEPTH SVDF TANH CONCAT_EMBEDDINGS
    SKIP_GRAM CALL CUSTOM EMBEDDING_LOOKUP_SPARSE PAD UNIDIRECTIONAL_SEQUENCE_RNN GATHER
    BATCH_TO_SPACE_ND SPACE_TO_BATCH_ND TRANSPOSE MEAN SUB DIV SQUEEZE
    UNIDIRECTIONAL_SEQUENCE_LSTM STRIDED_SLICE BIDIRECTIONAL_SEQUENCE_RNN EXP TOPK_V2 SPLIT
    LOG_SOFTMAX DELEGATE BIDIRECTIONAL_SEQUENCE_LSTM CAST PRELU MAXIMUM ARG_MAX MINIMUM LESS NEG
    PADV2 GREATER GREATER_EQUAL LESS_EQUAL SELECT SLICE SIN TRANSPOSE_CONV SPARSE_TO_DENSE TILE
    EXPAND_DIMS EQUAL NOT_EQUAL LOG SUM SQRT RSQRT SHAPE POW ARG_MIN FAKE_QUANT REDUCE_PROD
    REDUCE_MAX PACK LOGICAL_OR ONE_HOT LOGICAL_AND LOGICAL_NOT UNPACK REDUCE_MIN FLOOR_DIV
    REDUCE_ANY SQUARE ZEROS_LIKE FILL FLOOR_MOD RANGE RESIZE_NEAREST_NEIGHBOR LEAKY_RELU
    SQUARED_DIFFERENCE MIRROR_PAD ABS SPLIT_V UNIQUE CEIL REVERSE_V2 ADD_N GATHER_ND COS WHERE
    RANK ELU REVERSE_SEQUENCE MATRIX_DIAG QUANTIZE MATRIX_SET_DIAG ROUND HARD_SWISH IF WHILE
    NON_MAX_SUPPRESSION_V4 NON_MAX_SUPPRESSION_V5 SCATTER_ND SELECT_V2 DENSIFY SEGMENT_SUM
    BATCH_MATMUL PLACEHOLDER_FOR_GREATER_OP_CODES CUMSUM CALL_ONCE BROADCAST_TO RFFT2D CONV_3D
    IMAG REAL COMPLEX_ABS HASHTABLE HASHTABLE_FIND HASHTABLE_IMPORT HASHTABLE_SIZE REDUCE_ALL
    CONV_3D_TRANSPOSE VAR_HANDLE READ_VARIABLE ASSIGN_VARIABLE BROADCAST_ARGS
    RANDOM_STANDARD_NORMAL BUCKETIZE RANDOM_UNIFORM MULTINOMIAL GELU DYNAMIC_UPDATE_SLICE
    RELU_0_TO_1 UNSORTED_SEGMENT_PROD UNSORTED_SEGMENT_MAX UNSORTED_SEGMENT_SUM ATAN2
    UNSORTED_SEGMENT_MIN SIGN BITCAST BITWISE_XOR RIGHT_SHIFT STABLEHLO_LOGISTIC STABLEHLO_ADD
    STABLEHLO_DIVIDE STABLEHLO_MULTIPLY STABLEHLO_MAXIMUM STABLEHLO_RESHAPE STABLEHLO_CLAMP
    STABLEHLO_CONCATENATE STABLEHLO_BROADCAST_IN_DIM STABLEHLO_CONVOLUTION STABLEHLO_SLICE
    STABLEHLO_CUSTOM_CALL STABLEHLO_REDUCE STABLEHLO_ABS STABLEHLO_AND STABLEHLO_COSINE
    STABLEHLO_EXPONENTIAL STABLEHLO_FLOOR STABLEHLO_LOG STABLEHLO_MINIMUM STABLEHLO_NEGATE
    STABLEHLO_OR STABLEHLO_POWER STABLEHLO_REMAINDER STABLEHLO_RSQRT STABLEHLO_SELECT
    STABLEHLO_SUBTRACT STABLEHLO_TANH STABLEHLO_SCATTER STABLEHLO_COMPARE STABLEHLO_CONVERT
    STABLEHLO_DYNAMIC_SLICE STABLEHLO_DYNAMIC_UPDATE_SLICE STABLEHLO_PAD STABLEHLO_IOTA
    STABLEHLO_DOT_GENERAL STABLEHLO_REDUCE_WINDOW STABLEHLO_SORT STABLEHLO_WHILE
    STABLEHLO_GATHER STABLEHLO_TRANSPOSE DILATE STABLEHLO_RNG_BIT_GENERATOR REDUCE_WINDOW
    STABLEHLO_COMPOSITE STABLEHLO_SHIFT_LEFT STABLEHLO_CBRT STABLEHLO_CASE
"""  # by their numbers
_NAMES = tuple(_OPERATORS.split())
_CALLERS: dict[str, tuple[int, ...]] = {  # the slots of their options that name a subgraph
    "CALL": (0,),
    "IF": (0, 1),
    "WHILE": (0, 1),
    "CALL_ONCE": (0,),
    "STABLEHLO_REDUCE": (1,),
    "STABLEHLO_SCATTER": (6,),
    "STABLEHLO_REDUCE_WINDOW": (5,),
    "STABLEHLO_SORT": (2,),
    "STABLEHLO_WHILE": (0, 1),
    "STABLEHLO_COMPOSITE": (1,),
}
_REFUSED = frozenset(
    {
        "CUSTOM",
        "DELEGATE",
        "PLACEHOLDER_FOR_GREATER_OP_CODES",
        "STABLEHLO_CASE",
        "STABLEHLO_CUSTOM_CALL",
    }
)


class TfliteInfo(NamedTuple):
    """What a TFLite file holds.

    ``inputs``, ``outputs`` and ``endings`` (of each output, see `endings.ending`) are those
    of the first subgraph, ``operators`` the names (of schema.fbs) of all that the file lists.
    ``stateful`` says that some tensors keep their values from one call to the next.
    """

    version: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    endings: tuple[tuple[str, ...], ...]
    operators: frozenset[str]
    stateful: bool


def check_tflite(data: bytes, *, where: str) -> TfliteInfo:
    """Read a TFLite file and refuse what no bundle may hold.

    Refused are custom operators (those of the Flex delegate are such), data outside the
    file, sparse tensors, tensors of more than `MAX_TENSOR_BYTES`, subgraphs that call
    themselves, and inputs and outputs that are no dense tensors of numbers with at most
    one scale.

    Raises:
        ModelError: the graph is refused or unreadable; then the message says at which byte.
    """
    if data[4:8] != IDENTIFIER:
        what = "is empty" if not data else f"no TFLite file: it lacks the mark {IDENTIFIER!r}"
        raise ModelError(what, where=where)
    reader = _Reader(data, where=where)
    model = reader.root("model")
    if model.get("version") != VERSION:
        raise ModelError(f"version {model.get('version')}, supported is {VERSION}", where=where)
    subgraphs = _many(model, "subgraphs")
    if not subgraphs:
        raise ModelError("not a readable TFLite graph: it has no subgraph", where=where)
    names = _operators(model, where=where)
    _check_data(model, size_bytes=len(data), where=where)
    for subgraph in subgraphs:
        _check_subgraph(subgraph, model, names, where=where)
    _check_calls([_calls(one, names, reader) for one in subgraphs], where=where)
    main = subgraphs[0]
    return TfliteInfo(
        version=VERSION,
        inputs=tuple(_spec(main, at, reader, where=where) for at in _many(main, "inputs")),
        outputs=tuple(_spec(main, at, reader, where=where) for at in _many(main, "outputs")),
        endings=_endings(main, names),
        operators=frozenset(names),
        stateful=any(
            tensor.get("is_variable", 0) for one in subgraphs for tensor in _many(one, "tensors")
        ),
    )


def _operators(model: _Table, *, where: str) -> list[str]:
    """Return the names of the operators that the file lists, in its order."""
    names = []
    for one in _many(model, "operator_codes"):
        code = max(one.get("old_code", 0), one.get("code", 0))  # one byte was not enough
        if not 0 <= code < len(_NAMES):
            raise ModelError(
                f"operator {code} is unknown",
                where=where,
                hint="convert with an older version, or update hedge",
            )
        name = _NAMES[code]
        if name in _REFUSED:
            custom = one.get("custom_code", name)
            flex = custom.startswith("Flex")
            raise ModelError(
                f"custom operator {custom!r}",
                where=where,
                hint="convert without TensorFlow operators (SELECT_TF_OPS)"
                if flex
                else "only TFLite's own operators are run",
            )
        names.append(name)
    return names


def _check_data(model: _Table, *, size_bytes: int, where: str) -> None:
    """Refuse weights that lie elsewhere; large files have them behind the flatbuffer."""
    outside = any(
        buffer.get("offset", 0) > 1 and buffer["offset"] + buffer.get("size", 0) > size_bytes
        for buffer in _many(model, "buffers")
    )
    if outside or _many(model, "external_buffers") or _many(model, "external_buffer_groups"):
        raise ModelError(
            "has data outside the file",
            where=where,
            hint="it is cut short, or save it with its weights inside",
        )


def _check_subgraph(subgraph: _Table, model: _Table, names: Sequence[str], *, where: str) -> None:
    tensors, operators = _many(subgraph, "tensors"), _many(subgraph, "operators")
    buffers = _many(model, "buffers")
    for tensor in tensors:
        _check_tensor(tensor, buffers=len(buffers), where=where)
    kinds = ("inputs", "outputs", "intermediates")
    indices = [at for one in (subgraph, *operators) for kind in kinds for at in _many(one, kind)]
    if any(not -1 <= at < len(tensors) for at in indices):  # -1 stands for an optional input
        raise ModelError("not a readable TFLite graph: no such tensor", where=where)
    if any(one.get("opcode_index", 0) >= len(names) for one in operators):
        raise ModelError("not a readable TFLite graph: no such operator", where=where)
    _check_order(subgraph, buffers, where=where)


def _check_order(subgraph: _Table, buffers: Sequence[_Table], *, where: str) -> None:
    """Refuse tensors that are read before anything wrote them: the library does not look."""
    tensors = _many(subgraph, "tensors")
    there = {-1, *_many(subgraph, "inputs")}
    there |= {at for at, tensor in enumerate(tensors) if _is_given(tensor, buffers)}
    steps = [(_many(one, "inputs"), _many(one, "outputs")) for one in _many(subgraph, "operators")]
    for fed, made in (*steps, (_many(subgraph, "outputs"), ())):
        for at in fed:
            if at not in there:
                name = tensors[at].get("name", "")
                raise ModelError(f"tensor {name!r} is used before it is made", where=where)
        there |= set(made)


def _is_given(tensor: _Table, buffers: Sequence[_Table]) -> bool:
    """Tell whether a tensor has values before the first operator: a constant, or a state."""
    place = tensor.get("buffer", 0)
    buffer = buffers[place] if place < len(buffers) else {}
    has_data = buffer.get("data", 0) > 0 or buffer.get("offset", 0) > 1
    return has_data or bool(tensor.get("is_variable", 0)) or 0 in _many(tensor, "shape")


def _check_tensor(tensor: _Table, *, buffers: int, where: str) -> None:
    name, shape = tensor.get("name", ""), _many(tensor, "shape")
    if tensor.get("buffer", 0) >= max(buffers, 1):
        raise ModelError(f"tensor {name!r} has no such buffer", where=where)
    if tensor.get("external_buffer", 0):
        raise ModelError(f"tensor {name!r} has its data outside the file", where=where)
    if "sparsity" in tensor:
        raise ModelError("sparse tensors are not supported", where=where)
    itemsize = np.dtype(_DTYPES.get(tensor.get("type", 0), "int8")).itemsize
    if min(shape, default=0) < 0 or math.prod(shape) * itemsize > MAX_TENSOR_BYTES:
        raise ModelError(
            f"tensor {name!r} claims the shape {_shape_text(shape)}",
            where=where,
            hint=f"a tensor has at most {MAX_TENSOR_BYTES >> 30} GiB",
        )


def _calls(subgraph: _Table, names: Sequence[str], reader: _Reader) -> set[int]:
    """Return the subgraphs that a subgraph's operators call; what is not said is 0."""
    called = set()
    for one in _many(subgraph, "operators"):
        slots = _CALLERS.get(names[one.get("opcode_index", 0)], ())
        at = one.get("options", one.get("options_2"))
        wanted = {slot: (str(slot), "uint32") for slot in slots}
        options = {} if at is None or not slots else reader.table(wanted, at)
        called |= {options.get(str(slot), 0) for slot in slots}
    return called


def _check_calls(calls: Sequence[Collection[int]], *, where: str) -> None:
    """Refuse subgraphs that could call themselves, or each other without an end in sight."""
    missing = {at for called in calls for at in called if at >= len(calls)}
    if missing:
        raise ModelError(f"calls subgraph {min(missing)} of {len(calls)}", where=where)
    left = {place: set(called) for place, called in enumerate(calls)}
    for _ in range(MAX_DEPTH):
        left = {at: called for at, called in left.items() if not called.isdisjoint(left)}
    if left:
        raise ModelError(
            f"subgraph {min(left)} calls itself, or goes deeper than {MAX_DEPTH}", where=where
        )


def _spec(subgraph: _Table, at: int, reader: _Reader, *, where: str) -> TensorSpec:
    if at < 0:
        raise ModelError("not a readable TFLite graph: no such tensor", where=where)
    tensor = _many(subgraph, "tensors")[at]
    name, type_ = tensor.get("name", ""), tensor.get("type", 0)
    if type_ not in _DTYPES:
        raise ModelError(f"{name!r} has the unsupported element type {type_}", where=where)
    dtype = np.dtype(_DTYPES[type_])
    shape, signature = _many(tensor, "shape"), _many(tensor, "shape_signature")
    free = [extent == -1 for extent in signature]
    if len(free) != len(shape):
        free = [False] * len(shape)
    return TensorSpec(
        name=name,
        dtype=dtype,
        shape=tuple(None if any_ else extent for extent, any_ in zip(shape, free, strict=True)),
        quantisation=_quantisation(tensor, dtype, reader, where=where),
    )


def _quantisation(
    tensor: _Table, dtype: np.dtype[Any], reader: _Reader, *, where: str
) -> Quantisation | None:
    """Return the scale of an input or output, None if it has none or is not of integers."""
    at = tensor.get("quantization")
    if dtype.kind not in "iu" or at is None:
        return None
    given = reader.table(_TABLES["quantization"], at)
    scales, zero_points = _many(given, "scale"), _many(given, "zero_point")
    if not any(scales):
        return None
    name = tensor.get("name", "")
    if len(scales) != 1 or len(zero_points) > 1 or given.get("details_type", 0):
        raise ModelError(f"{name!r} has more than one scale", where=where)
    scale, zero_point = scales[0], zero_points[0] if zero_points else 0
    limits = np.iinfo(dtype)
    if not (math.isfinite(scale) and scale > 0 and limits.min <= zero_point <= limits.max):
        raise ModelError(
            f"{name!r} has the scale {scale} and the zero point {zero_point}", where=where
        )
    return Quantisation(scale, zero_point)


def _endings(subgraph: _Table, names: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    makers: dict[Hashable, Maker] = {}
    for one in _many(subgraph, "operators"):
        source = next(iter(_many(one, "inputs")), None)
        maker = Maker(names[one.get("opcode_index", 0)], source)
        makers |= dict.fromkeys(_many(one, "outputs"), maker)
    return tuple(ending(at, makers) for at in _many(subgraph, "outputs"))


def _many(table: _Table, name: str) -> Any:  # noqa: ANN401  tables or numbers
    return table.get(name, ())


def _shape_text(shape: Sequence[int]) -> str:
    return f"({', '.join(str(extent) for extent in shape[:8])}{', …' if len(shape) > 8 else ''})"


class _Reader:
    """Decodes a flatbuffer by `_TABLES`, within bounds."""

    def __init__(self, data: bytes, *, where: str) -> None:
        self._data = data
        self._where = where
        self._left_bytes = MAX_READ_BYTES

    def root(self, kind: str) -> _Table:
        """Decode the table that the file begins with."""
        return self.table(_TABLES[kind], self._follow(0))

    def table(self, slots: _Slots, at: int) -> _Table:
        """Decode the table at byte ``at``: those of ``slots`` that it has."""
        self._spend(_TABLE_BYTES)
        vtable = at - self._number("i", at)
        size_bytes, inline_bytes = self._number("H", vtable), self._number("H", vtable + 2)
        offsets = self._numbers("H", vtable + 4, max(0, size_bytes - 4) // 2)
        found = {}
        for slot, (name, content) in slots.items():
            if slot < len(offsets) and offsets[slot]:
                if not 4 <= offsets[slot] < inline_bytes:
                    raise self._error(f"{name} lies outside its table", at)
                found[name] = self._content(content, at + offsets[slot])
        return found

    def _content(self, content: str, at: int) -> Any:  # noqa: ANN401  by the schema
        if content in _NUMBERS:
            return self._number(_NUMBERS[content], at)
        target = self._follow(at)
        if content == "place":
            return target
        if content in _TABLES:
            return self.table(_TABLES[content], target)
        return self._items(content.strip("[]"), target)

    def _items(self, item: str, at: int) -> Any:  # noqa: ANN401  by the schema
        count, begin = self._number("I", at), at + 4
        if item == "size":
            self._require(begin, count)
            return count
        if item == "str":
            return self._text(begin, count)
        if item in _NUMBERS:
            return self._numbers(_NUMBERS[item], begin, count)
        self._require(begin, 4 * count)
        places = range(begin, begin + 4 * count, 4)
        return [self.table(_TABLES[item], self._follow(place)) for place in places]

    def _follow(self, at: int) -> int:
        target: int = at + self._number("I", at)
        if target == at:
            raise self._error("an offset of 0", at)
        return target

    def _text(self, begin: int, length: int) -> str:
        if length > MAX_NAME_BYTES:
            raise self._error(f"a name of {length} bytes", begin)
        self._require(begin, length)
        self._spend(length)
        try:
            return self._data[begin : begin + length].decode()
        except UnicodeDecodeError as error:
            raise self._error("a name is not UTF-8", begin) from error

    def _number(self, code: str, at: int) -> Any:  # noqa: ANN401  int, or float for "f"
        return self._numbers(code, at, 1)[0]

    def _numbers(self, code: str, at: int, count: int) -> tuple[Any, ...]:
        width = struct.calcsize(f"<{code}")
        self._require(at, count * width)
        self._spend(count * width)
        return struct.unpack_from(f"<{count}{code}", self._data, at)

    def _spend(self, size_bytes: int) -> None:
        self._left_bytes -= size_bytes
        if self._left_bytes < 0:
            raise ModelError(
                f"has more than {MAX_READ_BYTES >> 20} MiB of tables", where=self._where
            )

    def _require(self, begin: int, size_bytes: int) -> None:
        if begin < 0 or begin + size_bytes > len(self._data):
            raise self._error("cut short, or an offset that leads out of it", begin)

    def _error(self, what: str, at: int) -> ModelError:
        return ModelError(f"not a readable TFLite graph: {what}, at byte {at}", where=self._where)
