"""How long a sample takes: at the edge, in the cloud model, and in cooperation, by turns."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...models.bundle import Bundle
from ...models.evidence import Figures
from ...models.manifest import Calibration, Cloud, Edge
from ...models.model import Model
from ...models.opinion import Assessor
from ...models.prepare import Prepare, preparer
from ...models.resampling import Resampling
from ..backends import open_part
from ..policy import Policy
from .answers import edge_assessor
from .estimates import estimate
from .record import Estimate, Speed

WITHIN = 0.01
"""By how much accuracy may differ that counts as equal."""
_MOST_ROWS = 1000
_MOST_NS = 3_000_000_000
_WARM_UP = 20


class _Part(NamedTuple):
    """One open model, and what it is fed."""

    model: Model
    prepare: Prepare

    def __call__(self, sample: NDArray[Any]) -> NDArray[np.floating[Any]]:
        return self.model.infer(self.prepare(sample))


class Timed(NamedTuple):
    """Nanoseconds of each of n samples: the edge's model, edge and gate, all, the cloud alone."""

    edge: Figures
    gated: Figures
    cooperative: Figures
    cloud: Figures
    asked: NDArray[np.bool_]


def speed(
    bundle: Bundle,
    x: NDArray[Any],
    *,
    edge: Edge,
    cloud_curve: Figures | None,
    seed: int,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Speed:
    """Time samples of ``x`` (N, *shape) for about three seconds at most.

    ``cloud_curve`` is the accuracy where shares of 0, 1/100 … 1 escalate by the bundle's score.

    Raises:
        ModelError: a model fails.
    """
    manifest = bundle.manifest
    order = np.random.default_rng(seed).permutation(len(x))[:_MOST_ROWS]
    with closing(open_part(bundle, edge)) as near:
        if manifest.cloud is None:
            timed = _timed(bundle, _part(bundle, near), None, x[order], edge=edge, clock=clock)
        else:
            with closing(open_part(bundle, manifest.cloud)) as far:
                parts = _part(bundle, near), _part(bundle, far)
                timed = _timed(bundle, *parts, x[order], edge=edge, clock=clock)
    return _speed(timed, manifest.cloud, manifest.calibration, cloud_curve, seed=seed)


def _part(bundle: Bundle, model: Model) -> _Part:
    return _Part(model, preparer(bundle.input, model.spec.inputs[0]))


def _timed(
    bundle: Bundle,
    near: _Part,
    far: _Part | None,
    x: NDArray[Any],
    *,
    edge: Edge,
    clock: Callable[[], int],
) -> Timed:
    """Send each sample the way of the gate, and then, alone, through the cloud model."""
    calibration = bundle.manifest.calibration
    assessor = edge_assessor(edge, calibration, classes=len(bundle.labels))
    decide = _decision(assessor, calibration)
    for place in range(_WARM_UP):
        sample = x[place % len(x)][None]
        decide(near(sample)[0])
        if far is not None:
            far(sample)
    took: list[tuple[int, int, int, int, bool]] = []
    until = clock() + _MOST_NS
    for place in range(len(x)):
        sample = x[place : place + 1]
        begin = clock()
        outputs = near(sample)
        inferred = clock()
        asks = decide(outputs[0])
        gated = clock()
        if asks and far is not None:
            far(sample)
        end = clock()
        if far is not None:
            far(sample)
        took.append((inferred - begin, gated - begin, end - begin, clock() - end, asks))
        if end > until:
            break
    columns = np.array(took, np.float64).T
    return Timed(columns[0], columns[1], columns[2], columns[3], columns[4].astype(bool))


def _decision(
    assessor: Assessor, calibration: Calibration | None
) -> Callable[[NDArray[Any]], bool]:
    if calibration is None:
        return lambda outputs: assessor.assess(outputs) is None
    policy = Policy.of(calibration)
    return lambda outputs: (
        policy.decide(assessor.assess(outputs), outputs, deepen=assessor.deepen)[0].action
        != "accept"
    )


def _speed(
    timed: Timed,
    cloud: Cloud | None,
    calibration: Calibration | None,
    curve: Figures | None,
    *,
    seed: int,
) -> Speed:
    edge_ms, gated_ms, cloud_ms = (
        float(one.mean()) / 1e6 for one in (timed.edge, timed.gated, timed.cloud)
    )
    gated = calibration is not None and cloud is not None
    share = None if curve is None else _equal_share(curve)
    return Speed(
        rows=len(timed.edge),
        edge_ms=edge_ms,
        gate_ms=gated_ms - edge_ms,
        cloud_ms=None if cloud is None else cloud_ms,
        cooperative_ms=float(timed.cooperative.mean()) / 1e6 if gated else None,
        cooperative_share=float(timed.asked.mean()) if gated else None,
        times=_times(timed, seed=seed) if gated else None,
        equal_share=share,
        equal_times=None if share is None else cloud_ms / (gated_ms + share * cloud_ms),
    )


def _times(timed: Timed, *, seed: int) -> Estimate:
    drawn = Resampling(len(timed.cloud), seed=seed).draw(
        lambda weights: {"times": (weights @ timed.cloud) / (weights @ timed.cooperative)}
    )
    return estimate(float(timed.cloud.sum() / timed.cooperative.sum()), drawn["times"])


def _equal_share(curve: Figures) -> float | None:
    """Return the least share at which accuracy is within a point of the cloud's."""
    reached = np.flatnonzero(curve >= curve[-1] - WITHIN)
    return float(reached[0]) / (len(curve) - 1) if len(reached) else None
