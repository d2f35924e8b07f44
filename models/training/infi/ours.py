"""Our feature nets, cheaper than the authors', and what alters the rows that teach them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layout import by_time, channels_of, numbers_of, places
from .nets import EMBEDDED, FeatureNet, Frames, Standard, dense, front_of
from .view import View

WIDTH = 64
_FLOOR = 1e-3  # of a channel's spread: what moves less stands still
_STAGES = (24, 48, 96)  # channels of our net for pictures
_STEMS = ((64, 4), (48, 2))  # by the shorter side: how much the first layer strides
_GRIDS, _MOST_CELLS = (4, 2), 1024  # cells a side of a map of features, and in all
_SOUND_STAGES = (16, 32, 48)  # channels of our net for sound
_SPREAD, _MOVES = 0.1, (0.15, 0.3)  # of pitch and pace; up to which part of half a spectrum
_QUIET = 0.1  # of the spread of a sound: what is as even as that is not made louder


def our_net(view: View, *, vocabulary: int = 0, width: int = WIDTH) -> FeatureNet:
    """Return our feature net for samples that are seen as ``view``: cheaper than the authors'.

    A picture is first strided down to 16 to 60 places a side; of a sound counts what each feature
    reaches in each band, whenever that is, and not how loud it was; a window of motion is reduced
    to figures of each channel, a map of features to those of a coarse grid. ``vocabulary`` is how
    many tokens there are.
    """
    front = front_of(view, vocabulary)
    jitter = _jitter(view)
    if view.modality == "text":
        body = dense(2 * EMBEDDED, Pooled(), width=width)
        return FeatureNet(front, body, width=width, jitter=jitter)
    if view.modality == "audio":
        sound, extent = _sound(view)
        body = nn.Sequential(sound, nn.Linear(extent, width), nn.ReLU(), nn.Dropout(0.2))
        return FeatureNet(front, body, width=width, jitter=jitter)
    if view.modality == "image":
        conv, extent = _conv(view)
        return FeatureNet(front, dense(extent, conv, width=width), width=width, jitter=jitter)
    if view.modality == "video":
        conv, extent = _conv(view)
        body = dense(extent * view.shape[0], Frames([conv] * view.shape[0]), width=width)
        return FeatureNet(front, body, width=width, jitter=jitter)
    if view.modality == "feature" and len(view.shape) == 3:
        cells = Cells(view)
        extent = cells.extent
        front.append(cells)
    elif view.is_series:
        extent = Window.FIGURES * channels_of(view)
        front.append(Window())
        front.append(Standard(extent, 1))
    else:
        extent = numbers_of(view)
    hidden = nn.Sequential(nn.Linear(extent, width), nn.ReLU(), nn.Dropout(0.2))
    return FeatureNet(front, dense(width, hidden, width=width), width=width, jitter=jitter)


def _jitter(view: View) -> nn.Module:
    """Return how samples of a view differ without a difference."""
    if view.modality == "text":
        return nn.Identity()
    if view.modality == "audio":
        return OtherVoices(by_time=by_time(view))
    if view.modality in ("image", "video"):
        rows, columns = places(view)
        return Jitter(shifts=(rows // 16, columns // 16), noise=0.02)
    return Jitter(noise=0.1)


class Jitter(nn.Module):
    """Alters what teaches a little, so that it says more; elsewhere it does nothing.

    Rows and columns (the last two axes) are shifted by up to ``shifts`` places, the same for all
    samples of a batch, and ``noise`` is added.
    """

    def __init__(self, *, shifts: tuple[int, int] = (0, 0), noise: float = 0.0) -> None:
        super().__init__()
        self.shifts, self.noise = shifts, noise

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (B, …, H, W), altered while training."""
        if not self.training:
            return x
        for axis, most in zip((-2, -1), self.shifts, strict=True):
            if most:
                x = x.roll(_drawn(-most, most), dims=axis)
        return x + self.noise * torch.randn_like(x) if self.noise else x


def _drawn(least: int, most: int) -> int:
    return int(torch.randint(least, most + 1, ()).item())


class OtherVoices(nn.Module):
    """Alters sounds that teach, each by itself; elsewhere it does nothing.

    Each is higher or lower, slower or faster, earlier or later, and lacks a band of frequencies
    and a moment: few voices say little of how others will sound.
    """

    def __init__(self, *, by_time: bool) -> None:
        super().__init__()
        self.by_time = by_time

    def forward(self, x: Tensor) -> Tensor:
        """Return spectra ``x`` (B, 1, H, W), altered while training; time is H if ``by_time``."""
        if not self.training:
            return x
        pitch, pace = (1.0 + _SPREAD * torch.randn(len(x)) for _ in range(2))
        higher, later = ((torch.rand(len(x)) * 2 - 1) * most for most in _MOVES)
        nought = torch.zeros(len(x))
        moved = [(pitch, nought, higher), (nought, pace, later)]
        if not self.by_time:
            moved = [(pace, nought, later), (nought, pitch, higher)]
        rows = torch.stack([torch.stack(row, 1) for row in moved], 1)
        grid = functional.affine_grid(rows, list(x.shape), align_corners=False)
        found = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
        kept = _all_but_some(len(x), x.shape[2])[:, None, :, None]
        kept = kept & _all_but_some(len(x), x.shape[3])[:, None, None, :]
        return torch.where(kept, found, found.amin((2, 3), keepdim=True))


def _all_but_some(batch: int, extent: int) -> Tensor:
    """Return (B, extent) bool: all True but up to a sixth in a row."""
    begin, place = torch.randint(extent, (batch, 1)), torch.arange(extent)
    return (place < begin) | (place >= begin + torch.randint(extent // 6 + 1, (batch, 1)))


class Pooled(nn.Module):
    """The mean and the maximum over all places."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 2 C) of ``x`` (B, C, …)."""
        flat = x.flatten(2)
        return torch.cat([flat.mean(2), flat.amax(2)], 1)


class Cells(nn.Module):
    """The maximum of each cell of a coarse grid, and the mean over all: what is there, and where.

    ``extent`` is how many numbers that is of a map that is seen as ``view``. Where it has many
    channels the grid is the coarser.
    """

    def __init__(self, view: View) -> None:
        super().__init__()
        sides, channels = places(view), channels_of(view)
        grid = next((one for one in _GRIDS if channels * one * one <= _MOST_CELLS), 1)
        self.size = (-(-sides[0] // grid), -(-sides[1] // grid))
        rows, columns = (-(-side // size) for side, size in zip(sides, self.size, strict=True))
        self.extent = channels * (rows * columns + 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, extent) of ``x`` (B, C, H, W)."""
        highest = functional.max_pool2d(x, self.size, ceil_mode=True)
        return torch.cat([highest.flatten(1), x.mean((2, 3))], 1)


class Window(nn.Module):
    """Figures of each channel of a window: mean, size, roughness and both peaks.

    Of all but the mean the logarithm; roughness and peaks relative to the size.
    """

    FIGURES = 5

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, 5 C) figures of ``x`` (B, C, T)."""
        mean = x.mean(2, keepdim=True)
        moving = x - mean
        size = (moving.abs().mean(2) + _FLOOR).log()
        steps = (x[:, :, 1:] - x[:, :, :-1]).abs().mean(2)
        peaks = (steps, moving.amax(2), -moving.amin(2))
        rest = [(figure + _FLOOR).log() - size for figure in peaks]
        return torch.cat([mean.flatten(1), size, *rest], 1)


class Levelled(nn.Module):
    """Each sound less its own mean, over its spread: how loud it was does not count."""

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (B, 1, H, W), levelled."""
        still = x - x.mean((2, 3), keepdim=True)
        spread: Tensor = still.square().mean((2, 3), keepdim=True).sqrt() + _QUIET
        return still / spread


class Peak(nn.Module):
    """The most that each feature reaches in each band, whenever that is; ``axis`` is time."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, C · bands) of ``x`` (B, C, H, W)."""
        return x.amax(self.axis).flatten(1)


def _conv(view: View) -> tuple[nn.Sequential, int]:
    """Return our net for pictures, and how many numbers it gives."""
    side = min(places(view))
    stride = next((stride for least, stride in _STEMS if side >= least), 1)
    kernel = max(3, stride)
    first, second, third = _STAGES
    pad = (kernel - stride + 1) // 2
    net = nn.Sequential(
        nn.Conv2d(channels_of(view), first, kernel, stride=stride, padding=pad, bias=False),
        nn.BatchNorm2d(first),
        nn.ReLU(),
        *_separable(first, second),
        *_separable(second, third),
        Pooled(),
    )
    return net, 2 * third


def _sound(view: View) -> tuple[nn.Sequential, int]:
    """Return our net for sounds, and how many numbers it gives."""
    bands = places(view)[1 if by_time(view) else 0]
    layers: list[nn.Module] = [Levelled()]
    before = 1
    for after in _SOUND_STAGES:
        layers += [nn.Conv2d(before, after, 3, stride=2, padding=1, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.ReLU()]
        before, bands = after, -(-bands // 2)
    return nn.Sequential(*layers, Peak(2 if by_time(view) else 3), nn.Dropout(0.3)), before * bands


def _separable(channels: int, filters: int) -> tuple[nn.Module, ...]:
    return (
        nn.Conv2d(channels, channels, 3, stride=2, padding=1, groups=channels, bias=False),
        nn.Conv2d(channels, filters, 1, bias=False),
        nn.BatchNorm2d(filters),
        nn.ReLU(),
    )
