"""`hedge worker` as a process: what it is told, what it tells, and how it leaves."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from hedge.models.bundle import load_bundle
from hedge.models.dataset import load_dataset
from hedge.runtime.both_ends import contract_of
from hedge.runtime.shipped import bundle_path
from hedge.uplink.asks import Answer, Ask
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.outbox.outbox import MemoryOutbox
from hedge.uplink.pump import Pump
from hedge.uplink.topics import Device

DIGITS = bundle_path("digits")

Start = Callable[..., "subprocess.Popen[str]"]
StartBroker = Callable[..., "subprocess.Popen[bytes]"]
MakeLink = Callable[..., MqttLink]
MakeAsk = Callable[..., Ask]
Eventually = Callable[[Callable[[], bool]], None]
Collect = Callable[[Pump, threading.Event, int], dict[str, Answer]]


@pytest.fixture
def hedge_worker(tmp_path: Path) -> Iterator[Start]:
    """Give `hedge_worker(*arguments)`, which starts one and kills it in the end."""
    with contextlib.ExitStack() as stack:

        def start(*arguments: object) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "hedge", "-v", "worker", *map(str, arguments)],
                cwd=tmp_path,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield start


def _page(port: int, path: str) -> tuple[int, str]:
    """Return the status and the text of a page; 0 where nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def _other_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def test_a_worker_tells_when_it_is_ready_answers_and_leaves_in_peace(
    hedge_worker: Start,
    free_port: int,
    start_broker: StartBroker,
    mqtt_link: MakeLink,
    device: Device,
    ask: MakeAsk,
    collect: Collect,
    eventually: Eventually,
) -> None:
    broker, health = f"mqtt://127.0.0.1:{free_port}", _other_port()
    process = hedge_worker(
        *("digits", "--broker", broker, "--health", health),
        *("--batch", 4, "--batch-wait-ms", 5, "--drain-s", 3),
    )
    eventually(lambda: _page(health, "/readyz") == (503, "not connected to the broker\n"))
    start_broker("mosquitto", free_port)
    eventually(lambda: _page(health, "/readyz") == (200, "ok\n"))
    bell = threading.Event()
    pump = Pump(
        mqtt_link(broker, device.name),
        device=device,
        session=7,
        contracts={"cam": contract_of(load_bundle(DIGITS))},
        outbox=MemoryOutbox(),
        bell=bell,
    )
    pump.start()
    for number, row in enumerate(load_dataset(DIGITS.with_name("digits-unseen.npz")).x[:20]):
        assert pump.offer(msgspec.structs.replace(ask(f"7-{number}"), body=row))
    answers = collect(pump, bell, 20)
    pump.close(timeout_s=1)
    assert {answer.status for answer in answers.values()} == {"answered"}
    eventually(lambda: 'answers_total{model="digits"} 20' in _page(health, "/metrics")[1])
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    for line in ("answers for digits", "connected, MQTT 5", "serving, shared subscription"):
        assert line in said
    assert "stopped, with every ask answered" in said
    assert len(said.splitlines()) < 12, "never a line for each ask"


def test_a_worker_waits_for_its_model_server_and_can_be_stopped_meanwhile(
    hedge_worker: Start, free_port: int, start_broker: StartBroker, eventually: Eventually
) -> None:
    start_broker("mosquitto", free_port)
    broker, health, nobody = f"mqtt://127.0.0.1:{free_port}", _other_port(), _other_port()
    process = hedge_worker(
        *("digits", "--broker", broker, "--health", health),
        *("--model-server", f"http://127.0.0.1:{nobody}/digits"),
    )
    eventually(lambda: "digits: http://127.0.0.1" in _page(health, "/readyz")[1])
    assert _page(health, "/readyz")[0] == 503
    assert _page(health, "/healthz")[0] == 200
    time.sleep(0.5)  # several attempts
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert said.count("waiting for digits") == 1
    assert "serving" not in said


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["digits", "digits"], "answers to the same asks as another one"),
        (["none"], "none"),
        (["digits", "--model-server", "nowhere"], "is not URL or BUNDLE=URL"),
        (["digits", "--model-server", "http://h:1"], "no URL of a served model"),
        (["digits", "--model-server", "d=http://h:1/m"], "d: is no bundle of this worker"),
        (["digits", "--model-ca-file", "ca.pem"], "certificates need TLS"),
        (["digits", "--batch", "0"], "is not a number from 1 to 1024"),
        (["digits", "--batch-wait-ms", "x"], "is not a number from 0 to 10000"),
        (["digits", "--health", "here"], "is not PORT or HOST:PORT"),
        (["digits", "--health", "203.0.113.1:80"], "203.0.113.1:80: cannot be listened on"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    arguments: list[str], says: str, hedge_worker: Start
) -> None:
    process = hedge_worker(*arguments)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2
    assert says in said.splitlines()[-1]
    assert "Traceback" not in said
