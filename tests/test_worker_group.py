"""Workers as processes of their own: sharing, dying in the middle of a batch, leaving in peace."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hedge.uplink.asks import Answer, Ask
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.pump import Pump
from hedge.uplink.sender import Window
from hedge.uplink.topics import Device

StartPump = Callable[..., tuple[Pump, threading.Event]]
StartBroker = Callable[..., "subprocess.Popen[bytes]"]
MakeAsk = Callable[..., Ask]
MakeLink = Callable[..., MqttLink]
Eventually = Callable[[Callable[[], bool]], None]
Collect = Callable[[Pump, threading.Event, int], dict[str, Answer]]


class Member:
    """One worker process, and what it says."""

    def __init__(self, url: str, name: str, *, group: str, folder: Path) -> None:
        self.hold = folder / f"hold-{name}"
        program = Path(__file__).with_name("holding_worker.py")
        command = [sys.executable, str(program), url, name, group, str(self.hold)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd="/", text=True)
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def answered(self) -> int:
        """How many asks it has answered, as it says."""
        return sum(int(word) for word in list(self.said) if word.isdigit())

    def end(self) -> None:
        """Kill it, if it lives."""
        self.process.kill()
        self.process.wait()
        self._reader.join()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.said.append(line.strip())


@pytest.fixture
def broker(free_port: int, start_broker: StartBroker) -> str:
    """Give the URL of a mosquitto of this test's own."""
    start_broker("mosquitto", free_port)
    return f"mqtt://127.0.0.1:{free_port}"


@pytest.fixture
def members(
    broker: str, device: Device, tmp_path: Path, eventually: Eventually
) -> Iterator[tuple[Member, Member]]:
    """Give two workers of one group that serve."""
    with contextlib.ExitStack() as stack:
        both = []
        for name in ("a", "b"):
            both.append(Member(broker, name, group=device.name, folder=tmp_path))
            stack.callback(both[-1].end)
        eventually(lambda: all("shared" in member.said for member in both))
        yield both[0], both[1]


def test_of_two_workers_one_is_killed_in_mid_batch_and_every_ask_is_answered_once(
    members: tuple[Member, Member],
    broker: str,
    mqtt_link: MakeLink,
    start_pump: StartPump,
    device: Device,
    ask: MakeAsk,
    collect: Collect,
    eventually: Eventually,
) -> None:
    pump, bell = start_pump(mqtt_link(broker, device.name), window=Window(lease_s=1.0))
    for number in range(100):
        assert pump.offer(ask(f"7-{number}", first=number / 256))
    answers = collect(pump, bell, 100)
    one, other = members
    assert one.answered >= 10
    assert other.answered >= 10
    one.hold.touch()
    for number in range(100, 160):
        assert pump.offer(ask(f"7-{number}", first=number / 256))
    eventually(lambda: any(word.startswith("holding") for word in one.said))
    one.process.send_signal(signal.SIGKILL)
    answers |= collect(pump, bell, 60)  # which fails if one is answered twice
    assert {
        found: float(answer.probs[0])
        for found, answer in answers.items()
        if answer.probs is not None
    } == {f"7-{number}": number / 256 for number in range(160)}
    counts = pump.counters()
    assert (counts["answered"], counts["expired"], counts["dead"]) == (160, 0, 0)
    assert counts["resent"] > 0, "nothing was in the killed worker's hands"


def test_a_worker_that_is_told_to_leave_answers_what_it_holds_and_the_other_takes_over(
    members: tuple[Member, Member],
    broker: str,
    mqtt_link: MakeLink,
    start_pump: StartPump,
    device: Device,
    ask: MakeAsk,
    collect: Collect,
) -> None:
    pump, bell = start_pump(mqtt_link(broker, device.name))  # whose lease is ten seconds
    answers = {}
    for number in range(100):
        assert pump.offer(ask(f"7-{number}"))
        if number == 50:
            answers = collect(pump, bell, 10)
            members[0].process.send_signal(signal.SIGTERM)
    answers |= collect(pump, bell, 100 - len(answers))
    assert len(answers) == 100
    assert members[0].process.wait(30) == 0
    assert pump.counters()["resent"] == 0
    assert members[0].answered > 0
