"""A model before and after it got evidence, and every plainer score beside vacuity."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...models.calibration.temperature import fit_temperature
from ...models.evidence import Array, Figures, softmax
from ...models.measures import (
    Flags,
    Labels,
    Ranking,
    accuracy,
    augrc,
    aurc,
    brier,
    ece_prob,
    ece_vacuity,
    hits,
    log_score_nats,
)
from ...models.opinion import Opinions
from ...models.resampling import Resampling, interval
from ...models.scores import SCORES
from ...models.weighted import Covered
from .division import Division
from .record import Measured, Quality, Scored
from .verdict import advise, worse_of


def compare(
    logits: Array,
    after: Opinions,
    y: Labels,
    *,
    division: Division,
    group: NDArray[Any] | None,
    part: Literal["edge", "cloud"],
    seed: int,
) -> Measured:
    """Return what the rows held out say of a model's ``logits`` (N, K) and the opinions after.

    ``logits``, ``after`` and ``y`` are of all rows; the temperature comes from those that teach.
    ``part`` is what the model is of its bundle.
    """
    temperature = fit_temperature(logits[division.taught], y[division.taught])
    held = np.zeros(len(y), bool)
    held[division.held] = True
    y, mine, plain = y[held], after.rows(held), logits[held]
    probs, scaled = softmax(plain), softmax(plain.astype(np.float64) / temperature)
    assert mine.vacuity is not None  # noqa: S101  it has just got evidence
    scores = {
        "vacuity": mine.vacuity,
        "max softmax": SCORES["max_prob"].rows(probs),
        "temperature": SCORES["max_prob"].rows(scaled),
        "entropy": SCORES["entropy"].rows(probs),
    }
    if logits.shape[1] > 2:
        scores["p-norm"] = SCORES["p_norm"].rows(plain)
    correct = hits(probs, y)
    drawings = Resampling(len(y), group=None if group is None else group[held], seed=seed)
    before, own = _quality(probs, y, None), _quality(mine.probs, y, mine.vacuity)
    alone, found = _quality(scaled, y, None), tuple(_scored(scores, correct, drawings))
    worse = worse_of(before, own, alone)
    return Measured(
        before=before,
        after=own,
        temperature=temperature,
        scaled=alone,
        scores=found,
        resampled=drawings.by,
        units=drawings.units,
        worse=worse,
        advice=advise(found, worse, part=part),
    )


def _quality(probs: Array, y: Labels, vacuity: Figures | None) -> Quality:
    correct = hits(probs, y)
    return Quality(
        accuracy=accuracy(correct),
        ece_prob=ece_prob(probs, y),
        ece_vacuity=None if vacuity is None else ece_vacuity(vacuity, correct),
        brier=brier(probs, y),
        log_score_nats=log_score_nats(probs, y),
    )


def _scored(scores: dict[str, Figures], correct: Flags, drawings: Resampling) -> list[Scored]:
    rankings = {name: Ranking.of(score) for name, score in scores.items()}

    def areas(weights: Figures) -> dict[str, Figures]:
        return {
            name: Covered.by(ranking, correct, weights).augrc()
            for name, ranking in rankings.items()
        }

    drawn = drawings.draw(areas)
    own, found = augrc(scores["vacuity"], correct), []
    for name, score in scores.items():
        area = augrc(score, correct)
        low, high = interval(drawn[name] - drawn["vacuity"])
        found.append(
            Scored(
                name=name,
                aurc=aurc(score, correct),
                augrc=area,
                more=area - own,
                low=low,
                high=high,
            )
        )
    return found
