"""Messages to systemd (sd_notify(3)); silent where systemd did not start us."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Mapping


class Notifier:
    """Sends READY, WATCHDOG and STOPPING to the socket named by NOTIFY_SOCKET."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        path = environ.get("NOTIFY_SOCKET", "")
        self._address = "\0" + path[1:] if path.startswith("@") else path
        usec = environ.get("WATCHDOG_USEC", "")
        self._period_ns = int(usec) * 500 if usec.isdigit() and self._address else None
        self._fed_ns = 0
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)  # noqa: FBT003 -- the socket's own signature

    def send(self, state: str) -> None:
        """Send one message such as ``READY=1``; a lost one is systemd's to notice."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.sendto(state.encode(), self._address)

    def feed(self, now_ns: int) -> int | None:
        """Feed the watchdog when half its time is over; return when it is due again."""
        if self._period_ns is None:
            return None
        if now_ns - self._fed_ns >= self._period_ns:
            self._fed_ns = now_ns
            self.send("WATCHDOG=1")
        return self._fed_ns + self._period_ns

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
