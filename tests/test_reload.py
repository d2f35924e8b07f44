"""A device that is told to look at its configuration again, as its user does: by SIGHUP."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

from hedge.models.bundle import load_bundle, write_bundle
from hedge.runtime.shipped import bundle_path

StartBroker = Callable[..., "subprocess.Popen[bytes]"]
Eventually = Callable[[Callable[[], bool]], None]

_SMALL = runpy.run_path(str(Path(__file__).with_name("small_bundles.py")))
_DEVICE = '[device]\nname = "d"\nstate_dir = "state"\n'
_STREAM = """[[stream]]
name = "{name}"
bundle = "{bundle}"
{more}
source = {{ kind = "replay", path = "rows.npz", rate_hz = {rate} }}
audit = {{ share = 0 }}
"""
_SINK = '[[sink]]\nkind = "jsonl"\npath = "{path}"\n'


class Device:
    """A running `hedge run`, what it tells systemd, and its files."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(place / "notify"))
        self._socket.setblocking(False)
        self.said = ""
        self.config = place / "device.toml"
        self.process: subprocess.Popen[bytes] | None = None

    def write(self, *parts: str) -> None:
        """Write the configuration."""
        self.config.write_text("".join(parts))

    def start(self) -> None:
        """Start it, and wait until it serves."""
        with (self.place / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "hedge", "run", "device.toml", "--json", "report.json"],
                cwd=self.place,
                env={**os.environ, "NOTIFY_SOCKET": str(self.place / "notify")},
                stdin=subprocess.DEVNULL,
                stderr=log,
            )

    def hears(self, words: str) -> bool:
        """Return whether it has told systemd so since it was last asked to reload."""
        try:
            while True:
                self.said += self._socket.recv(4096).decode() + "\n"
        except BlockingIOError:
            return words in self.said

    def reload(self) -> None:
        """Send SIGHUP."""
        assert self.process is not None
        self.hears("")
        self.said = ""
        self.process.send_signal(signal.SIGHUP)

    def lines(self, name: str = "out.jsonl") -> list[dict[str, Any]]:
        """Return the outcomes so far."""
        path = self.place / name
        text = path.read_text().split("\n")[:-1] if path.exists() else []
        return [json.loads(line) for line in text]

    def uplink(self) -> dict[str, int]:
        """Return the uplink's counters."""
        counters: dict[str, int] = self.told().get("uplink", {})
        return counters

    def told(self) -> dict[str, Any]:
        """Return what the device tells on its socket; nothing: it does not yet."""
        try:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.settimeout(5)
                asking.connect(str(self.place / "state" / "hedge.sock"))
                asking.sendall(b"GET /telemetry HTTP/1.0\r\n\r\n")
                with asking.makefile("rb") as answer:
                    found: dict[str, Any] = json.loads(answer.read().partition(b"\r\n\r\n")[2])
        except (OSError, ValueError):
            return {}
        return found

    def opened(self) -> int:
        """Return how many live sources are there."""
        told = self.told().get("streams", {})
        states = [one["source"]["state"] for one in told.values() if one["source"]]
        return states.count("open")

    def held(self) -> int:
        """Return how many asks wait in the outbox; -1: nobody says."""
        return self.uplink().get("outbox_held", -1)

    def log(self) -> str:
        """Return what it logged."""
        return (self.place / "log").read_text()

    def end(self) -> dict[str, Any]:
        """Stop it politely; return its report."""
        assert self.process is not None
        self.process.terminate()
        assert self.process.wait(20) == 0, self.log()
        found: dict[str, Any] = json.loads((self.place / "report.json").read_text())
        return found

    def close(self) -> None:
        """End whatever is left."""
        self._socket.close()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    """Give a device that is not started yet, with some rows."""
    shutil.copy(bundle_path("digits").with_name("digits-unseen.npz"), tmp_path / "rows.npz")
    made = Device(tmp_path)
    yield made
    made.close()


def stream(name: str = "a", *, bundle: str = "digits", rate: float = 40, more: str = "") -> str:
    """Return a stream's section."""
    return _STREAM.format(name=name, bundle=bundle, rate=rate, more=more)


def sink(path: str = "out.jsonl") -> str:
    """Return a sink's section."""
    return _SINK.format(path=path)


def numbers(outcomes: list[dict[str, Any]], name: str) -> list[int]:
    """Return the numbers of a stream's samples, first outcomes only."""
    first = {one["id"]: None for one in outcomes if one["stream"] == name}
    return [int(sample.split("-")[1]) for sample in first]


def test_a_new_stream_and_a_new_sink_are_taken_up_while_the_old_stream_goes_on(
    device: Device, eventually: Eventually
) -> None:
    device.write(_DEVICE, stream("a"), sink())
    device.start()
    eventually(lambda: len(device.lines()) > 10)
    device.write(_DEVICE, stream("a"), stream("b", rate=30), sink("other.jsonl"))
    device.reload()
    eventually(lambda: device.hears("READY=1"))
    assert "RELOADING=1\nMONOTONIC_USEC=" in device.said
    eventually(lambda: len(numbers(device.lines("other.jsonl"), "b")) > 10)
    report = device.end()
    together = device.lines() + device.lines("other.jsonl")
    a, b = numbers(together, "a"), numbers(together, "b")
    assert sorted(a + b) == list(range(len(a) + len(b))), "no sample is lost or counted twice"
    assert report["counts"]["reloads"] == 1
    assert {one["stream"]: one["read"] for one in report["streams"]} == {"a": len(a), "b": len(b)}


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ("[[stream", "log"),
        (_DEVICE + stream("a", more="windou = 3") + _SINK.format(path="out.jsonl"), "window"),
        (_DEVICE + stream("a", bundle="nowhere") + _SINK.format(path="out.jsonl"), "nowhere"),
        (_DEVICE.replace('"d"', '"e"') + stream("a") + _SINK.format(path="out.jsonl"), "restart"),
        (_DEVICE + stream("a") + _SINK.format(path="rows.npz"), "is no file of outcomes"),
    ],
    ids=["torn", "misspelt", "without-bundle", "renamed", "wrong-sink"],
)
def test_a_configuration_that_is_no_good_leaves_the_last_good_one_serving(
    device: Device, eventually: Eventually, wrong: str, why: str
) -> None:
    device.write(_DEVICE, stream("a"), sink())
    device.start()
    eventually(lambda: len(device.lines()) > 5)
    device.write(wrong)
    device.reload()
    eventually(lambda: device.hears("READY=1"))
    assert "STATUS=serving; the last good configuration is kept: " in device.said
    assert "the last good configuration is kept: " in device.log()
    if why != "log":
        assert why in device.said
    before = len(device.lines())
    eventually(lambda: len(device.lines()) > before + 5)
    device.write(_DEVICE, stream("a"), stream("b"), sink())  # and it can be mended
    device.reload()
    eventually(lambda: bool(numbers(device.lines(), "b")))
    report = device.end()
    assert (report["counts"]["reloads"], report["counts"]["reloads_refused"]) == (1, 1)


def test_what_waits_on_a_changed_stream_is_answered_and_on_a_removed_one_degraded(
    device: Device, eventually: Eventually, free_port: int, start_broker: StartBroker
) -> None:
    start_broker("mosquitto", free_port)
    uplink = f'[uplink]\nbroker = "mqtt://127.0.0.1:{free_port}"\n'
    long = "answer_within_ms = 600000"
    device.write(_DEVICE, uplink, stream("a", more=long, rate=100), stream("b", more=long), sink())
    device.start()

    def waiting(name: str) -> set[str]:
        lines = device.lines()  # once: it grows meanwhile
        finals = {one["id"] for one in lines if one["final"]}
        return {one["id"] for one in lines if one["stream"] == name} - finals

    eventually(lambda: len(waiting("a")) >= 8 and len(waiting("b")) >= 3)
    device.write(_DEVICE, uplink, stream("a", more=long + "\nfilter = false", rate=0.001), sink())
    asked = waiting("a")
    device.reload()
    eventually(lambda: device.hears("READY=1\nSTATUS=serving\n"))
    ends = Counter(one.get("degraded") for one in device.lines() if one["stream"] == "b")
    assert ends["reloaded"] >= 3
    assert not waiting("b")
    assert asked <= waiting("a")
    worker = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "hedge",
            "worker",
            "digits",
            "--broker",
            f"mqtt://127.0.0.1:{free_port}",
        ],
        stderr=subprocess.DEVNULL,
    )
    try:
        eventually(lambda: not asked & waiting("a"))
    finally:
        worker.terminate()
        worker.wait()
    finals = Counter(one["id"] for one in device.lines() if one["final"])
    assert set(finals.values()) == {1}
    assert {one["route"] for one in device.lines() if one["id"] in asked and one["final"]} <= {
        "cloud",
        "fused",
    }
    report = device.end()
    for one in report["streams"]:
        assert one["routes"]["escalated"] == sum(one["ends"].values()) + one["waiting"]


def test_many_wishes_at_once_are_as_good_as_a_few(device: Device, eventually: Eventually) -> None:
    device.write(_DEVICE, stream("a"), sink())
    device.start()
    eventually(lambda: len(device.lines()) > 3)
    for _ in range(20):
        device.reload()
        time.sleep(0.01)
    eventually(lambda: device.hears("READY=1"))
    before = len(device.lines())
    eventually(lambda: len(device.lines()) > before + 3)
    report = device.end()
    assert 1 <= report["counts"]["reloads"] <= 20
    assert "reloads_refused" not in report["counts"]


# --- what may leave the device ---


@pytest.fixture
def unsure(tmp_path: Path) -> Path:
    """Give digits' bundle with a gate that lets nothing pass unasked."""
    bundle = load_bundle(bundle_path("digits"))
    assert bundle.manifest.calibration is not None
    manifest = msgspec.structs.replace(
        bundle.manifest,
        filter=(),
        calibration=msgspec.structs.replace(bundle.manifest.calibration, total=0.0),
    )
    named = {"edge.onnx", "cloud.onnx", "seen.npy"} & set(manifest.files)
    files = {name: bundle.read(name) for name in named}
    return write_bundle(tmp_path / "unsure", manifest, files).path


def _asked(port: int, device: Device, eventually: Eventually) -> list[bytes]:
    """Return what a worker would have been asked until the device says that nothing waits."""
    heard: list[bytes] = []
    client = Client(CallbackAPIVersion.VERSION2)
    client.on_message = lambda _client, _data, message: heard.append(bytes(message.payload))
    client.connect("127.0.0.1", port)
    client.subscribe("hedge/1/+/+/ask/#", qos=1)
    client.loop_start()
    try:
        eventually(lambda: device.held() == 0)
    finally:
        client.loop_stop()
        client.disconnect()
    return heard


@pytest.mark.parametrize("way", ["reload", "restart"])
def test_asks_that_wait_are_not_sent_once_less_may_leave(
    device: Device,
    unsure: Path,
    free_port: int,
    start_broker: StartBroker,
    eventually: Eventually,
    way: str,
) -> None:
    uplink = f'[uplink]\nbroker = "mqtt://127.0.0.1:{free_port}"\n'
    paced = stream(bundle=str(unsure), rate=100, more="answer_within_ms = 1")
    device.write(_DEVICE, paced, uplink)
    device.start()
    eventually(lambda: device.held() >= 20)
    device.write(_DEVICE, paced + 'privacy = { share = "nothing" }\n', uplink)
    if way == "reload":
        device.reload()
        eventually(lambda: device.hears("READY=1"))
    else:
        device.end()
        device.start()
        eventually(lambda: device.held() >= 20)
    start_broker("mosquitto", free_port)
    assert _asked(free_port, device, eventually) == []
    assert device.end()["uplink"]["unsendable"] >= 20


def test_asks_that_wait_are_sent_after_a_restart_that_changes_nothing(
    device: Device,
    unsure: Path,
    free_port: int,
    start_broker: StartBroker,
    eventually: Eventually,
) -> None:
    uplink = f'[uplink]\nbroker = "mqtt://127.0.0.1:{free_port}"\n'
    paced = stream(bundle=str(unsure), rate=100, more="answer_within_ms = 1")
    device.write(_DEVICE, paced, uplink)
    device.start()
    eventually(lambda: device.held() >= 20)
    device.end()
    start_broker("mosquitto", free_port)
    worker = subprocess.Popen(
        [
            *(sys.executable, "-m", "hedge", "worker", str(unsure)),
            *("--broker", f"mqtt://127.0.0.1:{free_port}"),
        ],
        cwd=device.place,
        stderr=subprocess.DEVNULL,
    )
    try:
        device.start()
        eventually(lambda: device.uplink().get("answered", 0) >= 20)
    finally:
        worker.kill()
        worker.wait()
    device.end()


# --- what only one can hold ---


def test_a_socket_and_a_port_go_from_the_old_stream_to_the_new_without_a_quarrel(
    device: Device, tmp_path: Path, linear_onnx: Callable[..., bytes], eventually: Eventually
) -> None:
    bundle = _SMALL["small_bundle"](tmp_path / "rows", _SMALL["INPUTS"]["tensor"], linear_onnx)
    master, slave = os.openpty()
    sources = (
        'kind = "socket", path = "in.sock", format = "csv"',
        f'kind = "serial", port = "{os.ttyname(slave)}"',
    )
    config = [
        f'[[stream]]\nname = "s{number}"\nbundle = "{bundle}"\nsource = {{ {source}, hop = HOP }}\n'
        for number, source in enumerate(sources)
    ]
    device.write(_DEVICE, *(one.replace("HOP", "1") for one in config))
    device.start()
    eventually(lambda: device.opened() == 2)
    device.write(_DEVICE, *(one.replace("HOP", "2") for one in config))
    device.reload()
    eventually(lambda: device.hears("READY=1") and device.opened() == 2)
    device.end()
    os.close(master)
    os.close(slave)
    words = ("another process serves", "another program", "is back", "tried again")
    assert not [line for line in device.log().splitlines() if any(one in line for one in words)]
