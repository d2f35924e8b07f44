"""The Source protocol: where samples come from."""

from __future__ import annotations

from typing import Any, Protocol

from msgspec import Struct
from numpy.typing import NDArray


class Captured(Struct, frozen=True):
    """What a source has read: the data as it came, and when (CLOCK_BOOTTIME)."""

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

    def due_ns(self) -> int | None:
        """When the next capture is there; None: unknown, the bell will ring."""

    def poll(self, now_ns: int) -> Captured | None:
        """Take the next capture, or None where nothing is there yet.

        Raises:
            DataError: this one capture cannot be used; the next one may be.
        """

    def close(self) -> None:
        """Free what the source holds; closing twice is harmless."""
