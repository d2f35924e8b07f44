"""What the outbox keeps of an ask, and what a reply says to it."""

from __future__ import annotations

import numpy as np

from ..models.errors import WireError
from ..models.records import Opinion
from . import codecs as bodies
from . import wire
from .asks import Answer, Ask, Contract, Owed
from .outbox.outbox import Record
from .outbox.shelf import NEEDLESS

_MARGIN_BYTES = 512  # beside a request's body
_NO_OPINION = 1.0  # the doubt of a device without a model: nobody but the far end has an answer


def record_of(
    ask: Ask,
    contract: Contract | None,
    *,
    session: int,
    codec: wire.Codec,
    keep_until_ns: int | None,
) -> Record:
    """Return what is kept of an ask to the far end of its stream, and is sent.

    Raises:
        WireError: there is no such far end, or the body does not fit it or a request.
    """
    if contract is None:
        raise WireError("no far end is known for this stream", where=ask.stream)
    request = wire.Request(
        v=1,
        id=ask.id,
        session=session,
        kind=ask.kind,
        model=contract.name,
        contract=contract.digest,
        entry=ask.entry,
        remaining_ms=None,
        dtype=contract.dtype,
        shape=ask.body.shape,
        codec=codec,
        opinion=None if ask.opinion is None else wire.opinion_of(ask.opinion),
        body=bodies.encode(ask.body, dtype=contract.dtype, codec=codec),
        traceparent=ask.traceparent,
    )
    if len(request.body) + _MARGIN_BYTES > wire.MAX_REQUEST_BYTES:
        raise WireError(f"{len(request.body)} bytes are too many for a request", where=ask.id)
    return Record(
        request=request,
        stream=ask.stream,
        classes=contract.classes,
        score=_doubt(ask),
        deadline_ns=keep_until_ns,
        answer_by_ns=ask.deadline_ns,
        asked_at_ns=ask.asked_at_ns,
    )


def answer_of(reply: wire.Reply, record: Record) -> Answer:
    """Return what a reply to a record says.

    Raises:
        WireError: it does not fit the ask.
    """
    if reply.status == "error":
        return refusal_of(record, reply.detail)
    probs = wire.distribution(reply.probs, classes=record.classes)
    alpha = None
    if reply.alpha is not None:
        alpha = wire.concentration(reply.alpha, classes=record.classes)
    return Answer(
        reply.id,
        record.stream,
        "answered",
        probs,
        alpha,
        asked_at_ns=record.asked_at_ns,
    )


def check_reply(reply: wire.Reply, record: Record) -> None:
    """Check that a reply is one to a record.

    Raises:
        WireError: it is not.
    """
    asked = record.request
    if reply.contract != asked.contract or reply.session != asked.session:
        raise WireError("of another model or session", where=reply.id)


def refusal_of(record: Record, detail: str | None) -> Answer:
    """Return the answer that there will be none, and why."""
    return Answer(record.id, record.stream, "refused", detail=detail)


def owed_of(record: Record) -> Owed | None:
    """Return what is owed for a record; None where nobody waits for it."""
    if record.answer_by_ns is None:
        return None
    return Owed(
        id=record.id,
        stream=record.stream,
        opinion=_opinion(record),
        asked_at_ns=record.asked_at_ns,
        answer_by_ns=record.answer_by_ns,
        traceparent=record.request.traceparent,
    )


def _doubt(ask: Ask) -> float:
    """Return how much an ask is needed: as much as the edge doubts, where it has an opinion."""
    if ask.kind != "decide" and ask.deadline_ns is None:
        return NEEDLESS
    return _NO_OPINION if ask.opinion is None else ask.opinion.score


def _opinion(record: Record) -> Opinion | None:
    """Return the edge's opinion as it was sent, if it was."""
    told = record.request.opinion
    if told is None:
        return None
    probs = np.frombuffer(told.probs, "<f4")
    return Opinion(probs, told.score, told.score_name, vacuity=told.vacuity)
