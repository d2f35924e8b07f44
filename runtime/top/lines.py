"""Lines of a screen: text in a few styles, of which nothing can reach the terminal but text.

Whatever is shown may have come over the network. Every character passes `plain` on its way
out, and the only control characters of a screen are those that stand in this folder.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

Style = Literal["", "bold", "dim", "good", "warn", "bad", "head"]
_CODES: dict[Style, str] = {
    "bold": "1",
    "dim": "2",
    "good": "32",
    "warn": "33",
    "bad": "1;31",
    "head": "1;36",
}
_GAP = "  "
_WIDE = ("W", "F")


class Span(NamedTuple):
    """Some text in one style."""

    text: str
    style: Style = ""


Line = tuple[Span, ...]


class Part(NamedTuple):
    """A part of a bar: how much it is, and what its cells show."""

    amount: int
    glyph: str
    style: Style = ""


def plain(text: str) -> str:
    """Return text of the same length that a terminal shows as it is, one column a character.

    Control characters, what changes the direction of writing, combining marks and wide
    characters become question marks.
    """
    return "".join(one if _is_plain(one) else "?" for one in text)


def _is_plain(one: str) -> bool:
    if one.isascii():
        return " " <= one <= "~"
    return (
        one.isprintable()
        and not unicodedata.category(one).startswith("M")
        and unicodedata.east_asian_width(one) not in _WIDE
    )


def coloured(line: Line) -> str:
    """Return the line for a terminal that takes colours."""
    return "".join(
        f"\x1b[{_CODES[span.style]}m{plain(span.text)}\x1b[0m" if span.style else plain(span.text)
        for span in line
    )


def uncoloured(line: Line) -> str:
    """Return the line without styles."""
    return plain("".join(span.text for span in line)).rstrip()


def width(line: Iterable[Span]) -> int:
    """Return how many columns the line takes."""
    return sum(len(span.text) for span in line)


def cut(line: Line, columns: int) -> Line:
    """Return what fits of a line; an ellipsis says that there was more."""
    if width(line) <= columns:
        return line
    kept: list[Span] = []
    left = columns - 1
    for text, style in line:
        if left > 0:
            kept.append(Span(text[:left], style))
        left -= len(text)
    return (*kept, Span("…"))[: max(0, columns)]


def ends(left: Line, right: Line, columns: int) -> Line:
    """Return a line with something at either end; the left end gives way."""
    room = columns - width(right) - 1
    left = cut(left, max(0, room))
    return (*left, Span(" " * max(1, columns - width(left) - width(right))), *right)


def flow(items: Sequence[Line], columns: int, *, indent: int = 0, first: str = "") -> list[Line]:
    """Return items side by side, on as many lines as they need; ``first`` stands before them."""
    lines: list[list[Span]] = [[Span(f"{first:<{indent}}", "dim")]]
    empty = True
    for item in items:
        taken = width(lines[-1]) + (0 if empty else len(_GAP))
        if not empty and taken + width(item) > columns:
            lines.append([Span(" " * indent)])
        elif not empty:
            lines[-1].append(Span(_GAP))
        lines[-1].extend(item)
        empty = False
    return [cut(tuple(line), columns) for line in lines]


def bar(parts: Sequence[Part], columns: int) -> Line:
    """Return a bar whose cells are shared by amount; what is more than nothing has one.

    The cells left by rounding go to the largest remainders, so that all add up to ``columns``.
    """
    there = [part for part in parts if part.amount > 0][: max(0, columns)]
    total = sum(part.amount for part in there)
    if not total:
        return (Span(" " * columns),)
    room = columns - len(there)  # beside the one cell that each has
    due = [part.amount * room / total for part in there]
    cells = [int(one) for one in due]
    order = sorted(range(len(there)), key=lambda one: cells[one] - due[one])
    for place in order[: room - sum(cells)]:
        cells[place] += 1
    return tuple(
        Span(part.glyph * (1 + more), part.style) for part, more in zip(there, cells, strict=True)
    )
