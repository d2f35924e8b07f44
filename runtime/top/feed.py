"""The Feed protocol: where the figures of a device come from."""

from __future__ import annotations

from typing import Protocol

from .seen import Seen


class Feed(Protocol):
    """Where snapshots come from; one thread owns it. What goes wrong it says, and goes on."""

    def poll(self, timeout_s: float) -> None:
        """Take what has come; wait for no longer than ``timeout_s``, about."""

    def seen(self) -> Seen:
        """Return what is known now."""

    def close(self) -> None:
        """Free what is open."""
