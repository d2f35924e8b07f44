"""Two variants of a bundle's edge model on the same rows: answers, gate and latency."""

from __future__ import annotations

from contextlib import ExitStack, closing
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...models.bundle import Bundle
from ...models.calibration import threshold_for_rate
from ...models.dataset import Dataset
from ...models.evidence import Array
from ...models.manifest import Calibration, Edge
from ...models.model import Model, infer_all
from ...models.opinion import Assessor
from ...models.prepare import preparer
from ..backends import open_model
from ..paired_latency import Latency, paired_latency
from .comparison import Answers, Comparison, answers, compare
from .report import Gate
from .rows import Division

_BATCH = 256


class Variant(NamedTuple):
    """A variant and the bytes of its model."""

    edge: Edge
    data: bytes


class Measured(NamedTuple):
    """What the int8 variant is beside the float one; no gate without a calibration."""

    comparison: Comparison
    gate: Gate | None
    latency: Latency


def side_by_side(
    bundle: Bundle,
    variants: tuple[Variant, Variant],
    data: Dataset,
    division: Division,
    *,
    seed: int,
) -> Measured:
    """Run a float variant and an int8 one on the rows of ``data``.

    Raises:
        ModelError: one of them cannot be opened or run, or gives what it should not.
        MissingExtraError: the backend is not installed.
    """
    calibration, measured = bundle.manifest.calibration, data.rows(division.measured)
    with ExitStack() as stack:
        models = [stack.enter_context(closing(_opened(bundle, variant))) for variant in variants]
        fed = preparer(bundle.input, models[0].spec.inputs[0])(data.x)
        before, after = (
            _answers(bundle, variant.edge, _outputs(model, fed), data)
            for variant, model in zip(variants, models, strict=True)
        )
        latency = paired_latency(models[0], models[1], fed[division.measured[:1]])
    comparison = compare(
        before.rows(division.measured),
        after.rows(division.measured),
        total=None if calibration is None else calibration.total,
        group=measured.group,
        seed=seed,
    )
    gate = None if calibration is None else _gate(calibration, before, after, division=division)
    return Measured(comparison, gate, latency)


def _opened(bundle: Bundle, variant: Variant) -> Model:
    edge = variant.edge
    where = f"{bundle.path}/{edge.file}"
    return open_model(variant.data, format=edge.format, where=where, output=edge.output_name)


def _outputs(model: Model, fed: NDArray[Any]) -> Array:
    return infer_all(model, (fed[at : at + _BATCH] for at in range(0, len(fed), _BATCH)))


def _answers(bundle: Bundle, edge: Edge, outputs: Array, data: Dataset) -> Answers:
    calibration = bundle.manifest.calibration
    score = None if calibration is None else calibration.scoring
    assessor = Assessor.of(edge, classes=len(bundle.labels), score=score)
    assert data.y is not None  # noqa: S101  checked where the data was read
    return answers(outputs, data.y, assessor=assessor)


def _gate(calibration: Calibration, before: Answers, after: Answers, *, division: Division) -> Gate:
    """Find, on the rows that gave ranges, the threshold at which as many escalate as before."""
    share = float(np.mean(before.score[division.ranges] >= calibration.total))
    threshold = threshold_for_rate(after.score[division.ranges], rate=share)
    return Gate(
        score=calibration.score,
        total=calibration.total,
        same_share=threshold,
        escalated=float(np.mean(after.score[division.measured] >= threshold)),
    )
