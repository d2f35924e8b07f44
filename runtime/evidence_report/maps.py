"""The uncertainty map of a few pictures: those that the edge is least and most sure of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ...models.bundle import Bundle
from ...models.errors import MissingExtraError, ModelError
from ...models.evidence import Figures
from ...models.manifest import Edge
from ...models.scores import max_prob
from ...models.uncertainty_map import uncertainty_map
from .answers import Answers
from .feature_map import FeatureMap, feature_map
from .record import MapCase, Maps
from .rows import Rows

EACH = 4


class Shown(NamedTuple):
    """What the page shows of a case: the sample as a source gives it, and its map (H, W)."""

    sample: NDArray[Any]
    map: Figures


def maps(
    bundle: Bundle, rows: Rows, found: Answers, *, edge: Edge
) -> tuple[Maps, tuple[Shown, ...]]:
    """Return the maps of the `EACH` least and most uncertain pictures, or why there are none."""
    try:
        layer = _layer(bundle, edge)
    except (MissingExtraError, ModelError) as error:
        return Maps(missing=str(error)), ()
    if isinstance(layer, str):
        return Maps(missing=layer), ()
    doubt, what = _doubt(found)
    order = np.argsort(doubt, kind="stable")
    chosen = np.concatenate((order[::-1][:EACH], order[:EACH]))
    try:
        features = layer.of(bundle, edge, rows.data.rows(chosen))
    except ModelError as error:
        return Maps(missing=str(error)), ()
    drawn = uncertainty_map(features, doubt[chosen])
    cases = tuple(_case(bundle, rows, found, place, doubt) for place in chosen.tolist())
    shown = (Shown(rows.data.x[place], one) for place, one in zip(chosen, drawn, strict=True))
    return (
        Maps(missing=None, layer=layer.layer, shape=layer.shape, uncertainty=what, cases=cases),
        tuple(shown),
    )


def _layer(bundle: Bundle, edge: Edge) -> FeatureMap | str:
    """Return where the map comes from, or why it cannot."""
    if bundle.input.kind != "image":
        return f"the bundle's input is no image but a {bundle.input.kind}"
    if edge.format != "onnx":
        return f"the feature map of a {edge.format} file cannot be had: give the model as ONNX"
    return feature_map(bundle, edge) or "the graph has no feature map: no tensor (B, C, H, W)"


def _doubt(found: Answers) -> tuple[Figures, str]:
    """Return u of each row; where there is no evidence 1 - max p stands for it."""
    if found.edge.vacuity is not None:
        return found.edge.vacuity, "vacuity u"
    return max_prob(found.edge.probs), "1 - max p"


def _case(bundle: Bundle, rows: Rows, found: Answers, place: int, doubt: Figures) -> MapCase:
    def named(probs: Sequence[float] | NDArray[Any]) -> str:
        return bundle.labels[int(np.argmax(probs))]

    return MapCase(
        row=int(rows.places[place]),
        truth=bundle.labels[int(rows.y[place])],
        edge=named(found.edge.probs[place]),
        cloud=None if found.cloud is None else named(found.cloud.probs[place]),
        uncertainty=float(doubt[place]),
        escalated=None if found.asked is None else bool(found.asked.escalated[place]),
    )
