"""How right and how honest edge, cloud and cooperation are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import numpy as np

from ...models.evidence import Figures
from ...models.measures import (
    Flags,
    Labels,
    Ranking,
    hits,
    reliability,
    row_briers,
    row_log_scores,
)
from ...models.opinion import Opinions
from ...models.resampling import Resampling
from ...models.weighted import Covered, calibration_error, mean
from .answers import Answers
from .estimates import each_drawn
from .record import Bin, Diagram, Side, SideName

_FIGURES = ("accuracy", "ece_prob", "brier", "log_score_nats", "aurc", "augrc")


def sides_of(found: Answers) -> Iterator[tuple[SideName, Opinions]]:
    """Yield the sides that there are."""
    yield "edge", found.edge
    if found.cloud is not None:
        yield "cloud", found.cloud
    if found.cooperative is not None:
        yield "cooperative", found.cooperative


def sides(
    found: Answers, y: Labels, *, models: Mapping[SideName, str], resampling: Resampling
) -> Iterator[Side]:
    """Yield the measures of each side on rows of classes ``y`` (N,)."""
    said = dict(sides_of(found))
    every = each_drawn(
        {name: _Measure(one, y) for name, one in said.items()}, resampling, rows=len(y)
    )
    for name, one in said.items():
        drawn = every[name]
        yield Side(
            side=name,
            model=models[name],
            score=one.score_name,
            ece_vacuity=None if one.vacuity is None else drawn.estimate("ece_vacuity"),
            **{figure: drawn.estimate(figure) for figure in _FIGURES},
        )


class _Measure:
    """What is measured of one side under weights (R, N), what is known of each row kept."""

    def __init__(self, said: Opinions, y: Labels) -> None:
        self._correct = hits(said.probs, y)
        self._ranking = Ranking.of(said.score)
        self._means: dict[str, Figures | Flags] = {
            "accuracy": self._correct,
            "brier": row_briers(said.probs, y),
            "log_score_nats": row_log_scores(said.probs, y),
        }
        self._confidences = {"ece_prob": said.probs.max(axis=1).astype(np.float64)}
        if said.vacuity is not None:
            self._confidences["ece_vacuity"] = 1.0 - said.vacuity

    def __call__(self, weights: Figures) -> Mapping[str, Figures]:
        covered = Covered.by(self._ranking, self._correct, weights)
        means = {name: mean(values, weights) for name, values in self._means.items()}
        errors = {
            name: calibration_error(confidence, self._correct, weights)
            for name, confidence in self._confidences.items()
        }
        return {**means, **errors, "aurc": covered.aurc(), "augrc": covered.augrc()}


def diagrams(name: SideName, said: Opinions, y: Labels) -> Iterator[Diagram]:
    """Yield the reliability diagrams of one side: of max p, and of 1 - u where there is one."""
    correct = hits(said.probs, y)
    yield _diagram(name, "max p", said.probs.max(axis=1).astype(np.float64), correct)
    if said.vacuity is not None:
        yield _diagram(name, "1 - u", 1.0 - said.vacuity, correct)


def _diagram(
    name: SideName, of: Literal["max p", "1 - u"], confidence: Figures, correct: Flags
) -> Diagram:
    found = reliability(confidence, correct)
    bins = (
        Bin(
            rows=int(rows),
            confidence=float(sure) if rows else None,
            accuracy=float(right) if rows else None,
        )
        for rows, sure, right in zip(*found, strict=True)
    )
    return Diagram(side=name, confidence=of, bins=tuple(bins))
