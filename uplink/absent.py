"""The uplink of a device that has none: every ask is refused at once."""

from __future__ import annotations

from collections.abc import Mapping

from .asks import Answer, Ask, Audited, Contract, Owed
from .codecs import Codec


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

    def audited(self) -> list[Audited]:
        """Return nothing."""
        return []

    def final(self, ask_id: str) -> None:
        """Do nothing."""

    def adopt(
        self,
        contracts: Mapping[str, Contract],
        *,
        codecs: Mapping[str, Codec],
        since: Mapping[str, tuple[int, int]],
    ) -> None:
        """Do nothing."""

    def busy_ns(self) -> int:
        """Return 0."""
        return 0

    def note(self, text: str | None) -> None:
        """Do nothing."""

    def counters(self) -> dict[str, int]:
        """Return nothing."""
        return {}

    def check(self) -> None:
        """Do nothing."""

    def close(self, *, timeout_s: float) -> None:
        """Do nothing."""
