"""Calibration: where the gate stands, from rows that training has not seen.

The score, its threshold, the split above it and whether to fuse are all chosen on the same
calibration rows; what they are worth has to be measured on others. Source: Lu et al.,
§4.1 (4), with what the paper leaves open settled by significance.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

import numpy as np

from .errors import ConfigError, DataError, ModelError
from .evidence import Array, Figures
from .fusion import fuse
from .manifest import Calibration, Cloud, Edge, Score
from .measures import Flags, Labels, escalation_area, hits
from .opinion import Assessor, Opinions

PAPER_QUANTILE = 0.7
SIGNIFICANCE = 0.05
RESAMPLES = 1000
SCORES: tuple[Score, ...] = get_args(Score)
_CHUNK = 1 << 20  # weights drawn at a time


class Choice(NamedTuple):
    """The score that was chosen, and the area that each candidate reached."""

    score: Score
    areas: dict[Score, float]


class FusionGain(NamedTuple):
    """What fusing did to ``rows`` rows: accuracy, fused less cloud, and its p-value."""

    rows: int
    gain: float | None
    p_value: float


def calibrate(
    edge_outputs: Array,
    cloud_outputs: Array,
    y: Labels,
    *,
    edge: Edge,
    cloud: Cloud,
    target_rate: float,
    data_sha256: str,
    scores: Sequence[Score] = SCORES,
) -> Calibration:
    """Return the calibration of an edge and a cloud model.

    ``edge_outputs`` and ``cloud_outputs`` (N, K) are their raw outputs on the same rows,
    ``y`` (N,) the labels. At most the share ``target_rate`` of these rows escalates, and
    as near to it as ties allow. ``scores`` are the candidates, the first of them that has a
    meaning for the edge being preferred. The same input gives the same calibration.

    Raises:
        ConfigError: ``target_rate`` is not within [0, 1].
        DataError: outputs and labels do not fit each other, or there are none.
        ModelError: outputs are no numbers, or none of the scores suits the edge.
    """
    _check(edge_outputs, cloud_outputs, y, target_rate=target_rate)
    classes = edge_outputs.shape[1]
    near = _assessors(edge, classes=classes, scores=scores)
    far = Assessor.of(cloud, classes=classes)
    opinions = {name: assessor.assess_batch(edge_outputs) for name, assessor in near.items()}
    answers = far.assess_batch(cloud_outputs)
    score = choose_score(
        {name: opinion.score for name, opinion in opinions.items()},
        edge_correct=hits(next(iter(opinions.values())).probs, y),
        cloud_correct=hits(answers.probs, y),
        up_to=min(1.0, 2.0 * target_rate) or 1.0,
    ).score
    total = threshold_for_rate(opinions[score].score, rate=target_rate)
    deep = near[score].deepen_batch(opinions[score])
    epistemic, aleatoric = _quantile(deep.epistemic), _quantile(deep.aleatoric)
    case = _fuse_case(deep, total=total, epistemic=epistemic, aleatoric=aleatoric)
    fusion = fusion_gain(deep.rows(case), far.deepen_batch(answers.rows(case)), y[case])
    return Calibration(
        score=score,
        total=total,
        epistemic=epistemic,
        aleatoric=aleatoric,
        fusion=fusion.p_value < SIGNIFICANCE,
        fusion_gain=fusion.gain,
        method=(
            f"escalation rate {target_rate:g}; score by paired bootstrap; "
            f"split at the {PAPER_QUANTILE} quantiles; fusion by sign test"
        ),
        rows=len(y),
        data_sha256=data_sha256,
    )


def threshold_for_rate(score: Figures, *, rate: float) -> float:
    """Return the least threshold that at most the share ``rate`` of ``score`` (N,) reaches.

    Rows that tie are never divided, so with ties the share reached may be smaller.

    >>> threshold_for_rate(np.array([0.1, 0.5, 0.5, 0.9]), rate=0.5)
    0.9
    """
    allowed = math.floor(rate * len(score) + 1e-9)
    ordered = np.sort(score)[::-1]
    if allowed >= len(score):
        return float(ordered[-1])
    first_out = ordered[allowed]
    reached = ordered[ordered > first_out]
    return float(reached[-1]) if len(reached) else float(np.nextafter(first_out, np.inf))


def choose_score(
    scores: Mapping[Score, Figures],
    *,
    edge_correct: Flags,
    cloud_correct: Flags,
    up_to: float = 1.0,
) -> Choice:
    """Return the score that gates best: the first of ``scores`` unless one is clearly better.

    Better is a greater area under accuracy against escalation, up to the share ``up_to``;
    clearly, that a paired bootstrap over the rows says so at 5 %, divided by the number of
    rivals. The bootstrap is Rubin's (1981): rows get exponential weights.
    """
    areas = {
        name: float(escalation_area(score, edge_correct, cloud_correct, up_to=up_to))
        for name, score in scores.items()
    }
    first, *rivals = scores
    drawn = _resampled(scores, edge_correct=edge_correct, cloud_correct=cloud_correct, up_to=up_to)
    level = SIGNIFICANCE / max(1, len(rivals))
    better = [name for name in rivals if np.quantile(drawn[name] - drawn[first], level) > 0.0]
    return Choice(max(better, key=areas.__getitem__, default=first), areas)


def _resampled(
    scores: Mapping[Score, Figures], *, edge_correct: Flags, cloud_correct: Flags, up_to: float
) -> dict[Score, Figures]:
    """Return the area of each score under the same `RESAMPLES` weightings of the rows."""
    rows = len(edge_correct)
    random = np.random.default_rng(0)
    drawn: dict[Score, list[Figures]] = {name: [] for name in scores}
    for count in _chunks(RESAMPLES, max(1, _CHUNK // rows)):
        weights = random.standard_exponential((count, rows))
        for name, score in scores.items():
            drawn[name].append(
                escalation_area(score, edge_correct, cloud_correct, up_to=up_to, weights=weights)
            )
    return {name: np.concatenate(parts) for name, parts in drawn.items()}


def fusion_gain(edge: Opinions, cloud: Opinions, y: Labels) -> FusionGain:
    """Return what fusing gains over the cloud alone on these rows.

    The p-value is that of the exact one-sided sign test on the rows where they differ.
    """
    if not len(y):
        return FusionGain(0, None, 1.0)
    fused, alone = hits(fuse(edge, cloud), y), hits(cloud.probs, y)
    won, lost = int(np.sum(fused & ~alone)), int(np.sum(alone & ~fused))
    return FusionGain(len(y), (won - lost) / len(y), sign_test(won, lost))


def sign_test(won: int, lost: int) -> float:
    """Return P(X ≥ won) for X ~ Binomial(won + lost, ½).

    >>> sign_test(3, 1)  # (4 + 1) / 16
    0.3125
    """
    trials = won + lost
    return sum(math.comb(trials, k) for k in range(won, trials + 1)) / (1 << trials)


def _assessors(edge: Edge, *, classes: int, scores: Sequence[Score]) -> dict[Score, Assessor]:
    built = {}
    refusals = []
    for score in scores:
        try:
            built[score] = Assessor.of(edge, classes=classes, score=score)
        except ModelError as error:
            refusals.append(error)
    if not built:
        raise refusals[0] if refusals else ConfigError("no score to choose from", where="scores")
    return built


def _quantile(figures: Figures | None) -> float | None:
    """Return the paper's threshold, over all rows; None without evidence."""
    return None if figures is None else float(np.quantile(figures, PAPER_QUANTILE))


def _fuse_case(
    deep: Opinions, *, total: float, epistemic: float | None, aleatoric: float | None
) -> Flags:
    """Return (N,) the rows that the policy's table would fuse."""
    if deep.epistemic is None or deep.aleatoric is None or epistemic is None or aleatoric is None:
        return np.zeros(len(deep.score), bool)
    low = deep.epistemic < epistemic
    return (deep.score >= total) & low & (deep.aleatoric >= aleatoric)


def _chunks(total: int, size: int) -> list[int]:
    return [min(size, total - start) for start in range(0, total, size)]


def _check(edge: Array, cloud: Array, y: Labels, *, target_rate: float) -> None:
    if not 0.0 <= target_rate <= 1.0:
        raise ConfigError(f"{target_rate} is not within [0, 1]", where="target_rate")
    if edge.ndim != 2 or edge.shape != cloud.shape or y.shape != edge.shape[:1] or not len(y):
        raise DataError(
            f"edge outputs {edge.shape}, cloud outputs {cloud.shape} and labels {y.shape} "
            "do not fit each other",
            hint="(N, K), (N, K) and (N,) with N ≥ 1 do",
        )
    if y.dtype.kind not in "iu" or int(y.min()) < 0 or int(y.max()) >= edge.shape[1]:
        raise DataError(f"labels are not integers from 0 to {edge.shape[1] - 1}", where="y")
