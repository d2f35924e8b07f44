"""The spool: messages in order and at least once, through restarts, kills and failing disks."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hedge.models.errors import UplinkError
from hedge.uplink.outbox.frames import MARK, frame
from hedge.uplink.outbox.log_files import file_name
from hedge.uplink.publishers.spool import Parcel, Spool

SECOND_NS = 10**9
MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108 -- syncs take no time there


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give the place of a spool."""
    return tmp_path / "state" / "outcomes"


def opened(folder: Path | None, *, now_ns: int = 0, **options: Any) -> Spool:  # noqa: ANN401 -- what the constructor takes
    """Return the spool in a folder, at a moment."""
    return Spool(folder, clock=lambda: now_ns, **{"min_free_bytes": 0, **options})


def killed(spool: Spool) -> None:
    """Leave a spool as SIGKILL would: what was written is there, nothing else happens."""
    spool._unlock()
    if spool._log is not None:
        with mock.patch.object(spool._log._log, "sync"):
            spool._log._log.close()


def filled(spool: Spool, *payloads: bytes) -> Spool:
    """Put and commit messages."""
    for payload in payloads:
        spool.put("t", payload)
    spool.commit()
    return spool


def sent(spool: Spool, limit: int = 10**6) -> list[Parcel]:
    """Send what is due, and return it."""
    parcels = []
    for parcel in spool.due(limit):
        spool.sent(parcel.key)
        parcels.append(parcel)
    return parcels


def texts(spool: Spool, limit: int = 10**6) -> list[bytes]:
    """Send what is due, and return the messages."""
    return [parcel.payload for parcel in sent(spool, limit)]


@pytest.mark.parametrize("ending", ["killed", "closed"])
def test_what_was_committed_is_given_again_after_a_restart_in_order_and_as_it_was(
    folder: Path, ending: str
) -> None:
    spool = opened(folder)
    messages = [(f"hedge/1/é/{number % 3}", bytes(range(number % 256))) for number in range(600)]
    for topic, payload in messages:
        spool.put(topic, payload)
    spool.commit()
    first = sent(spool, 20)
    for parcel in first[:5]:
        spool.done(parcel.key)
    spool.tend(0)
    killed(spool) if ending == "killed" else spool.close()
    again = opened(folder)
    assert [(one.topic, one.payload) for one in sent(again)] == messages[5:]
    assert again.counters()["recovered"] == len(again) == 595


def test_what_is_acknowledged_in_time_never_reaches_the_disk(folder: Path) -> None:
    now_ns = 0
    spool = Spool(folder, clock=lambda: now_ns, commit_within_s=0.1)
    for now_ns in range(0, SECOND_NS, SECOND_NS // 40):
        spool.put("t", b"a")
        spool.tend(now_ns)
        spool.requeue()
        for parcel in sent(spool)[:-1]:  # there is always one that is not acknowledged yet
            spool.done(parcel.key)
    assert len(spool) == 1
    assert spool.counters()["commits"] == 0
    assert list(folder.glob("*.log")) == []


def test_nothing_is_in_memory_alone_for_longer_than_was_said(folder: Path) -> None:
    now_ns = 0
    spool = Spool(folder, clock=lambda: now_ns, commit_within_s=0.1)
    put_ns: dict[int, int] = {}
    for now_ns in range(0, 2 * SECOND_NS, SECOND_NS // 100):
        spool.put("t", b"a")
        put_ns[next(reversed(spool._memory))] = now_ns
        spool.tend(now_ns)
        assert all(now_ns - put_ns[key] <= SECOND_NS // 10 for key in spool._memory)
    assert 15 < spool.counters()["commits"] < 45


def test_what_is_not_acknowledged_in_time_is_committed_in_one_step(folder: Path) -> None:
    spool = opened(folder)
    for number in range(50):
        spool.put("t", b"%d" % number)
    due_ns = spool.next_ns()
    assert due_ns is not None
    spool.tend(due_ns)
    assert spool.counters()["commits"] == 1
    assert spool.next_ns() is None
    killed(spool)
    assert texts(opened(folder)) == [b"%d" % number for number in range(50)]


def test_what_was_not_committed_is_gone_with_a_kill_but_not_with_a_close(folder: Path) -> None:
    spool = filled(opened(folder), b"a")
    spool.put("t", b"b")
    killed(spool)
    again = opened(folder)
    again.put("t", b"c")
    again.close()
    assert texts(opened(folder)) == [b"a", b"c"]


def test_only_as_many_are_given_as_are_sent_and_none_twice(folder: Path) -> None:
    spool = filled(opened(folder), b"a", b"b", b"c")
    assert [one.payload for one in spool.due(5)] == [b"a"], "the rest only once it was sent"
    assert texts(spool, 2) == [b"a", b"b"]
    assert texts(spool, 5) == [b"c"]
    assert texts(spool) == []


def test_after_a_lost_connection_all_that_was_under_way_comes_again_in_order(folder: Path) -> None:
    spool = filled(opened(folder), b"a", b"b", b"c", b"d")
    parcels = sent(spool, 3)
    spool.done(parcels[1].key)
    spool.requeue()
    again = sent(spool)
    assert [(one.payload, one.sends) for one in again] == [(b"a", 1), (b"c", 1), (b"d", 0)]


def test_an_acknowledgement_that_comes_twice_or_too_late_is_passed_over(folder: Path) -> None:
    spool = opened(folder, max_count=1)
    spool.put("t", b"a")
    (parcel,) = sent(spool)
    spool.put("t", b"b")  # takes the place of the first
    spool.done(parcel.key)
    spool.done(parcel.key)
    assert len(spool) == 1
    assert texts(spool) == [b"b"]


@pytest.mark.parametrize("on_disk", [True, False])
def test_beyond_either_cap_the_oldest_go_and_are_counted(folder: Path, *, on_disk: bool) -> None:
    place = folder if on_disk else None
    by_count = filled(opened(place, max_count=3), *(b"%d" % number for number in range(8)))
    assert by_count.counters()["evicted"] == 5
    assert texts(by_count) == [b"5", b"6", b"7"]
    by_count.close()
    by_size = opened(place and place.with_name("other"), max_bytes=3000)
    filled(by_size, *(b"%d" % number + bytes(900) for number in range(8)))
    assert by_size.counters()["evicted"] == 5
    assert [payload[:1] for payload in texts(by_size)] == [b"5", b"6", b"7"]


def test_a_long_outage_costs_neither_memory_nor_disk_beyond_the_caps(folder: Path) -> None:
    spool = opened(folder, max_count=100, max_bytes=1 << 20)
    for number in range(1000):
        filled(spool, b"%d" % number + bytes(1000))
    assert len(spool) == len(spool._pending) == 100
    assert sum(file.stat().st_size for file in folder.glob("*.log")) < 2 << 20
    killed(spool)
    again = opened(folder, max_count=100, max_bytes=1 << 20)
    assert [int(payload.rstrip(b"\0")) for payload in texts(again)] == list(range(900, 1000))


def test_a_drained_spool_gives_its_disk_back(folder: Path) -> None:
    spool = filled(opened(folder), *(bytes(4000) for _ in range(2000)))
    assert spool.counters()["log_bytes"] > 7 << 20
    for parcel in sent(spool):
        spool.done(parcel.key)
    spool.tend(SECOND_NS)
    assert spool.counters()["log_bytes"] < 1 << 20
    assert len(list(folder.glob("*.log"))) < 3


def test_a_message_under_way_at_every_lost_connection_goes_as_it_may_be_the_reason() -> None:
    spool = filled(opened(None, max_sends=3), b"poison", b"good")
    for times in range(3):
        assert sent(spool, 1)[0] == Parcel(0, "t", b"poison", times)
        spool.requeue()
    assert texts(spool) == [b"good"]
    assert spool.counters()["dead"] == 1


def test_everything_on_disk_is_for_the_owner_only(folder: Path) -> None:
    filled(opened(folder), b"a")
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_two_processes_cannot_own_one_spool(folder: Path) -> None:
    spool = opened(folder)
    with pytest.raises(UplinkError, match="another process owns"):
        opened(folder)
    spool.close()
    opened(folder).close()


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "fsync"])
def test_a_disk_that_fails_takes_nothing_away_and_has_all_in_order_once_it_has_healed(
    folder: Path, call: str, code: int
) -> None:
    spool = opened(folder)
    if call != "fsync":  # which only a new file needs
        filled(spool, b"a")
    with mock.patch.object(os, call, side_effect=OSError(code, os.strerror(code))):
        filled(spool, b"b", b"c")
        assert spool.counters()["disk_errors"] >= 1
        assert spool.next_ns() is not None, "it is tried again"
        assert texts(spool)[-2:] == [b"b", b"c"]
        spool.requeue()
    spool.put("t", b"d")
    spool.tend(2 * SECOND_NS)
    killed(spool)
    assert texts(opened(folder)) == [b"a", b"b", b"c", b"d"][call == "fsync" :]


def test_a_place_that_cannot_be_opened_leaves_all_in_memory_until_it_can(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "state" / "outcomes"
    filled(opened(folder), b"old").close()
    folder.parent.rename(tmp_path / "aside")
    folder.parent.write_text("not a folder")
    with caplog.at_level(logging.ERROR):
        spool = filled(opened(folder), b"a", b"b")
    assert caplog.text.count("in memory only") == 1
    assert texts(spool, 1) == [b"a"]
    folder.parent.unlink()
    (tmp_path / "aside").rename(folder.parent)
    spool.commit()
    assert texts(spool) == [b"old", b"b"]
    spool.requeue()
    assert texts(spool) == [b"old", b"a", b"b"]
    killed(spool)
    assert texts(opened(folder)) == [b"old", b"a", b"b"]


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """Give the place of a spool on a disk of 256 KiB."""
    folder.parent.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder.parent)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder.parent)], check=True)


def test_a_place_that_another_has_taken_meanwhile_is_left_to_it(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "outcomes"
    folder.parent.write_text("not a folder")
    spool = filled(opened(folder), b"a")
    folder.parent.unlink()
    other = opened(folder)
    spool.commit()
    assert texts(spool) == [b"a"]
    spool.requeue()
    other.close()
    spool.commit()
    killed(spool)
    assert texts(opened(folder)) == [b"a"]


def test_a_full_disk_loses_nothing_as_long_as_the_process_lives(small_disk: Path) -> None:
    spool = opened(small_disk)
    messages = [b"%d" % number + bytes(5000) for number in range(100)]
    for message in messages:
        filled(spool, message)
    assert spool.counters()["disk_errors"] + spool.counters()["no_space"] > 0
    parcels = sent(spool)
    assert [one.payload for one in parcels] == messages
    for parcel in parcels:
        spool.done(parcel.key)
    spool.tend(SECOND_NS)
    filled(spool, b"there is room again")
    killed(spool)
    assert texts(opened(small_disk)) == [b"there is room again"]


def test_a_read_only_disk_still_gives_what_it_holds(small_disk: Path) -> None:
    filled(opened(small_disk), b"a").close()
    place = str(small_disk.parent)
    subprocess.run(["mount", "-o", "remount,ro", place], check=True)
    spool = filled(opened(small_disk), b"b")
    assert texts(spool) == [b"a", b"b"]
    spool.requeue()
    subprocess.run(["mount", "-o", "remount,rw", place], check=True)
    spool.commit()
    killed(spool)
    assert texts(opened(small_disk)) == [b"a", b"b"]


def test_a_share_of_the_disk_stays_free_for_others(folder: Path) -> None:
    spool = filled(opened(folder, min_free_bytes=1 << 60), b"a")
    assert spool.counters()["no_space"] == 1
    assert texts(spool) == [b"a"]


def test_a_damaged_file_costs_what_it_held_and_is_counted_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spool = opened(folder)
    for number in range(600):
        filled(spool, b"%d" % number)
    killed(spool)
    victim = folder / "00000002.log"  # holds 256 to 511
    victim.write_bytes(b"\xff" * victim.stat().st_size)
    with caplog.at_level(logging.ERROR):
        again = opened(folder)
    assert "1 files damaged; 344 messages saved, at most 256 lost" in caplog.text
    assert again.counters()["lost"] == 256
    whole = [number for number in range(600) if not 256 <= number < 512]
    assert texts(again) == [b"%d" % number for number in whole]
    killed(again)
    assert opened(folder).counters()["lost"] == 0


def test_a_message_damaged_while_we_run_is_lost_and_the_next_one_goes(folder: Path) -> None:
    spool = filled(opened(folder), b"A" * 99, b"b")
    path = folder / "00000001.log"
    path.write_bytes(path.read_bytes().replace(b"A" * 99, b"A" * 50 + b"B" + b"A" * 48))
    assert texts(spool) == [b"b"]
    assert spool.counters()["lost"] == 1
    assert len(spool) == 1


@given(data=st.data())
@settings(max_examples=80)
def test_whatever_befalls_a_file_the_rest_comes_in_order_and_the_loss_is_counted(
    data: st.DataObject,
) -> None:
    with TemporaryDirectory(dir=MEMORY) as place:
        folder = Path(place) / "spool"
        spool = opened(folder, max_bytes=1 << 16)  # so that there are several files
        messages = [b"%d" % number + bytes(200) for number in range(100)]
        for message in messages:
            filled(spool, message)
        done = data.draw(st.integers(0, 60))
        for parcel in sent(spool)[:done]:
            spool.done(parcel.key)
        spool.tend(0)
        killed(spool)
        victim = data.draw(st.sampled_from(sorted(folder.iterdir())))
        content = bytearray(victim.read_bytes())
        at = data.draw(st.integers(0, max(0, len(content) - 1)))
        match data.draw(st.sampled_from(["flip", "cut", "gone", "zeros"])):
            case "flip" if content:
                content[at] ^= 1 << data.draw(st.integers(0, 7))
                victim.write_bytes(content)
            case "cut":
                victim.write_bytes(content[:at])
            case "zeros":
                victim.write_bytes(content[:at] + bytes(len(content) - at))
            case _:
                victim.unlink()
        again = opened(folder, max_bytes=1 << 16)
        found = texts(again)
        assert found == [message for message in messages if message in set(found)]
        missing = set(messages[done:]) - set(found)
        assert len(missing) <= again.counters()["lost"] <= 100
        filled(again, b"new")
        killed(again)
        last = opened(folder, max_bytes=1 << 16)
        assert texts(last) == [*found, b"new"]
        last.close()


_WRITER = """
import sys
from pathlib import Path
from hedge.uplink.outbox.frames import MARK, frame
from hedge.uplink.outbox.log_files import file_name
from hedge.uplink.publishers.spool import Spool
spool = Spool(Path(sys.argv[1]), min_free_bytes=0)
number = int(sys.argv[2])
while True:
    for _ in range(3):
        spool.put("t", b"%d" % number)
        number += 1
    spool.commit()
    print(number, flush=True)
    for parcel in list(spool.due(1)):
        spool.sent(parcel.key)
        print("sent", parcel.payload.decode(), flush=True)
        spool.done(parcel.key)
    spool.tend(10**19)
"""


def test_a_kill_at_any_moment_loses_nothing_that_was_committed(folder: Path) -> None:
    committed, done = 0, -1
    for cycle in range(6):
        command = [sys.executable, "-c", _WRITER, str(folder), str(committed)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.013 * cycle)
        process.send_signal(signal.SIGKILL)
        for line in process.stdout:
            if line.endswith("\n") and line.startswith("sent"):
                done = int(line.split()[1])
            elif line.endswith("\n"):
                committed = int(line)
        process.stdout.close()
        process.wait()
        spool = opened(folder)
        numbers = [int(payload) for payload in texts(spool)]
        killed(spool)
        assert numbers == sorted(set(numbers))
        missing = set(range(done + 1, committed)) - set(numbers)
        assert not missing, "every message after the last that was done"
        committed = max(committed, numbers[-1] + 1) if numbers else committed


class SpoolLife(RuleBasedStateMachine):
    """A spool's life against a list: what is put is given in order until it is done."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(mkdtemp(dir=MEMORY))
        self.spool = opened(self.folder)
        self.held: list[bytes] = []  # on disk, or in memory
        self.on_disk: set[bytes] = set()
        self.flying: list[Parcel] = []
        self.number = 0

    @rule(count=st.integers(1, 5))
    def put(self, count: int) -> None:
        for _ in range(count):
            self.number += 1
            message = b"%d" % self.number
            self.spool.put("t", message)
            self.held.append(message)

    @rule(fails=st.booleans())
    def commit(self, *, fails: bool) -> None:
        call = mock.patch.object(os, "fdatasync", side_effect=OSError(errno.EIO, "EIO"))
        with call if fails else nullcontext():
            self.spool.commit()
        if not fails:
            self.on_disk.update(self.held)

    @rule(limit=st.integers(1, 4))
    def send(self, limit: int) -> None:
        flying = {parcel.payload for parcel in self.flying}
        wanted = [message for message in self.held if message not in flying]
        parcels = sent(self.spool, limit)
        assert [parcel.payload for parcel in parcels] == wanted[:limit]
        self.flying += parcels

    @rule(data=st.data())
    def done(self, data: st.DataObject) -> None:
        if self.flying:
            parcel = self.flying.pop(data.draw(st.integers(0, len(self.flying) - 1)))
            self.spool.done(parcel.key)
            self.held.remove(parcel.payload)

    @rule()
    def tend(self) -> None:
        self.spool.tend(0)

    @rule()
    def disconnect(self) -> None:
        self.spool.requeue()
        self.flying.clear()

    @rule(kill=st.booleans())
    def restart(self, *, kill: bool) -> None:
        self.spool.tend(0)
        killed(self.spool) if kill else self.spool.close()
        self.spool = opened(self.folder)
        self.flying.clear()
        if kill:
            self.held = [message for message in self.held if message in self.on_disk]
        self.on_disk = set(self.held)

    @invariant()
    def counts(self) -> None:
        assert len(self.spool) == len(self.held)

    def teardown(self) -> None:
        self.spool.close()
        shutil.rmtree(self.folder)


TestSpoolLife = SpoolLife.TestCase
TestSpoolLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def test_what_a_disk_gives_late_can_be_evicted_while_newer_messages_were_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Spool(tmp_path, min_free_bytes=0)
    for number in range(4):
        first.put("t", f"old-{number}".encode())
    first.close()
    with monkeypatch.context() as patch:
        patch.setattr("hedge.uplink.publishers.spool.lock", _no_disk)
        spool = Spool(tmp_path, min_free_bytes=0, max_count=5)
    for number in range(3):
        spool.put("t", f"new-{number}".encode())
    for parcel in spool.due(2):
        spool.sent(parcel.key)
    spool.commit()  # the disk is there again, and with it what was on it
    spool.requeue()
    spool.put("t", b"last")  # too many: the oldest go
    said = []
    for parcel in spool.due(99):
        said.append(parcel.payload)
        spool.sent(parcel.key)
    assert said == [b"old-3", b"new-0", b"new-1", b"new-2", b"last"]
    spool.close()


def _no_disk(folder: Path) -> int:
    raise OSError(5, f"{folder} is away")


def test_a_forged_number_in_its_files_takes_no_time(tmp_path: Path) -> None:
    far = 1 << 60
    frames = [
        frame(MARK, b"", segment=1, salt=1, number=number, puts=max(0, number - 1))
        for number in (0, far)
    ]
    (tmp_path / file_name(1)).write_bytes(b"".join(frames))
    spool = Spool(tmp_path, min_free_bytes=0)
    assert spool.counters()["lost"] == far - 1
    spool.close()
