"""What quantisation did to a model's answers: paired differences, and how sure they are.

Every measure is a function of weights (R, N), R weightings of the N rows, and gives (R,): see
`weighted`. The intervals are of the paired bootstrap (see `resampling`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...models.evidence import Array, Figures
from ...models.measures import Flags, Labels, Ranking, hits
from ...models.opinion import Assessor
from ...models.resampling import Resampling, interval
from ...models.weighted import Covered, calibration_error, mean


class Answers(NamedTuple):
    """What one model said to N rows: the class, whether it is right, how sure, its score.

    ``confidence`` is max p, ``certainty`` 1 - u where there is evidence; all are (N,).
    """

    label: NDArray[np.intp]
    correct: Flags
    confidence: Figures
    certainty: Figures | None
    score: Figures

    def rows(self, which: NDArray[np.intp]) -> Answers:
        """Return the answers to the rows that ``which`` (m,) lists."""
        certainty = None if self.certainty is None else self.certainty[which]
        return Answers(
            label=self.label[which],
            correct=self.correct[which],
            confidence=self.confidence[which],
            certainty=certainty,
            score=self.score[which],
        )


class Change(Struct, frozen=True, kw_only=True):
    """A figure of the float and of the int8 model, int8 less float, and its 95 % interval."""

    before: float
    after: float
    change: float
    low: float
    high: float


class Comparison(Struct, frozen=True, kw_only=True):
    """A float and an int8 model on the same ``rows`` rows.

    ``resampled`` is what the intervals take as independent, of which there are ``units``;
    ``same_label`` the share of rows on which both give the same label. ``escalated`` is the
    share that reaches the gate, ``accepted_accuracy`` the accuracy of the others: None where
    there is no gate, or nothing on this side of it.
    """

    rows: int
    resampled: Literal["row", "group"]
    units: int
    same_label: float
    accuracy: Change
    ece: Change
    ece_vacuity: Change | None
    augrc: Change
    escalated: Change | None
    accepted_accuracy: Change | None


_Measure = Callable[[Answers, Figures], Figures]


def answers(outputs: Array, y: Labels, *, assessor: Assessor) -> Answers:
    """Return what ``assessor`` reads in a model's raw ``outputs`` (N, K) on rows of classes ``y``.

    Raises:
        ModelError: an output is no number, or the outputs should be a distribution.
    """
    opinions = assessor.deepen_batch(assessor.assess_batch(outputs), outputs)
    return Answers(
        label=opinions.probs.argmax(axis=1),
        correct=hits(opinions.probs, y),
        confidence=opinions.probs.max(axis=1).astype(np.float64),
        certainty=None if opinions.vacuity is None else 1.0 - opinions.vacuity,
        score=opinions.score,
    )


def compare(
    before: Answers,
    after: Answers,
    *,
    total: float | None,
    group: NDArray[Any] | None = None,
    seed: int = 0,
) -> Comparison:
    """Compare the answers of a float and of an int8 model to the same rows.

    ``total`` is the gate's threshold on the score; ``group`` (N,) what rows come from.
    """
    count = len(before.correct)
    resampling = Resampling(count, group=group, seed=seed)
    measures = _measures(before, after, total=total)
    drawn = resampling.draw(
        lambda weights: {
            name: measure(after, weights) - measure(before, weights)
            for name, measure in measures.items()
        }
    )
    changes = {
        name: _change(measure, before, after, drawn[name]) for name, measure in measures.items()
    }
    return Comparison(
        rows=count,
        resampled=resampling.by,
        units=resampling.units,
        same_label=float(np.mean(before.label == after.label)),
        accuracy=changes["accuracy"],
        ece=changes["ece"],
        ece_vacuity=changes.get("ece_vacuity"),
        augrc=changes["augrc"],
        escalated=changes.get("escalated"),
        accepted_accuracy=changes.get("accepted_accuracy"),
    )


def _measures(before: Answers, after: Answers, *, total: float | None) -> dict[str, _Measure]:
    """Return the measures that have a meaning for both models."""
    found: dict[str, _Measure] = {"accuracy": _accuracy, "ece": _ece, "augrc": _augrc}
    if before.certainty is not None and after.certainty is not None:
        found["ece_vacuity"] = _ece_vacuity
    if total is not None:
        found["escalated"] = lambda given, weights: mean(given.score >= total, weights)
        if all((given.score < total).any() for given in (before, after)):
            found["accepted_accuracy"] = lambda given, weights: _accuracy(
                given, weights * (given.score < total)
            )
    return found


def _change(measure: _Measure, before: Answers, after: Answers, drawn: Figures) -> Change:
    once = np.ones((1, len(before.correct)))
    old, new = (float(measure(given, once)[0]) for given in (before, after))
    low, high = interval(drawn)
    return Change(before=old, after=new, change=new - old, low=low, high=high)


def _accuracy(given: Answers, weights: Figures) -> Figures:
    return mean(given.correct, weights)


def _ece(given: Answers, weights: Figures) -> Figures:
    return calibration_error(given.confidence, given.correct, weights)


def _ece_vacuity(given: Answers, weights: Figures) -> Figures:
    certainty = given.confidence if given.certainty is None else given.certainty
    return calibration_error(certainty, given.correct, weights)


def _augrc(given: Answers, weights: Figures) -> Figures:
    return Covered.by(Ranking.of(given.score), given.correct, weights).augrc()
