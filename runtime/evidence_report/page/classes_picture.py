"""What escalates: its class against what the edge takes it for."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ...bench.page.svg import WIDTH, element, label, picture, width_of
from ..record import EvidenceReport

_MOST = 16
_LONGEST = 14
_LEFT = 150.0


def classes_picture(found: EvidenceReport) -> str | None:
    """Return a matrix of counts, of the classes that escalate most; None without a gate."""
    counts = found.classes.taken_for
    if not counts or not any(map(sum, counts)):
        return None
    chosen = sorted(sorted(range(len(counts)), key=lambda one: -sum(counts[one]))[:_MOST])
    size = min(48.0, (WIDTH - _LEFT - 30) / len(chosen))
    labels = [found.classes.of[one].label for one in chosen]
    most = max(counts[row][column] for row in chosen for column in chosen) or 1
    top = 34 + 0.8 * max(width_of(one[:_LONGEST]) for one in labels)
    content = [label(_LEFT, 14, "the edge says", class_="small"), *_names(labels, size, top)]
    for place, row in enumerate(chosen):
        for at, column in enumerate(chosen):
            count = counts[row][column]
            content.extend(
                _cell(_LEFT + at * size, top + place * size, size, count, most, right=row == column)
            )
    height = top + size * len(chosen) + 8
    return picture(content, height=height, title="What escalates, by class")


def _names(labels: list[str], size: float, top: float) -> Iterator[str]:
    for place, name in enumerate(labels):
        middle = (place + 0.5) * size
        short = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
        yield label(_LEFT - 10, top + middle + 5, short, at="end", class_="tick")
        x, y = _LEFT + middle + 4, top - 8
        yield element(
            "g", label(0, 0, short, class_="tick"), transform=f"translate({x:.1f} {y}) rotate(-45)"
        )


def _cell(x: float, y: float, size: float, count: int, most: int, *, right: bool) -> Iterator[str]:
    box: dict[str, Any] = {"x": x, "y": y, "width": size - 1, "height": size - 1}
    yield element("rect", class_="frame", **box)
    if count:
        part = f"{0.12 + 0.5 * count / most:.2f}"
        yield element("rect", class_="right" if right else "heat", opacity=part, **box)
        yield label(x + size / 2, y + size / 2 + 5, count, at="middle")
