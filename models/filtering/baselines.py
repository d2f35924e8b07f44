"""What filters cheaply without having learnt anything, to be held against one that has.

Constant: nothing ever matters. Random: so many are filtered, whichever. Last answer: the model
runs on every k-th sample, and its answer stands until then. Frame difference: the model runs where
a sample differs from the last that it ran on by more than a bound (Reducto: Li et al., SIGCOMM
2020, whose cheapest feature this is: the mean absolute difference).

A result that is taken over is right where the sample is redundant as the last one was, or has
its label. Groups are streams of their own: the model runs on the first sample of each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..measures import Flags, Labels
from .operating_point import Point

_PERIODS = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 32, 50, 100, 200, 500, 1000)
_BOUNDS = 40  # of the frame difference
_MOST_FIGURES = 1 << 12  # of a sample that are compared


class Told(NamedTuple):
    """What a model says of rows (N,) in the order in which they come, and which matter."""

    label: Labels
    matters: Flags
    group: NDArray[Any] | None = None


def constant(told: Told) -> list[Point]:
    """Return the one point of filtering everything."""
    return [Point(1.0, 1.0, 0.0, float(1.0 - told.matters.mean()))]


def at_random(told: Told) -> list[Point]:
    """Return what filtering by a coin is expected to come to, for each share."""
    share = float(told.matters.mean())
    rates = np.linspace(0.0, 1.0, 101).tolist()
    return [Point(rate, rate, 1.0 - rate, 1.0 - rate * share) for rate in rates]


def last_answer(told: Told) -> list[Point]:
    """Return the points of running the model on every k-th sample of a group."""
    within = _within(told.group, len(told.label))
    return [_point(told, float(k), within % k == 0) for k in _PERIODS]


def frame_difference(told: Told, x: NDArray[Any]) -> list[Point]:
    """Return the points of running it where ``x`` (N, *shape) has changed by more than a bound."""
    flat = x.reshape(len(x), -1)
    step = -(-flat.shape[1] // _MOST_FIGURES)
    figures = flat[:, ::step].astype(np.float32)
    first = _within(told.group, len(figures)) == 0
    change = np.abs(figures[1:] - figures[:-1]).mean(axis=1)
    most = float(change.max(initial=0.0))
    shares, steps = np.linspace(0.0, 1.0, _BOUNDS), np.linspace(0.0, 2.0, _BOUNDS) * most
    bounds = np.unique([*(np.quantile(change, shares) if len(change) else ()), *steps])
    return [_point(told, bound, _changed(figures, first, bound)) for bound in bounds.tolist()]


def best(
    points: Iterable[Point], *, accuracy: float | None = None, recall: float | None = None
) -> Point | None:
    """Return the point of the greatest rate that reaches what is asked; None: none does."""
    fit = [
        one for one in points if one.accuracy >= (accuracy or 0.0) and one.recall >= (recall or 0.0)
    ]
    return max(fit, key=lambda one: one.rate, default=None)


def _within(group: NDArray[Any] | None, rows: int) -> NDArray[np.intp]:
    """Return (N,) the place of each row within the run of its group."""
    begins = np.zeros(rows, np.bool_)
    begins[0] = True
    if group is not None:
        begins[1:] = group[1:] != group[:-1]
    starts = np.flatnonzero(begins)
    found: NDArray[np.intp] = np.arange(rows) - starts[np.cumsum(begins) - 1]
    return found


def _changed(figures: NDArray[np.float32], first: Flags, bound: float) -> Flags:
    ran = np.zeros(len(figures), np.bool_)
    last = figures[0]
    for at, now in enumerate(figures):
        if first[at] or float(np.abs(now - last).mean()) > bound:
            ran[at], last = True, now
    return ran


def _point(told: Told, threshold: float, ran: Flags) -> Point:
    """Return what comes of it where the model ``ran`` (N,), the first row of all among them."""
    stands = np.maximum.accumulate(np.where(ran, np.arange(len(ran)), 0))
    both_redundant = ~told.matters & ~told.matters[stands]
    same = told.matters & told.matters[stands] & (told.label == told.label[stands])
    right = ran | both_redundant | same
    return Point(
        threshold=threshold,
        rate=float(1.0 - ran.mean()),
        recall=float(right[told.matters].mean()),
        accuracy=float(right.mean()),
    )


def named(told: Told, x: NDArray[Any]) -> Iterator[tuple[str, list[Point]]]:
    """Yield every baseline's name and its points."""
    yield "constant answer", constant(told)
    yield "random", at_random(told)
    yield "last answer", last_answer(told)
    yield "frame difference", frame_difference(told, x)
