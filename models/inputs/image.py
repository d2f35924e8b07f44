"""From a picture to the sample of an image model: colour, fit, size and layout."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import DataError
from ..manifest import ImageInput, Input
from .fit import Size, fitted
from .preprocess import Preprocess
from .resize import Pixels, Resize, linear_resizer, pillow_resizer

_CHANNELS = {"rgb": 3, "bgr": 3, "grey": 1}


def image_preprocessor(spec: Input, *, where: str) -> Preprocess:
    """Return what makes a sample of a picture (h, w, 3) uint8 RGB, as `ImageInput` says.

    Raises:
        MissingExtraError: Pillow is not installed, and the resizing asked for is its.
    """
    how = spec.image or ImageInput()
    height, width, _ = image_extents(spec)
    sample = Size(width, height)
    resize = _resizer(how)
    arrange = _arranger(how, spec)

    def preprocess(data: NDArray[Any], meta: Mapping[str, Any]) -> NDArray[Any]:  # noqa: ARG001
        _check(data, where=where)
        fit = fitted(Size(data.shape[1], data.shape[0]), sample, how.fit)
        resized = resize(data, fit.box, fit.size)
        if fit.size != sample:
            resized = _bordered(resized, sample, at=(fit.left, fit.top), value=how.pad)
        return arrange(resized)

    return preprocess


def image_extents(spec: Input) -> tuple[int, int, int]:
    """Return (height, width, channels) of an image's shape, which its layout orders.

    Raises:
        ValueError: the shape has another number of axes than the layout.
    """
    match spec.layout:
        case "CHW":
            channels, height, width = spec.shape
        case "HW":
            (height, width), channels = spec.shape, 1
        case _:
            height, width, channels = spec.shape
    return height, width, channels


def image_problems(spec: Input) -> Iterator[tuple[str, str]]:
    """Yield why pictures cannot become samples: the manifest's key, and what is wrong there."""
    if spec.image is None:
        return
    layout = spec.layout or "HWC"
    if layout not in ("HWC", "CHW", "HW"):
        yield "$.input.layout", f"{layout!r} is none of HWC, CHW and HW"
    elif len(spec.shape) != len(layout):
        yield "$.input.shape", f"{len(spec.shape)} axes are none of the layout {layout}"
    elif image_extents(spec)[2] != _CHANNELS[spec.image.colour]:
        wanted, found = _CHANNELS[spec.image.colour], image_extents(spec)[2]
        yield "$.input.shape", f"{found} channels, but {spec.image.colour!r} has {wanted}"
    if spec.dtype != "uint8":
        yield "$.input.dtype", f"{spec.dtype}, but pictures are uint8; scale makes floats of them"


def _check(data: NDArray[Any], *, where: str) -> None:
    if data.dtype != np.uint8 or data.ndim != 3 or data.shape[2] != 3 or data.size == 0:
        raise DataError(f"{data.dtype} {data.shape} is no picture in RGB", where=where)


def _resizer(how: ImageInput) -> Resize:
    grey = how.colour == "grey"
    if how.resize == "linear":
        return linear_resizer(grey=grey)
    return pillow_resizer(how.resize, grey=grey)


def _bordered(picture: Pixels, size: Size, *, at: tuple[int, int], value: int) -> Pixels:
    height, width, channels = picture.shape
    left, top = at
    bordered = np.full((size.height, size.width, channels), value, np.uint8)
    bordered[top : top + height, left : left + width] = picture
    return bordered


def _arranger(how: ImageInput, spec: Input) -> Callable[[Pixels], Pixels]:
    """Return what brings (h, w, channels) to the order of colours and axes asked for."""
    step = -1 if how.colour == "bgr" else 1

    def arrange(picture: Pixels) -> Pixels:
        turned = picture[:, :, ::step]
        if spec.layout == "CHW":
            turned = turned.transpose(2, 0, 1)
        return np.ascontiguousarray(turned.reshape(spec.shape))

    return arrange
