"""How right each variant is for what it costs: in milliseconds, and in joules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..measure import named
from ..record import BenchReport, Measured
from .energy_picture import mark
from .style import COLOURS
from .svg import WIDTH, Scale, around, axis_x, axis_y, dot, label, line, path, picture, width_of
from .units import OF_J, OF_MS, unit_for

_TOP, _BOTTOM, _GAP, _LEFT = 40, 300, 80, 62
_Z_95 = 1.959964


class _Point(NamedTuple):
    name: str
    cost: float
    share: float
    low: float
    high: float
    colour: int


class _Panel(NamedTuple):
    name: str
    unit: str
    points: list[_Point]
    replayed: bool = False


def frontier_picture(found: BenchReport) -> str | None:
    """Return accuracy against median latency and against energy; None without accuracy."""
    panels = [_by_latency(found), _by_energy(found)]
    drawn = [panel for panel in panels if panel.points]
    if not drawn:
        return None
    width = (WIDTH - 20 - _GAP * (len(drawn) - 1)) / len(drawn)
    content: list[str] = []
    for place, panel in enumerate(drawn):
        left = place * (width + _GAP)
        content.extend(_panel(panel, left + _LEFT, left + width))
        if panel.replayed:
            content.append(mark(left + (_LEFT + width) / 2, (_TOP + _BOTTOM) / 2))
    return picture(content, height=_BOTTOM + 48, title="Accuracy against cost by variant")


def wilson(share: float, rows: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of rows (Wilson 1927)."""
    z2 = _Z_95**2
    middle = (share + z2 / (2 * rows)) / (1 + z2 / rows)
    half = _Z_95 * math.sqrt(share * (1 - share) / rows + z2 / (4 * rows**2)) / (1 + z2 / rows)
    return max(0.0, middle - half), min(1.0, middle + half)


def best(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return those (cost, share) that no other beats in both, the cheapest first."""
    found: list[tuple[float, float]] = []
    for cost, share in sorted(points, key=lambda one: (one[0], -one[1])):
        if not found or share > found[-1][1]:
            found.append((cost, share))
    return found


def _by_latency(found: BenchReport) -> _Panel:
    costs = [one.latency.median_ms for one in found.measured]
    size_ms, unit = unit_for(max(costs, default=1.0), OF_MS)
    points = (_point(one, n, costs[n] / size_ms) for n, one in enumerate(found.measured))
    return _Panel("median latency of one sample", unit, [one for one in points if one is not None])


def _by_energy(found: BenchReport) -> _Panel:
    costs = [None if one.energy is None else one.energy.joules for one in found.measured]
    size_j, unit = unit_for(max((one for one in costs if one is not None), default=1.0), OF_J)
    points = (
        _point(one, n, cost / size_j)
        for n, (one, cost) in enumerate(zip(found.measured, costs, strict=True))
        if cost is not None
    )
    replayed = any(one.energy is not None and one.energy.replayed for one in found.measured)
    known = [one for one in points if one is not None]
    return _Panel("net energy of one sample", unit, known, replayed)


def _point(one: Measured, place: int, cost: float) -> _Point | None:
    given = one.accuracy
    if given is None or given.accuracy is None:
        return None
    low, high = wilson(given.accuracy, given.rows)
    name = one.variant if one.threads == 1 else f"{one.variant}, {named(one.threads)}"
    return _Point(name[:24], cost, given.accuracy, low, high, place % COLOURS)


def _panel(panel: _Panel, left: float, right: float) -> Iterator[str]:
    points = panel.points
    costs = around([one.cost for one in points], left, right, part=0.35)
    costs = costs._replace(low=0.0)
    shares = around([end * 100 for one in points for end in (one.low, one.high)], _BOTTOM, _TOP)
    shares = shares._replace(high=min(shares.high, 100.0))
    yield from axis_x(costs, _BOTTOM, _TOP, unit=panel.unit, named=panel.name)
    yield from axis_y(shares, left, right, named="accuracy (%)")
    steps = best([(one.cost, one.share) for one in points])
    if len(steps) > 1:
        yield path(_stairs(steps, costs, shares), class_="frontier")
    taken: list[float] = []
    for one in points:
        x, y = costs(one.cost), shares(one.share * 100)
        ends = shares(one.low * 100), shares(one.high * 100)
        yield line(x, ends[0], x, ends[1], class_=f"line{one.colour}")
        yield dot(x, y, 6, class_=f"fill{one.colour}", title=f"{one.name}: {one.share:.2%}")
        at = "end" if x + 12 + width_of(one.name) > right else "start"
        height = _free(y - 9, taken)
        yield label(x + (-11 if at == "end" else 11), height, one.name, at=at, class_="name")


def _stairs(
    steps: Sequence[tuple[float, float]], costs: Scale, shares: Scale
) -> Iterator[tuple[float, float]]:
    """Yield the way up: what the least cost buys, until the next buys more."""
    last = None
    for cost, share in steps:
        if last is not None:
            yield costs(cost), last
        last = shares(share * 100)
        yield costs(cost), last


def _free(y: float, taken: list[float]) -> float:
    """Return a height that no label has taken yet, and take it."""
    while any(abs(y - other) < 17 for other in taken):
        y += 17
    taken.append(y)
    return y
