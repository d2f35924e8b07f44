"""Decoders: by default FFmpeg's own, else one by its name or that of a hardware device."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

import av
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.error import FFmpegError
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from ....models.errors import ConfigError, DataError, SourceError

_ROOM = 1 << 16  # pixels: small pictures have relatively large borders
_CODECS = ("h264", "hevc", "av1", "vp9", "vp8", "mjpeg", "mpeg4", "mpeg2")


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How pictures are decoded: in software, or by what ``name`` or ``device`` says."""

    name: str | None = None
    device: str | None = None
    threads: int = 1
    max_pixels: int

    def guard(self) -> dict[str, str]:
        """Return FFmpeg's option that bounds what it allocates.

        It compares the size with borders and alignment, so it has some room; what is still too
        large is refused by its size.
        """
        return {"max_pixels": str(self.max_pixels + self.max_pixels // 4 + _ROOM)}

    def hwaccel(self) -> HWAccel | None:
        """Return the hardware that a container is to be opened with."""
        if self.device is None:
            return None
        return HWAccel(device_type=self.device, allow_software_fallback=False)


def decoding_of(decoder: str | None, *, threads: int, max_pixels: int) -> Decoding:
    """Return how pictures are decoded.

    Raises:
        ConfigError: this FFmpeg has no such decoder or device.
    """
    devices = hwdevices_available()
    if decoder is None or decoder in devices:
        return Decoding(device=decoder, threads=threads, max_pixels=max_pixels)
    if _decodes_video(decoder):
        return Decoding(name=decoder, threads=threads, max_pixels=max_pixels)
    known = [name for name in sorted(av.codecs_available) if _decodes_video(name)]
    few = [name for name in known if name.split("_")[0].startswith(_CODECS)]
    near = difflib.get_close_matches(decoder, known, n=1)
    raise ConfigError(
        f"no decoder {decoder!r}{f'; did you mean {near[0]!r}?' if near else ''}",
        where="source.decoder",
        hint=f"devices: {', '.join(devices) or 'none'}; decoders: {', '.join(few)}",
    )


class Decoder:
    """Decodes the packets of one video stream.

    Raises (as it is made):
        SourceError: nothing here decodes it.
    """

    def __init__(self, stream: VideoStream, decoding: Decoding, *, live: bool, name: str) -> None:
        self._name = name
        self._most = decoding.max_pixels
        self._hint = f"it is corrupt, or larger than max_pixels = {decoding.max_pixels}"
        own = decoder_of(stream)
        if own is None:
            raise SourceError(
                "no decoder here knows its codec",
                where=name,
                hint="set the camera to H.264, or record the film anew",
            )
        self._context = own if decoding.name is None else _named(decoding.name, own, where=name)
        self._context.options = decoding.guard()
        self._context.thread_count = decoding.threads
        self._context.thread_type = "SLICE" if live else "AUTO"  # frames in parallel come late
        try:
            self._context.open(strict=False)
        except (FFmpegError, RuntimeError, NotImplementedError) as error:
            raise SourceError(
                f"the decoder {decoding.name or decoding.device or own.name} does not open: "
                f"{said(error)}",
                where=name,
                hint="without decoder = … it is decoded in software",
            ) from error

    def fault(self, frame: VideoFrame) -> str | None:
        """Return what is wrong with a frame that was decoded."""
        if frame.width * frame.height > self._most:
            return f"has {frame.width} x {frame.height} pixels, more than max_pixels = {self._most}"
        return "is damaged" if frame.is_corrupt else None

    def decode(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """Return the frames that a packet completes; None: those that are left at the end.

        Raises:
            DataError: the packet is no good.
        """
        try:
            return self._context.decode(packet)
        except EOFError:  # flushed already
            return []
        except (FFmpegError, RuntimeError, NotImplementedError) as error:
            raise DataError(
                f"a picture cannot be decoded: {said(error)}", where=self._name, hint=self._hint
            ) from error


def decoder_of(stream: VideoStream) -> VideoCodecContext | None:
    """Return FFmpeg's own decoder for a stream; None: it has none (PyAV's types forget that)."""
    return stream.codec_context


def said(error: BaseException) -> str:
    """Return what FFmpeg says, without the address that it may repeat."""
    if isinstance(error, FFmpegError):
        return str(error.strerror)
    return str(error) or type(error).__name__


def _named(name: str, own: VideoCodecContext, *, where: str) -> VideoCodecContext:
    context = av.CodecContext.create(name, "r")
    if not isinstance(context, VideoCodecContext) or context.codec.id != own.codec.id:
        raise SourceError(
            f"the decoder {name} does not decode its {own.codec.canonical_name}",
            where=where,
            hint="name another decoder, or none",
        )
    context.extradata = own.extradata
    context.width, context.height = own.width, own.height
    return context


def _decodes_video(name: str) -> bool:
    try:
        return bool(av.Codec(name, "r").type == "video")
    except (FFmpegError, ValueError):  # no such codec, or it only encodes
        return False
