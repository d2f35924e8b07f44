"""A clock that runs through reboots, for what is kept on disk.

CLOCK_BOOTTIME begins anew with every boot. Here it goes on: within a boot it runs as that
does; from one boot to the next it advances by wall time, but only where that was
synchronised both times, and otherwise stands still. So it never steps back, and what is
kept until some time by it is never given up too early, at worst too late.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct

_TIME_ERROR = 5  # adjtimex: the clock is not synchronised
_FAR_NS = 1 << 62  # a forged time beyond it would leave no room for what follows
_TIMEX_BYTES = 512  # more than struct timex takes anywhere
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Stamp(Struct, frozen=True, array_like=True):
    """One moment on all clocks: this boot's, the lifetime's, and the wall's, if it is true."""

    boot: str
    boot_ns: int
    life_ns: int
    wall_ns: int | None


class Lifetime:
    """The clock of one outbox: ``ahead_ns`` before CLOCK_BOOTTIME.

    ``last`` is the last stamp that is known, ``seen_ns`` the latest time on this clock that
    is known to have been.
    """

    def __init__(
        self,
        *,
        last: Stamp | None,
        seen_ns: int,
        clock: Callable[[], int],
        boot: str,
        wall: Callable[[], int | None],
    ) -> None:
        self._clock = clock
        self._boot = boot
        self._wall = wall
        self.ahead_ns = _ahead(last, seen_ns, boot=boot, boot_ns=clock(), wall_ns=wall())

    def stamp(self) -> bytes:
        """Return this moment, to be handed to the next `Lifetime` as its last."""
        boot_ns = self._clock()
        moment = Stamp(self._boot, boot_ns, boot_ns + self.ahead_ns, self._wall())
        return msgspec.msgpack.encode(moment)


def read_stamp(data: bytes) -> Stamp | None:
    """Return the stamp that was written, or None where it cannot be read."""
    try:
        stamp = msgspec.msgpack.decode(data, type=Stamp)
    except (ValueError, RecursionError):
        return None
    times = (stamp.boot_ns, stamp.life_ns, stamp.wall_ns or 0)
    return stamp if all(0 <= at_ns < _FAR_NS for at_ns in times) else None


def boot_id() -> str:
    """Return what names this boot; where the system has no name for it, one for this run."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return f"run-{os.getpid()}-{time.time_ns()}"


def synchronised_wall_ns() -> int | None:
    """Return the wall time, or None unless the kernel says that it is synchronised."""
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None or adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES)) in (
        -1,
        _TIME_ERROR,
    ):
        return None
    return time.time_ns()


def _ahead(
    last: Stamp | None, seen_ns: int, *, boot: str, boot_ns: int, wall_ns: int | None
) -> int:
    """Return how far the lifetime is ahead of this boot's clock."""
    if last is None:
        return max(0, seen_ns - boot_ns)
    if last.boot == boot:
        return last.life_ns - last.boot_ns
    life_ns = last.life_ns
    if last.wall_ns is not None and wall_ns is not None:
        life_ns += max(0, wall_ns - last.wall_ns)
    return max(life_ns, seen_ns) - boot_ns
