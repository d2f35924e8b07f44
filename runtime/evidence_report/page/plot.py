"""A frame with axes, lines in it, and a legend below."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ...bench.page.svg import WIDTH, Scale, axis_x, axis_y, label, line, path, width_of

LEFT, RIGHT, TOP, HIGH = 62.0, WIDTH - 20.0, 58.0, 300.0
_ROW, _KEY = 24.0, 34.0


class Line(NamedTuple):
    """A named line; its points are in the units of the axes."""

    name: str
    points: Sequence[tuple[float, float]]
    class_: str


class Axes(NamedTuple):
    """Two scales, and what they are."""

    x: Scale
    y: Scale
    x_named: str
    x_unit: str
    y_named: str

    @property
    def bottom(self) -> float:
        """Where the lower axis lies."""
        return self.y.begin


def drawn(axes: Axes, lines: Sequence[Line]) -> Iterator[str]:
    """Yield the axes and, in their order, the lines."""
    yield from axis_x(axes.x, axes.bottom, axes.y.end, unit=axes.x_unit, named=axes.x_named)
    yield from axis_y(axes.y, axes.x.begin, axes.x.end, named=axes.y_named)
    for one in lines:
        yield path([(axes.x(x), axes.y(y)) for x, y in one.points], class_=one.class_)


def legend(lines: Sequence[Line], top: float) -> tuple[list[str], float]:
    """Return the lines' names with what they look like, and how high all that is."""
    parts: list[str] = []
    x, y = LEFT, top
    for one in lines:
        wide = _KEY + width_of(one.name) + 26
        if x + wide > RIGHT and x > LEFT:
            x, y = LEFT, y + _ROW
        parts.append(line(x, y, x + _KEY - 8, y, class_=one.class_))
        parts.append(label(x + _KEY, y + 5, one.name))
        x += wide
    return parts, y - top + _ROW


def marked(axes: Axes, x: float, name: str) -> Iterator[str]:
    """Yield a dashed line across the picture, with its name at its upper end."""
    at = axes.x(x)
    yield line(at, axes.y.end - 22, at, axes.bottom, class_="rule")
    late = at > (axes.x.begin + axes.x.end) / 2
    yield label(at, axes.y.end - 30, name, at="end" if late else "start", class_="small")
