"""A model as the worker sees it: what it answers to, and the call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...models.errors import WireError
from ...models.records import Probs
from .. import wire
from ..asks import Contract
from ..topics import Device

Respond = Callable[[NDArray[Any]], tuple[Probs, Probs | None]]
"""A batch (B, *shape) to probabilities (B, K) and, with evidence, alpha (B, K).

It may raise `ModelAwayError`: the batch is kept, and asked again when ``check`` has passed.
"""


class Answered(NamedTuple):
    """An ask of one device's ``stream``, its sample, and the answer: float32 (K,), read-only."""

    device: Device
    stream: str
    request: wire.Request
    sample: NDArray[Any]
    probs: Probs
    alpha: Probs | None


class Keep(Protocol):
    """Takes what was answered, once the answers are under way; ``what`` names what it keeps."""

    @property
    def what(self) -> str:
        """In the names of its counters."""

    def __call__(self, answered: Sequence[Answered]) -> None:
        """Take a batch; neither waits nor raises."""

    def counters(self) -> dict[str, int]:
        """Return everything counted since the start, by name; for any thread."""


class Responder(Struct, frozen=True, kw_only=True):
    """One model: what it answers to, the graph input that a body feeds, and the call.

    ``check``, of a model that can be absent, returns if it is there, else it raises
    `ModelAwayError`. Any other error of it ends the worker: what is there is the wrong model.
    Each of ``keep`` gets what was answered.
    """

    contract: Contract
    respond: Respond
    entry: str = "input"
    check: Callable[[], None] | None = None
    keep: tuple[Keep, ...] = ()


def refusal(responder: Responder | None, request: wire.Request) -> str | None:
    """Return why a request cannot be answered by ``responder``; None: it can."""
    if responder is None:
        return f"no model of contract {request.contract} ({request.model}) is served here"
    contract = responder.contract
    if (request.dtype, request.shape) != (contract.dtype, contract.shape):
        return f"{contract.name} takes {contract.dtype} {contract.shape}"
    if request.entry != responder.entry:
        return f"{contract.name} has no input {request.entry}"
    return None


def replies(
    responder: Responder, requests: Sequence[wire.Request], tensors: Sequence[NDArray[Any]]
) -> list[wire.Reply]:
    """Run the model on a batch.

    Raises:
        WireError: what it returns is no distribution for each ask.
        Exception: whatever the model raises.
    """
    begun_s = time.perf_counter()
    classes = responder.contract.classes
    probs, alpha = responder.respond(np.stack(tensors))
    elapsed_ms = 1e3 * (time.perf_counter() - begun_s)
    wanted = (len(requests), classes)
    if probs.shape != wanted or (alpha is not None and alpha.shape != wanted):
        raise WireError(f"returned {probs.shape} for {wanted}", where=responder.contract.name)
    made = []
    for row, request in enumerate(requests):
        beliefs = wire.pack(probs[row], "float32")
        wire.distribution(beliefs, classes=classes)
        evidence = None if alpha is None else wire.pack(alpha[row], "float32")
        if evidence is not None:
            wire.concentration(evidence, classes=classes)
        made.append(reply(request, "ok", probs=beliefs, alpha=evidence, elapsed_ms=elapsed_ms))
    return made


def reply(
    request: wire.Request | wire.Notice,
    status: Literal["ok", "error", "claim"],
    *,
    detail: str | None = None,
    probs: bytes = b"",
    alpha: bytes | None = None,
    elapsed_ms: float = 0.0,
) -> wire.Reply:
    """Return the reply to a request, or to the notice of one."""
    return wire.Reply(
        v=1,
        id=request.id,
        session=request.session,
        contract=request.contract,
        status=status,
        detail=None if detail is None else detail[:256],
        probs=probs,
        alpha=alpha,
        elapsed_ms=elapsed_ms,
    )
