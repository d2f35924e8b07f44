"""The sound of a file: WAV, FLAC, MP3, Ogg and what else FFmpeg decodes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import av
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.error import FFmpegError, InvalidDataError
from av.packet import Packet

from ....models.errors import DataError, SourceError
from ....telemetry.clock import Clock, boottime_ns
from ..plain_file import check_plain
from .feed import Piece, mono

_WAIT_S = 0.25
_MOST_CHANNELS = 64
_MOST_HZ = 1_000_000
_GAP_S = 0.01  # more than time stamps are rounded by, less than any packet of sound
_OPTIONS = {"protocol_whitelist": "file"}  # a playlist must not lead elsewhere


class SoundFile:
    """Decodes ``path`` from its begin to its end; at its own pace where ``realtime``.

    Of several sound tracks the first is taken; of its channels ``channel``, or the mean of all.

    """

    def __init__(
        self, path: Path, *, channel: int | None, realtime: bool, clock: Clock = boottime_ns
    ) -> None:
        self._path = path
        self._channel = channel
        self._realtime = realtime
        self._clock = clock
        self._container: InputContainer | None = None
        self._packets: Iterator[Packet[AudioStream]] = iter(())
        self._next: list[Piece] | None = None
        self._begin()

    def open(self) -> None:
        """Open the file at its begin.

        Raises:
            SourceError: it is not there, is no sound, or does not have that channel.
        """
        self._begin()
        check_plain(self._path)
        try:
            self._container = av.open(str(self._path), options=_OPTIONS)
        except (FFmpegError, ValueError) as error:
            hint = "is it whole? ffprobe says what it is"
            raise self._away("no sound file that can be read", error, hint=hint) from error
        tracks = self._container.streams.audio
        if not tracks:
            raise self._away("there is no sound in this file", hint="name another path")
        self._check(tracks[0])
        self._packets = self._container.demux(tracks[0])

    def read(self) -> list[Piece] | None:
        """Return the next sound, once it is due.

        Raises:
            DataError: a packet is damaged; the one after it may not be.
            SourceError: the file can no longer be read.
        """
        if self._next is None:
            packet = self._packet()
            if packet is None:
                return None
            self._next = self._decoded(packet)
        if self._realtime and not self._due():
            return []
        pieces, self._next = self._next, None
        return pieces

    def close(self) -> None:
        """Close the file."""
        container, self._container = self._container, None
        if container is not None:
            container.close()

    def _begin(self) -> None:
        self._next = None
        self._gap = False
        self._next_s: float | None = None  # the time stamp that the next frame should have
        self._began_ns, self._played_s = self._clock(), 0.0

    def _check(self, track: AudioStream) -> None:
        context = track.codec_context
        if context is None:
            raise self._away("nothing here decodes its sound")
        if not 0 < context.rate <= _MOST_HZ:
            raise self._away(f"a sample rate of {context.rate} Hz")
        self._check_channels(context.layout.nb_channels)

    def _check_channels(self, channels: int) -> None:
        if not 0 < channels <= _MOST_CHANNELS:
            count = channels or "none, or more than FFmpeg takes"  # it makes 0 of 65535
            raise self._away(
                f"channels in its header: {count}; 1 to {_MOST_CHANNELS} can be read",
                hint="is it whole? ffprobe says what it is",
            )
        if self._channel is not None and self._channel >= channels:
            raise self._away(
                f"no channel {self._channel}: it has {channels}, counted from 0",
                hint="set the source's channel lower, or leave it out for the mean of all",
            )

    def _packet(self) -> Packet[AudioStream] | None:
        try:
            return next(self._packets, None)
        except InvalidDataError as error:
            raise self._damaged(error) from error
        except (FFmpegError, OSError) as error:
            raise self._away("it cannot be read any further", error) from error

    def _decoded(self, packet: Packet[AudioStream]) -> list[Piece]:
        try:
            return [self._piece(frame) for frame in packet.decode()]
        except EOFError:  # flushed already
            return []
        except (FFmpegError, ValueError) as error:
            raise self._damaged(error) from error

    def _piece(self, frame: AudioFrame) -> Piece:
        channels = frame.layout.nb_channels
        self._check_channels(channels)  # they may change on the way
        samples = frame.to_ndarray()
        samples = samples.T if frame.format.is_planar else samples.reshape(-1, channels)
        length_s = len(samples) / frame.sample_rate
        self._played_s += length_s
        if frame.time is not None:  # where a demuxer leaves out what is damaged
            self._gap |= abs(frame.time - (self._next_s or frame.time)) > _GAP_S
            self._next_s = frame.time + length_s
        end_ns = self._due_ns() if self._realtime else self._clock()
        gap, self._gap = self._gap, False
        return Piece(mono(samples, self._channel), frame.sample_rate, end_ns, gap)

    def _due_ns(self) -> int:
        return self._began_ns + round(self._played_s * 1e9)

    def _due(self) -> bool:
        left_s = (self._due_ns() - self._clock()) / 1e9
        time.sleep(min(max(left_s, 0.0), _WAIT_S))
        return left_s <= _WAIT_S

    def _away(
        self, what: str, error: BaseException | None = None, *, hint: str | None = None
    ) -> SourceError:
        said = f": {_said(error)}" if error is not None else ""
        return SourceError(f"{what}{said}", where=str(self._path), hint=hint)

    def _damaged(self, error: BaseException) -> DataError:
        self._gap = True
        return DataError(
            f"damaged sound after {self._played_s:.2f} s: {_said(error)}", where=str(self._path)
        )


def _said(error: BaseException) -> str:
    """Return what FFmpeg says, without the path that it repeats."""
    return str(error.strerror) if isinstance(error, FFmpegError) else str(error)
