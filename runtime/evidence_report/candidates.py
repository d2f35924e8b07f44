"""Every score by which a bundle's edge could gate, on the same rows, and why some are missing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple, get_args

from ...models.errors import ModelError
from ...models.evidence import Array, Figures
from ...models.manifest import Calibration, Edge, Score, Scoring
from ...models.opinion import Assessor

TITLES: Mapping[str, str] = MappingProxyType(
    {
        "vacuity": "vacuity, u = K/S",
        "max_prob": "max softmax",
        "temperature": "temperature-scaled",
        "entropy": "softmax entropy",
        "margin": "margin",
        "p_norm": "max-logit p-norm",
        "router": "router",
        "mc_dropout": "MC dropout",
        "random": "random",
        "oracle": "oracle",
    }
)
NOT_FITTED = "not fitted"
_NO_MEANING: Mapping[str, str] = MappingProxyType(
    {"vacuity": "the edge has no evidence", "p_norm": "the same for every row of two classes"}
)


class Candidate(NamedTuple):
    """A score on N rows, or why there is none; higher is less sure."""

    name: Score
    score: Figures | None
    missing: str | None = None


def candidates(
    outputs: Array, *, edge: Edge, calibration: Calibration | None
) -> Iterator[Candidate]:
    """Yield every score of the edge's raw ``outputs`` (N, K).

    A temperature and a router are those of the bundle's calibration: rows that judge teach none.

    Raises:
        ModelError: the outputs are no numbers, or no distribution where they should be.
    """
    for name in get_args(Score):
        scoring = _scoring(name, calibration)
        if scoring is None:
            yield Candidate(name, None, NOT_FITTED)
            continue
        try:
            assessor = Assessor.of(edge, classes=outputs.shape[1], score=scoring)
        except ModelError as error:
            yield Candidate(name, None, _NO_MEANING.get(name, error.what))
            continue
        yield Candidate(name, assessor.assess_batch(outputs).score)


def _scoring(name: Score, calibration: Calibration | None) -> Scoring | None:
    """Return the score with what it needs; None if that was not fitted."""
    if calibration is None:
        return None if name in {"temperature", "router"} else Scoring(score=name)
    needs = {"temperature": calibration.temperature, "router": calibration.router}
    if name in needs and needs[name] is None:
        return None
    return Scoring(score=name, temperature=calibration.temperature, router=calibration.router)
