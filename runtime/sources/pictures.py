"""Pictures as files hold them, and the part of a picture that matters."""

from __future__ import annotations

import io
import re
import warnings
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ...models.errors import ConfigError, DataError, MissingExtraError

if TYPE_CHECKING:
    from PIL.Image import Image

Region = tuple[float, float, float, float]

# No other: some of what Pillow opens starts programs (EPS: Ghostscript), or is never a photo.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_NOT_FOR_EYES = re.compile(r"PIL\b")


def need_pillow() -> None:
    """Make sure that pictures can be decoded, before the first one comes.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    _pillow()


def decode_picture(data: bytes, *, max_pixels: int, where: str) -> NDArray[np.uint8]:
    """Return the (first) picture of a JPEG, PNG, BMP, GIF, WebP, TIFF or PNM: (h, w, 3) RGB.

    Its size is read from the header and checked before anything is decoded. The EXIF
    orientation is applied. Transparency is ignored, as training pipelines do by
    ``convert("RGB")``; of 16 bits a channel the upper eight are taken.

    Raises:
        DataError: it is none of these, is damaged or cut short, or has too many pixels.
        MissingExtraError: Pillow is not installed.
    """
    image = _pillow()
    _hush()
    try:
        return _decoded(image, data, max_pixels=max_pixels, where=where)
    except DataError:
        raise
    except image.DecompressionBombError as error:
        raise _too_large("beyond what Pillow decodes", max_pixels, where=where) from error
    except Exception as error:  # its parsers raise whatever they stumble over
        raise DataError(
            f"no picture that can be decoded ({len(data)} bytes: {_begin(error)})",
            where=where,
            hint="JPEG, PNG, BMP, GIF, WebP, TIFF and PNM can",
        ) from error


def check_region(region: Region | None, *, where: str) -> None:
    """Refuse a part of a picture that is nothing, or lies outside.

    Raises:
        ConfigError: it does; ``where`` is its dotted key.
    """
    if region is None:
        return
    left, top, width, height = region
    if width <= 0 or height <= 0 or left + width > 1 + 1e-6 or top + height > 1 + 1e-6:
        raise ConfigError(
            f"{list(region)} is not a part of the picture",
            where=where,
            hint="left, top, width and height as shares of it, like [0.25, 0, 0.5, 1]",
        )


def cut(picture: NDArray[np.uint8], region: Region | None) -> NDArray[np.uint8]:
    """Return the part of a picture (h, w, 3), contiguous; None: all of it.

    The edges are rounded to whole pixels, and at least one is left: of 5 columns
    (0.5, …, 0.3, …) are those from round(2.5) = 2 to round(4.0) = 4, without the last.
    """
    if region is None:
        return picture
    left, top, width, height = region
    rows = _span(top, height, picture.shape[0])
    columns = _span(left, width, picture.shape[1])
    return np.ascontiguousarray(picture[rows, columns])


def _span(begin: float, extent: float, size: int) -> slice:
    first = min(round(begin * size), size - 1)
    return slice(first, min(max(round((begin + extent) * size), first + 1), size))


def _pillow() -> ModuleType:
    try:
        from PIL import Image  # noqa: PLC0415 -- only where pictures are decoded
    except ImportError as error:
        raise MissingExtraError("Pillow", extra="image") from error
    return Image


def _hush() -> None:
    """Silence Pillow's warnings of odd metadata: what matters here is an error.

    `warnings.catch_warnings` would not do: it changes all threads, and several read pictures.
    """
    if not any(module == _NOT_FOR_EYES for _, _, _, module, _ in warnings.filters):
        warnings.filterwarnings("ignore", module=_NOT_FOR_EYES.pattern)


def _decoded(image: ModuleType, data: bytes, *, max_pixels: int, where: str) -> NDArray[np.uint8]:
    with image.open(io.BytesIO(data), formats=_FORMATS) as picture:
        if picture.width * picture.height > max_pixels:
            size = f"of {picture.width}x{picture.height} pixels"
            raise _too_large(size, max_pixels, where=where)
        picture.load()
        return _eight_bits(_upright(picture), where=where)


def _upright(picture: Image) -> Image:
    from PIL import ImageOps  # noqa: PLC0415 -- as above

    try:
        return ImageOps.exif_transpose(picture)
    except Exception:  # noqa: BLE001 -- damaged metadata: the picture is good, and stays as it is
        return picture


def _eight_bits(picture: Image, *, where: str) -> NDArray[np.uint8]:
    if picture.mode == "F":
        raise DataError("its pixels are fractions of no known range", where=where)
    if picture.mode.startswith("I"):  # 16 bits; convert() would cut off all above 255
        upper = (np.clip(np.asarray(picture), 0, 0xFFFF) >> 8).astype(np.uint8)
        return np.repeat(upper[:, :, np.newaxis], 3, axis=2)
    return np.array(picture.convert("RGB"), np.uint8)


def _too_large(size: str, max_pixels: int, *, where: str) -> DataError:
    return DataError(
        f"a picture {size}, more than the {max_pixels} pixels allowed",
        where=where,
        hint="max_pixels of the source sets the bound",
    )


def _begin(error: Exception) -> str:
    text = " ".join((str(error) or type(error).__name__).split())
    return re.sub(r"<_io\.BytesIO[^>]*>", "", text)[:80].strip()
