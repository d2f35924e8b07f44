"""What the bundle's gate does to the rows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ...models.evidence import Figures
from ...models.manifest import Calibration
from ...models.measures import Flags, Labels, gap_recovered, hits
from ...models.resampling import Resampling
from ...models.weighted import mean
from .answers import Answers
from .estimates import drawn, estimate
from .record import Estimate, Gate


def gate(
    found: Answers, y: Labels, *, calibration: Calibration | None, resampling: Resampling
) -> Gate | None:
    """Return what the gate does to rows of classes ``y`` (N,), None without one."""
    asked = found.asked
    if calibration is None or asked is None:
        return None
    near = hits(found.edge.probs, y)
    accepted = ~asked.escalated

    def measure(weights: Figures) -> Mapping[str, Figures]:
        return {
            "escalated": mean(asked.escalated, weights),
            "accepted": mean(near, weights * accepted),
        }

    found_again = drawn(measure, resampling, rows=len(y))
    promise = calibration.promise
    return Gate(
        score=calibration.score,
        total=calibration.total,
        method=calibration.method,
        escalated=found_again.estimate("escalated"),
        fused=float(asked.fused.mean()),
        accepted_accuracy=found_again.estimate("accepted") if accepted.any() else None,
        recovered=_recovered(found, y, near=near, resampling=resampling),
        promised=None if promise is None else promise.accuracy,
    )


def _recovered(
    found: Answers, y: Labels, *, near: Flags, resampling: Resampling
) -> Estimate | None:
    """Return the part of the gap that the cooperation as it is recovers, fusion and all."""
    if found.cloud is None or found.cooperative is None:
        return None
    far, both = hits(found.cloud.probs, y), hits(found.cooperative.probs, y)
    sides = {"edge": near, "cloud": far, "coop": both}
    every = drawn(
        lambda weights: {name: mean(right, weights) for name, right in sides.items()},
        resampling,
        rows=len(y),
    )
    value = gap_recovered(**{name: float(every.once[name]) for name in sides})
    if value is None:
        return None
    gap = every.again["cloud"] - every.again["edge"]
    gained = every.again["coop"] - every.again["edge"]
    parts = np.divide(gained, gap, out=np.full_like(gap, np.nan), where=np.abs(gap) > 1e-12)
    return estimate(value, parts)
