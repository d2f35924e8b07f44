"""The recipe `digits`: handwritten digits of 8 by 8 pixels. Needs no download.

The edge is a net of one narrow hidden layer on the pixels; the cloud is a small
convolutional net that has seen every digit shifted, turned, scaled and slanted. Depths,
widths and epochs were chosen by cross-validation over the training and calibration rows of
seed 0.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from ..dataset import Dataset, load_dataset
from ..errors import DataError
from ..manifest import Input
from .fitting import Course, epochs
from .losses import binary, cross_entropy, evidential
from .making import Plan, make
from .splits import Shares, by_row
from .trained import Trained

_SHAPE = (64,)
_SHARES = Shares(train=0.5, calibration=0.2)
_TARGET_RATE = 0.22
_REDUNDANT = ("0",)
_LICENCE = "CC-BY-4.0 (data: UCI Optical Recognition of Handwritten Digits)"
_CITATION = (
    "E. Alpaydin, C. Kaynak: Optical Recognition of Handwritten Digits. UCI Machine Learning "
    "Repository, 1998. https://doi.org/10.24432/C50P49 (CC BY 4.0; test part, as distributed "
    "with scikit-learn)"
)


def train(
    out: Path,
    *,
    data: Path | None = None,
    seed: int = 0,
    say: Callable[[str], None],
    effort: float = 1.0,
) -> Trained:
    """Make the bundle ``out``; see `Recipe`.

    ``data`` is an .npz like scikit-learn's digits: X (n, 64) of values from 0 to 16.
    ``effort`` scales the number of epochs.

    Raises:
        DataError: the data is of another kind.
        BundleError: ``out`` cannot be written, or is something else already.
    """
    rows = _digits() if data is None else _checked(load_dataset(data), where=str(data))
    if rows.y is None:
        raise DataError("no array y", where=str(data))
    split = by_row(rows.x, rows.y, shares=_SHARES, seed=seed)
    return make(plan(effort), rows, split, out=out, seed=seed, say=say)


def plan(effort: float = 1.0) -> Plan:
    """Return how the bundle is made; ``effort`` scales the number of epochs."""
    return Plan(
        name="digits",
        licence=_LICENCE,
        citations=(_CITATION,),
        input=Input(
            kind="tensor",
            shape=_SHAPE,
            dtype="uint8",
            layout="64 grey values from 0 to 16, 8 rows of 8, top row first",
        ),
        redundant=_REDUNDANT,
        target_rate=_TARGET_RATE,
        edge=Course(net=_edge, loss=evidential, epochs=epochs(60, effort), batch=32),
        cloud=Course(
            net=_cloud, loss=cross_entropy, epochs=epochs(40, effort), batch=32, augment=augment
        ),
        skip=Course(net=_skip, loss=binary, epochs=epochs(40, effort), batch=32),
    )


class Scaled(nn.Module):
    """Brings grey values (B, 64) from [0, 16] to [-1, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x/8 - 1."""
        return x / 8.0 - 1.0


def _edge() -> nn.Module:
    return nn.Sequential(Scaled(), nn.Linear(64, 14), nn.ReLU(), nn.Linear(14, 10))


def _skip() -> nn.Module:
    return nn.Sequential(Scaled(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 1))


def _cloud() -> nn.Module:
    return nn.Sequential(
        Scaled(),
        nn.Unflatten(1, (1, 8, 8)),
        *_convolution(1, 16),
        *_convolution(16, 16),
        nn.MaxPool2d(2),
        *_convolution(16, 32),
        nn.Flatten(),
        nn.Dropout(0.3),
        nn.Linear(32 * 16, 64),
        nn.ReLU(),
        nn.Dropout(0.3),
        nn.Linear(64, 10),
    )


def _convolution(before: int, after: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU()


def augment(x: Tensor) -> Tensor:
    """Return the digits ``x`` (B, 64) shifted, turned, scaled and slanted a little each."""
    batch = len(x)
    turn, slant = torch.randn(batch) * 0.1, torch.randn(batch) * 0.15
    scale = 1.0 + torch.randn(batch, 2) * 0.05
    shift = (torch.rand(batch, 2) * 2.0 - 1.0) / 8.0  # half a pixel of 8 that span [-1, 1]
    rows = (
        torch.stack([scale[:, 0] * turn.cos(), slant - turn.sin(), shift[:, 0]], 1),
        torch.stack([turn.sin(), scale[:, 1] * turn.cos(), shift[:, 1]], 1),
    )
    grid = functional.affine_grid(torch.stack(rows, 1), [batch, 1, 8, 8], align_corners=False)
    return functional.grid_sample(x.view(batch, 1, 8, 8), grid, align_corners=False).view(x.shape)


def _digits() -> Dataset:
    found = load_digits()
    return Dataset(
        x=found.data.astype(np.uint8),
        y=found.target.astype(np.int64),
        labels=tuple(str(name) for name in found.target_names),
    )


def _checked(data: Dataset, *, where: str) -> Dataset:
    x = data.x
    if x.shape[1:] != _SHAPE or x.min() < 0 or x.max() > 16:
        raise DataError(f"X {x.shape} should be (n, 64) of values from 0 to 16", where=where)
    return Dataset(x=x.astype(np.uint8), y=data.y, labels=data.labels)
