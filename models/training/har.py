"""The recipe `har`: what someone with a phone at the waist is doing, from windows of motion.

People differ, so rows are split by person. What carries over from one to another is the
*shape* of a motion more than its size: the cloud net also sees every signal standardised
within its window and on a logarithmic scale, which took its errors on new people from one
row in twenty to one in fifty.

The edge gets figures pooled over the window, and of the shapes only the first 0.4 s. So it
errs now and then with everybody, where a net that is only made narrow errs often with a few,
and otherwise from one seed to the next. All this was chosen by cross-validation over the
training and calibration people of seed 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..dataset import load_dataset
from ..errors import DataError
from ..manifest import Input
from .fitting import Course, epochs
from .losses import binary, cross_entropy, evidential
from .making import Plan, make
from .splits import Shares, by_group
from .trained import Trained

_SHAPE = (9, 128)
_SHARES = Shares(train=13 / 21, calibration=4 / 21)
_TARGET_RATE = 0.18  # on new people the share that escalates strays by 5 points either way
_REDUNDANT = ("LAYING",)
LICENCE = (
    "for evaluation only (data: HAPT, which its authors ask to cite and prohibit from "
    "commercial use)"
)
CITATION = (
    "J.-L. Reyes-Ortiz, L. Oneto, A. Samà, X. Parra, D. Anguita: Transition-Aware Human "
    "Activity Recognition Using Smartphones. Neurocomputing 171, 2016, 754-767. "
    "https://doi.org/10.1016/j.neucom.2015.07.085"
)
_GLIMPSE = 20  # samples of 128: what the edge sees of the shapes
_FLOOR = 0.003  # g or rad/s; spreads below it are noise
_NOISE = 0.005
_MOST = 1000.0  # nothing that is worn moves as much
_TURN = (0.3, 0.045, 0.045)  # radians, standard deviation


def train(
    out: Path,
    *,
    data: Path | None = None,
    seed: int = 0,
    say: Callable[[str], None],
    effort: float = 1.0,
) -> Trained:
    """Make the bundle ``out``; see `Recipe`.

    ``data`` is an .npz, or a folder that holds one, with X (n, 9, 128): the acceleration of
    the body in g, the rotation in rad/s and the whole acceleration in g, along three axes
    each, at 50 Hz; y; subject or group; label_names. ``effort`` scales the number of epochs.

    Raises:
        DataError: there is no such data, it is of another kind, or of too few people.
        BundleError: ``out`` cannot be written, or is something else already.
    """
    if data is None:
        raise DataError("the recipe har brings no data along", hint="name some with --data")
    rows = load_dataset(data)
    if rows.x.shape[1:] != _SHAPE or rows.x.dtype.kind != "f":
        raise DataError(f"X {rows.x.shape} should be (n, 9, 128) of floats", where=str(data))
    if np.abs(rows.x).max() > _MOST:
        raise DataError(f"X reaches {np.abs(rows.x).max():g}", where=str(data), hint="g and rad/s")
    if rows.group is None or rows.labels is None:
        raise DataError("no array subject, or no label_names", where=str(data))
    split = by_group(rows.group, shares=_SHARES, seed=seed)
    made = plan(len(rows.labels), effort=effort)
    halves = dataclasses.replace(rows, x=rows.x.astype(np.float16))
    return make(made, halves, split, out=out, seed=seed, say=say)


def plan(classes: int, *, effort: float = 1.0) -> Plan:
    """Return how the bundle is made; ``effort`` scales the number of epochs."""
    return Plan(
        name="har",
        licence=LICENCE,
        citations=(CITATION,),
        input=Input(
            kind="tensor",
            shape=_SHAPE,
            dtype="float16",
            layout="9 channels of 128 at 50 Hz: body acceleration, rotation, acceleration; "
            "xyz each",
        ),
        redundant=_REDUNDANT,
        target_rate=_TARGET_RATE,
        edge=Course(
            net=lambda: Edge(classes), loss=evidential, epochs=epochs(20, effort), augment=augment
        ),
        cloud=Course(
            net=lambda: cloud(classes),
            loss=cross_entropy,
            epochs=epochs(15, effort),
            decay=1e-3,
            augment=augment,
        ),
        skip=Course(net=_skip, loss=binary, epochs=epochs(8, effort), augment=augment),
    )


class Edge(nn.Module):
    """Figures of the whole window, and twelve short filters over its beginning."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.pooled = nn.Sequential(Pooled(), nn.BatchNorm1d(27, affine=False))
        self.filters = nn.Sequential(
            nn.BatchNorm1d(9, affine=False), nn.Conv1d(9, 12, 8, stride=4), nn.LeakyReLU(0.1)
        )
        self.head = nn.Sequential(nn.Linear(27 + 12, 16), nn.LeakyReLU(0.1), nn.Linear(16, classes))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of ``x`` (B, 9, 128)."""
        glimpse = self.filters(x[:, :, :_GLIMPSE]).mean(2)
        logits: Tensor = self.head(torch.cat([self.pooled(x), glimpse], 1))
        return logits


class Pooled(nn.Module):
    """Posture, and of each moving signal the size, the roughness and the peaks.

    All but the posture are logarithms; roughness and peaks are told relative to the size,
    which a linear layer could do, but learns badly.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 27) figures of ``x`` (B, 9, 128)."""
        signals = x[:, :6]
        moving = signals - signals.mean(2, keepdim=True)
        steps = (signals[:, :, 1:] - signals[:, :, :-1]).abs().mean(2)
        size = (moving.abs().mean(2) + _FLOOR).log()
        rest = [
            (figure + _FLOOR).log() - size for figure in (steps, moving.amax(2), -moving.amin(2))
        ]
        return torch.cat([x[:, 6:].mean(2), size, *rest], 1)


class Shapes(nn.Module):
    """The signals as they are, standardised within the window, and on a logarithmic scale."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 21, 128) channels of ``x`` (B, 9, 128)."""
        moving = x[:, :6] - x[:, :6].mean(2, keepdim=True)
        size = moving.abs().mean(2, keepdim=True) + _NOISE
        logs = moving.sign() * (moving.abs() * 50.0 + 1.0).log()
        return torch.cat([x, moving / size, logs], 1)


class Mean(nn.Module):
    """Averages over time."""

    def forward(self, x: Tensor) -> Tensor:
        """Return the mean (B, C) of ``x`` (B, C, T)."""
        return x.mean(2)


def cloud(classes: int) -> nn.Module:
    """Return the larger net: it takes (B, 9, 128)."""
    return nn.Sequential(
        Shapes(),
        nn.BatchNorm1d(21, affine=False),
        nn.Conv1d(21, 32, 8, stride=2),
        nn.BatchNorm1d(32),
        nn.ReLU(),
        nn.Conv1d(32, 64, 5, stride=2),
        nn.BatchNorm1d(64),
        nn.ReLU(),
        Mean(),
        nn.Dropout(0.3),
        nn.Linear(64, classes),
    )


def _skip() -> nn.Module:
    """Return the filter: it looks at the posture only, the mean of the signals."""
    return nn.Sequential(
        Mean(), nn.BatchNorm1d(9, affine=False), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 1)
    )


def augment(x: Tensor) -> Tensor:
    """Return the windows ``x`` (B, 9, 128) as of phones worn a little differently.

    Each is turned about a random axis, most about the vertical one (the first), and its
    motion, not gravity, is made stronger or weaker.
    """
    batch = len(x)
    turn = torch.linalg.matrix_exp(_cross(torch.randn(batch, 3) * torch.tensor(_TURN)))
    turned = (turn[:, None] @ x.view(batch, 3, 3, -1)).view(x.shape)
    body, rotation, whole = turned.split(3, dim=1)
    factor = 1.0 + 0.1 * torch.randn(batch, 1, 1)
    return torch.cat([body * factor, rotation * factor, whole + body * (factor - 1.0)], 1)


def _cross(vector: Tensor) -> Tensor:
    """Return the matrices (B, 3, 3) of the cross products with ``vector`` (B, 3)."""
    x, y, z = vector.unbind(1)
    zero = torch.zeros_like(x)
    rows = [torch.stack(row, 1) for row in ((zero, -z, y), (z, zero, -x), (-y, x, zero))]
    return torch.stack(rows, 1)
