"""An adapted bundle: taught by released pairs, calibrated anew, written only if it is better."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from msgspec.structs import replace as replaced

from ...models.bundle import Bundle, write_bundle
from ...models.calibration import Aim, TargetAccuracy, TargetRate, calibrate
from ...models.consistency import parts
from ...models.dataset import Dataset, digest, load_dataset, row_digests
from ...models.errors import BundleError, ConfigError, DataError, MissingExtraError
from ...models.evidence import Array, aleatoric_paper
from ...models.manifest import Calibration, Cloud, Edge, Manifest
from ...models.measures import Flags, Labels, hits
from ...models.next_version import next_version
from ...models.opinion import Assessor
from ...models.unseen import seen_rows, with_seen
from ..both_models import edge_variant, outputs_of
from .division import Division, Rows, divide
from .fresh_pairs import Fresh, edge_outputs, fresh_pairs
from .judging import Side, Verdict, judge
from .material import Material, Taught
from .report import AdaptReport, Sources, evidence

_NEEDED = {"onnx": "onnx", "torch": "torch", "onnxruntime": "onnxruntime"}
_RATE = re.compile(r"escalation rate ([0-9.]+)")
_MOST_RECIPE = 2000  # characters of a manifest's recipe: adapted often, the oldest words go


class Order(Struct, frozen=True, kw_only=True):
    """What to adapt: ``variant`` (None: the first), its last layer or ``all_layers``.

    ``version`` is the new bundle's; None: the last number of the old one's, plus 1.
    """

    variant: str | None = None
    all_layers: bool = False
    version: str | None = None
    seed: int = 0


class _Before(NamedTuple):
    """A bundle's models, and what they give for labelled rows and pairs."""

    edge: Edge
    cloud: Cloud
    calibration: Calibration
    near: Array
    far: Array
    passes: Flags


def adapt_bundle(
    bundle: Bundle,
    place: Path,
    data_path: Path,
    order: Order,
    *,
    out: Path,
    replace: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> AdaptReport:
    """Teach a bundle's edge the released pairs at ``place``, and write ``out`` if it is better.

    ``data_path`` holds labelled rows: those that the bundle has seen are learnt from once more,
    so that it forgets nothing; of the others some calibrate, and some judge (see `divide`).

    Raises:
        ConfigError: there is no such variant, or it cannot be taught.
        DataError: no released pairs of this bundle's contract, or too few labelled rows.
        ModelError: its last layer is not found, or it cannot be taught as a whole.
        BundleError: it has no cloud or calibration, or ``out`` cannot be written.
        MissingExtraError: a library is not installed.
    """
    begun_s = time.monotonic()
    edge, cloud, calibration = _parts(bundle, order.variant)
    if not out.parent.is_dir():  # said now, not after minutes of work
        raise BundleError("lies in no folder that exists", where=str(out))
    for module, library in _NEEDED.items():
        if find_spec(module) is None:
            raise MissingExtraError(library, extra="train")
    labelled = _labelled(bundle, data_path)
    division = divide(
        labelled, seen=seen_rows(bundle, labelled), seed=order.seed, where=str(data_path)
    )
    outputs = outputs_of(bundle, labelled, variant=edge.name)
    assert outputs.cloud is not None  # noqa: S101  `_parts` has checked it
    before = _Before(edge, cloud, calibration, outputs.edge, outputs.cloud, outputs.passes)
    fresh = fresh_pairs(
        bundle,
        edge,
        calibration,
        place,
        kept_back=labelled.rows(np.concatenate((division.calibrate, division.judge))),
    )
    say(f"{len(fresh.pairs)} pairs, {len(division.learn)} labelled rows to learn from")
    rows = _passing(division, before.passes, where=str(data_path))
    share = _share(before, rows.judge)
    taught = _taught(bundle, labelled, rows, fresh, before, order=order, share=share, say=say)
    after = edge_outputs(bundle, edge, taught.data, labelled)
    new = _calibrated(before, after, labelled, rows.calibrate, seed=order.seed)
    verdict = _verdict(before, after, new, labelled, rows, share=share, seed=order.seed)
    sources = Sources(
        pairs=len(fresh.pairs),
        devices=len({pair.whose for pair in fresh.pairs}),
        sure=fresh.sure,
        judged=fresh.judged,
        damaged=fresh.damaged,
        learn=len(division.learn),
        calibrate=len(rows.calibrate),
        judge=len(rows.judge),
        divided_by=division.by,
    )
    version = order.version or next_version(bundle.manifest.version)
    written = None
    if verdict.is_better:
        taught_what = "all layers" if order.all_layers else "last layer"
        manifest, files = _adapted(
            bundle,
            edge,
            taught.data,
            new,
            (fresh.data, labelled.rows(np.concatenate((division.learn, division.calibrate)))),
            version=version,
            told=f"{evidence(sources, verdict)}; {taught_what}, seed {order.seed}",
        )
        written = write_bundle(out, manifest, files, replace=replace)
    return AdaptReport(
        bundle=bundle.manifest.name,
        version=bundle.manifest.version,
        bundle_digest=bundle.digest,
        variant=edge.name,
        taught="all layers" if order.all_layers else "last layer",
        rate=taught.rate,
        seed=order.seed,
        sources=sources,
        verdict=verdict,
        out=None if written is None else str(out),
        digest=None if written is None else written.digest,
        new_version=version,
        left_out=tuple(one.name for one in bundle.manifest.edge if one.name != edge.name),
        seconds=time.monotonic() - begun_s,
    )


def _parts(bundle: Bundle, variant: str | None) -> tuple[Edge, Cloud, Calibration]:
    """Return what is adapted, or refuse it.

    Raises:
        ConfigError: the variant is none that can be taught.
        BundleError: the bundle has no cloud or no calibration.
    """
    edge, where = edge_variant(bundle, variant), str(bundle.path)
    if edge.format != "onnx":
        raise ConfigError(
            f"{edge.name!r} is a TFLite model, whose weights cannot be taught here",
            where=where,
            hint="adapt a bundle of the ONNX model that it was made from, and convert that anew",
        )
    if edge.precision != "float":
        hint = "name the float one with --variant, and hedge quantize the new bundle"
        raise ConfigError(f"{edge.name!r} is int8, and cannot be taught", where=where, hint=hint)
    if bundle.manifest.cloud is None:
        raise BundleError("has no cloud model to learn from", where=where)
    if bundle.manifest.calibration is None:
        raise BundleError("is not calibrated", where=where, hint="hedge calibrate it first")
    return edge, bundle.manifest.cloud, bundle.manifest.calibration


def _labelled(bundle: Bundle, path: Path) -> Dataset:
    data = load_dataset(path).fitted(bundle.input, labels=bundle.labels, where=str(path))
    if data.y is None:
        raise DataError(
            "no array y",
            where=str(path),
            hint="whether the edge is better is judged by labels, not by the cloud",
        )
    return data


def _passing(division: Division, passes: Flags, *, where: str) -> Division:
    """Return the division, without rows that never reach the gate on the sides that look at it.

    Raises:
        DataError: none is left.
    """
    found = division._replace(
        calibrate=division.calibrate[passes[division.calibrate]],
        judge=division.judge[passes[division.judge]],
    )
    if not len(found.calibrate) or not len(found.judge):
        raise DataError("the bundle's filter drops all rows to calibrate on or judge", where=where)
    return found


def _share(before: _Before, rows: Rows) -> float:
    """Return what the bundle's gate lets escalate of some rows: of one row at least, not all."""
    assessor = Assessor.of(
        before.edge, classes=before.near.shape[1], score=before.calibration.scoring
    )
    asks = assessor.assess_batch(before.near[rows]).score >= before.calibration.total
    return float(np.clip(asks.mean(), 1 / len(rows), 1 - 1 / len(rows)))


def _taught(
    bundle: Bundle,
    labelled: Dataset,
    rows: Division,
    fresh: Fresh,
    before: _Before,
    *,
    order: Order,
    share: float,
    say: Callable[[str], None],
) -> Taught:
    """Teach the edge by the labelled rows to learn from, and then the pairs."""
    from .training.teaching import teach  # noqa: PLC0415  needs torch: where that is known

    learn, check = labelled.rows(rows.learn), labelled.rows(rows.calibrate)
    near = Assessor.of(
        before.edge, classes=before.near.shape[1], score=before.calibration.scoring
    ).assess_batch(np.concatenate((before.near[rows.learn], fresh.near)))
    far = _cloud_probs(before, before.far[rows.learn])
    cloud = np.concatenate((far, np.stack([pair.cloud for pair in fresh.pairs])))
    cloud_unsure = aleatoric_paper(cloud.astype(np.float64))
    xi = float(cloud_unsure[len(far) :].max()) + 1e-3
    asks = near.score >= before.calibration.total
    asks[len(far) :] = True
    unsure = np.maximum(aleatoric_paper(near.probs.astype(np.float64)), xi)
    return teach(
        bundle.read(before.edge.file),
        before.edge,
        Material(
            x=np.concatenate((learn.x, fresh.data.x)),
            y=_y(learn),
            cloud=cloud,
            edge_unsure=np.where(asks, unsure, 0.0),
            cloud_unsure=cloud_unsure,
            xi=xi,
            check=check.x,
            check_y=_y(check),
            check_cloud=hits(_cloud_probs(before, before.far[rows.calibrate]), _y(check)),
        ),
        spec=bundle.input,
        all_layers=order.all_layers,
        seed=order.seed,
        share=share,
        where=f"{bundle.path}/{before.edge.file}",
        say=say,
    )


def _cloud_probs(before: _Before, outputs: Array) -> Array:
    return Assessor.of(before.cloud, classes=outputs.shape[1]).assess_batch(outputs).probs


def _y(data: Dataset) -> Labels:
    assert data.y is not None  # noqa: S101  `_labelled` has checked it
    return data.y


def _aim(before: _Before, rows: Rows) -> Aim:
    """Return what the bundle was calibrated for, as far as its manifest tells."""
    calibration = before.calibration
    promise = calibration.promise
    if promise is not None:
        return TargetAccuracy(
            accuracy=promise.accuracy, confidence=promise.confidence, by=promise.by
        )
    told = _RATE.search(calibration.method)
    return TargetRate(rate=float(told[1]) if told else _share(before, rows))


def _calibrated(
    before: _Before, outputs: Array, labelled: Dataset, rows: Rows, *, seed: int
) -> Calibration:
    """Return the calibration of an edge that gives ``outputs`` for all labelled rows.

    The score stays the one that it was: else what is judged were the choice of another, too.
    """
    data = labelled.rows(rows)
    try:
        found = calibrate(
            outputs[rows],
            before.far[rows],
            _y(data),
            edge=before.edge,
            cloud=before.cloud,
            aim=_aim(before, rows),
            group=data.group,
            seed=seed,
            data_sha256=digest(data),
            scores=(before.calibration.score,),
            same=row_digests(data.x),
        )
    except DataError as error:
        raise DataError(
            f"the bundle's promise cannot be made anew: {error.what}",
            where=error.where,
            hint=f"only {len(rows)} of the {len(labelled.x)} labelled rows calibrate: give more "
            "that are new, or hedge calibrate a bundle that promises less",
        ) from error
    return replaced(found, budget=before.calibration.budget)


def _verdict(
    before: _Before,
    after: Array,
    new: Calibration,
    labelled: Dataset,
    rows: Division,
    *,
    share: float,
    seed: int,
) -> Verdict:
    """Judge the edge before and after, both calibrated on the same rows."""
    old = _calibrated(before, before.near, labelled, rows.calibrate, seed=seed)
    judged = labelled.rows(rows.judge)
    sides = []
    for outputs, calibration in ((before.near, old), (after, new)):
        opinions = Assessor.of(
            before.edge, classes=outputs.shape[1], score=calibration.scoring
        ).assess_batch(outputs[rows.judge])
        sides.append(Side(hits(opinions.probs, _y(judged)), opinions.score))
    return judge(
        sides[0],
        sides[1],
        cloud_correct=hits(_cloud_probs(before, before.far[rows.judge]), _y(judged)),
        share=share,
        group=judged.group,
        seed=seed,
    )


def _adapted(
    bundle: Bundle,
    edge: Edge,
    graph: bytes,
    calibration: Calibration,
    used: Sequence[Dataset],
    *,
    version: str,
    told: str,
) -> tuple[Manifest, dict[str, bytes]]:
    """Return the new bundle: of the edges only the one that was taught, and ``used`` rows seen.

    Its recipe tells what was done, and what came of it.
    """
    manifest = bundle.manifest
    files = {name: bundle.read(name) for name in manifest.files}
    for data in used:
        manifest, files = with_seen(manifest, files, data)
    assert manifest.training is not None  # noqa: S101  `with_seen` gives it one
    recipe = f"{manifest.training.recipe}; adapted from {bundle.digest[:16]} by {told}"
    method = f"{calibration.method}; adapted from {bundle.digest[:16]}"
    made = replaced(
        manifest,
        version=version,
        edge=(edge,),
        choice=tuple(one for one in manifest.choice if one.variant == edge.name),
        calibration=replaced(calibration, method=method),
        training=replaced(manifest.training, recipe=recipe[-_MOST_RECIPE:].lstrip()),
    )
    gone = {part.file for part in parts(manifest)} - {part.file for part in parts(made)}
    kept = {name: data for name, data in files.items() if name not in gone}
    return made, {**kept, edge.file: graph}
