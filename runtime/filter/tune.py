"""Puts a bundle's filter where it keeps what matters, and tells whether it pays there.

The rule that the filter was taught is held against what the model says of rows that neither has
seen. Everything that is needed for a decision stands in one report: what the filter does at the
recall that was asked for and at the thesis' accuracy, what could be reached at most, what filters
that have learnt nothing reach, and whether what it saves is more than what it costs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from msgspec.structs import replace

from ...models.bundle import Bundle, write_bundle
from ...models.dataset import Dataset, digest, load_dataset
from ...models.errors import BundleError, ConfigError, ModelError
from ...models.evidence import Array
from ...models.filtering.baselines import Told
from ...models.filtering.operating_point import Point, curve, optimum
from ...models.filtering.rules import Rule, check_both, check_each, labels_text, rule_of
from ...models.filtering.standing import probabilities, to_any
from ...models.manifest import Cloud, Edge, Filter, Tuned
from ...models.measures import Flags
from ...models.next_version import next_version
from ...models.opinion import Assessor
from ...models.unseen import with_seen
from ..both_models import edge_variant, features_of, part_outputs
from .compared import compared
from .costs import Power, costs, spared_bytes
from .load import Load, reuse_load, skip_load
from .pair import shares_features
from .placing import Rows, TuneOrder, copies, placed, reuse_points, task_points
from .reached import rows_that_reach
from .time_costs import TimeCosts
from .tune_report import TuneReport

_RECALL = 0.95  # at which filters are compared where none was asked for
_MOST_OFTEN = "what the model says most often"


def tune_filter(
    bundle: Bundle,
    data_path: Path,
    order: TuneOrder,
    *,
    out: Path,
    replace_it: bool = False,
    power: Power | None = None,
    show: Callable[[str], object] = str,
) -> TuneReport:
    """Find the threshold on the rows that reach it, and write ``out``, a new version, if it pays.

    One of which that cannot be told is written, too. The report says whether it was; the rows
    count as seen from then on. ``power`` opens what reads the board's power (None: nothing does),
    ``show`` hears how far all that is.

    Raises:
        ConfigError: there is no such filter or rule, or the aim is no share.
        DataError: the rows do not fit, were seen, are all redundant or none is, or too few.
        ModelError: a model fails.
        BundleError: ``out`` cannot be written.
    """
    part = filter_of(bundle, order.place)
    _check(part, order)
    where = str(data_path)
    data = load_dataset(data_path).fitted(bundle.input, labels=bundle.labels, where=where)
    model = answering(bundle, order.variant)
    rule = rule_of_filter(part, bundle, order.rule)
    show("running model and filter")
    reached = rows_that_reach(bundle, order.place, model, data, where=where)
    rows = rows_of(bundle, part, model, reached.data, rule=rule, among=reached.new)
    show("placing the filter")
    if rows.keys is not None:
        rows = rows._replace(points=tuple(reuse_points(part, rows)))
    point = placed(part, rows, order)
    stands = moved(
        _stating(part, rule, rows, bundle, order), point, _tuned(part, rows, order, point)
    )
    load = _load(bundle, stands, model, rows, point)
    spent, energy = costs(bundle, stands, model, load, rate=point.rate, power=power, show=show)
    report = replace(
        _report(bundle, stands, rows, order, point, spent=spent),
        given=reached.given,
        seen=reached.seen,
        reached=len(reached.data.x),
        copies=copies(rows, order),
        taught_by=None if stands.rule == part.rule else part.rule,
        says_rule=order.rule is None or bool(stands.rule or stands.redundant),
        tasks=task_points(rows, point, rule),
        energy=energy,
        spared=spared_bytes(bundle),
    )
    if report.verdict == "does not pay" and not order.anyway:
        return report
    written = _write(bundle, stands, rows, order, out=out, replace_it=replace_it)
    return replace(
        report,
        bundle=str(out),
        version=written.manifest.version,
        digest=written.digest,
        written=True,
    )


def _check(part: Filter, order: TuneOrder) -> None:
    if not order.by_group:
        return
    if part.kind == "reuse":
        raise ConfigError("is for skip filters", where="--by-group")
    if order.recall is None:
        raise ConfigError(
            "is for a recall, and an accuracy is without a bound",
            where="--by-group",
            hint="give --recall, or leave it out",
        )


def filter_of(bundle: Bundle, place: int) -> Filter:
    """Return the bundle's filter at ``place``.

    Raises:
        ConfigError: it has none there.
    """
    filters = bundle.manifest.filter
    if not filters:
        raise BundleError(
            "has no filter", where=str(bundle.path), hint="hedge filter train makes one"
        )
    if not 0 <= place < len(filters):
        raise ConfigError(f"{place} is none of its {len(filters)} filters", where="--filter")
    return filters[place]


def answering(bundle: Bundle, variant: str | None) -> Edge | Cloud:
    """Return the model whose answers are the filter's measure: the edge, or the far end alone."""
    manifest = bundle.manifest
    if not manifest.edge and variant is None:
        if manifest.cloud is not None:
            return manifest.cloud
        if manifest.split is not None:
            return manifest.split.cloud
    return edge_variant(bundle, variant)


def rule_of_filter(part: Filter, bundle: Bundle, text: str | None = None) -> Rule | None:
    """Return the rule by which a filter was taught; ``text``, a user's, stands in for it.

    A reuse filter needs none.

    Raises:
        ConfigError: there is none, or it is none.
    """
    if text is not None:
        return rule_of(text, bundle.labels, own_code=True)
    told = part.rule or (labels_text(part.redundant) if part.redundant else None)
    if told is None and part.kind == "skip":
        raise ConfigError(
            "the filter does not say what is redundant", where="rule", hint="--redundant says it"
        )
    return None if told is None else rule_of(told, bundle.labels)


def rows_of(
    bundle: Bundle,
    part: Filter,
    model: Edge | Cloud,
    data: Dataset,
    *,
    rule: Rule | None,
    among: Flags,
) -> Rows:
    """Run filter and model on the rows, and return those ``among`` (N,) them.

    Where there is no rule, all matters that the model does not say most often.

    Raises:
        DataError: the rule makes all or nothing redundant.
        ModelError: one of them fails, or gives no numbers.
    """
    assessor = Assessor.of(model, classes=len(bundle.labels), score=None)
    probs = assessor.assess_batch(part_outputs(bundle, model, data)).probs
    labels = probs.argmax(axis=1)[among]
    if rule is None:
        redundant = labels == np.bincount(labels).argmax()
        check_both(redundant, rule=_MOST_OFTEN)
        tasks = ~redundant[:, None]
    else:
        tasks = check_each(rule, probs, group=data.group, among=among)
    data = data.rows(among)
    told = Told(labels, to_any(tasks), data.group)
    outputs = part_outputs(bundle, part, data)
    if not np.isfinite(outputs).all():
        raise ModelError("gives what is no number", where=part.file)
    if part.kind == "reuse":
        return Rows(data, told, keys=outputs.astype(np.float32))
    return Rows(data, told, scores=probabilities(outputs), tasks=of_outputs(tasks, outputs, part))


def of_outputs(tasks: Flags, outputs: Array, part: Filter) -> Flags:
    """Return the tasks (N, T) to which rows matter, as many as the filter has outputs.

    Raises:
        ConfigError: there are more than one of both, and not as many.
    """
    made = outputs.shape[1]
    if made == tasks.shape[1]:
        return tasks
    if made == 1:
        return to_any(tasks)[:, None]
    if tasks.shape[1] == 1:
        return np.repeat(tasks, made, axis=1)
    raise ConfigError(
        f"{tasks.shape[1]} rules for a filter that was taught {made}",
        where=part.file,
        hint="give as many, or one for all",
    )


def _load(bundle: Bundle, part: Filter, model: Edge | Cloud, rows: Rows, point: Point) -> Load:
    """Return samples, or the features that both take, and what a reuse filter knows."""
    shared = shares_features(bundle, part, model)
    x = features_of(bundle, rows.data).x if shared else rows.data.x
    if part.reuse is not None and rows.keys is not None:
        return reuse_load(x, rows.keys, rows.told.label, part.reuse, classes=len(bundle.labels))
    assert rows.scores is not None  # noqa: S101 -- of its kind
    limits = np.array(point.thresholds or (point.threshold,))
    return skip_load(x, ~to_any(rows.scores > limits))


def _report(
    bundle: Bundle, part: Filter, rows: Rows, order: TuneOrder, point: Point, *, spent: TimeCosts
) -> TuneReport:
    """Return what the rows say of a filter where it stands; `tune_filter` knows the rest."""
    matters, recall = rows.told.matters, order.recall or _RECALL
    told = part.rule or (labels_text(part.redundant) if part.redundant else _MOST_OFTEN)
    group = rows.data.group
    return TuneReport(
        bundle=str(bundle.path),
        version=bundle.manifest.version,
        digest=bundle.digest,
        rule=order.rule or told,
        rows=len(matters),
        redundant_share=float(1.0 - matters.mean()),
        aim="accuracy" if order.recall is None else "recall",
        confidence=None if order.recall is None else order.confidence,
        groups=len(np.unique(group[matters])) if order.by_group and group is not None else None,
        point=point,
        optimum=_optimum(part, matters, accuracy=point.accuracy),
        recall=recall,
        accuracy=order.accuracy,
        compared=tuple(
            compared(
                _own_points(part, rows),
                rows.told,
                rows.data.x,
                accuracy=order.accuracy,
                recall=recall,
                optimum=_optimum(part, matters, accuracy=order.accuracy),
            )
        ),
        time=spent,
        written=False,
    )


def _optimum(part: Filter, matters: Flags, *, accuracy: float) -> float:
    """Return the greatest rate there can be; what is reused is redundant, whatever it is."""
    return 1.0 if part.kind == "reuse" else optimum(matters, accuracy=accuracy)


def _own_points(part: Filter, rows: Rows) -> Sequence[Point]:
    """Return what the filter does at all thresholds, or at many distances."""
    if rows.score is None:
        return rows.points or reuse_points(part, rows)
    return curve(rows.score, rows.told.matters)


def _tuned(part: Filter, rows: Rows, order: TuneOrder, point: Point) -> Tuned:
    return Tuned(
        aim="accuracy" if order.recall is None else "recall",
        target=order.accuracy if order.recall is None else order.recall,
        confidence=None if order.recall is None else order.confidence,
        recall=point.recall,
        accuracy=point.accuracy,
        rate=point.rate,
        optimum=_optimum(part, rows.told.matters, accuracy=point.accuracy),
        rows=len(rows.told.matters),
        data_sha256=digest(rows.data),
    )


def _stating(
    part: Filter, rule: Rule | None, rows: Rows, bundle: Bundle, order: TuneOrder
) -> Filter:
    """Return the filter as it states the rule that its figures are of: a device judges it by that.

    Code of the user's own is no part of a bundle; and an accuracy without a rule is of all rows.
    """
    if order.rule is None and (rule is not None or order.recall is None):
        return part
    if rule is None:
        label = bundle.labels[int(np.bincount(rows.told.label).argmax())]
        return replace(part, rule=labels_text([label]), redundant=(label,))
    return replace(
        part,
        rule=None if rule.is_of("python") else rule.text,
        redundant=tuple(bundle.labels[one] for one in rule.labels),
    )


def _write(
    bundle: Bundle, part: Filter, rows: Rows, order: TuneOrder, *, out: Path, replace_it: bool
) -> Bundle:
    """Write the new version, in which the filter says where it stands and why."""
    filters = list(bundle.manifest.filter)
    filters[order.place] = part
    manifest = replace(
        bundle.manifest,
        filter=tuple(filters),
        version=next_version(bundle.manifest.version),
    )
    files = {name: bundle.read(name) for name in manifest.files}
    manifest, files = with_seen(manifest, files, rows.data)
    return write_bundle(out, manifest, files, replace=replace_it)


def moved(part: Filter, point: Point, tuned: Tuned) -> Filter:
    """Return a filter that stands elsewhere: by its thresholds, or by its distance."""
    if part.reuse is None:
        return replace(part, threshold=point.threshold, thresholds=point.thresholds, tuned=tuned)
    return replace(part, reuse=replace(part.reuse, distance=point.threshold), tuned=tuned)
