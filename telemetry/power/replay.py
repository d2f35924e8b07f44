"""Plays a recording as if its sensor were here; whatever comes of it says "replayed".

It plays by the clock that it is given: at each moment the row that was the last by then, as a
sensor says its last value. After its last row it begins again, and where the recording has a gap,
it says nothing.
"""

from __future__ import annotations

import bisect
from pathlib import Path
from statistics import median

from ..clock import Clock
from .reader import PowerSource
from .recording import Recording, read_recording

_GAP = 3.0  # times the usual time between two rows


class ReplayReader:
    """Says what a recording says at this moment since it was opened."""

    def __init__(self, recording: Recording, *, clock: Clock) -> None:
        self._rows = recording.rows
        self._times = [t_s - recording.rows[0][0] for t_s, _ in recording.rows]
        steps = [b - a for a, b in zip(self._times, self._times[1:], strict=False)]
        self._usual_s = median(steps)
        self._whole_s = self._times[-1] + self._usual_s
        self._clock = clock
        self._began_ns = clock()
        self._is_closed = False
        self.source = PowerSource(
            name=f"{recording.source} of {recording.board}, {recording.image}",
            kind="power",
            rails=recording.rails,
            total=recording.total,
            scope=recording.scope,
            step=recording.step,
            fastest_hz=1 / self._usual_s,
            negative=recording.negative,
            replayed=True,
        )

    def read(self) -> tuple[float | None, ...]:
        """Return the watts of each rail at this moment of the recording."""
        at_s = (self._clock() - self._began_ns) / 1e9 % self._whole_s
        place = bisect.bisect_right(self._times, at_s) - 1
        if self._is_closed or at_s - self._times[place] > _GAP * self._usual_s:
            return (None,) * len(self.source.rails)
        return self._rows[place][1]

    def close(self) -> None:
        """Play no more."""
        self._is_closed = True


def open_replay(path: Path, *, clock: Clock) -> ReplayReader:
    """Return the reader of a recording, which begins now.

    Raises:
        ConfigError: it cannot be read or is none; says which line.
    """
    return ReplayReader(read_recording(path), clock=clock)
