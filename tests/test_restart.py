"""A device that is killed, as its user has it: the command, a broker, a worker, and kill -9."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hedge.runtime import outbox_command
from hedge.runtime.shipped import bundle_path
from hedge.uplink.outbox.durable_outbox import DurableOutbox

StartBroker = Callable[..., "subprocess.Popen[bytes]"]

_CONFIG = """
[device]
name = "killed"
state_dir = "state"
[[stream]]
name = "meter"
bundle = "digits"
answer_within_ms = 400
source = {{ kind = "replay", path = "rows.npz", rate_hz = {rate} }}
audit = {{ share = 0 }}
[uplink]
broker = "mqtt://127.0.0.1:{port}"
{uplink}
[[sink]]
kind = "jsonl"
path = "outcomes.jsonl"
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Give a folder with the rows."""
    shutil.copy(bundle_path("digits").with_name("digits-unseen.npz"), tmp_path / "rows.npz")
    return tmp_path


def _write(place: Path, port: int, *, rate: float, uplink: str = "") -> None:
    (place / "device.toml").write_text(_CONFIG.format(port=port, rate=rate, uplink=uplink))


def _start(place: Path, *arguments: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "hedge", *arguments]
    return subprocess.Popen(command, cwd=place, stderr=subprocess.PIPE)


def _outcomes(place: Path) -> list[dict[str, Any]]:
    path = place / "outcomes.jsonl"
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _finals(place: Path) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for outcome in _outcomes(place):
        found[outcome["id"]] += [outcome] if outcome["final"] else []
    return found


def test_a_device_killed_without_a_network_owes_nothing_after_its_next_run(
    place: Path,
    free_port: int,
    start_broker: StartBroker,
    eventually: Callable[[Callable[[], bool]], None],
) -> None:
    _write(place, free_port, rate=200)
    for _ in range(3):
        before = len(_outcomes(place))
        device = _start(place, "run", "device.toml")
        eventually(lambda start=before: len(_outcomes(place)) > start + 150)  # type: ignore[misc]
        device.kill()
        device.wait()
        assert device.stderr is not None
        device.stderr.close()
    owed = outbox_command.stat(place / "state" / "outbox")
    assert owed.asks >= 40
    before = len(_outcomes(place))
    start_broker("mosquitto", free_port)
    worker = _start(place, "worker", "digits", "--broker", f"mqtt://127.0.0.1:{free_port}")
    try:
        assert worker.stderr is not None
        assert b"serving" in worker.stderr.readline()
        done = _start(place, "run", "device.toml", "--json", "report.json")
        _, said = done.communicate(timeout=100)
        assert done.returncode == 0, said
    finally:
        worker.kill()
        worker.communicate()
    report = json.loads((place / "report.json").read_text())
    (stream,) = report["streams"]
    assert sum(stream["ends"].values()) == stream["routes"]["escalated"] + stream["resumed"]
    finals = _finals(place)
    again = {one: outcomes for one, outcomes in finals.items() if len(outcomes) > 1}
    for outcomes in again.values():  # said twice around a kill, never twice differently alive
        assert "restarted" in {outcome.get("degraded") for outcome in outcomes}
    ends = Counter(outcome.get("degraded") for outcome in _outcomes(place)[before:])
    assert ends["restarted"] == owed.final_owed > 0
    assert report["uplink"]["outbox_recovered"] == owed.asks
    left = outbox_command.stat(place / "state" / "outbox")
    assert (left.final_owed, left.lost) == (0, 0)
    late = sum(outcome.get("reason") == "late" for outcome in _outcomes(place))
    assert late == report["counts"]["late_answer"] == owed.asks - left.asks > 0


def test_a_second_device_on_the_same_state_is_refused_and_told_why(
    place: Path, free_port: int
) -> None:
    _write(place, free_port, rate=50)
    owner = DurableOutbox(place / "state" / "outbox")
    second = _start(place, "run", "device.toml")
    _, said = second.communicate(timeout=60)
    owner.close()
    assert second.returncode == 1, "it may be tried again"
    assert b"another process owns this outbox" in said
    assert b"Traceback" not in said


def test_a_device_whose_state_cannot_be_written_infers_on_and_counts_what_it_cannot_store(
    place: Path, free_port: int
) -> None:
    _write(place, free_port, rate=2000)
    (place / "state").write_text("a file where a folder should be")
    device = _start(place, "run", "device.toml", "--json", "report.json")
    _, said = device.communicate(timeout=60)
    assert device.returncode == 0, said
    report = json.loads((place / "report.json").read_text())
    (stream,) = report["streams"]
    assert stream["routes"]["accepted"] > 300
    assert stream["reasons"]["not_stored"] == stream["routes"]["escalated"] > 50
    assert report["uplink"]["not_stored"] == stream["routes"]["escalated"]
    assert said.count(b"the disk fails") == 1


def test_a_disk_that_is_full_from_the_start_is_no_reason_not_to_infer(
    place: Path, free_port: int
) -> None:
    _write(place, free_port, rate=2000, uplink=f"min_free_bytes = {1 << 49}")
    device = _start(place, "run", "device.toml", "--json", "report.json")
    begun_s = time.monotonic()
    _, said = device.communicate(timeout=60)
    assert device.returncode == 0, (said, time.monotonic() - begun_s)
    report = json.loads((place / "report.json").read_text())
    (stream,) = report["streams"]
    assert stream["reasons"]["not_stored"] == stream["routes"]["escalated"] > 50
    assert report["uplink"]["outbox_no_space"] > 0
