"""Learned filters beside the authors' own and beside those that have learnt nothing.

Every task and seed: a filter is taught what a model says of the rows that teach, is stopped and
placed by other rows, and judged by a third lot. Two aims: 90 % accuracy in the thesis' sense, and
95 % recall of what matters. *Placed* is honest: the threshold comes from the rows that place it.
*On the curve* is the best point of the judging rows' own curve, as the thesis has it; all
baselines are given that too.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec
import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from hedge.models.errors import DataError
from hedge.models.filtering import baselines
from hedge.models.filtering.baselines import best, named
from hedge.models.filtering.operating_point import (
    Point,
    for_accuracy,
    for_recall,
    optimum,
    point_at,
)
from hedge.models.filtering.worth import worth
from hedge.models.manifest import Reuse
from hedge.models.measures import Flags, Labels
from hedge.models.training.export import to_onnx
from hedge.models.training.infi.nets import ReuseHead
from hedge.models.training.infi.replaying import place_reuse, replay
from hedge.models.training.infi.teaching import (
    AUTHORS,
    Lesson,
    Part,
    Taught,
    features,
    run,
    teach_reuse,
    teach_skip,
    vocabulary_of,
)
from hedge.runtime.backends import open_model
from hedge.runtime.filters.key_cache import KeyCache

from .filters_tasks import FACTS, ONE_THREAD, Told, matters, microseconds, told
from .task import Place

NAME = "filters"
SEEDS = 3
ACCURACY, RECALL, CONFIDENCE = 0.9, 0.95, 0.95
OURS, AUTHORS_OWN = "this filter", "the authors' net"

Kind = Literal["skip", "reuse"]
Whose = Literal["ours", "authors"]
_Kept = TypeVar("_Kept")

TASKS: tuple[tuple[str, Kind], ...] = (
    ("har", "skip"),
    ("har", "reuse"),
    ("fsdd", "skip"),
    ("person", "skip"),
    ("person", "reuse"),
    ("keywords", "skip"),
    ("bearing", "skip"),
    ("reviews", "skip"),
    ("esc10", "skip"),
)
BESIDE: tuple[tuple[str, Kind], ...] = (
    ("har", "skip"),
    ("fsdd", "skip"),
    ("person", "skip"),
    ("keywords", "skip"),
    ("bearing", "skip"),
    ("reviews", "skip"),
    ("esc10", "skip"),
)
"""Those that the authors' own net is taught too; it takes minutes."""

_VERSION = "1"
_STEPS = 40  # of distances that are looked at on the curve


class Aimed(Struct, frozen=True, kw_only=True):
    """What a filter does on the judging rows for one aim; None: it cannot reach it."""

    placed: Point | None = None
    curve: Point | None = None


class Row(Struct, frozen=True, kw_only=True):
    """One filter of a task and seed. ``us`` is the time of one sample in one thread.

    Of a reuse filter that is with its look-up.
    """

    name: str
    accuracy: Aimed
    recall: Aimed
    us: float | None = None
    epochs: int | None = None


class Found(Struct, frozen=True, kw_only=True):
    """One task, kind and seed; ``counts`` are the rows that teach, place and judge."""

    task: str
    kind: Kind
    seed: int
    counts: tuple[int, int, int]
    redundant: float
    optimum: float
    model_us: float
    commonest: float | None = None
    rows: tuple[Row, ...]


class Filters(Struct, frozen=True, kw_only=True):
    """All that was found, task by task."""

    found: tuple[Found, ...]


FOUND = Filters


def study(place: Place) -> Filters:
    """Return the figures of every task and seed; those that are kept are not made again."""
    found = []
    for task, kind in TASKS:
        for seed in range(SEEDS):
            place.say(f"filters: {task}, {kind}, seed {seed}")
            found.append(_made(task, kind, dataclasses.replace(place, seed=seed)))
    return Filters(found=tuple(found))


def _file(keep: Path, one: str) -> Path:
    return keep / "filters" / f"{one}-{_VERSION}.json"


def _named_so(task: str, kind: Kind, place: Place) -> str:
    return f"{task}-{kind}-{place.seed}-{place.effort}"


def _made(task: str, kind: Kind, place: Place) -> Found:
    """Return one task and seed, with the authors' net where it is affordable."""
    found = one_task(task, kind, place)
    if (task, kind) not in BESIDE:
        return found
    theirs = authors_own(task, kind, place)
    return replace(found, rows=(found.rows[0], theirs, *found.rows[1:]))


def one_task(task: str, kind: Kind, place: Place) -> Found:
    """Return our filter and the baselines."""
    return _once(_named_so(task, kind, place), Found, lambda: _found(task, kind, place), place)


def authors_own(task: str, kind: Kind, place: Place) -> Row:
    """Return the authors' net, taught as they taught it, on the same rows."""
    name = f"{_named_so(task, kind, place)}-authors"
    return _once(name, Row, lambda: _own(task, kind, told(task, place), "authors", place), place)


def _once(name: str, type_: type[_Kept], make: Callable[[], _Kept], place: Place) -> _Kept:
    """Return what is kept by a name; make it if nothing is."""
    file = _file(place.keep, name)
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(msgspec.json.encode(make()))
    return msgspec.json.decode(file.read_bytes(), type=type_)


def _own(task: str, kind: Kind, rows: Told, whose: Whose, place: Place) -> Row:
    kept = matters(task, rows)
    if kind == "skip":
        return _skipping(task, rows, kept, whose, place)
    return _reusing(task, rows, kept, whose, place)


def _found(task: str, kind: Kind, place: Place) -> Found:
    rows = told(task, place)
    kept = matters(task, rows)
    judged = kept[rows.judged]
    return Found(
        task=task,
        kind=kind,
        seed=place.seed,
        counts=(len(rows.taught), len(rows.held), len(rows.judged)),
        redundant=float(1.0 - judged.mean()),
        optimum=optimum(judged, accuracy=ACCURACY) if kind == "skip" else 1.0,
        model_us=rows.model_us,
        commonest=_commonest(rows, kept),
        rows=(_own(task, kind, rows, "ours", place), *_baselines(rows, kept)),
    )


def _baselines(rows: Told, kept: Flags) -> Iterator[Row]:
    which = rows.judged
    seen = baselines.Told(rows.labels()[which], kept[which], rows.stream[which])
    for name, points in named(seen, rows.x[which]):
        yield _row(name, points)


def _commonest(rows: Told, kept: Flags) -> float:
    """Return how often the result that is the most frequent of what teaches would be right."""
    results = np.where(kept, rows.labels(), -1)
    values, counts = np.unique(results[rows.taught], return_counts=True)
    return float((results[rows.judged] == values[counts.argmax()]).mean())


def _row(name: str, points: Iterable[Point]) -> Row:
    points = list(points)
    return Row(
        name=name,
        accuracy=Aimed(curve=best(points, accuracy=ACCURACY)),
        recall=Aimed(curve=best(points, recall=RECALL)),
    )


def _skipping(task: str, rows: Told, kept: Flags, whose: Whose, place: Place) -> Row:
    target = kept[:, None].astype(np.float32)
    made = _taught(task, rows, target, teach_skip, whose, place)
    us, given = _given(made, rows)
    held, judged = (
        _Scored(one[:, 0].astype(np.float64), kept[which])
        for one, which in zip(given, (rows.held, rows.judged), strict=True)
    )
    return Row(
        name=OURS if whose == "ours" else AUTHORS_OWN,
        accuracy=Aimed(
            placed=_at(held, judged, _for_accuracy), curve=_at(judged, judged, _for_accuracy)
        ),
        recall=Aimed(
            placed=_at(held, judged, _for_recall), curve=_at(judged, judged, _just_recall)
        ),
        us=us,
        epochs=made.epochs,
    )


_Figures = NDArray[np.float64]


class _Scored(NamedTuple):
    """Rows (n,): a filter's logits, and which of them matter."""

    score: _Figures
    kept: Flags


def _for_accuracy(score: _Figures, kept: Flags) -> float:
    return for_accuracy(score, kept, accuracy=ACCURACY)


def _for_recall(score: _Figures, kept: Flags) -> float:
    return for_recall(score, kept, recall=RECALL, confidence=CONFIDENCE)


def _just_recall(score: _Figures, kept: Flags) -> float:
    """Return the highest threshold that keeps the recall on these very rows."""
    least = np.sort(score[kept])
    return float(np.nextafter(least[int((1.0 - RECALL) * len(least) + 1e-9)], -np.inf))


def _at(held: _Scored, judged: _Scored, place: Callable[[_Figures, Flags], float]) -> Point | None:
    """Return what comes of a threshold that ``held`` places; None where that cannot be."""
    try:
        return point_at(judged.score, judged.kept, place(held.score, held.kept))
    except DataError:  # too few rows that matter to hold a recall
        return None


def _taught(
    task: str,
    rows: Told,
    target: NDArray[Any],
    teach: Callable[..., Taught],
    whose: Whose,
    place: Place,
) -> Taught:
    seen = (FACTS[task].seen,)
    vocabulary = vocabulary_of(rows.x) if seen[0].modality == "text" else 0
    lesson = Lesson() if whose == "ours" else AUTHORS
    lesson = dataclasses.replace(lesson, epochs=max(1, round(lesson.epochs * place.effort)))
    return teach(
        lambda: features(seen, vocabulary=vocabulary, whose=whose),
        Part(rows.x[rows.taught], target[rows.taught]),
        Part(rows.x[rows.held], target[rows.held]),
        lesson=lesson,
        seed=place.seed,
        say=place.say,
    )


def _given(made: Taught, rows: Told) -> tuple[float, list[NDArray[np.float32]]]:
    """Return the time of one sample, and what the filter gives for the rows held and judged."""
    graph = to_onnx(made.net, shape=rows.x.shape[1:], dtype=rows.x.dtype.name)
    with closing(open_model(graph, format="onnx", where="filter", options=ONE_THREAD)) as model:
        us = microseconds(model, rows.x[rows.judged])
    return us, [run(made.net, rows.x[which]) for which in (rows.held, rows.judged)]


def _reusing(task: str, rows: Told, kept: Flags, whose: Whose, place: Place) -> Row:
    results = np.where(kept, rows.labels(), -1)
    made = _taught(task, rows, results, teach_reuse, whose, place)
    assert isinstance(made.net, ReuseHead)
    us, (held, judged) = _given(made, rows)
    apart = made.net.apart
    answers, truth = results[rows.held], results[rows.judged]
    by_accuracy = place_reuse(held, answers, apart=apart, accuracy=ACCURACY)
    could = place_reuse(judged, truth, apart=apart, accuracy=ACCURACY)
    there = [kept[which] for which in (rows.held, rows.judged)]
    near = _by_recall(held, answers, there[0], by_accuracy)
    furthest = _by_recall(judged, truth, there[1], could)

    def point(one: Reuse | None) -> Point | None:
        return None if one is None else _replayed(judged, truth, there[1], one)

    return Row(
        name=OURS if whose == "ours" else AUTHORS_OWN,
        accuracy=Aimed(placed=point(by_accuracy), curve=_reaching(point(could))),
        recall=Aimed(placed=point(near), curve=point(furthest)),
        us=us + _look_up_us(judged, truth, by_accuracy),
        epochs=made.epochs,
    )


def _look_up_us(keys: NDArray[np.float32], results: Labels, reuse: Reuse) -> float:
    """Return the median time of a look-up among what has been learnt from all of these rows."""
    answers = np.eye(int(results.max()) + 2, dtype=np.float32)
    cache = KeyCache(reuse, classes=len(answers), clock=time.monotonic_ns)
    for key, result in zip(keys, results, strict=True):
        if cache.find(key) is None:
            cache.insert(key, answers[result + 1], sample_id="")
    took = []
    for key in keys:
        began = time.perf_counter_ns()
        cache.find(key)
        took.append(time.perf_counter_ns() - began)
    return float(np.median(took)) / 1e3


def _reaching(point: Point | None) -> Point | None:
    return point if point is not None and point.accuracy >= ACCURACY else None


def _by_recall(
    keys: NDArray[np.float32], results: Labels, kept: Flags, reuse: Reuse
) -> Reuse | None:
    """Return it with the greatest distance at which the recall of what matters is reached."""
    for step in np.geomspace(4.0, 0.01, _STEPS).tolist():
        one = replace(reuse, distance=reuse.distance * step)
        if _replayed(keys, results, kept, one).recall >= RECALL:
            return one
    return None


def _replayed(keys: NDArray[np.float32], results: Labels, kept: Flags, reuse: Reuse) -> Point:
    told = replay(keys, results.astype(np.int64), reuse)
    right = told.labels == results
    return Point(
        threshold=reuse.distance,
        rate=told.rate(),
        recall=float(right[kept].mean()),
        accuracy=float(right.mean()),
    )


def page(found: Filters) -> str:
    """Return the tables as a page shows them."""
    return "\n\n".join((_facts(found), _by_accuracy(found), _at_recall(found)))


def _groups(found: Filters) -> Iterator[tuple[str, Kind, list[Found]]]:
    for task, kind in TASKS:
        seeds = [one for one in found.found if (one.task, one.kind) == (task, kind)]
        if seeds:
            yield task, kind, seeds


_NAMES = ("constant answer", "random", "last answer", "frame difference")


def _facts(found: Filters) -> str:
    head = ("task", "rows", "model", "redundant", "share (%)", "teach / place / judge")
    rows = []
    for task, kind, seeds in _groups(found):
        if (task, kind) in (("har", "reuse"), ("person", "reuse")):
            continue  # the same rows
        facts = FACTS[task]
        counts = " / ".join(str(round(_mean(one.counts[at] for one in seeds))) for at in range(3))
        share = _percent(one.redundant for one in seeds)
        rows.append((task, facts.data, facts.model, f"`{facts.rule}`", share, counts))
    return _table(head, rows)


def _by_accuracy(found: Filters) -> str:
    head = (
        "at 90 % accuracy",
        "seeds",
        "optimum",
        "**placed**: filtered",
        "accuracy",
        "recall",
        "**on the curve**",
        "of the optimum",
        "the authors' net, curve",
        *_NAMES,
        "all redundant: accuracy",
        "filter / the authors' / model (us)",
        "pays",
    )
    return _table(head, (_accuracy_row(*one) for one in _groups(found)))


def _accuracy_row(task: str, kind: Kind, seeds: list[Found]) -> list[str]:
    own = [_named(one, OURS) for one in seeds]
    theirs = [row for one in seeds for row in one.rows if row.name == AUTHORS_OWN]
    pairs = [*zip(own, seeds, strict=True)]
    placed = [_of(row.accuracy.placed) for row in own]
    micro = [
        f"{_mean(row.us or 0.0 for row in rows):.0f}" if rows else "-" for rows in (own, theirs)
    ]
    return [
        f"{task}, {kind}",
        str(len(seeds)),
        _percent(one.optimum for one in seeds),
        _percent(one.rate for one in placed),
        _percent(one.accuracy for one in placed),
        _percent(one.recall for one in placed),
        _percent(_rate(row.accuracy.curve) for row in own),
        _spread([_rate(row.accuracy.curve) / one.optimum for row, one in pairs], 3),
        _some(_rate(row.accuracy.curve) for row in theirs),
        *(_others([_named(one, name) for one in seeds], "accuracy") for name in _NAMES),
        _percent(_constant(one) for one in seeds),
        f"{micro[0]} / {micro[1]} / {_mean(one.model_us for one in seeds):.0f}",
        f"{sum(_pays(row, one) for row, one in pairs)} of {len(seeds)}",
    ]


def _constant(one: Found) -> float:
    """Return how often the commonest result would be right; for skip that is "redundant"."""
    return one.redundant if one.kind == "skip" else one.commonest or 0.0


def _at_recall(found: Filters) -> str:
    head = (
        "at 95 % recall of what matters",
        "**placed**: filtered",
        "recall",
        "accuracy",
        "**on the curve**",
        "the authors' net, curve",
        *_NAMES,
    )
    return _table(head, (_recall_row(*one) for one in _groups(found)))


def _recall_row(task: str, kind: Kind, seeds: list[Found]) -> list[str]:
    own = [_named(one, OURS) for one in seeds]
    theirs = [row for one in seeds for row in one.rows if row.name == AUTHORS_OWN]
    there = [row.recall.placed for row in own]
    return [
        f"{task}, {kind}",
        _some(None if one is None else one.rate for one in there),
        _some(None if one is None else one.recall for one in there),
        _some(None if one is None else one.accuracy for one in there),
        _percent(_rate(row.recall.curve) for row in own),
        _some(_rate(row.recall.curve) for row in theirs),
        *(_others([_named(one, name) for one in seeds], "recall") for name in _NAMES),
    ]


def _pays(row: Row, one: Found) -> bool:
    return worth(
        _rate(row.accuracy.placed), filter_cost=row.us or 0.0, model_cost=one.model_us
    ).pays


def _named(found: Found, name: str) -> Row:
    return next(row for row in found.rows if row.name == name)


def _of(point: Point | None) -> Point:
    """Return the point; where there is none nothing is filtered."""
    return Point(0.0, 0.0, 1.0, 1.0) if point is None else point


def _rate(point: Point | None) -> float:
    return _of(point).rate


def _others(rows: Sequence[Row], aim: Literal["accuracy", "recall"]) -> str:
    curves = [getattr(row, aim).curve for row in rows]
    return _some(None if curve is None else curve.rate for curve in curves)


def _some(values: Iterable[float | None]) -> str:
    """Return the mean of what there is, and how many seeds reach it where not all do."""
    values = list(values)
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    short = "" if len(there) == len(values) else f" ({len(there)} of {len(values)})"
    return _percent(there) + short


def _percent(values: Iterable[float]) -> str:
    return _spread([100 * value for value in values], 1)


def _spread(values: Sequence[float], digits: int) -> str:
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
