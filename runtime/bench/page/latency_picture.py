"""How the latencies of each variant spread, beside those of the null backend."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..latency import Latency
from ..measure import named
from ..record import BenchReport
from ..spread import Spread
from .style import COLOURS
from .svg import WIDTH, Scale, axis_x, label, line, path, picture
from .units import OF_MS, shown, unit_for

_LEFT, _RIGHT, _TOP, _ROW = 190, WIDTH - 20, 34, 78
_FINE = 150  # bins of the picture
_BEYOND = 1.6
_LEAST_MS = 1e-6  # what no clock resolves


class _Row(NamedTuple):
    name: str
    note: str
    latency: Latency
    spread: Spread | None
    area: str


def latency_picture(found: BenchReport) -> str:
    """Return a row for each variant: its density over the logarithm of its latency."""
    rows = list(_rows(found))
    low_ms = max(min(row.latency.min_ms for row in rows), _LEAST_MS)
    high_ms = max(_reach_ms(row) for row in rows)
    high_ms = max(high_ms, low_ms * 2) * 1.05
    scale = Scale(low_ms / 1.1, high_ms, _LEFT, _RIGHT, log=True)
    size_ms, unit = unit_for(max(row.latency.median_ms for row in rows), OF_MS)
    told = scale._replace(low=scale.low / size_ms, high=scale.high / size_ms)
    bottom = _TOP + _ROW * len(rows)
    content = [
        *axis_x(told, bottom, _TOP - 10, unit=unit, named="one sample"),
        *(part for place, row in enumerate(rows) for part in _drawn(row, place, scale)),
    ]
    return picture(content, height=bottom + 48, title="Latency of one sample by variant")


def _rows(found: BenchReport) -> Iterator[_Row]:
    for place, one in enumerate(found.measured):
        yield _Row(
            one.variant,
            f"{one.precision}, {named(one.threads)}",
            one.latency,
            one.spread,
            f"area{place % COLOURS}",
        )
    yield _Row("null backend", "the floor", found.floor, found.floor_spread, "floor")


def _reach_ms(row: _Row) -> float:
    """Return up to where a row is drawn: 999 of 1000 calls, but not far beyond the 99th of 100."""
    if row.spread is None:
        return row.latency.p99_ms
    counts = row.spread.total.cumsum()
    place = int(np.searchsorted(counts, 0.999 * counts[-1]))
    p99_ms = row.latency.p99_ms
    return min(max(float(row.spread.edges_ms[place, 1]), p99_ms), _BEYOND * p99_ms)


def _drawn(row: _Row, place: int, scale: Scale) -> Iterator[str]:
    base = _TOP + _ROW * (place + 1) - 8
    latency = row.latency
    yield label(0, base - 26, row.name[:24], class_="name")
    yield label(0, base - 7, row.note, class_="small")
    if row.spread is not None:
        yield path(_outline(row.spread, scale, base), class_=row.area, closed=True)
    else:
        yield line(scale(latency.min_ms), base, scale(latency.p99_ms), base, class_="median")
    top = base - _ROW + 26
    median_x, tail_x = scale(latency.median_ms), scale(latency.p99_ms)
    yield line(median_x, top, median_x, base, class_="median")
    yield line(tail_x, top + 14, tail_x, base, class_="tail")
    yield from _values(latency, median_x, tail_x, top)


def _values(latency: Latency, median_x: float, tail_x: float, top: float) -> Iterator[str]:
    """Yield both figures, each beside its line, so that they do not cover each other."""
    tail = f"p99 {shown(latency.p99_ms, OF_MS)}"
    room = tail_x - median_x > 150
    at = "start" if room or median_x < _LEFT + 160 else "end"
    yield label(
        median_x + (6 if at == "start" else -6),
        top + 4,
        f"median {shown(latency.median_ms, OF_MS)}",
        at=at,
        class_="name",
    )
    end = tail_x > _RIGHT - 90
    yield label(
        tail_x + (-6 if end else 6), top + 24, tail, at="end" if end else "start", class_="small"
    )


def _outline(spread: Spread, scale: Scale, base: float) -> Iterator[tuple[float, float]]:
    """Yield the outline of the calls over equal steps of the logarithm, its peak a row high."""
    edges = np.linspace(math.log(scale.low), math.log(scale.high), _FINE + 1)
    # What lies beyond the picture is not drawn: its end says nothing of it.
    heights = np.histogram(np.log(spread.edges_ms.mean(axis=1)), bins=edges, weights=spread.total)[
        0
    ]
    smooth = np.convolve(heights, (0.25, 0.5, 0.25), mode="same")
    tall = (_ROW - 32) * smooth / max(float(smooth.max()), 1.0)
    xs = np.linspace(scale.begin, scale.end, _FINE + 1)
    middles = (xs[1:] + xs[:-1]) / 2
    inside = np.flatnonzero(tall)
    first, last = int(inside[0]), int(inside[-1])
    yield float(xs[first]), base
    for x, height in zip(middles[first : last + 1], tall[first : last + 1], strict=True):
        yield float(x), base - float(height)
    yield float(xs[last + 1]), base
