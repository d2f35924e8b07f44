"""Sound at one sample rate as sound at another: a low-pass filter, taken at every phase.

What `scipy.signal.resample_poly` does (upsample, filter, downsample), without SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray

from ..errors import DataError, MissingExtraError
from ..manifest import AudioInput

Floats = NDArray[np.float32]
Resample = Callable[[Floats], Floats]

_MOST = 1 << 16  # of the ratio's two figures: a filter of 1.3 million taps
_BLOCK = 32  # outputs of one matrix product


def source_samples(samples: int, *, rate_hz: float, source_hz: float) -> int:
    """Return how many samples at ``source_hz`` become at least ``samples`` at ``rate_hz``.

    Where it is no whole number, the window is rounded up, and the rest of a sample that is too
    much is cut off once it is resampled.

    Example:
        >>> source_samples(16000, rate_hz=16000, source_hz=44100)
        44100
    """
    return math.ceil(samples * Fraction(source_hz) / Fraction(rate_hz))


def resampler(audio: AudioInput, *, source_hz: float) -> Resample:
    """Return what takes a window (n,) at ``source_hz`` to (audio.samples,) at the bundle's rate.

    Raises:
        DataError: the rates have no ratio of small figures.
    """
    if source_hz == audio.sample_rate_hz:
        return lambda window: window
    if audio.resample == "soxr":
        return _soxr(audio, source_hz)
    ratio = check_rate(audio, source_hz=source_hz)
    return Polyphase(ratio.numerator, ratio.denominator, samples=audio.samples)


def check_rate(audio: AudioInput, *, source_hz: float) -> Fraction:
    """Return the bundle's rate as a multiple of ``source_hz``.

    Raises:
        DataError: the manifest's way of resampling cannot go from one to the other.
    """
    ratio = Fraction(audio.sample_rate_hz) / Fraction(source_hz)
    if audio.resample == "polyphase" and max(ratio.numerator, ratio.denominator) > _MOST:
        raise DataError(
            f"{source_hz:g} Hz is in no small ratio to the bundle's {audio.sample_rate_hz:g} Hz",
            hint="take another rate, or resample = 'soxr' in the manifest",
        )
    return ratio


def _soxr(audio: AudioInput, source_hz: float) -> Resample:
    resample = soxr_resample()

    def resampled(window: Floats) -> Floats:
        found = resample(window, source_hz, audio.sample_rate_hz)
        return fitted(found, audio.samples)

    return resampled


def soxr_resample() -> Callable[[Floats, float, float], Floats]:
    """Return soxr's one-shot resampling, in its default quality, HQ.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        import soxr  # noqa: PLC0415 -- an extra
    except ImportError as error:
        raise MissingExtraError("soxr", extra="audio") from error
    found: Callable[[Floats, float, float], Floats] = soxr.resample
    return found


def fitted(window: Floats, samples: int) -> Floats:
    """Return ``window`` cut to ``samples``, or filled up with silence."""
    if len(window) >= samples:
        return window[:samples]
    return np.pad(window, (0, samples - len(window)))


def low_pass(up: int, down: int) -> NDArray[np.float64]:
    """Return the taps of `scipy.signal.resample_poly`: a windowed sinc, Kaiser with beta 5.

    20 max(up, down) + 1 of them, symmetric, cut off at the lower of the two Nyquist rates, with
    the gain ``up`` at 0 Hz.
    """
    widest = max(up, down)
    half = 10 * widest
    places = np.arange(-half, half + 1)
    taps: NDArray[np.float64] = np.sinc(places / widest) * np.kaiser(2 * half + 1, 5.0)
    taps *= up / taps.sum()
    return taps


class Polyphase:
    """Resamples windows by ``up / down``; of each, the first ``samples`` are returned.

    Output m is ``sum_k taps[k] * x[(m * down + half - k) / up]`` over the k for which that is a
    whole number. What the outputs of one block need lies close together, so a block is a product
    with a small matrix, which the blocks ``up`` outputs later share.
    """

    def __init__(self, up: int, down: int, *, samples: int) -> None:
        times = -(-_BLOCK // up)  # a period of at least one whole block
        self._samples = samples
        self._outputs, self._inputs = up * times, down * times
        self._periods = -(-samples // self._outputs)
        taps = low_pass(up, down)
        half = len(taps) // 2
        self._before = half // up
        self._blocks = [
            _block(taps, up=up, down=down, first=first, outputs=min(_BLOCK, self._outputs - first))
            for first in range(0, self._outputs, _BLOCK)
        ]
        last, matrix = self._blocks[-1]
        self._needed = self._before + (self._periods - 1) * self._inputs + last + len(matrix)

    def __call__(self, window: Floats) -> Floats:
        """Return ``window`` (n,) resampled: (samples,), silence before it and behind it."""
        sound = np.zeros(max(self._needed, self._before + len(window)), np.float32)
        sound[self._before : self._before + len(window)] = window
        resampled = np.empty((self._periods, self._outputs), np.float32)
        first = 0
        for begin, matrix in self._blocks:
            rows = as_strided(
                sound[self._before + begin :],
                (self._periods, len(matrix)),
                (self._inputs * sound.itemsize, sound.itemsize),
            )
            end = first + matrix.shape[1]
            np.matmul(np.ascontiguousarray(rows), matrix, out=resampled[:, first:end])
            first = end
        return resampled.reshape(-1)[: self._samples]


def _block(
    taps: NDArray[np.float64], *, up: int, down: int, first: int, outputs: int
) -> tuple[int, Floats]:
    """Return where the inputs of outputs ``first`` and following begin, and their matrix.

    The matrix is (inputs, outputs): the weight of each input in each output.
    """
    half = len(taps) // 2
    wanted = np.arange(first, first + outputs) * down
    begin = -((half - wanted[0]) // up)  # the first input that any tap reaches
    end = (wanted[-1] + half) // up + 1
    places = wanted[None, :] + half - np.arange(begin, end)[:, None] * up
    inside = (places >= 0) & (places < len(taps))
    return int(begin), np.where(inside, taps[np.where(inside, places, 0)], 0).astype(np.float32)
