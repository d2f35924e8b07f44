"""The sinks: JSON lines that survive a crash, and the terminal."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest

from hedge.models.errors import ConfigError
from hedge.models.records import Opinion, Outcome
from hedge.runtime.config import Config
from hedge.runtime.events.event import Clip, Event
from hedge.runtime.sinks.command import Command
from hedge.runtime.sinks.json_lines import JsonLines
from hedge.runtime.sinks.local import LocalSinks, open_sinks
from hedge.runtime.sinks.terminal import Terminal

_LABELS = {"door": ("nobody", "person")}


def _outcome(number: int = 0, *, final: bool = True) -> Outcome:
    probs = np.array([0.25, 0.75], np.float32)
    opinion = Opinion(probs, 0.5, "vacuity", vacuity=0.5)
    return Outcome(
        "door", f"3-{number}", "edge", 1, probs, opinion, final, latency_ns=2_500_000, reason="sure"
    )


def _event(number: int = 0, *, state: Literal["opened", "closed", "clip"] = "opened") -> Event:
    closed_at_s = None if state == "opened" else 9.75
    clip = Clip(path="/clips/a.mp4", bytes=9) if state == "clip" else None
    return Event(
        event="person",
        stream="door",
        id=f"3-e{number}",
        state=state,
        label="person",
        opened_at_s=5.5,
        closed_at_s=closed_at_s,
        samples=("3-1", "3-2"),
        count=2,
        peak=0.75,
        why="quiet" if closed_at_s is not None else None,
        clip=clip,
    )


class _Clock:
    """Unix time that is set."""

    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def _files(folder: Path) -> dict[str, list[str]]:
    """Return the ids in each file, in order."""
    return {
        one.name: [json.loads(line)["id"] for line in _lines(one)]
        for one in sorted(folder.iterdir())
    }


def _lines(file: Path) -> list[str]:
    return file.read_text("utf-8").splitlines()


def test_an_outcome_becomes_one_line_with_its_label_by_name(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "out" / "o.jsonl", labels=_LABELS, wall=lambda: 5.25)
    sink.emit(_outcome())
    sink.emit(Outcome("door", "3-1", "dropped", None, None, None, True))
    sink.close()
    first, second = (json.loads(line) for line in _lines(tmp_path / "out/o.jsonl"))
    assert first == {
        "stream": "door",
        "id": "3-0",
        "final": True,
        "route": "edge",
        "label": "person",
        "latency_ms": 2.5,
        "probs": [0.25, 0.75],
        "score": 0.5,
        "score_name": "vacuity",
        "reason": "sure",
        "at_s": 5.25,
    }
    assert second["label"] is None
    assert "probs" not in second


def test_only_the_owner_can_read_the_file(tmp_path: Path) -> None:
    JsonLines(tmp_path / "o.jsonl", labels=_LABELS).close()
    assert stat.S_IMODE((tmp_path / "o.jsonl").stat().st_mode) == 0o600


@pytest.mark.parametrize("torn", [b'{"id": "3-1", "la', b"x" * 200_000])
def test_a_torn_last_line_is_cut_off_and_whole_lines_stay(tmp_path: Path, torn: bytes) -> None:
    file = tmp_path / "o.jsonl"
    file.write_bytes(b'{"stream":"door","id":"3-0"}\n' + torn)
    sink = JsonLines(file, labels=_LABELS)
    sink.emit(_outcome(2))
    sink.close()
    assert sink.recovered_bytes == len(torn)
    assert [json.loads(line)["id"] for line in _lines(file)] == ["3-0", "3-2"]


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    file = tmp_path / "o.jsonl"
    file.write_bytes(b'{"stream":"do')
    JsonLines(file, labels=_LABELS).close()
    assert file.read_bytes() == b""


def test_a_writer_killed_at_any_moment_leaves_only_whole_lines_after_reopening(
    tmp_path: Path,
) -> None:
    file = tmp_path / "o.jsonl"
    code = (
        "import sys, numpy as np, pathlib\n"
        "from hedge.models.records import Outcome\n"
        "from hedge.runtime.sinks.json_lines import JsonLines\n"
        "sink = JsonLines(pathlib.Path(sys.argv[1]), labels={'door': ('a', 'b')})\n"
        "number = 0\n"
        "while True:\n"
        "    probs = np.array([0.25, 0.75], np.float32)\n"
        "    sink.emit(Outcome('door', f'1-{number}', 'edge', 1, probs, None, True))\n"
        "    number += 1\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(file)], cwd=tmp_path)
    while not file.exists() or file.stat().st_size < 100_000:
        assert writer.poll() is None
    writer.kill()
    writer.wait()
    JsonLines(file, labels=_LABELS).close()
    ids = [json.loads(line)["id"] for line in _lines(file)]
    assert ids == [f"1-{number}" for number in range(len(ids))]


def test_a_full_disk_raises_and_leaves_no_half_line(tmp_path: Path) -> None:
    file = tmp_path / "o.jsonl"
    sink = JsonLines(file, labels=_LABELS)
    sink.emit(_outcome(0))
    size = file.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 10, before[1]))
    try:
        with pytest.raises(OSError, match=r"(bytes were written|too large): '.*o\.jsonl'"):
            sink.emit(_outcome(1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    sink.emit(_outcome(2))
    sink.close()
    assert [json.loads(line)["id"] for line in _lines(file)] == ["3-0", "3-2"]


@pytest.mark.parametrize("content", [b"PK\x03\x04 an npz", b"no newline", b"{}\n", b'{"id": 1}'])
def test_a_file_of_anything_else_is_refused_and_not_touched(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "rows.npz").write_bytes(content)
    with pytest.raises(
        ConfigError, match=r"rows\.npz: is there already, and is no file of outcomes"
    ):
        JsonLines(tmp_path / "rows.npz", labels=_LABELS)
    assert (tmp_path / "rows.npz").read_bytes() == content


@pytest.mark.parametrize("place", [".", "/dev/full", "file/o.jsonl"])
def test_a_place_that_is_no_file_is_refused_by_name(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written|no file of outcomes"):
        JsonLines(tmp_path / place, labels=_LABELS)


def test_a_closed_file_refuses_outcomes(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "o.jsonl", labels=_LABELS)
    sink.close()
    sink.close()
    with pytest.raises(OSError, match="closed"):
        sink.emit(_outcome())


def test_events_are_lines_of_the_same_file_and_tell_themselves_by_their_first_member(
    tmp_path: Path,
) -> None:
    file = tmp_path / "o.jsonl"
    sink = JsonLines(file, labels=_LABELS, which="events")
    sink.emit(_outcome())
    sink.tell(_event())
    sink.close()
    sink = JsonLines(file, labels=_LABELS, which="finals")
    sink.emit(_outcome(1, final=False))
    sink.emit(_outcome(2))
    sink.tell(_event(state="clip"))
    sink.close()
    begins = [line.split(":")[0] for line in _lines(file)]
    assert begins == ['{"event"', '{"stream"', '{"event"']
    assert msgspec.json.decode(_lines(file)[2], type=Event) == _event(state="clip")


def test_a_new_file_is_begun_before_one_grows_too_long_and_only_so_many_stay(
    tmp_path: Path,
) -> None:
    sink = JsonLines(tmp_path / "o.jsonl", labels=_LABELS, max_bytes=1000, keep=2)
    for number in range(30):
        sink.emit(_outcome(number))
        assert all(one.stat().st_size <= 1000 for one in tmp_path.iterdir())
    sink.close()
    found = _files(tmp_path)
    assert sorted(found) == ["o.jsonl", "o.jsonl.1", "o.jsonl.2"]
    told = [*found["o.jsonl.2"], *found["o.jsonl.1"], *found["o.jsonl"]]
    assert told == [f"3-{number}" for number in range(30 - len(told), 30)]
    assert all(stat.S_IMODE(one.stat().st_mode) == 0o600 for one in tmp_path.iterdir())


def test_a_new_file_is_begun_when_one_is_too_old_also_after_a_restart(tmp_path: Path) -> None:
    clock = _Clock()
    for number in range(9):  # each day one, and every second day a new file
        sink = JsonLines(
            tmp_path / "o.jsonl", labels=_LABELS, max_age_s=2 * 86_400, keep=9, wall=clock
        )
        sink.emit(_outcome(number))
        sink.close()
        clock.now_s += 86_400
    assert _files(tmp_path) == {
        "o.jsonl": ["3-8"],
        "o.jsonl.1": ["3-6", "3-7"],
        "o.jsonl.2": ["3-4", "3-5"],
        "o.jsonl.3": ["3-2", "3-3"],
        "o.jsonl.4": ["3-0", "3-1"],
    }


def test_files_whose_last_line_is_too_old_go_while_it_writes(tmp_path: Path) -> None:
    clock = _Clock()
    older = tmp_path / "o.jsonl.1"
    older.write_text('{"stream":"door","id":"3-0"}\n')
    os.utime(older, (clock.now_s - 3 * 86_400 + 30,) * 2)
    sink = JsonLines(tmp_path / "o.jsonl", labels=_LABELS, keep_days=3, wall=clock)
    for seconds, there in ((1, True), (58, True), (2, False)):
        clock.now_s += seconds
        sink.emit(_outcome(seconds))
        assert older.exists() is there
    sink.close()


def test_a_clock_that_is_set_back_begins_no_new_files(tmp_path: Path) -> None:
    clock = _Clock()
    sink = JsonLines(tmp_path / "o.jsonl", labels=_LABELS, max_age_s=60, wall=clock)
    for number in range(4):
        sink.emit(_outcome(number))
        clock.now_s -= 100_000
    sink.close()
    assert list(_files(tmp_path)) == ["o.jsonl"]


def test_what_a_sink_could_not_write_is_counted(tmp_path: Path) -> None:
    sink = JsonLines(tmp_path / "o.jsonl", labels=_LABELS, max_bytes=4096)
    wide = np.full(2000, 1 / 2000, np.float32)
    with pytest.raises(OSError, match=r"o\.jsonl: .* more than a file may have"):
        sink.emit(Outcome("door", "3-0", "edge", 1, wide, None, True))
    sink.emit(_outcome(1))
    sink.close()
    assert sink.counters() == {"jsonl_lost": 1}
    assert _files(tmp_path) == {"o.jsonl": ["3-1"]}


def test_the_terminal_shows_when_an_event_opens_and_closes(tmp_path: Path) -> None:
    with (tmp_path / "seen").open("w") as out:
        sink = Terminal(labels=_LABELS, fd=out.fileno())
        sink.tell(_event())
        sink.tell(_event(state="clip"))
        sink.close()
    first, second = _lines(tmp_path / "seen")
    for part in ("door", "3-e0", "event", "person", "75.0%", "opened"):
        assert part in first
    for part in ("4.2 s", "clip /clips/a.mp4"):
        assert part in second


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """Give both ends of a pipe."""
    both = os.pipe()
    yield both
    for fd in both:
        with contextlib.suppress(OSError):
            os.close(fd)


def test_the_terminal_gets_all_that_waits_in_order_before_it_is_closed(
    pipe: tuple[int, int],
) -> None:
    source, sink_fd = pipe
    sink = Terminal(labels=_LABELS, fd=sink_fd, queue=2000, goodbye_s=60.0)
    for number in range(2000):  # more than a pipe holds
        sink.emit(_outcome(number))
    sink.stop()
    found = b""
    while found.count(b"\n") < 2000:
        found += os.read(source, 65_536)
    sink.close()
    assert [line.split()[1] for line in found.splitlines()] == [b"3-%d" % n for n in range(2000)]
    assert sink.counters() == {"terminal_dropped": 0}


def test_a_terminal_that_nobody_reads_holds_up_nobody_and_what_it_misses_is_counted(
    pipe: tuple[int, int], caplog: pytest.LogCaptureFixture
) -> None:
    source, sink_fd = pipe
    sink = Terminal(labels=_LABELS, fd=sink_fd, queue=10, goodbye_s=0.05)
    for number in range(5000):
        sink.emit(_outcome(number))
    sink.close()
    sink.close()
    sink.emit(_outcome())
    os.close(sink_fd)
    read = b"".join(iter(lambda: os.read(source, 65_536), b"")).count(b"\n")
    assert 0 < read < 5000
    assert sink.counters() == {"terminal_dropped": 5001 - read}
    assert caplog.text.count("standard output: nobody reads it") == 1


def test_a_terminal_whose_reader_has_gone_is_counted(pipe: tuple[int, int]) -> None:
    source, sink_fd = pipe
    os.close(source)
    sink = Terminal(labels=_LABELS, fd=sink_fd)
    sink.emit(_outcome())
    sink.close()
    assert sink.counters() == {"terminal_dropped": 1}


_UNREAD = """
import numpy as np
from hedge.models.records import Outcome
from hedge.runtime.sinks.terminal import Terminal
sink = Terminal(labels={'door': ('a', 'b')}, goodbye_s=0.05)
for number in range(5000):
    sink.emit(Outcome('door', f'1-{number}', 'edge', 1, np.array([0.2, 0.8]), None, True))
sink.close()
"""


def test_a_process_whose_output_nobody_reads_ends_all_the_same(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _UNREAD],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as held:
        assert held.wait(60) == 0
        assert held.stderr is not None
        assert (
            held.stderr.read() == "dropped: standard output: nobody reads it, lines are left out\n"
        )


def test_without_a_standard_output_there_is_no_terminal(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from hedge.models.errors import ConfigError\n"
        "from hedge.runtime.sinks.terminal import Terminal\n"
        "try:\n"
        "    Terminal(labels={})\n"
        "except ConfigError as error:\n"
        "    sys.exit(str(error))\n"
    )
    done = subprocess.run(
        ["/bin/sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, code],
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.stderr.startswith("standard output: there is none")


def _config(text: str) -> Config:
    document = f"""
        [device]
        name = "porch"
        [[stream]]
        name = "door"
        bundle = "digits"
        source = {{ kind = "replay", path = "rows.npz" }}
        {text}
    """
    return msgspec.toml.decode(document, type=Config)


_ALL = """
[[sink]]
kind = "jsonl"
path = "o.jsonl"
[[sink]]
kind = "sqlite"
path = "o.db"
[[sink]]
kind = "command"
argv = ["true", "{label}"]
"""


def test_every_kind_of_sink_is_opened_and_counts(
    tmp_path: Path, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    sinks = open_sinks(_config(_ALL), _LABELS, base=tmp_path)
    for sink in sinks.sinks:
        sink.emit(_outcome())
        sink.tell(_event())
    eventually(lambda: sinks.counters()["commands_run"] == 1)
    eventually(lambda: sinks.counters()["sqlite_rows"] == 2)
    sinks.close()
    sinks.close()
    counted = sinks.counters()
    assert (counted["sqlite_rows"], counted["commands_run"], counted["jsonl_lost"]) == (2, 1, 0)
    assert len(_lines(tmp_path / "o.jsonl")) == 2


def test_at_a_reload_what_has_not_changed_is_taken_over_and_the_rest_closed(
    tmp_path: Path,
) -> None:
    before = open_sinks(_config(_ALL), _LABELS, base=tmp_path)
    lines, database, command = before.sinks
    lines.emit(_outcome(0))
    command.tell(_event())
    changed = _config(_ALL.replace("true", "false"))
    after = open_sinks(changed, _LABELS, base=tmp_path, before=before)
    after.succeed(before)
    assert after.sinks[:2] == (lines, database)
    assert after.sinks[2] is not command
    lines.emit(_outcome(1))
    with pytest.raises(OSError, match="calls of it wait"):
        command.tell(_event())
    after.sinks[2].tell(_event())
    after.close()
    counted = after.counters()
    assert (counted["commands_run"], counted["commands_failed"]) == (1, 1), "it counts on"
    assert len(_lines(tmp_path / "o.jsonl")) == 2


def test_all_sinks_are_asked_to_end_before_the_first_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, object]] = []
    stop, close = Command.stop, Command.close

    def stopped(self: Command) -> None:
        asked.append(("stop", self))
        stop(self)

    def closed(self: Command) -> None:
        asked.append(("close", self))
        close(self)

    commands = "".join(f'[[sink]]\nkind = "command"\nargv = ["true", "{n}"]\n' for n in range(3))
    sinks = open_sinks(_config(commands), _LABELS, base=tmp_path)
    monkeypatch.setattr(Command, "stop", stopped)
    monkeypatch.setattr(Command, "close", closed)
    LocalSinks().succeed(sinks)  # as at a reload
    sinks.close()
    for calls in (asked[: len(asked) // 2], asked[len(asked) // 2 :]):
        assert [what for what, _ in calls[:3]] == ["stop"] * 3
        assert {one for what, one in calls if what == "close"} == set(sinks.sinks)


def test_where_one_sink_cannot_be_opened_none_stays_open(tmp_path: Path) -> None:
    threads = threading.active_count()
    with pytest.raises(ConfigError, match="nowhere: no program"):
        open_sinks(_config(_ALL.replace("true", "nowhere")), _LABELS, base=tmp_path)
    assert threading.active_count() == threads


def test_the_terminal_shows_label_certainty_and_time(tmp_path: Path) -> None:
    with (tmp_path / "seen").open("w") as out:
        sink = Terminal(labels=_LABELS, fd=out.fileno())
        sink.emit(_outcome(final=False))
        sink.close()
    line = (tmp_path / "seen").read_text("utf-8")
    for part in ("door", "3-0", "first", "person", "75.0%", "2.500 ms", "sure"):
        assert part in line
    assert line.count(os.linesep) == 1
