"""The Sink protocol, and an outcome as every sink writes it."""

from __future__ import annotations

import time
from typing import Annotated, Protocol

import msgspec
from msgspec import Meta

from ...models.records import Outcome, Route
from ..events.event import Event
from .options import Which


def _is(description: str) -> Meta:
    return Meta(description=description)


class Emitter(Protocol):
    """Where outcomes go. One that fails is counted; it never stops the loop."""

    def emit(self, outcome: Outcome) -> None:
        """Take one outcome.

        Raises:
            OSError: it could not be written.
        """

    def close(self) -> None:
        """Write what is held back, and free the rest; closing twice is harmless."""


class Sink(Emitter, Protocol):
    """Where outcomes and events go."""

    def tell(self, event: Event) -> None:
        """Take one event, in the loop's thread.

        Raises:
            OSError: it could not be written.
        """


def takes(which: Which, outcome: Outcome) -> bool:
    """Return whether a sink of these takes an outcome; events it takes in any case."""
    return which == "all" or (which == "finals" and outcome.final)


def left_s(end_s: float | None) -> float:
    """Return how long it is until a moment on the monotonic clock; None has passed, too."""
    return 0.0 if end_s is None else max(0.0, end_s - time.monotonic())


def named(error: OSError, where: object) -> OSError:
    """Return an error that says in its text what it is about: a file, say."""
    if error.filename is not None:
        return error
    if error.errno is None:
        return OSError(f"{where}: {error}")
    return OSError(error.errno, error.strerror, str(where))


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """An outcome as a reader outside sees it; what is not known, or does not apply, is left out.

    A sample that is escalated has a first outcome, which is not final, and then exactly one
    final outcome; any other has its final one at once. An outcome may come more than once:
    the same id, and final or not as before, is the same outcome.
    """

    stream: Annotated[str, _is("The stream that the sample is of.")]
    id: Annotated[str, _is("The sample's id: no other sample of the device ever has it.")]
    final: Annotated[bool, _is("Whether this is the sample's final outcome.")]
    route: Annotated[Route, _is("Whose answer this is, or why there is none.")]
    label: Annotated[str | None, _is("The likeliest label; null where there is no answer.")]
    latency_ms: Annotated[float, _is("From the sample's capture to this outcome, in milliseconds.")]
    probs: Annotated[
        list[float] | None, _is("The probability of each label, in the order of the bundle.")
    ] = None
    score: Annotated[float | None, _is("How unsure the edge was: higher is less sure.")] = None
    score_name: Annotated[str | None, _is("Which measure of doubt the score is.")] = None
    reason: Annotated[str | None, _is("Why it was accepted, escalated, dropped, or failed.")] = None
    detail: Annotated[str | None, _is("What is wrong with a sample that has failed.")] = None
    degraded: Annotated[
        str | None, _is("Why a final outcome is without the answer that was asked for.")
    ] = None
    reused_from: Annotated[str | None, _is("The id of the sample whose outcome was taken.")] = None
    energy_j: Annotated[float | None, _is("What the sample has cost, in joules.")] = None
    at_s: Annotated[
        float | None, _is("When it was made: Unix time in seconds, by the device's own clock.")
    ] = None


def line_of(outcome: Outcome, labels: tuple[str, ...], *, at_s: float | None = None) -> Line:
    """Return the outcome with the names of its stream's labels."""
    opinion = outcome.opinion
    return Line(
        stream=outcome.stream,
        id=outcome.id,
        final=outcome.final,
        route=outcome.route,
        label=None if outcome.label is None else labels[outcome.label],
        latency_ms=outcome.latency_ns / 1e6,
        probs=None if outcome.probs is None else outcome.probs.tolist(),
        score=None if opinion is None else opinion.score,
        score_name=None if opinion is None else opinion.score_name,
        reason=outcome.reason,
        detail=outcome.detail,
        degraded=outcome.degraded,
        reused_from=outcome.reused_from,
        energy_j=outcome.energy_j,
        at_s=at_s,
    )
