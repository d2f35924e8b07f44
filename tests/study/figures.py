"""What cooperation is worth on a task: the sums over its test rows.

The score, its temperature or router and the threshold come from the calibration rows alone, and
are then held to what every other score makes of the test rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from msgspec import Struct

from hedge.models.calibration import SCORES, TargetRate, calibrate
from hedge.models.calibration.choice import contenders
from hedge.models.evidence import Figures as Numbers
from hedge.models.manifest import Calibration
from hedge.models.measures import (
    Flags,
    Ranking,
    accuracy,
    augrc,
    aurc,
    brier,
    ece_prob,
    ece_vacuity,
    escalation_area,
    escalation_curve,
    gap_recovered,
    hits,
    log_score_nats,
    oracle_score,
)
from hedge.models.opinion import Assessor
from hedge.models.resampling import Resampling, interval
from hedge.models.scores import max_prob
from hedge.models.weighted import Covered, Escalated

from .task import Task

RATES = (0.1, 0.2, 0.3, 0.5)
MOST = 0.3
"""The share that may escalate, of the calibration rows."""

RANDOM, ORACLE, DROPOUT = "random", "oracle", "MC dropout"
_OURS = ("vacuity", "router", RANDOM, ORACLE)  # all others are baselines
_EVERY = np.arange(1, 100) / 100.0
_ROUNDING = 1e-9


class Scored(Struct, frozen=True, kw_only=True):
    """What a score achieves on the test rows.

    ``recovered`` is the gap recovered at each of `RATES`, ``best`` the most of it at any rate up
    to `MOST`; None where edge and cloud are equally right.
    """

    score: str
    recovered: tuple[float | None, ...]
    best: float | None
    augrc: float
    aurc: float


class Against(Struct, frozen=True, kw_only=True):
    """The chosen score beside a baseline, and the 95 % interval of a paired bootstrap.

    ``difference`` is that of AUGRC, the chosen less the baseline's: above 0 the chosen is worse.
    """

    baseline: str
    difference: float
    low: float
    high: float


class AtEveryRate(Struct, frozen=True, kw_only=True):
    """The chosen score at the rates from 1 to 99 %, beside chance and the best single score.

    ``best`` is the single score that is best over all rates on the test rows. At the share
    ``below_random`` of the rates the chosen is worse than chance, at ``below_best`` worse than
    the best, ``clearly`` so by a paired bootstrap (97.5 %); ``shortfall`` is the most by which it
    falls short, in accuracy.
    """

    best: str
    below_random: float
    below_best: float
    clearly: float
    shortfall: float


class Figures(Struct, frozen=True, kw_only=True):
    """An edge beside a cloud on the test rows of one seed.

    ``chosen`` is the score that calibration chose, ``area`` the mean accuracy of both together at
    the rates up to `MOST` that it reached on the calibration rows. At the threshold found there
    ``rate`` of the test rows escalate, with ``accuracy`` of both together and ``recovered`` of the
    gap. ``drawn`` says what the bootstraps draw, "row" or, where rows come from people, "group".
    """

    task: str
    edge: str
    cloud: str
    taught: str
    seed: int
    test_from: str
    calibrated: int
    tested: int
    groups: int | None
    seconds: float
    edge_ms: float
    cloud_ms: float
    edge_accuracy: float
    cloud_accuracy: float
    chosen: str
    area: float
    fusion: bool
    rate: float
    accuracy: float
    recovered: float | None
    scores: tuple[Scored, ...]
    ece_prob: float
    ece_vacuity: float | None
    brier: float
    log_score_nats: float
    drawn: str
    against: tuple[Against, ...]
    every_rate: AtEveryRate


class _Right(NamedTuple):
    """Which test rows the edge and the cloud get right, (N,)."""

    edge: Flags
    cloud: Flags


def figures(task: Task) -> Figures:
    """Calibrate on the calibration rows, and do the sums on the test rows."""
    calibration, test = calibrated(task), task.test
    assessor = _assessor(task, calibration)
    opinions = assessor.deepen_batch(assessor.assess_batch(test.edge), test.edge)
    right = _Right(hits(opinions.probs, test.y), hits(test.cloud, test.y))
    scores = {**test_scores(task), RANDOM: np.zeros(len(test.y)), ORACLE: oracle_score(*right)}
    sent = opinions.score >= calibration.total
    alone, there = accuracy(right.edge), accuracy(right.cloud)
    both = accuracy(np.where(sent, right.cloud, right.edge))
    weighings = Resampling(len(test.y), group=test.group, seed=task.seed)
    return Figures(
        task=task.name,
        edge=task.edge_name,
        cloud=task.cloud_name,
        taught=task.edge.name,
        seed=task.seed,
        test_from=task.test_from,
        calibrated=len(task.calibration.y),
        tested=len(test.y),
        groups=None if test.group is None else len(np.unique(test.group)),
        seconds=task.seconds,
        edge_ms=task.edge_ms,
        cloud_ms=task.cloud_ms,
        edge_accuracy=alone,
        cloud_accuracy=there,
        chosen=calibration.score,
        area=_area(task, calibration),
        fusion=calibration.fusion,
        rate=accuracy(sent),
        accuracy=both,
        recovered=gap_recovered(edge=alone, coop=both, cloud=there),
        scores=tuple(_scored(name, score, right) for name, score in scores.items()),
        ece_prob=ece_prob(opinions.probs, test.y),
        ece_vacuity=None if opinions.vacuity is None else ece_vacuity(opinions.vacuity, right.edge),
        brier=brier(opinions.probs, test.y),
        log_score_nats=log_score_nats(opinions.probs, test.y),
        drawn=weighings.by,
        against=_against(scores, right, weighings, chosen=calibration.score),
        every_rate=_at_every_rate(scores, right, weighings, chosen=calibration.score),
    )


def calibrated(task: Task) -> Calibration:
    """Return the calibration for an escalation rate of `MOST`."""
    rows = task.calibration
    return calibrate(
        rows.edge,
        rows.cloud,
        rows.y,
        edge=task.edge,
        cloud=task.cloud,
        aim=TargetRate(MOST),
        group=rows.group,
        seed=task.seed,
        data_sha256=hashlib.sha256(rows.digests.tobytes()).hexdigest(),
    )


def test_scores(task: Task) -> dict[str, Numbers]:
    """Return every score (N,) of the test rows; what has to be fitted is of the calibration's."""
    rows = task.calibration
    fitted = contenders(
        rows.edge,
        rows.y,
        edge=task.edge,
        scores=SCORES,
        fitted_on=np.ones(len(rows.y), np.bool_),
        group=rows.group,
        seed=task.seed,
    )
    found: dict[str, Numbers] = {
        name: one.assessor.assess_batch(task.test.edge).score for name, one in fitted.items()
    }
    if task.test.dropout is not None:
        found[DROPOUT] = max_prob(task.test.dropout)
    return found


def _assessor(task: Task, calibration: Calibration) -> Assessor:
    return Assessor.of(task.edge, classes=task.classes, score=calibration.scoring)


def _area(task: Task, calibration: Calibration) -> float:
    rows = task.calibration
    opinions = _assessor(task, calibration).assess_batch(rows.edge)
    edge, cloud = hits(opinions.probs, rows.y), hits(rows.cloud, rows.y)
    return float(escalation_area(opinions.score, edge, cloud, up_to=MOST))


def _scored(name: str, score: Numbers, right: _Right) -> Scored:
    shares, reached = escalation_curve(score, *right)
    alone, there = accuracy(right.edge), accuracy(right.cloud)
    at = np.interp(RATES, shares, reached)
    most = float(reached[shares <= MOST + 1e-9].max())
    return Scored(
        score=name,
        recovered=tuple(gap_recovered(edge=alone, coop=float(x), cloud=there) for x in at),
        best=gap_recovered(edge=alone, coop=most, cloud=there),
        augrc=augrc(score, right.edge),
        aurc=aurc(score, right.edge),
    )


def _against(
    scores: Mapping[str, Numbers], right: _Right, weighings: Resampling, *, chosen: str
) -> tuple[Against, ...]:
    """Hold the chosen score to every baseline."""
    rankings = {name: Ranking.of(score) for name, score in scores.items()}
    drawn = weighings.draw(
        lambda weights: {
            name: Covered.by(ranking, right.edge, weights).augrc()
            for name, ranking in rankings.items()
        }
    )
    mine = augrc(scores[chosen], right.edge)
    found = []
    for name in scores:
        if name in _OURS:
            continue
        low, high = interval(drawn[chosen] - drawn[name])
        difference = mine - augrc(scores[name], right.edge)
        found.append(Against(baseline=name, difference=difference, low=low, high=high))
    return tuple(found)


def _at_every_rate(
    scores: Mapping[str, Numbers], right: _Right, weighings: Resampling, *, chosen: str
) -> AtEveryRate:
    singles = [name for name in scores if name not in ("router", DROPOUT, RANDOM, ORACLE)]
    areas = {name: float(escalation_area(scores[name], *right)) for name in singles}
    best = max(areas, key=areas.__getitem__)
    reached = {name: _accuracies(scores[name], right) for name in (chosen, best, RANDOM)}
    rankings = {name: Ranking.of(scores[name]) for name in (chosen, best)}
    drawn = weighings.draw(
        lambda weights: {
            name: Escalated.by(ranking, *right, weights).accuracy_at(_EVERY)
            for name, ranking in rankings.items()
        }
    )
    shortfall = reached[best] - reached[chosen]
    clearly = np.quantile(drawn[best] - drawn[chosen], 0.025, axis=0) > 0.0
    return AtEveryRate(
        best=best,
        below_random=accuracy(reached[chosen] < reached[RANDOM] - _ROUNDING),
        below_best=accuracy(shortfall > _ROUNDING),
        clearly=accuracy(clearly),
        shortfall=max(0.0, float(shortfall.max())),
    )


def _accuracies(score: Numbers, right: _Right) -> Numbers:
    """Return the accuracy of both together at each of the rates."""
    shares, reached = escalation_curve(score, *right)
    found: Numbers = np.interp(_EVERY, shares, reached)
    return found
