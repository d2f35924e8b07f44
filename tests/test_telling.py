"""A device tells of its run as soon as it can, and serves where it cannot."""

from __future__ import annotations

import contextlib
import logging
import socket
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from hedge.models.errors import ConfigError, UplinkError
from hedge.runtime import telling
from hedge.runtime.config import Telemetry
from hedge.runtime.local_server import endpoint
from hedge.runtime.snapshots import Snapshots
from hedge.telemetry.snapshot import Snapshot


class Loop:
    """What a loop does for whoever asks for a snapshot: it makes one when the bell rings."""

    def __init__(self) -> None:
        made = Snapshot(session=7, uptime_s=1.0, streams={}, uplink={}, counts={})
        self.snapshots = Snapshots(lambda: made, bell=self)  # type: ignore[arg-type]

    def set(self) -> None:
        self.snapshots.feed(0)


def page(port: int) -> str:
    """Return the metrics, or why there are none."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            return str(answer.read().decode())
    except OSError as error:
        return str(error)


def test_metrics_are_served_once_their_port_is_free(
    tmp_path: Path,
    free_port: int,
    eventually: Callable[[Callable[[], bool]], None],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(endpoint, "_AGAIN_S", 0.05)
    taken = socket.create_server(("127.0.0.1", free_port))
    with contextlib.ExitStack() as stack, caplog.at_level(logging.WARNING):
        wanted = Telemetry(prometheus=str(free_port))
        telling.serve_locally(wanted, Loop().snapshots, state=tmp_path, stack=stack)
        assert "no metrics for now" in caplog.text
        taken.close()
        eventually(lambda: "hedge_session 7" in page(free_port))
    assert "hedge_session" not in page(free_port)


def test_a_port_that_is_none_is_a_mistake(tmp_path: Path) -> None:
    wanted = Telemetry(prometheus="127.0.0.1:99999")
    with contextlib.ExitStack() as stack, pytest.raises(ConfigError, match=r"99999"):
        telling.serve_locally(wanted, Loop().snapshots, state=tmp_path, stack=stack)


def test_a_device_without_its_socket_serves_all_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "hedge.sock").mkdir()
    with contextlib.ExitStack() as stack, caplog.at_level(logging.WARNING):
        telling.serve_locally(Telemetry(), Loop().snapshots, state=tmp_path, stack=stack)
    assert "hedge top cannot ask here" in caplog.text


def test_two_devices_do_not_share_a_state_directory(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        telling.serve_locally(Telemetry(), Loop().snapshots, state=tmp_path, stack=stack)
        with pytest.raises(UplinkError, match=r"another device serves with it"):
            telling.serve_locally(Telemetry(), Loop().snapshots, state=tmp_path, stack=stack)


def test_whoever_asks_while_the_loop_does_not_turn_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Silent:
        def set(self) -> None:
            """Wake nobody."""

    monkeypatch.setattr("hedge.runtime.snapshots._PATIENCE_S", 0.05)
    snapshots = Snapshots(lambda: pytest.fail("nobody makes one"), bell=Silent())  # type: ignore[arg-type]
    assert snapshots.ask() is None
