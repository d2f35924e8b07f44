"""Reads the pictures of a camera or a film."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from ....models.errors import MissingExtraError
from ....telemetry.clock import Clock, boottime_ns
from ..options import VideoSource
from ..source import Captured, Recorder
from .place import let_in, place_of

if TYPE_CHECKING:
    from .playing import Playing


class VideoReader:
    """Reads a file, an ``rtsp://`` address, a V4L2 device or a GStreamer pipeline.

    A `Reader`: it captures pictures (height, width, 3) uint8 in RGB, whose ``meta`` has
    ``at_s``, the time within the film or since the camera's begin, and of a film its ``file``.
    Relative paths begin at ``base``.

    Raises (as it is made):
        ConfigError: the options do not go together, or name what is not there.
        MissingExtraError: PyAV is not installed.
    """

    def __init__(self, options: VideoSource, *, base: Path, clock: Clock = boottime_ns) -> None:
        place = place_of(options, base=base)
        try:  # PyAV is needed only where there is a video
            from .decoder import decoding_of  # noqa: PLC0415
            from .playing import Playing  # noqa: PLC0415
            from .recorder import PacketRecorder  # noqa: PLC0415
        except ModuleNotFoundError as error:
            raise MissingExtraError("av", extra="video") from error
        decoding = decoding_of(
            options.decoder, threads=options.threads, max_pixels=options.max_pixels
        )
        self._recorder = recorder = PacketRecorder()
        self._let_in = partial(let_in, place, options.password_file, base=base)
        self._play = partial(
            Playing,
            options=options,
            decoding=decoding,
            recorder=recorder,
            base=base,
            clock=clock,
        )
        self._playing: Playing | None = None

    @property
    def recorder(self) -> Recorder:
        """What keeps the last seconds as they came, once it is told how many."""
        return self._recorder

    def open(self) -> None:
        """Open the video.

        Raises:
            SourceError: it is not there, or is none that can be read, or the password's file
                cannot be read; what to do.
        """
        self.close()
        self._playing = self._play(self._let_in())

    def read(self) -> list[Captured] | None:
        """Return the next picture, or none; None: the film is at its end.

        While nothing comes it waits for ``stall_s``, since FFmpeg cannot go on with what is
        interrupted.

        Raises:
            DataError: a picture is no good, or larger than ``max_pixels``.
            SourceError: the camera has gone, or has given nothing for ``stall_s``.
        """
        return None if self._playing is None else self._playing.read()

    def close(self) -> None:
        """Close the video; closing twice is harmless."""
        playing, self._playing = self._playing, None
        if playing is not None:
            playing.close()
