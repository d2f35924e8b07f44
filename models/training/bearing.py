"""The recipe `bearing`: which part of a ball bearing is damaged, and how much, by its vibration.

A load that the machine was not trained at changes its speed and the strength of every blow; so
rows are split by load: trained on 0 hp, calibrated on 1 hp, unseen 2 hp. The split is the same
for every seed. What was recorded at one load only, as the sound bearing was, is cut in time.

The edge hears the first half of the window with a few short filters, and how strong it is. The
cloud hears the whole of it with more and deeper ones, and only its shape: what the strength says
does not carry over from load to load, which took a tenth off its accuracy. All this was chosen on
the loads 0 and 1, each held against the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..dataset import Dataset
from ..errors import DataError
from ..manifest import Input, TensorInput
from .fitting import Course, epochs
from .har import Mean
from .losses import cross_entropy, evidential
from .making import Plan, make
from .recordings import Arrays, bounds, load_arrays, windows
from .splits import Split
from .trained import Trained

ROWS = 1024
RATE_HZ = 12_000.0
_ARRAYS = ("x", "offset", "scale", "y", "load", "label_names")
_HOP = 256  # of the windows that are trained on: they overlap
_CUTS = (0.4, 0.6)  # of a recording at one load only: to train, to calibrate, unseen
_TARGET_RATE = 0.2
_FLOOR = 1e-3  # g
_SPEED, _LOUDNESS, _NOISE = 0.03, 0.3, 0.1  # what a load may change, more or less
_LICENCE = "Apache-2.0 (data: Case Western Reserve University, made publicly available by it)"
_CITATION = (
    "Case Western Reserve University Bearing Data Center: Seeded Fault Test Data, drive end, "
    "12 kHz. https://engineering.case.edu/bearingdatacenter"
)


class _Stretch(NamedTuple):
    """Part of a recording: which part of the split it is for, and where it begins and ends."""

    part: int
    recording: int
    begin: int
    end: int


def train(
    out: Path,
    *,
    data: Path | None = None,
    seed: int = 0,
    say: Callable[[str], None],
    effort: float = 1.0,
) -> Trained:
    """Make the bundle ``out``; see `Recipe`.

    ``data`` is an .npz, or a folder that holds one, of recordings end to end: x (n,), bounded by
    offset (r + 1,), times scale (r,) in g at 12 kHz; y and load (r,), 0 to 2 hp; label_names.
    ``effort`` scales the number of epochs.

    Raises:
        DataError: there is no such data, or not at three loads.
        BundleError: ``out`` cannot be written, or is something else already.
    """
    rows, split = _cut(load_arrays(data, _ARRAYS, recipe="bearing", suffix=".npz"))
    if rows.labels is None or not all(len(part) for part in split):
        raise DataError("not recorded at the loads 0, 1 and 2", where=str(data))
    made = plan(len(rows.labels), effort=effort)
    return make(made, rows, split, out=out, seed=seed, say=say)


def plan(classes: int, *, effort: float = 1.0) -> Plan:
    """Return how the bundle is made; ``effort`` scales the number of epochs."""
    return Plan(
        name="bearing",
        licence=_LICENCE,
        citations=(_CITATION,),
        input=Input(
            kind="tensor",
            shape=(1, ROWS),
            dtype="float32",
            layout="CT",
            tensor=TensorInput(channels=("vibration",), rows=ROWS, rate_hz=RATE_HZ),
        ),
        target_rate=_TARGET_RATE,
        edge=Course(
            net=lambda: _edge(classes), loss=evidential, epochs=epochs(30, effort), augment=augment
        ),
        cloud=Course(
            net=lambda: _cloud(classes),
            loss=cross_entropy,
            epochs=epochs(12, effort),
            augment=augment,
        ),
    )


def augment(x: Tensor) -> Tensor:
    """Return the windows ``x`` (B, 1, 1024) of another speed and strength, noisier, turned in time.

    A load changes the speed by some percent.
    """
    batch, _, length = x.shape
    speed = 1.0 + _SPEED * (2.0 * torch.rand(batch, 1) - 1.0)
    at = torch.rand(batch, 1) * length + torch.arange(length) * speed
    before = at.floor()
    share = (at - before)[:, None]
    first = before.long()[:, None] % length
    moved = x.gather(2, first) * (1.0 - share) + x.gather(2, (first + 1) % length) * share
    loudness = (_LOUDNESS * torch.randn(batch, 1, 1)).exp()
    return (moved + _NOISE * x.std(2, keepdim=True) * torch.randn_like(x)) * loudness


class Sized(nn.Module):
    """The window at size 1 and, where ``told``, the logarithm of its size as a second channel."""

    def __init__(self, *, told: bool) -> None:
        super().__init__()
        self.told = told

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 2, T), or (B, 1, T), of ``x`` (B, 1, T)."""
        still = x - x.mean(2, keepdim=True)
        size = still.square().mean(2, keepdim=True).sqrt() + _FLOOR
        shape = still / size
        return torch.cat([shape, size.log().expand_as(shape)], 1) if self.told else shape


class Glimpse(nn.Module):
    """The first half of the window."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C, T // 2) of ``x`` (B, C, T)."""
        return x[:, :, : ROWS // 2]


def _edge(classes: int) -> nn.Module:
    return nn.Sequential(
        Glimpse(),
        Sized(told=True),
        nn.Conv1d(2, 12, 24, stride=4),
        nn.ReLU(),
        nn.Conv1d(12, 12, 8, stride=4),
        nn.ReLU(),
        Mean(),
        nn.Linear(12, classes),
    )


def _cloud(classes: int) -> nn.Module:
    return nn.Sequential(
        Sized(told=False),
        *_convolution(1, 32, size=32, stride=4),
        *_convolution(32, 48, size=8, stride=2),
        *_convolution(48, 64, size=5, stride=2),
        *_convolution(64, 64, size=5, stride=2),
        Mean(),
        nn.Dropout(0.3),
        nn.Linear(64, classes),
    )


def _convolution(before: int, after: int, *, size: int, stride: int) -> tuple[nn.Module, ...]:
    return nn.Conv1d(before, after, size, stride=stride), nn.BatchNorm1d(after), nn.ReLU()


def _cut(arrays: Arrays) -> tuple[Dataset, Split]:
    """Return all windows (n, 1, 1024) in g, grouped by recording, and which are for what."""
    x, numbers, part = [], [], []
    for one in _stretches(arrays):
        rows = arrays["x"][one.begin : one.end] * arrays["scale"][one.recording]
        found = windows(rows.astype(np.float32), length=ROWS, hop=_HOP if one.part == 0 else ROWS)
        x.append(found[:, None, :])
        numbers.append(np.full(len(found), one.recording, np.int64))
        part.append(np.full(len(found), one.part))
    parts, group = np.concatenate(part), np.concatenate(numbers)
    return Dataset(
        x=np.concatenate(x),
        y=arrays["y"][group].astype(np.int64),
        group=group,
        labels=tuple(arrays["label_names"].tolist()),
    ), Split(*(np.flatnonzero(parts == number) for number in range(3)))


def _stretches(arrays: Arrays) -> Iterator[_Stretch]:
    y, load = arrays["y"], arrays["load"]
    for number, (begin, end) in enumerate(bounds(arrays["offset"])):
        if len(_loads(y, load, label=y[number])) > 1:
            yield _Stretch(int(load[number]), number, begin, end)
            continue
        first, second = (begin + round((end - begin) * share) for share in _CUTS)
        yield _Stretch(0, number, begin, first)
        yield _Stretch(1, number, first, second)
        yield _Stretch(2, number, second, end)


def _loads(y: NDArray[np.uint8], load: NDArray[np.uint8], *, label: int) -> NDArray[np.uint8]:
    return np.unique(load[y == label])
