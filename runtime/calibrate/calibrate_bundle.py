"""A new version of a bundle, with its gate found anew on rows that training has not seen."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace as replaced

from ...models.bundle import Bundle, write_bundle
from ...models.calibration import SCORES, Aim, TargetAccuracy, calibrate
from ...models.calibration.promise import design_rows
from ...models.calibration.repeats import Repeats, copies_sentence, find_repeats
from ...models.dataset import Dataset, digest, load_dataset, row_digests
from ...models.errors import DataError
from ...models.manifest import Calibration, Edge, Score
from ...models.measures import Labels, accuracy, hits
from ...models.next_version import version_for
from ...models.opinion import Assessor
from ...models.unseen import seen_rows, with_seen
from ..both_models import BothOutputs, edge_variant, outputs_of
from .report import CalibrateReport

_CLEARLY = 0.05  # more of the rows, for a score to be named that was not chosen


class CalibrateOrder(Struct, frozen=True, kw_only=True):
    """What to aim at, for which edge ``variant`` (None: the first).

    ``score`` is the one that gates; None: the one that the rows choose.
    """

    aim: Aim
    variant: str | None = None
    score: Score | None = None
    seed: int = 0


class _Run(NamedTuple):
    """Rows that pass the filters, their classes, and what the models give for them.

    Where a promise is made, ``repeats`` has told which rows are copies, and they are left out.
    """

    data: Dataset
    y: Labels
    outputs: BothOutputs
    edge: Edge
    repeats: Repeats

    def kept(self) -> _Run:
        """Return what counts: of rows that are equal just one."""
        kept, given = self.repeats.kept, self.outputs
        cloud = None if given.cloud is None else given.cloud[kept]
        outputs = BothOutputs(given.edge[kept], cloud, given.passes[kept])
        return _Run(self.data.rows(kept), self.y[kept], outputs, self.edge, self.repeats)


def calibrate_bundle(
    bundle: Bundle, data_path: Path, order: CalibrateOrder, *, out: Path, replace: bool = False
) -> CalibrateReport:
    """Run the models on all rows, find the gate, and write ``out`` under a new version.

    The rows count as seen from then on: nothing is measured on them by mistake.

    Raises:
        ConfigError: an aim that no gate can have, or no such variant.
        DataError: the rows do not fit, training saw some, a class is missing, there are no
            groups where the promise is for them, or too few rows for what is promised.
        ModelError: a model fails, or its output is not what the manifest says.
        BundleError: the bundle has no edge model, or ``out`` cannot be written.
        MissingExtraError: a library is not installed.
    """
    where = str(data_path)
    edge = edge_variant(bundle, order.variant)
    data = load_dataset(data_path).fitted(bundle.input, labels=bundle.labels, where=where)
    y = _classes(data, bundle.labels, where=where)
    if isinstance(order.aim, TargetAccuracy) and order.aim.by == "group" and data.group is None:
        raise DataError("no array group", where=where, hint="a promise by group needs one")
    outputs = outputs_of(bundle, data, variant=edge.name)
    passes = outputs.passes
    if not passes.any():
        raise DataError("no row passes the bundle's filters", where=where)
    passed = data.rows(passes)
    cloud = None if outputs.cloud is None else outputs.cloud[passes]
    _check_unseen(bundle, data, passed, where=where)
    run = _Run(
        passed,
        y[passes],
        BothOutputs(outputs.edge[passes], cloud, passes[passes]),
        edge,
        find_repeats(row_digests(passed.x), y[passes], group=passed.group, seed=order.seed),
    )
    found = _calibrated(bundle, run, order)
    manifest = replaced(
        bundle.manifest, calibration=found, version=version_for(out, bundle.manifest.version)
    )
    files = {name: bundle.read(name) for name in manifest.files}
    manifest, files = with_seen(manifest, files, data)
    written = write_bundle(out, manifest, files, replace=replace)
    return _report(written, run, found, order, rows=len(data.x), out=out)


def _classes(data: Dataset, labels: tuple[str, ...], *, where: str) -> Labels:
    """Return the classes of all rows, each of which occurs."""
    if data.y is None:
        raise DataError("no array y", where=where, hint="calibration needs the classes")
    there = np.unique(data.y)
    if len(there) == 1:
        raise DataError(
            f"all {len(data.y)} rows are {labels[there[0]]!r}",
            where=where,
            hint="give rows of every class",
        )
    missing = [label for place, label in enumerate(labels) if place not in there]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        names = ", ".join(repr(label) for label in missing[:3])
        raise DataError(
            f"no row is {names}{more}",
            where=where,
            hint="what never occurs here cannot be calibrated: give rows of every class",
        )
    return data.y


def _check_unseen(bundle: Bundle, data: Dataset, passed: Dataset, *, where: str) -> None:
    """Refuse rows that were seen, unless as those of the calibration that this one replaces.

    That one may have been before the bundle's filters: of all the rows, not of those that pass.
    """
    before = bundle.manifest.calibration
    if before is not None and before.data_sha256 in (digest(passed), digest(data)):
        return
    seen = int(seen_rows(bundle, data).sum())
    if seen:
        raise DataError(
            f"training or an earlier calibration saw {seen} of the {len(data.x)} rows",
            where=where,
            hint="give rows that are new, or exactly those that calibrated it before",
        )


def _found(
    bundle: Bundle, run: _Run, order: CalibrateOrder, *, scores: Sequence[Score] = SCORES
) -> Calibration:
    return calibrate(
        run.outputs.edge,
        run.outputs.cloud,
        run.y,
        edge=run.edge,
        cloud=bundle.manifest.cloud,
        aim=order.aim,
        group=run.data.group,
        seed=order.seed,
        data_sha256=digest(run.data),
        scores=scores,
        score=order.score,
        same=row_digests(run.data.x),
    )


def _further(
    bundle: Bundle, run: _Run, order: CalibrateOrder, found: Calibration
) -> tuple[Score, float] | None:
    """Return the score by which a promise by group covers clearly more, and how much it covers."""
    if found.promise is None or found.promise.by == "row" or order.score is not None:
        return None
    covers: dict[Score, float] = {}
    for one in found.candidates:
        if one.score == found.score:
            continue
        with contextlib.suppress(DataError):  # by this one nothing can be promised
            other = _found(bundle, run, order, scores=(one.score,)).promise
            covers[one.score] = 0.0 if other is None else other.coverage
    best = max(covers, key=covers.__getitem__, default=None)
    if best is None or covers[best] < found.promise.coverage + _CLEARLY:
        return None
    return best, covers[best]


def _calibrated(bundle: Bundle, run: _Run, order: CalibrateOrder) -> Calibration:
    try:
        found = _found(bundle, run, order)
    except DataError as error:
        _, copies, torn = run.repeats
        if not copies or not isinstance(order.aim, TargetAccuracy):
            raise
        what = f"{error.what}; {copies_sentence(copies, torn, rows=len(run.y))}"
        raise DataError(what, where=error.where, hint=error.hint) from error
    before = bundle.manifest.calibration
    return found if before is None else replaced(found, neither=before.neither)


def _report(
    written: Bundle, run: _Run, found: Calibration, order: CalibrateOrder, *, rows: int, out: Path
) -> CalibrateReport:
    passed = len(run.y)
    if isinstance(order.aim, TargetAccuracy):
        run = run.kept()
    assessor = Assessor.of(run.edge, classes=len(written.labels), score=found.scoring)
    opinions = assessor.assess_batch(run.outputs.edge)
    right, accepted = hits(opinions.probs, run.y), opinions.score < found.total
    cloud = run.outputs.cloud
    return CalibrateReport(
        bundle=str(out),
        version=written.manifest.version,
        digest=written.digest,
        variant=run.edge.name,
        seed=order.seed,
        rows=rows,
        passed=passed,
        copies=run.repeats.copies,
        torn=run.repeats.torn,
        counted=len(run.y),
        compared=_compared(len(run.y), order),
        edge_accuracy=accuracy(right),
        cloud_accuracy=None if cloud is None else accuracy(hits(cloud, run.y)),
        escalated_share=float(1.0 - accepted.mean()),
        accepted=int(accepted.sum()),
        accepted_accuracy=accuracy(right[accepted]) if accepted.any() else None,
        by_hand=order.score is not None,
        further=_further(written, run, order, found),
        own_logits=run.edge.head == "evidential" and run.edge.evidence is None,
        tied=int(np.unique(opinions.score, return_counts=True)[1].max()),
        calibration=found,
    )


def _compared(rows: int, order: CalibrateOrder) -> int:
    """Return on how many rows the scores were compared: a promise by row tests on the others."""
    aim = order.aim
    if isinstance(aim, TargetAccuracy) and aim.by == "row":
        return int(design_rows(rows, seed=order.seed).sum())
    return rows
