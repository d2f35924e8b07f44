"""How right answers are that are equally sure: on the diagonal as right as they claim."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Literal

from ...bench.page.svg import WIDTH, Scale, axis_x, axis_y, dot, element, label, path, picture
from ..record import Diagram, EvidenceReport

_TOP, _BOTTOM, _COUNTS = 44.0, 330.0, 70.0
_WIDE, _LEFT = 330.0, 62.0
_COLOUR = {"edge": 0, "cloud": 1, "cooperative": 2}
_LEAST, _MOST = 3.0, 9.0  # a dot's radius
_FEW = 5  # rows in a bin, or under a hundredth of all: their mean is chance


def reliability_picture(found: EvidenceReport) -> str:
    """Return a diagram of max p and, where there is evidence, one of 1 - u."""
    content: list[str] = []
    for place, of in enumerate(("max p", "1 - u")):
        diagrams = [one for one in found.reliability if one.confidence == of]
        left = _LEFT + place * (WIDTH / 2 + 4)
        content.extend(_panel(diagrams, of, left) if diagrams else _nothing(left))
    content.extend(_keys(found.reliability))
    return picture(content, height=_BOTTOM + _COUNTS + 86, title="Reliability diagrams")


def _panel(diagrams: Sequence[Diagram], of: str, left: float) -> Iterator[str]:
    x = Scale(0.0, 1.0, left, left + _WIDE)
    y = Scale(0.0, 100.0, _BOTTOM, _TOP)
    yield from axis_y(y, x.begin, x.end, named="accuracy (%)")
    yield path([(x(0), y(0)), (x(1), y(100))], class_="chance")
    for one in diagrams:
        yield from _line(one, x, y)
    yield from _counts(diagrams[0], x)
    yield from axis_x(x, _BOTTOM + _COUNTS, _TOP, unit=of, named="confidence")


def _line(one: Diagram, x: Scale, y: Scale) -> Iterator[str]:
    """Yield a dot for each bin, as large as it holds rows, and a line through those of many."""
    colour, all_rows = _COLOUR[one.side], sum(part.rows for part in one.bins)
    known = [
        (x(part.confidence), y(100 * part.accuracy), part.rows)
        for part in one.bins
        if part.confidence is not None and part.accuracy is not None
    ]
    least = max(_FEW, all_rows / 100)
    joined = [(at, height) for at, height, rows in known if rows >= least]
    if len(joined) > 1:
        yield path(joined, class_=f"line{colour} thin")
    for at, height, rows in known:
        radius = _LEAST + (_MOST - _LEAST) * math.sqrt(rows / all_rows)
        told = f"{one.side}: {rows} rows"
        faint = "" if rows >= least else " faint"
        yield dot(at, height, radius, class_=f"fill{colour}{faint}", title=told)


def _counts(edge: Diagram, x: Scale) -> Iterator[str]:
    """Yield below the diagram how many of the edge's rows each bin holds."""
    most = max(part.rows for part in edge.bins)
    wide = (x.end - x.begin) / len(edge.bins)
    for place, part in enumerate(edge.bins):
        high = (_COUNTS - 22) * part.rows / most
        yield element(
            "rect",
            element("title", f"{part.rows} rows"),
            x=x.begin + place * wide + 1,
            y=_BOTTOM + _COUNTS - high,
            width=wide - 2,
            height=high,
            class_="count",
        )
    yield label(x.begin + 4, _BOTTOM + 18, f"rows ({edge.side}), at most {most}", class_="small")


def _keys(diagrams: Sequence[Diagram]) -> Iterator[str]:
    sides: list[Literal["edge", "cloud", "cooperative"]] = []
    sides.extend(one.side for one in diagrams if one.confidence == "max p")
    for place, side in enumerate(sides):
        x, y = _LEFT + 8 + place * 150, _BOTTOM + _COUNTS + 66
        yield dot(x, y - 5, 6, class_=f"fill{_COLOUR[side]}")
        yield label(x + 14, y, side)


def _nothing(left: float) -> Iterator[str]:
    yield label(left + 40, (_TOP + _BOTTOM) / 2, "no evidence, so no 1 - u", class_="small")
