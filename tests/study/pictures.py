"""Pictures: the data set CIFAR-10 as JPEG, and a larger net for it than ResNet8."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from hedge.models.training.fitting import Course, Material, epochs, fit, repeatable
from hedge.models.training.losses import cross_entropy

CHECKED = 2000  # training rows that are only looked at
_EPOCHS = 10
_FURTHEST = 3  # pixels by which a batch is shifted


def read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return the pictures (n, 32, 32, 3) and their classes (n,) of an .npz of JPEG files."""
    with np.load(path, allow_pickle=False) as npz:
        files, bounds, y = npz["jpeg"], npz["offset"], npz["y"].astype(np.int64)
    pairs = itertools.pairwise(bounds)
    return np.stack([_decoded(files[begin:end]) for begin, end in pairs]), y


def _decoded(file: NDArray[np.uint8]) -> NDArray[Any]:
    with Image.open(io.BytesIO(file.tobytes())) as picture:
        return np.asarray(picture.convert("RGB"))


def teach_cloud(
    x: NDArray[np.uint8],
    y: NDArray[np.int64],
    *,
    seed: int,
    say: Callable[[str], None],
    effort: float = 1.0,
) -> nn.Module:
    """Return the larger net, taught these pictures (n, 32, 32, 3) and classes (n,)."""
    order = np.random.default_rng(seed).permutation(len(x))
    pictures, classes = torch.from_numpy(x[order]).float(), torch.from_numpy(y[order])
    taught = slice(CHECKED, None)
    material = Material(pictures[taught], classes[taught], pictures[:CHECKED], classes[:CHECKED])
    course = Course(
        net=Cloud,
        loss=cross_entropy,
        epochs=epochs(_EPOCHS, effort),
        batch=128,
        rate=4e-3,
        decay=0.05,
        augment=augment,
    )
    with repeatable(seed):
        return fit(course, material, name=f"cloud, seed {seed}", say=say)


def augment(x: Tensor) -> Tensor:
    """Return the pictures ``x`` (B, 32, 32, 3), half of them mirrored, all shifted alike."""
    mirrored = torch.rand(len(x), 1, 1, 1) < 0.5
    x = torch.where(mirrored, x.flip(2), x)
    down, right = torch.randint(-_FURTHEST, _FURTHEST + 1, (2,)).tolist()
    return x.roll((down, right), (1, 2))


class Cloud(nn.Module):
    """A residual net of three stages, 1.1 million weights: ResNet8 has 78 thousand."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 24, 3, padding=1, bias=False),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            Block(24, 48),
            Block(48, 96),
            Block(96, 192),
        )
        self.head = nn.Linear(192, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (B, classes) of pictures ``x`` (B, 32, 32, 3) of values from 0 to 255."""
        logits: Tensor = self.head(self.trunk((x.permute(0, 3, 1, 2) - 120.0) / 64.0).mean((2, 3)))
        return logits


class Block(nn.Module):
    """Two convolutions beside a shortcut; half as wide and high."""

    def __init__(self, takes: int, gives: int) -> None:
        super().__init__()
        self.way = nn.Sequential(
            nn.Conv2d(takes, gives, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(gives),
            nn.ReLU(),
            nn.Conv2d(gives, gives, 3, padding=1, bias=False),
            nn.BatchNorm2d(gives),
        )
        self.shortcut = nn.Sequential(
            nn.Conv2d(takes, gives, 1, stride=2, bias=False), nn.BatchNorm2d(gives)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, gives, h/2, w/2) of ``x`` (B, takes, h, w)."""
        return torch.relu(self.way(x) + self.shortcut(x))
