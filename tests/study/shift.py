"""A stream that shifts midway, and a gate that is back within its promise: by audits alone.

Two streams. Windows of motion of people on whom the gate was calibrated, then of people on whom
its promise fails; film reviews, then tweets, by the edge and the cloud of the reviews. Samples are
drawn with replacement from rows that no model was taught and that calibration did not see. The
promise, in the field, is agreement with the cloud: that is what is calibrated here, and what
audits see; what the labels say is shown beside it.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import random
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hedge.models.bundle import load_bundle
from hedge.models.calibration import TargetAccuracy, calibrate
from hedge.models.evidence import Array
from hedge.models.manifest import Calibration, Cloud, Edge
from hedge.models.measures import Labels
from hedge.runtime.bench.page.style import style
from hedge.runtime.bench.page.svg import (
    WIDTH,
    Scale,
    axis_x,
    axis_y,
    element,
    label,
    line,
    path,
    picture,
)
from hedge.runtime.both_models import part_outputs
from hedge.runtime.gate.audit import Said
from hedge.runtime.gate.gate import Gate
from hedge.runtime.gate.options import AuditOptions, GateOptions

from .kept import tasks
from .makers import maker
from .promises import CONFIDENCE, people_pool, score_of
from .task import SOFTMAX, Place

NAME = "shift"
SEEDS = 3
SHARE = 0.05
"""Of all samples, which are audited."""

BEFORE, AFTER = 10_000, 90_000
"""How many samples come before and after the shift."""

FEWER, FEWER_OF_TEXTS = 1 / 2, 3 / 4
"""The promised share of answers against the cloud's, as a part of that on all rows.

Of the texts 1,101 calibrate, which are too few for half of it.
"""

_WINDOW = 500
_DRAWN = 500  # audited samples of a course that are kept, evenly, for the picture
_MOST_PER_HOUR = 1_000_000
_CLOUD = Cloud(file="cloud")


class Half(NamedTuple):
    """Rows (N,) of a stream before or after its shift, each with its score.

    ``against`` the cloud is what the edge says, ``wrong`` by the label.
    """

    score: NDArray[np.float64]
    against: NDArray[np.bool_]
    wrong: NDArray[np.bool_]

    def error(self, total: float, *, by_label: bool = False) -> float:
        """Return the share that is against the cloud, of what a gate at ``total`` lets pass."""
        accepted = self.score < total
        found = (self.wrong if by_label else self.against)[accepted]
        return float(found.mean()) if len(found) else 0.0

    def coverage(self, total: float) -> float:
        """Return the share that a gate at ``total`` lets pass."""
        return float((self.score < total).mean())


class Stream(NamedTuple):
    """A stream that shifts, and the calibration of its gate, which has a promise."""

    name: str
    calibration: Calibration
    before: Half
    after: Half


class Audited(Struct, frozen=True, kw_only=True):
    """An audited sample: its place in the stream, and how the gate stood afterwards.

    ``error`` is the share of audited answers that were wrong since the gate was last moved, None
    without any, ``low`` and ``high`` its anytime-valid bounds.
    """

    at: int
    total: float
    error: float | None
    low: float | None
    high: float | None


class Window(Struct, frozen=True, kw_only=True):
    """What the edge answered alone of five hundred samples that end ``at``: None if nothing."""

    at: int
    answered: float
    against: float | None
    wrong: float | None


class Course(Struct, frozen=True, kw_only=True):
    """What became of a stream.

    The errors are those of the gate where calibration put it, before and after the shift, and
    where it stood in the end, against the cloud; ``label`` ones against the labels. ``back_after``
    audited samples of the shifted stream the gate stood where its true error is within ``limit``,
    and ``within`` is the share of what came later for which that was so. ``alarms`` is how often
    the gate was moved before anything had changed.
    """

    stream: str
    seed: int
    limit: float
    score: str
    calibrated: float
    error_before: float
    error_after: float
    label_before: float
    label_after: float
    coverage_before: float
    coverage_after: float
    alarms: int
    moved_after: int | None
    back_after: int | None
    within: float
    total_in_the_end: float
    error_in_the_end: float
    label_in_the_end: float
    coverage_in_the_end: float
    audits: tuple[Audited, ...] = ()
    windows: tuple[Window, ...] = ()


FOUND = tuple[Course, ...]
"""What `study` returns."""


def study(place: Place) -> tuple[Course, ...]:
    """Return the courses of both streams for three seeds; those of the first in full."""
    found = []
    for seed in range(place.seed, place.seed + SEEDS):
        there = dataclasses.replace(place, seed=seed, acceptance=None)
        for stream in (motion(there), texts(there)):
            course = follow(stream, seed=seed)
            place.say(f"{NAME}: {told(course)}")
            found.append(course if seed == place.seed else _short(course))
    return tuple(found)


def motion(place: Place) -> Stream:
    """Return windows of half of the people, then of those of the rest who break the promise."""
    pool = people_pool(place)
    assert pool.group is not None
    names = np.unique(pool.group)
    known = np.isin(
        pool.group, np.random.default_rng(place.seed).permutation(names)[: len(names) // 2]
    )
    held = known & (np.random.default_rng(place.seed).random(len(known)) < 0.5)
    cloud = pool.cloud.argmax(1)
    calibration = promise(pool.edge_model, pool.edge[held], pool.cloud[held], seed=place.seed)
    score = score_of(pool.edge_model, pool.edge, calibration)
    whole = Half(score, pool.edge.argmax(1) != cloud, ~pool.right)
    broken = [
        one
        for one in names
        if not known[pool.group == one].any()
        and _rows(whole, pool.group == one).error(calibration.total) > limit(calibration)
    ]
    return Stream(
        f"people: {len(names) // 2}, then {len(broken)} others",
        calibration,
        _rows(whole, known & ~held),
        _rows(whole, np.isin(pool.group, broken)),
    )


def texts(place: Place) -> Stream:
    """Return film reviews, then tweets, by the models of the reviews."""
    reviews = next(one for one in tasks(maker("sst3"), place) if one.edge.name == SOFTMAX)
    tweets = maker("tweets").material(place).test
    bundle = load_bundle(reviews.bundle)
    held = reviews.calibration
    calibration = promise(
        reviews.edge, held.edge, held.cloud, fewer=FEWER_OF_TEXTS, seed=place.seed
    )
    halves = [
        _half(reviews.edge, calibration, edge, cloud, y)
        for edge, cloud, y in (
            (reviews.test.edge, reviews.test.cloud, reviews.test.y),
            (
                part_outputs(bundle, reviews.edge, tweets),
                part_outputs(bundle, reviews.cloud, tweets),
                tweets.y,
            ),
        )
        if y is not None
    ]
    return Stream("texts: film reviews, then tweets", calibration, *halves)


def promise(
    edge: Edge, outputs: Array, cloud: Array, *, fewer: float = FEWER, seed: int
) -> Calibration:
    """Return the calibration of a gate that promises agreement with the cloud, by rows."""
    says = cloud.argmax(1)
    accuracy = round(1.0 - fewer * float((outputs.argmax(1) != says).mean()), 3)
    return calibrate(
        outputs,
        cloud,
        says,
        edge=edge,
        cloud=_CLOUD,
        aim=TargetAccuracy(accuracy=accuracy, confidence=CONFIDENCE, by="row"),
        seed=seed,
        data_sha256="0" * 64,
    )


def limit(calibration: Calibration) -> float:
    """Return the share of answers that may be wrong by a calibration's promise."""
    assert calibration.promise is not None
    return 1.0 - calibration.promise.accuracy


def follow(
    stream: Stream, *, seed: int, before: int = BEFORE, after: int = AFTER, share: float = SHARE
) -> Course:
    """Send a stream of ``before`` and ``after`` samples past a gate that audits a ``share``."""
    gate = Gate(
        stream.calibration,
        stream=stream.name,
        options=GateOptions(drift=False),
        audit=AuditOptions(share=share, most_per_hour=_MOST_PER_HOUR),
        clock=functools.partial(next, itertools.count(0, 3600 * 10**9)),  # never short
        rng=random.Random(seed),  # noqa: S311  no secret
    )
    drawn = np.random.default_rng(seed)
    totals = np.empty(before + after)
    audits, scores, against, wrong = [], [], [], []
    for part, rows in ((stream.before, before), (stream.after, after)):
        chosen = drawn.integers(len(part.score), size=rows)
        scores.append(part.score[chosen])
        against.append(part.against[chosen])
        wrong.append(part.wrong[chosen])
    sent = Half(np.concatenate(scores), np.concatenate(against), np.concatenate(wrong))
    for at, (score, fails) in enumerate(
        zip(sent.score.tolist(), sent.against.tolist(), strict=True)
    ):
        totals[at] = gate.policy.total
        if gate.note(score):
            said = Said(score, int(fails), accepted=score < gate.policy.total)
            gate.learn(said, truth=0)
            audits.append(_audited(gate, at))
    return _course(stream, sent, totals, audits, seed=seed, before=before)


def _audited(gate: Gate, at: int) -> Audited:
    state = gate.state()
    assert state.audit is not None
    return Audited(
        at=at,
        total=state.total,
        error=state.audit.error,
        low=state.audit.low,
        high=state.audit.high,
    )


def _course(
    stream: Stream,
    sent: Half,
    totals: NDArray[np.float64],
    audits: Sequence[Audited],
    *,
    seed: int,
    before: int,
) -> Course:
    calibrated, allowed = stream.calibration.total, limit(stream.calibration)
    first, then = stream.before, stream.after
    later = [one for one in audits if one.at >= before]
    good = {total: then.error(total) <= allowed for total in {one.total for one in later}}
    back = next((at for at, one in enumerate(later) if good[one.total]), None)
    moved = next((at for at, one in enumerate(later) if one.total != calibrated), None)
    since = [] if back is None else [good[one.total] for one in later[back:]]
    early = totals[: before + 1]
    end = float(totals[-1])
    return Course(
        stream=stream.name,
        seed=seed,
        limit=allowed,
        score=stream.calibration.score,
        calibrated=calibrated,
        error_before=first.error(calibrated),
        error_after=then.error(calibrated),
        label_before=first.error(calibrated, by_label=True),
        label_after=then.error(calibrated, by_label=True),
        coverage_before=first.coverage(calibrated),
        coverage_after=then.coverage(calibrated),
        alarms=int(np.count_nonzero(np.diff(early))),
        moved_after=None if moved is None else moved + 1,
        back_after=None if back is None else back + 1,
        within=float(np.mean(since)) if since else 0.0,
        total_in_the_end=end,
        error_in_the_end=then.error(end),
        label_in_the_end=then.error(end, by_label=True),
        coverage_in_the_end=then.coverage(end),
        audits=tuple(audits[:: -(-len(audits) // _DRAWN)]),
        windows=tuple(_windows(sent, totals)),
    )


def _windows(sent: Half, totals: NDArray[np.float64]) -> Iterator[Window]:
    for begin in range(0, len(totals) - _WINDOW + 1, _WINDOW):
        part = slice(begin, begin + _WINDOW)
        accepted = sent.score[part] < totals[part]
        some = bool(accepted.any())
        yield Window(
            at=begin + _WINDOW,
            answered=float(accepted.mean()),
            against=float(sent.against[part][accepted].mean()) if some else None,
            wrong=float(sent.wrong[part][accepted].mean()) if some else None,
        )


def _half(edge: Edge, calibration: Calibration, mine: Array, cloud: Array, y: Labels) -> Half:
    says = mine.argmax(1)
    return Half(score_of(edge, mine, calibration), says != cloud.argmax(1), says != y)


def _rows(half: Half, which: NDArray[np.bool_]) -> Half:
    return Half(half.score[which], half.against[which], half.wrong[which])


def _short(course: Course) -> Course:
    """Return it without what only the picture shows."""
    given = {name: getattr(course, name) for name in course.__struct_fields__}
    return Course(**{**given, "audits": (), "windows": ()})


def told(course: Course) -> str:
    """Return what became of a stream, in a line."""
    return (
        f"{course.stream}, seed {course.seed}: {course.limit:.1%} may be against the cloud; "
        f"{course.error_before:.1%}, shifted {course.error_after:.1%}; back after "
        f"{course.back_after} audited samples, in the end {course.error_in_the_end:.1%} at "
        f"coverage {course.coverage_in_the_end:.1%}"
    )


def page(found: Iterable[Course]) -> str:
    """Return the table for the page."""
    head = (
        "| stream | seed | may be against the cloud | before | shifted, gate as calibrated | "
        "gate moved after | back within the promise after | within from then on | in the end | "
        "edge answers: before, shifted, in the end |\n"
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|"
    )
    return "\n".join([head, *(_row(one) for one in found)])


def _row(one: Course) -> str:
    def audits(count: int | None) -> str:
        return "never" if count is None else f"{count} audited samples"

    shares = (one.coverage_before, one.coverage_after, one.coverage_in_the_end)
    return (
        f"| {one.stream} | {one.seed} | {one.limit:.1%} | {one.error_before:.1%} | "
        f"{one.error_after:.1%} | {audits(one.moved_after)} | {audits(one.back_after)} | "
        f"{one.within:.0%} | {one.error_in_the_end:.1%} (by label {one.label_in_the_end:.1%}) | "
        f"{', '.join(f'{share:.0%}' for share in shares)} |"
    )


_LEFT, _RIGHT, _HIGH, _GAP, _TITLE = 62.0, WIDTH - 20.0, 120.0, 56.0, 40.0


def drawing(found: Iterable[Course]) -> str:
    """Return the picture, an SVG file: of each stream that is there in full, over its samples."""
    parts: list[str] = []
    top = 0.0
    for course in found:
        if course.windows:
            parts.extend(_stream(course, top))
            top += _TITLE + 3 * (_HIGH + _GAP) + 30.0
    ground = element("rect", x=0, y=0, width=WIDTH, height=top, style="fill: var(--ground)")
    look = element("style", style())
    svg = picture([look, ground, *parts], height=top, title="A stream shifts; the gate follows")
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def _stream(course: Course, top: float) -> Iterator[str]:
    """Yield the panels of a stream: the gate, what audits know, and the true error."""
    end = max(course.windows[-1].at, 1)
    along = Scale(0.0, float(end), _LEFT, _RIGHT)
    yield label(_LEFT - 8, top + 20, course.stream, class_="name")
    first, second, third = (top + _TITLE + 24 + n * (_HIGH + _GAP) for n in range(3))
    yield from _gate(course, along, first)
    yield from _known(course, along, second)
    yield from _true(course, along, third)
    bottom = third + _HIGH
    shift = along(float(BEFORE))
    yield line(shift, first - 6, shift, bottom, class_="rule")
    yield label(shift + 6, first + 14, "the stream shifts", class_="small")
    yield from axis_x(along, bottom, bottom, unit="samples")


def _gate(course: Course, along: Scale, top: float) -> Iterator[str]:
    shares = [one.answered for one in course.windows]
    up = Scale(0.0, max(1.0, *shares), top + _HIGH, top)
    yield from axis_y(up, _LEFT, _RIGHT, named="the edge answers alone (share of samples)")
    yield path([(along(one.at), up(one.answered)) for one in course.windows], class_="line0")


def _known(course: Course, along: Scale, top: float) -> Iterator[str]:
    up = Scale(0.0, _most(course), top + _HIGH, top)
    yield from axis_y(up, _LEFT, _RIGHT, named="audited answers against the cloud, with bounds")
    known = [one for one in course.audits if one.error is not None]
    high = [(along(one.at), up(one.high or 0.0)) for one in known]
    low = [(along(one.at), up(one.low or 0.0)) for one in known]
    if len(known) > 1:
        yield element("g", path([*high, *reversed(low)], class_="area5", closed=True), opacity=0.4)
        yield path([(along(one.at), up(one.error or 0.0)) for one in known], class_="line0")
    yield from _allowed(course, up)


def _true(course: Course, along: Scale, top: float) -> Iterator[str]:
    up = Scale(0.0, _most(course), top + _HIGH, top)
    yield from axis_y(up, _LEFT, _RIGHT, named="answers of the edge alone that are wrong")
    for name, colour in (("against", 1), ("wrong", 2)):
        points = [
            (along(one.at), up(value))
            for one in course.windows
            if (value := getattr(one, name)) is not None
        ]
        yield path(points, class_=f"line{colour}")
    yield label(
        _RIGHT, top - 12, "against the cloud; by the labels (green)", at="end", class_="small"
    )
    yield from _allowed(course, up)


def _allowed(course: Course, up: Scale) -> Iterator[str]:
    y = up(course.limit)
    yield line(_LEFT, y, _RIGHT, y, class_="rule")
    yield label(_RIGHT, y - 5, "promised", at="end", class_="small")


def _most(course: Course) -> float:
    """Return how far the axis of errors goes."""
    seen = [value for one in course.windows for value in (one.against, one.wrong) if value]
    return max(2.0 * course.limit, *seen)
