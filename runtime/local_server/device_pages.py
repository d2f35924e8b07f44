"""What a device tells: its metrics, its telemetry, and whether it lives."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

import msgspec

from ...telemetry.clock import Clock, boottime_ns
from ...telemetry.exporters import prometheus
from ...telemetry.snapshot import Snapshot
from .page import Page

_AWAY = HTTPStatus.SERVICE_UNAVAILABLE


class DevicePages:
    """An `Answer`: `/metrics`, `/telemetry`, `/healthz` and `/readyz`.

    ``snapshot`` has the loop make one and returns None where the loop does not turn in time;
    it is called from several threads. After ``stuck_s`` without one the device is not healthy.
    """

    def __init__(
        self,
        snapshot: Callable[[], Snapshot | None],
        *,
        stuck_s: float = 60.0,
        clock: Clock = boottime_ns,
    ) -> None:
        self._snapshot = snapshot
        self._stuck_s = stuck_s
        self._clock = clock
        self._turned_ns = clock()

    def __call__(self, path: str) -> Page:
        """Return the page of a path."""
        if path not in {"/metrics", "/telemetry", "/healthz", "/readyz"}:
            text = "there are /metrics, /telemetry, /healthz and /readyz\n"
            return Page(text, HTTPStatus.NOT_FOUND)
        found = self._snapshot()
        if found is None:
            return self._still(path)
        self._turned_ns = self._clock()
        match path:
            case "/metrics":
                return Page(prometheus.text(found))
            case "/telemetry":
                return Page(msgspec.json.encode(found).decode(), kind="application/json")
            case _:
                return Page("ok\n" if found.connected is not False else "ok, without a broker\n")

    def _still(self, path: str) -> Page:
        """Return a page while the loop does not turn: it may be at work on a long sample."""
        still_s = (self._clock() - self._turned_ns) / 1e9
        if path == "/healthz" and still_s <= self._stuck_s:
            return Page("ok, busy\n")
        return Page(f"the loop does not turn, for {still_s:.0f} s\n", _AWAY)
