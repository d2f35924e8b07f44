"""The last seconds of a stream's sound, kept for the clips of events."""

from __future__ import annotations

import os
import threading
import wave
from collections import deque
from pathlib import Path
from typing import NamedTuple

import numpy as np

from .feed import Piece

_HEADER_BYTES = 44
_WIDTH = 2


class _Kept(NamedTuple):
    begin_ns: int
    end_ns: int
    rate_hz: int
    pcm: bytes  # int16, mono


class SoundRecorder:
    """Keeps the mono sound that was heard, as int16; nothing until it is told how much.

    A clip begins and ends with a whole piece of sound as it came (a twentieth of a second of a
    device, some thousand samples of a file).
    """

    suffix = ".wav"

    def __init__(self) -> None:
        self._pieces: deque[_Kept] = deque()
        self._lock = threading.Lock()
        self._most_ns = self._most_bytes = 0
        self._kept_ns = self._kept_bytes = 0
        self._last_ns: int | None = None

    def keep(self, *, seconds: float, max_bytes: int) -> None:
        """Keep ``seconds`` of sound from now on, and no more than ``max_bytes``."""
        with self._lock:
            self._most_ns, self._most_bytes = round(seconds * 1e9), max_bytes

    def add(self, piece: Piece) -> None:
        """Take what was heard; what is too old gives way."""
        if self._most_ns <= 0:
            return
        begin_ns = piece.end_ns - _length_ns(len(piece.sound), piece.rate_hz)
        if self._last_ns is not None:  # a file that is read faster than it plays
            begin_ns = max(begin_ns, min(self._last_ns, piece.end_ns))
        self._last_ns = piece.end_ns
        loud = np.clip(np.rint(piece.sound * 32768.0), -32768, 32767)
        kept = _Kept(begin_ns, piece.end_ns, piece.rate_hz, loud.astype("<i2").tobytes())
        with self._lock:
            self._pieces.append(kept)
            self._count(kept, 1)
            while self._kept_ns > self._most_ns or self._kept_bytes > self._most_bytes:
                self._count(self._pieces.popleft(), -1)

    def save(self, path: Path, *, begin_ns: int, end_ns: int, max_bytes: int) -> bool:
        """Write what was heard between two moments as a WAV file, whole or not at all.

        False: nothing is kept of that time. Of sound at several rates, as of a device that came
        back with another, the last is written.

        Raises:
            OSError: it cannot be written.
        """
        with self._lock:
            found = [one for one in self._pieces if one.end_ns > begin_ns and one.begin_ns < end_ns]
        if not found:
            return False
        rate_hz = found[-1].rate_hz
        pcm = b"".join(one.pcm for one in found if one.rate_hz == rate_hz)
        room = max(0, max_bytes - _HEADER_BYTES) // _WIDTH * _WIDTH
        if room == 0:
            return False
        _write(path, pcm[:room], rate_hz=rate_hz)
        return True

    def _count(self, kept: _Kept, sign: int) -> None:
        self._kept_ns += sign * _length_ns(len(kept.pcm) // _WIDTH, kept.rate_hz)
        self._kept_bytes += sign * len(kept.pcm)


def _length_ns(samples: int, rate_hz: int) -> int:
    return samples * 1_000_000_000 // rate_hz


def _write(path: Path, pcm: bytes, *, rate_hz: int) -> None:
    beside = path.with_name(f".{path.name}.part")
    try:
        with (
            os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file,
            wave.open(file, "wb") as sound,
        ):
            sound.setnchannels(1)
            sound.setsampwidth(_WIDTH)
            sound.setframerate(rate_hz)
            sound.writeframes(pcm)
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise
