"""What may leave the device: the one place through which every sample goes that is sent."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray

from ..models.bundle import Bundle
from ..models.errors import ConfigError, ModelError
from ..models.manifest import Input
from .split_head import SplitHead

Part = Annotated[float, Meta(ge=0, le=1)]
Region = tuple[Part, Part, Part, Part]
_GREY = 128
_HAIR = 1e-9  # of a pixel: what shares in binary may miss
_LEAST_BLOCK = 2  # pixels: one alone would be no blur


class Privacy(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[stream.privacy]``: what of a sample may leave the device when it asks.

    "sample": the sample itself. "blurred", for pictures: in place of its pixels the means of
    blocks, ``blur`` of the longer side wide each; only within ``region`` (left, top, width,
    height as shares of the sample), where one is given. "cropped", for pictures: nothing but
    the ``region``, the rest is grey. "features": what the bundle's [split] makes of it.
    "nothing": the edge answers alone.
    """

    share: Literal["sample", "blurred", "cropped", "features", "nothing"] = "sample"
    region: Region | None = None
    blur: Annotated[float, Meta(gt=0, le=1)] = 0.1


class Share(Protocol):
    """Makes of a sample what may be sent of it."""

    @property
    def entry(self) -> Literal["input", "features"]:
        """Which of the far end's models it feeds."""

    def __call__(self, sample: NDArray[Any]) -> NDArray[Any] | None:
        """Return what may leave the device; None: nothing may.

        Raises:
            ModelError: the model that makes features of it has failed.
        """


class Whole:
    """The sample itself may leave."""

    entry: Literal["input"] = "input"

    def __call__(self, sample: NDArray[Any]) -> NDArray[Any]:
        """Return the sample."""
        return sample


class Nothing:
    """Nothing may leave."""

    entry: Literal["input"] = "input"

    def __call__(self, sample: NDArray[Any]) -> None:
        """Return None."""


class Blurred:
    """A picture without its details: every block of it is its mean, which nothing can undo.

    The blocks begin at the region's upper left corner; those at its other edges may be smaller.
    """

    entry: Literal["input"] = "input"

    def __init__(self, spec: Input, privacy: Privacy) -> None:
        self._rows, self._columns, self._view = _region(spec, privacy.region, outward=True)
        height, width = (axis.stop - axis.start for axis in (self._rows, self._columns))
        block = max(_LEAST_BLOCK, round(privacy.blur * max(_size(spec))))
        self._tops, self._lefts = np.arange(0, height, block), np.arange(0, width, block)
        self._heights = np.diff(self._tops, append=height)
        self._widths = np.diff(self._lefts, append=width)
        self._pixels = np.outer(self._heights, self._widths)[:, :, None]

    def __call__(self, sample: NDArray[Any]) -> NDArray[Any]:
        """Return the picture with the region in blocks, of the same shape and dtype."""
        shared: NDArray[Any] = sample.copy()
        part = self._view(shared)[self._rows, self._columns]
        sums = np.add.reduceat(
            np.add.reduceat(part.astype(np.int64), self._tops, axis=0), self._lefts, axis=1
        )
        means = (sums + self._pixels // 2) // self._pixels
        part[:] = means.repeat(self._heights, axis=0).repeat(self._widths, axis=1)
        return shared


class Cropped:
    """A picture of which only a region is to be seen; the rest is grey."""

    entry: Literal["input"] = "input"

    def __init__(self, spec: Input, privacy: Privacy) -> None:
        self._rows, self._columns, self._view = _region(spec, privacy.region, outward=False)

    def __call__(self, sample: NDArray[Any]) -> NDArray[Any]:
        """Return the picture with all else in grey, of the same shape and dtype."""
        shared = np.full_like(sample, _GREY)
        where = self._rows, self._columns
        self._view(shared)[where] = self._view(sample)[where]
        return shared


class Features:
    """What the bundle's [split] makes of a sample; the sample itself stays."""

    entry: Literal["features"] = "features"

    def __init__(self, head: SplitHead) -> None:
        self._head = head
        self._dtype = head.dtype

    def __call__(self, sample: NDArray[Any]) -> NDArray[Any]:
        """Return the features (width,) of the [split]'s dtype.

        Raises:
            ModelError: the head failed, or one of them is more than the dtype holds.
        """
        features = self._head.of(sample).astype(self._dtype)
        if not np.isfinite(features).all():
            raise ModelError(f"a feature is no number that {self._dtype} holds", where="split")
        return features


def sharing(
    privacy: Privacy, bundle: Bundle, *, where: str, features: Callable[[], Features]
) -> Share:
    """Return what makes of samples what ``privacy`` lets out; ``features`` opens the [split].

    Raises:
        ConfigError: it asks for what this bundle's samples do not have; ``where`` is its key.
        HedgeError: the [split] cannot be opened.
    """
    spec = bundle.input
    if privacy.share in {"blurred", "cropped"}:
        _check_picture(spec, privacy, where=where)
    if privacy.share == "features" and bundle.manifest.split is None:
        raise ConfigError(
            "the bundle has no [split], which would make features of samples",
            where=f"{where}.share",
            hint='take another bundle, or share "nothing"',
        )
    match privacy.share:
        case "sample":
            return Whole()
        case "nothing":
            return Nothing()
        case "blurred":
            return Blurred(spec, privacy)
        case "cropped":
            return Cropped(spec, privacy)
        case "features":
            return features()


def describe(privacy: Privacy) -> str:
    """Return in one line what may leave the device."""
    within = "" if privacy.region is None else f", within {privacy.region} of it"
    return {
        "sample": "the samples that it asks about may leave the device as they are",
        "blurred": f"pictures that it asks about may leave the device blurred in blocks of "
        f"{privacy.blur:.0%} of their longer side{within}",
        "cropped": f"of pictures that it asks about only {privacy.region} may leave the device",
        "features": "of samples that it asks about only features may leave the device",
        "nothing": "no sample may leave the device: the edge answers alone",
    }[privacy.share]


def _check_picture(spec: Input, privacy: Privacy, *, where: str) -> None:
    if spec.kind != "image" or spec.dtype != "uint8" or len(spec.shape) not in {2, 3}:
        raise ConfigError(
            f"{privacy.share!r} is for pictures; this bundle takes {spec.kind} of {spec.dtype}",
            where=f"{where}.share",
            hint='share "nothing", "features" or "sample"',
        )
    if privacy.region is None:
        if privacy.share == "cropped":
            raise ConfigError("no region, so nothing says what may be seen", where=where)
        return
    left, top, width, height = privacy.region
    if not (width > 0 and height > 0 and left + width <= 1 and top + height <= 1):
        raise ConfigError(
            f"{list(privacy.region)} is no part of the picture",
            where=f"{where}.region",
            hint="left, top, width and height as shares, as [0.25, 0, 0.5, 1]",
        )
    rows, columns, _ = _region(spec, privacy.region, outward=False)
    if privacy.share == "cropped" and (rows.stop <= rows.start or columns.stop <= columns.start):
        height, wide = _size(spec)
        raise ConfigError(
            f"holds no whole pixel of {wide}x{height}, so nothing could be seen",
            where=f"{where}.region",
            hint='make it larger, or share "nothing"',
        )


def _size(spec: Input) -> tuple[int, int]:
    """Return the height and the width of a picture."""
    if spec.layout == "CHW":
        return spec.shape[1], spec.shape[2]
    return spec.shape[0], spec.shape[1]


def _region(
    spec: Input, region: Region | None, *, outward: bool
) -> tuple[slice, slice, Callable[[NDArray[Any]], NDArray[Any]]]:
    """Return the rows and columns of a region, and what shows a sample as (H, W, C).

    A pixel that is only partly within the region is in it where ``outward``.
    """
    height, width = _size(spec)
    left, top, wide, high = region or (0.0, 0.0, 1.0, 1.0)
    rows = _pixels(top, high, height, outward=outward)
    columns = _pixels(left, wide, width, outward=outward)
    if spec.layout == "CHW":
        return rows, columns, lambda picture: picture.transpose(1, 2, 0)
    if len(spec.shape) == 2:
        return rows, columns, lambda picture: picture[:, :, None]
    return rows, columns, lambda picture: picture


def _pixels(begin: float, length: float, of: int, *, outward: bool) -> slice:
    """Return which of ``of`` pixels a share of them is."""
    first, last = begin * of, (begin + length) * of
    if outward:
        return slice(math.floor(first + _HAIR), math.ceil(last - _HAIR))
    return slice(math.ceil(first - _HAIR), math.floor(last + _HAIR))
