"""Teaches a filter and judges it: all that needs torch, from rows to a graph."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...models.errors import DataError, MissingExtraError
from ...models.evidence import Figures
from ...models.filtering.operating_point import (
    Point,
    for_accuracy,
    optimum,
    point_at,
    point_of_tasks,
    recalls,
)
from ...models.filtering.standing import probabilities, to_any
from ...models.manifest import Reuse
from ...models.measures import Flags
from ...models.model import infer_all
from ...models.training.export import to_onnx
from ...models.training.infi.nets import Joint, ReuseHead
from ...models.training.infi.replaying import Replayed, place_reuse, replay
from ...models.training.infi.rows import Division
from ...models.training.infi.teaching import (
    Lesson,
    Part,
    Taught,
    features,
    teach_reuse,
    teach_skip,
    vocabulary_of,
)
from ...models.training.infi.to_tflite import check_tflite_export, to_tflite
from ...models.training.infi.view import View
from ...models.training.skipping import place_threshold
from ..backends import is_installed, open_model
from ..quantize.int8 import Recipe, check_installed, to_int8
from .cautions import RECALL, REUSE_ACCURACY

if TYPE_CHECKING:
    from .train import TrainOrder

ACCURACY = 0.9
_BATCH = 256
_RANGES = 200  # rows that the ranges of int8 are taken from

Say = Callable[[str], None]
Labels = NDArray[np.int64]


class Rows(NamedTuple):
    """What there is to learn from: what the graph is ``fed`` (N, *shape), what the model says.

    ``labels`` (N,) are the model's, ``tasks`` (N, T) to which task of the rule each matters; None:
    there is no rule. ``group`` (N,) are the people, or machines, that they are of, if it is known.
    """

    fed: NDArray[Any]
    labels: Labels
    tasks: Flags | None
    group: NDArray[Any] | None = None

    @property
    def matters(self) -> Flags | None:
        """Which rows (N,) matter to any task."""
        return None if self.tasks is None else to_any(self.tasks)

    def results(self) -> Labels:
        """Return (N,) what a reuse filter has to get right: any redundant label is as good."""
        if self.matters is None:
            return self.labels
        return np.where(self.matters, self.labels, -1)


class Judged(NamedTuple):
    """What a filter does on the rows that judge it; the two others are what it could do there.

    ``recalls`` are those of what matters to each task. ``constant`` is the accuracy of dropping
    everything, of a reuse filter that of always giving the commonest result. ``placed`` is what a
    reuse filter does on the rows that placed it, of which ``rare`` have not the commonest result.
    """

    point: Point
    constant: float
    recalls: tuple[float, ...] = ()
    optimum: float | None = None
    at_accuracy: Point | None = None
    at_recall: Point | None = None
    placed: Point | None = None
    rare: int | None = None


class Made(NamedTuple):
    """A filter: its graph, where it stands, and what it does on the rows that judge it.

    ``thresholds`` are one for each task.
    """

    graph: bytes
    format: Literal["onnx", "tflite"]
    thresholds: tuple[float, ...]
    reuse: Reuse | None
    epochs: int
    judged: Judged


def teach(
    rows: Rows, seen: tuple[View, ...], division: Division, order: TrainOrder, *, say: Say
) -> Made:
    """Return the filter that the rows teach, place and judge.

    Placed and judged is what comes out of the graph that a device will run.

    Raises:
        DataError: of a reuse filter, even equal keys have different results.
    """
    vocabulary = max((vocabulary_of(rows.fed) for one in seen if one.modality == "text"), default=0)
    make = lambda: features(seen, vocabulary=vocabulary)  # noqa: E731  so short
    found = _taught(make, rows, division, order, say=say)
    graph = _graph(found, rows, division, order)
    if isinstance(found.net, ReuseHead):
        return _reusing(found, graph, rows, division, order)
    return _skipping(found, graph, rows, division, order)


def check_libraries(
    format_: Literal["onnx", "tflite"], *, int8: bool, may_choose: bool = True
) -> None:
    """See to it, before anything is taught, that a filter of this format can be made and run here.

    ``may_choose``: whether another format would do.

    Raises:
        MissingExtraError: a library is not installed.
    """
    try:
        if format_ == "tflite":
            check_tflite_export()
        if int8:
            check_installed(format_)
    except MissingExtraError as error:
        if may_choose and format_ == "tflite" and is_installed("onnx"):
            error.hint = f"{error.hint}, or --format onnx"
        raise
    if not is_installed(format_):
        libraries = {"onnx": "onnxruntime", "tflite": "ai-edge-litert"}
        raise MissingExtraError(libraries[format_], extra=format_)


def _taught(
    make: Callable[[], Joint], rows: Rows, division: Division, order: TrainOrder, *, say: Say
) -> Taught:
    learn, target = teach_reuse, rows.results()
    if rows.tasks is not None and order.kind == "skip":
        learn, target = teach_skip, rows.tasks.astype(np.int64)
    taught, held = (
        Part(rows.fed[which], target[which]) for which in (division.taught, division.held)
    )
    lesson = Lesson() if order.epochs is None else Lesson(epochs=order.epochs)
    return learn(make, taught, held, lesson=lesson, seed=order.seed, say=say)


def _graph(found: Taught, rows: Rows, division: Division, order: TrainOrder) -> bytes:
    shape, dtype = rows.fed.shape[1:], rows.fed.dtype.name
    if order.format == "tflite":
        graph = to_tflite(found.net, shape=shape, dtype=dtype)
    else:
        graph = to_onnx(found.net, shape=shape, dtype=dtype)
    if not order.int8:
        return graph
    ranges = rows.fed[division.taught]
    return to_int8(
        graph,
        ranges[:: max(1, len(ranges) // _RANGES)],
        format=order.format or "onnx",
        recipe=Recipe(),
        where=f"{order.kind} filter",
    ).data


def _skipping(
    found: Taught, graph: bytes, rows: Rows, division: Division, order: TrainOrder
) -> Made:
    assert rows.tasks is not None  # noqa: S101  the order has been checked
    held, judged = (
        _given(graph, rows.fed[which], order).astype(np.float64)
        for which in (division.held, division.judged)
    )
    thresholds = tuple(
        place_threshold(logits, keep)
        for logits, keep in zip(held.T, rows.tasks[division.held].T, strict=True)
    )
    tasks = rows.tasks[division.judged]
    matters, scores = to_any(tasks), probabilities(judged)
    score: Figures = scores.max(axis=1)
    kept = np.sort(score[matters])
    lost = np.nextafter(kept[int((1.0 - RECALL) * len(kept))], -np.inf)
    judgement = Judged(
        point=point_of_tasks(scores, matters, thresholds),
        constant=float(1.0 - matters.mean()),
        recalls=recalls(scores, tasks, thresholds),
        optimum=optimum(matters, accuracy=ACCURACY),
        at_accuracy=point_at(score, matters, for_accuracy(score, matters, accuracy=ACCURACY)),
        at_recall=point_at(score, matters, float(lost)),
    )
    return Made(graph, order.format or "onnx", thresholds, None, found.epochs, judgement)


def _reusing(
    found: Taught, graph: bytes, rows: Rows, division: Division, order: TrainOrder
) -> Made:
    assert isinstance(found.net, ReuseHead)  # noqa: S101  it has been taught so
    results = rows.results()
    held, judged = (
        _given(graph, rows.fed[which], order) for which in (division.held, division.judged)
    )
    known = results[division.held]
    reuse = place_reuse(
        held,
        known,
        apart=found.net.apart,
        accuracy=REUSE_ACCURACY,
        alone=_alone(graph, held, rows, division, order),
    )
    placed = _point(replay(held, known, reuse), known, None, distance=reuse.distance)
    if placed.accuracy < REUSE_ACCURACY:
        raise DataError(
            "what was learnt tells no results apart: rows with equal keys have different ones",
            where="--kind reuse",
            hint="give more rows, or another --modality",
        )
    answers = results[division.judged]
    told = replay(judged, answers, reuse)
    matters = None if rows.matters is None else rows.matters[division.judged]
    could = place_reuse(judged, answers, apart=found.net.apart, accuracy=ACCURACY)
    judgement = Judged(
        point=_point(told, answers, matters, distance=reuse.distance),
        constant=_commonest(answers) / len(answers),
        at_accuracy=_point(
            replay(judged, answers, could), answers, matters, distance=could.distance
        ),
        placed=placed,
        rare=len(known) - _commonest(known),
    )
    return Made(graph, order.format or "onnx", (0.5,), reuse, found.epochs, judgement)


def _commonest(results: Labels) -> int:
    """Return how many rows have the commonest result."""
    return int(np.unique(results, return_counts=True)[1].max())


def _alone(
    graph: bytes,
    held: NDArray[np.float32],
    rows: Rows,
    division: Division,
    order: TrainOrder,
) -> list[tuple[NDArray[np.float32], Labels]]:
    """Return keys and results of each group that was held out, and of each that taught."""
    if rows.group is None:
        return []
    results, group, found = rows.results(), rows.group, []
    taught = _given(graph, rows.fed[division.taught], order)
    for keys, which in ((held, division.held), (taught, division.taught)):
        for one in np.unique(group[which]):
            mine = group[which] == one
            found.append((keys[mine], results[which][mine]))
    return found


def _point(told: Replayed, answers: Labels, matters: Flags | None, *, distance: float) -> Point:
    """Return what reuse comes to; what matters is lost where it got another label."""
    right = told.labels == answers
    counted = right if matters is None else right[matters]
    return Point(
        threshold=distance,
        rate=told.rate(),
        recall=float(counted.mean()),
        accuracy=float(right.mean()),
    )


def _given(graph: bytes, fed: NDArray[Any], order: TrainOrder) -> NDArray[np.float32]:
    """Return what the graph itself gives, (N, ·), on a device's own library."""
    opened = open_model(graph, format=order.format or "onnx", where=f"{order.kind} filter")
    with closing(opened) as model:
        found = infer_all(model, (fed[at : at + _BATCH] for at in range(0, len(fed), _BATCH)))
    return found.astype(np.float32)
