"""The command hook: real programs, run without a shell, one at a time, and never for too long."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from hedge.models.errors import ConfigError
from hedge.models.records import Outcome
from hedge.runtime.events.event import Clip, Event
from hedge.runtime.sinks.command import Command
from hedge.runtime.sinks.command_words import checked, filled, values_of

Eventually = Callable[[Callable[[], bool]], None]
Open = Callable[..., Command]
LABELS = {"door": ("nobody", "a person; rm -rf $HOME `id`")}

_SAY = """#!{python}
import json, os, sys
told = {{
    "argv": sys.argv[1:],
    "read": sys.stdin.read(),
    "environ": dict(os.environ),
    "fds": sorted(int(one) for one in os.listdir("/proc/self/fd")),
    "cwd": os.getcwd(),
    "group": os.getpgrp() == os.getpid(),
}}
with open("said", "a") as file:
    file.write(json.dumps(told) + "\\n")
"""


def program(folder: Path, text: str, name: str = "program") -> str:
    """Write a Python program that can be run, and return its relative path."""
    path = folder / name
    path.write_text(text if text.startswith("#!") else f"#!{sys.executable}\n{text}")
    path.chmod(0o755)
    return f"./{name}"


@pytest.fixture
def say(tmp_path: Path) -> str:
    """Give a program that writes down how it was started."""
    return program(tmp_path, _SAY.format(python=sys.executable))


@pytest.fixture
def open_sink(tmp_path: Path) -> Iterator[Open]:
    """Give `open_sink(argv, …)`."""
    with contextlib.ExitStack() as stack:

        def make(*argv: str, **options: Any) -> Command:  # noqa: ANN401 -- what it takes
            given: dict[str, Any] = {"goodbye_s": 60.0, "timeout_s": 60.0}
            sink = Command(argv, labels=LABELS, folder=tmp_path, **(given | options))
            stack.callback(sink.close)
            return sink

        yield make


def said(folder: Path) -> list[dict[str, Any]]:
    """Return what the program has written down."""
    path = folder / "said"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def event(number: int = 0, **changes: Any) -> Event:  # noqa: ANN401 -- the record's fields
    """Return an event that has opened, or another."""
    fields: dict[str, Any] = {
        "event": "visit",
        "stream": "door",
        "id": f"3-e{number}",
        "state": "opened",
        "label": "person",
        "opened_at_s": 5.5,
        "peak": 0.75,
    }
    return Event(**(fields | changes))


def outcome(number: int = 0, *, final: bool = True) -> Outcome:
    """Return an outcome, whose label means ill."""
    probs = np.array([0.125, 0.875], np.float32)
    return Outcome("door", f"3-{number}", "edge", 1, probs, None, final)


def ended(sink: Command, calls: int) -> bool:
    """Return whether so many calls have come to an end, however they did."""
    return sum(sink.counters().values()) >= calls


def test_words_are_replaced_within_their_argument_and_no_shell_reads_them(
    open_sink: Open, say: str, tmp_path: Path
) -> None:
    sink = open_sink(say, "{label}", "--of={stream}/{id}", "{{state}}", "$HOME", which="all")
    sink.emit(outcome(7))
    sink.close()
    (told,) = said(tmp_path)
    assert told["argv"] == [LABELS["door"][1], "--of=door/3-7", "{final}", "$HOME"]
    assert sink.counters()["commands_run"] == 1


def test_an_event_gives_its_words_and_its_json(open_sink: Open, say: str, tmp_path: Path) -> None:
    sink = open_sink(say, "{event}", "{state}", "{label}", "{probability}", "{clip}", "{route}")
    one = event(state="clip", closed_at_s=9.0, clip=Clip(path="/clips/a b.mp4", bytes=9))
    sink.tell(one)
    sink.close()
    (told,) = said(tmp_path)
    assert told["argv"] == ["visit", "clip", "person", "0.750000", "/clips/a b.mp4", ""]
    read = json.loads(told["read"])
    assert told["read"].count("\n") == 1
    assert (read["event"], read["id"], read["clip"]["path"]) == ("visit", "3-e0", "/clips/a b.mp4")


def test_it_has_a_lean_environment_and_inherits_nothing(
    open_sink: Open, say: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HEDGE_BROKER_PASSWORD", "secret")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        sink = open_sink(say)
        sink.tell(event())
        sink.close()
    (told,) = said(tmp_path)
    assert "secret" not in str(told)
    assert set(told["environ"]) <= {
        *("PATH", "HOME", "USER", "LANG", "LC_ALL", "TZ", "TMPDIR", "LC_CTYPE")
    }
    assert told["fds"] == [0, 1, 2, 3], "3 is the folder that it lists"
    assert told["cwd"] == str(tmp_path.resolve())
    assert told["group"]


def test_only_what_is_wanted_starts_it(open_sink: Open, say: str, tmp_path: Path) -> None:
    sink = open_sink(say, "{id}", "{state}", states=("opened",))
    sink.emit(outcome())
    sink.tell(event(1))
    sink.tell(event(1, state="closed"))
    sink.close()
    sink = open_sink(say, "{id}", "{state}", which="finals")
    sink.emit(outcome(2, final=False))
    sink.emit(outcome(3))
    sink.close()
    assert [one["argv"] for one in said(tmp_path)] == [["3-e1", "opened"], ["3-3", "final"]]


def test_calls_come_one_at_a_time_and_in_order(
    open_sink: Open, tmp_path: Path, eventually: Eventually
) -> None:
    text = (
        "import os, sys\nos.mkdir('held')\nopen('said', 'a').write(sys.argv[1])\nos.rmdir('held')"
    )
    sink = open_sink(program(tmp_path, text), "{id}\n")
    for number in range(8):
        sink.tell(event(number))
    eventually(lambda: ended(sink, 8))
    assert sink.counters()["commands_run"] == 8, "a second at the same time fails to make 'held'"
    assert (tmp_path / "said").read_text().split() == [f"3-e{number}" for number in range(8)]


def test_a_failing_program_is_counted_and_its_last_words_are_logged_rarely(
    open_sink: Open, tmp_path: Path, eventually: Eventually, caplog: pytest.LogCaptureFixture
) -> None:
    text = "import sys\nsys.stderr.write('x' * 300_000 + '\\nno relay at 0x20\\n')\nsys.exit(3)"
    sink = open_sink(program(tmp_path, text))
    for number in range(4):
        sink.tell(event(number))
    eventually(lambda: ended(sink, 4))
    assert sink.counters()["commands_failed"] == 4
    warned = [one.message for one in caplog.records if one.levelname == "WARNING"]
    assert len(warned) == 1
    assert warned[0].endswith("program ended with 3: no relay at 0x20")


def test_what_cannot_be_shown_of_its_last_words_does_not_reach_the_log(
    open_sink: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    text = r"import sys; sys.stderr.write('bad \x1b[31m\x01 \u202e\r line\u00e9'); sys.exit(3)"
    sink = open_sink(program(tmp_path, text))
    sink.tell(event())
    eventually(lambda: ended(sink, 1))
    assert "ended with 3: bad \ufffd[31m\ufffd \ufffd\ufffd line\u00e9" in caplog.text


def test_a_program_that_reads_nothing_of_a_long_line_is_no_failure(
    open_sink: Open, tmp_path: Path
) -> None:
    sink = open_sink("true", which="all")
    probs = np.full(60_000, 1 / 60_000, np.float32)
    for number in range(3):
        sink.emit(Outcome("door", f"3-{number}", "edge", 1, probs, None, True))
    sink.close()
    assert sink.counters()["commands_run"] == 3
    assert not list(tmp_path.iterdir())


def test_a_long_line_is_read_whole(open_sink: Open, say: str, tmp_path: Path) -> None:
    sink = open_sink(say, which="all")
    sink.emit(Outcome("door", "3-1", "edge", 1, np.full(60_000, 0.25), None, True))
    sink.close()
    (told,) = said(tmp_path)
    assert len(json.loads(told["read"])["probs"]) == 60_000


_NEST = """#!/bin/sh
sleep 600 &
echo $! > pid.new
mv pid.new pid
{then}
"""


@pytest.mark.parametrize("then", ["sleep 600", "exit 0"])
def test_a_program_is_ended_with_all_that_it_started(
    open_sink: Open, tmp_path: Path, eventually: Eventually, then: str
) -> None:
    sink = open_sink(program(tmp_path, _NEST.format(then=then)), timeout_s=3.0)
    sink.tell(event())
    eventually((tmp_path / "pid").exists)
    grandchild = int((tmp_path / "pid").read_text())
    eventually(lambda: ended(sink, 1))
    eventually(lambda: gone(grandchild))
    counted = sink.counters()
    late = then != "exit 0"
    assert (counted["commands_timed_out"], counted["commands_run"]) == (late, not late)


def gone(pid: int) -> bool:
    """Return whether a process has ended, be it that nobody has reaped it."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_what_the_queue_has_no_room_for_is_refused_and_counted(
    open_sink: Open, tmp_path: Path, eventually: Eventually
) -> None:
    sleeper = program(tmp_path, "#!/bin/sh\n> begun\nsleep 600")
    sink = open_sink(sleeper, queue=2, goodbye_s=0.1)
    sink.tell(event(0))
    eventually((tmp_path / "begun").exists)
    sink.tell(event(1))
    sink.tell(event(2))
    with pytest.raises(OSError, match="too many calls of it wait"):
        sink.tell(event(3))
    assert sink.counters()["commands_dropped"] == 1


def test_closing_lets_what_waits_run_for_a_moment_and_then_kills(
    open_sink: Open, tmp_path: Path, say: str, eventually: Eventually
) -> None:
    sink = open_sink(say, "{id}")
    for number in range(3):
        sink.tell(event(number))
    sink.close()
    assert [one["argv"] for one in said(tmp_path)] == [["3-e0"], ["3-e1"], ["3-e2"]]
    text = "import os, time\nopen('new', 'w').write(str(os.getpid()))\n"
    text += "os.rename('new', 'pid')\ntime.sleep(600)"
    sink = open_sink(program(tmp_path, text, "sleeper"), goodbye_s=0.2)
    for number in range(3):
        sink.tell(event(number))
    eventually((tmp_path / "pid").exists)
    sink.close()
    sink.close()
    assert gone(int((tmp_path / "pid").read_text()))
    counted = sink.counters()
    assert (counted["commands_timed_out"], counted["commands_dropped"]) == (1, 2)
    with pytest.raises(OSError, match="calls of it wait"):
        sink.tell(event())


def test_a_program_that_went_away_is_counted_and_harms_nothing(
    open_sink: Open, say: str, tmp_path: Path, eventually: Eventually
) -> None:
    sink = open_sink(say)
    (tmp_path / "program").rename(tmp_path / "away")
    sink.tell(event())
    eventually(lambda: sink.counters()["commands_not_started"] == 1)
    (tmp_path / "away").rename(tmp_path / "program")
    sink.tell(event())
    eventually(lambda: sink.counters()["commands_run"] == 1)


@pytest.mark.parametrize(
    ("argv", "label", "fits"),
    [
        (["p", "{label}"], "-rf", False),
        (["p", "{label}x"], "--", False),
        (["p", "{stream}{label}"], "-rf", True),
        (["p", "--label={label}"], "-rf", True),
        (["p", "--", "{label}"], "-rf", True),
        (["p", "{label}"], "a\x00b", False),
        (["p", "{label}"], "{id} {x}", True),
        (["p", "{label}"], "", True),
    ],
)
def test_no_value_begins_an_option_or_ends_an_argument(
    argv: list[str], label: str, *, fits: bool
) -> None:
    values = values_of(event(label=label), ())
    if fits:
        arguments = filled(argv, values)
        assert len(arguments) == len(argv)
        assert label in arguments[-1], "and is not replaced in its turn"
    else:
        with pytest.raises(ValueError, match=r"would be an option|NUL"):
            filled(argv, values)


def test_a_value_that_would_be_an_option_starts_nothing_and_is_counted(
    open_sink: Open, say: str, tmp_path: Path, eventually: Eventually
) -> None:
    sink = open_sink(say, "{label}")
    sink.tell(event(label="--help"))
    eventually(lambda: sink.counters()["commands_refused"] == 1)
    assert said(tmp_path) == []


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["nowhere-at-all"], "nowhere-at-all: no program that can be run"),
        (["./missing"], "missing: no program that can be run .*chmod"),
        (["./text"], "text: no program that can be run"),
        (["./folder"], "folder: no program that can be run"),
        (["true", "{lable}"], r"{lable} is no word .*{label}"),
        (["{label}"], "no value may choose the program"),
    ],
)
def test_what_could_never_run_is_an_error_at_the_start(
    tmp_path: Path, argv: list[str], says: str
) -> None:
    (tmp_path / "text").write_text("no program")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ConfigError, match=says):
        checked(argv, folder=tmp_path)


def test_a_relative_program_begins_at_the_configurations_folder(tmp_path: Path, say: str) -> None:
    assert checked([say, "a"], folder=tmp_path) == (str(tmp_path / "program"), "a")
    (path, *_) = checked(["true"], folder=tmp_path)
    assert subprocess.run([path], check=False).returncode == 0


def test_a_relative_folder_is_no_other_for_the_program(
    say: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path.parent)
    folder = Path(tmp_path.name)
    sink = Command([say, "{id}"], labels=LABELS, folder=folder, goodbye_s=60.0)
    sink.tell(event(4))
    sink.close()
    assert [one["argv"] for one in said(tmp_path)] == [["3-e4"]]
