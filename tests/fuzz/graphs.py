"""Model files in small: a TFLite flatbuffer, written without any library."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import NamedTuple, TypeAlias


class Numbers(NamedTuple):
    """A number, or a vector of them, by the letter that `struct` has for them."""

    code: str
    values: Sequence[float] | float


Value: TypeAlias = "Numbers | str | bytes | Mapping[int, Value] | Sequence[Mapping[int, Value]]"
Table: TypeAlias = Mapping[int, Value]
_SLOT_BYTES = 8  # of a field, whatever it holds


def flatbuffer(root: Table, identifier: bytes) -> bytes:
    """Return the file whose root has these values by their slots."""
    out = bytearray(4) + identifier
    _point(out, 0, _put_table(out, root))
    return bytes(out)


def tflite() -> list[bytes]:
    """Return files of softmax(x W) with x (1, 4) int8: one subgraph, and two in a loop."""

    def tensor(name: str, shape: Sequence[int], buffer: int = 0) -> Table:
        scale: Table = {2: Numbers("f", [0.5]), 3: Numbers("q", [-3])}
        free = Numbers("i", [-1, *shape[1:]])
        fields: Table = {
            0: Numbers("i", shape),
            1: Numbers("b", 9),
            2: Numbers("I", buffer),
            3: name,
            4: scale,
            5: Numbers("B", 0),
            7: free,
        }
        return fields

    def operator(code: int, fed: Sequence[int], given: int, called: int | None = None) -> Table:
        fields: dict[int, Value] = {
            0: Numbers("I", code),
            1: Numbers("i", fed),
            2: Numbers("i", [given]),
        }
        if called is not None:
            fields[4] = {0: Numbers("i", called), 1: Numbers("i", called)}
        return fields

    codes: list[Table] = [{0: Numbers("b", code), 3: Numbers("i", code)} for code in (9, 25, 119)]
    main: dict[int, Value] = {
        0: [tensor("x", [1, 4]), tensor("W", [3, 4], 1), tensor("z", [1, 3]), tensor("y", [1, 3])],
        1: Numbers("i", [0]),
        2: Numbers("i", [3]),
        3: [operator(0, [0, 1, -1], 2), operator(1, [2], 3)],
    }
    other: Table = {0: [tensor("s", [1, 4])], 1: Numbers("i", [0]), 2: Numbers("i", [0])}
    looped = {**main, 3: [operator(2, [0], 0, called=1), operator(0, [0, 1], 3)]}
    buffers: list[Table] = [{}, {0: bytes(range(12)), 1: Numbers("Q", 0), 2: Numbers("Q", 0)}]
    return [
        flatbuffer({0: Numbers("I", 3), 1: codes, 2: graphs, 4: buffers}, b"TFL3")
        for graphs in ([main], [looped, other])
    ]


def _put_table(out: bytearray, table: Table) -> int:
    """Append a table, what it points at behind it, and return where it begins."""
    slots = sorted(table)
    vtable = len(out)
    places = {slot: 4 + _SLOT_BYTES * place for place, slot in enumerate(slots)}
    size = 4 + 2 * (max(slots, default=-1) + 1)
    out += struct.pack("<HH", size, 4 + _SLOT_BYTES * len(slots))
    out += b"".join(struct.pack("<H", places.get(slot, 0)) for slot in range((size - 4) // 2))
    begin = len(out)
    out += struct.pack("<i", begin - vtable) + bytes(_SLOT_BYTES * len(slots))
    for slot in slots:
        at, value = begin + places[slot], table[slot]
        if isinstance(value, Numbers) and not isinstance(value.values, Sequence):
            struct.pack_into(f"<{value.code}", out, at, value.values)
        else:
            _point(out, at, _put(out, value))
    return begin


def _put(out: bytearray, value: Value) -> int:
    begin = len(out)
    match value:
        case Numbers(code, values):
            assert isinstance(values, Sequence)
            out += struct.pack(f"<I{len(values)}{code}", len(values), *values)
        case str() | bytes():
            data = value.encode() if isinstance(value, str) else value
            out += struct.pack("<I", len(data)) + data
        case Mapping():
            return _put_table(out, value)
        case _:
            out += struct.pack("<I", len(value)) + bytes(4 * len(value))
            for place, one in enumerate(value):
                _point(out, begin + 4 + 4 * place, _put_table(out, one))
    return begin


def _point(out: bytearray, at: int, to: int) -> None:
    struct.pack_into("<I", out, at, to - at)
