"""Which part of a picture becomes which part of the sample, where their proportions differ."""

from __future__ import annotations

from typing import Literal, NamedTuple


class Size(NamedTuple):
    """Of a picture, in pixels."""

    width: int
    height: int


class Box(NamedTuple):
    """A part of a picture: its edges, in pixels from the left and the top, fractions too."""

    left: float
    top: float
    right: float
    bottom: float


class Fit(NamedTuple):
    """``box`` of the source is resized to ``size``, and lies at (``left``, ``top``)."""

    box: Box
    size: Size
    left: int = 0
    top: int = 0


def fitted(source: Size, sample: Size, how: Literal["stretch", "crop", "letterbox"]) -> Fit:
    """Return how a picture of the one size becomes one of the other.

    "crop" takes the largest part with the sample's proportions from the middle, to a fraction
    of a pixel, as Pillow's `ImageOps.fit` does. "letterbox" rounds the picture's new size to
    whole pixels and puts it in the middle; an odd pixel of border is on the right, or below.

    Example:
        >>> fitted(Size(200, 100), Size(50, 50), "crop").box
        Box(left=50.0, top=0.0, right=150.0, bottom=100.0)
        >>> fitted(Size(200, 100), Size(50, 50), "letterbox")[1:]
        (Size(width=50, height=25), 0, 12)
    """
    whole = Box(0.0, 0.0, float(source.width), float(source.height))
    match how:
        case "stretch":
            return Fit(whole, sample)
        case "crop":
            ratio = max(sample.width / source.width, sample.height / source.height)
            width = min(sample.width / ratio, source.width)
            height = min(sample.height / ratio, source.height)
            left, top = (source.width - width) / 2, (source.height - height) / 2
            return Fit(Box(left, top, left + width, top + height), sample)
        case "letterbox":
            ratio = min(sample.width / source.width, sample.height / source.height)
            size = Size(max(1, round(source.width * ratio)), max(1, round(source.height * ratio)))
            left, top = (sample.width - size.width) // 2, (sample.height - size.height) // 2
            return Fit(whole, size, left, top)
