"""Sound as a model's input: held against the libraries of training pipelines."""

from __future__ import annotations

import importlib.util
import os
import re
import wave
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import pytest
import scipy.fft
import scipy.signal
from numpy.typing import NDArray

from hedge.models.errors import BundleError, DataError
from hedge.models.inputs.audio import audio_preprocessor, audio_problems
from hedge.models.inputs.mel import dct, hz, mel, triangles
from hedge.models.inputs.preprocess import preprocessor
from hedge.models.inputs.resampling import low_pass, resampler, source_samples
from hedge.models.manifest import AudioInput, Input
from hedge.models.toml import parse_toml, to_record

RECORDED = Path(__file__).parent / "recorded" / "audio" / "features.npz"
SECOND: dict[str, Any] = {"sample_rate_hz": 16000, "samples": 16000}
KWS: dict[str, Any] = {
    **SECOND,
    "gain": "max",
    "features": "mfcc",
    "frame": 480,
    "frame_hop": 320,
    "fft": 512,
    "power": 1,
    "mels": 40,
    "low_hz": 20.0,
    "high_hz": 4000.0,
    "mel_scale": "htk",
    "mel_slope": "mel",
    "mel_norm": "none",
    "floor": 1e-6,
    "floor_by": "sum",
    "coefficients": 10,
    "dct": "htk",
}
LIBROSA_MFCC: dict[str, Any] = {
    **SECOND,
    "features": "mfcc",
    "frame": 512,
    "frame_hop": 160,
    "fft": 512,
    "center": True,
    "pad": "zero",
    "mels": 40,
    "log": "db",
    "log_range": 80.0,
    "coefficients": 13,
}
LIBROSA_LOGMEL: dict[str, Any] = {
    **SECOND,
    "features": "logmel",
    "frame": 400,
    "frame_hop": 320,
    "fft": 512,
    "window": "hamming",
    "align": "middle",
    "power": 1,
    "mels": 32,
    "low_hz": 100.0,
    "high_hz": 7000.0,
    "mel_scale": "htk",
    "mel_norm": "none",
    "floor": 1e-3,
    "floor_by": "sum",
}
TORCHAUDIO_MFCC: dict[str, Any] = {
    **SECOND,
    "features": "mfcc",
    "frame": 400,
    "frame_hop": 160,
    "fft": 400,
    "center": True,
    "mels": 23,
    "mel_scale": "htk",
    "mel_norm": "none",
    "log": "db",
    "log_range": 80.0,
    "coefficients": 20,
}
TORCHAUDIO_LOGMEL: dict[str, Any] = {
    **SECOND,
    "features": "logmel",
    "frame": 400,
    "frame_hop": 160,
    "fft": 400,
    "center": True,
    "mels": 24,
    "log": "log10",
    "log_range": 8.0,
}


def made(shape: tuple[int, ...], audio: dict[str, Any], **more: object) -> Input:
    plain = Input(kind="audio", shape=shape, dtype="float32", audio=AudioInput(**audio))
    return msgspec.structs.replace(plain, **more)


def sample(spec: Input, sound: NDArray[Any], rate_hz: float = 16000) -> NDArray[Any]:
    preprocess = preprocessor(spec, read=lambda name: name.encode(), where="manifest.toml")
    return preprocess(sound, {"sample_rate_hz": rate_hz})


def noise(count: int, seed: int = 3) -> NDArray[np.float32]:
    rng = np.random.default_rng(seed)
    tone = np.sin(np.arange(count) * 0.031) * np.linspace(0.1, 0.6, count)
    sound: NDArray[np.float32] = (tone + rng.normal(0, 0.1, count)).astype(np.float32)
    return sound


@pytest.mark.parametrize(
    ("member", "shape", "audio"),
    [
        ("tensorflow_kws", (49, 10), KWS),
        ("librosa_mfcc", (101, 13), LIBROSA_MFCC),
        ("librosa_logmel", (49, 32), LIBROSA_LOGMEL),
        ("torchaudio_mfcc", (101, 20), TORCHAUDIO_MFCC),
        ("torchaudio_logmel", (101, 24), TORCHAUDIO_LOGMEL),
    ],
)
def test_features_are_those_that_the_training_pipelines_make(
    member: str, shape: tuple[int, ...], audio: dict[str, Any]
) -> None:
    with np.load(RECORDED) as recorded:
        sound, wanted = recorded["sound"], recorded[member]
    found = sample(made(shape, audio), sound.astype(np.float32) / 32768)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=5e-4)


def test_features_are_those_of_the_librosa_that_is_installed() -> None:
    librosa = pytest.importorskip("librosa", reason="librosa is not installed")
    sound = noise(16000, seed=8)
    mfcc = librosa.feature.mfcc(y=sound, sr=16000, n_mfcc=13, n_fft=512, hop_length=160, n_mels=40)
    found = sample(made((101, 13), LIBROSA_MFCC), sound)
    np.testing.assert_allclose(found, mfcc.T, rtol=1e-5, atol=5e-4)


def test_the_log_mels_of_the_environmental_sounds_can_be_declared() -> None:
    esc10 = {
        "sample_rate_hz": 16000,
        "samples": 80000,
        "features": "logmel",
        "frame": 400,
        "frame_hop": 320,
        "fft": 512,
        "mels": 64,
        "low_hz": 50.0,
        "high_hz": 8000.0,
        "mel_scale": "htk",
        "mel_norm": "none",
        "log": "db",
        "floor_by": "sum",
    }
    sound = noise(220500)
    found = sample(made((249, 64), esc10, dtype="float16"), sound, 44100)
    at_16_khz = scipy.signal.resample_poly(sound.astype(np.float64), 160, 441)
    frames = np.stack([at_16_khz[320 * t : 320 * t + 400] for t in range(249)])
    power = np.abs(scipy.fft.rfft(frames * scipy.signal.get_window("hann", 400), 512)) ** 2
    tops = np.linspace(2595 * np.log10(1 + 50 / 700), 2595 * np.log10(1 + 8000 / 700), 66)
    corners = 700 * (10 ** (tops / 2595) - 1)
    bins = np.arange(257) * 16000 / 512
    mels = [
        power @ np.interp(bins, corners[m : m + 3], [0, 1, 0], left=0, right=0) for m in range(64)
    ]
    wanted = 10 * np.log10(np.stack(mels, axis=1) + 1e-10)
    assert found.dtype == np.float16
    np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("source_hz", "rate_hz"),
    [
        (44100, 16000),
        (48000, 16000),
        (8000, 16000),
        (16000, 44100),
        (22050, 8000),
        (11025, 16000),
        (15999, 16000),
        (96000, 500),
    ],
)
def test_other_rates_are_resampled_as_scipy_does(source_hz: int, rate_hz: int) -> None:
    audio = AudioInput(sample_rate_hz=rate_hz, samples=rate_hz // 4)
    count = source_samples(audio.samples, rate_hz=rate_hz, source_hz=source_hz)
    sound = noise(count)
    found = resampler(audio, source_hz=source_hz)(sound)
    common = np.gcd(source_hz, rate_hz)
    wanted = scipy.signal.resample_poly(
        sound.astype(np.float64), rate_hz // common, source_hz // common
    )
    assert len(wanted) >= len(found) == audio.samples
    np.testing.assert_allclose(found, wanted[: len(found)], atol=3e-6)


def test_the_filter_is_the_one_that_scipy_designs() -> None:
    wanted = 3 * scipy.signal.firwin(2 * 70 + 1, 1 / 7, window=("kaiser", 5.0))
    np.testing.assert_allclose(low_pass(3, 7), wanted, rtol=1e-12, atol=1e-15)


def test_soxr_resamples_where_the_manifest_says_so() -> None:
    soxr = pytest.importorskip("soxr", reason="soxr is not installed")
    spec = made((16000,), {**SECOND, "resample": "soxr"})
    sound = noise(44100)
    wanted = soxr.resample(sound, 44100, 16000, quality="HQ")
    np.testing.assert_array_equal(sample(spec, sound, 44100), wanted[:16000])


def test_sound_at_the_bundles_rate_stays_as_it_is() -> None:
    sound = noise(16000)
    np.testing.assert_array_equal(sample(made((16000,), SECOND), sound), sound)


def test_a_window_that_is_no_whole_number_of_samples_is_rounded_up_and_cut() -> None:
    assert source_samples(1001, rate_hz=16000, source_hz=8000) == 501
    spec = made((1001,), {"sample_rate_hz": 16000, "samples": 1001})
    sound = noise(501)
    wanted = scipy.signal.resample_poly(sound.astype(np.float64), 2, 1)
    np.testing.assert_allclose(sample(spec, sound, 8000), wanted[:1001], atol=3e-6)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_mel_and_hertz_are_each_others_inverse(scale: Literal["htk", "slaney"]) -> None:
    frequencies = np.array([0.0, 66.0, 999.0, 1000.0, 1001.0, 7654.0])
    np.testing.assert_allclose(hz(mel(frequencies, scale=scale), scale=scale), frequencies)


def test_slaneys_triangles_have_the_area_1() -> None:
    weights = triangles(
        20,
        rate_hz=16000,
        fft=8192,
        low_hz=300.0,
        high_hz=8000.0,
        scale="slaney",
        slope="hz",
        norm="slaney",
    )
    np.testing.assert_allclose(weights.sum(axis=0) * 16000 / 8192, 1, rtol=1e-3)


def test_the_cosine_transform_is_scipys_orthonormal_one() -> None:
    x = np.random.default_rng(4).normal(size=(5, 23))
    wanted = scipy.fft.dct(x, type=2, norm="ortho", axis=1)[:, :9]
    np.testing.assert_allclose(x @ dct(9, mels=23, form="ortho"), wanted, atol=1e-12)


def test_the_axes_are_swapped_and_extents_of_1_added_as_the_shape_says() -> None:
    sound = noise(16000)
    plain = sample(made((49, 32), LIBROSA_LOGMEL), sound)
    turned = sample(made((1, 32, 49), LIBROSA_LOGMEL, layout="FT"), sound)
    np.testing.assert_array_equal(turned[0], plain.T)
    assert sample(made((49, 32, 1), LIBROSA_LOGMEL), sound).shape == (49, 32, 1)


def test_an_integer_sample_stands_for_the_number_that_it_is_nearest_to() -> None:
    sound = noise(16000)
    plain = sample(made((49, 10), KWS), sound)
    stored = sample(made((49, 10), KWS, dtype="int8", scale=0.5847, offset=83.0), sound)
    assert stored.dtype == np.int8
    meant = (stored.astype(np.float64) - 83) * 0.5847
    inside = (stored > -128) & (stored < 127)
    assert inside.mean() > 0.9
    np.testing.assert_allclose(meant[inside], plain[inside], atol=0.5847 / 2 + 1e-4)


def test_bare_samples_can_be_the_16_bits_that_were_recorded() -> None:
    recorded = np.random.default_rng(2).integers(-32768, 32768, 16000).astype(np.int16)
    spec = made((16000,), SECOND, dtype="int16", scale=1 / 32768)
    found = sample(spec, recorded.astype(np.float32) / 32768)
    np.testing.assert_array_equal(found, recorded)


@pytest.mark.parametrize(("gain", "greatest"), [("max", 0.25), ("peak", 0.5), ("none", 1.0)])
def test_the_gain_divides_by_the_greatest_sample(gain: str, greatest: float) -> None:
    sound = np.tile(np.array([0.25, -0.5, 0.125, 0.0], np.float32), 4000)
    found = sample(made((16000,), {**SECOND, "gain": gain}), sound)
    np.testing.assert_allclose(found, sound / greatest)


@pytest.mark.parametrize("gain", ["max", "peak"])
def test_silence_gets_no_gain_and_the_logarithm_of_the_floor(gain: str) -> None:
    silence = np.zeros(16000, np.float32)
    found = sample(made((49, 10), {**KWS, "gain": gain}), silence)
    np.testing.assert_allclose(found[:, 0], np.log(1e-6) * np.sqrt(2 * 40), rtol=1e-6)
    np.testing.assert_allclose(found[:, 1:], 0, atol=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 3e38])
def test_sound_that_is_no_number_is_no_sample(bad: float) -> None:
    sound = noise(16000)
    sound[777] = bad
    with pytest.raises(DataError, match="not finite"):
        sample(made((101, 13), LIBROSA_MFCC), sound)


@pytest.mark.parametrize(
    ("sound", "meta", "match"),
    [
        (noise(15999), {"sample_rate_hz": 16000}, r"takes \(16000,\)"),
        (noise(16000), {"sample_rate_hz": 8000}, r"takes \(8000,\)"),
        (noise(32000).reshape(-1, 2), {"sample_rate_hz": 16000}, r"shape \(16000, 2\)"),
        (noise(16000), {}, "sample rate of None"),
        (noise(16000), {"sample_rate_hz": float("nan")}, "sample rate of nan"),
        (noise(99991), {"sample_rate_hz": 99991}, "no small ratio"),
    ],
)
def test_a_window_that_cannot_be_used_is_refused_in_one_line(
    sound: NDArray[Any], meta: dict[str, Any], match: str
) -> None:
    preprocess = audio_preprocessor(made((16000,), SECOND), where="manifest.toml")
    with pytest.raises(DataError, match=match) as caught:
        preprocess(sound, meta)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changed", "key"),
    [
        ({"fft": 400}, "fft"),
        ({"samples": 300}, "frame"),
        ({"samples": 1 << 25}, "samples"),
        ({"samples": 1 << 22, "frame_hop": 1}, "frame_hop"),
        ({"samples": 256, "center": True}, "center"),
        ({"high_hz": 8001.0}, "high_hz"),
        ({"low_hz": 4000.0}, "low_hz"),
        ({"coefficients": 41}, "coefficients"),
        ({"coefficients": None}, "coefficients"),
        ({"mels": None}, "mels"),
        ({"mels": 1 << 20}, "mels"),
        ({"floor": 1e-50}, "floor"),
        ({"features": "logmel"}, "coefficients"),
        ({"features": "none"}, "frame"),
    ],
)
def test_what_cannot_be_is_told_by_its_key(changed: dict[str, Any], key: str) -> None:
    spec = made((49, 10), {**KWS, **changed})
    assert f"$.input.audio.{key}" in [found for found, _ in audio_problems(spec)]
    with pytest.raises(BundleError, match=r"^manifest\.toml: \$\.input\."):
        audio_preprocessor(spec, where="manifest.toml")


@pytest.mark.parametrize(
    ("shape", "more", "key"),
    [
        ((49, 11), {}, "shape"),
        ((10, 49), {}, "shape"),
        ((490,), {}, "shape"),
        ((49, 10), {"layout": "FT"}, "shape"),
        ((49, 10), {"layout": "HWC"}, "layout"),
        ((49, 10), {"dtype": "int8"}, "scale"),
        ((49, 10), {"scale": (1.0, 2.0)}, "scale"),
    ],
)
def test_the_input_has_to_agree_with_its_sound(
    shape: tuple[int, ...], more: dict[str, Any], key: str
) -> None:
    assert [found for found, _ in audio_problems(made(shape, KWS, **more))] == [f"$.input.{key}"]
    assert not list(audio_problems(made((49, 10), KWS)))


def keyword(name: str, precision: str) -> str:
    """Return what MLPerf Tiny's model hears in one of TensorFlow's test recordings."""
    litert = pytest.importorskip(
        "ai_edge_litert.interpreter", reason="ai-edge-litert is not installed"
    )
    place = os.environ.get("HEDGE_DATA")
    if not place:
        pytest.skip("HEDGE_DATA does not say where the recordings are")
    models = Path(place) / "models"
    with wave.open(str(models / "test_inputs" / f"{name}_1000ms.wav")) as file:
        assert file.getframerate() == 16000
        sound = np.frombuffer(file.readframes(16000), "<i2").astype(np.float32) / 32768
    model = litert.Interpreter(str(models / f"mlperf_tiny_kws_dscnn_{precision}.tflite"))
    model.allocate_tensors()
    takes, gives = model.get_input_details()[0], model.get_output_details()[0]
    bytes_of = {"dtype": "int8", "scale": 0.5847029089927673, "offset": 83.0}
    spec = made((49, 10, 1), KWS, **(bytes_of if precision == "int8" else {}))
    model.set_tensor(takes["index"], sample(spec, sound)[None])
    model.invoke()
    with np.load(Path(place) / "kws12" / "kws12_mfcc_int8.npz") as found:
        labels = found["label_names"].tolist()
    return str(labels[int(model.get_tensor(gives["index"]).argmax())])


@pytest.mark.parametrize("precision", ["float", "int8"])
@pytest.mark.parametrize(
    ("name", "heard"),
    [("yes", "yes"), ("silence", "silence"), ("no", "go")],  # as from TensorFlow's features
)
def test_a_ready_made_keyword_model_hears_what_was_said(
    name: str, heard: str, precision: str
) -> None:
    assert keyword(name, precision) == heard


def test_the_recorded_features_can_be_made_again() -> None:
    maker = Path(RECORDED).with_suffix(".py")
    described = importlib.util.spec_from_file_location("recorded_features", maker)
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    with np.load(RECORDED) as recorded:
        np.testing.assert_array_equal(recorded["sound"], module.sound())
        assert str(recorded["by_librosa"]) == "0.11.0"
    assert RECORDED.stat().st_size < 100_000


def test_the_pipelines_of_the_documentation_are_those_that_are_tested() -> None:
    page = Path(__file__).parents[1] / "docs" / "sources-audio.md"
    blocks = re.findall(r"```toml\n(# manifest.toml.*?)```", page.read_text("utf-8"), re.DOTALL)
    tables = [parse_toml(one.encode(), where=page.name, error=BundleError) for one in blocks]
    inputs = [to_record(one["input"], Input, where="", error=BundleError) for one in tables]
    assert [list(audio_problems(one)) for one in inputs] == [[], [], []]
    tested = ({**KWS, "hop": 4000}, LIBROSA_MFCC, TORCHAUDIO_MFCC)
    assert [one.audio for one in inputs] == [AudioInput(**one) for one in tested]
