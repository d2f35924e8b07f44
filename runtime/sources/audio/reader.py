"""Reads sound as windows of the bundle's length, from an ALSA device or a file."""

from __future__ import annotations

from pathlib import Path

from ....models.errors import ConfigError, MissingExtraError
from ....models.manifest import AudioInput, Input
from ....telemetry.clock import Clock, boottime_ns
from ..options import AudioSource
from ..source import Captured
from .alsa import Arecord
from .cutting import Cutter
from .feed import Feed
from .recording import SoundRecorder


class AudioReader:
    """Reads what ``options`` name, in windows of the length that ``spec`` asks for.

    The end of a file that no window holds yet comes as one more, filled up with silence.

    Raises:
        ConfigError: not just one of ``device`` and ``path``; no program to read a device; a
            bundle that takes no sound.
        MissingExtraError: a file is to be read, and PyAV is not installed.
    """

    def __init__(
        self, options: AudioSource, spec: Input, *, base: Path, clock: Clock = boottime_ns
    ) -> None:
        if spec.audio is None:
            raise ConfigError(
                "the bundle does not say how sound becomes a sample",
                where="source",
                hint="its manifest needs [input.audio]",
            )
        self._feed = _feed(options, spec.audio, base=base, clock=clock)
        self._cutter = Cutter(
            spec.audio,
            hop_s=options.hop_s,
            evenly=options.realtime or options.path is None,
            meta={} if options.path is None else {"file": Path(options.path).name},
        )
        self.recorder = SoundRecorder()

    def open(self) -> None:
        """Open the device or the file.

        Raises:
            SourceError: it is not there, or cannot do what is asked of it.
        """
        self._cutter.reset()
        self._feed.open()

    def read(self) -> list[Captured] | None:
        """Return the windows that are complete; None: the file has ended.

        Raises:
            DataError: a part of a file is damaged.
            SourceError: the device or the file has gone away.
        """
        pieces = self._feed.read()
        if pieces is None:
            last = self._cutter.end()
            self._cutter.reset()
            return last or None
        windows: list[Captured] = []
        for piece in pieces:
            self.recorder.add(piece)
            windows += self._cutter.push(piece)
        return windows

    def close(self) -> None:
        """Close the device or the file."""
        self._feed.close()


def _feed(options: AudioSource, audio: AudioInput, *, base: Path, clock: Clock) -> Feed:
    match options:
        case AudioSource(device=str(device), path=None):
            channels = options.channels or (options.channel or 0) + 1
            if options.channel is not None and options.channel >= channels:
                raise ConfigError(
                    f"{options.channel} of only {channels}, counted from 0", where="source.channel"
                )
            return Arecord(
                device,
                rate_hz=options.sample_rate_hz or round(audio.sample_rate_hz),
                exactly=options.sample_rate_hz is not None,
                channels=channels,
                channel=options.channel,
                stall_s=options.stall_s,
                clock=clock,
            )
        case AudioSource(device=None, path=str(path)):
            try:
                from .sound_file import SoundFile  # noqa: PLC0415 -- an extra
            except ImportError as error:
                raise MissingExtraError("PyAV", extra="audio") from error
            return SoundFile(
                base / path, channel=options.channel, realtime=options.realtime, clock=clock
            )
    raise ConfigError(
        "neither a device nor a path, or both",
        where="source",
        hint="device = 'default' for a microphone, path = 'sound.wav' for a file",
    )
