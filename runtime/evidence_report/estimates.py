"""Figures with their intervals: once on all rows, and once for each drawing of a bootstrap."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from ...models.evidence import Figures
from ...models.resampling import Resampling, interval
from .record import Estimate

Measure = Callable[[Figures], Mapping[str, Figures]]


class Drawn(NamedTuple):
    """Figures by name: ``once`` on the rows as they are, ``again`` (R, …) for each drawing."""

    once: Mapping[str, Figures]
    again: Mapping[str, Figures]

    def estimate(self, name: str) -> Estimate:
        """Return the figure ``name``."""
        return estimate(float(self.once[name]), self.again[name])


def each_drawn(
    measures: Mapping[str, Measure], resampling: Resampling, *, rows: int
) -> dict[str, Drawn]:
    """Return the figures of each of several measures, from the same drawings of all rows."""
    once = {name: measure(np.ones((1, rows))) for name, measure in measures.items()}
    parts: dict[str, list[Mapping[str, Figures]]] = {name: [] for name in measures}
    for weights in resampling.weights():
        for name, measure in measures.items():
            parts[name].append(measure(weights))
    return {
        name: Drawn(
            {key: value[0] for key, value in once[name].items()},
            {key: np.concatenate([part[key] for part in parts[name]]) for key in once[name]},
        )
        for name in measures
    }


def drawn(measure: Measure, resampling: Resampling, *, rows: int) -> Drawn:
    """Return the figures of one measure."""
    return each_drawn({"": measure}, resampling, rows=rows)[""]


def estimate(value: float, again: Figures) -> Estimate:
    """Return a figure with its interval; an end that no number is becomes None."""
    low, high = interval(again)
    return Estimate(value=value, low=_known(low), high=_known(high))


def _known(end: float) -> float | None:
    return end if math.isfinite(end) else None
