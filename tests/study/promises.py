"""The accuracy promise: how often it is broken when calibration and use are drawn anew.

Rows of a pool are split at random, half to calibrate on and half to use, two hundred times. No
model has been taught the rows that it is judged on: digits and people's windows are cross-fitted,
each part by models that were taught the others. What is promised is that the edge, where it
answers alone, errs half as often as it does on all rows; of people a third less often.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from msgspec import Struct
from numpy.typing import NDArray

from hedge.models.calibration import TargetAccuracy, calibrate
from hedge.models.dataset import Dataset
from hedge.models.errors import DataError
from hedge.models.evidence import Array
from hedge.models.manifest import Calibration, Cloud, Edge
from hedge.models.measures import Labels, hits
from hedge.models.opinion import Assessor
from hedge.models.training import digits, har
from hedge.models.training.fitting import Course, fit, repeatable, run
from hedge.models.training.fitting import Material as Lessons

from . import digits as digit_rows
from . import people
from .kept import tasks
from .makers import maker
from .task import SOFTMAX, Place
from .teaching import cross_entropy

NAME = "promises"
SPLITS = 200
CONFIDENCE = 0.95
FEWER = {"row": 1 / 2, "person": 2 / 3}
"""The promised share of errors, as a part of that of the edge on all rows."""

_EDGE, _CLOUD = Edge(name=SOFTMAX, file="edge"), Cloud(file="cloud")
_VERSION = "1"
_FOLDS = {"digits": 5, "har": 7}

Drawn = Literal["row", "person"]


class Pool(NamedTuple):
    """What both models make of N rows that they were not taught; ``group`` (N,) are people."""

    name: str
    edge_model: Edge
    edge: Array
    cloud: Array
    y: Labels
    group: NDArray[Any] | None = None

    @property
    def right(self) -> NDArray[np.bool_]:
        """Whether the edge is right, (N,)."""
        return hits(self.edge, self.y)


class Kept(Struct, frozen=True, kw_only=True):
    """How a promise was kept over the splits of a pool.

    ``drawn`` says whether rows or people were drawn, ``by`` how was calibrated. A split is
    ``broken`` if the edge's own answers on the half in use are right less often than
    ``promised``; in ``refused`` of them calibration would promise nothing. ``accuracy`` of what
    the edge answers alone, ``coverage`` and ``slack``, accuracy less what is promised, are means
    over the splits with a promise; ``strays`` is how far coverage strays.
    """

    task: str
    drawn: Drawn
    by: Literal["row", "group"]
    rows: int
    people: int | None
    splits: int
    edge_accuracy: float
    promised: float
    confidence: float
    broken: int
    refused: int
    accuracy: float
    coverage: float
    strays: float
    slack: float


FOUND = tuple[Kept, ...]
"""What `study` returns."""


def study(place: Place) -> tuple[Kept, ...]:
    """Return how all the promises were kept."""
    motion = people_pool(place)
    told = [
        kept(digits_pool(place), drawn="row", by="row", seed=place.seed),
        kept(motion, drawn="row", by="row", seed=place.seed),
        kept(pictures_pool(place), drawn="row", by="row", seed=place.seed),
        kept(motion, drawn="person", by="row", seed=place.seed),
        kept(motion, drawn="person", by="group", seed=place.seed),
    ]
    for one in told:
        place.say(f"{NAME}: {line(one)}")
    return tuple(told)


def kept(
    pool: Pool,
    *,
    drawn: Drawn,
    by: Literal["row", "group"],
    seed: int,
    splits: int = SPLITS,
    promised: float | None = None,
) -> Kept:
    """Return how a promise is kept over ``splits`` halvings of the pool.

    ``promised`` None: as `FEWER` has it.
    """
    edge_accuracy = float(pool.right.mean())
    if promised is None:
        promised = round(1.0 - (1.0 - edge_accuracy) * FEWER[drawn], 3)
    aim = TargetAccuracy(accuracy=promised, confidence=CONFIDENCE, by=by)
    found = [_one(pool, held, aim=aim, seed=seed) for held in halves(pool, drawn, splits, seed)]
    held_to = [one for one in found if one is not None]
    accuracy, coverage = np.array(held_to).reshape(-1, 2).T
    return Kept(
        task=pool.name,
        drawn=drawn,
        by=by,
        rows=len(pool.y),
        people=None if pool.group is None else len(np.unique(pool.group)),
        splits=splits,
        edge_accuracy=edge_accuracy,
        promised=promised,
        confidence=CONFIDENCE,
        broken=int((accuracy < promised).sum()),
        refused=splits - len(held_to),
        accuracy=_mean(accuracy),
        coverage=_mean(coverage),
        strays=float(coverage.std()) if len(coverage) else 0.0,
        slack=_mean(accuracy) - promised,
    )


def halves(pool: Pool, drawn: Drawn, splits: int, seed: int) -> Iterator[NDArray[np.bool_]]:
    """Yield which rows are calibrated on, (N,): half of them, or all of half of the people."""
    units = np.arange(len(pool.y)) if drawn == "row" else pool.group
    assert units is not None, pool.name
    names, unit = np.unique(units, return_inverse=True)
    random = np.random.default_rng(seed)
    for _ in range(splits):
        chosen = random.permutation(len(names)) < (len(names) + 1) // 2
        yield chosen[unit]


def _one(
    pool: Pool, held: NDArray[np.bool_], *, aim: TargetAccuracy, seed: int
) -> tuple[float, float] | None:
    """Return accuracy and coverage of the edge alone in use; None: nothing is promised."""
    try:
        found = calibrate(
            pool.edge[held],
            pool.cloud[held],
            pool.y[held],
            edge=pool.edge_model,
            cloud=_CLOUD,
            aim=aim,
            group=None if aim.by == "row" or pool.group is None else pool.group[held],
            seed=seed,
            data_sha256=hashlib.sha256(held.tobytes()).hexdigest(),
        )
    except DataError:
        return None
    accepted = score_of(pool.edge_model, pool.edge[~held], found) < found.total
    if not accepted.any():
        return 1.0, 0.0  # nothing is answered alone, so nothing is answered wrongly
    return float(pool.right[~held][accepted].mean()), float(accepted.mean())


def score_of(edge: Edge, outputs: Array, calibration: Calibration) -> NDArray[np.float64]:
    """Return the score (N,) by which a calibrated gate goes."""
    assessor = Assessor.of(edge, classes=outputs.shape[1], score=calibration.scoring)
    return assessor.assess_batch(outputs).score


def digits_pool(place: Place) -> Pool:
    """Return the digits, by nets that were taught four fifths of the others."""
    material = digit_rows.material(place)
    parts = [material.train(), material.calibration, material.test]
    random = np.random.default_rng(place.seed)
    data = _joined(parts)
    part = random.permutation(len(data.x)) % _FOLDS["digits"]
    made = digits.plan(place.effort)
    return _cross_fitted("digits", data, part, made.edge, made.cloud, place)


def people_pool(place: Place) -> Pool:
    """Return the windows of all people, each person's by nets that were taught of the others."""
    material = people.material(dataclasses.replace(place, acceptance=None))
    data = _joined([material.train(), material.calibration, material.test])
    assert data.group is not None
    names, which = np.unique(data.group, return_inverse=True)
    part = np.random.default_rng(place.seed).permutation(len(names))[which] % _FOLDS["har"]
    made = har.plan(len(data.labels or ()), effort=place.effort)
    edge = dataclasses.replace(made.edge, net=people.Edge)
    return _cross_fitted("har", data, part, edge, made.cloud, place)


def pictures_pool(place: Place) -> Pool:
    """Return the open test pictures, which neither ResNet8 nor the larger net was taught."""
    found = next(
        one
        for one in tasks(maker("cifar10"), dataclasses.replace(place, acceptance=None))
        if one.edge.name == SOFTMAX
    )
    both = found.calibration, found.test
    return Pool(
        "cifar10",
        found.edge,
        np.concatenate([one.edge for one in both]),
        np.concatenate([one.cloud for one in both]),
        np.concatenate([one.y for one in both]),
    )


def _cross_fitted(
    name: str,
    data: Dataset,
    part: NDArray[np.intp],
    edge: Course,
    cloud: Course,
    place: Place,
) -> Pool:
    """Return the outputs for each part by nets that were taught all other parts."""
    assert data.y is not None, name
    file = place.keep / f"pool-{name}-{_VERSION}-{place.seed}-{place.effort}.npz"
    if not file.exists():
        plain = dataclasses.replace(edge, loss=cross_entropy)
        outputs = [_fold(name, data, part == one, (plain, cloud), place) for one in np.unique(part)]
        both = np.empty((2, len(part), outputs[0].shape[2]), np.float32)
        for one, found in zip(np.unique(part), outputs, strict=True):
            both[:, part == one] = found
        place.keep.mkdir(parents=True, exist_ok=True)
        np.savez(file.with_suffix(".partial.npz"), edge=both[0], cloud=both[1])
        file.with_suffix(".partial.npz").rename(file)
    with np.load(file, allow_pickle=False) as npz:
        return Pool(name, _EDGE, npz["edge"], npz["cloud"], data.y, data.group)


def _fold(
    name: str,
    data: Dataset,
    out: NDArray[np.bool_],
    courses: tuple[Course, ...],
    place: Place,
) -> Array:
    """Return (2, n, K) the outputs of edge and cloud on the rows that are left out."""
    assert data.y is not None, name
    x, y = torch.from_numpy(data.x.astype(np.float32)), torch.from_numpy(data.y)
    left = torch.from_numpy(out)
    lessons = Lessons(x[~left], y[~left], x[left], y[left])
    outputs = []
    with repeatable(place.seed):
        for what, course in zip(("edge", "cloud"), courses, strict=True):
            net = fit(course, lessons, name=f"{NAME}: {name}, {what}", say=place.say)
            outputs.append(run(net, lessons.check_x).numpy())
    return np.stack(outputs)


def _joined(parts: Iterable[Dataset]) -> Dataset:
    """Return the data sets as one."""
    every = [*parts]
    first = every[0]
    return Dataset(
        x=np.concatenate([one.x for one in every]),
        y=np.concatenate([one.y for one in every if one.y is not None]),
        group=None
        if first.group is None
        else np.concatenate([one.group for one in every if one.group is not None]),
        labels=first.labels,
    )


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else 0.0


def line(one: Kept) -> str:
    """Return how a promise was kept, in a line."""
    return (
        f"{one.task}, new {one.drawn}s, by {one.by}: {one.promised:.1%} promised, "
        f"broken in {one.broken} of {one.splits} (refused {one.refused}), "
        f"accuracy {one.accuracy:.1%}, coverage {one.coverage:.1%}"
    )


def page(found: Iterable[Kept]) -> str:
    """Return the table for the page."""
    head = (
        "| task | new | calibrated by | edge on all | promised of its own answers | broken | "
        "accuracy of these | coverage | slack |\n|---|---|---|---:|---:|---:|---:|---:|---:|"
    )
    return "\n".join([head, *(_row(one) for one in found)])


def _row(one: Kept) -> str:
    refused = f" ({one.refused} promise nothing)" if one.refused else ""
    unit = "people" if one.drawn == "person" else "rows"
    return (
        f"| {one.task} | {unit} | {one.by} | {one.edge_accuracy:.3f} | {one.promised:.3f} | "
        f"{one.broken} of {one.splits}{refused} | {one.accuracy:.3f} | "
        f"{one.coverage:.2f} ± {one.strays:.2f} | {one.slack:+.3f} |"
    )
