"""How a service fares: what systemd says of it, and what the daemon says of itself."""

from __future__ import annotations

import http.client
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from msgspec import Struct

from ...models.errors import ConfigError
from .device_install import STATE
from .units import UNITS, Kind

SOCKET = "hedge.sock"
"""The daemon's own socket, in its state directory."""

_WAIT_S = 5.0
_EXPOSURE = re.compile(r"Overall exposure level for \S+: ([0-9.]+)")
_PROPERTIES = (
    *("LoadState", "ActiveState", "SubState", "UnitFileState", "StatusText", "MainPID"),
    *("NRestarts", "Result", "ExecMainCode", "ExecMainStatus", "ExecMainExitTimestamp"),
    *("ActiveEnterTimestamp", "WatchdogUSec", "NeedDaemonReload"),
)


class ServiceStatus(Struct, frozen=True, kw_only=True):
    """What is known; None where it is not.

    ``state`` is systemd's (active, activating, reloading, failed, inactive …), ``said`` what the
    daemon has told systemd. ``last_end`` says how it ended last, ``ended`` when. ``watchdog_s``:
    None, there is none. ``exposure`` is that of `systemd-analyze security`, 0 (good) to 10.
    ``health`` is the daemon's answer, ``healthy`` whether that is good; None: nobody answers.
    """

    unit: str
    installed: bool
    state: str
    sub_state: str
    enabled: str | None = None
    said: str | None = None
    pid: int | None = None
    since: str | None = None
    restarts: int | None = None
    last_end: str | None = None
    ended: str | None = None
    watchdog_s: float | None = None
    reload_needed: bool = False
    exposure: float | None = None
    healthy: bool | None = None
    health: str | None = None


def status(kind: Kind, *, state: Path = STATE) -> ServiceStatus:
    """Return how a service fares.

    Raises:
        ConfigError: there is no systemd here.
    """
    unit = UNITS[kind]
    told = _shown(unit)
    running = told.get("MainPID", "0") != "0"
    healthy, health = _health(state / SOCKET) if kind == "device" and running else (None, None)
    return ServiceStatus(
        unit=unit,
        installed=told.get("LoadState") not in {None, "not-found"},
        state=told.get("ActiveState", "unknown"),
        sub_state=told.get("SubState", "unknown"),
        enabled=told.get("UnitFileState") or None,
        said=told.get("StatusText") or None,
        pid=int(told["MainPID"]) if running else None,
        since=told.get("ActiveEnterTimestamp") or None,
        restarts=int(told["NRestarts"]) if told.get("NRestarts", "").isdigit() else None,
        last_end=_last_end(told),
        ended=told.get("ExecMainExitTimestamp") or None,
        watchdog_s=_seconds(told.get("WatchdogUSec", "0")),
        reload_needed=told.get("NeedDaemonReload") == "yes",
        exposure=_exposure(unit),
        healthy=healthy,
        health=health,
    )


def lines(found: ServiceStatus) -> Iterator[str]:
    """Give a status as lines for people."""
    if not found.installed:
        yield f"{found.unit}: not installed (hedge service install)"
        return
    enabled = "" if found.enabled is None else f", {found.enabled}"
    yield f"{found.unit}: {found.state} ({found.sub_state}){enabled}"
    for what, known in (
        ("says", found.said),
        ("process", found.pid),
        ("since", found.since),
        ("restarts", found.restarts),
        ("last end", found.last_end and f"{found.last_end}, {found.ended or 'time not known'}"),
        ("watchdog", "none" if found.watchdog_s is None else f"{found.watchdog_s:g} s"),
        ("exposure", found.exposure),
        ("health", found.health),
    ):
        yield f"  {what:<9} {'not known' if known is None else known}"
    if found.reload_needed:
        yield "  the unit has changed on disk: systemctl daemon-reload"


def _shown(unit: str) -> dict[str, str]:
    names = ",".join(_PROPERTIES)
    told = _asked("systemctl", "show", "--timestamp=utc", f"--property={names}", unit)
    if told is None:
        raise ConfigError("is not there: this machine runs no systemd", where="systemctl")
    pairs = (line.partition("=") for line in told.splitlines())
    found = {key: value for key, _, value in pairs}
    if not found:
        raise ConfigError("does not answer: this machine runs no systemd", where="systemctl")
    return found


def _last_end(told: dict[str, str]) -> str | None:
    """Say how the main process ended; Result alone names the watchdog and time-outs."""
    if not told.get("ExecMainExitTimestamp"):
        return None
    result, code, number = (
        told.get(key, "") for key in ("Result", "ExecMainCode", "ExecMainStatus")
    )
    how = f"exit code {number}" if code == "1" else f"signal {number}"
    return how if result in {"", "success", "exit-code", "signal"} else f"{result}, {how}"


def _seconds(text: str) -> float | None:
    """Return seconds from systemd's way to say a time span; None for none."""
    units = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0}
    if text.isdigit():
        return int(text) * 1e-6 or None
    parts = re.findall(r"([0-9.]+)(us|ms|s|min|h|d)\b", text)
    return sum(float(number) * units[unit] for number, unit in parts) or None


def _exposure(unit: str) -> float | None:
    told = _asked("systemd-analyze", "security", "--no-pager", unit)
    found = None if told is None else _EXPOSURE.search(told)
    return None if found is None else float(found[1])


def _asked(*words: str) -> str | None:
    """Return what a command prints; None if it is not there or does not end."""
    environ = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(  # noqa: S603 -- systemd's own tools, from a list of words
            words, capture_output=True, text=True, check=False, timeout=30, env=environ
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout


def _health(path: Path) -> tuple[bool | None, str]:
    """Ask the daemon over its socket; return whether it is healthy, and what it says."""
    connection = _Connection(path)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        text = answer.read(4096).decode("utf-8", "replace").strip()
    except PermissionError:
        return None, f"{path} may not be opened (root may)"
    except (OSError, http.client.HTTPException) as error:
        return None, f"{path} does not answer: {error}"
    finally:
        connection.close()
    return answer.status == http.client.OK, text or str(answer.status)


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=_WAIT_S)
        self._path = path

    def connect(self) -> None:
        """Connect to the path instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_WAIT_S)
        self.sock.connect(os.fspath(self._path))


def exit_code(found: ServiceStatus) -> int:
    """Return 0 if it serves and nothing speaks against it, else 1."""
    return int(found.state not in {"active", "reloading"} or found.healthy is False)
