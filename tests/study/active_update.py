"""A skip filter on a stream that shifts midway: frozen, or taught anew by labels.

HAR by person, SITTING is kept. The declared shift: from then on other people wear the phone turned
by 90° about its z axis (x to y, y to -x, of all three sensors). The measure is a larger net that
was taught other people, worn both ways: what it says is what a far end would. Every way of updating
has as many labels in the end, and teaches the same net at the same moments, from the same older
rows and its own labels; they differ in which samples are labelled only.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from hedge.models.measures import Flags
from hedge.models.training.infi.teaching import Lesson, Part, features, teach_skip
from hedge.models.training.infi.teaching import run as net_run
from hedge.models.training.infi.view import View
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
from hedge.runtime.filters.label_options import LabelOptions
from hedge.runtime.filters.least_certain import LeastCertain

from .task import Place

NAME = "active_update"
SEEDS = 3
SHARE = 0.1
"""Of the samples, which are labelled."""

RECALL = 0.95
EVERY = 400
"""Samples between two updates, counted from the shift on."""

WAYS = ("frozen", "periodic", "random", "active")
"""Labelled is nothing; every so many samples one; what a lot decides; what `LeastCertain` chooses:
half by lot, half the least certain."""

PARTS = {
    "before": (None, 0),
    "shifted": (0, EVERY),
    "after the first update": (EVERY, 2 * EVERY),
    "after the second": (2 * EVERY, None),
    "all after the shift": (0, None),
}
"""Of the stream, from and to, counted from the shift on."""

_KEPT = 3  # SITTING
_LARGE, _OLDER, _BEFORE = 8, 5, 2  # people of the larger net, of the older rows, before the shift
_SEEN = (View("vector", (9, 128), "CT"),)
_LESSON = Lesson(epochs=15, patience=5)
_HELD = 4  # every one of so many labels is held out, and places the threshold
_LEAST_THAT_MATTER = 5  # of these, or older rows place it with them
_WINDOW = 200  # samples of a point in the picture

Rows = NDArray[Any]
Say = Callable[[str], None]


class Stretch(Struct, frozen=True, kw_only=True):
    """What a way comes to on ``rows`` samples of the stream; recall None: none mattered."""

    part: str
    rows: int
    rate: float
    recall: float | None
    accuracy: float


class Window(Struct, frozen=True, kw_only=True):
    """Of samples that end ``at``, from the shift on: how many mattered, and were lost."""

    at: int
    rows: int
    matter: int
    lost: int


class Course(Struct, frozen=True, kw_only=True):
    """What one way comes to. ``early`` labels are those before the shift."""

    seed: int
    way: str
    labels: int
    early: int
    stretches: tuple[Stretch, ...]
    windows: tuple[Window, ...]


FOUND = tuple[Course, ...]
"""What `study` returns."""


class Stream(NamedTuple):
    """Samples x (N, 9, 128), of which ``shift`` come first as they always were."""

    x: Rows
    matters: Flags
    shift: int


class Filter(NamedTuple):
    """What it gives for rows, and at which of these it still drops one."""

    logits: Callable[[Rows], NDArray[np.float64]]
    threshold: float


Teach = Callable[[Part, Part], Filter]
"""Makes a filter of older rows, and of labels."""


def study(place: Place) -> tuple[Course, ...]:
    """Return what each way comes to, for three seeds."""
    found: list[Course] = []
    for seed in range(place.seed, place.seed + SEEDS):
        found += courses(dataclasses.replace(place, seed=seed))
    return tuple(found)


def courses(place: Place) -> Iterator[Course]:
    """Yield what each way comes to, by the people of one seed."""
    stream, older = material(place)

    def teach(old: Part, labels: Part) -> Filter:
        return taught(old, labels, seed=place.seed)

    first = teach(older, _labelled(stream, []))
    active, labels = follow(stream, older, first, Active(place.seed), teach, place)
    many = len(labels)
    yield _course("frozen", stream, follow(stream, older, first, At([]), teach, place), place.seed)
    for way, chosen in _others(len(stream.x), many, seed=place.seed):
        yield _course(
            way, stream, follow(stream, older, first, At(chosen), teach, place), place.seed
        )
    yield _course("active", stream, (active, labels), place.seed)


def _others(rows: int, many: int, *, seed: int) -> Iterator[tuple[str, list[int]]]:
    """Yield which of ``rows`` samples the ways that look at none of them have labelled."""
    yield "periodic", np.linspace(0, rows, many, endpoint=False).astype(int).tolist()
    yield "random", np.random.default_rng(seed).choice(rows, many, replace=False).tolist()


def material(place: Place) -> tuple[Stream, Part]:
    """Return the stream of a seed, and the older rows, by what the larger net says."""
    with np.load(place.data / "har_windows" / "har_windows_train.npz") as arrays:
        x, y, who = arrays["X"].astype(np.float32), arrays["y"], arrays["subject"]
    people = np.random.default_rng(place.seed).permutation(np.unique(who))
    large, older, before, after = np.split(people, np.cumsum([_LARGE, _OLDER, _BEFORE]))
    taught_by, old = np.isin(who, large), x[np.isin(who, older)]
    says = _larger_net(x[taught_by], y[taught_by], seed=place.seed)
    first, then = (
        np.concatenate([np.flatnonzero(who == one) for one in some]) for some in (before, after)
    )
    stream = np.concatenate((x[first], turned(x[then])))
    said, truth = says(stream), np.concatenate((y[first], y[then]))
    right = np.mean(said == truth)
    place.say(f"{NAME}: seed {place.seed}: the larger net is right on {right:.1%} of the stream")
    return Stream(stream, said == _KEPT, len(first)), _part(old, says(old) == _KEPT)


def turned(x: Rows) -> Rows:
    """Return windows (N, 9, 128) as of a phone that is turned by 90° about its z axis."""
    found: Rows = x.copy()
    for at in (0, 3, 6):
        found[:, at], found[:, at + 1] = x[:, at + 1], -x[:, at]
    return found


def _larger_net(x: Rows, y: Rows, *, seed: int) -> Callable[[Rows], Rows]:
    """Return what a net says (N,) that was taught these people, worn both ways."""
    both, target = np.concatenate((x, turned(x))), np.eye(6, dtype=np.int64)[np.tile(y, 2)]
    teach, held = _apart(len(both), seed=seed)
    found = teach_skip(
        lambda: features(_SEEN),
        Part(both[teach], target[teach]),
        Part(both[held], target[held]),
        lesson=_LESSON,
        seed=seed,
        say=lambda _: None,
    )
    return lambda rows: net_run(found.net, rows).argmax(axis=1)


def _apart(rows: int, *, seed: int) -> tuple[Rows, Rows]:
    order = np.random.default_rng(seed).permutation(rows)
    return order[rows // 5 :], order[: rows // 5]


def _part(x: Rows, matters: Flags) -> Part:
    return Part(x, matters[:, None].astype(np.int64))


def _labelled(stream: Stream, labels: Sequence[int]) -> Part:
    rows = np.array(labels, np.intp)
    return _part(stream.x[rows], stream.matters[rows])


class At:
    """Labels the samples at these places, whatever a filter makes of them."""

    def __init__(self, places: Iterable[int]) -> None:
        self._places = set(places)

    def choose(self, begin: int, logits: NDArray[np.float64], threshold: float) -> list[int]:
        """Return which of the samples from ``begin`` on are labelled."""
        del threshold
        return [at for at in range(begin, begin + len(logits)) if at in self._places]


class Active:
    """Labels as a device does by `filter_labels`, with its own default of lots."""

    def __init__(self, seed: int, options: LabelOptions | None = None) -> None:
        self._options = options or LabelOptions(share=SHARE, most_per_hour=1_000_000)
        self._rng = random.Random(seed)  # noqa: S311 -- no secret

    def choose(self, begin: int, logits: NDArray[np.float64], threshold: float) -> list[int]:
        """Return which of the samples from ``begin`` on are labelled; each filter begins anew."""
        hours = iter(range(10**9))
        chooser = LeastCertain(
            self._options, rng=self._rng, clock=lambda: next(hours) * 3600 * 10**9
        )
        certainty = np.abs(logits - threshold).tolist()
        return [begin + at for at, one in enumerate(certainty) if chooser.choose(one)]


def follow(
    stream: Stream, older: Part, now: Filter, choice: At | Active, teach: Teach, place: Place
) -> tuple[Flags, list[int]]:
    """Serve the stream, and teach the filter anew every so often.

    Returns:
        Which samples (N,) were dropped, and which were labelled.
    """
    labels: list[int] = []
    dropped = np.zeros(len(stream.x), np.bool_)
    edges = [*range(stream.shift % EVERY or EVERY, len(stream.x), EVERY), len(stream.x)]
    begin = 0
    for end in edges:
        logits = now.logits(stream.x[begin:end])
        dropped[begin:end] = logits <= now.threshold
        fresh = choice.choose(begin, logits, now.threshold)
        labels += fresh
        begin = end
        if fresh and end < len(stream.x):
            now = teach(older, _labelled(stream, labels))
    lost = np.mean(dropped[stream.shift :] & stream.matters[stream.shift :])
    place.say(
        f"{NAME}: seed {place.seed}, {type(choice).__name__}, {len(labels)} labels: "
        f"accuracy {1 - lost:.1%} after the shift"
    )
    return dropped, labels


def taught(old: Part, labels: Part, *, seed: int) -> Filter:
    """Teach a filter by older rows and labels, which count as much; the latter place it.

    Every fourth label is held out. So are older rows, which place it where too few labels matter.
    """
    teach, held = _apart(len(old.x), seed=seed)
    is_held = np.arange(len(labels.x)) % _HELD == 0
    mine, theirs = (_of(labels, which) for which in (~is_held, is_held))
    stop = _joined(_of(old, held), _repeated(theirs, len(held)))
    found = teach_skip(
        lambda: features(_SEEN),
        _joined(_of(old, teach), _repeated(mine, len(teach))),
        stop,
        lesson=_LESSON,
        seed=seed,
        say=lambda _: None,
    )

    def logits(rows: Rows) -> NDArray[np.float64]:
        return net_run(found.net, rows)[:, 0].astype(np.float64)

    places = theirs if theirs.target.sum() >= _LEAST_THAT_MATTER else stop
    return Filter(logits, placed(logits(places.x), places.target[:, 0] > 0))


def placed(logits: NDArray[np.float64], matters: Flags) -> float:
    """Return the highest threshold at which the recall is reached on these rows."""
    kept = np.sort(logits[matters])
    return float(np.nextafter(kept[int((1 - RECALL) * len(kept))], -np.inf))


def _of(part: Part, which: Rows) -> Part:
    return Part(part.x[which], part.target[which])


def _repeated(part: Part, rows: int) -> Part:
    """Return it as often as it takes to be so many rows; none remain none."""
    which = np.arange(rows if len(part.x) else 0) % max(1, len(part.x))
    return _of(part, which)


def _joined(one: Part, other: Part) -> Part:
    return Part(np.concatenate((one.x, other.x)), np.concatenate((one.target, other.target)))


def _course(way: str, stream: Stream, ran: tuple[Flags, list[int]], seed: int) -> Course:
    dropped, labels = ran
    return Course(
        seed=seed,
        way=way,
        labels=len(labels),
        early=sum(at < stream.shift for at in labels),
        stretches=tuple(_stretches(stream, dropped)),
        windows=tuple(_windows(stream, dropped)),
    )


def _stretches(stream: Stream, dropped: Flags) -> Iterator[Stretch]:
    for part, (begin, end) in PARTS.items():
        rows = slice(
            None if begin is None else stream.shift + begin,
            None if end is None else stream.shift + end,
        )
        matters, gone = stream.matters[rows], dropped[rows]
        yield Stretch(
            part=part,
            rows=len(gone),
            rate=float(gone.mean()),
            recall=float(1 - gone[matters].mean()) if matters.any() else None,
            accuracy=float(1 - (gone & matters).mean()),
        )


def _windows(stream: Stream, dropped: Flags) -> Iterator[Window]:
    lost = stream.matters & dropped
    for end in range(stream.shift % _WINDOW + _WINDOW, len(lost) + 1, _WINDOW):
        rows = slice(end - _WINDOW, end)
        yield Window(
            at=end - stream.shift,
            rows=_WINDOW,
            matter=int(stream.matters[rows].sum()),
            lost=int(lost[rows].sum()),
        )


def page(found: Iterable[Course]) -> str:
    """Return the table for the page: mean and standard deviation over seeds, in percent."""
    found = tuple(found)
    seeds = ", ".join(map(str, sorted({one.seed for one in found})))
    courses_of = {way: [one for one in found if one.way == way] for way in WAYS}
    head = (
        "| labels | of them after the shift | part of the stream | filtered | recall | accuracy |\n"
        "| --- | ---: | --- | ---: | ---: | ---: |"
    )
    told = f"Seeds: {seeds}; mean ± standard deviation, in percent but the labels:\n"
    return "\n".join(
        [told, head, *(row for way in WAYS for row in _table_rows(way, courses_of[way]))]
    )


def _table_rows(way: str, found: Sequence[Course]) -> Iterator[str]:
    labels = f"{way}: {_spread([one.labels for one in found], digits=0)}"
    late = _spread([one.labels - one.early for one in found], digits=0)
    for number, part in enumerate(PARTS):
        here = [one.stretches[number] for one in found]
        recalls = [one.recall for one in here if one.recall is not None]
        shown = (
            _spread([100 * one for one in values])
            for values in ([one.rate for one in here], recalls, [one.accuracy for one in here])
        )
        first = (labels, late) if number == 0 else ("", "")
        yield f"| {' | '.join((*first, part, *shown))} |"


def _spread(values: Sequence[float], *, digits: int = 1) -> str:
    if not values:
        return "-"
    return f"{np.mean(values):.{digits}f} ± {np.std(values):.{digits}f}"


_LEFT, _RIGHT, _HIGH, _GAP, _TOP = 62.0, WIDTH - 20.0, 170.0, 60.0, 90.0


def drawing(found: Iterable[Course]) -> str:
    """Return the picture, an SVG file: accuracy and recall over the stream, one line a way."""
    courses_of = {way: [one for one in found if one.way == way] for way in WAYS}
    ends = _ends([one for some in courses_of.values() for one in some])
    along = Scale(float(ends[0] - _WINDOW), float(ends[-1]), _LEFT, _RIGHT)
    height = _TOP + 2 * _HIGH + _GAP + 60.0
    parts = [*_legend(courses_of["frozen"])]
    for number, (name, value) in enumerate((("accuracy", _accuracy), ("recall", _recall))):
        top = _TOP + number * (_HIGH + _GAP)
        low = 0.0 if name == "recall" else 0.5
        up = Scale(low, 1.0, top + _HIGH, top)
        parts += axis_y(up, _LEFT, _RIGHT, named=f"{name}, of {_WINDOW} samples of each seed")
        for colour, way in enumerate(WAYS):
            known = [(at, value(_at(courses_of[way], at))) for at in ends]
            points = [(along(float(at)), up(one)) for at, one in known if one is not None]
            parts.append(path(points, class_=f"line{colour}"))
    bottom = _TOP + 2 * _HIGH + _GAP
    parts.append(line(along(0.0), _TOP - 6, along(0.0), bottom, class_="rule"))
    parts.append(label(along(0.0) + 6, _TOP + _HIGH - 8, "the stream shifts", class_="small"))
    parts += axis_x(along, bottom, bottom, unit="samples since the shift")
    ground = element("rect", x=0, y=0, width=WIDTH, height=height, style="fill: var(--ground)")
    look = element("style", style())
    svg = picture([look, ground, *parts], height=height, title="A stream shifts; filters learn")
    return svg.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1) + "\n"


def _legend(found: Sequence[Course]) -> Iterator[str]:
    seeds = ", ".join(str(one.seed) for one in found)
    yield label(_LEFT - 8, 22, f"A filter and its labels (seeds: {seeds})", class_="name")
    for colour, way in enumerate(WAYS):
        x = _LEFT + 130.0 * colour
        yield line(x, 44, x + 26, 44, class_=f"line{colour}")
        yield label(x + 34, 48, way, class_="small")


def _ends(found: Sequence[Course]) -> list[int]:
    """Return where windows end that every seed has."""
    return sorted(set.intersection(*({window.at for window in one.windows} for one in found)))


def _at(found: Iterable[Course], at: int) -> list[Window]:
    return [window for one in found for window in one.windows if window.at == at]


def _accuracy(windows: Sequence[Window]) -> float | None:
    return 1 - sum(one.lost for one in windows) / sum(one.rows for one in windows)


def _recall(windows: Sequence[Window]) -> float | None:
    """Return the recall of all seeds' samples together; None: none matters."""
    matter = sum(one.matter for one in windows)
    return 1 - sum(one.lost for one in windows) / matter if matter else None
