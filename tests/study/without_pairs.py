"""The control of an adaptation: the same training, in which no pair takes part.

In the place of each pair stands a labelled row that teaches anyway, with its label for an answer:
so as many rows are seen in as many steps at the same rates, half old and half as if new, and the
same rows choose the rate and calibrate. What an adaptation gains beyond this is due to its pairs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace

from hedge.models.bundle import Bundle, write_bundle
from hedge.models.calibration import TargetRate, calibrate
from hedge.models.dataset import Dataset, digest, load_dataset
from hedge.models.evidence import Array, aleatoric_paper
from hedge.models.manifest import Calibration, Cloud, Edge
from hedge.models.measures import Flags, Labels, hits
from hedge.models.opinion import Assessor
from hedge.models.unseen import seen_rows
from hedge.runtime.adapt.adaptation import Order
from hedge.runtime.adapt.division import Division, divide
from hedge.runtime.adapt.fresh_pairs import edge_outputs, fresh_pairs
from hedge.runtime.adapt.material import Material
from hedge.runtime.adapt.training.teaching import teach
from hedge.runtime.both_models import outputs_of


class _Given(NamedTuple):
    """A bundle's models on labelled rows, and which of them (n,) its gate lets escalate."""

    bundle: Bundle
    edge: Edge
    cloud: Cloud
    calibration: Calibration
    labelled: Dataset
    y: Labels
    near: Array
    far: Array
    asks: Flags
    division: Division


def adapt_without(
    bundle: Bundle,
    place: Path,
    file: Path,
    order: Order,
    *,
    out: Path,
    say: Callable[[str], None],
) -> Bundle:
    """Teach the bundle's first edge as `adapt_bundle` would, but no pairs; write it in any case.

    The pairs at ``place`` tell how many there are, and how sure the cloud was of them.
    """
    given = _given(bundle, file, seed=order.seed)
    kept_back = np.concatenate((given.division.calibrate, given.division.judge))
    fresh = fresh_pairs(
        bundle, given.edge, given.calibration, place, kept_back=given.labelled.rows(kept_back)
    )
    doubt = aleatoric_paper(np.stack([pair.cloud for pair in fresh.pairs]).astype(np.float64))
    xi, stand_ins = float(doubt.max()) + 1e-3, len(fresh.pairs)
    taught = teach(
        bundle.read(given.edge.file),
        given.edge,
        _material(given, stand_ins=stand_ins, xi=xi, seed=order.seed),
        spec=bundle.input,
        all_layers=order.all_layers,
        seed=order.seed,
        share=float(given.asks[given.division.judge].mean()),
        where=f"{bundle.path}/{given.edge.file}",
        say=say,
    )
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    manifest = replace(
        bundle.manifest, calibration=_calibrated(given, taught.data, seed=order.seed)
    )
    return write_bundle(out, manifest, files | {given.edge.file: taught.data})


def _given(bundle: Bundle, file: Path, *, seed: int) -> _Given:
    """Divide the rows as the command does, and leave out what never reaches the gate."""
    cloud, calibration = bundle.manifest.cloud, bundle.manifest.calibration
    edge, labelled = bundle.manifest.edge[0], load_dataset(file)
    labelled = labelled.fitted(bundle.input, labels=bundle.labels, where=str(file))
    whole = divide(labelled, seen=seen_rows(bundle, labelled), seed=seed, where=str(file))
    near, far, passes = outputs_of(bundle, labelled)
    assert cloud is not None, bundle.path
    assert calibration is not None, bundle.path
    assert far is not None, bundle.path
    assert labelled.y is not None, file
    assessor = Assessor.of(edge, classes=len(bundle.labels), score=calibration.scoring)
    return _Given(
        *(bundle, edge, cloud, calibration, labelled, labelled.y, near, far),
        asks=assessor.assess_batch(near).score >= calibration.total,
        division=whole._replace(
            calibrate=whole.calibrate[passes[whole.calibrate]],
            judge=whole.judge[passes[whole.judge]],
        ),
    )


def _material(given: _Given, *, stand_ins: int, xi: float, seed: int) -> Material:
    """Return the lessons: what teaches anyway, and then rows of it in the place of pairs."""
    classes, (learn, check, *_) = given.far.shape[1], given.division
    again = np.random.default_rng(seed).choice(learn, stand_ins, replace=stand_ins > len(learn))
    far = Assessor.of(given.cloud, classes=classes).assess_batch(given.far).probs
    near = Assessor.of(given.edge, classes=classes, score=given.calibration.scoring)
    probs = near.assess_batch(given.near[learn]).probs
    unsure = np.maximum(aleatoric_paper(probs.astype(np.float64)), xi)
    doubt = aleatoric_paper(far[learn].astype(np.float64))
    told: Array = np.eye(classes, dtype=far.dtype)[given.y[again]]
    return Material(
        x=given.labelled.x[np.concatenate((learn, again))],
        y=given.y[learn],
        cloud=np.concatenate((far[learn], told)),
        edge_unsure=np.concatenate((np.where(given.asks[learn], unsure, 0.0), np.ones(stand_ins))),
        cloud_unsure=np.concatenate((doubt, np.zeros(stand_ins))),
        xi=xi,
        check=given.labelled.x[check],
        check_y=given.y[check],
        check_cloud=hits(far, given.y)[check],
    )


def _calibrated(given: _Given, graph: bytes, *, seed: int) -> Calibration:
    """Return a calibration of the taught edge by the score that the bundle has."""
    held = given.division.calibrate
    data = given.labelled.rows(held)
    return calibrate(
        edge_outputs(given.bundle, given.edge, graph, data),
        given.far[held],
        given.y[held],
        edge=given.edge,
        cloud=given.cloud,
        aim=TargetRate(float(given.asks[held].mean())),
        group=data.group,
        seed=seed,
        data_sha256=digest(data),
        scores=(given.calibration.score,),
    )
