"""Makes features.npz: what the libraries of training pipelines make of one second of sound.

Each library that is installed writes its own members; those of the others stay. So it is run once
in an environment with librosa and torchaudio, and once in one with TensorFlow:

    python tests/recorded/audio/features.py

``sound`` (16000,) int16 at 16 kHz is a rising tone with overtones and noise, silent at its end.
``by`` says which versions made it. Every pipeline is named and written out below; the test has the
same as [input.audio] of a manifest.
"""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).with_suffix(".npz")
RATE_HZ = 16000
Made = dict[str, NDArray[Any]]


def sound() -> NDArray[np.int16]:
    """Return one second of sound: 0.9 s of it, and then silence."""
    time_s = np.arange(RATE_HZ) / RATE_HZ
    phase = 2 * np.pi * (180 * time_s + 900 * time_s**2)
    tone = 0.5 * np.sin(phase) + 0.2 * np.sin(3 * phase + 0.4) + 0.1 * np.cos(7 * phase)
    noise = np.random.default_rng(11).normal(0, 0.01, RATE_HZ)
    loud = np.where(time_s < 0.9, (tone + noise) * np.exp(-2 * time_s) + 0.003, 0)
    return np.round(loud * 30000).astype(np.int16)


def by_tensorflow(samples: NDArray[np.int16]) -> Made:
    """MLPerf Tiny's keyword spotting: training/keyword_spotting/get_dataset.py, "mfcc"."""
    tf: Any = import_module("tensorflow")

    wave = tf.cast(samples, tf.float32)
    wave /= tf.reduce_max(wave)
    spectra = tf.abs(
        tf.signal.stft(
            wave,
            frame_length=480,
            frame_step=320,
            fft_length=None,
            window_fn=tf.signal.hann_window,
        )
    )
    weights = tf.signal.linear_to_mel_weight_matrix(40, spectra.shape[-1], RATE_HZ, 20.0, 4000.0)
    mels = tf.math.log(tf.tensordot(spectra, weights, 1) + 1e-6)
    mfcc = tf.signal.mfccs_from_log_mel_spectrograms(mels)[..., :10]
    return {"tensorflow_kws": mfcc.numpy(), "by_tensorflow": np.array(tf.__version__)}


def by_librosa(samples: NDArray[np.int16]) -> Made:
    """Librosa's MFCC as it comes, and a log-mel spectrogram of other settings."""
    librosa: Any = import_module("librosa")

    wave = samples.astype(np.float32) / 32768
    mfcc = librosa.feature.mfcc(y=wave, sr=RATE_HZ, n_mfcc=13, n_fft=512, hop_length=160, n_mels=40)
    mels = librosa.feature.melspectrogram(
        y=wave,
        sr=RATE_HZ,
        n_fft=512,
        win_length=400,
        hop_length=320,
        window="hamming",
        center=False,
        power=1.0,
        n_mels=32,
        fmin=100.0,
        fmax=7000.0,
        htk=True,
        norm=None,
    )
    return {
        "librosa_mfcc": mfcc.T,
        "librosa_logmel": np.log(mels + 1e-3).T,
        "by_librosa": np.array(librosa.__version__),
    }


def by_torchaudio(samples: NDArray[np.int16]) -> Made:
    """The MFCC of torchaudio, and the logarithm of its mel spectrogram as Whisper bounds it."""
    torch: Any = import_module("torch")
    torchaudio: Any = import_module("torchaudio")

    wave = torch.from_numpy(samples.astype(np.float32) / 32768)
    mel = {"n_fft": 400, "hop_length": 160, "n_mels": 23}
    mfcc = torchaudio.transforms.MFCC(RATE_HZ, n_mfcc=20, melkwargs=mel)(wave)
    slaney = torchaudio.transforms.MelSpectrogram(
        RATE_HZ, n_fft=400, hop_length=160, n_mels=24, norm="slaney", mel_scale="slaney"
    )
    mels = slaney(wave).clamp(min=1e-10).log10()
    mels = torch.maximum(mels, mels.max() - 8.0)
    return {
        "torchaudio_mfcc": mfcc.numpy().T,
        "torchaudio_logmel": mels.numpy().T,
        "by_torchaudio": np.array(torchaudio.__version__),
    }


def main() -> None:
    """Write the members of the libraries that are installed."""
    made: Made = dict(np.load(FILE)) if FILE.exists() else {}
    made["sound"] = sound()
    for library, make in (
        ("tensorflow", by_tensorflow),
        ("librosa", by_librosa),
        ("torchaudio", by_torchaudio),
    ):
        if find_spec(library) is not None:
            made |= make(made["sound"])
    np.savez_compressed(FILE, **made)  # type: ignore[arg-type]
    sys.stdout.write(f"{FILE.name}: {', '.join(sorted(made))}\n")


if __name__ == "__main__":
    main()
