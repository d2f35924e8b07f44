"""Outcomes and events in an SQLite file: bounded, read meanwhile, and whole after any crash."""

from __future__ import annotations

import contextlib
import json
import re
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hedge.models.errors import ConfigError
from hedge.models.records import Opinion, Outcome
from hedge.runtime.events.event import Clip, Event
from hedge.runtime.sinks import sqlite_file, sqlite_schema
from hedge.runtime.sinks.sqlite import Sqlite
from hedge.runtime.sinks.sqlite_file import Bounds, SqliteFile

Eventually = Callable[[Callable[[], bool]], None]
Open = Callable[..., Sqlite]
LABELS = {"door": ("nobody", "person"), "hall": ("empty", "full")}
MIB = 1 << 20
_PAGE = Path(__file__).parents[1] / "docs" / "sinks.md"


def outcome(number: int, *, stream: str = "door", final: bool = True, wide: int = 2) -> Outcome:
    """Return an outcome; ``wide`` is how many labels there are."""
    probs = np.full(wide, 0.25 / (wide - 1), np.float32)
    probs[1] = 0.75
    opinion = Opinion(probs, 0.5, "vacuity", vacuity=0.5)
    return Outcome(
        stream, f"3-{number}", "edge", 1, probs, opinion, final, latency_ns=2_500_000, reason="sure"
    )


def opened(number: int = 0, **changes: Any) -> Event:  # noqa: ANN401 -- the record's fields
    """Return an event that has opened, or what has become of it."""
    fields: dict[str, Any] = {
        "event": "person",
        "stream": "door",
        "id": f"3-e{number}",
        "state": "opened",
        "label": "person",
        "opened_at_s": 5.5,
        "samples": ("3-1", "3-2"),
        "count": 2,
        "peak": 0.75,
    }
    return Event(**(fields | changes))


@pytest.fixture
def open_sink(tmp_path: Path) -> Iterator[Open]:
    """Give `open_sink(…)`: a sink on o.db that commits quickly."""
    with contextlib.ExitStack() as stack:

        def make(**options: Any) -> Sqlite:  # noqa: ANN401 -- what the constructor takes
            given: dict[str, Any] = {"labels": LABELS, "commit_s": 0.02, "goodbye_s": 60.0}
            sink = Sqlite(tmp_path / "o.db", **(given | options))
            stack.callback(sink.close)
            return sink

        yield make


def rows(path: Path, query: str) -> list[tuple[Any, ...]]:
    """Return what a reader finds."""
    with contextlib.closing(sqlite3.connect(path)) as base:
        return base.execute(query).fetchall()


def taken(path: Path) -> int:
    """Return how many bytes a file takes with those beside it."""
    found = 0
    for one in path.parent.glob(f"{path.name}*"):
        with contextlib.suppress(FileNotFoundError):
            found += one.stat().st_size
    return found


def test_an_outcome_is_a_row_with_its_label_by_name_and_its_time(
    open_sink: Open, tmp_path: Path
) -> None:
    sink = open_sink(wall=lambda: 5.25)
    sink.emit(outcome(0))
    sink.emit(Outcome("hall", "3-1", "dropped", None, None, None, True))
    sink.close()
    columns = "at_s,stream,id,final,route,label,probability,latency_ms,score,score_name,reason"
    first, second = rows(tmp_path / "o.db", f"SELECT {columns} FROM outcome ORDER BY n")  # noqa: S608
    assert first == (5.25, "door", "3-0", 1, "edge", "person", 0.75, 2.5, 0.5, "vacuity", "sure")
    assert second[1:8] == ("hall", "3-1", 1, "dropped", None, None, 0.0)
    found = rows(tmp_path / "o.db", "SELECT probs FROM outcome ORDER BY n")
    assert [None if text is None else json.loads(text) for (text,) in found] == [[0.25, 0.75], None]


def test_an_event_is_one_row_however_often_it_is_told(open_sink: Open, tmp_path: Path) -> None:
    sink = open_sink()
    sink.tell(opened(1))
    sink.tell(opened(2))
    sink.close()
    sink = open_sink()
    closed: dict[str, Any] = {"closed_at_s": 9.0, "why": "quiet", "count": 7, "peak": 0.875}
    sink.tell(opened(1, state="closed", samples=("3-8",), **closed))
    sink.tell(opened(1, state="clip", samples=(), clip=Clip(path="/c/1.mp4", bytes=9), **closed))
    sink.close()
    found = rows(
        tmp_path / "o.db",
        "SELECT id, opened_at_s, closed_at_s, why, count, peak, samples, clip FROM event",
    )
    assert found == [
        ("3-e1", 5.5, 9.0, "quiet", 7, 0.875, '["3-1","3-2"]', "/c/1.mp4"),
        ("3-e2", 5.5, None, None, 2, 0.75, '["3-1","3-2"]', None),
    ]


def test_only_what_is_wanted_becomes_rows(open_sink: Open, tmp_path: Path) -> None:
    sink = open_sink(which="events")
    sink.emit(outcome(0))
    sink.tell(opened())
    sink.close()
    sink = open_sink(which="finals")
    sink.emit(outcome(1, final=False))
    sink.emit(outcome(2))
    sink.close()
    assert rows(tmp_path / "o.db", "SELECT id FROM outcome") == [("3-2",)]
    assert sink.counters()["sqlite_rows"] == 1


def test_questions_by_time_and_stream_have_an_index(open_sink: Open, tmp_path: Path) -> None:
    open_sink().close()
    for query in (
        "SELECT * FROM outcome WHERE at_s > 5",
        "SELECT * FROM outcome WHERE stream = 'door' AND at_s > 5",
        "SELECT * FROM event WHERE stream = 'door' ORDER BY at_s",
    ):
        (plan,) = rows(tmp_path / "o.db", f"EXPLAIN QUERY PLAN {query}")
        assert "USING INDEX" in plan[-1]


def test_only_the_owner_can_read_any_of_the_files(
    open_sink: Open, tmp_path: Path, eventually: Eventually
) -> None:
    sink = open_sink()
    sink.emit(outcome(0))
    eventually(lambda: sink.counters()["sqlite_rows"] == 1)
    names = {one.name: stat.S_IMODE(one.stat().st_mode) for one in tmp_path.iterdir()}
    assert names == dict.fromkeys(("o.db", "o.db-wal", "o.db-shm"), 0o600)


@pytest.mark.parametrize("max_bytes", [MIB, 3 * MIB])
def test_the_file_and_its_log_stay_below_their_bound_and_hold_the_newest_rows(
    tmp_path: Path, max_bytes: int
) -> None:
    path, largest = tmp_path / "o.db", 0
    file = SqliteFile(path, max_bytes=max_bytes)
    row = sqlite_schema.outcome_row(outcome(0, wide=40), tuple("x" * 40), at_s=1.0)
    groups = 3 * max_bytes // 40 // 600
    for group in range(groups):
        told = [(float(group), "door", f"3-{group}-{one}", *row[3:]) for one in range(20)]
        event = sqlite_schema.event_row(opened(group), at_s=float(group))
        file.put(told, [event])
        largest = max(largest, taken(path))
    assert max_bytes // 2 < largest <= max_bytes
    file.close()
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]
    for table in ("outcome", "event"):
        found = [group for (group,) in rows(path, f"SELECT DISTINCT at_s FROM {table}")]  # noqa: S608
        assert found == [float(one) for one in range(groups - len(found), groups)], "no gap"
        assert groups // 8 < len(found) < groups * 3 // 4


def test_a_smaller_bound_than_before_shortens_the_file(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    file = SqliteFile(path, max_bytes=4 * MIB)
    for group in range(120):
        file.put([sqlite_schema.outcome_row(outcome(group), LABELS["door"], at_s=1.0)] * 100, [])
    file.close()
    assert taken(path) > 1.2 * MIB
    file = SqliteFile(path, max_bytes=MIB)
    file.put([sqlite_schema.outcome_row(outcome(7), LABELS["door"], at_s=1.0)], [])
    file.put([sqlite_schema.outcome_row(outcome(8), LABELS["door"], at_s=1.0)], [])
    file.close()
    assert taken(path) <= MIB


def test_rows_that_are_too_old_go_and_their_room_is_given_back(
    open_sink: Open, tmp_path: Path, eventually: Eventually
) -> None:
    now_s = [1_000_000.0]
    sink = open_sink(wall=lambda: now_s[0], keep_days=1)
    for number in range(4000):
        sink.emit(outcome(number))
    sink.tell(opened())
    sink.close()
    before = taken(tmp_path / "o.db")
    now_s[0] += 86_399
    sink = open_sink(wall=lambda: now_s[0], keep_days=1)
    sink.emit(outcome(5000))
    sink.close()
    assert rows(tmp_path / "o.db", "SELECT count(*) FROM outcome") == [(4001,)]
    now_s[0] += 2
    sink = open_sink(wall=lambda: now_s[0], keep_days=1)
    eventually(lambda: rows(tmp_path / "o.db", "SELECT id FROM outcome") == [("3-5000",)])
    sink.close()
    assert rows(tmp_path / "o.db", "SELECT * FROM event") == []
    assert taken(tmp_path / "o.db") < before / 2


def test_readers_read_while_it_writes_and_see_whole_commits(
    open_sink: Open, tmp_path: Path, eventually: Eventually
) -> None:
    sink = open_sink()
    sink.emit(outcome(0))
    eventually(lambda: sink.counters()["sqlite_rows"] == 1)
    with contextlib.closing(sqlite3.connect(tmp_path / "o.db")) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM outcome").fetchone() == (1,)
        for number in range(1, 500):
            sink.emit(outcome(number))
        eventually(lambda: sink.counters()["sqlite_rows"] == 500)
        assert reader.execute("SELECT count(*) FROM outcome").fetchone() == (1,), "as it began"
        reader.execute("COMMIT")
        assert reader.execute("SELECT count(*) FROM outcome").fetchone() == (500,)


def put_often(file: SqliteFile, row: sqlite_schema.Row) -> None:
    """Commit more than a log of 256 KiB holds."""
    for _ in range(1000):
        file.put([row] * 20, [])


def test_a_reader_that_never_ends_cannot_make_the_log_grow_without_bound(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    file = SqliteFile(path, max_bytes=MIB)
    row = sqlite_schema.outcome_row(outcome(0), LABELS["door"], at_s=1.0)
    file.put([row], [])
    with contextlib.closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM outcome").fetchall()
        with pytest.raises(sqlite_file.PinnedError):
            put_often(file, row)
        assert taken(path) <= MIB
    file.put([row], [])
    file.close()


def test_another_programs_lock_does_not_hold_up_the_loop_and_nothing_is_lost(
    open_sink: Open, tmp_path: Path, eventually: Eventually
) -> None:
    sink = open_sink()
    sink.emit(outcome(0))
    eventually(lambda: sink.counters()["sqlite_rows"] == 1)
    with contextlib.closing(sqlite3.connect(tmp_path / "o.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        for number in range(1, 100):
            sink.emit(outcome(number))
        eventually(lambda: sink.counters()["sqlite_tries_failed"] > 0)
        assert sink.counters()["sqlite_rows"] == 1
        other.execute("ROLLBACK")
        eventually(lambda: sink.counters()["sqlite_rows"] == 100)
    found = rows(tmp_path / "o.db", "SELECT id FROM outcome ORDER BY n")
    assert found == [(f"3-{number}",) for number in range(100)], "in order"
    assert sink.counters()["sqlite_dropped"] == 0


def test_what_the_queue_has_no_room_for_is_refused_and_counted(
    open_sink: Open, tmp_path: Path, eventually: Eventually
) -> None:
    sink = open_sink(queue=10)
    eventually((tmp_path / "o.db-wal").exists)
    with contextlib.closing(sqlite3.connect(tmp_path / "o.db")) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = 0
        for number in range(100):
            try:
                sink.emit(outcome(number))
            except OSError:
                refused += 1
        assert refused >= 100 - 2 * 10
        other.execute("ROLLBACK")
    eventually(lambda: sink.counters()["sqlite_rows"] == 100 - refused)
    assert sink.counters()["sqlite_dropped"] == refused


def test_on_a_full_disk_rows_wait_and_are_written_when_there_is_room(
    open_sink: Open, monkeypatch: pytest.MonkeyPatch, eventually: Eventually, tmp_path: Path
) -> None:
    sink = open_sink()
    sink.emit(outcome(0))
    eventually(lambda: sink.counters()["sqlite_rows"] == 1)
    real = SqliteFile.put

    def full(self: SqliteFile, *_: object) -> None:
        self._base.execute(f"PRAGMA max_page_count = {self._number('page_count')}")
        wide = sqlite_schema.outcome_row(outcome(1, wide=9000), tuple("ab" * 4500), at_s=1.0)
        try:
            real(self, [wide] * 20, [])  # SQLite's own SQLITE_FULL, in the midst of it
        finally:
            self._base.execute(f"PRAGMA max_page_count = {self.bounds.pages}")

    with monkeypatch.context() as patch:
        patch.setattr(SqliteFile, "put", full)
        sink.emit(outcome(1))
        eventually(lambda: sink.counters()["sqlite_tries_failed"] > 0)
    eventually(lambda: sink.counters()["sqlite_rows"] == 2)
    assert rows(tmp_path / "o.db", "SELECT id FROM outcome") == [("3-0",), ("3-1",)]


def test_a_row_that_is_too_wide_is_kept_without_its_probabilities(
    open_sink: Open, tmp_path: Path
) -> None:
    labels = {"door": tuple(f"l{number}" for number in range(5000))}
    sink = open_sink(max_bytes=MIB, labels=labels)
    sink.emit(outcome(0, wide=5000))
    sink.close()
    assert rows(tmp_path / "o.db", "SELECT label, probs FROM outcome") == [("l1", None)]
    assert sink.counters()["sqlite_without_probs"] == 1


def damaged(path: Path) -> None:
    """Break the pages of a file behind its first."""
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * (path.stat().st_size - 4096))


@pytest.mark.parametrize("how", ["pages", "zeros"])
def test_a_damaged_file_is_moved_aside_and_a_new_one_begun(
    open_sink: Open,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    eventually: Eventually,
    how: str,
) -> None:
    path = tmp_path / "o.db"
    sink = open_sink()
    sink.emit(outcome(0))
    sink.close()
    if how == "pages":
        damaged(path)
    else:
        path.write_bytes(bytes(path.stat().st_size))
    broken = path.read_bytes()
    sink = open_sink()
    sink.emit(outcome(1))
    eventually(lambda: sink.counters()["sqlite_rows"] == 1)
    sink.close()
    assert rows(path, "SELECT id FROM outcome") == [("3-1",)]
    assert (tmp_path / "o.db.damaged").read_bytes()[100:] == broken[100:]
    assert sink.counters()["sqlite_moved_aside"] == 1
    assert caplog.text.count("a new one begins") == 1


def _crashed(path: Path) -> None:
    """Leave a file as a kill does, its log beside it, with a first page that is noise."""
    file = SqliteFile(path, max_bytes=MIB)
    file.put([sqlite_schema.outcome_row(outcome(0), LABELS["door"], at_s=1.0)], [])
    for one in ("o.db", "o.db-wal"):
        (path.parent / f"{one}.then").write_bytes((path.parent / one).read_bytes())
    file.close()
    for one in ("o.db", "o.db-wal"):
        (path.parent / f"{one}.then").rename(path.parent / one)


@pytest.mark.parametrize("left", ["its pages", "its log", "half a head"])
def test_a_file_whose_beginning_is_damaged_is_known_for_ours_by_the_rest(
    open_sink: Open, tmp_path: Path, eventually: Eventually, left: str
) -> None:
    path = tmp_path / "o.db"
    _crashed(path)
    with path.open("r+b") as broken:
        broken.write(b"\xa5" * (4096 if left == "its pages" else path.stat().st_size))
    if left == "its pages":
        (tmp_path / "o.db-wal").unlink()
    if left == "half a head":
        path.write_bytes(b"SQLite format 3\x00\x10\x00")
    sink = open_sink()
    sink.emit(outcome(1))
    eventually(lambda: sink.counters()["sqlite_rows"] == 1)
    sink.close()
    assert rows(path, "SELECT id FROM outcome") == [("3-1",)]
    assert sink.counters()["sqlite_moved_aside"] == 1
    assert (tmp_path / "o.db.damaged").exists()


def test_trouble_of_the_disk_at_the_start_is_waited_for(
    open_sink: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    path = tmp_path / "o.db"
    path.symlink_to("/proc/self/mem")  # its beginning cannot be read: EIO
    sink = open_sink()
    sink.emit(outcome(0))
    eventually(lambda: sink.counters()["sqlite_tries_failed"] > 0)
    assert f"{path}: not for now: " in caplog.text
    path.unlink()
    eventually(lambda: sink.counters()["sqlite_rows"] == 1)


@pytest.mark.parametrize("running", [True, False])
def test_a_file_that_has_lost_a_table_is_moved_aside_once(
    open_sink: Open,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    eventually: Eventually,
    *,
    running: bool,
) -> None:
    path = tmp_path / "o.db"
    sink = open_sink()
    sink.emit(outcome(0))
    eventually(lambda: sink.counters()["sqlite_rows"] == 1)
    if not running:
        sink.close()
    with contextlib.closing(sqlite3.connect(path, timeout=30.0)) as other:
        other.execute("DROP TABLE outcome")
    if not running:
        sink = open_sink()
    sink.emit(outcome(1))
    eventually(lambda: sink.counters()["sqlite_rows"] == 1 + running)
    assert sink.counters()["sqlite_moved_aside"] == 1
    assert rows(path, "SELECT id FROM outcome") == [("3-1",)]
    assert "damaged (" in caplog.text


def test_damage_that_a_crash_has_left_is_found_at_the_next_opening(
    open_sink: Open, tmp_path: Path, caplog: pytest.LogCaptureFixture, eventually: Eventually
) -> None:
    path = tmp_path / "o.db"
    file = SqliteFile(path, max_bytes=MIB)
    for number in range(60):
        file.put([sqlite_schema.outcome_row(outcome(number), LABELS["door"], at_s=1.0)] * 20, [])
    file.close()
    with path.open("r+b") as broken:  # an old page in the midst, which no new row comes near
        broken.seek(4096 * 20)
        broken.write(b"\xa5" * 4096)
    (tmp_path / "o.db-wal").touch()
    sink = open_sink()
    eventually(lambda: sink.counters()["sqlite_moved_aside"] == 1)
    (said,) = [one.getMessage() for one in caplog.records if one.levelname == "ERROR"]
    assert "\n" not in said


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"a letter", "no database of outcomes"), (b"PK\x03\x04" * 50, "no database of outcomes")],
)
def test_a_file_of_anything_else_is_refused_and_not_touched(
    tmp_path: Path, content: bytes, says: str
) -> None:
    path = tmp_path / "o.db"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=says):
        Sqlite(path, labels=LABELS)
    assert path.read_bytes() == content


def test_another_programs_database_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE outcome (mine TEXT)")
    content = path.read_bytes()
    with pytest.raises(ConfigError, match=r"o\.db: is another program's database"):
        Sqlite(path, labels=LABELS)
    assert path.read_bytes() == content
    assert [one.name for one in tmp_path.iterdir()] == ["o.db"]


@pytest.mark.parametrize("place", [".", "/dev/full", "file/o.db"])
def test_a_place_that_is_no_file_is_refused_by_name(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot be written|no database of outcomes"):
        Sqlite(tmp_path / place, labels=LABELS)


def test_an_older_files_tables_become_todays_and_a_later_ones_are_refused(
    open_sink: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    sink = open_sink()
    sink.emit(outcome(0))
    sink.close()
    added = ("ALTER TABLE outcome ADD COLUMN site TEXT NOT NULL DEFAULT 'here'",)
    with monkeypatch.context() as patch:
        for module in (sqlite_file, sqlite_schema):
            patch.setattr(module, "STEPS", (*sqlite_schema.STEPS, added))
        sink = open_sink()
        sink.emit(outcome(1))
        eventually(lambda: sink.counters()["sqlite_rows"] == 1)
        sink.close()
    found = rows(tmp_path / "o.db", "SELECT id, site FROM outcome ORDER BY n")
    assert found == [("3-0", "here"), ("3-1", "here")]
    with pytest.raises(ConfigError, match="is of version 2, and this hedge knows up to 1"):
        open_sink()


def test_a_file_that_was_taken_away_is_made_anew(
    open_sink: Open, tmp_path: Path, eventually: Eventually
) -> None:
    sink = open_sink()
    sink.emit(outcome(0))
    eventually(lambda: sink.counters()["sqlite_rows"] == 1)
    (tmp_path / "kept").mkdir()
    for one in ("o.db", "o.db-wal", "o.db-shm"):
        (tmp_path / one).rename(tmp_path / "kept" / one)
    sink.emit(outcome(1))
    eventually(lambda: sink.counters()["sqlite_rows"] == 2)
    sink.close()
    assert rows(tmp_path / "o.db", "SELECT id FROM outcome") == [("3-1",)]
    assert rows(tmp_path / "kept" / "o.db", "SELECT id FROM outcome") == [("3-0",)]


def test_a_closed_sink_refuses_outcomes(open_sink: Open) -> None:
    sink = open_sink()
    sink.close()
    sink.close()
    with pytest.raises(OSError, match="too many rows"):
        sink.emit(outcome(0))


_WRITER = """
import pathlib, sys, time
import numpy as np
from hedge.models.records import Outcome
from hedge.runtime.sinks.sqlite import Sqlite

begin = int(sys.argv[2])
path, labels = pathlib.Path(sys.argv[1]), {"door": ("a", "b")}
sink = Sqlite(path, labels=labels, commit_s=0.05, max_bytes=8 << 20)
probs = np.array([0.25, 0.75], np.float32)
number = 0
while True:
    sink.emit(Outcome("door", f"1-{begin + number}", "edge", 1, probs, None, True))
    number += 1
    print(number, sink.counters()["sqlite_rows"], flush=True)
    time.sleep(0.0005)
"""


def test_a_writer_killed_at_any_moment_leaves_all_that_was_committed(tmp_path: Path) -> None:
    path, begin = tmp_path / "o.db", 0
    for turn in range(4):
        command = [sys.executable, "-c", _WRITER, str(path), str(begin)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as writer:
            assert writer.stdout is not None
            committed = 0
            for line in writer.stdout:
                number, committed = map(int, line.split())
                if committed > 150 and number > 300 + 30 * turn:
                    writer.kill()
                    break
            tail = [line for line in writer.stdout.read().splitlines() if line.count(" ") == 1]
            committed = max([committed, *(int(line.split()[1] or 0) for line in tail[:-1])])
        mine = rows(path, "SELECT id FROM outcome ORDER BY n")
        numbers = [int(one.removeprefix("1-")) for (one,) in mine]
        since = [one - begin for one in numbers if one >= begin]
        assert since == list(range(len(since))), "in order, without a gap"
        assert len(since) >= committed
        begin += 1_000_000
    assert rows(path, "PRAGMA integrity_check") == [("ok",)]


def test_the_parts_of_a_file_add_up_to_its_bound() -> None:
    for max_bytes in (MIB, 5 * MIB, 256 * MIB, 1 << 40):
        bounds = Bounds.of(max_bytes)
        assert bounds.pages * 4096 + bounds.log_bytes + (1 << 16) <= max_bytes
        assert bounds.low_pages + 16 < bounds.pages
        assert bounds.step_pages >= 8


_QUESTIONS = re.findall(
    r"SELECT[^;]+;", _PAGE.read_text("utf-8").partition("```sql")[2].partition("```")[0]
)


@pytest.mark.parametrize("question", _QUESTIONS)
def test_the_questions_of_the_page_are_answered(
    open_sink: Open, tmp_path: Path, question: str
) -> None:
    sink = open_sink()
    for number in range(4):
        sink.emit(Outcome("door", f"3-{number}", "edge", 1, np.array([0.05, 0.95]), None, True))
    sink.tell(opened())
    sink.close()
    try:
        found = rows(tmp_path / "o.db", question)
    except sqlite3.OperationalError as error:
        if "no such function" not in str(error):
            raise
        pytest.skip(f"SQLite {sqlite3.sqlite_version}: {error}")
    assert found


def test_the_page_tells_of_every_column(open_sink: Open, tmp_path: Path) -> None:
    open_sink().close()
    text = _PAGE.read_text("utf-8")
    for table in ("outcome", "event"):
        (line,) = re.findall(rf"^\| `{table}` \|.*$", text, re.MULTILINE)
        told = re.findall(r"`([a-z_]+)`", re.sub(r"\([^)]*\)", "", line))[1:]
        columns = rows(tmp_path / "o.db", f"SELECT name FROM pragma_table_info('{table}')")  # noqa: S608
        assert told == [name for (name,) in columns]


def test_a_row_that_no_file_takes_is_counted_and_the_others_are_written(
    open_sink: Open, tmp_path: Path, eventually: Eventually
) -> None:
    sink = open_sink()
    sink.tell(opened(1, label="\ud800"))  # half a character, which is no UTF-8
    eventually(lambda: sink.counters()["sqlite_failed"] == 1)
    sink.tell(opened(2))
    sink.close()
    assert rows(tmp_path / "o.db", "SELECT id FROM event") == [("3-e2",)]
    assert sink.counters()["sqlite_rows"] == 1
