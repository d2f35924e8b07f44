"""Bringing a picture to another size, by the numbers of the library that training used."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingExtraError
from .fit import Box, Size

Pixels = NDArray[np.uint8]
Resize = Callable[[Pixels, Box, Size], Pixels]
Filter = Literal["bilinear", "bicubic", "lanczos", "box", "nearest"]

_SIZES = 4  # a camera's resolution may change midway, and change back


def pillow_resizer(filter_: Filter, *, grey: bool) -> Resize:
    """Return what resizes part of a picture (h, w, 3) RGB as Pillow does, to (h, w, 3).

    Where ``grey``, it is made (h, w, 1) by ITU-R 601-2 luma first, as by ``convert("L")``.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    try:
        from PIL import Image  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise MissingExtraError("Pillow", extra="image") from error
    resample = Image.Resampling[filter_.upper()]

    def resize(picture: Pixels, box: Box, size: Size) -> Pixels:
        source = Image.fromarray(picture)
        source = source.convert("L") if grey else source
        return np.asarray(source.resize(size, resample, box)).reshape(size.height, size.width, -1)

    return resize


def linear_resizer(*, grey: bool) -> Resize:
    """Return what interpolates between the four nearest pixels, without antialiasing.

    It is computed in float32 and rounded to the nearest, ties to even. OpenCV's INTER_LINEAR
    does the same in fixed point, and may be one level off. Otherwise as `pillow_resizer`.
    """
    # For each resize shape the same places and weights are used, picture after picture.
    corners_of = lru_cache(_SIZES)(_corners)

    def resize(picture: Pixels, box: Box, size: Size) -> Pixels:
        height, width, _ = picture.shape
        corners = corners_of(Size(width, height), box, size)
        pixels = picture.reshape(height * width, 3)
        found = np.zeros((size.width * size.height, 1 if grey else 3), np.float32)
        for places, weights in corners:
            values = pixels.take(places, axis=0)
            found += weights * (luma(values) if grey else values)
        return np.rint(found).astype(np.uint8).reshape(size.height, size.width, -1)

    return resize


def luma(pixels: Pixels) -> Pixels:
    """Return RGB pixels (n, 3) as grey ones (n, 1): ITU-R 601-2, in Pillow's fixed point.

    Example:
        >>> luma(np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)).ravel().tolist()
        [76, 150, 29]
    """
    weighted = pixels @ np.array([19595, 38470, 7471], np.uint32)
    return ((weighted + 0x8000) >> 16).astype(np.uint8)[:, np.newaxis]


class _Corner(NamedTuple):
    """Of each pixel of the result, row by row: a pixel of the source, and its weight."""

    places: NDArray[np.intp]  # (n,)
    weights: NDArray[np.float32]  # (n, 1)


def _corners(source: Size, box: Box, size: Size) -> tuple[_Corner, ...]:
    columns = _neighbours(source.width, box.left, box.right, size.width)
    rows = _neighbours(source.height, box.top, box.bottom, size.height)
    return tuple(
        _Corner(
            (y[:, np.newaxis] * source.width + x).ravel(),
            (of_y[:, np.newaxis] * of_x).astype(np.float32).reshape(-1, 1),
        )
        for y, of_y in rows
        for x, of_x in columns
    )


def _neighbours(
    pixels: int, begin: float, end: float, count: int
) -> tuple[tuple[NDArray[np.intp], NDArray[np.float64]], ...]:
    """Return the pixel before and the one after each of ``count`` centres, and their weights."""
    centres = begin + (np.arange(count) + 0.5) * (end - begin) / count - 0.5
    centres = centres.clip(0, pixels - 1)
    before = centres.astype(np.intp)
    share = centres - before
    return (before, 1 - share), (np.minimum(before + 1, pixels - 1), share)
