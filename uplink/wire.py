"""The messages: what they hold, and how strangers' bytes are read without harm.

All are MessagePack arrays that begin with the version. The numbers of a tensor travel as
little-endian bytes in C order, in one of the `codecs`. Sizes are checked before anything is
decoded; what a decode function returns fits together, what does not raises `WireError`.

A request that is longer than what the broker takes goes in parts. They must all reach one
worker, which a shared subscription does not promise: so the device announces them by a
`Notice` where it would ask, the worker that gets it claims them by a `Reply` that names the
worker, and the device sends each `Part` to that one. Joined, they are the request's bytes.
"""

from __future__ import annotations

import math
import re
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from ..models.errors import WireError
from ..models.manifest import DType
from ..models.records import Opinion
from . import codecs
from .asks import Kind

VERSION = 1
CONTENT_TYPE = "application/msgpack"
MAX_REQUEST_BYTES = 4 << 20
MAX_TENSOR_BYTES = 16 << 20
MAX_REPLY_BYTES = 1 << 20
MAX_NOTICE_BYTES = 512
MAX_PARTS = 4096
MAX_CLASSES = 1 << 16
_MAX_AXES = 8
_ONE_IS_SHORT_OF = 1e-3  # what a sum of float32 or float16 probabilities may miss

Codec = codecs.Codec
Id = Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,64}\Z")]
Name = Annotated[str, Meta(pattern=r"^[a-z0-9_-]{1,64}\Z")]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
Entry = Annotated[str, Meta(min_length=1, max_length=64)]
Count = Annotated[int, Meta(ge=0, lt=1 << 53)]
Axis = Annotated[int, Meta(ge=1, lt=1 << 31)]
Traceparent = Annotated[str, Meta(max_length=128)]


class WireOpinion(Struct, frozen=True, array_like=True, gc=False):
    """The edge's opinion as it travels: ``probs`` are float32 bytes."""

    probs: bytes
    score: float
    score_name: Annotated[str, Meta(max_length=32)]
    vacuity: float | None


class Request(Struct, frozen=True, array_like=True, gc=False):
    """One ask. Its answer has no use ``remaining_ms`` after the sending; None: it always has.

    ``traceparent`` (W3C Trace Context, §3.2) says which trace the ask belongs to, if any. It
    is no reason to refuse an ask: who traces passes over one that cannot be read.
    """

    v: Literal[1]
    id: Id
    session: Count
    kind: Kind
    model: Name
    contract: Digest
    entry: Entry
    remaining_ms: Count | None
    dtype: DType
    shape: Annotated[tuple[Axis, ...], Meta(max_length=_MAX_AXES)]
    codec: Codec
    opinion: WireOpinion | None
    body: bytes
    traceparent: Traceparent | None = None


class Reply(Struct, frozen=True, array_like=True, gc=False):
    """One answer. ``probs`` and ``alpha`` are float32 bytes; a refusal has neither.

    A claim has neither, too: its ``detail`` is the name of the worker that wants the parts.
    """

    v: Literal[1]
    id: Id
    session: Count
    contract: Digest
    status: Literal["ok", "error", "claim"]
    detail: Annotated[str, Meta(max_length=256)] | None
    probs: bytes
    alpha: bytes | None
    elapsed_ms: float


class Notice(Struct, frozen=True, array_like=True, gc=False):
    """A request of ``size`` bytes that is to come in ``parts`` parts."""

    v: Literal[1]
    id: Id
    session: Count
    contract: Digest
    size: Annotated[int, Meta(ge=1, le=MAX_REQUEST_BYTES)]
    parts: Annotated[int, Meta(ge=1, le=MAX_PARTS)]
    remaining_ms: Count | None


class Part(Struct, frozen=True, array_like=True, gc=False):
    """Part ``index`` of ``count``, from 0, of an encoded request."""

    v: Literal[1]
    id: Id
    session: Count
    index: Annotated[int, Meta(ge=0, lt=MAX_PARTS)]
    count: Annotated[int, Meta(ge=1, le=MAX_PARTS)]
    data: Annotated[bytes, Meta(min_length=1, max_length=MAX_REQUEST_BYTES)]


_is_name = re.compile(r"[a-z0-9_-]{1,64}").fullmatch
_read_request = msgspec.msgpack.Decoder(Request).decode
_read_reply = msgspec.msgpack.Decoder(Reply).decode
_read_notice = msgspec.msgpack.Decoder(Notice).decode
_read_part = msgspec.msgpack.Decoder(Part).decode


def encode(message: Request | Reply | Notice | Part) -> bytes:
    """Return the message's bytes."""
    return msgspec.msgpack.encode(message)


def decode_request(payload: bytes, *, max_bytes: int = MAX_REQUEST_BYTES) -> Request:
    """Read a request whose body can be the tensor that it claims; `tensor` decodes it.

    Raises:
        WireError: it is too long, no request of this version, or contradicts itself.
    """
    request: Request = _decode(payload, _read_request, max_bytes=max_bytes, what="request")
    _check_body(request)
    if request.opinion is not None:
        _check_opinion(request.opinion)
    return request


def decode_reply(payload: bytes, *, max_bytes: int = MAX_REPLY_BYTES) -> Reply:
    """Read a reply; whether it answers anything is for `distribution` and the asker to say.

    Raises:
        WireError: it is too long, or no reply of this version.
    """
    reply: Reply = _decode(payload, _read_reply, max_bytes=max_bytes, what="reply")
    if reply.status == "ok" and not reply.probs:
        raise WireError("an answer without probabilities", where="reply: probs")
    if reply.status == "claim" and _is_name(reply.detail or "") is None:
        raise WireError("a claim that names no worker", where="reply: detail")
    return reply


def decode_notice(payload: bytes, *, max_bytes: int = MAX_NOTICE_BYTES) -> Notice:
    """Read what announces a request in parts, none of which is empty.

    Raises:
        WireError: it is too long, no notice of this version, or announces too much.
    """
    notice: Notice = _decode(payload, _read_notice, max_bytes=max_bytes, what="notice")
    if notice.parts > notice.size:
        raise WireError(f"{notice.parts} parts of {notice.size} bytes", where="notice: parts")
    return notice


def decode_part(payload: bytes, *, max_bytes: int = MAX_REQUEST_BYTES) -> Part:
    """Read one part; whether it was announced is for `parts.Gatherer` to say.

    Raises:
        WireError: it is too long, no part of this version, or none of its count.
    """
    part: Part = _decode(payload, _read_part, max_bytes=max_bytes, what="part")
    if part.index >= part.count:
        raise WireError(f"part {part.index} of {part.count}", where="part: index")
    return part


def pack(array: NDArray[Any], dtype: str) -> bytes:
    """Return the numbers of ``array`` as ``dtype``, little-endian, in C order."""
    return codecs.encode(array, dtype=dtype, codec="raw")


def tensor(request: Request) -> NDArray[Any]:
    """Return the body as a read-only array of the request's shape and dtype.

    Raises:
        WireError: it holds other numbers than that, or its codec cannot be read here.
    """
    return codecs.decode(
        request.body, dtype=request.dtype, shape=request.shape, codec=request.codec
    )


def distribution(data: bytes, *, classes: int) -> NDArray[np.float32]:
    """Return ``data`` as probabilities (classes,), read-only.

    Raises:
        WireError: another number of classes, or no finite point of the simplex.
    """
    probs = _numbers(data, classes=classes, where="probs")
    if not (probs.min() >= 0 and abs(float(probs.sum(dtype=np.float64)) - 1) < _ONE_IS_SHORT_OF):
        raise WireError("no probability distribution", where="probs")
    return probs


def concentration(data: bytes, *, classes: int) -> NDArray[np.float32]:
    """Return ``data`` as a Dirichlet's parameters (classes,), read-only.

    Raises:
        WireError: another number of classes, or one that is not finite and positive.
    """
    alpha = _numbers(data, classes=classes, where="alpha")
    if not alpha.min() > 0:
        raise WireError("no Dirichlet has parameters of 0 or less", where="alpha")
    return alpha


def opinion_of(opinion: Opinion) -> WireOpinion:
    """Return the edge's opinion as it travels."""
    return WireOpinion(
        pack(opinion.probs, "float32"),
        float(opinion.score),
        opinion.score_name,
        None if opinion.vacuity is None else float(opinion.vacuity),
    )


def _decode(payload: bytes, read: Any, *, max_bytes: int, what: str) -> Any:  # noqa: ANN401
    if len(payload) > max_bytes:
        raise WireError(f"{len(payload)} bytes, at most {max_bytes} are read", where=what)
    if payload[:1] >= b"\x90" and b"\x00" <= payload[1:2] < b"\x80" and payload[1] != VERSION:
        raise WireError(f"version {payload[1]}; this side speaks {VERSION}", where=what)
    try:
        return read(payload)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not understood: {str(error)[:200]}", where=what) from error


def _numbers(data: bytes, *, classes: int, where: str) -> NDArray[np.float32]:
    if len(data) != 4 * classes:
        raise WireError(f"{len(data)} bytes for {classes} classes", where=where)
    numbers = np.frombuffer(data, "<f4")
    if not np.isfinite(numbers).all():
        raise WireError("not finite", where=where)
    return numbers


def _check_body(request: Request) -> None:
    """Check the sizes alone, before anything is decoded."""
    what = f"{request.dtype} {request.shape}"
    wanted = math.prod(request.shape) * np.dtype(request.dtype).itemsize
    if wanted > MAX_TENSOR_BYTES:
        raise WireError(
            f"{what} takes {wanted} bytes, at most {MAX_TENSOR_BYTES} are read",
            where="request: shape",
        )
    why = codecs.misfit(request.codec, dtype=request.dtype, shape=request.shape)
    if why is not None:
        raise WireError(why, where="request: codec")
    size = len(request.body)
    most = codecs.longest(request.codec, dtype=request.dtype, shape=request.shape)
    if size > most or (size != most and request.codec in {"raw", "float16"}):
        raise WireError(
            f"{size} bytes for {what}, which takes {most} as {request.codec}",
            where="request: body",
        )


def _check_opinion(opinion: WireOpinion) -> None:
    """Check the form alone: who uses the numbers reads them by `distribution`."""
    classes, rest = divmod(len(opinion.probs), 4)
    if rest or not 2 <= classes <= MAX_CLASSES:
        raise WireError(f"{len(opinion.probs)} bytes of probabilities", where="request: opinion")
    if not (math.isfinite(opinion.score) and math.isfinite(opinion.vacuity or 0.0)):
        raise WireError("not finite", where="request: opinion")
