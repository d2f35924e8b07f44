"""From a window of sound to a sample: resampled, then as it is, log-mel or MFCC."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from ..errors import BundleError, DataError
from ..manifest import AudioInput, Input
from .mel import dct, triangles
from .preprocess import Preprocess
from .resampling import Resample, fitted, resampler, source_samples, soxr_resample

Floats = NDArray[np.float32]
Step = Callable[[Floats], Floats]

_FEATURES = ("frame", "frame_hop", "fft", "mels")
_LONGEST = 1 << 24  # samples of a window: a quarter of an hour at 16 kHz
_LARGEST = 1 << 26  # values of one window's frames, or of the mel matrix
_RATES = 4  # of sources, whose filters are kept
_LOGS: dict[str, tuple[Callable[..., Any], float]] = {
    "ln": (np.log, 1.0),
    "log10": (np.log10, 1.0),
    "db": (np.log10, 10.0),
}


def audio_preprocessor(spec: Input, *, where: str) -> Preprocess:
    """Return what makes a sample of a window (n,) float32 at the ``sample_rate_hz`` of its meta.

    A window has `source_samples` samples; one that is shorter or longer is no window.

    Raises:
        BundleError: the manifest contradicts itself.
        MissingExtraError: it wants soxr, which is not installed.
    """
    for key, what in audio_problems(spec):
        raise BundleError(what, where=f"{where}: {key}")
    audio = spec.audio
    if audio is None:
        raise BundleError("no [input.audio]", where=where)
    if audio.resample == "soxr":
        soxr_resample()  # missing, it is found out now

    @lru_cache(_RATES)
    def resampling(source_hz: float) -> tuple[int, Resample]:
        samples = source_samples(audio.samples, rate_hz=audio.sample_rate_hz, source_hz=source_hz)
        return samples, resampler(audio, source_hz=source_hz)

    gain, features, stored = _gain(audio), _features(audio), _stored(spec)

    def preprocess(data: NDArray[Any], meta: Mapping[str, Any]) -> NDArray[Any]:
        wanted, resample = resampling(_rate_hz(meta))
        if data.shape != (wanted,):
            raise DataError(f"a window of shape {data.shape}; the bundle takes ({wanted},)")
        with np.errstate(over="ignore", invalid="ignore"):  # told below, by what comes out
            found = features(gain(resample(data.astype(np.float32, copy=False))))
        if not np.isfinite(found).all():
            raise DataError("the sound has values that are not finite, or far beyond [-1, 1)")
        return stored(found)

    return preprocess


def audio_problems(spec: Input) -> Iterator[tuple[str, str]]:
    """Yield what cannot be in an input of sound: the manifest's key, and what is wrong there."""
    audio = spec.audio
    if audio is None:
        return
    at = "$.input.audio"
    if audio.samples > _LONGEST:
        yield f"{at}.samples", f"{audio.samples} is beyond {_LONGEST}"
    if np.dtype(spec.dtype).kind in "iu" and spec.scale is None:
        yield "$.input.scale", f"missing: what does an {spec.dtype} stand for?"
    if isinstance(spec.scale, tuple) or isinstance(spec.offset, tuple):
        yield "$.input.scale", "sound has one scale and one offset, not one for each channel"
    if spec.layout not in (None, "TF", "FT"):
        yield "$.input.layout", f"{spec.layout!r} is neither 'TF' nor 'FT'"
    problem = None
    for key, what in _feature_problems(audio):
        problem = key
        yield f"{at}.{key}", what
    if problem is None:
        wanted = _axes(spec, audio)
        if tuple(n for n in spec.shape if n > 1) != tuple(n for n in wanted if n > 1):
            yield "$.input.shape", f"{list(spec.shape)}, but [input.audio] gives {list(wanted)}"


def _feature_problems(audio: AudioInput) -> Iterator[tuple[str, str]]:
    taken = () if audio.features == "none" else _FEATURES
    if audio.features == "mfcc":
        taken = (*taken, "coefficients")
    for name in (*_FEATURES, "coefficients"):
        if name in taken and getattr(audio, name) is None:
            yield name, f"missing: features = {audio.features!r} needs it"
        if name not in taken and getattr(audio, name) is not None:
            yield name, f"has no meaning with features = {audio.features!r}"
    if not taken or any(getattr(audio, name) is None for name in taken):
        return
    yield from _frame_problems(audio)
    yield from _mel_problems(audio)


def _frame_problems(audio: AudioInput) -> Iterator[tuple[str, str]]:
    frame, _, fft, _ = _needed(audio)
    if fft < frame:
        yield "fft", f"{fft} is shorter than the frame of {frame}"
    elif audio.center and audio.pad == "reflect" and fft // 2 >= audio.samples:
        yield "center", f"{audio.samples} samples cannot be reflected by {fft // 2}"
    elif _frames(audio) < 1:
        yield "frame", f"the {audio.samples} samples hold no frame"
    elif _frames(audio) * fft > _LARGEST:
        yield "frame_hop", f"{_frames(audio)} frames of {fft} are beyond {_LARGEST} values"


def _mel_problems(audio: AudioInput) -> Iterator[tuple[str, str]]:
    _, _, fft, mels = _needed(audio)
    high_hz = _high_hz(audio)
    if high_hz > audio.sample_rate_hz / 2:
        yield "high_hz", f"{high_hz:g} is beyond half the sample rate"
    if audio.low_hz >= high_hz:
        yield "low_hz", f"{audio.low_hz:g} is not below high_hz, {high_hz:g}"
    if (fft // 2 + 1) * mels > _LARGEST:
        yield "mels", f"{mels} for {fft // 2 + 1} frequencies are beyond {_LARGEST} weights"
    if audio.coefficients is not None and audio.coefficients > mels:
        yield "coefficients", f"{audio.coefficients} of only {mels} mels"
    if audio.floor < np.finfo(np.float32).tiny:
        yield "floor", f"{audio.floor:g} is nothing to a float32, and has no logarithm"


def _needed(audio: AudioInput) -> tuple[int, int, int, int]:
    """Return frame, frame_hop, fft and mels, which all features have."""
    return audio.frame or 0, audio.frame_hop or 0, audio.fft or 0, audio.mels or 0


def _high_hz(audio: AudioInput) -> float:
    return audio.sample_rate_hz / 2 if audio.high_hz is None else audio.high_hz


def _frames(audio: AudioInput) -> int:
    frame, frame_hop, fft, _ = _needed(audio)
    if audio.center:
        return 1 + (audio.samples + 2 * (fft // 2) - fft) // frame_hop
    return 1 + (audio.samples - (fft if audio.align == "middle" else frame)) // frame_hop


def _axes(spec: Input, audio: AudioInput) -> tuple[int, ...]:
    if audio.features == "none":
        return (audio.samples,)
    last = audio.mels if audio.features == "logmel" else audio.coefficients
    axes = (_frames(audio), last or 0)
    return axes[::-1] if spec.layout == "FT" else axes


def _rate_hz(meta: Mapping[str, Any]) -> float:
    rate_hz = meta.get("sample_rate_hz")
    if not isinstance(rate_hz, int | float) or not 0 < rate_hz <= 1e6:
        raise DataError(f"a sample rate of {rate_hz!r}")
    return rate_hz


def _gain(audio: AudioInput) -> Step:
    if audio.gain == "none":
        return lambda window: window
    magnitude = np.abs if audio.gain == "peak" else np.asarray

    def louder(window: Floats) -> Floats:
        greatest = magnitude(window).max()
        return window if greatest <= 0 else window / greatest

    return louder


def _features(audio: AudioInput) -> Step:
    if audio.features == "none":
        return lambda window: fitted(window, audio.samples)
    power, log = _power(audio), _log(audio)
    _, _, fft, mels = _needed(audio)
    weights = triangles(
        mels,
        rate_hz=audio.sample_rate_hz,
        fft=fft,
        low_hz=audio.low_hz,
        high_hz=_high_hz(audio),
        scale=audio.mel_scale,
        slope=audio.mel_slope,
        norm=audio.mel_norm,
    ).astype(np.float32)
    if audio.coefficients is None:
        return lambda window: log(power(window) @ weights)
    matrix = dct(audio.coefficients, mels=mels, form=audio.dct).astype(np.float32)
    return lambda window: log(power(window) @ weights) @ matrix


def _power(audio: AudioInput) -> Step:
    """Return what takes a window to its frames' power: (frames, fft // 2 + 1)."""
    frame, frame_hop, fft, _ = _needed(audio)
    bell = _window(audio.window, frame)
    half = fft // 2 if audio.center else 0
    first = (fft - frame) // 2 if audio.center or audio.align == "middle" else 0
    mode: Any = "reflect" if audio.pad == "reflect" else "constant"
    frames = _frames(audio)

    def power(window: Floats) -> Floats:
        sound = np.pad(window, half, mode=mode) if half else window
        cut = sliding_window_view(sound[first:], frame)[::frame_hop][:frames]
        spectra = np.fft.rfft(cut * bell, fft)
        energy = np.square(spectra.real) + np.square(spectra.imag)
        if audio.power == 1:
            np.sqrt(energy, out=energy)
        energies: Floats = energy.astype(np.float32, copy=False)
        return energies

    return power


def _window(name: str, frame: int) -> Floats:
    """Return a periodic window (frame,): the cosine sum of its name."""
    middle = {"hann": 0.5, "hamming": 0.54, "boxcar": 1.0}[name]
    angles = np.arange(frame) * (2 * np.pi / frame)
    bell: Floats = (middle - (1 - middle) * np.cos(angles)).astype(np.float32)
    return bell


def _log(audio: AudioInput) -> Step:
    function, factor = _LOGS[audio.log]
    floor, furthest = np.float32(audio.floor), audio.log_range

    def log(energy: Floats) -> Floats:
        above = energy + floor if audio.floor_by == "sum" else np.maximum(energy, floor)
        found: Floats = function(above, out=above)
        found *= np.float32(factor)
        if furthest is not None:
            np.maximum(found, found.max() - np.float32(furthest), out=found)
        return found

    return log


def _stored(spec: Input) -> Callable[[Floats], NDArray[Any]]:
    """Return what takes the numbers to the sample's layout, shape and dtype."""
    dtype = np.dtype(spec.dtype)
    scale = np.float64(spec.scale if isinstance(spec.scale, float | int) else 1.0)
    offset = np.float64(spec.offset if isinstance(spec.offset, float | int) else 0.0)

    def stored(found: Floats) -> NDArray[Any]:
        if spec.layout == "FT":
            found = found.T
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            found = np.clip(np.rint(found / scale + offset), limits.min, limits.max)
        return found.astype(dtype).reshape(spec.shape)

    return stored
