"""The scores that an edge can be gated on, and which of them the rows choose.

The one with the least AUGRC is chosen: the fewest silent failures at all shares that the edge
may answer. Where the cloud is weak, too, that can cost some of the gap recovered against the score
with the greatest area of edge and cloud; chosen by that area, the AUGRC on rows that were new was
clearly worse than the best single score's far oftener.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from numpy.typing import NDArray

from ..errors import ConfigError, ModelError
from ..evidence import Array, Figures
from ..manifest import Edge, Score, Scoring
from ..measures import Flags, Labels, augrc, hits
from ..opinion import Assessor, Opinions
from ..scores import router_features
from .router import fit_router, folds
from .temperature import fit_temperature

MOST_ROUTED = 128
"""Up to how many classes a router is considered: it has a weight for each."""


class Contender(NamedTuple):
    """A score as the device will have it, and as honest rows have it.

    ``opinions`` are on all N rows. ``honest`` (N,) is their score, but for a router on the
    rows that it was fitted on: there it is what a router says that was fitted without them.
    """

    scoring: Scoring
    assessor: Assessor
    outputs: Array
    opinions: Opinions
    honest: Figures

    def deep(self) -> Opinions:
        """Return the opinions with all evidence, where there is any."""
        return self.assessor.deepen_batch(self.opinions, self.outputs)


def contenders(
    outputs: Array,
    y: Labels,
    *,
    edge: Edge,
    scores: Sequence[Score],
    fitted_on: Flags,
    group: NDArray[Any] | None = None,
    seed: int = 0,
) -> dict[Score, Contender]:
    """Return those of ``scores`` that have a meaning for ``edge``, in their order.

    ``outputs`` (N, K) are the edge's on rows of the classes ``y`` (N,). What has to be fitted
    is fitted on the rows ``fitted_on`` (N,), by cross-validation over groups if there are any.

    Raises:
        ModelError: the outputs are no numbers, or none of the scores suits the edge.
        ConfigError: there are no scores.
    """
    plain = Assessor.of(edge, classes=outputs.shape[1], score="max_prob")
    wrong = ~hits(plain.assess_batch(outputs).probs, y)  # outputs at fault end it here
    rows = _Rows(outputs, plain.logits_batch(outputs), y, wrong, fitted_on, group, seed)
    found: dict[Score, Contender] = {}
    refusals = []
    for score in scores:
        try:
            contender = _contender(score, rows, edge=edge)
        except ModelError as error:
            refusals.append(error)
        else:
            if contender is not None:
                found[score] = contender
    if not found:
        raise refusals[0] if refusals else ConfigError("no score to choose from", where="scores")
    return found


class _Rows(NamedTuple):
    outputs: Array
    logits: Array
    y: Labels
    wrong: Flags
    fitted_on: Flags
    group: NDArray[Any] | None
    seed: int


def _contender(score: Score, rows: _Rows, *, edge: Edge) -> Contender | None:
    """Return a contender; None: there are too few rows to fit it."""
    classes, fitted_on = rows.outputs.shape[1], rows.fitted_on
    if score not in ("temperature", "router"):
        return _assessed(Scoring(score=score), rows, edge=edge)
    if score == "temperature":
        heat = fit_temperature(rows.logits[fitted_on], rows.y[fitted_on])
        return _assessed(Scoring(score=score, temperature=heat), rows, edge=edge)
    if classes > MOST_ROUTED:
        return None
    group = None if rows.group is None else rows.group[fitted_on]
    fit = fit_router(
        router_features(rows.logits[fitted_on]),
        rows.wrong[fitted_on],
        folds(int(fitted_on.sum()), group, seed=rows.seed),
    )
    if fit is None:
        return None
    routed = _assessed(Scoring(score=score, router=fit.router), rows, edge=edge)
    routed.honest[fitted_on] = fit.honest
    return routed


def _assessed(scoring: Scoring, rows: _Rows, *, edge: Edge) -> Contender:
    assessor = Assessor.of(edge, classes=rows.outputs.shape[1], score=scoring)
    opinions = assessor.assess_batch(rows.outputs)
    return Contender(scoring, assessor, rows.outputs, opinions, opinions.score.copy())


def choose_score(scores: Mapping[Score, Figures], correct: Flags) -> Score:
    """Return the score with the least AUGRC, the first of those that tie.

    ``scores`` are figures (N,) of rows that the edge gets ``correct`` (N,) or not.
    """
    areas = {name: round(augrc(score, correct), 12) for name, score in scores.items()}
    return min(areas, key=areas.__getitem__)
