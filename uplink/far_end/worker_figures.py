"""What a worker has done, as other threads may read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from msgspec import Struct

from ...telemetry.histogram import Histogram
from .probe import Verdict

QUANTILES = (0.5, 0.9, 0.99)


class Times(Struct, frozen=True, kw_only=True):
    """How long something took: how often, in all, and its `QUANTILES` (None: never yet)."""

    count: int
    sum_s: float
    quantiles_s: tuple[float | None, ...]


class ModelFigures(Struct, frozen=True, kw_only=True):
    """One model: ``answers`` from an ask's arrival to its answer, ``calls`` of the model alone.

    ``away`` says why it is not there; None: it is. ``pairs`` count by name what became of its
    answers as pairs for adaptation; None: they are not kept.
    """

    name: str
    away: str | None
    batches: int
    batched: int
    answers: Times
    calls: Times
    pairs: Mapping[str, int] | None = None


class Figures(Struct, frozen=True, kw_only=True):
    """A worker at ``turned_ns``, of its own clock."""

    turned_ns: int
    connected: bool
    serving: Verdict | None
    waiting: int
    gathering: int
    counters: Mapping[str, int]
    models: Sequence[ModelFigures]

    @property
    def ready(self) -> bool:
        """Whether asks can come and will be answered."""
        return self.connected and self.serving is not None and not any(m.away for m in self.models)


class ModelMeter:
    """Counts one model's work; the worker's thread owns it."""

    __slots__ = ("answers", "batched", "batches", "calls", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.batches = 0
        self.batched = 0
        self.answers = Histogram()
        self.calls = Histogram()

    def figures(self, *, away: str | None, pairs: Mapping[str, int] | None) -> ModelFigures:
        """Copy what was counted."""
        return ModelFigures(
            name=self.name,
            away=away,
            batches=self.batches,
            batched=self.batched,
            answers=_times(self.answers),
            calls=_times(self.calls),
            pairs=pairs,
        )


def _times(histogram: Histogram) -> Times:
    found = histogram.quantiles(QUANTILES)
    return Times(
        count=histogram.count,
        sum_s=(histogram.mean_ns or 0.0) * histogram.count / 1e9,
        quantiles_s=tuple(None if one is None else one / 1e9 for one in found),
    )
