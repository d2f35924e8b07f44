"""Which variant is the best under bounds, by what `hedge bench run` found."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from typing import Literal, NamedTuple

from msgspec import Struct

from ...models.bundle import Bundle
from ...models.errors import ConfigError
from .record import BenchReport, Measured

By = Literal["latency", "energy", "accuracy"]


class Bounds(Struct, frozen=True, kw_only=True):
    """What a variant must keep to; the latency's is on its 90th percentile."""

    min_accuracy: float | None = None
    max_latency_ms: float | None = None
    max_energy_j: float | None = None


class Figures(NamedTuple):
    """What a variant is chosen by; None where it was not measured.

    Joules below what the sensor can tell are not measured, and replayed ones are none of
    this board.
    """

    median_ms: float
    p90_ms: float
    energy_j: float | None
    accuracy: float | None

    @classmethod
    def of(cls, one: Measured) -> Figures:
        """Return the figures of a measured variant."""
        return cls(
            one.latency.median_ms,
            one.latency.p90_ms,
            None if one.energy is None or one.energy.replayed else one.energy.joules,
            None if one.accuracy is None else one.accuracy.accuracy,
        )


class Selection(NamedTuple):
    """The best variant, None if there is none, and what speaks against which of them."""

    best: Measured | None
    misses: dict[str, tuple[str, ...]]


def select(
    bundle: Bundle,
    report: BenchReport,
    *,
    by: By,
    bounds: Bounds | None = None,
    threads: int | None = None,
) -> Selection:
    """Find the best variant of a report under the bounds.

    The least median latency, the least energy or the greatest accuracy; of equals the
    first. ``threads`` says which measurements count, those of the first if None.

    Raises:
        ConfigError: the report is about other models, or other numbers of threads.
    """
    bounds = bounds or Bounds()
    measured = _of_bundle(bundle, report, threads=threads)
    misses = {one.variant: tuple(_misses(Figures.of(one), by, bounds)) for one in measured}
    left = [one for one in measured if not misses[one.variant]]
    best = min(left, key=lambda one: _rank(Figures.of(one), by), default=None)
    failed = {one.variant: ("could not be measured",) for one in report.failed}
    return Selection(best, failed | misses)


def _of_bundle(bundle: Bundle, report: BenchReport, *, threads: int | None) -> list[Measured]:
    """Return what was measured of the bundle's own model files, with that many threads."""
    if not report.measured:
        raise ConfigError("holds no variant that was measured", where="--from")
    threads = report.measured[0].threads if threads is None else threads
    found = [one for one in report.measured if one.threads == threads]
    if not found:
        raise ConfigError(f"{threads} were not measured", where="--threads")
    manifest = bundle.manifest
    files = {edge.name: manifest.files[edge.file] for edge in manifest.edge}
    for one in found:
        if files.get(one.variant) != one.sha256:
            raise ConfigError(
                f"its model {one.variant!r} is none of {bundle.path}",
                where="--from",
                hint="measure this bundle: hedge bench run",
            )
    return found


def _misses(figures: Figures, by: By, bounds: Bounds) -> Iterator[str]:
    """Yield what speaks against a variant."""
    measured = {
        "accuracy": figures.accuracy,
        "latency": figures.p90_ms,
        "energy": figures.energy_j,
    }
    limits = (
        ("accuracy", operator.ge, bounds.min_accuracy, "", "min-accuracy"),
        ("latency", operator.le, bounds.max_latency_ms, " ms", "max-latency-ms"),
        ("energy", operator.le, bounds.max_energy_j, " J", "max-energy-j"),
    )
    for what, keeps, limit, unit, flag in limits:
        value = measured[what]
        if value is None and (limit is not None or what == by):
            yield f"{what} was not measured"
        elif value is not None and limit is not None and not keeps(value, limit):
            yield f"{what} {value:.4g}{unit} against --{flag} {limit:g}"


def _rank(figures: Figures, by: By) -> float:
    """Return what is to be least; what was not measured is worse than all else."""
    match by:
        case "latency":
            return figures.median_ms
        case "energy":
            return math.inf if figures.energy_j is None else figures.energy_j
        case "accuracy":
            return math.inf if figures.accuracy is None else -figures.accuracy
