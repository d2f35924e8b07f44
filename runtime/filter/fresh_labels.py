"""Labels that were released: what the far end says of samples that a filter was unsure of."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...models.bundle import Bundle
from ...models.dataset import Dataset
from ...models.errors import DataError
from ...models.evidence import Array
from ..adapt.fresh_pairs import store_of

LEAST_LABELS = 60


class FreshLabels(NamedTuple):
    """Samples in the order of their answers, with their times and devices as ``data``'s groups.

    ``probs`` (N, K) are the far end's; ``waiting`` are in quarantine, ``damaged`` are not what was
    written, or no numbers.
    """

    data: Dataset
    probs: Array
    waiting: int
    damaged: int


def fresh_labels(bundle: Bundle, place: Path) -> FreshLabels:
    """Return the released labels at ``place`` of the ``bundle``'s contract.

    Raises:
        DataError: they are too few, or those there are of another contract.
    """
    with closing(store_of(bundle, place)) as store:
        released = [one for one in store.pairs("released") if one.kind == "label"]
        waiting = sum(one.kind == "label" for one in store.pairs("quarantined"))
        whole, x = store.samples(sorted(released, key=lambda one: one.at_s))
    finite = np.ones(len(x), np.bool_)
    if x.dtype.kind == "f":
        finite = np.isfinite(x).all(axis=tuple(range(1, x.ndim)))
    found = [one for one, is_finite in zip(whole, finite, strict=True) if is_finite]
    if len(found) < LEAST_LABELS:
        look = f"hedge adapt show {place}, and release: {waiting} are in quarantine"
        raise DataError(
            f"{len(found)} labels have been released, at least {LEAST_LABELS} are needed",
            where=str(place),
            hint=look if waiting else "let devices ask for more: filter_labels",
        )
    data = Dataset(
        x=x[finite],
        group=np.array([one.whose for one in found]),
        time=np.array([one.at_s for one in found]),
    )
    probs = np.stack([one.cloud for one in found])
    return FreshLabels(data, probs, waiting, len(released) - len(found))
