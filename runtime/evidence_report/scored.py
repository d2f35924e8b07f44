"""What each score is worth as a gate, beside chance and the oracle, and beside the bundle's own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

import numpy as np

from ...models.evidence import Figures
from ...models.manifest import Score
from ...models.measures import Flags, Ranking, escalation_curve, oracle_score, risk_coverage
from ...models.resampling import Resampling
from ...models.weighted import Covered, Escalated, mean
from .candidates import TITLES
from .estimates import Drawn, each_drawn, estimate
from .record import AtShare, Curve, Estimate, Scored

SHARES = (0.1, 0.2, 0.3, 0.5)
SIGNIFICANCE = 0.05
_SELECTABLE: tuple[str, ...] = get_args(Score)
_POINTS = 100
_ROUNDED = 5  # digits that a curve keeps


class Ranked(NamedTuple):
    """A score as an order of N rows; the oracle has one of its own for what to escalate."""

    name: str
    score: Figures
    to_cloud: Figures | None = None

    @property
    def escalates(self) -> Figures:
        """What escalates first scores highest."""
        return self.score if self.to_cloud is None else self.to_cloud


class Rows(NamedTuple):
    """Of N rows whether edge and cloud (None: there is none) are right, and which the gate asks."""

    edge: Flags
    cloud: Flags | None
    asked: Flags | None

    @property
    def area_up_to(self) -> float:
        """Up to which share escalated scores are compared: twice the gate's, else one half."""
        share = 0.0 if self.asked is None else float(self.asked.mean())
        return min(1.0, 2.0 * share) or 0.5


def references(rows: Rows) -> Iterator[Ranked]:
    """Yield chance, where all rows tie, and the oracle, which knows who is right."""
    yield Ranked("random", np.zeros(len(rows.edge)))
    to_cloud = None if rows.cloud is None else oracle_score(rows.edge, rows.cloud)
    yield Ranked("oracle", (~rows.edge).astype(np.float64), to_cloud)


def scored(
    ranked: Sequence[Ranked], rows: Rows, *, own: str, resampling: Resampling
) -> list[Scored]:
    """Return the figures of every score, each drawn in the same way."""
    drawn = each_drawn(
        {one.name: _Measure(one, rows) for one in ranked}, resampling, rows=len(rows.edge)
    )
    rivals = [one.name for one in ranked if one.name in _SELECTABLE and one.name != own]
    level = SIGNIFICANCE / max(1, len(rivals))
    return [
        _scored(one.name, drawn[one.name], drawn[own], own=own, level=level, rows=rows)
        for one in ranked
    ]


class _Measure:
    """What is measured of one score under weights (R, N), its rankings kept."""

    def __init__(self, one: Ranked, rows: Rows) -> None:
        self._rows = rows
        self._ranking = Ranking.of(one.score)
        self._to_cloud = Ranking.of(one.escalates)

    def __call__(self, weights: Figures) -> Mapping[str, Figures]:
        rows = self._rows
        covered = Covered.by(self._ranking, rows.edge, weights)
        found = {"aurc": covered.aurc(), "augrc": covered.augrc()}
        if rows.cloud is not None:
            escalated = Escalated.by(self._to_cloud, rows.edge, rows.cloud, weights)
            found["area"] = escalated.area(up_to=rows.area_up_to)
            found |= _at_shares(escalated, rows, weights)
        return found


def _at_shares(escalated: Escalated, rows: Rows, weights: Figures) -> dict[str, Figures]:
    """Return accuracy and gap recovered at each share, the gate's own one last."""
    shares = np.broadcast_to(SHARES, (len(weights), len(SHARES)))
    if rows.asked is not None:
        shares = np.column_stack((shares, mean(rows.asked, weights)))
    accuracy = escalated.accuracy_at(shares)
    gap = (escalated.cloud - escalated.edge)[:, None]
    gained = accuracy - escalated.edge[:, None]
    nothing = np.full_like(gained, np.nan)
    recovered = np.divide(gained, gap, out=nothing, where=np.abs(gap) > 1e-12)
    return {"accuracy": accuracy, "recovered": recovered}


def _scored(name: str, drawn: Drawn, ours: Drawn, *, own: str, level: float, rows: Rows) -> Scored:
    less, more = _difference(ours, drawn, "augrc"), None
    area = None
    at: list[AtShare] = []
    better: list[Literal["area", "augrc"]] = []
    selectable = name in _SELECTABLE and name != own
    if rows.cloud is not None:
        area, more = drawn.estimate("area"), _difference(drawn, ours, "area")
        at = list(_at(drawn, rows))
        if selectable and np.quantile(drawn.again["area"] - ours.again["area"], level) > 0:
            better.append("area")
    if selectable and np.quantile(ours.again["augrc"] - drawn.again["augrc"], level) > 0:
        better.append("augrc")
    return Scored(
        name=name,
        title=TITLES[name],
        own=name == own,
        aurc=drawn.estimate("aurc"),
        augrc=drawn.estimate("augrc"),
        area=area,
        at=tuple(at[: len(SHARES)]),
        at_gate=at[-1] if len(at) > len(SHARES) else None,
        augrc_less=None if name == own else less,
        area_more=None if name == own else more,
        better=tuple(better),
    )


def _difference(one: Drawn, other: Drawn, name: str) -> Estimate:
    return estimate(float(one.once[name] - other.once[name]), one.again[name] - other.again[name])


def _at(drawn: Drawn, rows: Rows) -> Iterator[AtShare]:
    shares = SHARES if rows.asked is None else (*SHARES, float(rows.asked.mean()))
    for place, share in enumerate(shares):
        accuracy, recovered = (
            (float(drawn.once[name][place]), drawn.again[name][:, place])
            for name in ("accuracy", "recovered")
        )
        yield AtShare(
            share=share,
            accuracy=estimate(*accuracy),
            recovered=None if np.isnan(recovered[0]) else estimate(*recovered),
        )


def curve(one: Ranked, rows: Rows) -> Curve:
    """Return the curves of one score, at so many points as a picture shows."""
    parts = np.arange(_POINTS + 1) / _POINTS
    coverage, risk = risk_coverage(one.score, rows.edge)
    accuracy: Figures = np.zeros(0)
    if rows.cloud is not None:
        accuracy = np.interp(parts, *escalation_curve(one.escalates, rows.edge, rows.cloud))
    return Curve(
        name=one.name,
        accuracy=tuple(accuracy.round(_ROUNDED).tolist()),
        risk=tuple(np.interp(parts[1:], coverage, risk).round(_ROUNDED).tolist()),
    )
