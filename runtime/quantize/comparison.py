"""What quantisation did to a model's answers: paired differences, and how sure they are.

Every measure is a function of weights (R, N), R weightings of the N rows, and gives (R,). With
all weights 1 it is that of `measures`. The intervals are of the paired bootstrap (Efron 1979):
weights are how often a row was drawn, the same for both models and, where there are groups, for
all rows of a group. Rubin's bootstrap, whose weights are never 0, would be sure of a difference
that rests on one single row.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...models.evidence import Array, Figures
from ...models.measures import Flags, Labels, escalation_area, hits
from ...models.opinion import Assessor

RESAMPLES = 1000
_QUANTILES = (0.025, 0.975)
_BINS = 15
_CHUNK = 1 << 20  # weights drawn at a time
_LEAST_GROUPS = 5  # fewer say nothing of how groups differ


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
    opinions = assessor.assess_batch(outputs)
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
    unit = np.arange(count) if group is None else np.unique(group, return_inverse=True)[1]
    if group is not None and unit.max() + 1 < _LEAST_GROUPS:
        group, unit = None, np.arange(count)
    measures = _measures(before, after, total=total)
    drawn: dict[str, list[Figures]] = {name: [] for name in measures}
    units, random = int(unit.max()) + 1, np.random.default_rng(seed)
    size = max(1, _CHUNK // count)
    for start in range(0, RESAMPLES, size):
        resampled = min(size, RESAMPLES - start)
        drawings = random.multinomial(units, np.full(units, 1.0 / units), size=resampled)
        weights = drawings[:, unit].astype(np.float64)
        for name, measure in measures.items():
            drawn[name].append(measure(after, weights) - measure(before, weights))
    changes = {
        name: _change(measure, before, after, np.concatenate(drawn[name]))
        for name, measure in measures.items()
    }
    return Comparison(
        rows=count,
        resampled="row" if group is None else "group",
        units=units,
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
        found["escalated"] = lambda given, weights: _share(given.score >= total, weights)
        if all((given.score < total).any() for given in (before, after)):
            found["accepted_accuracy"] = lambda given, weights: _accuracy(
                given, weights * (given.score < total)
            )
    return found


def _change(measure: _Measure, before: Answers, after: Answers, drawn: Figures) -> Change:
    once = np.ones((1, len(before.correct)))
    old, new = (float(measure(given, once)[0]) for given in (before, after))
    low, high = (float(one) for one in np.nanquantile(drawn, _QUANTILES))
    return Change(before=old, after=new, change=new - old, low=low, high=high)


def _share(which: Flags, weights: Figures) -> Figures:
    rows = weights.sum(axis=1)  # 0 where a drawing has no row on this side of the gate
    share: Figures = np.divide(
        weights @ which, rows, out=np.full(len(rows), np.nan), where=rows > 0
    )
    return share


def _accuracy(given: Answers, weights: Figures) -> Figures:
    return _share(given.correct, weights)


def _ece(given: Answers, weights: Figures) -> Figures:
    return _calibration_error(given.confidence, given.correct, weights)


def _ece_vacuity(given: Answers, weights: Figures) -> Figures:
    certainty = given.confidence if given.certainty is None else given.certainty
    return _calibration_error(certainty, given.correct, weights)


def _calibration_error(confidence: Figures, correct: Flags, weights: Figures) -> Figures:
    """Return Σ |B|/n · |accuracy(B) - mean confidence(B)|, as `measures.ece_prob` has it."""
    index = np.clip(np.ceil(confidence * _BINS).astype(np.int64) - 1, 0, _BINS - 1)
    gaps = np.zeros((len(correct), _BINS))
    gaps[np.arange(len(correct)), index] = correct - confidence
    error: Figures = np.abs(weights @ gaps).sum(axis=1) / weights.sum(axis=1)
    return error


def _augrc(given: Answers, weights: Figures) -> Figures:
    """Return the area under the generalised risk-coverage curve (see `measures.augrc`).

    What is not answered goes to someone who is always right: then all that is wrong is what
    was answered wrongly.
    """
    right = np.ones(len(given.correct), bool)
    return 1.0 - escalation_area(given.score, given.correct, right, weights=weights)
