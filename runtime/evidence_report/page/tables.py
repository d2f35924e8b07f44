"""The page's tables: the sides, the scores, the classes."""

from __future__ import annotations

from collections.abc import Callable

from ...bench.page.svg import element, text_of
from ...bench.page.tables import table
from ..by_class import MOST_CLASSES
from ..record import AtShare, Estimate, EvidenceReport, Scored

_NONE = "\N{EN DASH}"


def sides_table(found: EvidenceReport) -> str:
    """Return a row of measures for each side."""
    heads = ("", "accuracy", "ECE, max p", "ECE, 1 - u", "Brier", "log score", "AURC", "AUGRC")
    rows = [
        [
            text_of(one.side) + element("div", text_of(one.model), class_="dim"),
            _cell(one.accuracy, _percent),
            _cell(one.ece_prob, _number),
            _cell(one.ece_vacuity, _number),
            _cell(one.brier, _number),
            _cell(one.log_score_nats, _number),
            _cell(one.aurc, _area),
            _cell(one.augrc, _area),
        ]
        for one in found.sides
    ]
    return table(heads, rows)


def scores_table(found: EvidenceReport) -> str:
    """Return a row for each score: what it recovers at each share, and how it ranks the edge."""
    own = next(one for one in found.scores if one.own)
    shares = [f"{at.share:.0%}" for at in own.at]
    gate = [] if own.at_gate is None else [f"gate, {own.at_gate.share:.1%}"]
    heads = ("score", *shares, *gate, "AURC", "AUGRC", _against_head(found))
    rows = [_score(one, columns=len(shares) + len(gate)) for one in found.scores]
    return table(heads, rows)


def _score(one: Scored, *, columns: int) -> list[str]:
    mark = element("div", "the bundle's", class_="dim") if one.own else ""
    name = element("b", text_of(one.title)) if one.own else text_of(one.title)
    if one.missing is not None:
        return [name, *[_NONE] * (columns + 3)]
    at = (*one.at, *(() if one.at_gate is None else (one.at_gate,)))
    cells = [_recovered(each) for each in at]
    cells += [_NONE] * (columns - len(cells))
    return [
        name + mark,
        *cells,
        _cell(one.aurc, _area),
        _cell(one.augrc, _area),
        _against(one),
    ]


def _recovered(at: AtShare) -> str:
    return _NONE if at.recovered is None else _cell(at.recovered, lambda value: f"{value:.2f}")


def _against(one: Scored) -> str:
    """Return by how much it is better than the bundle's own score: mean accuracy, else AUGRC."""
    if one.own:
        return ""
    better = element("b", "better ") if one.better else ""
    if one.area_more is not None:
        return better + _cell(one.area_more, lambda value: f"{100 * value:+.2f}")
    return better + _cell(one.augrc_less, lambda value: f"{value:+.4f}")


def _against_head(found: EvidenceReport) -> str:
    has_cloud = any(one.side == "cloud" for one in found.sides)
    return "points more" if has_cloud else "AUGRC less"


def classes_table(found: EvidenceReport) -> str:
    """Return a row for each class, those first of which most escalates."""
    heads = ("class", "rows", "escalated", "edge", "accepted", "cloud", "cooperative")
    rows = [
        [
            text_of(one.label),
            f"{one.rows}",
            _share(one.escalated),
            _share(one.edge_accuracy),
            _share(one.accepted_accuracy),
            _share(one.cloud_accuracy),
            _share(one.cooperative_accuracy),
        ]
        for one in sorted(found.classes.of, key=lambda one: -(one.escalated or 0.0))[:MOST_CLASSES]
    ]
    return table(heads, rows)


def _cell(found: Estimate | None, told: Callable[[float], str]) -> str:
    """Return a figure, and its interval below it."""
    if found is None:
        return _NONE
    if found.low is None or found.high is None:
        return told(found.value)
    ends = f"{told(found.low)} … {told(found.high)}"
    return told(found.value) + element("span", ends, class_="interval")


def _percent(value: float) -> str:
    return f"{value:.2%}"


def _number(value: float) -> str:
    return f"{value:.4f}"


def _area(value: float) -> str:
    return f"{value:.4f}"


def _share(value: float | None) -> str:
    return _NONE if value is None else f"{value:.1%}"
