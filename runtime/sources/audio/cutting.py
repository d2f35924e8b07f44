"""Sound cut into windows that become the bundle's once they are resampled."""

from __future__ import annotations

import numpy as np

from ....models.errors import DataError, SourceError
from ....models.inputs.resampling import check_rate, source_samples
from ....models.manifest import AudioInput
from ..source import Captured
from ..windows import Window, Windows
from .feed import Piece

_LONGEST = 1 << 25  # samples of a window at the source's rate


class Cutter:
    """Cuts pieces of sound into windows (n,) of `source_samples` samples, with their rate.

    The next begins ``hop_s``, or the bundle's hop, later, rounded to whole samples of the
    source. A gap, or another rate, begins a window anew. ``evenly``: the sound comes at its own
    pace, so that a window's time is known to the sample. ``meta`` goes with each.
    """

    def __init__(
        self, audio: AudioInput, *, hop_s: float | None, evenly: bool, meta: dict[str, str]
    ) -> None:
        self._audio = audio
        self._hop_s = hop_s or (audio.hop or audio.samples) / audio.sample_rate_hz
        self._evenly = evenly
        self._meta = meta
        self.reset()

    def reset(self) -> None:
        """Forget everything: what comes next has nothing to do with what came."""
        self._windows: Windows | None = None
        self._rate_hz = self._samples = self._hop = 0
        self._heard = self._cut = 0  # samples and windows, since the last gap
        self._end_ns = 0

    def push(self, piece: Piece) -> list[Captured]:
        """Take a piece and return the windows that it completes.

        Raises:
            SourceError: sound at this rate cannot become the bundle's.
        """
        if self._windows is None or piece.rate_hz != self._rate_hz or piece.gap:
            self._windows = self._begin(piece.rate_hz)
        self._heard += len(piece.sound)
        self._end_ns = piece.end_ns
        return self._captured(self._windows.push(piece.sound, piece.end_ns))

    def end(self) -> list[Captured]:
        """Return one window more, filled up with silence, if there is sound that is in none."""
        begin = self._cut * self._hop
        behind = begin - self._hop + self._samples if self._cut else 0  # the last window
        if self._windows is None or self._heard <= max(begin, behind):
            return []
        silence = np.zeros(begin + self._samples - self._heard, np.float32)
        return self._captured(self._windows.push(silence, self._end_ns))

    def _begin(self, rate_hz: int) -> Windows:
        audio = self._audio
        try:
            check_rate(audio, source_hz=rate_hz)
        except DataError as error:
            raise SourceError(error.what, hint=error.hint) from error
        samples = source_samples(audio.samples, rate_hz=audio.sample_rate_hz, source_hz=rate_hz)
        if samples > _LONGEST:
            raise SourceError(f"a window of {samples} samples at {rate_hz} Hz is too long")
        self.reset()
        self._rate_hz, self._samples = rate_hz, samples
        self._hop = max(1, round(self._hop_s * rate_hz))
        period_ns = 1e9 / rate_hz if self._evenly else 0.0
        return Windows(samples, self._hop, channels=None, period_ns=period_ns)

    def _captured(self, windows: list[Window]) -> list[Captured]:
        self._cut += len(windows)
        meta = {**self._meta, "sample_rate_hz": self._rate_hz}
        return [Captured(window, taken_at_ns, dict(meta)) for window, taken_at_ns in windows]
