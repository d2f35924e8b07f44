"""A bundle's models on rows that it has not seen: all figures of the report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...models.bundle import Bundle
from ...models.dataset import digest
from ...models.errors import DataError
from ...models.evidence import Figures
from ...models.manifest import Edge
from ...models.measures import hits
from ...models.resampling import RESAMPLES, Resampling
from ...models.weighted import mean
from ..bench.machine import this_machine
from ..both_models import BothOutputs, edge_variant, outputs_of
from .answers import Answers, answers
from .apart import Others, apart, other_rows, permuted_rows
from .by_class import by_class
from .candidates import TITLES, candidates
from .dropout import MISSING, mc_dropout
from .estimates import drawn
from .findings import doubts, findings
from .gate import gate
from .maps import Shown, maps
from .record import FORMAT, Curve, Diagram, Estimate, EvidenceReport, Scored, Side, SideName
from .rows import Rows, class_concerns, new_rows, passing
from .scored import Ranked, curve, references, scored
from .scored import Rows as Right
from .sides import diagrams, sides, sides_of
from .speed import speed


class Plan(NamedTuple):
    """What to report on: the files, the edge's variant (None: the first), the seed."""

    data: Path
    other: Path | None = None
    variant: str | None = None
    seed: int = 0
    resamples: int = RESAMPLES


class Measured(NamedTuple):
    """The figures, and what the page shows beside them."""

    report: EvidenceReport
    shown: tuple[Shown, ...]


class _Judged(NamedTuple):
    """The bundle's answers to the rows that are judged."""

    bundle: Bundle
    edge: Edge
    rows: Rows
    outputs: BothOutputs
    found: Answers
    right: Right
    resampling: Resampling


def measure(bundle: Bundle, plan: Plan, *, show: Callable[[str], None]) -> Measured:
    """Return all figures; ``show`` hears how far it is.

    Raises:
        DataError: the rows do not fit, have no classes, or too few of them are new.
        ConfigError, BundleError: there is no such variant, or none at all.
        ModelError: a model fails, or gives no distribution where it should.
        MissingExtraError: a backend is not installed.
    """
    edge = edge_variant(bundle, plan.variant)
    rows = new_rows(plan.data, bundle)
    other = None if plan.other is None else other_rows(plan.other, bundle)
    both = edge.name if bundle.manifest.cloud is None else f"{edge.name} and the cloud"
    show(f"running {both} on {len(rows.y)} rows")
    judged, dropped = _judged(bundle, edge, rows, plan)
    return _measured(judged, plan, other=other, dropped=dropped, show=show)


def _judged(bundle: Bundle, edge: Edge, rows: Rows, plan: Plan) -> tuple[_Judged, int]:
    """Run the models; return what they say to the rows that no filter drops."""
    manifest = bundle.manifest
    outputs = outputs_of(bundle, rows.data, variant=edge.name)
    passes = outputs.passes
    kept = passing(rows, passes, where=str(plan.data))
    if (kept.y == kept.y[0]).all():
        raise DataError("all rows that no filter drops are of one class", where=str(plan.data))
    outputs = BothOutputs(
        outputs.edge[passes],
        None if outputs.cloud is None else outputs.cloud[passes],
        np.ones(len(kept.y), bool),
    )
    found = answers(
        outputs.edge,
        outputs.cloud,
        edge=edge,
        cloud=manifest.cloud,
        calibration=manifest.calibration,
    )
    right = Right(
        hits(found.edge.probs, kept.y),
        None if found.cloud is None else hits(found.cloud.probs, kept.y),
        None if found.asked is None else found.asked.escalated,
    )
    resampling = Resampling(
        len(kept.y), group=kept.data.group, seed=plan.seed, resamples=plan.resamples
    )
    judged = _Judged(bundle, edge, kept, outputs, found, right, resampling)
    return judged, int((~passes).sum())


def _measured(
    judged: _Judged,
    plan: Plan,
    *,
    other: Others | None,
    dropped: int,
    show: Callable[[str], None],
) -> Measured:
    bundle, edge, rows = judged.bundle, judged.edge, judged.rows
    calibration, found = bundle.manifest.calibration, judged.found
    own = found.edge.score_name  # that of the gate or, without one, the edge's default
    show(f"drawing {plan.resamples} bootstraps of {judged.resampling.units}")
    each_side = tuple(_sides(judged))
    scores, curves = _scores(judged, own)
    gated = gate(found, rows.y, calibration=calibration, resampling=judged.resampling)
    show("running the edge on rows of another kind")
    others = permuted_rows(rows.data.x, seed=plan.seed) if other is None else other
    beside = apart(bundle, judged.outputs.edge, others, edge=edge, own=own)
    mapped, shown = maps(bundle, rows, found, edge=edge)
    show("timing the models by turns")
    timed = speed(
        bundle, rows.data.x, edge=edge, cloud_curve=_accuracies(curves, own), seed=plan.seed
    )
    concerns = (
        *class_concerns(rows.y, bundle),
        *_group_concern(judged),
        *doubts(each_side, scores, _gap(judged)),
    )
    name, up_to = str(bundle.path), judged.right.area_up_to
    report = EvidenceReport(
        format=FORMAT,
        bundle=bundle.manifest.name,
        version=bundle.manifest.version,
        digest=bundle.digest,
        variant=edge.name,
        data=plan.data.name,
        data_sha256=digest(rows.data),
        machine=this_machine(),
        seed=plan.seed,
        rows=len(rows.y),
        seen_left_out=rows.left_out,
        dropped=dropped,
        resampled=judged.resampling.by,
        units=judged.resampling.units,
        resamples=plan.resamples,
        findings=tuple(
            findings(scores, gated, each_side, apart=beside, bundle=name, area_up_to=up_to)
        ),
        concerns=concerns,
        sides=each_side,
        gate=gated,
        area_up_to=up_to,
        scores=tuple(scores),
        curves=tuple(curves),
        reliability=tuple(_reliability(judged)),
        speed=timed,
        apart=beside,
        classes=by_class(found, rows.y, labels=bundle.labels),
        maps=mapped,
    )
    return Measured(report, shown)


def _sides(judged: _Judged) -> Iterator[Side]:
    cloud = judged.bundle.manifest.cloud
    models: dict[SideName, str] = {
        "edge": judged.edge.name,
        "cloud": "" if cloud is None else cloud.file,
        "cooperative": "both",
    }
    yield from sides(judged.found, judged.rows.y, models=models, resampling=judged.resampling)


def _reliability(judged: _Judged) -> Iterator[Diagram]:
    for name, said in sides_of(judged.found):
        yield from diagrams(name, said, judged.rows.y)


def _scores(judged: _Judged, own: str) -> tuple[list[Scored], list[Curve]]:
    """Return the figures and curves of every score, and a word on those that there are not."""
    bundle, edge, calibration = judged.bundle, judged.edge, judged.bundle.manifest.calibration
    every = list(candidates(judged.outputs.edge, edge=edge, calibration=calibration))
    ranked = [Ranked(one.name, one.score) for one in every if one.score is not None]
    dropout = mc_dropout(bundle, judged.rows.data, edge=edge, calibration=calibration)
    if dropout is not None:
        ranked.append(Ranked("mc_dropout", dropout))
    ranked.extend(references(judged.right))
    figures = scored(ranked, judged.right, own=own, resampling=judged.resampling)
    missing: dict[str, str] = {one.name: one.missing for one in every if one.missing is not None}
    if dropout is None:
        missing["mc_dropout"] = MISSING
    figures += [Scored(name=name, title=TITLES[name], missing=why) for name, why in missing.items()]
    places = list(TITLES)
    figures.sort(key=lambda one: places.index(one.name))
    return figures, [curve(one, judged.right) for one in ranked]


def _accuracies(curves: Sequence[Curve], own: str) -> Figures | None:
    found = next(one.accuracy for one in curves if one.name == own)
    return np.array(found) if found else None


def _gap(judged: _Judged) -> Estimate | None:
    """Return by how much the cloud is better than the edge."""
    right = judged.right
    if right.cloud is None:
        return None
    gained = right.cloud.astype(np.float64) - right.edge
    found = drawn(
        lambda weights: {"gap": mean(gained, weights)}, judged.resampling, rows=len(gained)
    )
    return found.estimate("gap")


def _group_concern(judged: _Judged) -> Iterator[str]:
    group = judged.rows.data.group
    if group is not None and judged.resampling.by == "row":
        yield (
            f"{len(np.unique(group))} groups are too few to draw from: the intervals are of rows, "
            "and new groups may differ more"
        )
