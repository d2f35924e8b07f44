"""What else goes over the device's one connection: the protocol of its publishers.

The pump's thread owns the link and drives every publisher on it; a publisher has no thread
of its own. Other threads reach it through a queue of the publisher's own, which never
blocks and has a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from ..link.link import Link, Received


class Publisher(Protocol):
    """Something that publishes over a link that it does not own."""

    @property
    def filters(self) -> Sequence[str]:
        """The topics that are subscribed to for it, on every connection."""

    @property
    def busy(self) -> bool:
        """Whether something waits that could be published now, or for the broker's word."""

    def connected(self, link: Link) -> None:
        """Begin anew on a fresh connection."""

    def disconnected(self) -> None:
        """Take note that what was not acknowledged has to be sent again."""

    def received(self, event: Received) -> bool:
        """Take a message that has come, and return whether it was for this publisher."""

    def delivered(self, mid: int, refused: str | None) -> bool:
        """Take the broker's word on a message, and return whether it was this publisher's."""

    def turn(self, link: Link | None, now_ns: int) -> None:
        """Take in what was offered, and publish what is due; ``link`` None: no connection."""

    def next_ns(self) -> int | None:
        """Return when `turn` has something to do by itself, on CLOCK_BOOTTIME; None: never."""

    def counters(self) -> dict[str, int]:
        """Copy what it has counted."""

    def close(self) -> None:
        """Make durable what can be, and free the rest."""
