"""Teaches a bundle's filter anew, by labels that devices have asked for.

Source: InFi, chapter 3 (active update). What the far end has said of samples that the filter was
least certain of teaches it, together with older rows; on all of them the same model is the
measure, the bundle's cloud. A new bundle is written if the filter is clearly better on labels that
taught neither, and not clearly worse on older rows that taught neither.

Labels are no fair sample of a stream: they were chosen because the present filter was unsure. Any
other filter looks better on them than on the rest, and that is what the older rows are for.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace as replaced
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace
from numpy.typing import NDArray

from ...models.bundle import Bundle, write_bundle
from ...models.consistency import parts
from ...models.dataset import Dataset, digest, load_dataset
from ...models.errors import BundleError, ConfigError, DataError, MissingExtraError
from ...models.evidence import Array
from ...models.filtering.baselines import Told, best
from ...models.filtering.comparing import Aim, Change, compare_reuse, compare_skip
from ...models.filtering.operating_point import Point, TaskPoint, optimum, rows_needed
from ...models.filtering.rules import Rule, check_both, check_each
from ...models.filtering.standing import probabilities, to_any
from ...models.manifest import Filter, Tuned
from ...models.measures import Flags
from ...models.next_version import next_version
from ...models.opinion import Assessor
from ...models.prepare import preparer
from ...models.unseen import seen_rows, with_seen
from ..backends import open_model
from ..both_models import model_outputs, part_outputs, passing
from .fresh_labels import FreshLabels, fresh_labels
from .placing import Rows, TuneOrder, placed, reuse_points, task_points
from .several_tasks import joint_score
from .train import TrainOrder, redundant_names, stale
from .tune import answering, filter_of, moved, of_outputs, rule_of_filter
from .update_report import UpdateReport, against

if TYPE_CHECKING:
    from . import teach

_BLOCKS = 20
_HELD, _JUDGED = 2, 8  # of the blocks of labels
_LEAST_OF_A_KIND = 10
_LEAST_KEPT = 50  # older rows that are new to both filters

Say = Callable[[str], None]
Places = NDArray[np.intp]


class UpdateOrder(Struct, frozen=True, kw_only=True):
    """Where the filter is to stand, and as for `TrainOrder` how it is taught."""

    tune: TuneOrder = TuneOrder()
    modality: tuple[str, ...] = ()
    epochs: int | None = None
    int8: bool = False
    seed: int = 0
    replace: bool = False

    @property
    def aim(self) -> Aim:
        """At which filters are compared."""
        return Aim(self.tune.recall, self.tune.accuracy)


class _Material(NamedTuple):
    """All rows, the labels first, ``fresh`` of them: what is fed and what the far end says.

    ``tasks`` (N, T) are to which task of the rule each matters; without one, all that is not said
    most often does. The rest are row numbers; ``kept`` are older ones that judge, and that the
    present filter has not seen.
    """

    data: Dataset
    fed: NDArray[Any]
    labels: NDArray[np.int64]
    tasks: Flags
    fresh: int
    taught: Places
    held: Places
    judged: Places
    kept: Places

    @property
    def matters(self) -> Flags:
        """Which rows (N,) matter to any task."""
        return to_any(self.tasks)

    @property
    def new(self) -> Places:
        """The labels that judge."""
        return self.judged[self.judged < self.fresh]


def update_filter(
    bundle: Bundle, place: Path, data_path: Path, order: UpdateOrder, *, out: Path, say: Say
) -> UpdateReport:
    """Teach the filter anew, and write ``out`` under a new version if it is better.

    ``place`` is a worker's folder of labels, ``data_path`` older rows, which need no classes.

    Raises:
        ConfigError: there is no such filter, or it is none that labels of samples can teach.
        DataError: too few labels are released, too few rows are left for a part, or do not fit.
        ModelError: a model fails.
        BundleError: ``out`` cannot be written, or is something else already.
        MissingExtraError: torch is not installed.
    """
    began = time.monotonic()
    part = filter_of(bundle, order.tune.place)
    rule = rule_of_filter(part, bundle, order.tune.rule)
    _check(part, rule, order, out=out)
    try:
        from ...models.training.infi.rows import Division  # noqa: PLC0415
        from ...models.training.infi.view import views  # noqa: PLC0415
        from . import teach  # noqa: PLC0415  torch, which is an extra
    except ImportError as error:
        raise MissingExtraError("torch", extra="train") from error
    teach.check_libraries(part.format, int8=order.int8, may_choose=False)
    seen = views(order.modality, bundle.input)
    fresh = fresh_labels(bundle, place)
    material = _material(bundle, fresh, data_path, rule, order)
    say(
        f"{len(material.taught)} rows to teach, {len(material.held)} held out, "
        f"{len(material.judged)} to judge, {len(material.new)} of them labels"
    )
    tasks = None if rule is None else material.tasks
    made = teach.teach(
        teach.Rows(material.fed, material.labels, tasks),
        seen,
        Division(*_weighed(material, part.kind), material.judged, "time"),
        _train_order(part, rule, order),
        say=say,
    )
    return _decided(bundle, (part, rule), fresh, material, made, order=order, out=out, began=began)


def _check(part: Filter, rule: Rule | None, order: UpdateOrder, *, out: Path) -> None:
    if part.attach == "feature":
        raise ConfigError("takes features, and labels hold samples", where="--filter")
    if rule is not None and rule.is_of("last"):
        raise ConfigError(
            "needs the sample before, and labels are single samples", where=f"rule {rule.text}"
        )
    if order.tune.by_group:
        raise ConfigError("is not for labels, which come from few devices", where="--by-group")
    if order.seed < 0:
        raise ConfigError(f"{order.seed} is below 0", where="--seed")
    if order.epochs is not None and order.epochs < 1:
        raise ConfigError(f"{order.epochs} is below 1", where="--epochs")
    if os.path.lexists(out) and not order.replace:
        raise BundleError(
            "is there already", where=str(out), hint="name another place, or --replace it"
        )
    if out.parent != Path() and not out.parent.is_dir():
        raise ConfigError("lies in no folder that exists", where=f"--out {out}")


def _train_order(part: Filter, rule: Rule | None, order: UpdateOrder) -> TrainOrder:
    return TrainOrder(
        kind=part.kind,
        rule=None if rule is None else rule.text,
        seed=order.seed,
        epochs=order.epochs,
        format=part.format,
        int8=order.int8,
    )


def _material(
    bundle: Bundle, fresh: FreshLabels, data_path: Path, rule: Rule | None, order: UpdateOrder
) -> _Material:
    """Bring labels and older rows together, and divide them.

    Raises:
        DataError: older rows do not fit, or too few of a kind are left for a part.
    """
    from ...models.training.infi.rows import divide  # noqa: PLC0415

    where = str(data_path)
    older = load_dataset(data_path).fitted(bundle.input, labels=bundle.labels, where=where)
    manifest = bundle.manifest
    before = replaced(
        bundle, manifest=replace(manifest, filter=manifest.filter[: order.tune.place])
    )
    older = older.rows(passing(before, older))
    known = seen_rows(bundle, older)
    division = divide(older, seen=known, seed=order.seed)
    parts_of = _by_time(seen_rows(bundle, fresh.data), seed=order.seed)
    first = len(fresh.data.x)
    x = np.concatenate((fresh.data.x, older.x))
    probs = np.concatenate((fresh.probs, _answers(bundle, older)))
    labels = probs.argmax(axis=1).astype(np.int64)
    if rule is None:
        redundant = labels == np.bincount(labels).argmax()
        check_both(redundant, rule="what is said most often")
        tasks = ~redundant[:, None]
    else:
        tasks = check_each(rule, probs)
    taught, held, judged = (
        np.concatenate((one, first + other))
        for one, other in zip(parts_of, division[:3], strict=True)
    )
    found = _Material(
        data=Dataset(x=x),
        fed=preparer(bundle.input)(x),
        labels=labels,
        tasks=tasks,
        fresh=first,
        taught=taught,
        held=held,
        judged=judged,
        kept=first + division.judged[~known[division.judged]],
    )
    if not len(found.new):
        raise DataError(
            f"the bundle has seen all of the {first} labels",
            where="labels",
            hint="release more: those that taught it cannot judge it",
        )
    _check_parts(found, has_rule=rule is not None)
    return found


def _answers(bundle: Bundle, data: Dataset) -> Array:
    """Return what the far end's model says (N, K), or, where the bundle has none, the edge's."""
    model = bundle.manifest.cloud or answering(bundle, None)
    assessor = Assessor.of(model, classes=len(bundle.labels), score=None)
    return assessor.assess_batch(part_outputs(bundle, model, data)).probs


def _by_time(seen: Flags, *, seed: int) -> tuple[Places, Places, Places]:
    """Divide labels, in the order of time, by blocks: half teaches, two fifths judge.

    What an earlier update has ``seen`` (N,) teaches once more, and does not judge.
    """
    block = np.arange(len(seen)) * _BLOCKS // len(seen)
    dealt = np.random.default_rng(seed).permutation(_BLOCKS)
    part = np.zeros(_BLOCKS, np.intp)
    part[dealt[:_JUDGED]], part[dealt[_JUDGED : _JUDGED + _HELD]] = 2, 1
    of_row = np.where(seen, 0, part[block])
    taught, held, judged = (np.flatnonzero(of_row == number) for number in range(3))
    return taught, held, judged


def _balanced(rows: Places, fresh: int) -> Places:
    """Return the rows with labels as often as it takes to weigh as much as the older ones.

    The first ``fresh`` numbers are labels. Where there are more of these nothing is repeated.
    """
    labels, older = rows[rows < fresh], rows[rows >= fresh]
    if not 0 < len(labels) < len(older):
        return rows
    return np.concatenate((np.resize(labels, len(older)), older))


def _weighed(material: _Material, kind: str) -> tuple[Places, Places]:
    """Return the rows that teach and those held out, labels of as much weight as older rows.

    A reuse filter's are held out once each: it would find itself in a repeated row.
    """
    taught, held = (_balanced(rows, material.fresh) for rows in (material.taught, material.held))
    return taught, material.held if kind == "reuse" else held


def _placing(material: _Material, order: TuneOrder) -> Places:
    """Return the rows that place the filter: the labels that judge, which are of the new times.

    Where fewer of them matter than a recall takes, all rows that judge.
    """
    if order.recall is None:
        return material.new
    tasks = material.tasks[material.new]
    confidence = 1.0 - (1.0 - order.confidence) / tasks.shape[1]
    least = rows_needed(recall=order.recall, confidence=confidence)
    return material.new if tasks.sum(axis=0).min() >= least else material.judged


def _check_parts(found: _Material, *, has_rule: bool) -> None:
    """Refuse what leaves too little to learn from, or to judge by.

    Raises:
        DataError: how many rows of which kind are missing where.
    """
    by = {
        "to teach the filter": found.taught,
        "held out": found.held,
        "labels that judge it": found.new,
    }
    for name, rows in by.items():
        each = [int(matters[rows].sum()) for matters in (*found.tasks.T, found.matters)]
        matter = min(each, key=lambda one: min(one, len(rows) - one))
        least = min(matter, len(rows) - matter)
        if len(rows) < _LEAST_OF_A_KIND or (has_rule and least < _LEAST_OF_A_KIND):
            raise DataError(
                f"{matter} rows that matter and {len(rows) - matter} that do not among the "
                f"{len(rows)} {name}",
                where="labels",
                hint=f"at least {_LEAST_OF_A_KIND} of each are needed: release more labels",
            )


def _decided(
    bundle: Bundle,
    asked: tuple[Filter, Rule | None],
    fresh: FreshLabels,
    material: _Material,
    made: teach.Made,
    *,
    order: UpdateOrder,
    out: Path,
    began: float,
) -> UpdateReport:
    """Compare the two filters; write the new one if it is better."""
    part, rule = asked
    later = _renewed(part, made, rule, bundle)
    given = part_outputs(bundle, part, material.data), _outputs(bundle, later, made, material.data)
    both = (part, given[0]), (later, given[1])
    change = _changed(both, material, material.new, order, group=fresh.data.group)
    kept = None
    if len(material.kept) >= _LEAST_KEPT and _both_kinds(material.matters[material.kept]):
        kept = _changed(both, material, material.kept, order)
    why = list(against(change, kept, str(order.aim)))
    stands = placing = None
    tasks: tuple[TaskPoint, ...] = ()
    written = bundle
    if not why:
        placing = _placing(material, order.tune)
        rows = _rows(later, given[1], material, placing)
        stands = placed(later, rows, order.tune)
        tasks = task_points(rows, stands, rule)
        written = _write(bundle, later, made, material, (stands, placing), order=order, out=out)
    return UpdateReport(
        bundle=str(out if not why else bundle.path),
        version=written.manifest.version,
        digest=written.digest,
        kind=part.kind,
        rule=order.tune.rule or part.rule,
        aim=str(order.aim),
        labels=material.fresh,
        waiting=fresh.waiting,
        damaged=fresh.damaged,
        older=len(material.data.x) - material.fresh,
        taught=len(material.taught),
        judged=len(material.judged),
        placed_by=None if placing is None else len(placing),
        epochs=made.epochs,
        seed=order.seed,
        seconds=time.monotonic() - began,
        fresh=change,
        kept=kept,
        stands=stands,
        tasks=tasks,
        why=tuple(why),
    )


def _renewed(part: Filter, made: teach.Made, rule: Rule | None, bundle: Bundle) -> Filter:
    """Return the filter's table with what was made; how long and how much it knows stays."""
    if rule is not None:
        told = None if rule.is_of("python") else rule.text
        part = replace(part, rule=told, redundant=redundant_names(rule, bundle.manifest))
    reuse = made.reuse
    if reuse is not None and part.reuse is not None:
        old = part.reuse
        reuse = replace(reuse, ttl_s=old.ttl_s, capacity_bytes=old.capacity_bytes)
    own = made.thresholds if len(made.thresholds) > 1 else ()
    return replace(part, threshold=min(made.thresholds), thresholds=own, reuse=reuse, tuned=None)


def _outputs(bundle: Bundle, part: Filter, made: teach.Made, data: Dataset) -> Array:
    where = f"updated {part.kind} filter"
    with closing(open_model(made.graph, format=part.format, where=where)) as model:
        return model_outputs(model, bundle.input, data)


def _rows(part: Filter, outputs: Array, material: _Material, which: Places) -> Rows:
    """Return what `tune` places and judges filters by."""
    told = Told(material.labels[which], material.matters[which], None)
    data, given = material.data.rows(which), outputs[which]
    if part.kind == "reuse":
        return Rows(data, told, keys=given.astype(np.float32))
    tasks = of_outputs(material.tasks[which], given, part)
    return Rows(data, told, scores=probabilities(given), tasks=tasks)


_Given = tuple[tuple[Filter, Array], tuple[Filter, Array]]


def _changed(
    both: _Given,
    material: _Material,
    which: Places,
    order: UpdateOrder,
    *,
    group: NDArray[Any] | None = None,
) -> Change:
    """Compare both filters on some rows, each where it may stand on these."""
    old, new = (_rows(part, outputs, material, which) for part, outputs in both)
    of, matters = None if group is None else group[which], material.matters[which]
    if old.scores is not None:
        before, after = (joint_score(one, order.aim) for one in (old, new))
        return compare_skip(before, after, matters, order.aim, group=of, seed=order.seed)
    earlier, later = (
        _reused(part, rows, order.aim) for (part, _), rows in zip(both, (old, new), strict=True)
    )
    return compare_reuse(earlier, later, matters, group=of, seed=order.seed)


def _reused(part: Filter, rows: Rows, aim: Aim) -> Flags:
    """Return which rows (N,) the filter answers where it reuses most and reaches the aim."""
    from ...models.training.infi.replaying import replay  # noqa: PLC0415

    assert part.reuse is not None  # noqa: S101 -- `consistency` has looked
    assert rows.keys is not None  # noqa: S101 -- of its kind
    accuracy = aim.accuracy if aim.recall is None else None
    point = best(reuse_points(part, rows), recall=aim.recall, accuracy=accuracy)
    distance = 0.0 if point is None else point.threshold
    labels = rows.told.label.astype(np.int64)
    return replay(rows.keys, labels, replace(part.reuse, distance=distance)).reused


def _both_kinds(matters: Flags) -> bool:
    return bool(matters.any() and not matters.all())


def _write(
    bundle: Bundle,
    later: Filter,
    made: teach.Made,
    material: _Material,
    placed_by: tuple[Point, Places],
    *,
    order: UpdateOrder,
    out: Path,
) -> Bundle:
    """Write the new version; the rows of this update count as seen from then on."""
    stands, placing = placed_by
    matters, judged = material.matters[placing], material.data.rows(placing)
    most = 1.0 if later.kind == "reuse" else optimum(matters, accuracy=stands.accuracy)
    tuned = Tuned(
        aim="accuracy" if order.tune.recall is None else "recall",
        target=order.tune.accuracy if order.tune.recall is None else order.tune.recall,
        confidence=None if order.tune.recall is None else order.tune.confidence,
        recall=stands.recall,
        accuracy=stands.accuracy,
        rate=stands.rate,
        optimum=most,
        rows=len(matters),
        data_sha256=digest(judged),
    )
    manifest, name = bundle.manifest, later.file
    if [one.file for one in parts(manifest)].count(name) > 1:
        name = f"filter-{order.tune.place}.{later.format}"
    filters = list(manifest.filter)
    filters[order.tune.place] = replace(moved(later, stands, tuned), file=name)
    calibration = manifest.calibration
    files = {one: bundle.read(one) for one in manifest.files} | {name: made.graph}
    manifest = replace(
        manifest,
        filter=tuple(filters),
        calibration=None if calibration is None else stale(calibration),
        version=next_version(manifest.version),
    )
    manifest, files = with_seen(manifest, files, material.data)
    return write_bundle(out, manifest, files, replace=order.replace)
