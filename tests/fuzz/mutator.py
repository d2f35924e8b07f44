"""Inputs made from real ones: bits, bytes and whole fields changed, by a seed."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

_MAX_BYTES = 1 << 16  # an input rarely has to be longer to be wrong
_LENGTHS = (0, 1, 4, 8, 16, 17, 64, 65, 255, 256, 1000, 65_535)
_NUMBERS = (
    *(0, 1, -1, 2, 3, 127, 128, 255, 256, 4095, 4096, 4097, 65_535, 65_536),
    *(1 << 22, (1 << 22) + 1, 1 << 24, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 53) - 1, 1 << 53),
    *(-(1 << 63), (1 << 63) - 1, (1 << 64) - 1),
)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e-45, 3.4e38, 1e300, float("inf"), float("-inf"), float("nan"))
_WORDS = (
    *(
        "",
        "a",
        "A",
        "1-1",
        "a" * 64,
        "a" * 65,
        "a\n",
        "a/b",
        "#",
        "+",
        "$share",
        "ü",
        "\0",
        "0" * 16,
    ),
    *("decide", "audit", "label", "ok", "error", "claim", "float32", "uint8", "float16", "int64"),
    *("raw", "zlib", "zstd", "float16+zlib", "jpeg", "object", "bool", "w0", "input"),
)
_HEADS = bytes((0x90, 0x9F, 0x80, 0xA0, 0xC0, 0xC1, 0xC4, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB))
_LONG_HEADS = (
    b"\xc6\xff\xff\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xdd\xff\xff\xff\xff",
    b"\xdf\xff\xff\xff\xff",
    b"\xdd\x00\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xcf\xff\xff\xff\xff\xff\xff\xff\xff",
)


class Mutator:
    """Changes inputs at random; the same seed gives the same inputs."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)  # noqa: S311 -- for tests, not for secrets
        self._changes: Sequence[Callable[[bytearray], None]] = (
            self._flip,
            self._flip,
            self._set,
            self._set,
            self._cut,
            self._insert,
            self._repeat,
            self._overwrite,
        )

    def bytes_like(self, seeds: Sequence[bytes]) -> bytes:
        """Return one of the seeds, changed in one to four places; sometimes two of them mixed."""
        rng = self.rng
        data = bytearray(rng.choice(seeds))
        if rng.random() < 0.1:
            other = rng.choice(seeds)
            data = data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]
        for _ in range(rng.choice((1, 1, 2, 4))):
            rng.choice(self._changes)(data)
        return bytes(data)

    def message_like(self, seeds: Sequence[bytes]) -> bytes:
        """Return one of the seeds, which are MessagePack arrays, with a field or two changed."""
        fields: list[Any] = list(msgspec.msgpack.decode(self.rng.choice(seeds)))
        for _ in range(self.rng.choice((1, 1, 2))):
            self._change_field(fields)
        return msgspec.msgpack.encode(fields)

    def _change_field(self, fields: list[Any]) -> None:
        rng = self.rng
        at = rng.randrange(len(fields)) if fields else 0
        match rng.randrange(12):
            case 0:
                fields.insert(at, self._value(0))
            case 1 if fields:
                del fields[at]
            case 2 if fields:
                fields[at], fields[-1] = fields[-1], fields[at]
            case 3 | 4 if fields and isinstance(fields[at], bytes):
                body = bytearray(fields[at])
                rng.choice(self._changes)(body)
                fields[at] = bytes(body)
            case 5 if fields and isinstance(fields[at], list):
                self._change_field(fields[at])
            case _ if fields:
                fields[at] = self._value(0)

    def _value(self, depth: int) -> Any:  # noqa: ANN401 -- whatever MessagePack can say
        rng = self.rng
        deeper = depth + 1
        makers: Sequence[Callable[[], Any]] = (
            *(lambda: rng.choice(_NUMBERS), lambda: rng.choice(_NUMBERS)),
            *(lambda: rng.choice(_WORDS), lambda: rng.choice(_WORDS)),
            *(lambda: rng.randbytes(rng.choice(_LENGTHS)), lambda: rng.choice(_FLOATS)),
            *(lambda: None, lambda: rng.random() < 0.5),
            lambda: _nested(rng.choice((2, 100, 20_000))),
            lambda: [self._value(deeper) for _ in range(rng.randrange(5))],
            lambda: {str(number): self._value(deeper) for number in range(rng.randrange(3))},
        )
        return rng.choice(makers if depth < 3 else makers[:9])()

    def _place(self, data: bytearray) -> int:
        """Return a place, the first bytes more often than others: that is where the heads are."""
        if self.rng.random() < 0.3:
            return self.rng.randrange(min(len(data), 64))
        return self.rng.randrange(len(data))

    def _flip(self, data: bytearray) -> None:
        if data:
            data[self._place(data)] ^= 1 << self.rng.randrange(8)

    def _set(self, data: bytearray) -> None:
        if data:
            choices = (0, 1, 0x7F, 0x80, 0xFF, self.rng.choice(_HEADS), self.rng.randrange(256))
            data[self._place(data)] = self.rng.choice(choices)

    def _cut(self, data: bytearray) -> None:
        if data:
            at = self._place(data)
            if self.rng.random() < 0.5:
                del data[at:]
            else:
                del data[at : at + self.rng.choice((1, 2, 4, 36, 256))]

    def _insert(self, data: bytearray) -> None:
        if len(data) < _MAX_BYTES:
            at = self._place(data) if data else 0
            data[at:at] = self.rng.randbytes(self.rng.choice((1, 1, 2, 8, 100)))

    def _repeat(self, data: bytearray) -> None:
        if data and len(data) < _MAX_BYTES:
            at = self._place(data)
            piece = data[at : at + self.rng.choice((1, 4, 36, 512))]
            data[at:at] = piece * self.rng.choice((1, 2, 9))

    def _overwrite(self, data: bytearray) -> None:
        if data:
            at = self._place(data)
            head = self.rng.choice(_LONG_HEADS)
            data[at : at + len(head)] = head


def _nested(depth: int) -> msgspec.Raw:
    """Return a list in a list in a list, too deep for an encoder."""
    return msgspec.Raw(b"\x91" * depth + b"\x90")
