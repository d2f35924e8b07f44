"""A bundle's models on a data set, offline: what they give, and which rows would reach them."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace as replaced
from typing import NamedTuple

import numpy as np

from ..models.bundle import Bundle
from ..models.dataset import Dataset
from ..models.errors import BundleError, ConfigError
from ..models.evidence import Array
from ..models.filtering.standing import passes
from ..models.manifest import Cloud, Edge, Filter, Input
from ..models.measures import Flags
from ..models.model import Model, infer_all
from ..models.prepare import preparer
from .backends import open_part
from .split_head import head_of

_BATCH = 256
WITHOUT_EDGE = "the far end answers alone; take the bundle as it was before split or offload"


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
        raise BundleError("has no edge model", where=str(bundle.path), hint=WITHOUT_EDGE)
    for edge in edges:
        if name in (None, edge.name):
            return edge
    known = ", ".join(edge.name for edge in edges)
    raise ConfigError(f"no variant {name!r}", where=str(bundle.path), hint=f"has {known}")


def part_outputs(bundle: Bundle, part: Edge | Filter | Cloud, data: Dataset) -> Array:
    """Return the raw outputs (N, K) of one of the bundle's models for all rows of ``data``.

    Where it takes features, they are those that the head of the bundle's [split] gives.
    """
    spec, rows = bundle.input, data
    split = bundle.manifest.split
    if split is not None and takes_features(bundle, part):
        spec, rows = split.features, features_of(bundle, data)
    with closing(open_part(bundle, part)) as model:
        return model_outputs(model, spec, rows)


def takes_features(bundle: Bundle, part: Edge | Filter | Cloud) -> bool:
    """Return whether one of the bundle's models takes the features of its [split]."""
    if isinstance(part, Cloud):
        split = bundle.manifest.split
        return split is not None and part == split.cloud
    return part.attach == "feature"


def features_of(bundle: Bundle, data: Dataset) -> Dataset:
    """Return ``data`` with the features (N, width) of its rows in their place, as float32.

    Raises:
        BundleError: the bundle has no [split].
        ModelError: its head cannot be opened, or failed.
    """
    split = bundle.manifest.split
    if split is None:
        raise BundleError("has no [split], whose features would be taken", where=str(bundle.path))
    x = part_outputs(bundle, head_of(split), data).astype(np.float32)
    return replaced(data, x=x)


def model_outputs(model: Model, spec: Input, data: Dataset) -> Array:
    """Return the raw outputs (N, K) of a model that is open, in batches of 256 rows.

    ``spec`` says what a row of ``data`` is, and what of it the model is fed.
    """
    prepare = preparer(spec, model.spec.inputs[0])
    starts = range(0, len(data.x), _BATCH)
    return infer_all(model, (prepare(data.x[start : start + _BATCH]) for start in starts))


def passing(bundle: Bundle, data: Dataset) -> Flags:
    """Return (N,) which rows of ``data`` no filter of the bundle would drop.

    Raises:
        ModelError: a filter's output is no number, and besides as `outputs_of` does.
    """
    found = np.ones(len(data.x), np.bool_)
    for one in bundle.manifest.filter:
        if one.kind == "reuse":  # answers, and drops nothing
            continue
        found &= passes(one, part_outputs(bundle, one, data))
    return found
