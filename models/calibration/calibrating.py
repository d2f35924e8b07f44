"""From a model's outputs on rows that training has not seen to its calibration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from ..errors import ConfigError, DataError
from ..evidence import Array, Figures
from ..manifest import Calibration, Candidate, Cloud, Edge, Promise, Score
from ..measures import Flags, Labels, accuracy, augrc, escalation_area, gap_recovered, hits
from ..opinion import Assessor, Opinions
from .aims import (
    Aim,
    BudgetAim,
    PaperQuantiles,
    TargetAccuracy,
    TargetRate,
    budget_rate,
    check_aim,
)
from .choice import Contender, choose_score, contenders
from .fusion import FusionGain, fuse_case, fusion_gain
from .outputs import check_outputs
from .promise import Promised, design_rows, promise_groups, promise_rows
from .repeats import find_repeats
from .threshold import threshold_for_rate

T = TypeVar("T")

PAPER_QUANTILE = 0.7
PAPER_TOTAL = 0.7
SCORES: tuple[Score, ...] = get_args(Score)
_REFERENCE = np.arange(1, 20) / 20


class _Rows(NamedTuple):
    """What is known of N rows; ``cloud_correct`` is all true where there is no cloud."""

    y: Labels
    edge_correct: Flags
    cloud_correct: Flags
    cloud_outputs: Array | None
    cloud: Cloud | None
    group: NDArray[Any] | None


class _Gate(NamedTuple):
    """Where the gate stands, and how that was found."""

    total: float
    how: str
    promise: Promise | None = None


def calibrate(
    edge_outputs: Array,
    cloud_outputs: Array | None,
    y: Labels,
    *,
    edge: Edge,
    cloud: Cloud | None,
    aim: Aim,
    group: NDArray[Any] | None = None,
    seed: int = 0,
    data_sha256: str,
    scores: Sequence[Score] = SCORES,
    score: Score | None = None,
    same: NDArray[np.uint64] | None = None,
) -> Calibration:
    """Return the calibration of an edge and a cloud model.

    ``edge_outputs`` and ``cloud_outputs`` (N, K) are their raw outputs on the same rows,
    ``y`` (N,) the labels, ``group`` (N,) whom the rows are of. Without a cloud the far end
    counts as always right, and nothing is fused. ``scores`` are the candidates, the first of
    those that tie being preferred; ``score`` gates whatever their figures, if it is given. Rows
    whose number in ``same`` (N,) is equal are copies (`dataset.row_digests`): a promise counts
    just one of them, and no fit is judged by a copy of what it saw. The same input gives the
    same calibration.

    Raises:
        ConfigError: the ``aim`` is none that a gate can have, ``scores`` are none, or ``score``
            is none of those that can be had.
        DataError: outputs and labels do not fit each other, or there are too few rows for
            what is to be promised.
        ModelError: outputs are no numbers, or no distribution where they should be one, or
            none of the scores suits the edge.
    """
    check_aim(aim)
    _check(edge_outputs, cloud_outputs, y, group)
    check_outputs(edge_outputs, model=edge, where=edge.file)
    if cloud is not None and cloud_outputs is not None:
        check_outputs(cloud_outputs, model=cloud, where=cloud.file)
    copies = 0
    if same is not None and isinstance(aim, TargetAccuracy):
        repeats = find_repeats(same, y, group=group, seed=seed)
        kept, copies, same = repeats.kept, repeats.copies, None
        edge_outputs, y = edge_outputs[kept], y[kept]
        cloud_outputs = None if cloud_outputs is None else cloud_outputs[kept]
        group = None if group is None else group[kept]
    fitted_on, scores = np.ones(len(y), np.bool_), tuple(scores)
    if isinstance(aim, TargetAccuracy) and aim.by == "row":
        fitted_on = design_rows(len(y), seed=seed)
    if isinstance(aim, PaperQuantiles):
        _check_evidence(edge)
        scores = ("vacuity",)
    found = contenders(
        edge_outputs,
        y,
        edge=edge,
        scores=scores,
        fitted_on=fitted_on,
        group=_together(group, same),
        seed=seed,
    )
    rows = _rows(next(iter(found.values())), cloud_outputs, y, cloud=cloud, group=group)
    chosen = _by_hand(score, found) or choose_score(
        {name: one.honest[fitted_on] for name, one in found.items()}, rows.edge_correct[fitted_on]
    )
    gate = _gate(found[chosen], rows, aim, design=fitted_on)
    how = "score by least AUGRC" if score is None else "score by hand"
    left = f"; {copies} copies of other rows left out" if copies else ""
    return _calibration(
        found,
        chosen,
        gate._replace(how=f"{gate.how}{left}; {how}"),
        rows,
        aim=aim,
        fitted_on=fitted_on,
        data_sha256=data_sha256,
    )


def _check_evidence(edge: Edge) -> None:
    if edge.head != "evidential":
        raise ConfigError(
            "the paper's quantiles are vacuity's, and the edge has no evidence",
            where=edge.file,
            hint="hedge evidence fit gives it some, or ask for a rate",
        )


def _together(group: NDArray[Any] | None, same: NDArray[np.uint64] | None) -> NDArray[Any] | None:
    """Return what no fit may be both taught and judged by: groups, else rows that are copies."""
    if group is not None or same is None:
        return group
    return same if len(np.unique(same)) < len(same) else None


def _by_hand(score: Score | None, found: Mapping[Score, Contender]) -> Score | None:
    """Return the score that was asked for, which can be had.

    Raises:
        ConfigError: it cannot.
    """
    if score is not None and score not in found:
        raise ConfigError(
            f"{score!r} cannot gate this edge by these rows",
            where="score",
            hint=f"these can: {', '.join(found)}",
        )
    return score


def _calibration(
    found: Mapping[Score, Contender],
    score: Score,
    gate: _Gate,
    rows: _Rows,
    *,
    aim: Aim,
    fitted_on: Flags,
    data_sha256: str,
) -> Calibration:
    chosen = found[score]
    deep = chosen.deep()
    epistemic, aleatoric = _quantile(deep.epistemic), _quantile(deep.aleatoric)
    case = fuse_case(deep, total=gate.total, epistemic=epistemic, aleatoric=aleatoric)
    fusion = _fusion(deep.rows(case), rows, case)
    rate = float(np.mean(chosen.opinions.score >= gate.total))
    return Calibration(
        score=score,
        total=gate.total,
        temperature=_first(one.scoring.temperature for one in found.values()),
        router=_first(one.scoring.router for one in found.values()),
        epistemic=epistemic,
        aleatoric=aleatoric,
        fusion=fusion.significant,
        fusion_gain=fusion.gain,
        promise=gate.promise,
        budget=aim.budget if isinstance(aim, BudgetAim) else None,
        reference=tuple(np.quantile(chosen.opinions.score, _REFERENCE).tolist()),
        candidates=tuple(
            _candidate(name, one.honest[fitted_on], rows, fitted_on, rate=rate)
            for name, one in found.items()
        ),
        method=(f"{gate.how}; split at the {PAPER_QUANTILE} quantiles; fusion by sign test"),
        rows=len(rows.y),
        data_sha256=data_sha256,
    )


def _first(fitted: Iterable[T | None]) -> T | None:
    """Return what was fitted, for the score that was chosen or for another."""
    return next((one for one in fitted if one is not None), None)


def _rows(
    contender: Contender,
    cloud_outputs: Array | None,
    y: Labels,
    *,
    cloud: Cloud | None,
    group: NDArray[Any] | None,
) -> _Rows:
    """Judge edge and cloud; what the edge answers is the same for all contenders."""
    edge_correct = hits(contender.opinions.probs, y)
    if cloud is None or cloud_outputs is None:
        return _Rows(y, edge_correct, np.ones(len(y), np.bool_), None, None, group)
    answers = Assessor.of(cloud, classes=cloud_outputs.shape[1]).assess_batch(cloud_outputs)
    return _Rows(y, edge_correct, hits(answers.probs, y), cloud_outputs, cloud, group)


def _gate(chosen: Contender, rows: _Rows, aim: Aim, *, design: Flags) -> _Gate:
    score = chosen.opinions.score
    match aim:
        case TargetRate(rate=rate):
            return _Gate(threshold_for_rate(score, rate=rate), f"escalation rate {rate:g}")
        case PaperQuantiles():
            reached = float(np.mean(score >= PAPER_TOTAL))
            how = (
                f"the paper's, its total at the {PAPER_QUANTILE} quantile of vacuity "
                f"(its fixed {PAPER_TOTAL} would escalate {reached:.1%})"
            )
            return _Gate(float(np.quantile(score, PAPER_QUANTILE)), how)
        case BudgetAim():
            rate = budget_rate(aim)
            how = f"escalation rate {rate:.4g} from a budget at {aim.samples_per_hour:g} an hour"
            return _Gate(threshold_for_rate(score, rate=rate), how)
        case TargetAccuracy():
            return _promised(chosen, rows, aim, design=design)


def _promised(chosen: Contender, rows: _Rows, aim: TargetAccuracy, *, design: Flags) -> _Gate:
    if aim.by == "row":
        promised = promise_rows(chosen.honest, rows.edge_correct, design, aim=aim)
        how = f"accuracy {aim.accuracy:g} at {aim.confidence:g} by fixed-sequence testing of rows"
        return _Gate(promised.total, how, _promise(chosen, promised, aim))
    if rows.group is None:
        raise DataError("there is no group column", hint="a promise by group needs one")
    promised = promise_groups(chosen.honest, rows.edge_correct, rows.group, aim=aim)
    how = f"accuracy {aim.accuracy:g} at {aim.confidence:g} by the spread of groups (empirical)"
    return _Gate(promised.total, how, _promise(chosen, promised, aim))


def _promise(chosen: Contender, promised: Promised, aim: TargetAccuracy) -> Promise:
    return Promise(
        accuracy=aim.accuracy,
        confidence=aim.confidence,
        by=aim.by,
        coverage=float(np.mean(chosen.opinions.score < promised.total)),
        rows=promised.rows,
        groups=promised.groups,
    )


def _candidate(name: Score, score: Figures, rows: _Rows, of: Flags, *, rate: float) -> Candidate:
    edge, cloud = rows.edge_correct[of], rows.cloud_correct[of]
    asks = score >= threshold_for_rate(score, rate=rate)
    recovered = gap_recovered(
        edge=accuracy(edge), coop=accuracy(np.where(asks, cloud, edge)), cloud=accuracy(cloud)
    )
    return Candidate(
        score=name,
        area=float(escalation_area(score, edge, cloud)),
        augrc=augrc(score, edge),
        recovered=recovered,
    )


def _fusion(deep: Opinions, rows: _Rows, case: Flags) -> FusionGain:
    if rows.cloud is None or rows.cloud_outputs is None:
        return FusionGain(0, None, 1.0)
    far = Assessor.of(rows.cloud, classes=rows.cloud_outputs.shape[1])
    outputs = rows.cloud_outputs[case]
    answers = far.deepen_batch(far.assess_batch(outputs), outputs)
    return fusion_gain(deep, answers, rows.y[case])


def _quantile(figures: Figures | None) -> float | None:
    """Return the paper's threshold, over all rows; None without evidence."""
    return None if figures is None else float(np.quantile(figures, PAPER_QUANTILE))


def _check(edge: Array, cloud: Array | None, y: Labels, group: NDArray[Any] | None) -> None:
    if edge.ndim == 2 and edge.shape[1] < 2:
        raise DataError(f"{edge.shape[1]} classes; at least 2 are needed", where="edge outputs")
    fits = edge.ndim == 2 and len(y) and y.shape == edge.shape[:1]
    fits = fits and (cloud is None or cloud.shape == edge.shape)
    if not fits or (group is not None and group.shape != y.shape):
        others = "" if cloud is None else f", cloud outputs {cloud.shape}"
        raise DataError(
            f"edge outputs {edge.shape}{others} and labels {y.shape} do not fit each other",
            hint="(N, K), (N, K) and (N,) with N ≥ 1 do",
        )
    if y.dtype.kind not in "iu" or int(y.min()) < 0 or int(y.max()) >= edge.shape[1]:
        raise DataError(f"labels are not integers from 0 to {edge.shape[1] - 1}", where="y")
