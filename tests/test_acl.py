"""The configuration of mosquitto that ships, as it is, against real clients over real TLS."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from hedge.uplink.asks import Answer, Ask
from hedge.uplink.far_end.worker import Worker
from hedge.uplink.link.backoff import Backoff
from hedge.uplink.link.broker_url import Broker
from hedge.uplink.link.link import Connected, Delivered, Disconnected, Link, Received, Subscribed
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.link.tls import TlsFiles
from hedge.uplink.pump import Pump
from hedge.uplink.topics import Device

SHIPPED = Path(__file__).parents[1] / "board_configs" / "mosquitto"
PASSWORD = "correct horse"  # noqa: S105 -- everybody knows it
PORCH, ATTIC = Device("berlin", "porch-7"), Device("berlin", "attic-1")

MakeAuthority = Callable[[str], Any]
StartPump = Callable[..., tuple[Pump, threading.Event]]
StartWorker = Callable[..., Worker]
MakeAsk = Callable[..., Ask]
Collect = Callable[[Pump, threading.Event, int], dict[str, Answer]]
Eventually = Callable[[Callable[[], bool]], None]


class Guarded(NamedTuple):
    """A mosquitto that runs with the shipped files."""

    tls_port: int
    websocket_port: int
    authority: Any

    def link(self, user: str, *, websocket: bool = False, **options: Any) -> MqttLink:  # noqa: ANN401 -- what the constructor takes
        """Return a link of that user, by certificate or, over WebSocket, by password."""
        if websocket:
            name = user.replace("/", "%2F")
            url = f"wss://{name}@localhost:{self.websocket_port}"
            given = {"tls": TlsFiles(ca_file=self.authority.file), "password": PASSWORD}
        else:
            url = f"mqtts://localhost:{self.tls_port}"
            certificate, key = self.authority.issue(user)
            files = TlsFiles(ca_file=self.authority.file, cert_file=certificate, key_file=key)
            given = {"tls": files}
        quick = Backoff(first_s=0.02, cap_s=0.1)
        own: dict[str, Any] = {"client_id": user.replace("/", "-"), "backoff": quick}
        return MqttLink(Broker.parse(url), **(own | given | options))


@pytest.fixture
def broker(
    tmp_path: Path,
    make_authority: MakeAuthority,
    start_shipped: Callable[[str], tuple[int, int]],
) -> Guarded:
    """Give a mosquitto that runs with the shipped files, its own paths and ports put in."""
    tool = shutil.which("mosquitto_passwd")
    if tool is None:
        pytest.skip("mosquitto_passwd is not installed")
    authority = make_authority("authority")
    certificate, key = authority.issue("broker", "localhost")
    passwords = tmp_path / "passwords"
    passwords.touch(mode=0o600)
    for user in ("berlin/porch-7", "worker-1"):
        command = [tool, "-b", str(passwords), user, PASSWORD]
        subprocess.run(command, check=True, capture_output=True)
    for source, name in (
        (certificate, "broker.pem"),
        (key, "broker.key"),
        (authority.file, "ca.pem"),
        (SHIPPED / "acl", "acl"),
    ):
        shutil.copy(source, tmp_path / name)
    return Guarded(*start_shipped((SHIPPED / "hedge.conf").read_text()), authority)


@pytest.fixture
def opened() -> Iterator[Callable[[MqttLink], MqttLink]]:
    """Give `opened(link)`: the link, connected, and closed afterwards."""
    links: list[MqttLink] = []

    def connect(link: MqttLink) -> MqttLink:
        links.append(link)
        link.open()
        assert events(link, Connected)
        return link

    yield connect
    for link in links:
        link.close(timeout_s=0.2)


def events(link: Link, kind: type, count: int = 1) -> list[Any]:
    """Drive the link until as many events of that kind have come."""
    found: list[Any] = []
    until_s = time.monotonic() + 30
    while len(found) < count:
        assert time.monotonic() < until_s, f"{len(found)} of {count} {kind.__name__} came"
        found += [event for event in link.poll(0.05) if isinstance(event, kind)]
    return found


def subscribed(link: Link, *filters: str) -> None:
    """Subscribe and wait for the broker's answer."""
    link.subscribe(filters)
    events(link, Subscribed)


def written(link: Link, *places: str) -> list[str]:
    """Publish to each place and return those that the broker takes."""
    mids = {link.send(place, b"x"): place for place in places}
    answers = events(link, Delivered, len(mids))
    return sorted(mids[event.mid] for event in answers if event.refused is None)


def own_topics(device: Device) -> dict[str, list[str]]:
    """Return what a device may read and write."""
    root = device.status.removesuffix("/status")
    return {
        "read": [device.status, device.answer, f"{root}/command/restart", f"{root}/command/reply"],
        "write": [
            device.status,
            device.telemetry,
            device.ask("cam"),
            f"{root}/ask/cam/parts",
            f"{root}/part/worker-1",
            device.outcome("cam"),
            device.event("cam"),
            f"{root}/command/reply",
        ],
    }


def test_a_device_writes_its_own_topics_and_no_others(
    broker: Guarded, opened: Callable[[MqttLink], MqttLink]
) -> None:
    link = opened(broker.link("berlin/porch-7"))
    mine = own_topics(PORCH)
    everything = [*mine["write"], *mine["read"]]
    assert written(link, *dict.fromkeys(everything)) == sorted(mine["write"])
    others = [place.replace("porch-7", "attic-1") for place in everything]
    elsewhere = [place.replace("berlin", "paris") for place in everything]
    strange = ["hedge/1/_worker/worker-1/plain", "homeassistant/device/x/config", "other", "$SYS/x"]
    assert written(link, *dict.fromkeys((*others, *elsewhere, *strange))) == []


def test_a_device_reads_its_own_topics_and_no_others(
    broker: Guarded, opened: Callable[[MqttLink], MqttLink]
) -> None:
    porch = opened(broker.link("berlin/porch-7"))
    subscribed(porch, "#", "hedge/1/berlin/+/answer", "$share/workers/hedge/1/+/+/ask/#")
    attic, worker = opened(broker.link("berlin/attic-1")), opened(broker.link("worker-1"))
    operator = opened(broker.link("operator"))
    assert written(attic, *own_topics(ATTIC)["write"]) == sorted(own_topics(ATTIC)["write"])
    assert written(worker, ATTIC.answer, PORCH.answer) == sorted([ATTIC.answer, PORCH.answer])
    commands = [f"hedge/1/berlin/{name}/command/restart" for name in ("attic-1", "porch-7")]
    assert written(operator, *commands) == sorted(commands)
    porch.send(PORCH.status, b"x")
    wanted = {PORCH.answer, commands[1], PORCH.status}
    seen: set[str] = set()
    while not wanted <= seen:
        seen |= {event.topic for event in events(porch, Received)}
    time.sleep(0.2)
    seen |= {event.topic for event in porch.poll(0.2) if isinstance(event, Received)}
    assert seen == wanted


def test_workers_and_consumers_have_only_what_they_need(
    broker: Guarded, opened: Callable[[MqttLink], MqttLink]
) -> None:
    worker, consumer = opened(broker.link("worker-1")), opened(broker.link("consumer"))
    mine = own_topics(PORCH)
    everything = sorted({*mine["write"], *mine["read"], "hedge/1/_worker/worker-1/shared"})
    assert written(worker, *everything) == ["hedge/1/_worker/worker-1/shared", PORCH.answer]
    assert written(consumer, *everything) == []
    for link, wanted in (
        (
            worker,
            {PORCH.ask("cam"), f"{PORCH.ask('cam')}/parts", "hedge/1/berlin/porch-7/part/worker-1"},
        ),
        (consumer, {PORCH.status, PORCH.outcome("cam"), PORCH.event("cam"), PORCH.telemetry}),
    ):
        subscribed(link, "hedge/#")
        porch = opened(broker.link("berlin/porch-7"))
        written(porch, *mine["write"])
        seen = {event.topic for event in events(link, Received, len(wanted))}
        time.sleep(0.2)
        seen |= {event.topic for event in link.poll(0.2) if isinstance(event, Received)}
        assert seen == wanted
        porch.close(timeout_s=1)


def test_nobody_takes_the_place_of_another_by_its_client_id(
    broker: Guarded, opened: Callable[[MqttLink], MqttLink]
) -> None:
    porch = opened(broker.link("berlin/porch-7"))
    opened(broker.link("berlin/attic-1", client_id="berlin-porch-7"))
    opened(broker.link("worker-1", client_id="berlin/porch-7"))
    assert not [event for event in porch.poll(0.3) if isinstance(event, Disconnected)]


def test_who_has_no_certificate_of_the_authority_is_told_why_it_is_refused(
    broker: Guarded, make_authority: MakeAuthority
) -> None:
    ours, other = broker.authority, make_authority("other")
    for identity, says in (
        (None, "certificate required"),
        (other.issue("berlin/porch-7"), "unknown ca"),
        (ours.issue("berlin/porch-7", days=-1), "certificate expired"),
    ):
        certificate, key = identity or (None, None)
        files = TlsFiles(ca_file=ours.file, cert_file=certificate, key_file=key)
        link = broker.link("berlin/porch-7", tls=files)
        link.open()
        reasons = {event.reason for event in events(link, Disconnected, 3)}
        link.close(timeout_s=0)
        assert reasons == {f"the broker refuses our side of TLS: {says}"}


def test_over_websocket_who_has_no_password_is_refused(broker: Guarded) -> None:
    for options in ({"password": None}, {"password": "wrong"}):
        link = broker.link("berlin/porch-7", websocket=True, **options)
        link.open()
        (event,) = events(link, Disconnected)
        link.close(timeout_s=0)
        assert "the broker refuses us: Not authorized" in event.reason


def test_the_commands_worker_takes_its_certificate_from_its_flags(broker: Guarded) -> None:
    certificate, key = broker.authority.issue("worker-1")
    url = f"mqtts://localhost:{broker.tls_port}"
    command = [sys.executable, "-m", "hedge", "worker", "digits", "--broker", url]
    files = ["--ca-file", broker.authority.file, "--cert-file", certificate, "--key-file", key]
    more = ["--name", "worker-1", "--keepalive-s", "5", "--max-packet-bytes", "100000"]
    with subprocess.Popen(
        [*command, *map(str, files), *more], cwd="/", stderr=subprocess.PIPE
    ) as worker:
        assert worker.stderr is not None
        said = worker.stderr.readline()
        worker.terminate()
        assert said == b"serving, shared subscription\n", said + worker.stderr.read()
        assert worker.wait(30) == 0


@pytest.mark.parametrize("websocket", [False, True])
def test_asks_are_answered_under_these_rules(
    websocket: bool,  # noqa: FBT001 -- a parameter
    broker: Guarded,
    start_pump: StartPump,
    start_worker: StartWorker,
    ask: MakeAsk,
    collect: Collect,
    eventually: Eventually,
) -> None:
    worker = start_worker(broker.link("worker-1", websocket=websocket), name="worker-1")
    assert worker.serving == "shared"
    pump, bell = start_pump(broker.link("berlin/porch-7", websocket=websocket), device=PORCH)
    for number in range(50):
        assert pump.offer(ask(f"7-{number}", first=number / 128))
    found = collect(pump, bell, 50)
    assert {answer.status for answer in found.values()} == {"answered"}
    assert pump.counters()["undelivered"] == worker.counters()["undelivered"] == 0
    eventually(lambda: pump.counters()["delivered"] >= 50)
