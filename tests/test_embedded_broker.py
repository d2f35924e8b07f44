"""The broker that the demo brings."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from hedge.models.errors import MissingExtraError, UplinkError
from hedge.runtime.broker import serve


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_and_without_a_word_when_it_is_told_to(
    number: signal.Signals,
    start_broker: Callable[..., subprocess.Popen[bytes]],
    free_port: int,
    tmp_path: Path,
) -> None:
    broker = start_broker("amqtt", free_port)
    with socket.create_connection(("127.0.0.1", free_port)):
        broker.send_signal(number)
        assert broker.wait(30) == 0
    assert (tmp_path / f"amqtt-{free_port}.log").read_text() == ""


def test_a_port_that_is_taken_is_named() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UplinkError, match=f"127.0.0.1:{port}: the broker cannot listen"):
            serve(port, ready=lambda: pytest.fail("it cannot be ready"))


def test_without_amqtt_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, free_port: int
) -> None:
    monkeypatch.setitem(sys.modules, "amqtt.broker", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'hedge-runtime\[demo\]'"):
        serve(free_port, ready=lambda: pytest.fail("it cannot be ready"))
