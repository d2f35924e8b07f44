"""Sound from files, cut into windows, and the clips that are kept of it."""

from __future__ import annotations

import os
import shutil
import threading
import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import scipy.io.wavfile
import scipy.signal
from numpy.typing import NDArray

from hedge.models.errors import ConfigError, DataError, SourceError
from hedge.models.inputs.preprocess import preprocessor
from hedge.models.manifest import AudioInput, Input
from hedge.runtime.sources.audio.feed import Piece, mono
from hedge.runtime.sources.audio.reader import AudioReader
from hedge.runtime.sources.audio.recording import SoundRecorder
from hedge.runtime.sources.live import Live
from hedge.runtime.sources.options import AudioSource
from hedge.runtime.sources.source import Captured

av = pytest.importorskip("av", reason="PyAV is not installed")
Samples = NDArray[Any]
Eventually = Callable[[Callable[[], bool]], None]


def spec(samples: int = 800, hop: int | None = None, rate_hz: float = 16000) -> Input:
    audio = AudioInput(sample_rate_hz=rate_hz, samples=samples, hop=hop)
    return Input(kind="audio", shape=(samples,), dtype="float32", audio=audio)


def recording(count: int, channels: int = 1, seed: int = 5) -> NDArray[np.int16]:
    """Return (count, channels) of noise, each channel louder than the one before it."""
    rng = np.random.default_rng(seed)
    loud = rng.normal(0, 2000, (count, channels)) * np.arange(1, channels + 1) + 50
    samples: NDArray[np.int16] = np.clip(loud, -32768, 32767).astype(np.int16)
    return samples


def write(path: Path, samples: Samples, rate_hz: int = 16000) -> Path:
    scipy.io.wavfile.write(path, rate_hz, samples)
    return path


def encode(path: Path, samples: NDArray[np.int16], codec: str, rate_hz: int = 16000) -> Path:
    """Write mono sound (n, 1) in another codec."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate_hz, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples.reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = rate_hz
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


def read(reader: AudioReader) -> list[Captured]:
    """Return all windows of a file."""
    found: list[Captured] = []
    reader.open()
    while (some := reader.read()) is not None:
        found += some
    reader.close()
    return found


def of(path: Path, wanted: Input | None = None, **options: object) -> AudioReader:
    source = msgspec.structs.replace(AudioSource(path=path.name), **options)
    return AudioReader(source, wanted or spec(), base=path.parent)


def test_a_file_comes_in_windows_that_overlap_as_the_bundle_says(tmp_path: Path) -> None:
    samples = recording(5000)
    found = read(of(write(tmp_path / "a.wav", samples), spec(800, hop=300)))
    sound = np.append(samples[:, 0].astype(np.float32) / 32768, np.zeros(800, np.float32))
    assert len(found) == 15
    for place, one in enumerate(found):
        np.testing.assert_array_equal(one.data, sound[300 * place : 300 * place + 800])
        assert one.data.dtype == np.float32
        assert one.meta == {"sample_rate_hz": 16000, "file": "a.wav"}


@pytest.mark.parametrize(
    ("count", "hop", "windows"),
    [
        (800, None, 1),
        (801, None, 2),
        (1600, 400, 3),
        (300, None, 1),
        (1000, 2000, 1),
        (2001, 2000, 2),
    ],
)
def test_the_end_of_a_file_is_filled_up_with_silence(
    tmp_path: Path, count: int, hop: int | None, windows: int
) -> None:
    samples = recording(count)
    found = read(of(write(tmp_path / "a.wav", samples), spec(800, hop=hop)))
    assert len(found) == windows
    begin = (windows - 1) * (hop or 800)
    rest = samples[begin : begin + 800, 0] / 32768
    np.testing.assert_allclose(found[-1].data[: len(rest)], rest)
    assert not found[-1].data[len(rest) :].any()


def test_windows_can_begin_at_other_distances_than_the_bundles(tmp_path: Path) -> None:
    samples = recording(1600)
    found = read(of(write(tmp_path / "a.wav", samples), hop_s=0.025))
    assert len(found) == 3
    np.testing.assert_allclose(found[1].data, samples[400:1200, 0] / 32768)


def test_a_file_of_another_rate_becomes_the_bundles_window_by_window(tmp_path: Path) -> None:
    samples = recording(44100)
    wanted = spec(4000, hop=1600)
    found = read(of(write(tmp_path / "a.wav", samples, 44100), wanted))
    assert {one.data.shape for one in found} == {(11025,)}
    assert len(found) == 9
    preprocess = preprocessor(wanted, read=lambda name: name.encode(), where="manifest.toml")
    begin = 3 * 4410
    window = samples[begin : begin + 11025, 0] / 32768
    np.testing.assert_allclose(
        preprocess(found[3].data, found[3].meta or {}),
        scipy.signal.resample_poly(window, 160, 441)[:4000],
        atol=3e-6,
    )


@pytest.mark.parametrize(
    ("dtype", "half", "silence"),
    [(np.int16, 2**15, 0), (np.int32, 2**31, 0), (np.uint8, 2**7, 128), (np.float32, 1, 0)],
)
def test_every_kind_of_sample_becomes_the_same_sound(
    tmp_path: Path, dtype: type[Any], half: int, silence: int
) -> None:
    wanted = recording(800)[:, 0].astype(np.float64) / 2**15
    stored = wanted * half + silence
    rounded = stored if dtype is np.float32 else np.round(stored)
    (found,) = read(of(write(tmp_path / "a.wav", rounded.astype(dtype))))
    np.testing.assert_allclose(found.data, wanted, atol=0.5 / half + 1e-7)


@pytest.mark.parametrize(("name", "codec"), [("a.flac", "flac"), ("a.m4a", "alac")])
def test_other_codecs_are_decoded_to_the_bit(tmp_path: Path, name: str, codec: str) -> None:
    samples = recording(4000)
    found = read(of(encode(tmp_path / name, samples, codec)))
    sound = np.concatenate([one.data for one in found])
    np.testing.assert_array_equal(sound, samples[:, 0].astype(np.float32) / 32768)


def test_of_several_channels_the_mean_is_heard_or_one_of_them(tmp_path: Path) -> None:
    samples = recording(800, channels=3)
    file = write(tmp_path / "a.wav", samples)
    (mean,) = read(of(file))
    np.testing.assert_allclose(mean.data, samples.mean(axis=1) / 32768, atol=1e-6)
    (second,) = read(of(file, channel=1))
    np.testing.assert_array_equal(second.data, samples[:, 1].astype(np.float32) / 32768)


def test_a_mean_of_many_loud_channels_is_exact() -> None:
    loud = np.full((5, 64), 32767, np.int16)
    np.testing.assert_allclose(mono(loud, None), 32767 / 32768, rtol=1e-7)
    wide = np.full((5, 3), 2**31 - 1, np.int32)
    np.testing.assert_allclose(mono(wide, None), 1.0, rtol=1e-7)


def test_a_film_is_heard_without_being_seen(tmp_path: Path) -> None:
    samples = recording(1600)
    encode(tmp_path / "a.mkv", samples, "pcm_s16le")
    assert len(read(of(tmp_path / "a.mkv"))) == 2


def test_in_real_time_a_window_comes_when_its_last_sample_would(tmp_path: Path) -> None:
    clock = [1_000_000_000]

    def now() -> int:
        clock[0] += 1_000_000  # a millisecond a look
        return clock[0]

    file = write(tmp_path / "a.wav", recording(4000))
    source = AudioSource(path=file.name, realtime=True)
    reader = AudioReader(source, spec(800), base=tmp_path, clock=now)
    reader.open()
    began_ns = clock[0]
    found: list[Captured] = []
    while (some := reader.read()) is not None:
        assert all(one.taken_at_ns <= clock[0] + 250_000_000 for one in some)
        found += some
    times_ns = np.array([one.taken_at_ns for one in found]) - began_ns
    np.testing.assert_allclose(times_ns, np.arange(1, 6) * 50_000_000, atol=3_000_000)


def test_a_file_is_read_to_its_end_by_a_live_source(tmp_path: Path, eventually: Eventually) -> None:
    samples = recording(8000)
    source = Live(
        of(write(tmp_path / "a.wav", samples)),
        name="mic",
        policy="every",
        buffer=2,
        ring=threading.Event().set,
    )
    found: list[Captured] = []

    def ended() -> bool:
        if (one := source.poll(0)) is not None:
            found.append(one)
        return source.ended

    eventually(ended)
    source.close()
    assert source.overrun == 0
    sound = np.concatenate([one.data for one in found])
    np.testing.assert_array_equal(sound, samples[:, 0].astype(np.float32) / 32768)


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def text(path: Path) -> None:
    path.write_text("not a sound, " * 400)


def many_channels(path: Path) -> None:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(200)
        file.setsampwidth(2)
        file.setframerate(16000)
        file.writeframes(bytes(400 * 100))


def all_channels(path: Path) -> None:
    many_channels(path)
    with path.open("r+b") as file:
        file.seek(22)  # of the header: the number of channels
        file.write(b"\xff\xff")


def silent_film(path: Path) -> None:
    with av.open(str(path), "w", format="matroska") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 32
        frame = av.VideoFrame(32, 32, "yuv420p")
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (nothing, "no sound file that can be read"),
        (text, "no sound file that can be read"),
        (many_channels, "channels in its header: 200; 1 to 64|no sound file"),
        (all_channels, "channels in its header: none, or more|no sound file"),
        (silent_film, "there is no sound in this file"),
        (lambda path: path.mkdir(), "is no plain file"),
        (os.mkfifo, "is no plain file"),
        (lambda path: path.unlink(missing_ok=True), "No such file"),
    ],
)
def test_a_file_without_sound_is_told_with_what_to_do_and_is_read_once_there_is(
    tmp_path: Path, make: Callable[[Path], None], match: str
) -> None:
    file = tmp_path / "a.wav"
    make(file)
    reader = of(file)
    with pytest.raises(SourceError, match=match) as caught:
        reader.open()
    reader.close()
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)
    assert caught.value.hint is not None
    write(tmp_path / "b.wav", recording(800)).replace(tmp_path / "c.wav")
    if file.is_dir():
        file.rmdir()
    (tmp_path / "c.wav").replace(file)
    assert len(read(reader)) == 1


def test_a_channel_that_the_file_does_not_have_is_told(tmp_path: Path) -> None:
    reader = of(write(tmp_path / "a.wav", recording(800, channels=2)), channel=2)
    with pytest.raises(SourceError, match="no channel 2: it has 2, counted from 0"):
        reader.open()
    reader.close()


@pytest.mark.parametrize("given", [{}, {"path": "a.wav", "device": "default"}])
def test_just_one_of_a_device_and_a_path_is_needed(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither a device nor a path, or both"):
        AudioReader(AudioSource(**given), spec(), base=tmp_path)


def test_a_bundle_that_takes_no_sound_is_refused(tmp_path: Path) -> None:
    file = write(tmp_path / "a.wav", recording(800))
    with pytest.raises(ConfigError, match=r"needs \[input\.audio\]"):
        of(file, Input(kind="tensor", shape=(4,), dtype="float32"))


def test_a_rate_in_no_small_ratio_to_the_bundles_is_told_in_one_line(tmp_path: Path) -> None:
    reader = of(write(tmp_path / "a.wav", recording(9000), 99991))
    reader.open()
    with pytest.raises(SourceError, match="99991 Hz is in no small ratio"):
        reader.read()
    reader.close()


def test_a_file_that_has_gone_is_away_and_begins_anew_when_it_is_back(tmp_path: Path) -> None:
    samples = recording(2000)
    file = write(tmp_path / "a.wav", samples)
    reader = of(file)
    reader.open()
    reader.read()
    reader.close()
    file.rename(tmp_path / "b.wav")
    with pytest.raises(SourceError, match="No such file"):
        reader.open()
    (tmp_path / "b.wav").rename(file)
    found = read(reader)
    np.testing.assert_allclose(found[0].data, samples[:800, 0] / 32768)


@pytest.mark.parametrize(
    ("name", "codec", "least"),
    [("a.m4a", "alac", 1), ("a.flac", "flac", 0)],  # looking for frames, FFmpeg may pass over it
)
def test_no_window_spans_a_damaged_packet(
    tmp_path: Path, name: str, codec: str, least: int
) -> None:
    samples = recording(60_000)
    file = encode(tmp_path / name, samples, codec)
    data = bytearray(file.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = np.random.default_rng(1).bytes(3000)
    file.write_bytes(data)
    found, damaged = read_on(of(file))
    assert len(found) > 50
    assert len(damaged) >= least
    assert all("damaged sound after 1." in str(error) for error in damaged)
    whole = np.lib.stride_tricks.sliding_window_view(samples[:, 0] / np.float32(32768), 800)
    for one in found[:-1]:  # each is sound as it was recorded, from somewhere
        begins = np.flatnonzero(whole[:, 0] == one.data[0])
        assert any(np.array_equal(whole[begin], one.data) for begin in begins)


def read_on(reader: AudioReader) -> tuple[list[Captured], list[DataError]]:
    """Return all windows of a file, and what went wrong between them."""
    found: list[Captured] = []
    damaged: list[DataError] = []
    reader.open()
    while True:
        try:
            some = reader.read()
        except DataError as error:
            damaged.append(error)
            continue
        if some is None:
            break
        found += some
    reader.close()
    return found, damaged


def piece(value: int, end_s: float, count: int = 800, rate_hz: int = 16000) -> Piece:
    sound = np.full(count, value / 32768, np.float32)
    return Piece(sound, rate_hz, round(end_s * 1e9))


def test_a_clip_holds_what_was_heard_between_two_moments(tmp_path: Path) -> None:
    recorder = SoundRecorder()
    recorder.keep(seconds=10.0, max_bytes=1 << 20)
    for number in range(1, 21):
        recorder.add(piece(number, number * 0.05))
    file = tmp_path / "clip.wav"
    limits = {"begin_ns": 250_000_000, "end_ns": 500_000_000}
    assert recorder.save(file, **limits, max_bytes=1 << 20)
    with wave.open(str(file)) as clip:
        assert (clip.getframerate(), clip.getnchannels(), clip.getsampwidth()) == (16000, 1, 2)
        heard = np.frombuffer(clip.readframes(1 << 20), "<i2")
    np.testing.assert_array_equal(heard, np.repeat([6, 7, 8, 9, 10], 800))
    assert [one.name for one in tmp_path.iterdir()] == ["clip.wav"]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_clip_is_cut_off_at_its_size(tmp_path: Path) -> None:
    recorder = SoundRecorder()
    recorder.keep(seconds=10.0, max_bytes=1 << 20)
    recorder.add(piece(3, 1.0, count=16000))
    file = tmp_path / "clip.wav"
    assert recorder.save(file, begin_ns=0, end_ns=1_000_000_000, max_bytes=1001)
    assert file.stat().st_size == 1000


def test_only_the_last_seconds_and_so_many_bytes_are_kept(tmp_path: Path) -> None:
    def kept(*, seconds: float, max_bytes: int) -> int:
        recorder = SoundRecorder()
        recorder.keep(seconds=seconds, max_bytes=max_bytes)
        for number in range(1, 201):
            recorder.add(piece(number, number * 0.05))
        file = tmp_path / "clip.wav"
        recorder.save(file, begin_ns=0, end_ns=1 << 62, max_bytes=1 << 30)
        with wave.open(str(file)) as clip:
            return int(clip.getnframes())

    assert kept(seconds=2.0, max_bytes=1 << 30) == 32000
    assert kept(seconds=100.0, max_bytes=8000) == 4000


def test_nothing_is_kept_unless_told_to_or_of_another_time(tmp_path: Path) -> None:
    recorder = SoundRecorder()
    recorder.add(piece(1, 1.0))
    file = tmp_path / "clip.wav"
    assert not recorder.save(file, begin_ns=0, end_ns=1 << 62, max_bytes=1 << 20)
    recorder.keep(seconds=1.0, max_bytes=1 << 20)
    recorder.add(piece(1, 2.0))
    assert not recorder.save(file, begin_ns=2_100_000_000, end_ns=1 << 62, max_bytes=1 << 20)
    assert not file.exists()


def test_a_clip_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    recorder = SoundRecorder()
    recorder.keep(seconds=1.0, max_bytes=1 << 20)
    recorder.add(piece(1, 1.0))
    blocked = tmp_path / "clip.wav"
    blocked.mkdir()
    (blocked / "file").touch()
    with pytest.raises(OSError, match=r"clip\.wav"):
        recorder.save(blocked, begin_ns=0, end_ns=1 << 62, max_bytes=1 << 20)
    shutil.rmtree(blocked)
    assert not list(tmp_path.iterdir())


def test_the_reader_fills_its_recorder(tmp_path: Path) -> None:
    samples = recording(4000)
    reader = of(write(tmp_path / "a.wav", samples))
    reader.recorder.keep(seconds=1.0, max_bytes=1 << 20)
    read(reader)
    clip = tmp_path / "clip.wav"
    assert reader.recorder.save(clip, begin_ns=0, end_ns=1 << 62, max_bytes=1 << 20)
    np.testing.assert_array_equal(scipy.io.wavfile.read(clip)[1], samples[:, 0])
