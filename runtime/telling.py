"""Whom a device tells of its run while it goes on: whoever asks on the machine, and its log."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

from ..models.errors import ConfigError, HedgeError, UplinkError
from ..telemetry.exporters.telemetry_log import TelemetryLog
from ..uplink.publishers.telemetry_topic import TelemetryTopic
from .config import Telemetry
from .feed import Feed
from .local_server.device_pages import DevicePages
from .local_server.server import LocalServer, tcp_listener
from .local_server.unix_socket import UnixSocket
from .run_figures import RunFigures
from .snapshots import Snapshots
from .telemetry_feed import TelemetryFeed

_log = logging.getLogger(__name__)

SOCKET = "hedge.sock"
"""The Unix socket that tells of the run, below a device's state directory."""

_AGAIN_S = 5.0
_GOODBYE_S = 1.0


def serve_locally(
    telemetry: Telemetry, snapshots: Snapshots, *, state: Path, stack: contextlib.ExitStack
) -> None:
    """Answer whoever asks on this machine, until ``stack`` is closed.

    A device that cannot have its socket serves all the same, and says so; for Prometheus'
    address it goes on trying.

    Raises:
        ConfigError: the address for Prometheus is none.
        UplinkError: another process serves with this state directory.
    """
    pages = DevicePages(snapshots.ask)
    try:
        path = UnixSocket(state / SOCKET)
    except HedgeError as error:
        if isinstance(error.__cause__, BlockingIOError):  # two would mix what they write
            raise UplinkError("another device serves with it", where=str(state)) from error
        _log.warning("hedge top cannot ask here: %s", error)
    else:
        stack.callback(path.close)
        stack.callback(LocalServer(path.socket, pages).close)
    if telemetry.prometheus is not None:
        host, _, port = telemetry.prometheus.rpartition(":")
        endpoint = _Endpoint(host.strip("[]") or "127.0.0.1", int(port), pages)
        stack.callback(endpoint.close)


class _Endpoint:
    """Serves at an address as soon as it can be had: at boot it may not be there yet."""

    def __init__(self, host: str, port: int, pages: DevicePages) -> None:
        self._place = (host, port)
        self._pages = pages
        self._server: LocalServer | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._wait, name="hedge-http-wait", daemon=True)
        if not self._served(logging.WARNING):
            self._thread.start()

    def close(self) -> None:
        """Stop; closing twice is harmless."""
        self._closing.set()
        if self._thread.ident is not None:
            self._thread.join(_GOODBYE_S)
        if self._server is not None:
            self._server.close()

    def _wait(self) -> None:
        while not self._closing.wait(_AGAIN_S):
            if self._served(logging.DEBUG):
                return

    def _served(self, level: int) -> bool:
        """Return whether it serves now.

        Raises:
            ConfigError: the address is none.
        """
        try:
            self._server = LocalServer(tcp_listener(*self._place), self._pages)
        except ConfigError as error:
            if not isinstance(error.__cause__, OSError):
                raise
            _log.log(level, "no metrics for now: %s", error)
            return False
        if level < logging.WARNING:
            _log.warning("metrics are served at %s:%d now", *self._place)
        return True


def open_log(
    telemetry: Telemetry, *, base: Path, stack: contextlib.ExitStack
) -> TelemetryLog | None:
    """Open the telemetry's log, if there is to be one.

    Raises:
        ConfigError: the file cannot be made, or holds something else.
    """
    wanted = telemetry.log
    if wanted is None:
        return None
    log = TelemetryLog(base / wanted.path, max_bytes=wanted.max_bytes, keep=wanted.keep)
    stack.callback(log.close)
    return log


def periodic(
    telemetry: Telemetry,
    figures: RunFigures,
    *,
    topic: TelemetryTopic | None,
    log: TelemetryLog | None,
) -> Iterator[Feed]:
    """Yield what tells of the run every so often: over the uplink, and in the log."""
    if topic is not None and telemetry.every_s is not None:
        yield TelemetryFeed(topic.offer, record=figures.snapshot, every_s=telemetry.every_s)
    if log is not None and telemetry.log is not None:
        yield TelemetryFeed(log.offer, record=figures.snapshot, every_s=telemetry.log.every_s)
