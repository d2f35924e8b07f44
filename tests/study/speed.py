"""What cooperation saves in time: beside the cloud alone, where both are equally right.

The threshold is the one with the fewest escalations at which the calibration rows are right as
often as by the cloud alone, but for a point. Then test rows run for real, one at a time, each model
in one thread: all through the cloud, all through the edge and its gate, and all through the edge
and what it sends on through the cloud. The three take turns, in another order each time; each
turn's share of rows that escalate is that of all test rows. Times are the processor's, of the
thread that computes; no network lies between the models. Beside what is measured stands what
follows by arithmetic, cloud/(edge + rate · cloud): never more than 1/rate.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Any

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hedge.models.bundle import load_bundle
from hedge.models.calibration import threshold_for_rate
from hedge.models.evidence import Array
from hedge.models.measures import accuracy, escalation_curve, hits
from hedge.models.opinion import Assessor
from hedge.models.prepare import preparer
from hedge.runtime.backends import open_part
from hedge.runtime.backends.options import BackendOptions
from hedge.runtime.policy import Policy

from .figures import calibrated
from .promises import score_of
from .task import Task

EQUAL = 0.01
"""Accuracies that differ by less are equal."""

TURNS, ROWS = 24, 100
_PARTS = 4  # other rows in so many turns
_ONE_THREAD = BackendOptions(threads=1)

Way = Callable[[Array], object]


class Speed(Struct, frozen=True, kw_only=True):
    """Cooperation beside the cloud alone, one sample after the other.

    ``rate`` of the test rows escalate, where ``accuracy`` is that of both together, and
    ``short`` what it was less than the cloud's on the calibration rows. ``edge_ms`` (with its
    gate), ``cloud_ms`` and ``both_ms`` of a sample are medians over ``turns`` of ``rows`` samples,
    of which the share ``timed_rate`` escalated. ``faster`` is the ratio of cloud to both, of the
    same turn each, a median, ``low`` and ``high`` its quartiles; ``expected`` is that of
    cloud/(edge + timed_rate · cloud).
    """

    task: str
    taught: str
    turns: int
    rows: int
    rate: float
    timed_rate: float
    short: float
    cloud_accuracy: float
    accuracy: float
    edge_ms: float
    cloud_ms: float
    both_ms: float
    expected: float
    faster: float
    low: float
    high: float


def speed_of(task: Task, x: Array, *, turns: int = TURNS, rows: int = ROWS) -> Speed:
    """Time edge and cloud on some of the test rows ``x`` (N, *shape), in turn with each alone."""
    calibration, total = calibrated(task), equal_total(task)
    sent = ~(score_of(task.edge, task.test.edge, calibration) < total)
    parts = drawn(sent, rows=rows, parts=_PARTS, seed=task.seed)
    took = _took(task, [x[part] for part in parts], total=total, turns=turns)
    edge, cloud, both = took.T / rows * 1e3
    rate = float(sent[parts[0]].mean())
    there, faster = hits(task.test.cloud, task.test.y), cloud / both
    return Speed(
        task=task.name,
        taught=task.edge.name,
        turns=turns,
        rows=rows,
        rate=accuracy(sent),
        timed_rate=rate,
        short=_short(task, total),
        cloud_accuracy=accuracy(there),
        accuracy=accuracy(np.where(sent, there, hits(task.test.edge, task.test.y))),
        edge_ms=float(np.median(edge)),
        cloud_ms=float(np.median(cloud)),
        both_ms=float(np.median(both)),
        expected=float(np.median(cloud / (edge + rate * cloud))),
        faster=float(np.median(faster)),
        low=float(np.quantile(faster, 0.25)),
        high=float(np.quantile(faster, 0.75)),
    )


def equal_total(task: Task) -> float:
    """Return the threshold with the fewest escalations that cost at most a point of accuracy.

    It is found on the calibration rows, by the score that the tables' calibration chose there.
    """
    rows = task.calibration
    score = score_of(task.edge, rows.edge, calibrated(task))
    edge, cloud = hits(rows.edge, rows.y), hits(rows.cloud, rows.y)
    share, reached = escalation_curve(score, edge, cloud)
    enough = reached >= accuracy(cloud) - EQUAL
    return threshold_for_rate(score, rate=float(share[np.argmax(enough)]))


def drawn(sent: NDArray[np.bool_], *, rows: int, parts: int, seed: int) -> list[NDArray[np.intp]]:
    """Return the row numbers of some parts; of each as great a share is ``sent`` (N,) as of all."""
    random = np.random.default_rng(seed)
    count = round(rows * float(sent.mean()))
    found = []
    for _ in range(parts):
        asks = random.choice(np.flatnonzero(sent), count) if count else np.empty(0, np.intp)
        stays = random.choice(np.flatnonzero(~sent), rows - count) if count < rows else asks[:0]
        found.append(random.permutation(np.concatenate((asks, stays))))
    return found


def _short(task: Task, total: float) -> float:
    """Return by how much both together are less often right than the cloud, on calibration rows."""
    rows = task.calibration
    sent = ~(score_of(task.edge, rows.edge, calibrated(task)) < total)
    there = hits(rows.cloud, rows.y)
    return accuracy(there) - accuracy(np.where(sent, there, hits(rows.edge, rows.y)))


def _took(task: Task, parts: list[Array], *, total: float, turns: int) -> NDArray[np.float64]:
    """Return the seconds (turns, 3) of edge, cloud and both."""
    bundle, policy = load_bundle(task.bundle), Policy(total=total)
    scoring = calibrated(task).scoring
    assessor = Assessor.of(task.edge, classes=task.classes, score=scoring)
    with (
        closing(open_part(bundle, task.edge, options=_ONE_THREAD)) as near,
        closing(open_part(bundle, task.cloud, options=_ONE_THREAD)) as far,
    ):
        fed_near = preparer(bundle.manifest.input, near.spec.inputs[0])
        fed_far = preparer(bundle.manifest.input, far.spec.inputs[0])

        def edge(sample: Array) -> bool:
            outputs = near.infer(fed_near(sample))[0]
            opinion = assessor.assess(outputs)
            return policy.decide(opinion, outputs, deepen=assessor.deepen)[0].action != "accept"

        def cloud(sample: Array) -> object:
            return far.infer(fed_far(sample))

        def both(sample: Array) -> object:
            return edge(sample) and cloud(sample)

        return in_turn((edge, cloud, both), parts, turns=turns)


def in_turn(ways: tuple[Way, ...], parts: list[Array], *, turns: int) -> NDArray[np.float64]:
    """Return the seconds (turns, ways) of each way over a part, each turn in another order."""
    took = np.empty((turns + 1, len(ways)))
    for turn in range(turns + 1):
        part = parts[turn % len(parts)]
        for place in range(len(ways)):
            way = (turn + place) % len(ways)
            took[turn, way] = _seconds(ways[way], part)
    return took[1:]  # the first warms up


def _seconds(way: Way, x: NDArray[Any]) -> float:
    began = time.thread_time_ns()
    for row in range(len(x)):
        way(x[row : row + 1])
    return (time.thread_time_ns() - began) / 1e9


def told(one: Speed) -> str:
    """Return what cooperation saves, in a line."""
    return (
        f"{one.task}: {one.faster:.2f} times as fast ({one.low:.2f} to {one.high:.2f}; "
        f"{one.expected:.2f} by arithmetic) at {one.accuracy:.1%}, the cloud "
        f"{one.cloud_accuracy:.1%}; {one.rate:.0%} escalated"
    )


def speeds(found: Iterable[Speed]) -> str:
    """Return the table for the page."""
    rows = [
        f"| {one.task} | {one.taught} | {one.rate:.0%} | {one.accuracy:.3f} | "
        f"{one.cloud_accuracy:.3f} | {_points(one.accuracy - one.cloud_accuracy)} "
        f"({_points(-one.short)}) | {one.edge_ms:.3f} | {one.cloud_ms:.3f} | {one.both_ms:.3f} | "
        f"{_most(one.rate)} | {one.expected:.2f} | {one.faster:.2f} ({one.low:.2f} to "
        f"{one.high:.2f}) |"
        for one in found
    ]
    head = (
        "| task | edge taught | escalated | both together | cloud alone | points apart (on the "
        "calibration rows) | edge (ms) | cloud (ms) | both (ms) | an edge for nothing | by "
        "arithmetic | times as fast |"
    )
    return "\n".join([head, "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|", *rows])


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"


def _most(rate: float) -> str:
    return f"{1 / rate:.2f}" if rate else "-"
