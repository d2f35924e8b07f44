"""Evidence for a model: learnt from some rows, measured on others, written as a new version."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace as replaced

from ...models.bundle import Bundle, write_bundle
from ...models.calibration.outputs import check_outputs
from ...models.calibration.repeats import find_repeats
from ...models.dataset import Dataset, digest, load_dataset, row_digests
from ...models.errors import BundleError, ConfigError, DataError, MissingExtraError, ModelError
from ...models.evidence import Array
from ...models.evidence_head import FEATURES
from ...models.manifest import Cloud, Edge, EvidenceHead
from ...models.next_version import next_version
from ...models.opinion import Assessor, Opinions
from ...models.unseen import seen_rows, with_seen
from ..bench.machine import this_machine
from ..both_models import edge_variant, part_outputs, passing
from ..rest import check_rest, with_rest
from .compare import compare
from .division import Division, divide
from .record import FORMAT, EvidenceFit, Place
from .subject import Subject


class Proxy(NamedTuple):
    """An evidential model that teaches another how sure to be: an edge variant of a bundle."""

    bundle: Bundle
    variant: str | None = None


class Order(Struct, frozen=True, kw_only=True):
    """How to fit: about the ``share`` of the rows teach, drawn by ``seed``.

    ``rest`` is where the rows that did not teach are written to, for calibration. ``place`` is
    where evidence is kept, of a model that has a choice.
    """

    share: float = 0.5
    seed: int = 0
    replace: bool = False
    rest: Path | None = None
    place: Place = "graph"


class _Rows(NamedTuple):
    """The rows that count, and how many were left out as seen, as filtered, and as copies."""

    data: Dataset
    left_out: int
    filtered: int
    copies: int
    torn: int


class _Learnt(NamedTuple):
    head: EvidenceHead
    tried: dict[str, float]
    rows: int


def fit(
    subject: Subject, data_path: Path, order: Order, *, proxy: Proxy | None = None, out: Path
) -> EvidenceFit:
    """Give the model evidence, and write the bundle ``out`` with it: a version more.

    Labels teach, or the ``proxy``. The rows that taught count as seen from then on. What the
    bundle's or the proxy's training saw is left out, and so is what a filter drops.

    Raises:
        ConfigError: a number out of range.
        DataError: the data does not fit, has no classes where they are needed, lacks one, or is
            too small.
        ModelError: the model has evidence already, or gives what is no distribution.
        BundleError: ``out`` cannot be written, or is something else already.
        MissingExtraError: torch, or another library, is not installed.
    """
    _check(subject, order, out=out)
    where = str(data_path)
    rows = _rows(subject, load_dataset(data_path), proxy, where=where, seed=order.seed)
    data = rows.data
    outputs = subject.outputs(data)
    _check_outputs(subject, outputs)
    if proxy is None:
        _check_classes(subject, data, where=where)
    division = divide(data, share=order.share, seed=order.seed)
    logits, taught = subject.logits(outputs), data.rows(division.taught)
    target = None if proxy is None else _sure(subject, proxy, data)
    learnt = _learn(logits, target, taught, division, seed=order.seed)
    changed, place = _with_head(subject, learnt.head, place=order.place)
    after = outputs if place == "manifest" else changed.outputs(data)
    opinions = Assessor.of(changed.model, classes=logits.shape[1]).assess_batch(after)
    different = int(np.sum(opinions.probs.argmax(axis=1) != outputs.argmax(axis=1)))
    measured = None
    if data.y is not None:
        measured = compare(
            logits,
            opinions,
            data.y,
            division=division,
            group=data.group,
            part=subject.part,
            seed=order.seed,
        )
    version = next_version(subject.manifest.version)
    manifest, files = with_seen(changed.manifest, changed.files, taught)
    with with_rest(order.rest, data.rows(division.held), labels=manifest.labels):
        named = replaced(manifest, version=version)
        written = write_bundle(out, named, files, replace=order.replace)
    return EvidenceFit(
        format=FORMAT,
        bundle=manifest.name,
        version=subject.manifest.version,
        new_version=version,
        out=str(out),
        digest=written.digest,
        part=subject.part,
        model=_model_name(subject.model),
        place=place,
        taught_by="labels" if proxy is None else f"the proxy {proxy.bundle.manifest.name}",
        taught_rows=learnt.rows,
        unused_rows=len(division.taught) - learnt.rows,
        held_rows=len(division.held),
        divided_by=division.by,
        left_out=rows.left_out,
        filtered=rows.filtered,
        copies=rows.copies,
        torn=rows.torn,
        seed=order.seed,
        weights=dict(zip(FEATURES, learnt.head.weights, strict=True)),
        bias=learnt.head.bias,
        temperature=learnt.head.temperature,
        tried=learnt.tried,
        labels_different=different,
        divergence_nats=None if target is None else _apart(target, opinions, division),
        measured=measured,
        calibration_dropped=subject.manifest.calibration is not None,
        machine=this_machine(),
    )


def _check(subject: Subject, order: Order, *, out: Path) -> None:
    """Refuse what could not be done before minutes are spent on it."""
    if not 0 < order.share < 1:
        raise ConfigError(f"{order.share} is not between 0 and 1", where="--share")
    if order.seed < 0:
        raise ConfigError(f"{order.seed} is below 0", where="--seed")
    if os.path.lexists(out) and not order.replace:
        raise BundleError(
            "is there already", where=str(out), hint="name another place, or --replace it"
        )
    if order.rest is not None:
        check_rest(order.rest)
    if subject.model.head == "evidential":
        raise ModelError(
            "has evidence already", where=subject.where, hint="give the classifier as it was"
        )


def _rows(subject: Subject, data: Dataset, proxy: Proxy | None, *, where: str, seed: int) -> _Rows:
    """Return the rows that may teach or judge, as the bundle's samples and labels, each once."""
    fitted = _fitted(subject, data, where=where)
    if fitted.y is None and proxy is None:
        raise DataError(
            "no array y", where=where, hint="evidence is learnt from classes, or from a --proxy"
        )
    seen, dropped = np.zeros(len(fitted.x), bool), np.zeros(len(fitted.x), bool)
    if subject.bundle is not None:
        seen |= seen_rows(subject.bundle, fitted)
        dropped = ~passing(subject.bundle, fitted)
    if proxy is not None:
        seen |= seen_rows(proxy.bundle, fitted)
    keep = ~seen & ~dropped
    if not keep.any():
        what = "training or calibration saw them, or a filter drops them"
        raise DataError(f"none of {len(keep)} rows is left: {what}", where=where)
    left = fitted.rows(keep)
    kept, copies, torn = find_repeats(row_digests(left.x), left.y, group=left.group, seed=seed)
    filtered = int((dropped & ~seen).sum())
    return _Rows(left.rows(kept), int(seen.sum()), filtered, copies, torn)


def _fitted(subject: Subject, data: Dataset, *, where: str) -> Dataset:
    spec, given = subject.manifest.input, data.x.dtype
    try:
        return data.fitted(spec, labels=subject.manifest.labels, where=where)
    except DataError as error:
        if subject.bundle is not None or given == spec.dtype or data.x.shape[1:] != spec.shape:
            raise
        kind = "float32" if given.kind == "f" else "int32"
        hint = f"{spec.dtype} is guessed from the graph; --input-dtype {kind} if that is wrong"
        raise DataError(error.what, where=error.where, hint=hint) from error


def _check_classes(subject: Subject, data: Dataset, *, where: str) -> None:
    assert data.y is not None  # noqa: S101  `_rows` has checked it
    labels = subject.manifest.labels
    count = np.bincount(data.y, minlength=len(labels))
    if np.count_nonzero(count) == 1:
        raise DataError(f"all rows are of class {labels[int(data.y[0])]!r}", where=where)
    absent = [label for label, rows in zip(labels, count, strict=True) if not rows]
    if absent:
        names = ", ".join(repr(label) for label in absent[:5])
        raise DataError(
            f"no row is left of class {names}" + (", …" if len(absent) > 5 else ""),
            where=where,
            hint="how sure the model may be of it cannot be learnt; give rows of every class",
        )


def _check_outputs(subject: Subject, outputs: Array) -> None:
    """Refuse outputs that are not what they are said to be.

    Raises:
        ModelError: they are NaN, no distributions, or distributions that are said to be logits.
    """
    check_outputs(outputs, model=subject.model, where=subject.where)
    plain = replaced(subject.model, head="softmax", evidence=None)
    Assessor.of(plain, classes=outputs.shape[1], score="max_prob").assess_batch(outputs)


def _sure(subject: Subject, proxy: Proxy, data: Dataset) -> Array:
    """Return what the proxy says of the rows: alphas (N, K), the classes in the subject's order."""
    bundle, labels, where = proxy.bundle, subject.manifest.labels, str(proxy.bundle.path)
    if set(bundle.labels) != set(labels):
        odd = min(set(bundle.labels) ^ set(labels))
        raise DataError(f"the proxy has other labels: {odd!r} is only in one", where=where)
    edge = edge_variant(bundle, proxy.variant)
    if edge.head != "evidential":
        raise ModelError(f"{edge.name!r} gives no evidence: no proxy", where=where)
    outputs = part_outputs(bundle, edge, data.fitted(bundle.input, where=where))
    alpha = Assessor.of(edge, classes=len(labels)).assess_batch(outputs).alpha
    assert alpha is not None  # noqa: S101  its head is evidential
    return alpha[:, [bundle.labels.index(label) for label in labels]]


def _learn(
    logits: Array, target: Array | None, taught: Dataset, division: Division, *, seed: int
) -> _Learnt:
    try:
        from ...models.training.evidence_fit import distil_head, fit_head  # noqa: PLC0415  torch
    except ImportError as error:
        raise MissingExtraError("torch", extra="train") from error
    which, sha256 = division.taught, digest(taught)
    if target is not None:
        found = distil_head(
            logits[which],
            target[which],
            unit=division.unit[which],
            seed=seed,
            data_sha256=sha256,
        )
    else:
        assert taught.y is not None  # noqa: S101  `_rows` has checked it
        found = fit_head(
            logits[which], taught.y, unit=division.unit[which], seed=seed, data_sha256=sha256
        )
    return _Learnt(found.head, found.tried, found.rows)


def _with_head(subject: Subject, head: EvidenceHead, *, place: Place) -> tuple[Subject, Place]:
    """Put the head into the graph where that is wished and can be, else into the manifest."""
    model, classes = subject.model, len(subject.manifest.labels)
    if model.format == "onnx" and place == "graph":
        try:
            from ...models.training import onnx_head  # noqa: PLC0415  it needs onnx
        except ImportError as error:
            raise MissingExtraError("onnx", extra="train") from error
        if onnx_head.takes_head(subject.data, where=subject.where):
            made = onnx_head.append_head(
                subject.data,
                head,
                classes=classes,
                output=model.output,
                output_name=model.output_name,
                floor=subject.floor,
                where=subject.where,
            )
            named = None if model.output_name is None else made.output
            graph = replaced(
                model,
                file=subject.new_file(),
                head="evidential",
                output="logits",
                output_name=named,
            )
            return subject.with_model(graph, made.data), "graph"
    table = replaced(model, head="evidential", evidence=head, file=subject.new_file())
    return subject.with_model(table, subject.data), "manifest"


def _apart(target: Array, opinions: Opinions, division: Division) -> float:
    """Return the mean divergence from the proxy on the rows held out, in nats."""
    import torch  # noqa: PLC0415  it has been found

    from ...models.training.distillation import divergence  # noqa: PLC0415

    assert opinions.alpha is not None  # noqa: S101  it has just got evidence
    both = (
        torch.from_numpy(alpha[division.held].astype(np.float64))
        for alpha in (target, opinions.alpha)
    )
    return float(divergence(*both).mean())


def _model_name(model: Edge | Cloud) -> str:
    return model.name if isinstance(model, Edge) else model.file
