"""Cameras: over RTSP from a real server, and through GStreamer pipelines."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from hedge.models.errors import ConfigError, DataError, SourceError
from hedge.runtime.sources.live import Live
from hedge.runtime.sources.options import VideoSource
from hedge.runtime.sources.source import Captured, StuckError
from hedge.runtime.sources.video import film as film_module
from hedge.runtime.sources.video.reader import VideoReader

av = pytest.importorskip("av", reason="PyAV is not installed")

SERVER = Path(__file__).with_name("rtsp_server.py")
SYSTEM_PYTHON = "/usr/bin/python3"
PASSWORD = "pass/word@%&"  # noqa: S105 -- a made-up one
Eventually = Callable[[Callable[[], bool]], None]


def _grey_film(path: Path) -> Path:
    """Write five seconds of H.264 whose pictures grow brighter, with a keyframe each second."""
    with av.open(str(path), "w") as output:
        try:
            stream = output.add_stream("libx264", rate=20)
        except (ValueError, LookupError):
            pytest.skip("this PyAV encodes no H.264")
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.gop_size = 10
        stream.codec_context.options = {"tune": "zerolatency"}
        for number in range(100):
            picture = np.full((48, 64, 3), 20 + 2 * number, np.uint8)
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode(None))
    return path


class Server:
    """A real RTSP server on a port that stays its own."""

    def __init__(self, film: Path, *options: str) -> None:
        self._command = [SYSTEM_PYTHON, str(SERVER), str(film), *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.start()

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/film"

    def start(self) -> None:
        """Start it, on the port that it had."""
        command = [*self._command, "--port", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.kill()
            pytest.skip("GStreamer's RTSP server (gir1.2-gst-rtsp-server-1.0) is not installed")
        self.port = int(line)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """Kill it; killing twice is harmless."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            if self._process.stdout is not None:
                self._process.stdout.close()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Give `serve(*options)`: a server of a grey film."""
    if not Path(SYSTEM_PYTHON).exists():
        pytest.skip("there is no Python of the system's, which has GStreamer's bindings")
    with contextlib.ExitStack() as stack:

        def start(*options: str) -> Server:
            server = Server(_grey_film(tmp_path / "film.mp4"), *options)
            stack.callback(server.kill)
            return server

        yield start


def _live(reader: VideoReader) -> Live:
    return Live(reader, name="cam", policy="latest", buffer=8, ring=threading.Event().set)


def _sees(live: Live) -> bool:
    """Return whether there is a picture; the last one of a server that is killed may be cut."""
    with contextlib.suppress(DataError):
        return live.poll(0) is not None
    return False


def _drop_all(live: Live) -> None:
    while live.due_ns() is not None:
        _sees(live)


def _brightness(captured: Captured) -> float:
    return float(captured.data.mean())


def _read(reader: VideoReader, count: int) -> list[Captured]:
    found: list[Captured] = []
    while len(found) < count:
        more = reader.read()
        assert more is not None
        found += more
    return found


def test_a_camera_is_read_over_rtsp_picture_by_picture(serve: Callable[..., Server]) -> None:
    reader = VideoReader(VideoSource(url=serve().url), base=Path())
    reader.open()
    captured = _read(reader, 15)
    reader.close()
    assert {one.data.shape for one in captured} == {(48, 64, 3)}
    steps = np.diff([_brightness(one) for one in captured])
    assert np.all((steps > 0) & (steps < 4))  # none is left out, none comes twice
    assert np.all(np.diff([one.taken_at_ns for one in captured]) > 0)
    assert abs(captured[-1].taken_at_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) < 60e9
    assert all("file" not in (one.meta or {}) for one in captured)


def test_a_camera_whose_server_is_killed_comes_back_with_it(
    serve: Callable[..., Server], eventually: Eventually
) -> None:
    server = serve()
    live = _live(VideoReader(VideoSource(url=server.url), base=Path()))
    eventually(lambda: _sees(live))
    server.kill()
    eventually(lambda: live.state().state == "away")
    assert server.url in (live.state().why or "")
    _drop_all(live)
    server.start()
    eventually(lambda: _sees(live))
    assert live.state().opened == 2
    assert live.state().why is None
    live.close()


def test_a_camera_that_hangs_is_given_up_and_found_again(
    serve: Callable[..., Server], eventually: Eventually
) -> None:
    server = serve()
    live = _live(VideoReader(VideoSource(url=server.url, stall_s=0.5), base=Path()))
    eventually(lambda: _sees(live))
    server.signal(signal.SIGSTOP)
    eventually(lambda: live.state().state == "away")
    assert "has given nothing for 0.5 s" in (live.state().why or "")
    _drop_all(live)
    server.signal(signal.SIGCONT)
    eventually(lambda: _sees(live))
    live.close()


def test_only_so_many_pictures_a_second_are_taken_of_a_camera(
    serve: Callable[..., Server],
) -> None:
    reader = VideoReader(VideoSource(url=serve().url, rate_hz=5.0), base=Path())
    reader.open()
    captured = _read(reader, 6)
    reader.close()
    steps = np.diff([one.taken_at_ns for one in captured]) / 1e9
    assert steps.mean() > 0.15  # 0.2 on the grid, and the first may lie anywhere in its slot


def test_a_password_opens_the_camera_and_is_never_told(
    tmp_path: Path,
    serve: Callable[..., Server],
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    eventually: Eventually,
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve("--user", "ann", "--password", PASSWORD)
    (tmp_path / "secret").write_text(f"{PASSWORD}\n")
    url = server.url.replace("rtsp://", "rtsp://ann@") + "?token=hidden"
    options = VideoSource(url=url, password_file="secret")  # noqa: S106 -- a file's name
    reader = VideoReader(options, base=tmp_path)
    reader.open()
    assert _read(reader, 1)
    reader.close()
    (tmp_path / "secret").write_text("wrong@secret")
    live = _live(VideoReader(options, base=tmp_path))
    eventually(lambda: live.state().why is not None)
    why = live.state().why or ""
    live.close()
    with pytest.raises(SourceError) as caught:
        reader.open()
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
    assert "wrong%40" not in "".join(traceback.format_exception(caught.value))
    assert "what is in password_file, is wrong" in why
    told = f"{why}{caplog.text}{''.join(capfd.readouterr())}"
    assert f"127.0.0.1:{server.port}/film" in told
    for secret in (PASSWORD, "pass%2Fword", "wrong@secret", "wrong%40", "hidden", "ann@"):
        assert secret not in told


def test_a_password_in_the_url_is_refused_and_not_repeated(tmp_path: Path) -> None:
    for url in ("rtsp://ann:s3cret@cam/x", "rtsp://ann:s3cret@cam:port/x"):
        with pytest.raises(ConfigError) as caught:
            VideoReader(VideoSource(url=url), base=tmp_path)
        assert "s3cret" not in str(caught.value)


def test_an_address_where_nobody_listens_says_so(free_port: int) -> None:
    reader = VideoReader(VideoSource(url=f"rtsp://127.0.0.1:{free_port}/x"), base=Path())
    with pytest.raises(SourceError, match=rf":{free_port}/x: cannot be reached: .*refused"):
        reader.open()


def test_an_address_that_swallows_everything_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_module, "_REACH_S", 0.2)
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):  # who is beyond the backlog gets no answer at all
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        reader = VideoReader(
            VideoSource(url=f"rtsp://127.0.0.1:{listener.getsockname()[1]}/x"), base=Path()
        )
        with pytest.raises(SourceError, match=r"does not answer within 0\.2 s"):
            reader.open()


def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(film_module, "_OPEN_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        reader = VideoReader(VideoSource(url=f"rtsp://127.0.0.1:{port}/x"), base=Path())
        with pytest.raises(SourceError, match=r"does not open within 0\.3 s"):
            reader.open()


# ---- GStreamer pipelines

GRAY = "videotestsrc pattern=solid-color foreground-color=0xff{colour} num-buffers={count}"


@pytest.fixture
def pipeline(tmp_path: Path, request: pytest.FixtureRequest) -> Callable[..., VideoReader]:
    """Give `pipeline(text, …)`: a reader of a pipeline."""
    request.getfixturevalue("gstreamer")

    def make(text: str, **options: Any) -> VideoReader:  # noqa: ANN401 -- what VideoSource takes
        return VideoReader(VideoSource(pipeline=text, **options), base=tmp_path)

    return make


def _children() -> list[psutil.Process]:
    return [one for one in psutil.Process().children() if "gst-launch" in one.name()]


@pytest.mark.parametrize("size", ["width=64,height=48", "width=1280,height=720"])
def test_a_pipeline_gives_its_pictures_in_their_colours_and_ends(
    pipeline: Callable[..., VideoReader], size: str
) -> None:
    source = GRAY.format(colour="d02060", count=5)
    reader = pipeline(f"{source} ! video/x-raw,format=I420,{size}", region=(0, 0, 0.5, 0.5))
    reader.open()
    captured: list[Captured] = []
    while (found := reader.read()) is not None:
        captured += found
    reader.close()
    assert len(captured) == 5
    assert captured[0].data.shape in {(24, 32, 3), (360, 640, 3)}
    colour = captured[-1].data.reshape(-1, 3).mean(axis=0)
    np.testing.assert_allclose(colour, [0xD0, 0x20, 0x60], atol=4)
    assert not _children()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nosuchelement", "no element"),
        ("v4l2src device=/dev/hedge-none", "Cannot identify device"),
        ("filesrc location=away.mp4 ! decodebin", "Resource not found"),
        ("videotestsrc num-buffers=3 ! fakesink audiotestsrc", "."),
    ],
)
def test_a_pipeline_that_does_not_run_says_why_in_one_line(
    pipeline: Callable[..., VideoReader], text: str, said: str
) -> None:
    reader = pipeline(text, stall_s=5.0)
    with pytest.raises(SourceError, match=said) as caught:
        reader.open()
    assert "\n" not in str(caught.value)
    assert "gst-launch-1.0" in str(caught.value)
    assert not _children()


@pytest.mark.parametrize(
    "text",
    ["nosuchelement", "videotestsrc ! ! x", "videotestsrc colour=1", "audiotestsrc ! vp8dec"],
)
def test_a_pipeline_that_can_never_run_is_tried_ever_more_rarely(
    pipeline: Callable[..., VideoReader], text: str
) -> None:
    reader = pipeline(text, stall_s=5.0)
    with pytest.raises(StuckError):
        reader.open()


def test_a_pipeline_whose_file_is_missing_is_looked_for_as_often_as_a_film(
    pipeline: Callable[..., VideoReader],
) -> None:
    reader = pipeline("filesrc location=away.mp4 ! decodebin", stall_s=5.0)
    with pytest.raises(SourceError) as caught:
        reader.open()
    assert not isinstance(caught.value, StuckError)


def test_a_pipeline_of_huge_pictures_is_refused_by_its_header(
    pipeline: Callable[..., VideoReader],
) -> None:
    reader = pipeline("videotestsrc ! video/x-raw,width=1280,height=720", max_pixels=1000)
    with pytest.raises(SourceError, match="1280 x 720, more than max_pixels = 1000"):
        reader.open()
    assert not _children()


def test_a_pipeline_that_hangs_is_given_up(pipeline: Callable[..., VideoReader]) -> None:
    reader = pipeline("videotestsrc is-live=true ! video/x-raw,width=64,height=48", stall_s=1.0)
    reader.open()
    _read(reader, 2)
    (child,) = _children()
    child.suspend()
    with pytest.raises(SourceError, match="has given nothing for 1 s"):
        _read(reader, 1_000_000)
    reader.close()
    assert not _children()


def test_a_pipeline_that_is_killed_is_started_again(
    pipeline: Callable[..., VideoReader], eventually: Eventually
) -> None:
    live = _live(pipeline("videotestsrc is-live=true ! video/x-raw,width=64,height=48"))
    eventually(lambda: _sees(live))
    (child,) = _children()
    child.kill()
    eventually(lambda: live.state().opened == 2)
    eventually(lambda: _sees(live))
    live.close()
    eventually(lambda: not _children())


ORPHAN = """
import os, sys, threading
from pathlib import Path
from hedge.runtime.sources.options import VideoSource
from hedge.runtime.sources.video.reader import VideoReader
reader = VideoReader(VideoSource(pipeline="videotestsrc num-buffers=2 ! video/x-raw,"
    "width=64,height=48,framerate=1/3600 ! identity sync=true"), base=Path("."))
reader.open()
print("open", flush=True)
threading.Event().wait()
"""


def test_a_pipeline_ends_with_the_process_that_reads_it(
    tmp_path: Path, pipeline: Callable[..., VideoReader], eventually: Eventually
) -> None:
    pipeline("videotestsrc")  # or skip
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, cwd=tmp_path
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"open\n"
        (child,) = psutil.Process(process.pid).children()
        os.kill(process.pid, signal.SIGKILL)
    eventually(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_what_a_pipeline_says_without_end_does_not_stop_it(
    pipeline: Callable[..., VideoReader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GST_DEBUG", "6")  # megabytes of it on standard error
    reader = pipeline("videotestsrc num-buffers=30 ! video/x-raw,width=64,height=48")
    reader.open()
    captured: list[Captured] = []
    while (found := reader.read()) is not None:
        with contextlib.suppress(DataError):
            captured += found
    reader.close()
    assert len(captured) == 30
