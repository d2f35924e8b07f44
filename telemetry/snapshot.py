"""What a device's run has cost so far, as every exporter tells it."""

from __future__ import annotations

from msgspec import Struct

from .energy.figures import EnergyReport
from .ledger import StreamReport


class BoardState(Struct, frozen=True, kw_only=True):
    """How the board is now; what is not known is None.

    ``temp_c`` is that of its hottest zone, ``zone`` that zone's name; ``throttled`` says that
    it is slowed down, and ``throttled_by`` what says so.
    """

    temp_c: float | None = None
    zone: str | None = None
    throttled: bool | None = None
    throttled_by: tuple[str, ...] = ()
    power_mode: str | None = None


class Snapshot(Struct, frozen=True, kw_only=True):
    """One moment of a run; all counts are since the start of this session.

    ``streams`` are by name; ``uplink`` is what the connection has counted, ``counts`` what
    the loop has. ``connected``: the broker has accepted us, None: there is no uplink.
    ``rss_bytes`` is the process's memory, ``cpu_s`` the CPU time it took. ``energy`` is None
    where no sensor is read. ``at_s`` is Unix time by the device's own clock.
    """

    session: int
    uptime_s: float
    streams: dict[str, StreamReport]
    uplink: dict[str, int]
    counts: dict[str, int]
    rss_bytes: int | None = None
    cpu_s: float | None = None
    device: str | None = None
    site: str | None = None
    version: str | None = None
    at_s: float | None = None
    connected: bool | None = None
    note: str | None = None
    energy: EnergyReport | None = None
    board: BoardState | None = None
