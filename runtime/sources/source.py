"""The Source protocol: where samples come from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from msgspec import Struct
from numpy.typing import NDArray

from ...models.errors import SourceError
from ...telemetry.ledger import SourceState


class StuckError(SourceError):
    """A live source that will hardly come back unless somebody mends something.

    It is tried again ever more rarely, in the end once a minute.
    """


class Captured(Struct, frozen=True, gc=False):
    """What a source has read: the data as it came, and when (CLOCK_BOOTTIME).

    What is no sample yet is, by the bundle's kind of input: a picture (height, width, 3) uint8
    in RGB; a window of mono sound (n,) float32 with ``sample_rate_hz`` in ``meta``; a window of
    rows (rows, channels) float32; a line of text as its UTF-8 bytes (n,) uint8. ``meta`` may
    also have ``file`` or ``topic``, where it comes from.
    """

    data: NDArray[Any]
    taken_at_ns: int
    meta: dict[str, Any] | None = None


class Source(Protocol):
    """A source of samples, asked by the loop. It never blocks.

    A source that reads in a thread of its own rings the loop's bell when something is
    there; one that goes by the clock says when it is worth asking again.
    """

    @property
    def patient(self) -> bool:
        """Whether it may be kept waiting without losing anything."""

    @property
    def overrun(self) -> int:
        """How many captures were dropped because the loop was slower."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""

    @property
    def recorder(self) -> Recorder | None:
        """What keeps the last seconds as they were captured; None: nothing does."""

    def begin(self) -> None:
        """Begin to read, for a live source; the loop is about to ask, and others have let go."""

    def state(self) -> SourceState | None:
        """Return how a live source is; None for a data set."""

    def due_ns(self) -> int | None:
        """When the next capture is there; None: unknown, the bell will ring."""

    def poll(self, now_ns: int) -> Captured | None:
        """Take the next capture, or None where nothing is there yet.

        Raises:
            DataError: this one capture cannot be used; the next one may be.
        """

    def close(self) -> None:
        """Free what the source holds; closing twice is harmless."""


class Reader(Protocol):
    """How one kind of live source is read; it may block, for it has a thread (`live.Live`).

    All methods are called by that thread. After `SourceError` it is closed and, a little later,
    opened again; so it keeps nothing across the two, not even half a window.
    """

    @property
    def recorder(self) -> Recorder | None:
        """What keeps the last seconds as they were captured; None: nothing does."""

    def open(self) -> None:
        """Connect; a few seconds at most.

        Raises:
            SourceError: it is not there, or refuses; it is tried again. It says what to do.
                A `StuckError` is tried again more rarely.
        """

    def read(self) -> Sequence[Captured] | None:
        """Return what has come, in order; wait for it a quarter of a second at most.

        None: nothing more will come, ever.

        Raises:
            DataError: what came is no good (one capture is counted as failed).
            SourceError: it has gone away.
        """

    def close(self) -> None:
        """Disconnect; closing twice, or what is not open, is harmless."""


class Recorder(Protocol):
    """Keeps the last seconds of a source as they were captured, in bounded memory.

    The source's thread fills it; `save` is called by another.
    """

    @property
    def suffix(self) -> str:
        """What its files end with, like ".mp4"."""

    def keep(self, *, seconds: float, max_bytes: int) -> None:
        """Keep as much from now on; called before the source is read, at most once a stream."""

    def save(self, path: Path, *, begin_ns: int, end_ns: int, max_bytes: int) -> bool:
        """Write what was captured between two moments (CLOCK_BOOTTIME) to a file, whole.

        False: nothing was kept of that time. What is beyond ``max_bytes`` is cut off at the end.

        Raises:
            OSError: it cannot be written; nothing half-written stays.
        """
