"""The PowerReader protocol: what a board's sensors say, whatever they are."""

from __future__ import annotations

from typing import Literal, Protocol

from msgspec import Struct

Kind = Literal["power", "energy"]
Scope = Literal["none", "module", "board", "pmic", "package", "gpu", "battery"]


class PowerSource(Struct, frozen=True, kw_only=True):
    """What a reader reads, as every figure taken from it names it.

    ``rails`` are the labels in the order in which `PowerReader.read` gives them, ``total``
    those whose sum is the power of what ``scope`` says. ``step`` is one step of the coarsest
    rail of the total: watts where ``kind`` is "power", joules where it is "energy"; None: not
    known. To read more often than ``fastest_hz`` is pointless or dear; None: no bound.
    ``negative``: rails can read below zero, and do so for good reasons. ``replayed``: these
    are recorded values, and whatever is shown of them says so.
    """

    name: str
    kind: Kind
    rails: tuple[str, ...]
    total: tuple[str, ...]
    scope: Scope
    step: float | None = None
    fastest_hz: float | None = None
    negative: bool = False
    replayed: bool = False


class PowerReader(Protocol):
    """A board's power sensors; used by one thread at a time."""

    @property
    def source(self) -> PowerSource:
        """What is read; it does not change."""

    def read(self) -> tuple[float | None, ...]:
        """Return what each rail of the source says now.

        Of kind "power": watts now. Of kind "energy": joules since the read before (None at
        the first). None: that rail could not be read, or what it says cannot be trusted (a
        counter that may have wrapped more than once). It never raises.
        """

    def close(self) -> None:
        """Free what was opened; closing twice is harmless."""
