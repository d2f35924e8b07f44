"""What the board went through: power, temperature and clock over time, throttling marked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..record import BenchReport, Course
from .energy_picture import mark
from .svg import WIDTH, Scale, around, axis_x, axis_y, element, label, path, picture, width_of

_LEFT, _RIGHT, _TOP, _HIGH, _GAP = 62, WIDTH - 20, 44, 130, 56

Points = list[tuple[float, float | None]]


class _Panel(NamedTuple):
    named: str
    points: Points
    colour: int
    replayed: bool = False


def course_picture(found: BenchReport) -> str | None:
    """Return panels over one time, those that something is known of; None if there is none."""
    course = found.course
    panels = [] if course is None else [one for one in _panels(course) if _known(one.points)]
    if course is None or not panels:
        return None
    times = [t_s for panel in panels for t_s, _ in panel.points]
    end_s = max([*times, *(phase.end_s for phase in course.phases)])
    scale = Scale(0.0, max(end_s, 1.0), _LEFT, _RIGHT)
    bottom = _TOP + len(panels) * (_HIGH + _GAP) - _GAP
    content = [*_phases(course, scale, bottom)]
    for place, panel in enumerate(panels):
        top = _TOP + place * (_HIGH + _GAP)
        content.extend(_drawn(panel, scale, top))
    content.extend(_slowed(course, scale, bottom))
    content.extend(axis_x(scale, bottom, bottom, unit="seconds", named="time"))
    return picture(content, height=bottom + 48, title="Power and temperature over time")


def _panels(course: Course) -> Iterator[_Panel]:
    power: Points = [(one.t_s, one.power_w) for one in course.power]
    yield _Panel(f"power (W), {course.power_source}", power, 0, course.replayed)
    yield _Panel("hottest zone (°C)", [(one.t_s, one.temp_c) for one in course.moments], 1)
    clocks: Points = [
        (one.t_s, None if one.clock_hz is None else one.clock_hz / 1e9) for one in course.moments
    ]
    yield _Panel("fastest CPU's clock (GHz)", clocks, 2)


def _known(points: Points) -> list[float]:
    return [value for _, value in points if value is not None]


def _drawn(panel: _Panel, times: Scale, top: float) -> Iterator[str]:
    scale = around(_known(panel.points), top + _HIGH, top)
    yield from axis_y(scale, _LEFT, _RIGHT, named=panel.named)
    for run in _runs(panel.points):
        drawn = [(times(t_s), scale(value)) for t_s, value in run]
        ends = drawn if len(drawn) > 1 else [*drawn, (drawn[0][0] + 2, drawn[0][1])]
        yield path(ends, class_=f"line{panel.colour}")
    if panel.replayed:
        yield mark((_LEFT + _RIGHT) / 2, top + _HIGH / 2)


def _runs(points: Points) -> Iterator[list[tuple[float, float]]]:
    """Yield the stretches between points that are missing: a gap is no line."""
    run: list[tuple[float, float]] = []
    for t_s, value in points:
        if value is not None:
            run.append((t_s, value))
        elif run:
            yield run
            run = []
    if run:
        yield run


def _phases(course: Course, scale: Scale, bottom: float) -> Iterator[str]:
    """Yield a band for every other phase, and the names of those that have room for it."""
    for place, phase in enumerate(course.phases):
        begin, end = scale(phase.begin_s), scale(phase.end_s)
        if place % 2 == 0:
            yield _band(begin, end, bottom, class_="band")
        if width_of(phase.what) < end - begin:
            yield label((begin + end) / 2, 12, phase.what, at="middle", class_="small")


def _slowed(course: Course, scale: Scale, bottom: float) -> Iterator[str]:
    """Yield a band wherever the board was slowed down, and the word above the first."""
    ends: Sequence[float] = [*(one.t_s for one in course.moments[1:]), scale.high]
    named = False
    for one, end_s in zip(course.moments, ends, strict=False):
        if not one.slowed:
            continue
        begin, end = scale(one.t_s), scale(end_s)
        yield _band(begin, end, bottom, class_="slow")
        if not named:
            yield label(begin, _TOP - 12, "throttled", class_="bad")
            named = True


def _band(begin: float, end: float, bottom: float, *, class_: str) -> str:
    top = 18.0
    return element(
        "rect", x=begin, y=top, width=max(end - begin, 1.0), height=bottom - top, class_=class_
    )
