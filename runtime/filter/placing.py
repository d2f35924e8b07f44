"""Where a filter has to stand: by the rows that reach it, for a recall or for an accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from ...models.calibration.promise import binomial_p_value
from ...models.calibration.repeats import copies_sentence, find_repeats
from ...models.dataset import Dataset, row_digests
from ...models.errors import DataError
from ...models.evidence import Figures
from ...models.filtering.baselines import Told
from ...models.filtering.operating_point import (
    Point,
    TaskPoint,
    check_enough,
    for_accuracy,
    for_recall,
    point_at,
    point_of_tasks,
    recalls,
)
from ...models.filtering.rules import Rule
from ...models.manifest import Filter
from ...models.measures import Flags
from ...models.training.infi.replaying import distances, replay

_STEPS = 40  # distances that are tried
_MOST_AT_ONCE = 3000  # rows of which all distances are kept
_ROUNDING = 1e-6  # of a sum of float32, whatever its order


class TuneOrder(Struct, frozen=True, kw_only=True):
    """What to aim at: a ``recall`` held with ``confidence``, or where that is None an ``accuracy``.

    ``accuracy`` is besides that at which filters are compared. ``place`` is the filter's in the
    manifest; ``by_group`` asks for the recall of new groups. ``rule`` stands in for the filter's
    own (None), and the bundle says so; ``anyway`` writes a filter that does not pay.
    """

    recall: float | None = 0.95
    confidence: float = 0.95
    accuracy: float = 0.9
    by_group: bool = False
    variant: str | None = None
    place: int = 0
    rule: str | None = None
    anyway: bool = False


class Rows(NamedTuple):
    """What model and filter say of the rows: labels, which matter, and the filter's output.

    That is a skip filter's ``scores`` (N, T), with the rows that matter to each of the ``tasks``
    (N, T); or a reuse filter's ``keys`` (N, width), and what it does (None: not yet known).
    """

    data: Dataset
    told: Told
    scores: Figures | None = None
    tasks: Flags | None = None
    keys: NDArray[np.float32] | None = None
    points: tuple[Point, ...] | None = None

    @property
    def score(self) -> Figures | None:
        """The most (N,) that a skip filter says of any task."""
        return None if self.scores is None else self.scores.max(axis=1)


def placed(part: Filter, rows: Rows, order: TuneOrder) -> Point:
    """Return where the filter has to stand.

    Raises:
        DataError: too few rows matter for the recall that was asked for.
    """
    matters = rows.told.matters
    if rows.score is None or rows.scores is None or rows.tasks is None:
        return _placed_reuse(rows.points or reuse_points(part, rows), matters, order)
    if order.recall is None:
        threshold = for_accuracy(rows.score, matters, accuracy=order.accuracy)
    else:
        columns = zip(rows.scores.T, rows.tasks.T, strict=True)
        each = [_for_recall(rows, *one, order, recall=order.recall) for one in columns]
        return point_of_tasks(rows.scores, matters, tuple(max(0.0, one) for one in each))
    return point_at(rows.score, matters, max(0.0, threshold))


def _for_recall(
    rows: Rows, score: Figures, matters: Flags, order: TuneOrder, *, recall: float
) -> float:
    """Return a task's threshold; the confidence is that all tasks hold at once (Bonferroni)."""
    assert rows.tasks is not None  # noqa: S101 -- of a skip filter
    group = rows.data.group if order.by_group else None
    if order.by_group and group is None:
        raise DataError("no array group", where="--by-group", hint="a recall by group needs one")
    counted = _once(rows, matters, group)
    try:
        return for_recall(
            score,
            counted,
            recall=recall,
            confidence=1.0 - (1.0 - order.confidence) / rows.tasks.shape[1],
            group=group,
        )
    except DataError as error:
        given, left = int(matters.sum()), int(counted.sum())
        if left == given:
            raise
        what = f"{error.what}; {copies_sentence(given - left, 0, rows=given)}"
        raise DataError(what, where=error.where, hint=error.hint) from error


def _once(rows: Rows, matters: Flags, group: NDArray[Any] | None) -> Flags:
    """Return which of the rows that matter (N,) count: of those equal to the byte just one."""
    counted: Flags = matters.copy()
    same = row_digests(rows.data.x[matters])
    counted[matters] = find_repeats(same, group=None if group is None else group[matters]).kept
    return counted


def copies(rows: Rows, order: TuneOrder) -> int:
    """Return how many rows that matter to a task a recall leaves out: copies of another one."""
    if rows.tasks is None or order.recall is None:
        return 0
    group = rows.data.group if order.by_group else None
    return int(sum(matters.sum() - _once(rows, matters, group).sum() for matters in rows.tasks.T))


def task_points(rows: Rows, point: Point, rule: Rule | None) -> tuple[TaskPoint, ...]:
    """Return what the filter does for each of several tasks."""
    if rows.scores is None or rows.tasks is None or rule is None or len(rule.tasks) < 2:
        return ()
    own = point.thresholds or (point.threshold,) * rows.tasks.shape[1]
    found = recalls(rows.scores, rows.tasks, own)
    return tuple(
        TaskPoint(rule=one.text, matter=int(matters.sum()), threshold=threshold, recall=recall)
        for one, matters, threshold, recall in zip(
            rule.tasks, rows.tasks.T, own, found, strict=False
        )
    )


def _placed_reuse(points: Sequence[Point], matters: Flags, order: TuneOrder) -> Point:
    """Return that of the points which filters most, before one that loses too much.

    The recall is tested at the confidence, one point after the other by rising distance, until
    one fails; rows of one stream are no independent draws, so that is no guarantee.

    Raises:
        DataError: too few rows matter, or too much is lost even where nothing but equal keys is
            reused.
    """
    kept: list[Point] = []
    rows = int(matters.sum())
    if order.recall is not None:
        check_enough(rows, recall=order.recall, confidence=order.confidence)
    for point in points:
        lost = round((1.0 - point.recall) * rows)
        if order.recall is None:
            held = point.accuracy >= order.accuracy
        else:
            p_value = binomial_p_value(lost, rows, error=1.0 - order.recall)
            held = p_value <= 1.0 - order.confidence
        if not held:
            break
        kept.append(point)
    if not kept:
        raise DataError(
            f"at a distance of 0 the filter's recall is {points[0].recall:.2%}, its accuracy "
            f"{points[0].accuracy:.2%}: it gives samples the same key that differ",
            hint="ask for less, or train another one",
        )
    return max(kept, key=lambda one: one.rate)


def reuse_points(part: Filter, rows: Rows) -> list[Point]:
    """Return what the filter does at rising distances, by replaying the rows.

    A row that does not matter is right with any label that never does: these are one result.
    """
    assert part.reuse is not None  # noqa: S101 -- `consistency` has looked
    assert rows.keys is not None  # noqa: S101 -- of its kind
    found, labels, matters = [], rows.told.label, rows.told.matters
    mattering = np.unique(labels[matters])
    some = distances(rows.keys[:: -(-len(rows.keys) // _MOST_AT_ONCE)])
    far = some if len(some) == len(rows.keys) else None
    for distance in sorted({0.0, part.reuse.distance, *_between(some)}):
        reuse = replace(part.reuse, distance=distance)
        told = replay(rows.keys, labels.astype(np.int64), reuse, far=far)
        right = told.labels == labels
        as_good = right | (~matters & ~np.isin(told.labels, mattering))
        found.append(
            Point(
                threshold=reuse.distance,
                rate=told.rate(),
                recall=float(right[matters].mean()),
                accuracy=float(as_good.mean()),
            )
        )
    return found


def _between(far: NDArray[np.float32]) -> list[float]:
    """Return quantiles of the distances (N, N), the more of them the nearer two keys are.

    The least is of the nearest two, the greatest of those farthest apart; each is beyond what
    rounding makes of it.
    """
    pairs = np.sort(far[np.triu_indices(len(far), 1)].astype(np.float64))
    if not len(pairs):
        return []
    places = np.geomspace(1.0, len(pairs), _STEPS).astype(np.intp) - 1
    found: list[float] = (pairs[places] * (1.0 + _ROUNDING)).tolist()
    return found
