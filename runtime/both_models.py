"""A bundle's models on a data set, offline: what they give, and which rows would reach them."""

from __future__ import annotations

from contextlib import closing
from typing import NamedTuple

import numpy as np

from ..models.bundle import Bundle
from ..models.dataset import Dataset
from ..models.errors import BundleError, ConfigError, ModelError
from ..models.evidence import Array
from ..models.manifest import Cloud, Edge, Filter, Input
from ..models.measures import Flags
from ..models.model import Model
from ..models.prepare import preparer
from .backends import open_part

_BATCH = 256


class BothOutputs(NamedTuple):
    """Raw outputs (N, K) of edge and cloud (None: there is none), and which rows pass, (N,)."""

    edge: Array
    cloud: Array | None
    passes: Flags


def outputs_of(bundle: Bundle, data: Dataset, *, variant: str | None = None) -> BothOutputs:
    """Run an edge ``variant`` (None: the first), the cloud and the filters on all rows of ``data``.

    ``data`` is fitted to the bundle's input (`Dataset.fitted`). No row is left out: ``passes``
    says which no filter would drop.

    Raises:
        BundleError: the bundle has no edge model.
        ConfigError: it has no such variant.
        ModelError: a model cannot be opened, or failed.
        MissingExtraError: its backend is not installed.
    """
    edge, cloud = edge_variant(bundle, variant), bundle.manifest.cloud
    return BothOutputs(
        edge=part_outputs(bundle, edge, data),
        cloud=None if cloud is None else part_outputs(bundle, cloud, data),
        passes=passing(bundle, data),
    )


def edge_variant(bundle: Bundle, name: str | None = None) -> Edge:
    """Return the edge variant ``name`` of ``bundle``; None: the first.

    Raises:
        BundleError: the bundle has no edge model.
        ConfigError: it has no such variant.
    """
    edges = bundle.manifest.edge
    if not edges:
        raise BundleError("has no edge model", where=str(bundle.path))
    for edge in edges:
        if name in (None, edge.name):
            return edge
    known = ", ".join(edge.name for edge in edges)
    raise ConfigError(f"no variant {name!r}", where=str(bundle.path), hint=f"has {known}")


def part_outputs(bundle: Bundle, part: Edge | Filter | Cloud, data: Dataset) -> Array:
    """Return the raw outputs (N, K) of one of the bundle's models for all rows of ``data``."""
    with closing(open_part(bundle, part)) as model:
        return model_outputs(model, bundle.input, data)


def model_outputs(model: Model, spec: Input, data: Dataset) -> Array:
    """Return the raw outputs (N, K) of a model that is open, in batches of 256 rows.

    ``spec`` says what a row of ``data`` is, and what of it the model is fed.
    """
    prepare = preparer(spec, model.spec.inputs[0])
    starts = range(0, len(data.x), _BATCH)
    rows: Array = np.concatenate(
        [model.infer(prepare(data.x[start : start + _BATCH])) for start in starts]
    )
    return rows


def passing(bundle: Bundle, data: Dataset) -> Flags:
    """Return (N,) which rows of ``data`` no filter of the bundle would drop.

    Raises:
        ModelError: a filter's output is no number, and besides as `outputs_of` does.
    """
    passes = np.ones(len(data.x), np.bool_)
    for one in bundle.manifest.filter:
        logits = part_outputs(bundle, one, data)[:, 0].astype(np.float64)
        if np.isnan(logits).any():
            row = int(np.argmax(np.isnan(logits)))
            raise ModelError(f"row {row}: the filter's output is NaN", where=one.file)
        with np.errstate(over="ignore"):
            passes &= 1.0 / (1.0 + np.exp(-logits)) > one.threshold
    return passes
