"""From what a video gives to what its recorder keeps."""

from __future__ import annotations

import io
from fractions import Fraction

import av
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from .clip_file import FORMAT, header_of, seal
from .pace import Limit
from .recorder import Kept, PacketRecorder, Run

_RAW = frozenset({"rawvideo", "wrapped_avframe", "v210", "yuv4"})
_CODEC, _FORM = "mjpeg", "yuvj420p"
_QUALITY = {"flags": "+qscale", "global_quality": str(4 * 118)}  # 2 is best, 31 worst
_RATE_HZ = 10.0  # of what has to be encoded
_MS = Fraction(1, 1000)


class Tape:
    """Hands a recorder the packets of one showing; what is not encoded as JPEG, ten a second."""

    def __init__(self, recorder: PacketRecorder, stream: VideoStream) -> None:
        self._recorder = recorder
        self._stream = stream
        self._encodes = stream.codec_context.name in _RAW
        self._limit = Limit(_RATE_HZ)
        self._encoder: VideoCodecContext | None = None
        self._run: Run | None = None
        self._last = 0

    def add(self, packet: Packet[VideoStream], at_ns: int) -> None:
        """Keep a packet that has come."""
        if not self._recorder.keeps or self._encodes:
            return
        if self._run is None and packet.is_keyframe:
            self._begin()
        if self._run is not None:
            dts = self._last + 1 if packet.dts is None else packet.dts
            pts = dts if packet.pts is None else packet.pts
            self._last = dts
            kept = Kept(bytes(packet), pts, dts, packet.is_keyframe, at_ns)
            self._recorder.add(self._run, kept)

    def show(self, frame: VideoFrame, at_ns: int) -> None:
        """Keep a picture, where packets are not what is kept."""
        if not (self._recorder.keeps and self._encodes and self._limit.takes(at_ns / 1e9)):
            return
        encoder = self._encoder
        if encoder is None or (encoder.width, encoder.height) != (frame.width, frame.height):
            encoder = self._encoder = _encoder(frame.width, frame.height)
            self._run = Run(header=_header(encoder), time_base=_MS)
        picture = frame.reformat(format=_FORM)
        picture.pict_type = 0  # as the encoder likes
        for packet in encoder.encode(picture):
            if self._run is not None:
                at_ms = at_ns // 1_000_000
                self._recorder.add(
                    self._run, Kept(bytes(packet), at_ms, at_ms, keyframe=True, at_ns=at_ns)
                )

    def _begin(self) -> None:
        """Begin a run; pictures of a codec that no clip can hold are encoded anew."""
        try:
            header = header_of(self._stream)
        except (FFmpegError, ValueError):
            self._encodes = True
        else:
            self._run = Run(header=header, time_base=self._stream.time_base or _MS)


def _encoder(width: int, height: int) -> VideoCodecContext:
    encoder = av.CodecContext.create(_CODEC, "w")
    if not isinstance(encoder, VideoCodecContext):
        raise TypeError(_CODEC)
    encoder.width, encoder.height, encoder.pix_fmt = width, height, _FORM
    encoder.time_base, encoder.thread_count = _MS, 1
    encoder.options = _QUALITY
    return encoder


def _header(encoder: VideoCodecContext) -> bytes:
    file = io.BytesIO()
    with av.open(file, "w", format=FORMAT) as output:
        stream = output.add_stream(_CODEC, rate=int(_RATE_HZ))
        stream.width, stream.height, stream.pix_fmt = encoder.width, encoder.height, _FORM
        seal(output, stream)
    return file.getvalue()
