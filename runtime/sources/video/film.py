"""An open video: its container, and its packets as they come."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import stat
import time
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

from ....models.errors import DataError, SourceError
from ..options import VideoSource
from ..plain_file import check_plain
from .decoder import Decoding, decoder_of, said
from .pipeline import Pipeline
from .place import Place

_REACH_S = 1.25  # a camera that is there answers at once; what is lost is sent again after 1 s
_OPEN_S = 5.0
_WAIT_S = 0.25
_ERRORS = 16  # of a file in a row: the rest of it is lost
_PROBED_US = "200000"  # of a live stream before it is taken as what it says it is


class Film:
    """A video that is open until it is closed."""

    def __init__(
        self, place: Place, options: VideoSource, decoding: Decoding, *, base: Path
    ) -> None:
        self._place = place
        self._options = options
        self._errors = 0
        self._silent_s = 0.0
        self._pipeline: Pipeline | None = None
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._container: InputContainer | None = None
            if place.kind == "pipeline":
                self._pipeline = Pipeline(
                    place.elements,
                    where=place.name,
                    base=base,
                    stall_s=options.stall_s,
                    max_pixels=options.max_pixels,
                )
            if place.server is not None:
                _reach(place.server, where=place.name)
            if place.kind == "file":
                check_plain(Path(place.url))
            if place.kind == "device":
                _look(place)
            self._container = self._opened(decoding)
            self._device = _descriptor(place.url) if place.kind == "device" else None
            self.stream = self._video(self._container)
            self._packets = self._container.demux(self.stream)
            undo.pop_all()

    def packets(self) -> list[Packet[VideoStream]] | None:
        """Return the next packet, or none if a device has none for a quarter of a second.

        None: the end. The last packet before it is empty, and flushes the decoder.

        Raises:
            DataError: a part of a file cannot be read; what is behind it perhaps can.
            SourceError: what is live has gone, or has given nothing for ``stall_s``.
        """
        if self._device is not None and not self._ready(self._device):
            return []
        try:
            packet = next(self._packets, None)
        except (FFmpegError, OSError) as error:
            if self._failed(error):
                return None
            raise self._gone(error) from self._cause(error)
        self._errors = 0
        if packet is not None and packet.size:
            return [packet]
        if packet is not None and packet.dts is not None:  # a picture that was left out (AVI)
            return []
        self._end()
        return None

    def close(self) -> None:
        """Close it; closing twice is harmless."""
        if self._container is not None:
            self._container.close()
        if self._pipeline is not None:
            self._pipeline.close()

    def _ready(self, device: int) -> bool:
        """Wait for a device, for which FFmpeg itself would wait for ever."""
        if select.select([device], [], [], _WAIT_S)[0]:
            self._silent_s = 0.0
            return True
        self._silent_s += _WAIT_S
        if self._silent_s >= self._options.stall_s:
            raise self._silent()
        return False

    def _end(self) -> None:
        """Be at the end, where there may be one.

        Raises:
            SourceError: it was to go on.
        """
        if self._pipeline is not None:
            error = self._pipeline.ended()
            if error is not None:
                raise error
        elif self._place.live:
            raise SourceError("has ended the stream", where=self._place.name)

    def _failed(self, error: Exception) -> bool:
        """Return whether the end of a file is lost; what is live has gone away.

        Raises:
            DataError: this part of a file is no good.
        """
        if self._place.live:
            return False
        self._errors += 1
        if self._errors > _ERRORS or self._container is None:
            return True
        self._packets = self._container.demux(self.stream)
        raise DataError(f"cannot be read here: {said(error)}", where=self._place.name) from error

    def _gone(self, error: Exception) -> SourceError:
        if self._pipeline is not None:
            return self._pipeline.ended() or SourceError(said(error), where=self._place.name)
        if isinstance(error, (av.error.ExitError, TimeoutError)):
            return self._silent()
        return SourceError(f"has gone away: {said(error)}", where=self._place.name)

    def _cause(self, error: Exception) -> Exception | None:
        """Return what may be told as the cause: FFmpeg names an address with its password."""
        return None if self._place.live else error

    def _silent(self) -> SourceError:
        return SourceError(
            f"has given nothing for {self._options.stall_s:g} s", where=self._place.name
        )

    def _opened(self, decoding: Decoding) -> InputContainer:
        place, options = self._place, self._options
        file = place.url if self._pipeline is None else self._pipeline
        begun_s = time.monotonic()
        try:
            return av.open(
                file,
                "r",
                format={"device": "v4l2", "pipeline": "yuv4mpegpipe"}.get(place.kind),
                options=decoding.guard() | _asked(place, options),
                timeout=(_OPEN_S, options.stall_s),
                hwaccel=decoding.hwaccel(),
            )
        except (FFmpegError, OSError, RuntimeError, NotImplementedError, ValueError) as error:
            why = None if self._pipeline is None else self._pipeline.ended()
            if why is None and time.monotonic() - begun_s >= _OPEN_S:  # FFmpeg calls it bad data
                why = SourceError(f"does not open within {_OPEN_S:g} s", where=place.name)
            raise why or _unopened(error, place, decoding) from self._cause(error)

    def _video(self, container: InputContainer) -> VideoStream:
        if not container.streams.video:
            raise SourceError("has no video", where=self._place.name)
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream):
            stream = container.streams.video[0]
        context, most = decoder_of(stream), self._options.max_pixels
        if context is not None and context.width * context.height > most:
            raise SourceError(
                f"declares pictures of {context.width} x {context.height}, more than "
                f"max_pixels = {most}",
                where=self._place.name,
                hint="set the camera to a smaller size, or max_pixels higher",
            )
        if not self._place.live and context is not None and not context.width:
            raise SourceError(  # FFmpeg forgets a size that it refuses
                f"its pictures have no size, or more than max_pixels = {most}",
                where=self._place.name,
                hint="ffprobe says what it is",
            )
        return stream


def _asked(place: Place, options: VideoSource) -> dict[str, str]:
    """Return FFmpeg's options for what is read."""
    asked = {"threads": "1"}
    match place.kind:
        case "network":
            asked |= {"analyzeduration": _PROBED_US}
            if place.url.startswith("rtsp"):
                asked |= {"rtsp_transport": options.transport, "allowed_media_types": "video"}
        case "pipeline":  # its header says all
            asked |= {"fpsprobesize": "0", "analyzeduration": "1"}
        case "device":
            if options.size is not None:
                asked["video_size"] = f"{options.size[0]}x{options.size[1]}"
            if options.fps is not None:
                asked["framerate"] = f"{options.fps:g}"
            if options.pixel_format is not None:
                asked["input_format"] = options.pixel_format
    return asked


def _reach(server: tuple[str, int], *, where: str) -> None:
    """See that somebody listens, which takes FFmpeg much longer to find out."""
    try:
        socket.create_connection(server, _REACH_S).close()
    except TimeoutError as error:
        raise SourceError(
            f"does not answer within {_REACH_S:g} s",
            where=where,
            hint="is it on, and in this network?",
        ) from error
    except OSError as error:
        raise SourceError(f"cannot be reached: {error.strerror or error}", where=where) from error


def _look(place: Place) -> None:
    """See that a device is there and may be read; FFmpeg says less of it."""
    try:
        os.close(os.open(place.url, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise SourceError(
            str(error.strerror), where=place.name, hint=_HINTS.get((place.kind, error.errno or 0))
        ) from error


def _descriptor(device: str) -> int | None:
    """Return by which descriptor FFmpeg has opened a device; None: by one that is not ours."""
    wanted = Path(device).stat().st_rdev
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):
            found = os.fstat(int(entry.name))
            if stat.S_ISCHR(found.st_mode) and found.st_rdev == wanted:
                return int(entry.name)
    return None


def _unopened(error: Exception, place: Place, decoding: Decoding) -> SourceError:
    """Say why it does not open, and what helps."""
    what, hint = said(error), None
    if isinstance(error, av.error.InvalidDataError):
        what, hint = "is no video that can be read", "is it whole? ffprobe says what it is"
    elif isinstance(error, av.error.HTTPUnauthorizedError):
        hint = _LOGIN[place.login]
    elif decoding.device is not None:
        what = f"the device {decoding.device} does not decode it: {what}"
        hint = "without decoder = … it is decoded in software"
    elif isinstance(error, OSError):
        hint = _HINTS.get((place.kind, error.errno or 0))
    return SourceError(what, where=place.name, hint=hint)


_LOGIN = {
    "none": "name the user in the url, and a password_file",
    "user": "name a password_file, too",
    "password": "the user in the url, or what is in password_file, is wrong",
}
_HINTS = {
    ("device", errno.ENOENT): "is the camera plugged in? v4l2-ctl --list-devices shows which are",
    ("device", errno.EACCES): "add the user to the group video",
    ("device", errno.EBUSY): "another program has it open",
    ("device", errno.EINVAL): "v4l2-ctl --list-formats-ext shows its sizes, rates and formats",
}
