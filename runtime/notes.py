"""What the device is busy with, or what is wrong with it, in a line for whoever looks."""

from __future__ import annotations

from collections.abc import Callable


class Notes:
    """Keeps the last line that was said, and hands each on to ``uplink``, for its status."""

    def __init__(self, uplink: Callable[[str | None], None]) -> None:
        self._uplink = uplink
        self.line: str | None = None

    def say(self, line: str | None) -> None:
        """Say it; None: there is nothing to say any more."""
        self.line = line
        self._uplink(line)
