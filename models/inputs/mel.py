"""From the power at each frequency to what an ear tells apart: mel triangles, and their DCT."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Scale = Literal["slaney", "htk"]

_HZ_A_MEL = 200 / 3  # Slaney: straight up to 1 kHz, which is mel 15, then 27 mel for 6.4 times
_KNEE_HZ = 1000.0
_KNEE = 15.0
_STEP = float(np.log(6.4)) / 27


def mel(hz: Floats, *, scale: Scale) -> Floats:
    """Return frequencies in mel.

    "htk" is 2595 log10(1 + f / 700) (the HTK Book, equation 5.13), "slaney" that of Slaney's
    Auditory Toolbox, straight below 1 kHz.

    Example:
        >>> mel(np.array([500.0, 6400.0]), scale="slaney").round(2).tolist()
        [7.5, 42.0]
    """
    if scale == "htk":
        return 2595.0 * np.log10(1.0 + hz / 700.0)
    return np.where(
        hz < _KNEE_HZ, hz / _HZ_A_MEL, _KNEE + np.log(np.maximum(hz, _KNEE_HZ) / _KNEE_HZ) / _STEP
    )


def hz(mels: Floats, *, scale: Scale) -> Floats:
    """Return what is at ``mels`` in Hz: `mel` backwards."""
    if scale == "htk":
        return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    return np.where(
        mels < _KNEE, mels * _HZ_A_MEL, _KNEE_HZ * np.exp(_STEP * (np.maximum(mels, _KNEE) - _KNEE))
    )


def triangles(
    mels: int,
    *,
    rate_hz: float,
    fft: int,
    low_hz: float,
    high_hz: float,
    scale: Scale,
    slope: Literal["hz", "mel"],
    norm: Literal["slaney", "none"],
) -> Floats:
    """Return the weight of each of the fft // 2 + 1 frequencies in each mel: (frequencies, mels).

    The corners of the triangles are evenly spaced in mel, each beginning at the top of the one
    before it. Their sides are straight over Hz, or over mel. "slaney" gives them the area 1 (over
    Hz), else their tops are 1.
    """
    ends = mel(np.array([low_hz, high_hz]), scale=scale)
    corners = np.linspace(ends[0], ends[1], mels + 2)
    bins = np.arange(fft // 2 + 1, dtype=np.float64) * (rate_hz / fft)
    corners_hz = hz(corners, scale=scale)
    over, at = (corners, mel(bins, scale=scale)) if slope == "mel" else (corners_hz, bins)
    away = at[:, None] - over
    rising = away[:, :-2] / np.diff(over)[:-1]
    falling = -away[:, 2:] / np.diff(over)[1:]
    weights: Floats = np.maximum(0.0, np.minimum(rising, falling))
    if norm == "slaney":
        weights *= 2.0 / (corners_hz[2:] - corners_hz[:-2])
    return weights


def dct(coefficients: int, *, mels: int, form: Literal["ortho", "htk"]) -> Floats:
    """Return the matrix (mels, coefficients) of the first ``coefficients`` of a DCT-II.

    Coefficient k is ``sqrt(2 / mels) sum_n x[n] cos(pi k (2 n + 1) / (2 mels))`` (the HTK Book,
    equation 5.14); "ortho" has the first divided by sqrt(2), so that the whole is orthonormal.
    """
    angles = np.outer(np.arange(mels) + 0.5, np.arange(coefficients)) * (np.pi / mels)
    matrix: Floats = np.cos(angles) * np.sqrt(2.0 / mels)
    if form == "ortho":
        matrix[:, 0] /= np.sqrt(2.0)
    return matrix
