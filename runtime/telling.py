"""Whom a device tells of its run while it goes on: whoever asks on the machine, and its log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from ..models.errors import HedgeError, UplinkError
from ..telemetry.exporters.telemetry_log import TelemetryLog
from ..uplink.publishers.telemetry_topic import TelemetryTopic
from .config import Telemetry
from .feed import Feed
from .local_server.device_pages import DevicePages
from .local_server.endpoint import Endpoint
from .local_server.server import LocalServer
from .local_server.unix_socket import UnixSocket
from .run_figures import RunFigures
from .snapshots import Snapshots
from .telemetry_feed import TelemetryFeed

_log = logging.getLogger(__name__)

SOCKET = "hedge.sock"
"""The Unix socket that tells of the run, below a device's state directory."""


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
        stack.callback(Endpoint(telemetry.prometheus, pages, what="metrics").close)


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
