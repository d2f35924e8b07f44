"""Films through the video source: what it captures, what it refuses, and what it survives."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from numpy.typing import NDArray

from hedge.models.errors import ConfigError, DataError, HedgeError, SourceError
from hedge.runtime.sources.live import Live
from hedge.runtime.sources.options import VideoSource
from hedge.runtime.sources.source import Captured
from hedge.runtime.sources.video.pace import Limit, Pace
from hedge.runtime.sources.video.place import tells_password
from hedge.runtime.sources.video.reader import VideoReader

av = pytest.importorskip("av", reason="PyAV is not installed")

SIZE = (64, 48)


def _grey(number: int) -> int:
    """Return how bright the picture of this number is; eight apart, so that codecs keep them."""
    return 20 + 8 * number


def _film(
    path: Path,
    *,
    codec: str = "mpeg4",
    size: tuple[int, int] = SIZE,
    frames: int = 20,
    rate: int = 10,
    first: int = 0,
) -> Path:
    """Write a film of grey pictures, by which each can be told."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 5
        for number in range(first, first + frames):
            picture = np.full((size[1], size[0], 3), _grey(number), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return path


def _reader(path: Path, **options: Any) -> VideoReader:  # noqa: ANN401 -- what VideoSource takes
    return VideoReader(VideoSource(url=str(path), **options), base=path.parent)


def _all(reader: VideoReader) -> tuple[list[Captured], list[str]]:
    """Return what a film gives to its end, and what was no good in it."""
    reader.open()
    captured: list[Captured] = []
    faults: list[str] = []
    while True:
        try:
            found = reader.read()
        except DataError as error:
            faults.append(str(error))
            continue
        if found is None:
            reader.close()
            return captured, faults
        captured += found


def _numbers(captured: list[Captured]) -> list[int]:
    """Return which pictures of a grey film these are."""
    return [round((float(one.data.mean()) - 20) / 8) for one in captured]


def _ffmpeg(path: Path, *filters: str) -> NDArray[np.uint8]:
    """Return a film's pictures as ffmpeg itself decodes them: (n, bytes of one)."""
    program = shutil.which("ffmpeg")
    if program is None:
        pytest.skip("ffmpeg is not installed, so there is nothing to compare with")
    command = [program, "-v", "error", "-i", str(path), *filters, "-fps_mode", "passthrough"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    return np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.uint8)


def _drawn(path: Path, *options: str, size: str = "192x108") -> Path:
    """Have ffmpeg draw a film of moving shapes in all colours."""
    if shutil.which("ffmpeg") is None:
        pytest.skip("ffmpeg is not installed, so there is nothing to compare with")
    source = f"testsrc2=s={size}:d=1:r=10"
    command = ["ffmpeg", "-v", "error", "-f", "lavfi", "-i", source, *options, str(path)]
    subprocess.run(command, check=True)
    return path


def test_every_picture_of_a_film_is_captured_in_order_with_its_time(tmp_path: Path) -> None:
    captured, faults = _all(_reader(_film(tmp_path / "film.mp4")))
    assert not faults
    assert _numbers(captured) == list(range(20))
    assert {(one.data.shape, str(one.data.dtype)) for one in captured} == {((48, 64, 3), "uint8")}
    assert [(one.meta or {})["at_s"] for one in captured] == [n / 10 for n in range(20)]
    assert {(one.meta or {})["file"] for one in captured} == {str(tmp_path / "film.mp4")}


@pytest.mark.parametrize(
    "options",
    [
        ("-pix_fmt", "yuv420p"),
        ("-pix_fmt", "yuv422p"),
        ("-pix_fmt", "yuv420p", "-colorspace", "bt709", "-color_range", "tv"),
        ("-pix_fmt", "yuvj420p", "-color_range", "pc"),
        ("-pix_fmt", "yuv420p", "-colorspace", "bt709", "-color_range", "pc"),
        ("-pix_fmt", "bgr0"),
        ("-pix_fmt", "gray"),
    ],
    ids=["bt601", "422", "bt709", "full-range", "bt709-full", "rgb", "grey"],
)
def test_pictures_are_those_that_ffmpeg_decodes(tmp_path: Path, options: tuple[str, ...]) -> None:
    film = _drawn(tmp_path / "film.mkv", "-c:v", "ffv1", *options)
    captured, _ = _all(_reader(film))
    ours = np.stack([one.data for one in captured]).astype(int)
    theirs = _ffmpeg(film).reshape(ours.shape).astype(int)
    assert len(ours) == 10
    assert np.abs(ours - theirs).max() <= 1  # two versions of FFmpeg round differently
    assert np.abs(ours - theirs).mean() < 0.2


def test_the_region_is_that_part_of_the_picture(tmp_path: Path) -> None:
    film = _drawn(tmp_path / "film.mkv", "-c:v", "ffv1", "-pix_fmt", "yuv420p")
    whole, _ = _all(_reader(film))
    part, _ = _all(_reader(film, region=(0.25, 0.5, 0.5, 0.25)))
    assert part[3].data.shape == (26, 96, 3)
    for one, other in zip(part, whole, strict=True):
        np.testing.assert_array_equal(one.data, other.data[54:80, 48:144])


def test_a_film_of_a_telephone_is_turned_upright(tmp_path: Path) -> None:
    flat = _drawn(tmp_path / "flat.mp4", "-c:v", "mpeg4", "-q:v", "1")
    turned = tmp_path / "turned.mp4"
    command = ["ffmpeg", "-v", "error", "-display_rotation:v:0", "90", "-i", str(flat)]
    command += ["-c", "copy", str(turned)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        command[3:5] = []
        command[-1:-1] = ["-metadata:s:v:0", "rotate=270"]  # before ffmpeg 6
        subprocess.run(command, check=True)
    ours = np.stack([one.data for one in _all(_reader(turned))[0]]).astype(int)
    assert ours.shape == (10, 192, 108, 3)
    assert np.abs(ours - _ffmpeg(turned).reshape(ours.shape)).max() <= 8  # mpeg4's own rounding


@pytest.mark.parametrize(("rate_hz", "count"), [(10.0, 20), (5.0, 10), (4.0, 8), (1.0, 2)])
def test_of_a_film_so_many_pictures_a_second_are_taken(
    tmp_path: Path, rate_hz: float, count: int
) -> None:
    captured, _ = _all(_reader(_film(tmp_path / "film.mp4"), rate_hz=rate_hz))
    assert len(captured) == count
    at_s = np.array([(one.meta or {})["at_s"] for one in captured])
    assert np.all(np.abs(at_s - np.arange(count) / rate_hz) < 0.1)


def test_the_limit_keeps_its_rate_for_ever_and_follows_a_step_back() -> None:
    limit = Limit(3.0)
    taken = [at for at in range(10_000) if limit.takes(100.0 + at / 30)]
    assert taken == list(range(0, 10_000, 10))
    assert limit.takes(5.0)
    assert not limit.takes(5.2)
    assert limit.takes(5.34)


def test_a_film_at_its_own_pace_is_due_by_its_times_and_a_jump_begins_anew() -> None:
    now_ns = 1_000
    pace = Pace(lambda: now_ns)
    assert pace.due_ns(7.0) == 1_000
    assert pace.due_ns(7.25) == 1_000 + 250_000_000
    now_ns = 400_000_000
    assert pace.due_ns(0.0) == 400_000_000
    assert pace.due_ns(0.5) == 900_000_000
    assert pace.due_ns(4000.0) == 400_000_000


def test_a_film_in_real_time_gives_each_picture_no_sooner_than_it_is_due(tmp_path: Path) -> None:
    reader = _reader(_film(tmp_path / "film.mp4", frames=5, rate=20), realtime=True)
    begun_s = time.monotonic()
    captured, _ = _all(reader)
    assert time.monotonic() - begun_s >= 0.2
    steps = np.diff([one.taken_at_ns for one in captured])
    np.testing.assert_allclose(steps, 50e6, atol=10)


def test_a_change_of_the_resolution_midway_is_followed(tmp_path: Path) -> None:
    small = _film(tmp_path / "small.ts", frames=10)
    large = _film(tmp_path / "large.ts", frames=10, first=10, size=(128, 96))
    film = tmp_path / "film.ts"
    film.write_bytes(small.read_bytes() + large.read_bytes() + small.read_bytes())
    captured, faults = _all(_reader(film, region=(0.5, 0.0, 0.5, 1.0)))
    assert not faults
    assert _numbers(captured) == [*range(20), *range(10)]
    shapes = [one.data.shape for one in captured]
    assert shapes == [(48, 32, 3)] * 10 + [(96, 64, 3)] * 10 + [(48, 32, 3)] * 10


def _with_noise(film: Path, *, seed: int) -> Path:
    """Write random bytes over a tenth of what is between its first and its last quarter."""
    data, rng = bytearray(film.read_bytes()), random.Random(seed)  # noqa: S311 -- no secret
    quarter = len(data) // 4
    for begin in range(quarter, 3 * quarter, 400):
        data[begin : begin + 40] = rng.randbytes(40)
    broken = film.with_name(f"broken{film.suffix}")
    broken.write_bytes(data)
    return broken


@pytest.mark.parametrize("suffix", [".mkv", ".ts", ".avi"])
def test_damaged_pictures_are_failures_and_the_film_goes_on(tmp_path: Path, suffix: str) -> None:
    film = _drawn(tmp_path / f"film{suffix}", "-c:v", "mpeg4", "-g", "5", size="320x240")
    captured, faults = _all(_reader(_with_noise(film, seed=1)))
    assert faults
    assert captured
    assert all(str(tmp_path) in fault for fault in faults)
    assert len(captured) + len(faults) <= 100  # of ten pictures: it does not spin
    captured[0].data.mean()


def test_a_film_that_is_cut_short_gives_what_is_there_and_ends(tmp_path: Path) -> None:
    film = _film(tmp_path / "film.mkv")
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 2])
    captured, _ = _all(_reader(film))
    assert 0 < len(captured) < 20
    assert _numbers(captured) == list(range(len(captured)))


def _opening(path: Path, **options: Any) -> str:  # noqa: ANN401 -- what VideoSource takes
    """Return the one line that a film's opening ends with."""
    reader = _reader(path, **options)
    with pytest.raises(SourceError) as caught:
        reader.open()
    reader.close()
    line = str(caught.value)
    assert str(path) in line
    assert "\n" not in line
    return line


def test_what_is_no_film_is_refused_by_name_with_what_to_do(tmp_path: Path) -> None:
    assert "is its path right?" in _opening(tmp_path / "away.mp4")
    (tmp_path / "text.mp4").write_text("no film at all\n" * 100)
    assert "no video that can be read" in _opening(tmp_path / "text.mp4")
    (tmp_path / "empty.mp4").touch()
    assert "no video that can be read" in _opening(tmp_path / "empty.mp4")
    with av.open(str(tmp_path / "sound.wav"), "w") as output:
        stream = output.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), layout="mono")
        frame.sample_rate = 8000
        output.mux(stream.encode(frame))
    assert "has no video" in _opening(tmp_path / "sound.wav")


def test_what_is_no_plain_file_is_refused_and_nobody_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo.mp4")
    assert "is no plain file" in _opening(tmp_path / "fifo.mp4")
    assert "is no plain file" in _opening(tmp_path)


def test_a_password_that_cannot_be_read_is_told_and_tried_again(tmp_path: Path) -> None:
    options = VideoSource(url="rtsp://u@h/x", password_file="p")  # noqa: S106 -- a file's name
    reader = VideoReader(options, base=tmp_path)
    with pytest.raises(SourceError, match=f"{tmp_path}/p: the password cannot be read: No such"):
        reader.open()
    (tmp_path / "p").write_bytes(b"\xff")
    with pytest.raises(SourceError, match="not UTF-8"):
        reader.open()


@pytest.mark.parametrize(
    ("pipeline", "expected"),
    [
        ("rtspsrc location=rtsp://cam/1 user-id=u user-pw=x ! decodebin", True),
        ("rtspsrc location=rtsp://u:p@cam/1 ! decodebin", True),
        ("souphttpsrc location=http://cam/1 proxy-pw=a user-pw = b ! decodebin", True),
        ("rtspsrc location=rtsp://u@cam:554/1 ! decodebin", False),
        ("rtspsrc location=rtsp://cam:554/a@b ! decodebin", False),
        ("videotestsrc ! videoconvert", False),
    ],
)
def test_a_password_in_a_pipeline_is_seen(pipeline: str, *, expected: bool) -> None:
    assert tells_password(pipeline) is expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_film_that_may_not_be_read_says_so(tmp_path: Path) -> None:
    film = _film(tmp_path / "film.mp4")
    film.chmod(0)
    assert "must be able to read it" in _opening(film)


def test_a_camera_that_is_not_there_says_so(tmp_path: Path) -> None:
    reader = VideoReader(VideoSource(url="/dev/hedge-no-video"), base=tmp_path)
    with pytest.raises(SourceError, match="is the camera plugged in"):
        reader.open()


@pytest.mark.parametrize("codec", ["mpeg4", "mjpeg"])
def test_pictures_larger_than_allowed_are_refused_before_there_is_one(
    tmp_path: Path, codec: str
) -> None:
    film = _film(tmp_path / "film.mkv", codec=codec)
    assert "max_pixels = 3071" in _opening(film, max_pixels=64 * 48 - 1)
    assert len(_all(_reader(film, max_pixels=64 * 48))[0]) == 20


def _bomb(film: Path, *, number: int) -> Path:
    """Have one of a film's JPEG pictures declare 60000 x 60000 pixels."""
    data = bytearray(film.read_bytes())
    sizes = [at for at in range(len(data)) if data[at : at + 2] == b"\xff\xc0"]  # SOF0
    assert len(sizes) == 20
    data[sizes[number] + 5 : sizes[number] + 9] = bytes.fromhex("ea60ea60")
    film.write_bytes(data)
    return film


def test_a_bomb_among_the_pictures_fails_alone_and_takes_no_memory(tmp_path: Path) -> None:
    film = _bomb(_film(tmp_path / "film.mkv", codec="mjpeg"), number=7)
    before = psutil.Process().memory_info().rss
    captured, faults = _all(_reader(film))
    assert _numbers(captured) == [number for number in range(20) if number != 7]
    assert len(faults) == 1
    assert "larger than max_pixels" in faults[0]
    assert psutil.Process().memory_info().rss - before < 64 << 20


def test_a_header_that_declares_a_bomb_is_refused_without_memory(tmp_path: Path) -> None:
    film = tmp_path / "film.y4m"
    film.write_bytes(b"YUV4MPEG2 W60000 H60000 F10:1 C420\nFRAME\n" + bytes(5000))
    before = psutil.Process().memory_info().rss
    _opening(film)
    assert psutil.Process().memory_info().rss - before < 64 << 20


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "one of url and pipeline"),
        ({"url": "a.mp4", "pipeline": "videotestsrc"}, "one of url and pipeline"),
        ({"url": "a.mp4", "decoder": "h265"}, "did you mean .*decoders: .*h264"),
        ({"url": "a.mp4", "decoder": "libx264"}, "no decoder"),
        ({"url": "a.mp4", "region": (0.5, 0.0, 0.6, 1.0)}, "not inside the picture"),
        ({"url": "a.mp4", "region": (0.5, 0.0, 0.0, 1.0)}, "not inside the picture"),
        ({"url": "a.mp4", "size": (640, 480)}, "source.size: is for V4L2"),
        ({"url": "a.mp4", "password_file": "p"}, "password_file: "),
        ({"url": "rtsp://h/x", "realtime": True}, "source.realtime"),
        ({"url": "gopher://h/x"}, "no address of a video"),
        ({"url": "rtsp:///x"}, "no address of a video"),
        ({"url": "rtsp://h/x", "password_file": "p"}, "the url names no user"),
        ({"pipeline": "a 'b"}, "no pipeline"),
        ({"pipeline": "--gst-plugin-load=x ! y"}, "no pipeline"),
    ],
)
def test_what_can_never_work_is_refused_at_once(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        VideoReader(VideoSource(**options), base=tmp_path)


def test_a_decoder_is_taken_by_its_name(tmp_path: Path) -> None:
    film = _film(tmp_path / "film.mkv", codec="mpeg4")
    assert len(_all(_reader(film, decoder="mpeg4"))[0]) == 20
    assert "does not decode its mpeg4" in _opening(film, decoder="h264")


def test_a_decoder_of_hardware_that_is_not_here_says_so(tmp_path: Path) -> None:
    if Path("/dev/nvidia0").exists():
        pytest.skip("this machine may have it")
    film = _film(tmp_path / "film.mkv", codec="mpeg4")
    assert "without decoder" in _opening(film, decoder="cuda")


def test_decoding_takes_no_more_threads_than_it_is_told(tmp_path: Path) -> None:
    film = _drawn(tmp_path / "film.mkv", "-c:v", "mpeg2video", size="640x480")
    before = psutil.Process().num_threads()
    reader = _reader(film)
    reader.open()
    for _ in range(3):
        reader.read()
    assert psutil.Process().num_threads() <= before + 1  # numpy may have begun one of its own
    reader.close()


def _live(reader: VideoReader) -> tuple[Live, threading.Event]:
    bell = threading.Event()
    return Live(reader, name="cam", policy="every", buffer=4, ring=bell.set), bell


def test_a_film_goes_through_live_to_its_end_with_its_failures(
    tmp_path: Path, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    film = _bomb(_film(tmp_path / "film.mkv", codec="mjpeg"), number=10)
    live, _ = _live(_reader(film))
    found: list[Captured | HedgeError] = []

    def take() -> bool:
        try:
            one = live.poll(0)
        except HedgeError as error:
            found.append(error)
        else:
            found.extend([] if one is None else [one])
        return live.ended

    eventually(take)
    live.close()
    good = [one for one in found if isinstance(one, Captured)]
    assert _numbers(good) == [number for number in range(20) if number != 10]
    assert [isinstance(one, DataError) for one in found].index(True) == 10
    assert live.overrun == 0


def test_a_film_that_comes_later_is_found(
    tmp_path: Path, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    live, _ = _live(_reader(tmp_path / "film.mp4"))
    eventually(lambda: live.state().lost > 0)
    assert "No such file" in (live.state().why or "")
    _film(tmp_path / "made.mp4").rename(tmp_path / "film.mp4")
    eventually(lambda: live.poll(0) is not None)
    live.close()


@pytest.mark.parametrize(
    ("name", "frames", "shape"),
    [
        ("one_by_one_person.mp4", 1394, (432, 768, 3)),
        ("car_detection.mp4", 377, (432, 768, 3)),
        ("furg_fire_house6.mp4", 899, (240, 426, 3)),
    ],
)
def test_real_clips_are_decoded_whole(name: str, frames: int, shape: tuple[int, ...]) -> None:
    place = os.environ.get("HEDGE_DATA")
    if not place:
        pytest.skip("HEDGE_DATA does not say where the clips are")
    captured = _counted(Path(place) / "video" / name)
    assert captured == (frames, {shape})


def _counted(path: Path) -> tuple[int, set[tuple[int, ...]]]:
    reader, count, shapes = _reader(path), 0, set()
    reader.open()
    while (found := reader.read()) is not None:
        count += len(found)
        shapes |= {one.data.shape for one in found}
    reader.close()
    return count, shapes
