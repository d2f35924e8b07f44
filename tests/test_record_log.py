"""The record log: what was committed is there again, and what is damaged is counted."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from hedge.uplink.outbox import frames
from hedge.uplink.outbox.durable_outbox import DurableOutbox
from hedge.uplink.outbox.frames import HEAD, frame
from hedge.uplink.outbox.log_files import TAIL, Row, file_name
from hedge.uplink.outbox.record_log import MARK, PUT, Place, RecordLog

Payloads = dict[int, bytes]


def opened(folder: Path, *, max_puts: int = 4) -> tuple[RecordLog, Payloads, Row]:
    """Return the log in a folder, the records found there by number, and its row."""
    row = Row(folder)
    found = {}
    living = []
    for one in row.frames():
        if one.kind == PUT:
            found[one.puts] = bytes(one.payload)
            living.append((one.segment, len(one.payload)))
    log = RecordLog(folder, row, living=living, max_puts=max_puts, max_file_bytes=1 << 16)
    return log, found, row


def lost(row: Row) -> int:
    """Return how many records the row knows to be missing."""
    return sum(gap.end.puts - gap.begin.puts for gap in row.lost)


def files(folder: Path) -> list[Path]:
    """Return the log's files, oldest first."""
    return sorted(folder.glob("*.log"))


def fill(log: RecordLog, groups: int, *, seed: int, size: int = 60) -> list[tuple[Place, bytes]]:
    """Append groups of one to three records and a mark; return all that was committed."""
    rng = np.random.default_rng(seed)
    committed = []
    for _ in range(groups):
        group = [rng.bytes(int(rng.integers(1, size))) for _ in range(int(rng.integers(1, 4)))]
        places = log.append([*((PUT, one) for one in group), (MARK, rng.bytes(9))])
        committed += list(zip(places, group, strict=True))
    return committed


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Payloads]:
    """Give a log of several files whose writer was killed, and its records by number."""
    folder = tmp_path_factory.mktemp("written") / "log"
    log, _, _ = opened(folder)
    committed = fill(log, 12, seed=5)
    assert len(files(folder)) > 4
    return folder, {place.number: payload for place, payload in committed}


Copy = Callable[[], Path]


@pytest.fixture
def copy_of_it(written: tuple[Path, Payloads], tmp_path: Path) -> Copy:
    """Give a maker of copies of what was `written`, to be spoiled."""
    count = itertools.count()
    return lambda: shutil.copytree(written[0], tmp_path / f"{next(count)}")


def test_what_was_appended_is_found_again_in_order(tmp_path: Path) -> None:
    log, found, _ = opened(tmp_path / "log")
    assert found == {}
    committed = fill(log, 20, seed=1)
    assert [place.number for place, _ in committed] == list(range(len(committed)))
    for place, payload in committed:
        assert log.read(place) == payload
    log.close()
    again, found, row = opened(tmp_path / "log")
    assert list(found.items()) == [(place.number, payload) for place, payload in committed]
    assert row.gaps == []
    assert all(again.read(place) == payload for place, payload in committed)


def test_files_are_private_and_hold_no_more_records_than_they_may(tmp_path: Path) -> None:
    log, _, _ = opened(tmp_path / "log", max_puts=3)
    fill(log, 20, seed=2)
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o700
    for path in (tmp_path / "log").iterdir():
        assert path.stat().st_mode & 0o777 == 0o600
    for path in files(tmp_path / "log"):
        found = frames.scan(path.read_bytes(), segment=int(path.stem))
        assert sum(one.kind == PUT for one in found) <= 3


def test_one_commit_is_one_write_and_one_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _, _ = opened(tmp_path / "log", max_puts=64)
    log.append([(PUT, b"first")])
    calls: list[str] = []
    fd = log._active.fd if log._active else -1
    for name in ("pwrite", "fdatasync", "fsync"):
        real = getattr(os, name)

        def counted(first: int, *rest: object, name: str = name, real: object = real) -> object:
            calls.extend([name] if first == fd else [])
            return real(first, *rest)  # type: ignore[operator]

        monkeypatch.setattr(os, name, counted)
    log.append([(PUT, b"a" * 5000), (MARK, b"x"), (PUT, b"b")])
    assert calls == ["pwrite", "fdatasync"]


def test_a_last_write_torn_at_any_byte_costs_nothing_that_was_committed(tmp_path: Path) -> None:
    log, _, _ = opened(tmp_path / "log", max_puts=64)
    committed = fill(log, 3, seed=3)
    before = {path.name: path.read_bytes() for path in (tmp_path / "log").iterdir()}
    log.append([(PUT, b"one"), (MARK, b"two"), (PUT, b"three")])
    after = (tmp_path / "log" / file_name(1)).read_bytes()
    offered = {**dict(enumerate(payload for _, payload in committed))}
    for cut in range(len(before[file_name(1)]), len(after)):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        for name, data in before.items():
            (folder / name).write_bytes(data)
        (folder / file_name(1)).write_bytes(after[:cut])
        again, found, row = opened(folder, max_puts=64)
        assert lost(row) == 0
        assert offered.items() <= found.items()
        assert set(list(found.values())[len(offered) :]) <= {b"one", b"three"}
        (place,) = again.append([(PUT, b"next")])
        again.close()
        _, found_again, row = opened(folder)
        assert found_again == {**found, place.number: b"next"}
        assert row.lost == []


def damaged_then_healed(folder: Path, truth: Payloads) -> int:
    """Open a damaged log; return how many records it counts as lost.

    Each record is either found as it was written or counted as lost, once.
    """
    log, found, row = opened(folder)
    assert found.items() <= truth.items()
    missing = lost(row)
    assert missing == len(truth) - len(found)
    (place,) = log.append([(PUT, b"fresh")])
    log.close()
    _, again, row = opened(folder)
    assert again == {**found, place.number: b"fresh"}
    assert lost(row) == 0
    return missing


def test_a_flipped_byte_costs_at_most_what_it_hits_and_is_counted_once(
    written: tuple[Path, Payloads], copy_of_it: Copy
) -> None:
    rng = np.random.default_rng(21)
    for _ in range(400):
        victims = sorted(copy_of_it().iterdir())
        victim = victims[int(rng.integers(len(victims)))]
        data = bytearray(victim.read_bytes())
        data[int(rng.integers(len(data)))] ^= int(rng.integers(1, 256))
        victim.write_bytes(data)
        assert damaged_then_healed(victim.parent, written[1]) <= 1


def test_a_file_cut_anywhere_costs_at_most_its_own_records_and_they_are_counted(
    written: tuple[Path, Payloads], copy_of_it: Copy
) -> None:
    rng = np.random.default_rng(22)
    for _ in range(200):
        victims = files(copy_of_it())
        victim = victims[int(rng.integers(len(victims)))]
        os.truncate(victim, int(rng.integers(victim.stat().st_size)))
        assert damaged_then_healed(victim.parent, written[1]) <= 4


def test_a_hole_of_zeros_or_noise_costs_at_most_its_files_records(
    written: tuple[Path, Payloads], copy_of_it: Copy
) -> None:
    rng = np.random.default_rng(23)
    for turn in range(200):
        victims = files(copy_of_it())
        victim = victims[int(rng.integers(len(victims)))]
        data = bytearray(victim.read_bytes())
        begin, end = sorted(int(one) for one in rng.integers(0, len(data), 2))
        data[begin:end] = rng.bytes(end - begin) if turn % 2 else bytes(end - begin)
        victim.write_bytes(data)
        assert damaged_then_healed(victim.parent, written[1]) <= 4


def test_a_deleted_file_is_counted_whichever_it_is(
    written: tuple[Path, Payloads], copy_of_it: Copy
) -> None:
    for place in range(len(files(written[0]))):
        victim = files(copy_of_it())[place]
        victim.unlink()
        assert 1 <= damaged_then_healed(victim.parent, written[1]) <= 4


def test_damage_beside_damage_that_was_counted_is_counted_alone(
    written: tuple[Path, Payloads], copy_of_it: Copy
) -> None:
    folder, truth = copy_of_it(), dict(written[1])
    for place in (3, 2, 4):
        victim = folder / file_name(place)
        there = [one for one in Row(folder).frames() if (one.segment, one.kind) == (place, PUT)]
        victim.unlink()
        log, found, row = opened(folder)
        assert lost(row) == len(there) == len(truth) - len(found)
        log.roll()
        log.close()
        truth = found
    assert len(files(folder)) > 3


def test_without_the_hint_nothing_else_is_missed(
    written: tuple[Path, Payloads], copy_of_it: Copy
) -> None:
    folder = copy_of_it()
    (folder / TAIL).unlink()
    assert damaged_then_healed(folder, written[1]) == 0


@pytest.mark.parametrize("what", ["folder", "link", "pipe", "empty", "noise"])
def test_what_is_no_file_of_the_log_but_has_its_name_is_passed_over(
    written: tuple[Path, Payloads], copy_of_it: Copy, what: str
) -> None:
    folder = copy_of_it()
    path = folder / file_name(90)
    match what:
        case "folder":
            path.mkdir()
        case "link":
            path.symlink_to("nowhere")
        case "pipe":
            os.mkfifo(path)
        case _:
            path.write_bytes(b"" if what == "empty" else b"\xf5hdg" * 99)
    assert damaged_then_healed(folder, written[1]) == 0


def test_a_record_that_holds_the_frames_of_another_log_is_not_taken_apart(tmp_path: Path) -> None:
    other, _, _ = opened(tmp_path / "other", max_puts=64)
    fill(other, 5, seed=7)
    body = (tmp_path / "other" / file_name(1)).read_bytes()
    log, _, _ = opened(tmp_path / "log", max_puts=64)
    for number in range(3):
        log.append([(PUT, b"%d" % number)])
    log.append([(PUT, body)])
    log.append([(PUT, b"last")])
    path = tmp_path / "log" / file_name(1)
    data = bytearray(path.read_bytes())
    data[data.index(body) - 1] ^= 1
    path.write_bytes(data)
    assert damaged_then_healed(tmp_path / "log", {0: b"0", 1: b"1", 2: b"2", 3: body, 4: b"last"})


def test_bytes_made_to_look_like_frames_cost_no_more_than_some_time() -> None:
    fields = frames._FIELDS.pack(1 << 19, 7, 1 << 40, 0, PUT)
    beginnings = (frames.MAGIC + bytes(4) + fields) * 40_000
    begun = time.process_time()
    assert list(frames.scan(beginnings + bytes(1 << 19), segment=7)) == []
    assert time.process_time() - begun < 5  # each checked in full, it would be minutes


def test_a_disk_that_fails_to_sync_costs_that_group_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "log"
    log, _, _ = opened(folder, max_puts=64)
    log.append([(PUT, b"kept")])
    log.append([(MARK, b"unsynced")], sync=False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        patch.setattr(os, "ftruncate", failing(errno.EIO))  # what was written stays there
        with pytest.raises(OSError, match="Input/output"):
            log.append([(PUT, b"refused")])
    shutil.copytree(folder, tmp_path / "killed at once")
    log.append([(PUT, b"later")])
    for one in (folder, tmp_path / "killed at once"):
        _, found, row = opened(one)
        assert b"refused" not in found.values()
        assert found[0] == b"kept"
        assert row.gaps == []
    assert opened(folder)[1] == {0: b"kept", 1: b"later"}


def test_a_failed_write_does_not_count_even_if_no_new_file_can_be_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "log"
    log, _, _ = opened(folder, max_puts=64)
    log.append([(PUT, b"kept")])
    with monkeypatch.context() as patch:
        for name in ("fdatasync", "fsync", "ftruncate"):
            patch.setattr(os, name, failing(errno.EIO))
        for _ in range(3):
            with pytest.raises(OSError, match="Input/output"):
                log.append([(PUT, b"refused"), (PUT, b"refused too")])
    _, found, row = opened(folder)  # killed now
    assert found == {0: b"kept"}
    assert row.gaps == []


def failing(code: int) -> object:
    """Return a function that fails as a disk does."""

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_refuses_groups_whole_and_takes_more_when_there_is_room(
    small_disk: Path,
) -> None:
    folder = small_disk / "log"
    log, _, _ = opened(folder, max_puts=8)
    rng = np.random.default_rng(4)
    places: list[Place] = []
    committed: Payloads = {}
    refused = 0
    while refused < 20:
        group = [rng.bytes(int(rng.integers(1, 3000))) for _ in range(int(rng.integers(1, 4)))]
        try:
            new = log.append([(PUT, one) for one in group])
        except OSError as error:
            refused += error.errno == errno.ENOSPC
            continue
        places += new
        committed.update(zip((place.number for place in new), group, strict=True))
    _, found, row = opened(folder)
    assert found == committed
    assert row.gaps == []
    half = len(places) // 2
    for place in places[:half]:
        log.release(place)
    log.roll()  # makes room by itself
    (place,) = log.append([(PUT, b"fits again")])
    _, found, row = opened(folder)
    assert found[place.number] == b"fits again"
    assert lost(row) == 0
    assert {one.number for one in places[half:]} <= found.keys()


def test_a_file_size_limit_is_a_full_disk_too(tmp_path: Path) -> None:
    code = f"""
import resource, sys
from pathlib import Path
from hedge.uplink.outbox.log_files import Row
from hedge.uplink.outbox.record_log import PUT, RecordLog
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
log = RecordLog(Path({str(tmp_path / "log")!r}), Row(None), living=(), max_puts=64)
log.append([(PUT, b"kept")])
try:
    log.append([(PUT, bytes(5000))])
except OSError as error:
    print(error.errno)
log.append([(PUT, b"kept too")])
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert ran.stdout.strip() == str(errno.EFBIG)
    _, found, row = opened(tmp_path / "log")
    assert found == {0: b"kept", 1: b"kept too"}
    assert row.gaps == []


def test_marks_survive_the_process_at_once_and_a_power_cut_after_a_sync(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    log, _, _ = opened(folder)
    log.append([(PUT, b"a")])
    log.append([(MARK, b"said")], sync=False)
    assert [bytes(one.payload) for one in Row(folder).frames()] == [b"a", b"said"]
    syncs = log.syncs
    log.sync()
    log.sync()
    assert log.syncs == syncs + 1


def test_marks_that_were_not_durable_are_gone_with_a_failed_sync_and_no_gap_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "log"
    log, _, _ = opened(folder)
    log.append([(PUT, b"a")])
    log.append([(MARK, b"said")], sync=False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        with pytest.raises(OSError, match="Input/output"):
            log.sync()
    log.append([(MARK, b"said again")])
    row = Row(folder)
    assert [bytes(one.payload) for one in row.frames()] == [b"a", b"said again"]
    assert row.gaps == []


def test_files_go_oldest_first_when_nothing_in_them_lives(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    log, _, _ = opened(folder, max_puts=2)
    places = [log.append([(PUT, b"x" * 50)])[0] for _ in range(8)]
    assert [path.name for path in files(folder)] == [file_name(one) for one in range(1, 5)]
    for place in places[2:]:
        log.release(place)
    log.roll()
    assert len(files(folder)) == 5  # the oldest still lives
    assert log.idle_bytes == 0
    for place in places[:2]:
        log.release(place)
    freed, before = log.idle_bytes, log.size_bytes
    log.roll()
    assert [path.name for path in files(folder)] == [file_name(6)]
    assert freed == before
    assert log.size_bytes == files(folder)[0].stat().st_size
    _, found, row = opened(folder)
    assert (found, row.gaps) == ({}, [])


def test_a_file_that_was_cleared_away_and_comes_back_is_not_wanted(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    log, _, _ = opened(folder, max_puts=1)
    first, second = (log.append([(PUT, one)])[0] for one in (b"a", b"b"))
    ghost = files(folder)[0].read_bytes()
    log.release(first)
    log.append([(PUT, b"c")])
    assert [path.name for path in files(folder)] == [file_name(2), file_name(3)]
    (folder / file_name(1)).write_bytes(ghost)  # its removal was not durable
    _, found, row = opened(folder)
    assert sorted(found.values()) == [b"b", b"c"]
    assert row.gaps == []
    assert not (folder / file_name(1)).exists()
    assert second.number in found


def test_a_record_changed_on_disk_under_us_is_not_returned(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    log, _, _ = opened(folder, max_puts=1)
    places = [log.append([(PUT, bytes([65 + one]) * 40)])[0] for one in range(12)]
    assert [log.read(place) for place in places] == [bytes([65 + one]) * 40 for one in range(12)]
    for place in (places[3], places[11]):
        with (folder / file_name(place.segment)).open("r+b") as stream:
            stream.seek(place.offset + 7)
            stream.write(b"!")
    assert log.read(places[3]) is None
    assert log.read(places[11]) is None
    assert log.read(places[4]) is not None


def test_old_files_with_little_in_them_are_named_together(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    log, _, _ = opened(folder, max_puts=4)
    places = [log.append([(PUT, b"x")])[0] for _ in range(40)]
    for place in places:
        if place.number % 4:
            log.release(place)
    assert log.oldest() == [1, 2, 3, 4]
    assert not log.fits(1, 1)


def test_many_starts_with_little_to_say_do_not_pile_up_files(tmp_path: Path) -> None:
    for _ in range(300):
        log, _, _ = opened(tmp_path / "log")
        log.close()
    assert files(tmp_path / "log") == []
    for _ in range(300):
        row = Row(tmp_path / "log")
        assert sum(one.kind == PUT for one in row.frames()) <= 1
        log = RecordLog(tmp_path / "log", row, living=())
        log.release(log.append([(PUT, b"brief")])[0])
        log.close()
    assert len(files(tmp_path / "log")) <= 2


WRITER = """
import os, sys
from pathlib import Path
from random import Random
from hedge.uplink.outbox.log_files import Row
from hedge.uplink.outbox.record_log import MARK, PUT, RecordLog
folder, seed = Path(sys.argv[1]), int(sys.argv[2])
row = Row(folder)
living = [(one.segment, len(one.payload)) for one in row.frames() if one.kind == PUT]
log = RecordLog(folder, row, living=living, max_puts=8)
random = Random(seed)
while True:
    group = [random.randbytes(random.randrange(1, 400)) for _ in range(random.randrange(1, 6))]
    places = log.append([(PUT, one) for one in group])
    line = "".join(f"{place.number} {one.hex()};" for place, one in zip(places, group))
    os.write(1, line.encode() + b"\\n")
    log.append([(MARK, b"said")], sync=False)
"""


def test_a_writer_killed_at_any_moment_loses_nothing_that_it_had_committed(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    folder = tmp_path / "log"
    committed: Payloads = {}
    for seed in range(12):
        with (tmp_path / "said").open("wb") as said:
            writer = subprocess.Popen(
                [sys.executable, "-c", WRITER, str(folder), str(seed)], stdout=said
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            writer.wait(0.25 + 0.1 * float(rng.random()))
        writer.send_signal(signal.SIGKILL)
        assert writer.wait() == -signal.SIGKILL
        for line in (tmp_path / "said").read_bytes().split(b"\n")[:-1]:
            for one in line.decode().split(";")[:-1]:
                number, text = one.split()
                committed[int(number)] = bytes.fromhex(text)
        row = Row(folder)
        found = {one.puts: bytes(one.payload) for one in row.frames() if one.kind == PUT}
        assert committed.items() <= found.items()
        assert len(found) - len(committed) <= 5 * (seed + 1)  # committed, and not yet told
        assert row.lost == []
        committed = found
    assert len(committed) > 100


def placed(folder: Path, *forged: bytes) -> Path:
    """Return a new folder with one file of the log."""
    folder.mkdir()
    (folder / file_name(1)).write_bytes(b"".join(forged))
    return folder


@pytest.mark.parametrize("begin", [0, (1 << 64) - 2])
@pytest.mark.parametrize("claimed", [1 << 40, (1 << 64) - 2])
def test_a_forged_number_neither_stops_the_start_nor_takes_time(
    tmp_path: Path, begin: int, claimed: int
) -> None:
    puts = max(0, claimed - begin)
    folder = placed(
        tmp_path / "log",
        frame(MARK, b"", segment=1, salt=1, number=begin, puts=0),
        frame(MARK, b"", segment=1, salt=1, number=claimed, puts=puts),
    )
    fields = struct.pack("<4sIQQQQB3x", b"\xf5hdg", 1, 0, 0, claimed, puts, 0)
    (folder / TAIL).write_bytes(fields + struct.pack("<I", zlib.crc32(fields)))
    outbox = DurableOutbox(folder, min_free_bytes=0)
    assert outbox.counters()["lost"] <= claimed
    outbox.close()
    assert DurableOutbox(folder, min_free_bytes=0).stats()[:2] == (0, 0)


@pytest.mark.parametrize(
    "payload",
    [
        *(
            msgspec.msgpack.encode([1, kept, begin, [], b""])
            for kept, begin in ((2**40, (0, 0)), (1, (2**63, 0)), (1, (-5, -5)), (1, (3, 9)))
        ),
        b"\x91\xa2\xff\xfe",  # a text that is no UTF-8
        b"\x95\x01\x01\x92\x00\x00\x90\xc4\x06\x94\xa1\xff\x00\x00\xc0",  # the same, in the stamp
        b"\x91" * 5000 + b"\xc0",
    ],
)
def test_a_head_that_says_what_cannot_be_stops_nothing(tmp_path: Path, payload: bytes) -> None:
    folder = placed(tmp_path / "log", frame(HEAD, payload, segment=1, salt=1, number=0, puts=0))
    assert DurableOutbox(folder, min_free_bytes=0).stats()[:2] == (0, 0)
