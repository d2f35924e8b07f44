"""Tests of `hedge outbox ls|stat|verify|export|drop`."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hedge.models.errors import ConfigError, UplinkError
from hedge.runtime import outbox_command
from hedge.telemetry.clock import boottime_ns
from hedge.uplink import wire
from hedge.uplink.outbox.durable_outbox import DurableOutbox
from hedge.uplink.outbox.outbox import Record
from hedge.uplink.outbox.recovery import Kept, read

CONFIG = """
[device]
name = "porch"
state_dir = "state"

[[stream]]
name = "cam"
bundle = "digits"
source = { kind = "replay", path = "rows.npz" }
"""


def command(*words: str | Path) -> int:
    """Run `hedge outbox …` in this process; return its exit code."""
    parser = argparse.ArgumentParser(prog="hedge")
    outbox_command.add_parser(parser.add_subparsers())
    options = parser.parse_args(["outbox", *map(str, words)])
    code: int = options.run(options)
    return code


def record(ask_id: str, *, waits: bool = False, left_s: float | None = None) -> Record:
    """Return a record whose body is the numbers 0 to 5, times the id's length."""
    now_ns = boottime_ns()
    body = np.arange(6, dtype="<f4").reshape(2, 3) * len(ask_id)
    request = wire.Request(
        v=1,
        id=ask_id,
        session=3,
        kind="decide",
        model="steps",
        contract="00ff" * 4,
        entry="input",
        remaining_ms=None,
        dtype="float32",
        shape=(2, 3),
        codec="raw",
        opinion=wire.WireOpinion(np.array([0.25, 0.75], "<f4").tobytes(), 0.5, "vacuity", 0.1),
        body=body.tobytes(),
    )
    return Record(
        request=request,
        stream="cam",
        classes=2,
        score=0.5,
        deadline_ns=None if left_s is None else now_ns + int(left_s * 1e9),
        answer_by_ns=now_ns if waits else None,
        asked_at_ns=now_ns - 10**9,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give an outbox: 3-0 sent, 3-1 with a final owed, 3-2 until an hour, 3-99 dead."""
    folder = tmp_path / "state" / "outbox"
    outbox = DurableOutbox(folder, max_strikes=2, min_free_bytes=0)
    outbox.put([record("3-99"), record("3-0"), record("3-1", waits=True)])
    outbox.put([record("3-2", left_s=3600)])
    for _ in range(2):
        outbox.sent("3-99", lease_until_ns=1)
        outbox.requeue(["3-99"])
    outbox.sent("3-0", lease_until_ns=1)
    assert outbox.failures() == {"3-99": "dead"}
    outbox.close()
    return folder


def told(path: Path) -> dict[str, object]:
    """Return what a command wrote as JSON."""
    found: dict[str, object] = json.loads(path.read_text())
    return found


def test_ls_names_every_ask_and_its_state(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("ls", folder, "--json", tmp_path / "ls.json") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [line[:5] for line in lines] == [
        ["3-0", "cam", "sent", "1", "yes"],
        ["3-1", "cam", "waiting", "0", "owed"],
        ["3-2", "cam", "waiting", "0", "yes"],
        ["3-99", "cam", "dead", "0", "yes"],
    ]
    asks = outbox_command.ls(folder).asks
    assert asks[2].left_s == pytest.approx(3600, abs=60)
    assert asks[1].left_s is None
    assert asks[1].age_s == pytest.approx(1, abs=60)
    assert asks[0].probs == (0.25, 0.75)
    assert told(tmp_path / "ls.json")["outbox"] == str(folder)


def test_ls_can_stop_early(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("ls", folder, "--limit", "1") == 0
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_stat_says_how_full_it_is(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("stat", folder, "--json", tmp_path / "stat.json") == 0
    found = told(tmp_path / "stat.json")
    assert {key: found[key] for key in ("asks", "sent", "final_owed", "dead", "lost")} == {
        "asks": 3,
        "sent": 1,
        "final_owed": 1,
        "dead": 1,
        "lost": 0,
    }
    assert found["files_bytes"] == sum(path.stat().st_size for path in folder.glob("*.log"))
    text = capsys.readouterr().out
    assert "nobody owns it now" in text
    assert "final owed   1" in text


def test_looking_works_beside_the_daemon_and_changes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    owner = DurableOutbox(folder, min_free_bytes=0)
    owner.put([record("4-0")])
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for verb in ("ls", "stat", "verify"):
        assert command(verb, folder) == 0
    assert command("export", folder, tmp_path / "out") == 0
    text = capsys.readouterr().out
    assert "4-0" in text
    assert "a running process owns it" in text
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    with pytest.raises(UplinkError, match="another process owns this outbox"):
        command("drop", folder, "--all")
    owner.close()


def test_verify_says_sound_or_what_is_missing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("verify", folder, "--json", tmp_path / "v.json") == 0
    assert told(tmp_path / "v.json")["sound"] is True
    assert "3 asks in 1 files read\n  sound" in capsys.readouterr().out
    path = folder / "00000001.log"
    data = path.read_bytes()
    path.write_bytes(data.replace(b"3-1", b"3-!", 1))
    assert command("verify", folder, "--json", tmp_path / "v.json") == 1
    assert "at most 1 asks are lost" in capsys.readouterr().out
    assert told(tmp_path / "v.json")["damaged_files"] == [1]
    assert path.read_bytes() != data  # it only looks


def test_export_writes_every_ask_and_its_body(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    assert command("export", folder, out, "--json", tmp_path / "e.json") == 0
    assert told(tmp_path / "e.json")["asks"] == 4
    lines = [json.loads(line) for line in (out / "asks.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["3-0", "3-1", "3-2", "3-99"]
    assert lines[0]["model"] == "steps"
    with np.load(out / "bodies.npz", allow_pickle=False) as bodies:
        for line in lines:
            wanted = np.arange(6, dtype="f4").reshape(2, 3) * len(line["id"])
            assert (bodies[line["id"]] == wanted).all()
    with pytest.raises(ConfigError, match="out: cannot be written"):
        command("export", folder, out)


def test_drop_gives_up_what_it_is_told_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command("drop", folder, "--id", "3-0", "--id", "3-2", "--id", "7-7") == 0
    assert "2 asks dropped" in capsys.readouterr().out
    assert [one.id for one in outbox_command.ls(folder).asks] == ["3-1", "3-99"]
    assert command("drop", folder, "--dead") == 0
    assert [one.id for one in outbox_command.ls(folder).asks] == ["3-1"]
    assert command("drop", folder, "--all") == 0
    assert outbox_command.ls(folder).asks == ()
    assert not any(b"steps" in path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert outbox_command.verify(folder).sound


def test_a_dead_ask_can_be_dropped_by_its_id(folder: Path) -> None:
    assert outbox_command.drop(folder, ids=frozenset({"3-99"})) == 1
    assert [one.id for one in outbox_command.ls(folder).asks] == ["3-0", "3-1", "3-2"]


def test_the_outbox_of_a_device_is_found_by_its_configuration(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "device.toml").write_text(CONFIG)
    assert command("stat", tmp_path / "device.toml") == 0
    assert capsys.readouterr().out.startswith(f"{folder}: ")


@pytest.mark.parametrize("verb", ["ls", "stat", "verify"])
def test_a_place_without_an_outbox_is_named(tmp_path: Path, verb: str) -> None:
    with pytest.raises(UplinkError, match=r"no outbox here"):
        command(verb, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_is_settled_during_a_look_is_left_out_and_not_called_damaged(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = DurableOutbox(folder, min_free_bytes=0)
    outbox.put([record(f"5-{number}") for number in range(3)])

    def settled_meanwhile(place: Path, kept: Kept) -> bytes | None:
        payload = read(place, kept)
        if payload is None or b"5-1" not in payload:
            return payload
        outbox.settle({"5-1": "answered"})
        outbox.final(["5-1"])
        return None  # its file is gone

    monkeypatch.setattr(outbox_command, "read", settled_meanwhile)
    found = outbox_command.verify(folder)
    outbox.close()
    assert (found.sound, found.unread) == (True, 0)


def test_a_look_while_the_owner_is_writing_is_never_wrong(folder: Path) -> None:
    code = f"""
import sys
import time
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_outbox_command import record
from hedge.uplink.outbox.durable_outbox import DurableOutbox
outbox = DurableOutbox(Path({str(folder)!r}), min_free_bytes=0)
print("up", flush=True)
for number in range(100000):
    outbox.put([record(f"5-{{number}}")])
    if number >= 200:
        outbox.settle({{f"5-{{number - 200}}": "answered"}})
        outbox.final([])
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        most, looks, until_s = 0, 0, time.monotonic() + 60
        while looks < 60 or (most <= 3 and time.monotonic() < until_s):
            found = outbox_command.verify(folder)
            assert found.sound, found
            most, looks = max(most, found.asks), looks + 1
        writer.kill()
    assert most > 3
