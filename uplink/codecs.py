"""How the numbers of a tensor travel: as they are, packed, in half precision or as JPEG.

`LOSS` says of each codec what it may change. A body is decoded to the size that its shape
and dtype say, never beyond; what decodes to anything else is refused.
"""

from __future__ import annotations

import importlib
import io
import math
import zlib
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..models.errors import ConfigError, MissingExtraError, WireError

Codec = Literal["raw", "zlib", "zstd", "float16", "float16+zlib", "jpeg"]

LOSS: Mapping[Codec, str] = {
    "raw": "none",
    "zlib": "none",
    "zstd": "none",
    "float16": (
        "relative error at most 2^-11 for magnitudes from 2^-14 to 65504, absolute error at "
        "most 2^-25 below; a finite number beyond is refused, infinities and NaN stay"
    ),
    "float16+zlib": "that of float16",
    "jpeg": "lossy: baseline JPEG of quality 90, chroma not subsampled",
}

_LIBRARIES: Mapping[str, tuple[str, str, str]] = {
    "zstd": ("zstandard", "zstandard", "zstd"),
    "jpeg": ("PIL", "Pillow", "jpeg"),
}  # by codec: module, distribution, extra
_JPEG_SIDE = 65_500  # libjpeg's JPEG_MAX_DIMENSION
_QUALITY = 90
_SCAN = b"\xff\xda"  # begins a scan; in the scan itself every 0xff has a 0 behind it
_EXIF = b"Exif\0\0"


def misfit(codec: Codec, *, dtype: str, shape: tuple[int, ...]) -> str | None:
    """Return why tensors of that dtype and shape do not go in a codec; None: they do."""
    if codec.startswith("float16") and dtype != "float32":
        return f"{codec} is for float32 tensors, not {dtype}"
    if codec == "jpeg" and not (dtype == "uint8" and _is_image(shape)):
        return f"jpeg is for uint8 images (H, W), (H, W, 1) or (H, W, 3), not {dtype} {shape}"
    return None


def check(codec: Codec, *, dtype: str, shape: tuple[int, ...], where: str = "codec") -> None:
    """Refuse a codec that does not fit the tensors of a stream; ``where`` is its key.

    Raises:
        ConfigError: half precision of what is not float32, JPEG of what is no 8-bit image.
        MissingExtraError: its library is not installed.
    """
    why = misfit(codec, dtype=dtype, shape=shape)
    if why is not None:
        raise ConfigError(why, where=where, hint="raw, zlib and zstd take anything")
    if codec in _LIBRARIES:
        _library(codec)


def longest(codec: Codec, *, dtype: str, shape: tuple[int, ...]) -> int:
    """Return how many bytes a body may have at most; raw and float16 have just as many."""
    each = 2 if codec.startswith("float16") else np.dtype(dtype).itemsize
    size = math.prod(shape) * each
    match codec:
        case "raw" | "float16":
            return size
        case "jpeg":  # black and white noise takes 0.96 times its pixels, in whole blocks
            height, width, *depth = (*shape, 1, 1)[: max(2, len(shape))]
            pixels = -(-height // 8) * -(-width // 8) * 64 * math.prod(depth)
            return pixels + pixels // 4 + 1024
        case _:  # data that does not shrink grows by less
            return size + size // 128 + 64


def encode(array: NDArray[Any], *, dtype: str, codec: Codec) -> bytes:
    """Return the numbers of ``array`` as ``dtype``, little-endian, in C order, in a codec.

    Raises:
        WireError: a number does not fit into half precision.
        MissingExtraError: the codec's library is not installed.
    """
    match codec:
        case "raw":
            return _plain(array, dtype)
        case "zlib":
            return zlib.compress(_plain(array, dtype))
        case "zstd":
            packed: bytes = _library("zstd").ZstdCompressor().compress(_plain(array, dtype))
            return packed
        case "float16":
            return _halved(array)
        case "float16+zlib":
            return zlib.compress(_halved(array))
        case "jpeg":
            return _photographed(np.asarray(array, np.uint8))


def decode(body: bytes, *, dtype: str, shape: tuple[int, ...], codec: Codec) -> NDArray[Any]:
    """Return the tensor that ``body`` holds, read-only; nothing is decoded beyond its size.

    Whoever calls has checked the size that ``shape`` and ``dtype`` claim.

    Raises:
        WireError: it holds no such tensor, or the codec's library is not installed here.
    """
    where = f"body: {codec}"
    why = misfit(codec, dtype=dtype, shape=shape)
    if why is None and len(body) > longest(codec, dtype=dtype, shape=shape):
        why = f"{len(body)} bytes for {dtype} {shape}"
    if why is not None:
        raise WireError(why, where=where)
    try:
        array = _decoded(body, dtype, shape, codec)
    except MissingExtraError as error:
        raise WireError(error.what, where=where, hint=error.hint) from error
    except ValueError as error:
        raise WireError(str(error)[:200], where=where) from error
    array.flags.writeable = False
    return array


def _decoded(body: bytes, dtype: str, shape: tuple[int, ...], codec: Codec) -> NDArray[Any]:
    """Return the tensor; ValueError where it is none."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    match codec:
        case "raw":
            return _numbers(body, dtype, shape)
        case "zlib":
            return _numbers(_inflated(body, size), dtype, shape)
        case "zstd":
            return _numbers(_unpacked(body, size), dtype, shape)
        case "float16":
            return _numbers(body, "float16", shape).astype(dtype)
        case "float16+zlib":
            data = _inflated(body, 2 * math.prod(shape))
            return _numbers(data, "float16", shape).astype(dtype)
        case "jpeg":
            return _developed(body, shape)


def _library(codec: Codec) -> Any:  # noqa: ANN401  a module
    module, distribution, extra = _LIBRARIES[codec]
    if find_spec(module) is None:
        raise MissingExtraError(distribution, extra=extra)
    return importlib.import_module(module if codec == "zstd" else f"{module}.JpegImagePlugin")


def _is_image(shape: tuple[int, ...]) -> bool:
    match shape:
        case (height, width) | (height, width, 1 | 3):
            return 1 <= height <= _JPEG_SIDE and 1 <= width <= _JPEG_SIDE
        case _:
            return False


def _little(dtype: str) -> np.dtype[Any]:
    little: np.dtype[Any] = np.dtype(dtype).newbyteorder("<")
    return little


def _plain(array: NDArray[Any], dtype: str) -> bytes:
    return np.ascontiguousarray(array, _little(dtype)).tobytes()


def _numbers(data: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    """Return a view of the data; ValueError where they are not as many."""
    return np.frombuffer(data, _little(dtype)).reshape(shape)


def _halved(array: NDArray[Any]) -> bytes:
    with np.errstate(over="ignore"):
        half = np.ascontiguousarray(array, _little("float16"))
    lost = np.isinf(half) & np.isfinite(array)
    if lost.any():
        raise WireError(
            f"{np.asarray(array)[lost].flat[0]:g} is beyond half precision, which ends at 65504",
            where="body: float16",
            hint="codec raw, zlib or zstd",
        )
    return half.tobytes()


def _inflated(body: bytes, wanted: int) -> bytes:
    stream = zlib.decompressobj()
    try:
        data = stream.decompress(body, wanted + 1)
    except zlib.error as error:
        raise ValueError(str(error)) from error
    if len(data) != wanted or not stream.eof or stream.unused_data:
        raise ValueError(f"holds other than {wanted} bytes")
    return data


def _unpacked(body: bytes, wanted: int) -> bytes:
    zstandard = _library("zstd")
    try:
        if zstandard.frame_content_size(body) != wanted:
            raise ValueError(f"holds other than {wanted} bytes")
        data: bytes = zstandard.ZstdDecompressor().decompress(
            body, max_output_size=wanted, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise ValueError(str(error)) from error
    if len(data) != wanted:
        raise ValueError(f"holds other than {wanted} bytes")
    return data


def _photographed(array: NDArray[np.uint8]) -> bytes:
    _library("jpeg")
    image = importlib.import_module("PIL.Image")
    pixels = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    out = io.BytesIO()
    image.fromarray(np.ascontiguousarray(pixels)).save(out, "JPEG", quality=_QUALITY, subsampling=0)
    return out.getvalue()


def _developed(body: bytes, shape: tuple[int, ...]) -> NDArray[Any]:
    """Decode a JPEG whose header says what is wanted.

    Of one scan only: each further one would cost the time of all pixels for a few bytes.
    And without Exif data, a format of its own that the library would look into.
    """
    plugin = _library("jpeg")
    if body.count(_SCAN) != 1:
        raise ValueError("not of one scan")
    if _EXIF in body:
        raise ValueError("with Exif data, which nobody needs to parse")
    mode = "RGB" if shape[2:] == (3,) else "L"
    try:
        image = plugin.JpegImageFile(io.BytesIO(body))  # not `open`, which guesses at formats
        if (image.mode, image.size) != (mode, (shape[1], shape[0])):
            raise ValueError(f"a {image.mode} image of {image.size} for {shape}")
        pixels = np.array(image)
    except (OSError, SyntaxError) as error:
        raise ValueError(str(error)) from error
    return pixels.reshape(shape)
