"""Accuracy against the share escalated (fig. 6), and risk against coverage, of every score."""

from __future__ import annotations

from collections.abc import Sequence

from ...bench.page.svg import Scale, around, picture
from ..record import Curve, EvidenceReport
from .looks import in_order, look, own_name, titled
from .plot import HIGH, LEFT, RIGHT, TOP, Axes, Line, drawn, legend, marked

_BOTTOM = TOP + HIGH


def escalation_picture(found: EvidenceReport) -> str | None:
    """Return the accuracy of cooperation by share escalated; None without a cloud."""
    curves = [one for one in in_order(found) if one.accuracy]
    if not curves:
        return None
    lines = [_line(found, one, one.accuracy, first=0) for one in curves]
    marks = [] if found.gate is None else [(100 * found.gate.escalated.value, "the gate")]
    return _picture(
        lines,
        x_named="share escalated",
        y_named="accuracy (%)",
        marks=marks,
        title="Accuracy against the share escalated, by score",
    )


def risk_picture(found: EvidenceReport) -> str:
    """Return the edge's error rate among the rows that it answers, by their share."""
    lines = [_line(found, one, one.risk, first=1) for one in in_order(found)]
    marks = [] if found.gate is None else [(100 - 100 * found.gate.escalated.value, "the gate")]
    return _picture(
        lines,
        x_named="coverage: share that the edge answers",
        y_named="risk: error rate of these answers (%)",
        marks=marks,
        title="Risk against coverage, by score",
    )


def _line(found: EvidenceReport, one: Curve, values: Sequence[float], *, first: int) -> Line:
    own = one.name == own_name(found)
    points = [(place + first, 100 * value) for place, value in enumerate(values)]
    return Line(titled(one.name, own=own), points, look(one.name, own=own))


def _picture(
    lines: list[Line],
    *,
    x_named: str,
    y_named: str,
    marks: list[tuple[float, str]],
    title: str,
) -> str:
    y = around([value for one in lines for _, value in one.points], _BOTTOM, TOP)
    y = y._replace(low=max(y.low, 0.0), high=min(y.high, 100.0))
    axes = Axes(Scale(0.0, 100.0, LEFT, RIGHT), y, x_named, "%", y_named)
    keys, high = legend(lines[::-1], _BOTTOM + 62)
    content = [*drawn(axes, lines), *keys]
    for at, name in marks:
        content.extend(marked(axes, at, name))
    return picture(content, height=_BOTTOM + 62 + high, title=title)
