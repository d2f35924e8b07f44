"""A picture as the bytes of a PNG, for a page that holds its pictures itself."""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_COLOURS = {1: 0, 3: 2, 4: 6}  # channels: PNG's colour type


def png(picture: NDArray[np.uint8]) -> bytes:
    """Return ``picture`` (H, W, C) uint8, C 1 (grey), 3 (RGB) or 4 (RGBA), as PNG (RFC 2083)."""
    height, width, channels = picture.shape
    header = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[channels], 0, 0, 0)
    lines = np.zeros((height, 1 + width * channels), np.uint8)  # each begins with filter 0
    lines[:, 1:] = picture.reshape(height, -1)
    parts = (b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 9)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(*part) for part in parts)


def _chunk(kind: bytes, data: bytes) -> bytes:
    checked = kind + data
    return struct.pack(">I", len(data)) + checked + struct.pack(">I", zlib.crc32(checked))


def visible(sample: NDArray[Any], *, layout: str | None, most: int = 128) -> NDArray[np.uint8]:
    """Return an image sample as (H, W, 1 or 3) uint8, no more than about ``most`` on a side.

    Floats and other integers are stretched from their least to their greatest value.
    """
    rows = sample[..., None] if sample.ndim == 2 else sample
    rows = np.moveaxis(rows, 0, -1) if layout == "CHW" and sample.ndim == 3 else rows
    step = -(-max(rows.shape[:2]) // most)
    rows = rows[::step, ::step]
    rows = rows if rows.shape[2] in {1, 3} else rows.mean(axis=2, keepdims=True)
    if rows.dtype == np.uint8:
        return np.ascontiguousarray(rows)
    wide = rows.astype(np.float64)
    low, span = wide.min(), np.ptp(wide) or 1.0
    stretched: NDArray[np.uint8] = np.rint((wide - low) / span * 255).astype(np.uint8)
    return stretched
