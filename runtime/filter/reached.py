"""Which rows a filter is tuned by: those that reach it on a device, and are new."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ...models.bundle import Bundle
from ...models.dataset import Dataset
from ...models.errors import DataError
from ...models.filtering.standing import passes
from ...models.manifest import Cloud, Edge
from ...models.measures import Flags
from ...models.training.infi.replaying import replay
from ...models.unseen import seen_rows
from ..both_models import part_outputs


class Reached(NamedTuple):
    """The rows that get past the filters before, of all that are ``given``; ``new`` (N,) judge.

    The others are there because a rule may look at the row before. ``seen`` are left out of all
    that are given, since training, calibration or an earlier tuning saw them, or their like.
    """

    data: Dataset
    new: Flags
    given: int
    seen: int


def rows_that_reach(
    bundle: Bundle, place: int, model: Edge | Cloud, data: Dataset, *, where: str
) -> Reached:
    """Return the rows that reach the filter at ``place``, with those that judge it.

    Raises:
        DataError: there are none; ``where`` is their file.
        ModelError: a filter before it, or the model, fails.
    """
    seen = seen_rows(bundle, data)
    if seen.all():
        raise DataError(
            f"training or calibration saw all {len(seen)} rows",
            where=where,
            hint="give rows that are new",
        )
    reaches = _reaching(bundle, place, model, data)
    if not (reaches & ~seen).any():
        raise DataError(
            f"none of {len(seen)} rows gets past the filters before it and is new, "
            f"{int(seen.sum())} having been seen by training or calibration",
            where=where,
            hint="give more rows",
        )
    return Reached(data.rows(reaches), ~seen[reaches], given=len(seen), seen=int(seen.sum()))


def _reaching(bundle: Bundle, place: int, model: Edge | Cloud, data: Dataset) -> Flags:
    """Return (N,) which rows the filters before that at ``place`` let pass, each in its turn."""
    found = np.ones(len(data.x), np.bool_)
    for one in bundle.manifest.filter[:place]:
        rows = data.rows(found)
        if not len(rows.x):
            break
        outputs = part_outputs(bundle, one, rows)
        if one.reuse is None:
            found[found] = passes(one, outputs)
            continue
        labels = part_outputs(bundle, model, rows).argmax(axis=1)
        found[found] = ~replay(outputs.astype(np.float32), labels, one.reuse).reused
    return found
