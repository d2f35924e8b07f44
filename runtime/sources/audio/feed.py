"""The Feed protocol: what mono sound comes from, piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray


class Piece(NamedTuple):
    """Some mono sound: ``sound`` (n,) float32 in [-1, 1), in order behind the piece before it.

    ``end_ns`` is when its last sample was captured (CLOCK_BOOTTIME). ``gap`` says that something
    was lost between the piece before it and this one.
    """

    sound: NDArray[np.float32]
    rate_hz: int
    end_ns: int
    gap: bool = False


class Feed(Protocol):
    """Gives the sound of a device or a file; used by one thread."""

    def open(self) -> None:
        """Connect.

        Raises:
            SourceError: it is not there, or refuses.
        """

    def read(self) -> Sequence[Piece] | None:
        """Return what has come; wait for it a quarter of a second at most. None: it has ended.

        Raises:
            DataError: a part of it is damaged; what follows begins with a gap.
            SourceError: it has gone away.
        """

    def close(self) -> None:
        """Disconnect; closing twice is harmless."""


def mono(samples: NDArray[Any], channel: int | None) -> NDArray[np.float32]:
    """Return one channel of ``samples`` (n, channels), or the mean of all: (n,) in [-1, 1).

    Integers are divided by half their range: int16 by 32768, and uint8 by 128 once its silence,
    which is 128, is taken away.
    """
    taken = samples if channel is None else samples[:, channel : channel + 1]
    sound = taken.mean(axis=1, dtype=np.float32 if taken.itemsize < 4 else np.float64)
    if taken.dtype.kind in "iu":
        half = 2.0 ** (8 * taken.itemsize - 1)
        sound = (sound - (half if taken.dtype.kind == "u" else 0.0)) / half
    found: NDArray[np.float32] = sound.astype(np.float32, copy=False)
    return found
