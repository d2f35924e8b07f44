"""Trains a bundle a filter, from what its own model says, and writes the bundle's next version."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace as replaced
from numpy.typing import NDArray

from ...models.bundle import Bundle, write_bundle
from ...models.dataset import Dataset, load_dataset
from ...models.errors import BundleError, ConfigError, DataError, MissingExtraError
from ...models.filtering.operating_point import TaskPoint
from ...models.filtering.rules import Rule, check_each, rule_of, texts_of
from ...models.filtering.standing import passes, to_any
from ...models.manifest import Calibration, Cloud, Edge, Filter, Input, Manifest
from ...models.measures import Flags
from ...models.next_version import version_for
from ...models.opinion import Assessor
from ...models.prepare import preparer
from ...models.unseen import seen_rows, with_seen
from ..both_models import features_of, part_outputs, takes_features
from ..evidence.subject import Subject
from ..rest import check_rest, with_rest
from .cautions import Counts, cautions
from .next_steps import After, next_steps
from .train_report import TrainReport

if TYPE_CHECKING:
    from ...models.training.infi.rows import Division
    from ...models.training.infi.view import View
    from . import teach

Kind = Literal["skip", "reuse"]
_STALE = "; since then the filter is another, which lets other samples pass"
_LEAST_OF_A_KIND = 10  # rows that matter, and that do not, among those that judge or are held out


class TrainOrder(Struct, frozen=True, kw_only=True):
    """Which ``kind`` of filter, taught by which ``rule`` (None: only for reuse).

    ``modality`` says what it sees of a sample (see `view.views`), none: what the bundle says.
    ``epochs`` are the most that it is taught. ``format`` None is that of the bundle's edge.
    ``rest`` is where the rows that judge go. ``attach`` says whether it takes samples or features;
    None: features where the bundle has a [split] and no edge model that takes samples.
    """

    kind: Kind = "skip"
    attach: Literal["input", "feature"] | None = None
    rule: str | None = None
    modality: tuple[str, ...] = ()
    seed: int = 0
    epochs: int | None = None
    format: Literal["onnx", "tflite"] | None = None
    int8: bool = False
    replace: bool = False
    rest: Path | None = None


class _Rows(NamedTuple):
    """The rows that reach the filter, as the graph is fed them, and what the model says of them.

    ``tasks`` (N, T) are to which task of the rule each matters, None without one; ``labels`` (N,)
    the model's own.
    """

    data: Dataset
    fed: NDArray[Any]
    labels: NDArray[np.int64]
    tasks: Flags | None
    seen: Flags
    before: int
    in_order: bool
    path: Path

    @property
    def matters(self) -> Flags | None:
        """Which rows (N,) matter to any task."""
        return None if self.tasks is None else to_any(self.tasks)


def train_filter(
    subject: Subject,
    data_path: Path,
    order: TrainOrder,
    *,
    out: Path,
    say: Callable[[str], None],
) -> TrainReport:
    """Train the filter, and write ``out``: the model's bundle, a version more, with the filter.

    It takes the place of the bundle's filters of its kind. The rows that taught and placed it
    count as seen from then on; those that judged it do not.

    Raises:
        ConfigError: no rule where one is needed, or a modality that the samples cannot be seen as.
        DataError: the rows do not fit, are too few, or all or none of them are redundant.
        ModelError: the model fails.
        BundleError: ``out`` cannot be written, or is something else already.
        MissingExtraError: torch, or another library, is not installed.
    """
    began = time.monotonic()
    _check(order, out=out)
    try:
        from ...models.training.infi import rows as dividing  # noqa: PLC0415
        from ...models.training.infi.view import as_map, views  # noqa: PLC0415
        from . import teach  # noqa: PLC0415  torch, which is an extra
    except ImportError as error:
        raise MissingExtraError("torch", extra="train") from error
    order = _attached(order, subject)
    teach.check_libraries(order.format or subject.model.format, int8=order.int8)
    spec = _taken(order, subject)
    seen = views(order.modality or _own_modality(order), spec)
    split = subject.manifest.split
    if order.attach == "feature" and split is not None:
        seen = tuple(as_map(one, split.shape) for one in seen)
    subject = _without(subject, order)
    rows = _rows(subject, data_path, order)
    division = dividing.divide(rows.data, seen=rows.seen, in_order=rows.in_order, seed=order.seed)
    _check_parts(rows, division, order)
    say(
        f"{len(division.taught)} rows to teach, {len(division.held)} held out, "
        f"{len(division.judged)} to judge"
    )
    order = _settled(order, subject, seen)
    learnt = teach.Rows(rows.fed, rows.labels, rows.tasks, rows.data.group)
    made = teach.teach(learnt, seen, division, order, say=say)
    return _written(subject, rows, division, made, order, out=out, began=began)


def _check(order: TrainOrder, *, out: Path) -> None:
    if order.seed < 0:
        raise ConfigError(f"{order.seed} is below 0", where="--seed")
    if order.epochs is not None and order.epochs < 1:
        raise ConfigError(f"{order.epochs} is below 1", where="--epochs")
    if order.rule is None and order.kind == "skip":
        raise ConfigError(
            "what is redundant?", where="--redundant", hint="'labels A,B', 'confidence below 0.9'"
        )
    if os.path.lexists(out) and not order.replace:
        raise BundleError(
            "is there already", where=str(out), hint="name another place, or --replace it"
        )
    if out.parent != Path() and not out.parent.is_dir():
        raise ConfigError("lies in no folder that exists", where=f"--out {out}")
    if order.rest is not None:
        check_rest(order.rest)


def of_answering(bundle: Bundle, model: Edge | Cloud) -> Subject:
    """Return a bundle as what a filter is taught by, with the ``model`` that answers in it."""
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    part: Literal["edge", "cloud"] = "edge" if isinstance(model, Edge) else "cloud"
    where = f"{bundle.path}/{model.file}"
    return Subject(bundle.manifest, files, part, model, where, bundle)


def _attached(order: TrainOrder, subject: Subject) -> TrainOrder:
    """Return the order with what the filter is to take.

    Raises:
        ConfigError: features, of which there are none.
    """
    manifest = subject.manifest
    if order.attach == "feature" and manifest.split is None:
        raise ConfigError(
            "the bundle has no [split], whose features a filter could take",
            where="--attach feature",
            hint="hedge bundle split cuts a model in two",
        )
    by_itself = manifest.split is not None and all(one.attach == "feature" for one in manifest.edge)
    return replaced(order, attach=order.attach or ("feature" if by_itself else "input"))


def _taken(order: TrainOrder, subject: Subject) -> Input:
    """Return what the filter takes: a sample, or the head's features as they are on the device."""
    split = subject.manifest.split
    if order.attach != "feature" or split is None:
        return subject.manifest.input
    return replaced(split.features, dtype="float32")


def _own_modality(order: TrainOrder) -> tuple[str, ...]:
    return ("feature",) if order.attach == "feature" else ()


def _settled(order: TrainOrder, subject: Subject, seen: tuple[View, ...]) -> TrainOrder:
    """Return the order with what it leaves to the bundle."""
    return replaced(
        order,
        format=order.format or subject.model.format,
        modality=tuple(one.modality for one in seen) if not order.modality else order.modality,
    )


def _without(subject: Subject, order: TrainOrder) -> Subject:
    """Return the subject without the filters whose place the new one takes.

    They are of its kind; of skip filters one can take samples, and one features.
    """
    kept = tuple(one for one in subject.manifest.filter if not _replaces(order, one))
    gone = {one.file for one in subject.manifest.filter} - {one.file for one in kept}
    files = {name: data for name, data in subject.files.items() if name not in gone}
    return subject._replace(manifest=replaced(subject.manifest, filter=kept), files=files)


def _replaces(order: TrainOrder, old: Filter) -> bool:
    return old.kind == order.kind and (old.kind == "reuse" or old.attach == order.attach)


def _rows(subject: Subject, data_path: Path, order: TrainOrder) -> _Rows:
    """Run the model on the rows that the other filters let pass, and say which of them matter."""
    manifest, where = subject.manifest, str(data_path)
    rule = _rule(order, manifest)
    data = load_dataset(data_path).fitted(manifest.input, labels=manifest.labels, where=where)
    passing = _passing(subject, data, order)
    if not passing.any():
        raise DataError("no row gets past the bundle's other filters", where=where)
    before, data = int((~passing).sum()), data.rows(passing)
    bundle = subject.bundle
    if bundle is not None and takes_features(bundle, subject.model):
        outputs = part_outputs(bundle, subject.model, data)
    else:
        outputs = subject.outputs(data)
    probs = Assessor.of(subject.model, classes=len(manifest.labels)).assess_batch(outputs).probs
    return _Rows(
        data=data,
        fed=_fed(subject, data, order),
        labels=probs.argmax(axis=1).astype(np.int64),
        tasks=None if rule is None else check_each(rule, probs, group=data.group),
        seen=np.zeros(len(data.x), bool) if bundle is None else seen_rows(bundle, data),
        before=before,
        in_order=rule is not None and rule.is_of("last"),
        path=data_path,
    )


def _fed(subject: Subject, data: Dataset, order: TrainOrder) -> NDArray[Any]:
    """Return the rows as the filter's graph is fed them."""
    if order.attach == "feature" and subject.bundle is not None:
        return features_of(subject.bundle, data).x
    prepare = preparer(subject.manifest.input)
    return np.concatenate([prepare(one) for one in _batches(data.x)])


def _batches(x: NDArray[Any]) -> list[NDArray[Any]]:
    return [x[at : at + 256] for at in range(0, len(x), 256)]


def _rule(order: TrainOrder, manifest: Manifest) -> Rule | None:
    if order.rule is None:
        return None
    return rule_of(order.rule, manifest.labels, own_code=True)


def _passing(subject: Subject, data: Dataset, order: TrainOrder) -> Flags:
    """Return which rows the skip filters let pass that stay in the bundle, before the new one."""
    found = np.ones(len(data.x), np.bool_)
    for one in _around(subject.manifest, order)[0]:
        if one.kind == "skip" and subject.bundle is not None:
            found &= passes(one, part_outputs(subject.bundle, one, data))
    return found


def _around(manifest: Manifest, order: TrainOrder) -> tuple[tuple[Filter, ...], tuple[Filter, ...]]:
    """Return the filters that stand before the new one, and those behind it.

    Skip filters come first, of these the ones on samples: the head runs only for what they keep.
    """
    if order.kind == "reuse":
        return manifest.filter, ()
    before = tuple(
        one
        for one in manifest.filter
        if order.attach == "feature" and one.kind == "skip" and one.attach == "input"
    )
    return before, tuple(one for one in manifest.filter if one not in before)


def _check_parts(rows: _Rows, division: Division, order: TrainOrder) -> None:
    """Refuse what leaves too little to learn from, or to judge by.

    Raises:
        DataError: how many rows of which kind are missing where.
    """
    names = ("teach", "place", "judge")
    for name, part in zip(names, division[:3], strict=True):
        if rows.tasks is None and len(np.unique(rows.labels[part])) < 2:
            raise DataError(
                f"the model says one and the same of all {len(part)} rows that are to {name} "
                "the filter",
                where="--kind reuse",
                hint="give more rows, or more groups",
            )
        for rule, matters in _by_task(rows, order):
            matter = int(matters[part].sum())
            if min(matter, len(part) - matter) < _LEAST_OF_A_KIND:
                raise DataError(
                    f"{matter} rows that matter and {len(part) - matter} that do not among the "
                    f"{len(part)} that are to {name} the filter",
                    where=f"rule {rule}",
                    hint=f"at least {_LEAST_OF_A_KIND} of each kind are needed: give more rows, "
                    "or more groups",
                )


def _by_task(rows: _Rows, order: TrainOrder) -> Iterator[tuple[str, Flags]]:
    """Yield each task's rule with the rows that matter to it, and of several that of all."""
    if rows.tasks is None or order.rule is None or rows.matters is None:
        return
    if rows.tasks.shape[1] > 1:
        yield from zip(texts_of(order.rule), rows.tasks.T, strict=True)
    yield order.rule, rows.matters


def _written(
    subject: Subject,
    rows: _Rows,
    division: Division,
    made: teach.Made,
    order: TrainOrder,
    *,
    out: Path,
    began: float,
) -> TrainReport:
    place = "-feature" if order.attach == "feature" else ""
    name = f"filter-{order.kind}{place}.{made.format}"
    rule = None if order.rule is None else _rule(order, subject.manifest)
    part = Filter(
        kind=order.kind,
        attach=order.attach or "input",
        file=name,
        format=made.format,
        threshold=min(made.thresholds),
        thresholds=made.thresholds if len(made.thresholds) > 1 else (),
        redundant=redundant_names(rule, subject.manifest),
        rule=None if rule is None or rule.is_of("python") else rule.text,
        reuse=made.reuse,
    )
    before, behind = _around(subject.manifest, order)
    calibration = subject.manifest.calibration
    manifest = replaced(
        subject.manifest,
        filter=(*before, part, *behind),
        calibration=None if calibration is None else stale(calibration),
        version=version_for(out, subject.manifest.version),
    )
    learnt = rows.data.rows(np.concatenate((division.taught, division.held)))
    manifest, files = with_seen(manifest, {**subject.files, name: made.graph}, learnt)
    judged = rows.data.rows(division.judged)
    with with_rest(order.rest, judged, labels=manifest.labels):
        written = write_bundle(out, manifest, files, replace=order.replace)
    return _report(written, (subject, order), rows, division, made, began=began, out=out)


def redundant_names(rule: Rule | None, manifest: Manifest) -> tuple[str, ...]:
    """Return the labels that a rule calls redundant, where it is of labels."""
    return () if rule is None else tuple(manifest.labels[one] for one in rule.labels)


def stale(calibration: Calibration) -> Calibration:
    """Return a calibration without what it said of the samples that passed until now.

    Its thresholds still say when to ask, so that the bundle runs; but it is other samples that
    reach the gate now, so what was promised of those, and how their scores lay, is void.
    """
    return replaced(
        calibration,
        promise=None,
        reference=(),
        method=f"{calibration.method.removesuffix(_STALE)}{_STALE}",
    )


def _tasks(
    order: TrainOrder, rows: _Rows, judged: NDArray[np.intp], made: teach.Made
) -> tuple[TaskPoint, ...]:
    """Return what the filter does for each task, where there are several."""
    if order.rule is None or rows.tasks is None or len(made.judged.recalls) < 2:
        return ()
    each = zip(
        texts_of(order.rule),
        rows.tasks[judged].T,
        made.thresholds,
        made.judged.recalls,
        strict=True,
    )
    return tuple(
        TaskPoint(rule=rule, matter=int(matters.sum()), threshold=threshold, recall=recall)
        for rule, matters, threshold, recall in each
    )


def _report(
    written: Bundle,
    asked: tuple[Subject, TrainOrder],
    rows: _Rows,
    division: Division,
    made: teach.Made,
    *,
    began: float,
    out: Path,
) -> TrainReport:
    order = asked[1]
    judged, found = division.judged, made.judged
    total = len(rows.data.x) + rows.before
    counts = Counts(total, rows.before, len(division.held), division.by)
    place = next(
        place for place, one in enumerate(written.manifest.filter) if _replaces(order, one)
    )
    return TrainReport(
        bundle=str(out),
        version=written.manifest.version,
        digest=written.digest,
        filter=written.manifest.filter[place],
        modality=order.modality,
        seed=order.seed,
        rows=total,
        filtered_before=rows.before,
        taught=len(division.taught),
        held=len(division.held),
        judged=len(judged),
        known=int(rows.seen[judged].sum()),
        divided_by=division.by,
        redundant_share=None if rows.matters is None else float(1 - rows.matters[judged].mean()),
        point=found.point,
        optimum=found.optimum,
        tasks=_tasks(order, rows, judged, made),
        at_accuracy=found.at_accuracy,
        at_recall=found.at_recall,
        constant=found.constant,
        epochs=made.epochs,
        bytes=len(made.graph),
        seconds=time.monotonic() - began,
        gate_is_stale=written.manifest.calibration is not None,
        rest=None if order.rest is None else str(order.rest),
        careful=tuple(cautions(order.kind, found, counts)),
        next=tuple(next_steps(_after(written, place, asked, rows, judged))),
    )


def _after(
    written: Bundle,
    place: int,
    asked: tuple[Subject, TrainOrder],
    rows: _Rows,
    judged: NDArray[np.intp],
) -> After:
    """Return what comes next depends on; ``place`` is the new filter's in the bundle."""
    subject, order = asked
    rule, edges = written.manifest.filter[place].rule, subject.manifest.edge
    texts = () if order.rule is None or rule is not None else tuple(texts_of(order.rule))
    tasks = None if rows.tasks is None else rows.tasks[judged]
    calibration, model = subject.manifest.calibration, subject.model
    named = isinstance(model, Edge) and bool(edges) and model.name != edges[0].name
    return After(
        bundle=written,
        place=place,
        own_rules=texts,
        tasks=1 if tasks is None else tasks.shape[1],
        matter=len(judged) if tasks is None else int(tasks.sum(axis=0).min()),
        judged=rows.data.rows(judged),
        rest=order.rest,
        data=rows.path,
        variant=model.name if isinstance(model, Edge) and named else None,
        promise=None if calibration is None else calibration.promise,
    )
