"""The Sink protocol, and an outcome as every sink writes it."""

from __future__ import annotations

from typing import Protocol

import msgspec

from ...models.records import Outcome


class Sink(Protocol):
    """Where outcomes go. A sink that fails is counted; it never stops the loop."""

    def emit(self, outcome: Outcome) -> None:
        """Take one outcome.

        Raises:
            OSError: it could not be written.
        """

    def close(self) -> None:
        """Write what is held back, and free the rest; closing twice is harmless."""


class Line(msgspec.Struct, frozen=True, omit_defaults=True):
    """An outcome as a reader outside sees it: labels by name, times in milliseconds."""

    stream: str
    id: str
    final: bool
    route: str
    label: str | None
    latency_ms: float
    probs: list[float] | None = None
    score: float | None = None
    score_name: str | None = None
    reason: str | None = None
    degraded: str | None = None
    reused_from: str | None = None
    energy_j: float | None = None


def line_of(outcome: Outcome, labels: tuple[str, ...]) -> Line:
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
        degraded=outcome.degraded,
        reused_from=outcome.reused_from,
        energy_j=outcome.energy_j,
    )
