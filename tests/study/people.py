"""HAR: what people with a phone at the waist are doing, tested on people whom no model saw.

The cloud is that of hedge's own recipe; the edge sees less of the window than the recipe's, a
quarter of a second of the shapes beside the pooled figures, for that one comes within five points
of the cloud. How much it sees was chosen by cross-validation over the 16 people of seed 0 whom
that seed does not test on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hedge.models.dataset import Dataset, load_dataset
from hedge.models.training import har
from hedge.models.training.fitting import epochs
from hedge.models.training.splits import Shares, by_group

from .sealed import npz_files, only
from .task import Material, Place, Taught
from .teaching import taught

NAME = "har"
VERSION = "1"
EDGE = "figures pooled over the window, and six short filters"
CLOUD = "a convolutional net over the shapes"
_SHARES = Shares(train=11 / 21, calibration=5 / 21)
_CLASSES = 6
_EPOCHS = 16
_GLIMPSE = 12  # samples of 128: what the edge sees of the shapes
_FILTERS = 6


def material(place: Place) -> Material:
    """Split the people: 11 to train on, 5 to calibrate on, 5 to test on, or others instead."""
    data = _windows(place.data / "har_windows" / "har_windows_train.npz")
    assert data.group is not None
    split = by_group(data.group, shares=_SHARES, seed=place.seed)
    test, source = data.rows(split.unseen), "the open data"
    if place.acceptance is not None:
        file = only(_of_others(place.acceptance, data), what=NAME, folder=place.acceptance)
        test, source = _windows(file), file.name
    return Material(
        train=lambda: data.rows(split.train),
        calibration=data.rows(split.calibration),
        test=test,
        test_from=f"{len(_people(test))} people of {source}",
    )


def teach(place: Place, material: Material) -> Taught:
    """Teach both nets; the cloud is that of the recipe."""
    made = har.plan(_CLASSES, effort=place.effort)
    edge = dataclasses.replace(made.edge, net=Edge, epochs=epochs(_EPOCHS, place.effort))
    return taught(
        name=NAME, spec=made.input, edge=edge, cloud=made.cloud, material=material, place=place
    )


class Edge(nn.Module):
    """Figures of the whole window, and a few short filters over its very beginning."""

    def __init__(self) -> None:
        super().__init__()
        self.pooled = nn.Sequential(har.Pooled(), nn.BatchNorm1d(27, affine=False))
        self.filters = nn.Sequential(
            nn.BatchNorm1d(9, affine=False), nn.Conv1d(9, _FILTERS, 8, stride=4), nn.LeakyReLU(0.1)
        )
        self.head = nn.Sequential(
            nn.Linear(27 + _FILTERS, 16),
            nn.LeakyReLU(0.1),
            nn.Dropout(0.1),
            nn.Linear(16, _CLASSES),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, 6) of ``x`` (B, 9, 128)."""
        glimpse = self.filters(x[:, :, :_GLIMPSE]).mean(2)
        logits: Tensor = self.head(torch.cat([self.pooled(x), glimpse], 1))
        return logits


def _of_others(folder: Path, known: Dataset) -> Iterator[Path]:
    """Yield the files of such windows of people who are not in ``known``."""
    for file in npz_files(folder, "X", "y", "subject", "label_names"):
        data = load_dataset(file)
        alike = data.x.shape[1:] == known.x.shape[1:] and data.labels == known.labels
        if alike and not np.isin(_people(data), _people(known)).any():
            yield file


def _people(data: Dataset) -> NDArray[Any]:
    assert data.group is not None
    return np.unique(data.group)


def _windows(file: Path) -> Dataset:
    data = load_dataset(file)
    return dataclasses.replace(data, x=data.x.astype(np.float16))
