"""The last seconds of a video: kept within bounds, and written as clips that play."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedge.runtime.sources.options import VideoSource
from hedge.runtime.sources.source import Captured

av = pytest.importorskip("av", reason="PyAV is not installed")

from hedge.runtime.sources.video.reader import VideoReader  # noqa: E402 -- after the skip
from hedge.runtime.sources.video.recorder import Kept, PacketRecorder, Run  # noqa: E402

RUN = Run(header=b"", time_base=Fraction(1, 1000))


def _film(
    path: Path, *, codec: str, frames: int = 25, size: tuple[int, int] = (64, 48), first: int = 0
) -> Path:
    """Write a film with a keyframe each half second, of pictures that grow brighter."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream(codec, rate=10)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size = 5
        stream.codec_context.thread_count = 1  # the bytes depend on it
        for number in range(first, first + frames):
            picture = np.full((size[1], size[0], 3), 20 + 9 * (number % 25), np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return path


class _Clock:
    """A clock by which each look takes a tenth of a second: a film's packets come at its pace."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 100_000_000
        return self.now_ns


def _recorded(
    options: VideoSource, base: Path, *, seconds: float = 60.0, max_bytes: int = 1 << 24
) -> tuple[PacketRecorder, list[Captured], list[int]]:
    """Return the recorder of a film that was read, its pictures, and its size after each."""
    reader = VideoReader(options, base=base, clock=_Clock())
    recorder = reader.recorder
    assert isinstance(recorder, PacketRecorder)
    recorder.keep(seconds=seconds, max_bytes=max_bytes)
    captured: list[Captured] = []
    sizes: list[int] = []
    reader.open()
    while (found := reader.read()) is not None:
        captured += found
        sizes.append(recorder.bytes)
    reader.close()
    return recorder, captured, sizes


def _numbers(path: Path) -> list[int]:
    """Return which pictures a clip shows."""
    with av.open(str(path)) as clip:
        frames = [frame.to_ndarray(format="rgb24") for frame in clip.decode(video=0)]
    return [round((float(frame.mean()) - 20) / 9) for frame in frames]


@pytest.mark.parametrize("codec", ["mpeg4", "libx264", "mjpeg", "libvpx"])
def test_a_clip_holds_the_packets_as_they_came(tmp_path: Path, codec: str) -> None:
    try:
        film = _film(tmp_path / "film.mkv", codec=codec)
    except (ValueError, LookupError):
        pytest.skip(f"this PyAV has no {codec}")
    recorder, captured, _ = _recorded(VideoSource(url=str(film)), tmp_path)
    clip = tmp_path / "clips" / f"clip{recorder.suffix}"
    assert recorder.save(clip, begin_ns=0, end_ns=1 << 62, max_bytes=1 << 20)
    assert _numbers(clip) == list(range(25))
    assert len(captured) == 25
    with av.open(str(film)) as one, av.open(str(clip)) as other:
        packets = [[bytes(p) for p in film.demux(video=0) if p.size] for film in (one, other)]
        assert other.duration < 3 * av.time_base
    assert packets[0] == packets[1]
    assert [file.name for file in clip.parent.iterdir()] == [clip.name]


def test_a_clip_begins_at_the_keyframe_before_and_ends_when_it_is_told(tmp_path: Path) -> None:
    film = _film(tmp_path / "film.mp4", codec="mpeg4")
    recorder, captured, _ = _recorded(VideoSource(url=str(film)), tmp_path)
    clip = tmp_path / "clip.mkv"
    begin_ns, end_ns = captured[12].taken_at_ns, captured[21].taken_at_ns
    assert recorder.save(clip, begin_ns=begin_ns, end_ns=end_ns, max_bytes=1 << 20)
    with av.open(str(film)) as opened:
        keys = [n for n, packet in enumerate(opened.demux(video=0)) if packet.is_keyframe]
    assert _numbers(clip) == list(range(max(key for key in keys if key <= 12), 22))


def test_a_clip_plays_for_ffprobe(tmp_path: Path) -> None:
    if shutil.which("ffprobe") is None:
        pytest.skip("ffprobe is not installed")
    film = _film(tmp_path / "film.mp4", codec="mpeg4")
    recorder, _, _ = _recorded(VideoSource(url=str(film)), tmp_path)
    assert recorder.save(tmp_path / "clip.mkv", begin_ns=0, end_ns=1 << 62, max_bytes=1 << 20)
    command = ["ffprobe", "-v", "warning", "-count_frames", "-show_entries"]
    command += ["stream=codec_name,width,height,nb_read_frames", "-of", "csv=p=0"]
    ran = subprocess.run([*command, str(tmp_path / "clip.mkv")], check=True, capture_output=True)
    assert ran.stdout.decode().strip() == "mpeg4,64,48,25"
    assert ran.stderr == b""


@pytest.mark.parametrize("share", [0.0, 0.5, 0.7, 0.95])
def test_a_clip_is_no_larger_than_it_may_be_and_cut_at_its_end(
    tmp_path: Path, share: float
) -> None:
    film = _film(tmp_path / "film.mkv", codec="mjpeg", size=(320, 240))
    max_bytes = max(4096, int(share * film.stat().st_size))
    recorder, _, _ = _recorded(VideoSource(url=str(film)), tmp_path)
    clip = tmp_path / "clip.mkv"
    saved = recorder.save(clip, begin_ns=0, end_ns=1 << 62, max_bytes=max_bytes)
    assert saved == (max_bytes > 4096)
    assert clip.exists() == saved
    if saved:
        numbers = _numbers(clip)
        assert clip.stat().st_size <= max_bytes
        assert 0 < len(numbers) < 25
        assert numbers == list(range(len(numbers)))


def test_nothing_is_kept_unless_it_is_asked_for(tmp_path: Path) -> None:
    film = _film(tmp_path / "film.mp4", codec="mpeg4")
    reader = VideoReader(VideoSource(url=str(film)), base=tmp_path)
    reader.open()
    while reader.read() is not None:
        pass
    recorder = reader.recorder
    assert isinstance(recorder, PacketRecorder)
    assert recorder.bytes == 0
    assert not recorder.save(tmp_path / "c.mkv", begin_ns=0, end_ns=1 << 62, max_bytes=1 << 20)
    assert not (tmp_path / "c.mkv").exists()


def test_what_is_kept_is_bounded_in_bytes_at_every_moment_and_ends_with_the_last(
    tmp_path: Path,
) -> None:
    film = _film(tmp_path / "film.mkv", codec="mjpeg", frames=50)
    most = 9_000
    recorder, captured, sizes = _recorded(VideoSource(url=str(film)), tmp_path, max_bytes=most)
    assert max(sizes) <= most
    assert max(sizes) > most / 2
    assert recorder.lost == 0
    clip = tmp_path / "clip.mkv"
    assert recorder.save(clip, begin_ns=0, end_ns=1 << 62, max_bytes=1 << 20)
    numbers = _numbers(clip)
    assert numbers == list(range(25 - len(numbers), 25))
    assert len(captured) == 50


def test_what_is_kept_is_bounded_in_seconds(tmp_path: Path) -> None:
    film = _film(tmp_path / "film.mp4", codec="mpeg4", frames=50)
    recorder, captured, _ = _recorded(VideoSource(url=str(film)), tmp_path, seconds=1.0)
    clip = tmp_path / "clip.mkv"
    assert recorder.save(clip, begin_ns=0, end_ns=1 << 62, max_bytes=1 << 20)
    with av.open(str(clip)) as opened:
        kept = len([packet for packet in opened.demux(video=0) if packet.size])
    looks = np.diff([one.taken_at_ns for one in captured]).max() / 1e9  # of the clock, a picture
    assert 1.0 <= kept * looks <= 1.0 + 10 * looks


def test_a_group_that_is_too_large_is_given_up_and_the_next_is_kept() -> None:
    recorder = PacketRecorder()
    recorder.keep(seconds=60, max_bytes=10_000)

    def add(number: int, size: int, *, key: bool = False) -> None:
        recorder.add(RUN, Kept(bytes(size), number, number, key, number))

    add(0, 4000, key=True)
    add(1, 4000)
    add(2, 4000)
    assert (recorder.bytes, recorder.lost) == (0, 1)
    add(3, 100)  # of the same group: without its keyframe it is nothing
    assert recorder.bytes == 0
    add(4, 100, key=True)
    assert 100 < recorder.bytes < 1000
    assert recorder.lost == 1


def test_a_camera_that_was_lost_meanwhile_gives_the_longer_part(tmp_path: Path) -> None:
    films = [
        _film(tmp_path / "small.mp4", codec="mpeg4", frames=5),
        _film(tmp_path / "large.mp4", codec="mpeg4", frames=15, first=10, size=(128, 96)),
    ]
    clock, shown = _Clock(), tmp_path / "film.mp4"
    reader = VideoReader(VideoSource(url=str(shown)), base=tmp_path, clock=clock)
    recorder = reader.recorder
    recorder.keep(seconds=60, max_bytes=1 << 20)
    for film in films:
        film.rename(shown)
        reader.open()
        while reader.read() is not None:
            pass
        reader.close()
    assert recorder.save(tmp_path / "c.mkv", begin_ns=0, end_ns=1 << 62, max_bytes=1 << 20)
    assert _numbers(tmp_path / "c.mkv") == list(range(10, 25))


@pytest.mark.usefixtures("gstreamer")
def test_raw_pictures_are_kept_as_jpeg(tmp_path: Path) -> None:
    text = "videotestsrc num-buffers=20 pattern=ball ! video/x-raw,width=320,height=240"
    recorder, captured, sizes = _recorded(VideoSource(pipeline=text), tmp_path, max_bytes=200_000)
    assert 0 < max(sizes) <= 200_000
    clip = tmp_path / "clip.mkv"
    assert recorder.save(clip, begin_ns=0, end_ns=1 << 62, max_bytes=1 << 20)
    with av.open(str(clip)) as opened:
        assert opened.streams.video[0].codec_context.name == "mjpeg"
        frames = [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]
    assert len(frames) > 5
    assert np.abs(frames[-1].astype(int) - captured[-1].data).mean() < 3


def test_a_clip_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    film = _film(tmp_path / "film.mp4", codec="mpeg4")
    recorder, _, _ = _recorded(VideoSource(url=str(film)), tmp_path)
    (tmp_path / "no-folder").touch()
    with pytest.raises(OSError, match="no-folder"):
        recorder.save(
            tmp_path / "no-folder" / "c.mkv", begin_ns=0, end_ns=1 << 62, max_bytes=1 << 20
        )


def test_a_clip_that_fills_the_disk_fails_and_leaves_nothing(tmp_path: Path) -> None:
    film = _film(tmp_path / "film.mkv", codec="mjpeg", size=(1280, 960))
    assert film.stat().st_size > 2 * 65536
    recorder, _, _ = _recorded(VideoSource(url=str(film)), tmp_path)
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    try:
        with pytest.raises(OSError, match="No space left"):
            recorder.save(disk / "c.mkv", begin_ns=0, end_ns=1 << 62, max_bytes=1 << 24)
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_clip_of_a_real_film_is_its_part(tmp_path: Path) -> None:
    place = os.environ.get("HEDGE_DATA")
    if not place:
        pytest.skip("HEDGE_DATA does not say where the films are")
    film = Path(place) / "video" / "car_detection.mp4"
    recorder, captured, _ = _recorded(VideoSource(url=str(film)), tmp_path)
    clip = tmp_path / "clip.mkv"
    times = [one.taken_at_ns for one in captured]
    assert recorder.save(clip, begin_ns=times[100], end_ns=times[200], max_bytes=1 << 24)
    with av.open(str(clip)) as opened:
        frames = [frame.to_ndarray(format="rgb24") for frame in opened.decode(video=0)]
    wanted: dict[int, Any] = {one.data.tobytes().__hash__(): n for n, one in enumerate(captured)}
    numbers = [wanted.get(frame.tobytes().__hash__()) for frame in frames]
    assert len(numbers) >= 100
    assert None not in numbers


@pytest.mark.parametrize("room_bytes", [3_000, 65_536, 100_000])
def test_a_clip_that_finds_no_room_says_so_and_not_what_ffmpeg_makes_of_it(
    tmp_path: Path, room_bytes: int
) -> None:
    film, rng = tmp_path / "film.mkv", np.random.default_rng(3)
    with av.open(str(film), "w") as output:  # of noise: packets are larger than any buffer
        stream = output.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 320, 240, "yuv420p", 20 << 20
        for _ in range(10):
            noise = rng.integers(0, 255, (240, 320, 3), dtype=np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        output.mux(stream.encode(None))
    recorder, _, _ = _recorded(VideoSource(url=str(film)), tmp_path)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, before[1]))
    try:
        with pytest.raises(OSError, match="too large") as caught:
            recorder.save(tmp_path / "clip.mkv", begin_ns=0, end_ns=1 << 62, max_bytes=1 << 24)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert caught.value.errno == errno.EFBIG
    assert [one.name for one in tmp_path.iterdir()] == ["film.mkv"]
