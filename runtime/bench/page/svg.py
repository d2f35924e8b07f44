"""Pictures as inline SVG: elements, scales and axes. All text is escaped here."""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import NamedTuple

WIDTH = 860
"""Of every picture, in units of its own; the page scales them."""

_MOST_CHARS = 60
_PER_CHAR = 7.2  # about what a character of 13 units takes
_STEPS = (1, 2, 5)


def text_of(value: object, *, most: int = _MOST_CHARS) -> str:
    """Return text that is safe in HTML: escaped, without what cannot be seen, and bounded."""
    seen = "".join(
        char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in str(value)
    )
    short = seen if len(seen) <= most else f"{seen[: most - 1]}…"
    return html.escape(short, quote=True)


def width_of(value: object) -> float:
    """Return about how wide a text is, once it is cut."""
    return _PER_CHAR * min(len(str(value)), _MOST_CHARS)


def element(name: str, content: str = "", **attributes: object) -> str:
    """Return an element; ``class_`` is ``class``, and ``_`` in names is ``-``."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{_value(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return f"<{name}{given}>{content}</{name}>"


def label(x: float, y: float, value: object, *, at: str = "start", class_: str = "") -> str:
    """Return a text; ``at`` is which end of it lies at x."""
    return element("text", text_of(value), x=x, y=y, text_anchor=at, class_=class_ or None)


def line(x1: float, y1: float, x2: float, y2: float, *, class_: str) -> str:
    """Return a line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def dot(x: float, y: float, radius: float, *, class_: str, title: str | None = None) -> str:
    """Return a dot that says its title when pointed at."""
    inner = "" if title is None else element("title", text_of(title, most=200))
    return element("circle", inner, cx=x, cy=y, r=radius, class_=class_)


def path(points: Iterable[tuple[float, float]], *, class_: str, closed: bool = False) -> str:
    """Return a line through points."""
    drawn = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return element("path", d=f"M{drawn}{'Z' if closed else ''}", class_=class_)


def picture(content: Iterable[str], *, height: float, title: str) -> str:
    """Return a whole picture; ``title`` is what a screen reader says."""
    inner = element("title", text_of(title, most=300)) + "".join(content)
    return element("svg", inner, viewBox=f"0 0 {WIDTH} {height:g}", role="img")


class Scale(NamedTuple):
    """Where a value lies between two places of a picture; ``log``: by its logarithm."""

    low: float
    high: float
    begin: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the place of a value, no further than the ends."""
        if self.log:
            part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return self.begin + min(max(part, 0.0), 1.0) * (self.end - self.begin)

    def ticks(self) -> list[float]:
        """Return round values between the ends, four to about ten of them."""
        if not self.log or self.high / self.low < 10:
            return _linear_ticks(self.low, self.high)
        decades = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
        steps = _STEPS if len(decades) <= 4 else (1,)
        found = [step * 10.0**decade for decade in decades for step in steps]
        return [tick for tick in found if self.low <= tick <= self.high]


def around(values: Iterable[float], begin: float, end: float, *, part: float = 0.08) -> Scale:
    """Return a linear scale that leaves a margin around the values, at least one."""
    known = list(values)
    low, high = min(known), max(known)
    room = (high - low) * part or abs(high) * part or 1.0
    return Scale(low - room, high + room, begin, end)


def axis_x(scale: Scale, y: float, top: float, *, unit: str, named: str = "") -> Iterator[str]:
    """Yield an axis below a picture: lines up to ``top``, ticks, and what they are."""
    ticks = scale.ticks()
    for tick in ticks:
        told = f"{tick:g}" if scale.log else _number(tick, ticks)
        yield line(scale(tick), top, scale(tick), y, class_="grid")
        yield label(scale(tick), y + 18, told, at="middle", class_="tick")
    middle = (scale.begin + scale.end) / 2
    yield label(middle, y + 38, f"{named} ({unit})" if named else unit, at="middle", class_="axis")


def axis_y(scale: Scale, left: float, right: float, *, named: str) -> Iterator[str]:
    """Yield an axis at the left of a picture, named above it."""
    ticks = scale.ticks()
    for tick in ticks:
        yield line(left, scale(tick), right, scale(tick), class_="grid")
        yield label(left - 8, scale(tick) + 4, _number(tick, ticks), at="end", class_="tick")
    yield label(left - 8, scale.end - 12, named, class_="axis")


def _linear_ticks(low: float, high: float) -> list[float]:
    """Return multiples of 1, 2 or 5 times a power of ten."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (*_STEPS, 10) if step * power >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [place * step for place in range(first, last + 1)]


def _number(value: float, ticks: list[float]) -> str:
    """Return a tick with as many digits as tell it from the next."""
    gaps = [b - a for a, b in itertools.pairwise(ticks)]
    least = min(gaps, default=abs(value) or 1.0)
    digits = max(0, -math.floor(math.log10(least) + 1e-9))
    return f"{value:.{digits}f}" if len(ticks) > 1 else f"{value:g}"


def _value(value: object) -> str:
    shown = f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
    return html.escape(shown, quote=True)
