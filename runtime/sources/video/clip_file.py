"""Clips: packets as they came in a Matroska file, which takes every codec."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import IO, TYPE_CHECKING

import av
from av.container import OutputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.stream import VideoStream

if TYPE_CHECKING:
    from .recorder import Kept

FORMAT = "matroska"
_FILE_BYTES = 4096  # at most, beside the packets
_PACKET_BYTES = 64  # at most, beside its data


def header_of(stream: VideoStream) -> bytes:
    """Return an all but empty file of a stream's codec, by which others are made later."""
    file = io.BytesIO()
    with av.open(file, "w", format=FORMAT) as output:
        seal(output, output.add_stream_from_template(stream, opaque=True))
    return file.getvalue()


def seal(output: OutputContainer, stream: VideoStream) -> None:
    """Write an all but empty packet: what has none at all cannot be opened."""
    packet = Packet(bytes(8))
    packet.stream, packet.time_base = stream, Fraction(1, 1000)
    packet.pts = packet.dts = 0
    packet.is_keyframe = True
    output.mux(packet)


def write_clip(
    path: Path, header: bytes, time_base: Fraction, packets: Sequence[Kept], *, max_bytes: int
) -> bool:
    """Write as many of the packets as fit, beginning at zero; False: not even the first does.

    Raises:
        OSError: it cannot be written; nothing half-written stays.
    """
    fitting = _fitting(packets, max_bytes)
    if not fitting:
        return False
    beside = path.with_name(f"{path.name}.new")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        with beside.open("w+b") as file:
            _mux(file, header, time_base, fitting)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except FFmpegError as error:
        raise _failure(error, path) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
    return True


def _failure(error: FFmpegError, path: Path) -> OSError:
    """Return what has failed: behind FFmpeg's word for that stands the file's own error."""
    behind = error.__cause__ or error.__context__
    why = behind if isinstance(behind, OSError) else error
    return OSError(why.errno, str(why.strerror), str(path))


def _fitting(packets: Sequence[Kept], max_bytes: int) -> Sequence[Kept]:
    left = max_bytes - _FILE_BYTES
    for number, packet in enumerate(packets):
        left -= len(packet.data) + _PACKET_BYTES
        if left < 0:
            return packets[:number]
    return packets


def _mux(file: IO[bytes], header: bytes, time_base: Fraction, packets: Sequence[Kept]) -> None:
    origin = min(packets[0].dts, packets[0].pts)
    least = 0
    with (
        av.open(io.BytesIO(header), format=FORMAT) as template,
        av.open(file, "w", format=FORMAT) as output,
    ):
        stream = output.add_stream_from_template(template.streams.video[0], opaque=True)
        for kept in packets:
            packet = Packet(kept.data)
            least = max(least, kept.dts - origin)  # a camera's time may step back
            packet.stream, packet.time_base = stream, time_base
            packet.dts, packet.pts = least, max(least, kept.pts - origin)
            packet.is_keyframe = kept.keyframe
            output.mux(packet)
