"""The uplink of a device that has none: every ask is refused at once."""

from __future__ import annotations

from .asks import Answer, Ask, Owed


class Absent:
    """Stands in where no broker is configured; implements `asks.Uplink`."""

    connected = False

    def owed(self) -> list[Owed]:
        """Return nothing."""
        return []

    def start(self) -> None:
        """Do nothing."""

    def offer(self, ask: Ask) -> bool:  # noqa: ARG002 -- the protocol's signature
        """Refuse."""
        return False

    def answers(self) -> list[Answer]:
        """Return nothing."""
        return []

    def final(self, ask_id: str) -> None:
        """Do nothing."""

    def note(self, text: str | None) -> None:
        """Do nothing."""

    def counters(self) -> dict[str, int]:
        """Return nothing."""
        return {}

    def check(self) -> None:
        """Do nothing."""

    def close(self, *, timeout_s: float) -> None:
        """Do nothing."""
