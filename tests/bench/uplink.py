"""What the uplink costs: a round trip, many at once, a broker that returns, a full outbox.

Run by `make bench`; the outbox lies on a real disk and commits every ask. Its figures stand
beside those of a bare paho client and a bare echo over the same broker, taken in turn with
them in short chunks: machines are shared and noisy, so trust the ratios and the medians.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import paho.mqtt
from numpy.typing import NDArray
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion

from hedge.models.records import Opinion, Probs
from hedge.telemetry.clock import boottime_ns
from hedge.uplink import wire
from hedge.uplink.asks import Ask, Contract
from hedge.uplink.far_end.worker import Responder, Worker
from hedge.uplink.link.broker_url import Broker
from hedge.uplink.link.link import Properties, Qos
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.outbox.durable_outbox import DurableOutbox
from hedge.uplink.outbox.outbox import Record
from hedge.uplink.pump import Pump
from hedge.uplink.sender import Window
from hedge.uplink.topics import Device

CHUNK = 25
CHUNKS = 120
BURST = 1000
BURSTS = 15
IN_FLIGHT = 100
WAITING = 1000
OUTAGES_S = (1.0, 5.0, 20.0)
STORED = 100_000
OPENINGS = 7
PATIENCE_S = 30.0
DEVICE = Device("bench", "d0")
CONTRACT = Contract(name="bench", digest="0" * 16, classes=10, dtype="float32", shape=(256,))
PAYLOAD_BYTES = 1200  # about what an ask of 1 KB is on the wire


# ---- The peers, in processes of their own.


def client(name: str) -> Client:
    """Return a paho client that sends at once, and as much at a time as the broker lets it."""
    bare = Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=MQTTv5)
    bare.on_socket_open = _without_delay
    bare.max_inflight_messages_set(IN_FLIGHT)
    return bare


def _without_delay(_client: Client, _data: object, sock: Any) -> None:  # noqa: ANN401 -- paho's
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def echo(port: int) -> None:
    """Send back whatever comes, for ever."""
    bare = client("echo")
    bare.on_connect = lambda peer, *_: peer.subscribe("bare/ask", 1)
    bare.on_message = _send_back
    bare.connect("127.0.0.1", port)
    bare.loop_forever()


def _send_back(peer: Client, _data: object, message: MQTTMessage) -> None:
    peer.publish("bare/answer", message.payload, qos=1)


def work(port: int) -> None:
    """Answer every ask with the same distribution, for ever."""
    given = np.full((1, CONTRACT.classes), 1 / CONTRACT.classes)

    def respond(batch: NDArray[Any]) -> tuple[Probs, Probs | None]:
        return np.repeat(given, len(batch), axis=0), None

    responder = Responder(contract=CONTRACT, respond=respond)
    Worker(link(port, "worker"), name="w0", responders=[responder]).run()


def count_openings(folder: Path) -> None:
    """Print how long it takes to open an outbox, on the clock and the CPU, and what it holds."""
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    outbox = _outbox(folder)
    spent_s = (time.perf_counter() - begun_s, time.process_time() - begun_cpu_s)
    print(json.dumps([*spent_s, outbox.stats().pending]))  # noqa: T201 -- for the parent
    outbox.close()


def link(port: int, name: str) -> TimedLink:
    """Return a link to the broker on that port."""
    url = f"mqtt://127.0.0.1:{port}?version=5"
    return TimedLink(Broker.parse(url), client_id=name, window=IN_FLIGHT)


class TimedLink(MqttLink):
    """A link that notes when it sent an ask for the first time since `forget`."""

    first_s: float | None = None

    def forget(self) -> None:
        """Begin to look out for the next one."""
        self.first_s = None

    def send(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: Qos = 1,
        retain: bool = False,
        properties: Properties | None = None,
    ) -> int | None:
        """Send; see `Link`."""
        mid = super().send(topic, payload, qos=qos, retain=retain, properties=properties)
        if self.first_s is None and mid is not None and "/ask/" in topic:
            self.first_s = time.monotonic()
        return mid


# ---- The broker and the two devices.


class Mosquitto:
    """A broker of our own, which can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        program = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
        if program is None:
            raise SystemExit("mosquitto is not installed")
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.port = int(listener.getsockname()[1])
        lines = (
            f"listener {self.port} 127.0.0.1",
            *("allow_anonymous true", "set_tcp_nodelay true", "user root"),
            *(f"max_inflight_messages {IN_FLIGHT}", "max_queued_messages 10000"),
        )
        config = folder / "mosquitto.conf"
        config.write_text("\n".join(lines))
        self._command = [program, "-c", str(config)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> float:
        """Start it, and return the time at which its port was open."""
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdout=quiet, stderr=quiet)
        until_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < until_s:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port)):
                return time.monotonic()
            time.sleep(0.002)
        raise SystemExit("mosquitto does not start")

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Bare:
    """What a device of paho alone would be: a request, and a callback for its answer."""

    def __init__(self, port: int) -> None:
        self.answered = threading.Semaphore(0)
        self.delivered = threading.Semaphore(0)
        ready = threading.Event()
        self._client = client("bare")
        self._client.on_connect = lambda peer, *_: peer.subscribe("bare/answer", 1)
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.on_message = lambda *_: self.answered.release()
        self._client.on_publish = lambda *_: self.delivered.release()
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        if not ready.wait(PATIENCE_S):
            raise SystemExit("the bare client is not subscribed")

    def publish(self, topic: str) -> None:
        """Send one payload."""
        self._client.publish(topic, bytes(PAYLOAD_BYTES), qos=1)

    def round_trips(self, count: int) -> list[float]:
        """Return the seconds of each of ``count`` requests, one after the other."""
        spent = []
        for _ in range(count):
            begun_s = time.perf_counter()
            self.publish("bare/ask")
            _patient(self.answered)
            spent.append(time.perf_counter() - begun_s)
        return spent

    def burst(self, count: int, topic: str, done: threading.Semaphore) -> float:
        """Return messages a second with as many under way as the window lets in."""
        while done.acquire(blocking=False):
            pass
        begun_s = time.perf_counter()
        for number in range(count):
            if number >= IN_FLIGHT:
                _patient(done)
            self.publish(topic)
        for _ in range(IN_FLIGHT):
            _patient(done)
        return count / (time.perf_counter() - begun_s)

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()
        self._client.loop_stop()


class Ours:
    """The device's end of the uplink, over an outbox on disk."""

    def __init__(self, port: int, folder: Path) -> None:
        self._bell = threading.Event()
        self._numbers = iter(range(1 << 62))
        self.link = link(port, "device")
        self.pump = Pump(
            self.link,
            device=DEVICE,
            session=1,
            contracts={"cam": CONTRACT},
            outbox=_outbox(folder),
            bell=self._bell,
            queue=2 * WAITING,
            window=Window(unanswered=IN_FLIGHT, unacked=IN_FLIGHT),
        )
        self.pump.start()

    def ask(self) -> None:
        """Offer one ask."""
        if not self.pump.offer(_ask(next(self._numbers))):
            raise SystemExit("the queue is full")

    def answers(self) -> int:
        """Wait for answers and return how many have come."""
        self._bell.wait(1.0)
        self._bell.clear()
        self.pump.check()
        answers = self.pump.answers()
        for answer in answers:
            if answer.status != "answered":
                raise SystemExit(f"not answered: {answer}")
            self.pump.final(answer.id)
        return len(answers)

    def round_trips(self, count: int) -> list[float]:
        """Return the seconds of each of ``count`` asks, one after the other."""
        spent = []
        for _ in range(count):
            begun_s = time.perf_counter()
            self.ask()
            while not self.answers():
                pass
            spent.append(time.perf_counter() - begun_s)
        return spent

    def burst(self, count: int) -> float:
        """Return answers a second with as many asks under way as the window lets in."""
        begun_s = time.perf_counter()
        asked = answered = 0
        while answered < count:
            while asked < count and asked - answered < IN_FLIGHT:
                self.ask()
                asked += 1
            answered += self.answers()
        return count / (time.perf_counter() - begun_s)

    def close(self) -> None:
        """Part from the broker."""
        self.pump.close(timeout_s=2.0)


def _ask(number: int) -> Ask:
    now_ns = boottime_ns()
    probs = np.full(CONTRACT.classes, 1 / CONTRACT.classes)
    return Ask(
        id=f"1-{number}",
        stream="cam",
        kind="decide",
        entry="input",
        body=np.zeros(CONTRACT.shape, np.float32),
        opinion=Opinion(probs, 0.7, "vacuity", vacuity=0.7),
        asked_at_ns=now_ns,
        deadline_ns=now_ns + 3600 * 10**9,
    )


def _outbox(folder: Path) -> DurableOutbox:
    return DurableOutbox(folder, max_count=2 * STORED, max_bytes=1 << 30)


def _patient(semaphore: threading.Semaphore) -> None:
    if not semaphore.acquire(timeout=PATIENCE_S):
        raise SystemExit("a message of the bare client has not come back")


def _until(holds: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not holds():
        if time.monotonic() > until_s:
            raise SystemExit("it took too long")
        time.sleep(0.01)


@contextlib.contextmanager
def child(role: str, argument: object) -> Iterator[None]:
    """Run this file as one of the peers."""
    process = subprocess.Popen([sys.executable, __file__, "--as", role, str(argument)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def devices(folder: Path) -> Iterator[tuple[Mosquitto, Bare, Ours]]:
    """Start the broker, both far ends and both devices, and warm them up."""
    with contextlib.ExitStack() as stack:
        broker = Mosquitto(folder)
        stack.callback(broker.kill)
        broker.start()
        for role in ("echo", "worker"):
            stack.enter_context(child(role, broker.port))
        bare = stack.enter_context(contextlib.closing(Bare(broker.port)))
        ours = stack.enter_context(contextlib.closing(Ours(broker.port, folder / "outbox")))
        _until(lambda: ours.pump.connected)
        time.sleep(3.0)  # both far ends have subscribed by then
        bare.round_trips(4 * CHUNK)
        ours.round_trips(4 * CHUNK)
        yield broker, bare, ours


# ---- What is measured.


def round_trip(bare: Bare, ours: Ours) -> dict[str, Any]:
    """Return the milliseconds of both and the ratios of chunks taken in turn."""
    found = np.array([(bare.round_trips(CHUNK), ours.round_trips(CHUNK)) for _ in range(CHUNKS)])
    medians = np.median(found, axis=2)
    return {
        "asks": CHUNKS * CHUNK,
        "bare_ms": _quantiles(1e3 * found[:, 0]),
        "ours_ms": _quantiles(1e3 * found[:, 1]),
        "ratio_of_p50": round(float(np.median(found[:, 1]) / np.median(found[:, 0])), 3),
        "ratio_of_chunks": _spread(medians[:, 1] / medians[:, 0]),
    }


def throughput(bare: Bare, ours: Ours) -> dict[str, Any]:
    """Return what both do with IN_FLIGHT under way: answers, and for paho acknowledgements."""
    found = np.array(
        [
            (
                bare.burst(BURST, "bare/ask", bare.answered),
                bare.burst(BURST, "bare/nowhere", bare.delivered),
                ours.burst(BURST),
            )
            for _ in range(BURSTS)
        ]
    )
    return {
        "in_flight": IN_FLIGHT,
        "asks": BURST * BURSTS,
        "bare_echo_per_s": _spread(found[:, 0], digits=0),
        "bare_acknowledged_per_s": _spread(found[:, 1], digits=0),
        "ours_answered_per_s": _spread(found[:, 2], digits=0),
        "share_of_echo": _spread(found[:, 2] / found[:, 0]),
        "share_of_acknowledged": _spread(found[:, 2] / found[:, 1]),
    }


def drain(broker: Mosquitto, ours: Ours) -> list[dict[str, Any]]:
    """Return for each outage how soon the first ask left after the port was open again."""
    found = []
    for outage_s in OUTAGES_S:
        broker.kill()
        _until(lambda: not ours.pump.connected)
        for _ in range(WAITING):
            ours.ask()
        time.sleep(outage_s)
        ours.link.forget()
        opened_s = broker.start()
        _until(lambda: ours.link.first_s is not None)
        first_s = ours.link.first_s or float("inf")
        left = WAITING
        while left:
            left -= ours.answers()
        found.append(
            {
                "outage_s": outage_s,
                "waiting": WAITING,
                "first_ask_after_s": round(first_s - opened_s, 3),
                "all_answered_after_s": round(time.monotonic() - opened_s, 3),
            }
        )
    return found


def recovery(folder: Path) -> dict[str, Any]:
    """Return the seconds until an outbox of STORED asks is open, read before and not."""
    outbox = _outbox(folder)
    for begin in range(0, STORED, 1000):
        records = [_record(number) for number in range(begin, begin + 1000)]
        placed = outbox.put(records)
        if placed.refused or placed.evicted:
            raise SystemExit("the outbox is too small")
    outbox.close()
    spent: dict[str, list[float]] = {"warm": [], "cold": [], "cpu": []}
    for _ in range(OPENINGS):
        for kind in ("cold", "warm"):
            if kind == "cold":
                _forget(folder)
            command = [sys.executable, __file__, "--as", "opening", str(folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds, cpu_s, pending = json.loads(done.stdout)
            if pending != STORED:
                raise SystemExit(f"{pending} of {STORED} asks recovered")
            spent[kind].append(seconds)
            spent["cpu"].append(cpu_s)
    size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    return {
        "records": STORED,
        "megabytes": round(size / 1e6, 1),
        **{f"{kind}_s": _spread(np.array(spent[kind])) for kind in spent},
    }


def _record(number: int) -> Record:
    ask = _ask(number)
    request = wire.Request(
        v=1,
        id=ask.id,
        session=1,
        kind=ask.kind,
        model=CONTRACT.name,
        contract=CONTRACT.digest,
        entry=ask.entry,
        remaining_ms=None,
        dtype=CONTRACT.dtype,
        shape=CONTRACT.shape,
        codec="raw",
        opinion=None if ask.opinion is None else wire.opinion_of(ask.opinion),
        body=wire.pack(ask.body, CONTRACT.dtype),
    )
    return Record(
        request=request,
        stream=ask.stream,
        classes=CONTRACT.classes,
        score=0.7,
        deadline_ns=ask.deadline_ns,
        answer_by_ns=ask.deadline_ns,
        asked_at_ns=ask.asked_at_ns,
    )


def _forget(folder: Path) -> None:
    """Drop the folder's files from the page cache."""
    os.sync()
    for path in folder.iterdir():
        if path.is_file():
            with path.open("rb") as stream:
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _quantiles(values: NDArray[np.float64]) -> dict[str, float]:
    cuts = np.percentile(values, [50, 90, 99]).round(3).tolist()
    return dict(zip(("p50", "p90", "p99"), cuts, strict=True))


def _spread(values: NDArray[np.float64], *, digits: int = 3) -> dict[str, float]:
    cuts = np.percentile(values, [10, 50, 90]).round(digits).tolist()
    return dict(zip(("p10", "p50", "p90"), cuts, strict=True))


def machine() -> str:
    """Return what was measured on."""
    return (
        f"{platform.machine()}, {os.cpu_count()} CPUs, Linux {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}, paho {paho.mqtt.__version__}, "
        f"msgspec {msgspec.__version__}"
    )


def measure(folder: Path, only: Sequence[str]) -> dict[str, Any]:
    """Measure what is asked for."""
    found: dict[str, Any] = {
        "machine": machine(),
        "load_before": round(os.getloadavg()[0], 2),  # by others: above 1 the ratios are too high
        "payload_bytes": PAYLOAD_BYTES,
    }
    if {"round_trip", "throughput", "drain"} & set(only):
        with devices(folder) as (broker, bare, ours):
            if "round_trip" in only:
                found["round_trip"] = round_trip(bare, ours)
            if "throughput" in only:
                found["throughput"] = throughput(bare, ours)
            if "drain" in only:
                bare.close()
                found["drain"] = drain(broker, ours)
    if "recovery" in only:
        found["recovery"] = recovery(folder / "stored")
    return found


def main() -> None:
    """Measure, print, and with --keep keep the figures beside this file."""
    everything = "round_trip,throughput,drain,recovery"
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--as", dest="role", nargs=2, metavar=("ROLE", "ARGUMENT"))
    parser.add_argument("--only", default=everything, help="default: %(default)s")
    parser.add_argument("--folder", type=Path, help="on the disk to measure (default: here)")
    parser.add_argument("--keep", action="store_true")
    options = parser.parse_args()
    match options.role:
        case ["echo", port]:
            echo(int(port))
        case ["worker", port]:
            work(int(port))
        case ["opening", folder]:
            count_openings(Path(folder))
        case _:
            place = options.folder or Path(__file__).parent
            with tempfile.TemporaryDirectory(prefix="hedge-bench-", dir=place) as name:
                found = measure(Path(name), options.only.split(","))
            print(json.dumps(found, indent=1))  # noqa: T201 -- what the command is for
            if options.keep:
                Path(__file__).with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
