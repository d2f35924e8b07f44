"""The fuzzer in short, and what it has found."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from zlib import crc32

import msgspec
import pytest

from hedge.uplink.link.broker_url import Broker
from hedge.uplink.link.link import Connected, Disconnected, Event
from hedge.uplink.link.mqtt import MqttLink
from hedge.uplink.outbox import frames
from hedge.uplink.outbox.durable_outbox import DurableOutbox
from hedge.uplink.outbox.lifetime import read_stamp
from hedge.uplink.outbox.log_files import TAIL, Head, Hint, Point, hint_bytes
from hedge.uplink.outbox.recovery import survey

TESTS = Path(__file__).parent
INPUTS = 15_000
_NO_TEXT = b"\x94\xa2\xff\xfe\x01\x02\xc0"


def _fuzz(folder: Path, *arguments: str) -> tuple[int, dict[str, dict[str, dict[str, object]]]]:
    results = folder / "fuzz.json"
    command = [sys.executable, "-m", "fuzz", "--results", str(results), *arguments]
    command += ["--findings", str(folder / "findings")]
    ran = subprocess.run(command, cwd=TESTS, capture_output=True, check=False)
    assert results.exists(), ran.stderr.decode()
    return ran.returncode, json.loads(results.read_text())


def test_nothing_that_strangers_send_or_leave_on_disk_does_any_harm(tmp_path: Path) -> None:
    code, found = _fuzz(tmp_path, "--inputs", str(INPUTS), "--seed", "5")
    for name, figures in found["seeded"].items():
        assert figures["findings"] == {}, name
    assert code == 0
    assert sum(int(str(one["inputs"])) for one in found["seeded"].values()) >= INPUTS


def test_the_same_seed_gives_the_same_inputs() -> None:
    script = (
        "import sys; from fuzz.mutator import Mutator; from fuzz.messages import requests;"
        "mutator, seeds = Mutator(4), requests();"
        "[sys.stdout.buffer.write(mutator.message_like(seeds)) for _ in range(50)]"
    )
    one, other = (
        subprocess.run([sys.executable, "-c", script], cwd=TESTS, capture_output=True, check=True)
        for _ in range(2)
    )
    assert one.stdout == other.stdout
    assert len(one.stdout) > 10_000


@pytest.fixture
def said_by_a_broker() -> Iterator[Callable[[bytes], list[Event]]]:
    """Give `said_by_a_broker(data)`: what a link makes of it, one message being under way."""
    with contextlib.ExitStack() as stack:

        def say(data: bytes) -> list[Event]:
            server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            url = f"mqtt://127.0.0.1:{server.getsockname()[1]}?version=5"
            link = MqttLink(Broker.parse(url), client_id="d0")
            stack.callback(link.close, timeout_s=0.0)
            link.open()
            link.poll(0.0)
            broker = stack.enter_context(server.accept()[0])
            broker.sendall(b"\x20\x03\x00\x00\x00")
            while not any(isinstance(event, Connected) for event in link.poll(1.0)):
                pass
            assert link.send("a", b"") == 1
            broker.sendall(data)
            return link.poll(1.0)

        yield say


@pytest.mark.parametrize("reason", [0x55, 0x81], ids=["of nothing", "of other packets"])
def test_a_reason_that_no_puback_can_have_loses_the_connection_and_no_more(
    said_by_a_broker: Callable[[bytes], list[Event]], reason: int
) -> None:
    (event,) = said_by_a_broker(bytes((0x40, 4, 0, 1, reason, 0)))
    assert isinstance(event, Disconnected)


def test_a_packet_takes_the_memory_of_what_has_come_of_it_not_of_what_it_claims(
    said_by_a_broker: Callable[[bytes], list[Event]],
) -> None:
    tracemalloc.start()
    try:
        said_by_a_broker(b"\x30\xff\xff\xff\x7f" + bytes(1000))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def _log(folder: Path, *rows: bytes) -> Path:
    folder.mkdir()
    (folder / "00000001.log").write_bytes(b"".join(rows))
    return folder


def _frame(kind: int, payload: bytes, *, number: int, puts: int) -> bytes:
    return frames.frame(kind, payload, segment=1, salt=3, number=number, puts=puts)


@pytest.mark.timeout(20)
def test_a_number_that_leaps_ahead_is_counted_without_counting_to_it(tmp_path: Path) -> None:
    leap = 1 << 40
    folder = _log(
        tmp_path / "log",
        _frame(frames.MARK, b"", number=0, puts=0),
        _frame(frames.MARK, b"", number=leap, puts=leap - 1),
    )
    assert survey(folder).lost == leap - 1


@pytest.mark.parametrize("place", ["frame", "tail", "head"])
def test_numbers_that_leave_no_room_for_the_next_do_not_stop_the_start(
    tmp_path: Path, place: str
) -> None:
    most = (1 << 64) - 1
    if place == "frame":
        folder = _log(tmp_path / "log", _frame(frames.MARK, b"", number=most, puts=0))
    elif place == "tail":
        folder = _log(tmp_path / "log")
        hint = Hint(1, Point(0, 0), Point(most, most), sealed=False)
        (folder / TAIL).write_bytes(hint_bytes(hint))
    else:
        head = msgspec.msgpack.encode(Head(1, (1 << 32) - 1, Point(0, 0)))
        folder = _log(tmp_path / "log", _frame(frames.HEAD, head, number=0, puts=0))
    outbox = DurableOutbox(folder)
    try:
        assert outbox.stats().pending == 0
    finally:
        outbox.close()


@pytest.mark.parametrize(
    "payload", [_NO_TEXT, b"\x95" + b"\x91" * 100_000], ids=["no text", "too deep"]
)
def test_what_is_no_text_or_too_deep_in_a_file_is_damage_and_no_error(
    tmp_path: Path, payload: bytes
) -> None:
    assert read_stamp(payload) is None
    folder = _log(tmp_path / "log", _frame(frames.HEAD, payload, number=0, puts=0))
    assert survey(folder).asks == {}
    outbox = DurableOutbox(folder)
    outbox.close()
    fields = payload.ljust(48, b"\0")
    (folder / TAIL).write_bytes(fields + crc32(fields).to_bytes(4, "little"))
    assert survey(folder).asks == {}
