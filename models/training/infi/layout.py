"""How the axes of a sample lie, and how they are brought to (channels, …) for a net."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .view import View

Order = tuple[tuple[int, ...], tuple[int | None, ...]]


class Arranged(nn.Module):
    """Orders the axes behind the batch's; extents of 1 come and go: ``order``, None a new one."""

    def __init__(self, order: tuple[tuple[int, ...], tuple[int | None, ...]]) -> None:
        super().__init__()
        self.kept, self.order = order

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (B, *shape) with its axes in order."""
        x = x.reshape(-1, *self.kept)
        named = [0, *(axis + 1 for axis in self.order if axis is not None)]
        x = x.permute(named)
        for place, axis in enumerate(self.order):
            if axis is None:
                x = x.unsqueeze(place + 1)
        return x


def picture(view: View) -> Order:
    """Return how to bring a picture, or a spectrum, to (channels, rows, columns)."""
    shape = view.shape
    if view.modality == "audio":
        return tuple(extent for extent in shape if extent > 1), (None, 0, 1)
    if len(shape) == 2:
        return shape, (None, 0, 1)
    first = view.layout == "CHW" or (view.layout != "HWC" and view.modality == "feature")
    first = first or (view.layout is None and shape[0] < min(shape[1:]) and shape[-1] > 4)
    return shape, (0, 1, 2) if first else (2, 0, 1)


def clip(view: View) -> Order:
    """Return how to bring frames to (channels, frames, rows, columns)."""
    if len(view.shape) == 3:
        return view.shape, (None, 0, 1, 2)
    return view.shape, (3, 0, 1, 2) if view.shape[-1] <= view.shape[1] else (1, 0, 2, 3)


def series(view: View) -> Order:
    """Return how to bring a window to (channels, time): the longer axis is time, if none says."""
    by_time = view.layout == "TC" or (view.layout != "CT" and view.shape[0] > view.shape[1])
    return view.shape, (1, 0) if by_time else (0, 1)


def channels_of(view: View) -> int:
    """Return how many channels a net sees."""
    if view.modality == "video":
        shape, order = clip(view)
    elif view.is_series:
        shape, order = series(view)
    else:
        shape, order = picture(view)
    return 1 if order[0] is None else shape[order[0]]


def numbers_of(view: View) -> int:
    """Return how many numbers a sample is."""
    return int(torch.Size(view.shape).numel())


def last_axis(view: View) -> tuple[int, ...]:
    """Return the extents (rows, last) that a dense layer over the last axis sees; or (last,)."""
    if len(view.shape) == 1 or not (view.is_series or len(view.shape) == 3):
        return (numbers_of(view),)
    channels = channels_of(view)
    return numbers_of(view) // channels, channels


def places(view: View) -> tuple[int, int]:
    """Return the rows and columns of a picture, or of each frame."""
    shape, order = clip(view) if view.modality == "video" else picture(view)
    rows, columns = (shape[axis] for axis in order[-2:] if axis is not None)
    return rows, columns


def by_time(view: View) -> bool:
    """Return whether a spectrum's rows are time; if nothing says so, where there are more."""
    rows, columns = places(view)
    return view.layout == "TF" or (view.layout != "FT" and rows >= columns)
