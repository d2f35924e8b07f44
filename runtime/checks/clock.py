"""The wall clock: certificates are judged by it, and deadlines that outlast a restart."""

from __future__ import annotations

import time
from collections.abc import Iterator

from ...uplink.outbox.lifetime import synchronised_wall_ns
from .finding import Finding, error, ok, warning

_SANE_S = 1_735_689_600  # 2025-01-01: nobody runs this earlier
_TODO = "run an NTP client (systemd-timesyncd, chrony), or wait until it has heard of a server"


def check_clock(*, tls: bool, wall_s: float | None = None) -> Iterator[Finding]:
    """Yield whether the clock shows the time; ``tls``: whether certificates depend on it."""
    now_s = time.time() if wall_s is None else wall_s
    shown = time.strftime("%Y-%m-%d", time.gmtime(now_s))
    if now_s < _SANE_S:
        what = f"shows {shown}, which cannot be"
        if tls:
            yield error("clock", "wall", f"{what}: certificates will be refused", todo=_TODO)
        else:
            yield warning("clock", "wall", f"{what}: records are stamped wrong", todo=_TODO)
    elif synchronised_wall_ns() is None:
        yield warning(
            "clock",
            "wall",
            f"shows {shown}, but is not synchronised: time stamps may be wrong, and what is "
            "stored is kept longer over restarts",
            todo=_TODO,
        )
    else:
        yield ok("clock", "wall", f"shows {shown}, and is synchronised")
