"""Digits: 8 by 8 pixels; the nets are those of hedge's own recipe."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from hedge.models.dataset import Dataset
from hedge.models.training.digits import plan
from hedge.models.training.splits import Shares, by_row

from .task import Material, Place, Taught
from .teaching import taught

NAME = "digits"
VERSION = "1"
EDGE = "one hidden layer of 14"
CLOUD = "a small convolutional net"
_SHARES = Shares(train=0.5, calibration=0.2)


def material(place: Place) -> Material:
    """Split scikit-learn's 1,797 digits by row, every class alike."""
    found = load_digits()
    names = tuple(str(name) for name in found.target_names)
    data = Dataset(x=found.data.astype(np.uint8), y=found.target.astype(np.int64), labels=names)
    assert data.y is not None
    split = by_row(data.x, data.y, shares=_SHARES, seed=place.seed)
    return Material(
        train=lambda: data.rows(split.train),
        calibration=data.rows(split.calibration),
        test=data.rows(split.unseen),
        test_from="the rest of the 1,797 digits",
    )


def teach(place: Place, material: Material) -> Taught:
    """Teach both nets as the recipe does."""
    made = plan(place.effort)
    return taught(
        name=NAME, spec=made.input, edge=made.edge, cloud=made.cloud, material=material, place=place
    )
