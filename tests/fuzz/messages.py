"""Real messages, as devices and workers send them: what the mutants are made from."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Literal

import numpy as np

from hedge.models.manifest import DType
from hedge.uplink import codecs, parts, wire
from hedge.uplink.asks import Contract
from hedge.uplink.topics import Device

DEVICE = Device("fuzz", "d0")
STREAM = "cam"
WORKER = "w0"
DIGEST = "0123456789abcdef"
CONTRACT = Contract(name="steps", digest=DIGEST, classes=3, dtype="float32", shape=(4,))
IMAGE = Contract(name="eye", digest="f" * 16, classes=3, dtype="uint8", shape=(16, 16, 3))
SESSION = 7


def request(
    ask_id: str = "7-1",
    *,
    contract: Contract = CONTRACT,
    codec: wire.Codec = "raw",
    dtype: DType | None = None,
    shape: tuple[int, ...] | None = None,
    remaining_ms: int | None = 5000,
) -> wire.Request:
    """Return an ask about a tensor of rising numbers."""
    shape, dtype = shape or contract.shape, dtype or contract.dtype
    body = np.arange(np.prod(shape), dtype=np.float64).reshape(shape) % 251
    return wire.Request(
        v=1,
        id=ask_id,
        session=SESSION,
        kind="decide",
        model=contract.name,
        contract=contract.digest,
        entry="input",
        remaining_ms=remaining_ms,
        dtype=dtype,
        shape=shape,
        codec=codec,
        opinion=wire.WireOpinion(np.full(3, 1 / 3, "<f4").tobytes(), 0.5, "vacuity", 0.5),
        body=codecs.encode(body, dtype=dtype, codec=codec),
    )


def requests() -> list[bytes]:
    """Return asks in every codec that can be read here."""
    large = (64, 64, 3)
    found = [
        request(),
        request("7-2", remaining_ms=None),
        request("7-3", shape=(2, 3, 4)),
        *(request(f"7-{codec[0]}", codec=codec) for codec in ("zlib", "float16", "float16+zlib")),
        request("7-5", contract=IMAGE),
        request("7-6", contract=IMAGE, codec="zlib", shape=large),
    ]
    if importlib.util.find_spec("PIL") is not None:
        found += [request("7-7", contract=IMAGE, codec="jpeg"), request("7-8", codec="jpeg")]
    if importlib.util.find_spec("zstandard") is not None:
        found += [request("7-9", codec="zstd"), request("7-10", contract=IMAGE, codec="zstd")]
    return [wire.encode(one) for one in found] + list(_bombs())


def _bombs() -> Iterator[bytes]:
    """Yield asks whose few bytes hold far more than they claim, or claim far more."""
    for codec in ("zlib", "float16+zlib"):
        honest = request("7-b", codec=codec, shape=(1 << 20,))
        for shape in ((4,), (1 << 20,), (1 << 22,), (1 << 30, 1 << 30)):
            yield wire.encode(
                wire.Request(
                    **{field: getattr(honest, field) for field in honest.__struct_fields__}
                    | {"shape": shape}
                )
            )


def reply(
    ask_id: str = "7-1",
    *,
    status: Literal["ok", "error", "claim"] = "ok",
    detail: str | None = None,
) -> bytes:
    """Return an answer, or what else a worker says."""
    probs = np.array([0.5, 0.25, 0.25], "<f4").tobytes() if status == "ok" else b""
    alpha = np.array([3.0, 1.5, 1.5], "<f4").tobytes() if status == "ok" else None
    return wire.encode(wire.Reply(1, ask_id, SESSION, DIGEST, status, detail, probs, alpha, 1.5))


def replies(ask_id: str = "7-1") -> list[bytes]:
    """Return everything that a worker may say to one ask."""
    return [
        reply(ask_id),
        reply(ask_id, status="error", detail="no model"),
        reply(ask_id, status="claim", detail=WORKER),
    ]


def in_parts() -> tuple[list[bytes], list[bytes]]:
    """Return the notice and the parts of two requests."""
    notices, pieces = [], []
    for ask_id in ("7-20", "7-21"):
        whole = wire.encode(request(ask_id))
        cut = parts.split(whole, part_bytes=64)
        size, count = len(whole), len(cut)
        notices.append(wire.encode(wire.Notice(1, ask_id, SESSION, DIGEST, size, count, 5000)))
        pieces += [
            wire.encode(wire.Part(1, ask_id, SESSION, index, count, data))
            for index, data in enumerate(cut)
        ]
    return notices, pieces
