"""The recipe `spoken_digits`: which digit someone says, from one second of sound.

Voices differ, so rows are split by speaker: some are trained on, one is calibrated on, and one
stays unseen. Few voices make a narrow teacher; so the nets learn from every digit said higher and
lower, faster and slower, earlier and later, with bands and moments left out.

A digit is a window of a second in which it lies somewhere. The samples are the logarithms of 40
mel bands every 16 ms, computed by the very code that the device runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..dataset import Dataset
from ..errors import DataError
from ..manifest import AudioInput, Input
from .fitting import Course, epochs
from .losses import cross_entropy, evidential
from .making import Plan, make
from .recordings import Arrays, bounds, load_arrays
from .sampling import samples
from .splits import Shares, by_group
from .trained import Trained

RATE_HZ = 8000
_FRAMES, _BANDS = 61, 40
_SPEC = Input(
    kind="audio",
    shape=(_FRAMES, _BANDS),
    dtype="float32",
    layout="TF",
    audio=AudioInput(
        sample_rate_hz=float(RATE_HZ),
        samples=RATE_HZ,
        features="logmel",
        frame=256,
        frame_hop=128,
        fft=256,
        mels=_BANDS,
        low_hz=60.0,
        high_hz=3800.0,
        floor=1e-6,
        floor_by="sum",
    ),
)
_ARRAYS = ("audio", "offset", "y", "speaker", "speaker_names", "sample_rate")
_LABELS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_SHARES = Shares(train=0.5, calibration=0.25)
_TARGET_RATE = 0.25
_LICENCE = "CC-BY-SA-4.0 (data: Free Spoken Digit Dataset)"
_CITATION = (
    "Z. Jackson et al.: Free Spoken Digit Dataset. "
    "https://github.com/Jakobovski/free-spoken-digit-dataset (CC BY-SA 4.0)"
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

    ``data`` is an .npz, or a folder that holds one, of clips end to end: audio int16 at 8 kHz,
    bounded by offset (n + 1,); y (n,) the digits, speaker (n,) into speaker_names; sample_rate.
    ``effort`` scales the number of epochs.

    Raises:
        DataError: there is no such data, it is of another kind, or of too few speakers.
        BundleError: ``out`` cannot be written, or is something else already.
    """
    arrays = load_arrays(data, _ARRAYS, recipe="spoken_digits", suffix=".npz")
    if arrays["sample_rate"] != RATE_HZ or arrays["audio"].dtype != np.int16:
        raise DataError("should be int16 at 8000 Hz", where=str(data))
    x = samples(
        _SPEC, seconds(arrays, seed=seed), name="spoken_digits", meta={"sample_rate_hz": RATE_HZ}
    )
    rows = Dataset(
        x=x,
        y=arrays["y"].astype(np.int64),
        group=arrays["speaker_names"][arrays["speaker"]],
        labels=_LABELS,
    )
    split = by_group(arrays["speaker"], shares=_SHARES, seed=seed)
    return make(plan(effort=effort), rows, split, out=out, seed=seed, say=say)


def plan(*, effort: float = 1.0) -> Plan:
    """Return how the bundle is made; ``effort`` scales the number of epochs."""
    return Plan(
        name="spoken_digits",
        licence=_LICENCE,
        citations=(_CITATION,),
        input=_SPEC,
        target_rate=_TARGET_RATE,
        edge=Course(
            net=_edge, loss=evidential, epochs=epochs(40, effort), batch=32, augment=augment
        ),
        cloud=Course(
            net=_cloud,
            loss=cross_entropy,
            epochs=epochs(25, effort),
            batch=32,
            decay=1e-2,
            augment=augment,
        ),
    )


def seconds(arrays: Arrays, *, seed: int) -> Iterator[NDArray[np.float32]]:
    """Give every clip as one second of sound, (8000,) in [-1, 1): somewhere in it, or cut."""
    random = np.random.default_rng(seed)
    for begin, end in bounds(arrays["offset"]):
        clip = arrays["audio"][begin : min(end, begin + RATE_HZ)]
        window = np.zeros(RATE_HZ, np.float32)
        at = int(random.integers(0, RATE_HZ - len(clip) + 1))
        window[at : at + len(clip)] = clip / np.float32(32768)
        yield window


def heard(data: Path, *, seed: int, speakers: set[str]) -> list[NDArray[np.float32]]:
    """Return the seconds of sound of some speakers, in the order of their rows."""
    arrays = load_arrays(data, _ARRAYS, recipe="spoken_digits", suffix=".npz")
    names = arrays["speaker_names"][arrays["speaker"]]
    whole = zip(seconds(arrays, seed=seed), names.tolist(), strict=True)
    return [window for window, name in whole if name in speakers]


def augment(x: Tensor) -> Tensor:
    """Return the samples ``x`` (B, 61, 40) as of other voices.

    Each is said higher or lower, slower or faster, earlier or later, and louder or not; one
    band of frequencies and one of moments is left out.
    """
    batch = len(x)
    pitch, pace = (1.0 + amount * torch.randn(batch) for amount in (0.1, 0.1))
    later, higher = ((torch.rand(batch) * 2 - 1) * amount for amount in (0.3, 0.15))
    nought = torch.zeros(batch)
    rows = (torch.stack([pitch, nought, higher], 1), torch.stack([nought, pace, later], 1))
    grid = functional.affine_grid(
        torch.stack(rows, 1), [batch, 1, *x.shape[1:]], align_corners=False
    )
    moved = functional.grid_sample(x[:, None], grid, padding_mode="border", align_corners=False)[
        :, 0
    ]
    louder = moved + 1.0 * torch.randn(batch, 1, 1)
    quiet = louder.amin((1, 2), keepdim=True)
    kept = _band(batch, _FRAMES, 12)[:, :, None] & _band(batch, _BANDS, 6)[:, None, :]
    return torch.where(kept, louder, quiet)


def _band(batch: int, length: int, most: int) -> Tensor:
    """Return (B, length) bool: all True but up to ``most`` in a row."""
    begin = torch.randint(length, (batch, 1))
    place = torch.arange(length)
    return (place < begin) | (place >= begin + torch.randint(most + 1, (batch, 1)))


class Levelled(nn.Module):
    """Each sample less its own mean, over its spread: how loud it was does not count."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 1, T, F) of ``x`` (B, T, F)."""
        still = x - x.mean((1, 2), keepdim=True)
        spread = still.square().mean((1, 2), keepdim=True).sqrt() + 0.1
        return (still / spread)[:, None]


def _edge() -> nn.Module:
    return nn.Sequential(
        Levelled(),
        *_convolution(1, 8, stride=2),
        *_convolution(8, 16, stride=2),
        *_convolution(16, 16, stride=2),
        Peak(),
        nn.Linear(16 * 5, 10),
    )


def _cloud() -> nn.Module:
    return nn.Sequential(
        Levelled(),
        *_convolution(1, 16, stride=1),
        nn.MaxPool2d(2),
        *_convolution(16, 32, stride=1),
        nn.MaxPool2d(2),
        *_convolution(32, 64, stride=1),
        nn.MaxPool2d(2),
        *_convolution(64, 64, stride=1),
        Peak(),
        nn.Dropout(0.4),
        nn.Linear(64 * 5, 10),
    )


class Peak(nn.Module):
    """The most that each feature reaches in each band of frequencies, whenever that is."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C · F) of ``x`` (B, C, T, F)."""
        return x.amax(2).flatten(1)


def _convolution(before: int, after: int, *, stride: int) -> tuple[nn.Module, ...]:
    layer = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
    return layer, nn.BatchNorm2d(after), nn.ReLU()
