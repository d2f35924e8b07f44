"""What the loop does beside its samples, every so often: the protocol."""

from __future__ import annotations

from typing import Protocol


class Feed(Protocol):
    """Something that is fed by the loop, and thereby knows that it turns."""

    def feed(self, now_ns: int) -> int | None:
        """Do what is due at ``now_ns`` (CLOCK_BOOTTIME), and return when it is due again."""
