"""From the configuration of a stream to its open source."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path

from ...models.dataset import load_dataset
from ...models.manifest import Input
from ..config import UplinkConfig
from .folder import Folder
from .live import Live
from .options import (
    AnySource,
    AudioSource,
    FolderSource,
    ImagesSource,
    LiveOptions,
    MqttSource,
    ReplaySource,
    SerialSource,
    SocketSource,
    StdinSource,
    VideoSource,
)
from .replay import Replay
from .source import Reader, Source


@dataclass(frozen=True, kw_only=True)
class Surroundings:
    """What a source may need beside its options.

    Relative paths begin at ``base``. ``device`` names it, and by ``uplink`` topics are read that
    name no broker of their own.
    """

    base: Path
    device: str
    uplink: UplinkConfig | None


def open_source(
    name: str,
    options: AnySource,
    spec: Input,
    *,
    around: Surroundings,
    bell: threading.Event,
    keep: tuple[float, int] | None = None,
) -> Source:
    """Open the source of the stream ``name``; a live one is still to `begin`.

    It rings the ``bell``.

    ``keep`` are the seconds, and the bytes at most, that its recorder is to keep.

    Raises:
        HedgeError: it can never be read so: an option, a missing library, no such data set.
    """
    match options:
        case ReplaySource(path=path, rate_hz=rate_hz):
            data = load_dataset(around.base / path).fitted(spec, where=str(around.base / path))
            return Replay(data.x, rate_hz=rate_hz)
        case FolderSource(path=path, rate_hz=rate_hz):
            return Folder(around.base / path, rate_hz=rate_hz)
        case _:
            reader = reader_of(name, options, spec, around=around)
            if keep is not None and reader.recorder is not None:
                reader.recorder.keep(seconds=keep[0], max_bytes=keep[1])
            return Live(
                reader,
                name=name,
                policy=options.policy or ("every" if waits(options) else "latest"),
                buffer=options.buffer,
                ring=bell.set,
                begin=False,
            )


def reader_of(  # noqa: PLR0911 -- one for each kind
    name: str, options: LiveOptions, spec: Input, *, around: Surroundings
) -> Reader:
    """Return what reads a live source; it is not open yet.

    Raises:
        HedgeError: it can never be read so.
    """
    match options:  # each with libraries of its own
        case VideoSource():
            from .video.reader import VideoReader  # noqa: PLC0415

            return VideoReader(options, base=around.base)
        case ImagesSource():
            from .images import ImagesReader  # noqa: PLC0415

            return ImagesReader(options, base=around.base)
        case AudioSource():
            from .audio.reader import AudioReader  # noqa: PLC0415

            return AudioReader(options, spec, base=around.base)
        case SerialSource():
            from .serial_port import SerialReader  # noqa: PLC0415

            return SerialReader(options, spec)
        case MqttSource():
            from .topic import TopicReader  # noqa: PLC0415

            return TopicReader(options, spec, name=name, around=around)
        case SocketSource():
            from .unix_socket import SocketReader  # noqa: PLC0415

            return SocketReader(options, spec, base=around.base)
        case StdinSource():
            from .standard_input import StdinReader  # noqa: PLC0415

            return StdinReader(options, spec)
    raise TypeError(type(options))


def waits(options: LiveOptions) -> bool:
    """Return whether the source can be kept waiting without loss, and so is by default."""
    match options:
        case VideoSource(url=url, realtime=realtime):
            return not realtime and url is not None and is_file(url)
        case AudioSource(path=path, realtime=realtime):
            return not realtime and path is not None
        case ImagesSource() | StdinSource() | SocketSource():
            return True
        case _:
            return False


def is_file(url: str) -> bool:
    """Return whether a video's URL is that of a file: no network address, no device."""
    return "://" not in url and not url.startswith("/dev/")
