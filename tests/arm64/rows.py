"""The rows that the ready-made models are given: thinned real data, as their makers fed them."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

COUNT = 100  # of each data set

_KEYWORDS = (0.5847029089927673, 83)  # scale and zero point in which the keywords are stored


class Rows(NamedTuple):
    """Rows (n, …) float32 for some models, and the right labels (n,) where there are any."""

    models: tuple[str, ...]
    x: NDArray[np.float32]
    y: NDArray[np.integer[Any]] | None


def load(data: Path) -> list[Rows]:
    """Return the rows for each of the models, from the folder of the data sets."""
    images, classes = _images(data / "cifar10_jpeg" / "cifar10_test_half.npz")
    words, keywords = _thinned(data / "kws12" / "kws12_mfcc_int8.npz")
    digits, figures = _thinned(data / "mnist" / "mnist_test.npz")
    scale, zero_point = _KEYWORDS
    spoken = ((words[..., None].astype(np.float32) - zero_point) * scale).astype(np.float32)
    large = (images[::4].repeat(3, axis=1).repeat(3, axis=2) / 255).astype(np.float32)  # nobody
    noise = np.random.default_rng(4).normal(-20.0, 15.0, (COUNT, 640)).astype(np.float32)
    return [
        Rows(_both("mlperf_tiny_kws_dscnn"), spoken, keywords),
        Rows(_both("mlperf_tiny_ic_resnet8"), images, classes),
        Rows(_both("mlperf_tiny_ic_resnet_large"), images, classes),
        Rows(_both("tflm_mnist_lstm"), (digits / 255).astype(np.float32), figures),
        Rows(_both("mlperf_tiny_vww_mobilenet96"), large, None),
        Rows(_both("mlperf_tiny_ad_autoencoder"), noise, None),
    ]


def _both(name: str) -> tuple[str, str]:
    return f"{name}_float.tflite", f"{name}_int8.tflite"


def _thinned(file: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    with np.load(file, allow_pickle=False) as arrays:
        x, y = arrays["X"], arrays["y"]
    step = len(x) // COUNT
    return x[::step][:COUNT], y[::step][:COUNT]


def _images(file: Path) -> tuple[NDArray[np.float32], NDArray[Any]]:
    """Return images (n, 32, 32, 3), 0 … 255, and their classes."""
    from PIL import Image  # noqa: PLC0415 -- of an extra

    with np.load(file, allow_pickle=False) as arrays:
        jpeg, offset, y = arrays["jpeg"], arrays["offset"], arrays["y"]
    chosen = range(0, len(y), len(y) // COUNT)[:COUNT]
    found = [
        np.asarray(Image.open(io.BytesIO(jpeg[offset[row] : offset[row + 1]].tobytes())))
        for row in chosen
    ]
    return np.stack(found).astype(np.float32), y[list(chosen)]
