"""Messages to systemd, against a real socket."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hedge.runtime.notify import Notifier


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(5)
        yield listener


def test_messages_reach_the_socket_that_systemd_names(systemd: socket.socket) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": systemd.getsockname()})
    notifier.send("READY=1")
    assert systemd.recv(64) == b"READY=1"
    notifier.close()


def test_the_watchdog_is_fed_at_half_its_time(systemd: socket.socket) -> None:
    environ = {"NOTIFY_SOCKET": systemd.getsockname(), "WATCHDOG_USEC": "2000000"}
    notifier = Notifier(environ)
    assert notifier.feed(5_000_000_000) == 6_000_000_000
    assert notifier.feed(5_999_999_999) == 6_000_000_000
    assert notifier.feed(6_000_000_000) == 7_000_000_000
    systemd.setblocking(False)
    assert [systemd.recv(64) for _ in range(2)] == [b"WATCHDOG=1"] * 2
    with pytest.raises(BlockingIOError):
        systemd.recv(64)
    notifier.close()


def test_without_systemd_nothing_is_sent_and_nothing_is_due() -> None:
    notifier = Notifier({})
    notifier.send("READY=1")
    assert notifier.feed(1) is None
    notifier.close()


def test_a_listener_that_has_gone_is_no_error(tmp_path: Path) -> None:
    notifier = Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    notifier.send("STOPPING=1")
    notifier.close()
