"""What a check says of the sinks, and of the disk that they may fill."""

from __future__ import annotations

import contextlib
import socket
import sqlite3
from pathlib import Path

import msgspec
import pytest

from hedge.runtime.checks.disk import check_disk
from hedge.runtime.checks.finding import Finding
from hedge.runtime.checks.sinks import check_sinks
from hedge.runtime.config import Config


def found(base: Path, sinks: str) -> list[Finding]:
    """Return what is found of a device with these sinks."""
    return list(check_sinks(config(sinks), base=base))


def config(sinks: str, *, event: str = "") -> Config:
    """Return the configuration of a device with these sinks and events."""
    document = f"""
        [device]
        name = "porch"
        state_dir = "state"
        [[stream]]
        name = "door"
        bundle = "digits"
        source = {{ kind = "replay", path = "rows.npz" }}
        {event}
        {sinks}
    """
    return msgspec.toml.decode(document, type=Config)


def sink(kind: str, options: str = "") -> str:
    """Return one sink's table."""
    return f'[[sink]]\nkind = "{kind}"\n{options}\n'


def test_a_sound_sink_of_each_kind_is_said_to_be_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as one:
        free = one.getsockname()[1]
    several = [
        sink("jsonl", 'path = "a/o.jsonl"'),
        sink("sqlite", 'path = "b/o.db"'),
        sink("http", f'listen = "{free}"'),
        sink("command", 'argv = ["true", "{label}"]'),
        sink("terminal"),
    ]
    findings = found(tmp_path, "".join(several))
    assert [one.level for one in findings] == ["ok"] * 4, findings
    assert "grows as long as it is" in findings[0].text
    assert not list(tmp_path.iterdir())


def test_a_file_of_events_is_one_of_outcomes(tmp_path: Path) -> None:
    (tmp_path / "o.jsonl").write_text('{"event":"visit","stream":"door"}\n')
    (one,) = found(tmp_path, sink("jsonl", 'path = "o.jsonl"\nmax_bytes = 8192'))
    assert one.level == "ok"


@pytest.mark.parametrize(
    ("kind", "options", "level", "says"),
    [
        ("jsonl", 'path = "letter"', "error", "no file of outcomes"),
        ("jsonl", 'path = "letter/o.jsonl"', "error", "no folder"),
        ("sqlite", 'path = "letter"', "error", "no database of outcomes"),
        ("sqlite", 'path = "other.db"', "error", "another program's database"),
        ("sqlite", 'path = "zeros"', "warning", "moved aside"),
        ("sqlite", 'path = "letter/o.db"', "error", ""),
        ("http", 'listen = "127.0.0.1:99999"', "error", "cannot be listened on"),
        ("http", 'listen = "0.0.0.0:0"', "warning", "without a password"),
        ("command", 'argv = ["nowhere-at-all"]', "error", "no program that can be run"),
        ("command", 'argv = ["./letter"]', "error", "no program that can be run"),
        ("command", 'argv = ["true", "{lable}"]', "error", "is no word"),
    ],
)
def test_what_would_not_work_is_one_finding_that_says_why(
    tmp_path: Path, kind: str, options: str, level: str, says: str
) -> None:
    (tmp_path / "letter").write_text("dear friend")
    (tmp_path / "zeros").write_bytes(bytes(4096))
    with contextlib.closing(sqlite3.connect(tmp_path / "other.db")) as other:
        other.execute("CREATE TABLE mine (n INTEGER)")
    before = {one.name: one.read_bytes() for one in tmp_path.iterdir()}
    (one,) = found(tmp_path, sink(kind, options))
    assert one.level == level
    assert says in one.text
    assert {one.name: one.read_bytes() for one in tmp_path.iterdir()} == before


def test_a_port_that_is_taken_is_a_warning_since_it_is_waited_for(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        (one,) = found(tmp_path, sink("http", f'listen = "{port}"'))
    assert one.level == "warning"
    assert "tried again" in str(one.todo)


_MUCH = 1 << 44
_CLIPS = """
[[stream.event]]
name = "visit"
labels = ["1"]
clip = { keep_bytes = %d }
"""


@pytest.mark.parametrize(
    ("sinks", "event", "key"),
    [
        (sink("sqlite", f'path = "o.db"\nmax_bytes = {_MUCH}'), "", "sink.max_bytes"),
        (sink("jsonl", f'path = "o.jsonl"\nmax_bytes = {_MUCH}'), "", "sink.max_bytes"),
        ("", _CLIPS % _MUCH, "stream.event.clip.keep_bytes"),
    ],
)
def test_what_may_be_kept_is_held_against_the_free_disk(
    tmp_path: Path, sinks: str, event: str, key: str
) -> None:
    (one,) = check_disk(config(sinks, event=event), base=tmp_path)
    assert one.level == "warning"
    assert one.todo == f"make room, or lower {key}"
    assert "TB more may be stored" in one.text.replace("TiB", "TB")


def test_what_is_there_already_does_not_count_twice(tmp_path: Path) -> None:
    sinks = sink("sqlite", f'path = "o.db"\nmax_bytes = {40 << 20}')
    (before,) = check_disk(config(sinks), base=tmp_path)
    (tmp_path / "o.db").write_bytes(bytes(30 << 20))
    (after,) = check_disk(config(sinks), base=tmp_path)
    assert "up to 4" in before.text.partition(";")[2]
    assert "up to 1" in after.text.partition(";")[2]
