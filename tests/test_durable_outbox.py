"""The outbox on disk, through restarts, kills, a disk that fails, and damage."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from hedge.models.errors import UplinkError
from hedge.uplink import wire
from hedge.uplink.outbox import stored
from hedge.uplink.outbox.dead_letters import DeadLetters
from hedge.uplink.outbox.durable_outbox import DurableOutbox
from hedge.uplink.outbox.lifetime import boot_id, synchronised_wall_ns
from hedge.uplink.outbox.log_files import Head
from hedge.uplink.outbox.outbox import End, Record

DAY_NS = 86_400 * 10**9
MEMORY = Path("/dev/shm")  # noqa: S108 -- where a thousand syncs take no time


def record(
    ask_id: str,
    *,
    body: bytes = b"body",
    score: float = 0.5,
    deadline_ns: int | None = None,
    answer_by_ns: int | None = None,
    asked_at_ns: int = 0,
) -> Record:
    """Return a record; with ``answer_by_ns`` somebody waits for its final outcome."""
    request = wire.Request(
        v=1,
        id=ask_id,
        session=3,
        kind="decide",
        model="m",
        contract="0" * 16,
        entry="input",
        remaining_ms=None,
        dtype="uint8",
        shape=(len(body),),
        codec="raw",
        opinion=wire.WireOpinion(np.array([0.25, 0.75], "<f4").tobytes(), score, "vacuity", None),
        body=body,
    )
    return Record(
        request=request,
        stream="cam",
        classes=2,
        score=score,
        deadline_ns=deadline_ns,
        answer_by_ns=answer_by_ns,
        asked_at_ns=asked_at_ns,
    )


def opened(folder: Path, *, boot: str = "one", now_ns: int = 0, **options: Any) -> DurableOutbox:  # noqa: ANN401
    """Return the outbox in a folder, at a moment of a boot."""
    options = {"min_free_bytes": 0, "wall": lambda: None, **options}
    return DurableOutbox(folder, boot=boot, clock=lambda: now_ns, **options)


def killed(outbox: DurableOutbox) -> None:
    """Leave an outbox as SIGKILL would: what was written is there, nothing else happens."""
    assert outbox._lock is not None
    os.close(outbox._lock)
    outbox._lock = None
    log = outbox._log._log
    with mock.patch.object(log, "sync"):
        log.close()


def ids(outbox: DurableOutbox, limit: int = 10**6) -> list[str]:
    """Return the ids of what is due."""
    return [one.id for one in outbox.due(limit)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give the place of an outbox."""
    return tmp_path / "state" / "outbox"


@pytest.mark.parametrize("ending", ["killed", "closed"])
def test_what_was_stored_is_there_after_a_restart_as_it_was(folder: Path, ending: str) -> None:
    outbox = opened(folder)
    rng = np.random.default_rng(1)
    records = [
        record(
            f"3-{number}",
            body=rng.bytes(number + 1),
            score=float(rng.random()),
            deadline_ns=DAY_NS + number if number % 2 else None,
            answer_by_ns=5 if number % 3 else None,
            asked_at_ns=number,
        )
        for number in range(150)
    ]
    assert outbox.put(records) == ([], [])
    in_turn = sorted(records, key=lambda one: one.answer_by_ns is None)
    assert list(outbox.due(200)) == in_turn
    killed(outbox) if ending == "killed" else outbox.close()
    again = opened(folder)
    assert list(again.due(200)) == in_turn
    assert again.find("3-77") == records[77]
    assert again.counters()["recovered"] == 150
    assert again.stats()[:2] == (150, 0)


def test_what_was_in_flight_waits_again_after_a_restart_and_remembers_its_sendings(
    folder: Path,
) -> None:
    outbox = opened(folder)
    outbox.put([record("a"), record("b"), record("c")])
    outbox.sent("a", lease_until_ns=10**18)
    outbox.expire(now_ns=10**9)
    outbox.sent("a", lease_until_ns=10**18)
    outbox.sent("b", lease_until_ns=10**18)
    assert outbox.stats()[:2] == (1, 2)
    outbox.close()
    again = opened(folder)
    assert ids(again) == ["a", "b", "c"]
    assert [again.sends(one) for one in "abc"] == [2, 1, 0]


def test_an_ask_nobody_waits_for_is_gone_once_it_is_settled(folder: Path) -> None:
    outbox = opened(folder)
    outbox.put([record("a"), record("b")])
    assert list(outbox.recovered()) == []
    outbox.settle({"a": "answered"})
    killed(outbox)
    assert ids(opened(folder)) == ["b"]


@pytest.mark.parametrize("settled", [True, False])
@pytest.mark.parametrize("final", [True, False])
def test_an_ask_ends_when_it_is_settled_and_its_user_has_the_final_outcome(
    folder: Path, *, settled: bool, final: bool
) -> None:
    outbox = opened(folder)
    outbox.put([record("a", answer_by_ns=9)])
    if settled:
        outbox.settle({"a": "answered"})
        assert outbox.find("a") is None
    if final:
        outbox.final(["a", "never seen"])
    killed(outbox)
    again = opened(folder)
    assert ids(again) == ([] if settled and final else ["a"])
    assert [one.id for one in again.recovered()] == ([] if final else ["a"])
    again.final(["a"])
    killed(again)
    assert list(opened(folder).recovered()) == []


def test_the_final_outcome_may_come_before_the_ask_is_settled_or_after(folder: Path) -> None:
    outbox = opened(folder)
    outbox.put([record("a", answer_by_ns=9), record("b", answer_by_ns=9)])
    outbox.final(["a"])
    outbox.settle({"a": "answered", "b": "answered"})
    outbox.final(["b"])
    killed(outbox)
    assert ids(opened(folder)) == []


def test_an_id_that_is_stored_or_only_waits_for_its_final_outcome_is_left_alone(
    folder: Path,
) -> None:
    outbox = opened(folder)
    outbox.put([record("a", answer_by_ns=9, body=b"first")])
    outbox.settle({"a": "answered"})
    assert outbox.put([record("a", body=b"second")]) == ([], [])
    assert ids(outbox) == []


def test_two_processes_cannot_own_one_outbox_but_one_after_the_other_can(folder: Path) -> None:
    first = opened(folder)
    with pytest.raises(UplinkError, match=r"outbox: another process owns this outbox"):
        opened(folder)
    first.close()
    opened(folder).close()


def test_everything_on_disk_is_for_the_owner_only(folder: Path) -> None:
    outbox = opened(folder, max_strikes=1)
    outbox.put([record("a"), record("b")])
    outbox.sent("a", lease_until_ns=1)
    outbox.requeue(["a"])
    assert outbox.failures() == {"a": "dead"}
    outbox.close()
    paths = [folder, *folder.rglob("*")]
    assert len(paths) >= 6
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_file()} == {0o600}
    assert {path.stat().st_mode & 0o777 for path in paths if path.is_dir()} == {0o700}


def test_an_ask_sent_too_often_is_dead_and_laid_aside(folder: Path) -> None:
    outbox = opened(folder, max_strikes=3)
    outbox.put([record("poison", body=b"p"), record("good")])
    for now in range(1, 4):
        assert outbox.failures() == {}
        outbox.sent("poison", lease_until_ns=now)
        outbox.requeue(["poison"])
    assert outbox.failures() == {"poison": "dead"}
    assert outbox.failures() == {}
    assert ids(outbox) == ["good"]
    assert outbox.counters()["dead"] == 1
    outbox.close()
    assert ids(opened(folder)) == ["good"]
    ((ask_id, payload),) = DeadLetters(folder / "dead", max_bytes=10**6).items()
    assert (ask_id, stored.unpack(payload, ahead_ns=0).request.body) == ("poison", b"p")


def test_dead_letters_are_bounded_and_the_oldest_go_first(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path / "dead", max_count=3, max_bytes=100)
    for number in range(5):
        assert letters.put(f"a{number}", b"x" * 20)
        os.utime(tmp_path / "dead" / f"a{number}.ask", ns=(number, number))
    assert [ask_id for ask_id, _ in letters.items()] == ["a2", "a3", "a4"]
    assert letters.put("big", b"x" * 70)
    assert [ask_id for ask_id, _ in letters.items()] == ["a4", "big"]
    assert not letters.put("../out", b"x")
    assert letters.drop("a4")
    assert not letters.drop("../../state")


def test_a_deadline_holds_through_a_restart_in_the_same_boot(folder: Path) -> None:
    opened(folder, now_ns=100).put([record("a", deadline_ns=500), record("b")])
    outbox = reopened_after_kill(folder, now_ns=300)
    assert outbox.next_ns() == 500
    assert outbox.expire(now_ns=499) == []
    assert outbox.expire(now_ns=500) == ["a"]
    assert ids(outbox) == ["b"]


def reopened_after_kill(folder: Path, **options: Any) -> DurableOutbox:  # noqa: ANN401
    """Open an outbox whose owner was killed without being told."""
    (folder / "lock").unlink()  # the descriptor of the first owner is still open in this process
    return opened(folder, **options)


def test_across_boots_the_time_in_between_counts_where_the_wall_clock_was_true(
    folder: Path,
) -> None:
    first = opened(folder, now_ns=1000, wall=lambda: 50_000)
    first.put([record("a", deadline_ns=1500, asked_at_ns=1000)])
    second = reopened_after_kill(folder, boot="two", now_ns=7, wall=lambda: 50_300)
    assert second.next_ns() == 7 + 200
    found = second.find("a")
    assert found is not None
    assert (found.deadline_ns, found.asked_at_ns) == (207, -293)


@pytest.mark.parametrize(("before", "after"), [(None, 60_000), (50_000, None), (50_000, 40_000)])
def test_across_boots_without_a_true_wall_clock_the_time_in_between_does_not_count(
    folder: Path, before: int | None, after: int | None
) -> None:
    first = opened(folder, now_ns=1000, wall=lambda: before)
    first.put([record("a", deadline_ns=1500, asked_at_ns=1000)])
    second = reopened_after_kill(folder, boot="two", now_ns=7, wall=lambda: after)
    assert second.next_ns() == 7 + 500
    second.put([record("b", deadline_ns=100)])
    third = reopened_after_kill(folder, boot="three", now_ns=0)
    assert third.next_ns() == 93
    assert third.expire(now_ns=500) == ["b", "a"]


def test_the_caps_count_asks_and_bytes_and_the_surest_go_first(folder: Path) -> None:
    outbox = opened(folder, max_count=3)
    outbox.put([record("a", score=0.4), record("b", score=0.2), record("c", score=0.9)])
    assert outbox.put([record("d", score=0.3)]) == ([], ["b"])
    assert outbox.put([record("e", score=0.1)]) == (["e"], [])
    killed(outbox)
    assert ids(opened(folder)) == ["a", "c", "d"]
    small = opened(folder.with_name("small"), max_bytes=1 << 20)
    placed = [small.put([record(f"{n}", body=bytes(50_000), score=n / 99)]) for n in range(20)]
    assert [one.evicted for one in placed if one.evicted] == [[f"{n}"] for n in range(10)]
    assert small.stats().stored_bytes <= 1 << 19
    assert small.put([record("huge", body=bytes(200_000), score=1)]) == (["huge"], [])


def test_the_oldest_can_go_first_instead(folder: Path) -> None:
    outbox = opened(folder, max_count=2, evict="oldest")
    outbox.put([record("a", score=0.9), record("b", score=0.8)])
    killed(outbox)
    again = opened(folder, max_count=2, evict="oldest")
    assert again.put([record("c", score=0.1)]) == ([], ["a"])


def test_the_files_stay_within_their_cap_whatever_comes_and_goes(folder: Path) -> None:
    rng = np.random.default_rng(3)
    cap = 1 << 20
    outbox = opened(folder, max_bytes=cap)
    alive: dict[str, bytes] = {}
    for number in range(1500):
        new = record(f"{number}", body=rng.bytes(int(rng.integers(1, 8000))), score=rng.random())
        placed = outbox.put([new])
        assert placed.refused in ([], [new.id])
        alive[new.id] = new.request.body
        for one in (*placed.refused, *placed.evicted):
            del alive[one]
        if number % 3 == 0:
            for one in [one for one in alive if rng.random() < 0.05]:
                del alive[one]
                outbox.settle({one: "answered"})
        assert sum(path.stat().st_size for path in folder.glob("*.log")) <= cap
    assert outbox.counters()["copied"] > 100
    assert len(alive) > 50
    for one in (outbox, reopened_after_kill(folder, max_bytes=cap)):
        assert {found.id: found.request.body for found in one.due(10**6)} == alive


def test_a_drained_outbox_gives_its_disk_back(folder: Path) -> None:
    outbox = opened(folder)
    for number in range(0, 3000, 50):
        outbox.put([record(f"{one}", body=bytes(1000)) for one in range(number, number + 50)])
    assert outbox.counters()["log_bytes"] > 3_000_000
    for number in range(3000):
        outbox.settle({f"{number}": "answered"})
    outbox.expire(now_ns=DAY_NS)
    assert sum(path.stat().st_size for path in folder.glob("*.log")) < 1 << 20


def test_thousands_of_restarts_with_an_ask_each_do_not_pile_up_files(tmp_path: Path) -> None:
    fast = os.access(MEMORY, os.W_OK)
    folder = Path(tempfile.mkdtemp(dir=MEMORY if fast else tmp_path))
    alive: set[str] = set()
    try:
        for number in range(2000 if fast else 300):
            outbox = opened(folder)
            outbox.put([record(f"{number}", body=b"x")])
            alive.add(f"{number}")
            if number >= 100:
                gone = f"{number - 100}"
                outbox.settle({gone: "answered"})
                alive.discard(gone)
            killed(outbox) if number % 2 else outbox.close()
            assert len(os.listdir(folder)) < 24  # noqa: PTH208
        outbox = opened(folder)
        assert set(ids(outbox)) == alive
    finally:
        shutil.rmtree(folder)


def test_copies_keep_their_turn_their_sendings_and_what_their_users_know(folder: Path) -> None:
    for number in range(30):
        outbox = opened(folder)
        outbox.put([record(f"{number}", answer_by_ns=5)])
        if number == 0:
            outbox.sent("0", lease_until_ns=0)
        if number == 1:
            outbox.final(["1"])
        outbox.close()
    outbox = opened(folder)
    outbox.put([record("30", answer_by_ns=5)])
    assert outbox.counters()["copied"] > 0
    killed(outbox)
    again = opened(folder)
    assert ids(again) == ["0", *(f"{number}" for number in range(2, 31)), "1"]
    assert again.sends("0") == 1
    assert "1" not in {one.id for one in again.recovered()}
    assert len(list(again.recovered())) == 30


def failing(code: int) -> Any:  # noqa: ANN401
    """Return a function that fails as a disk does."""

    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS])
@pytest.mark.parametrize("call", ["pwrite", "fdatasync", "fsync"])
def test_a_failing_disk_refuses_and_goes_on_and_the_next_ask_passes_when_it_has_healed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int
) -> None:
    outbox = opened(folder)
    outbox.put([record("a"), record("b", answer_by_ns=3)])
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(code))
        placed = outbox.put([record(f"c{number}") for number in range(130)])
        outbox.sent("a", lease_until_ns=1)
        outbox.settle({"a": "answered"})
        outbox.final(["b"])
        outbox.expire(now_ns=10**12)
    if call != "fsync":
        assert placed == ([f"c{number}" for number in range(130)], [])
        assert outbox.counters()["disk_errors"] >= 1
    alive = [f"c{number}" for number in range(130) if f"c{number}" not in placed.refused]
    alive.append("b")  # since its user waits no more
    assert ids(outbox) == alive
    assert outbox.put([record("d")]) == ([], [])
    killed(outbox)
    again = opened(folder)
    assert sorted(ids(again)) == sorted([*alive, "d"])  # words on a and b were written with d
    assert list(again.recovered()) == []
    assert again.counters()["lost"] == 0


def test_an_eviction_for_a_newcomer_that_could_not_be_stored_did_not_happen(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = opened(folder, max_count=2)
    outbox.put([record("a", score=0.1), record("b", score=0.2)])
    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", failing(errno.EIO))
        assert outbox.put([record("c", score=0.9)]) == (["c"], [])
    assert ids(outbox) == ["a", "b"]
    assert outbox.put([record("d", score=0.9)]) == ([], ["a"])
    assert outbox.put([record("e", score=0.9)]) == ([], ["b"])


def test_marks_owed_to_a_failing_disk_are_written_when_it_has_healed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = opened(folder)
    outbox.put([record("a")])
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", failing(errno.EIO))
        outbox.settle({"a": "answered"})
    next_ns = outbox.next_ns()
    assert next_ns is not None
    assert outbox.expire(now_ns=next_ns) == []
    assert outbox.next_ns() is None
    killed(outbox)
    assert ids(opened(folder)) == []


def test_the_disk_keeps_a_share_free_for_others(folder: Path) -> None:
    outbox = opened(folder, min_free_bytes=1 << 60)
    assert outbox.put([record("a")]) == (["a"], [])
    assert outbox.counters()["no_space"] == 1
    assert outbox.counters()["disk_errors"] == 0


def test_a_place_that_cannot_be_opened_refuses_all_until_it_can(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    outbox = opened(tmp_path / "state" / "outbox")
    assert list(outbox.recovered()) == []
    assert outbox.put([record("a")]) == (["a"], [])
    assert ids(outbox) == []
    assert outbox.expire(now_ns=5) == []
    (tmp_path / "state").unlink()
    assert outbox.put([record("a")]) == ([], [])
    outbox.close()
    assert ids(opened(tmp_path / "state" / "outbox")) == ["a"]


@pytest.fixture
def read_only(folder: Path) -> Iterator[Path]:
    """Give an outbox with one ask on a file system that has become read-only."""
    place = folder.parent
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a file system needs root")
    outbox = opened(folder)
    outbox.put([record("a")])
    outbox.close()
    subprocess.run(["mount", "-o", "remount,ro", str(place)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_read_only_disk_still_gives_what_it_holds(read_only: Path) -> None:
    outbox = opened(read_only)
    assert ids(outbox) == ["a"]
    assert outbox.put([record("b")]) == (["b"], [])
    outbox.settle({"a": "answered"})
    assert ids(outbox) == []
    subprocess.run(["mount", "-o", "remount,rw", str(read_only.parent)], check=True)
    assert outbox.put([record("b")]) == ([], [])
    killed(outbox)
    assert ids(opened(read_only)) == ["b"]


def test_a_damaged_file_is_set_by_the_rest_is_saved_and_the_loss_is_counted_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outbox = opened(folder)
    for number in range(200):
        outbox.put([record(f"{number}")])
    outbox.settle({f"{number}": "answered" for number in range(64, 80)})
    killed(outbox)
    victim = folder / "00000002.log"  # holds 64 to 127, of which 16 have ended
    victim.write_bytes(b"\xff" * victim.stat().st_size)
    with caplog.at_level(logging.ERROR):
        again = opened(folder)
    assert "1 files damaged; 136 asks saved, at most 48 lost" in caplog.text
    assert again.counters()["lost"] == 48
    assert ids(again) == [f"{number}" for number in range(200) if not 64 <= number < 128]
    copy = folder / "quarantine" / victim.name
    assert copy.read_bytes() == victim.read_bytes()
    assert copy.stat().st_mode & 0o777 == 0o600
    killed(again)
    assert opened(folder).counters()["lost"] == 0


def test_an_ask_damaged_while_we_run_is_lost_and_the_user_is_told(folder: Path) -> None:
    outbox = opened(folder)
    outbox.put([record("a", body=b"A" * 99, answer_by_ns=3), record("b")])
    killed(outbox)
    outbox = opened(folder)  # which has to read what it does not remember
    path = folder / "00000001.log"
    path.write_bytes(path.read_bytes().replace(b"AAA", b"ABA", 1))
    assert ids(outbox) == ["b"]
    assert outbox.failures() == {"a": "lost"}
    assert outbox.counters()["lost"] == 1
    killed(outbox)
    again = opened(folder)
    assert ids(again) == ["b"]
    assert again.counters()["lost"] == 0


def test_a_disk_that_does_not_read_now_is_asked_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = opened(folder)
    outbox.put([record("a"), record("b")])
    killed(outbox)
    outbox = opened(folder)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", failing(errno.EIO))
        assert ids(outbox) == []
        assert outbox.find("a") is None
    assert sorted(ids(outbox)) == ["a", "b"]
    assert outbox.failures() == {}


def test_records_of_an_older_version_are_read_by_way_of_their_upgrade(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = opened(folder)
    pack = stored.pack
    with monkeypatch.context() as patch:
        patch.setattr(stored, "pack", lambda *a, **b: bytes(1) + pack(*a, **b))  # version 0
        outbox._log.put([stored.pack(record("old", body=b"o"), order=0, ahead_ns=0)])
    outbox.close()
    with monkeypatch.context() as patch:
        patch.setattr(stored, "UPGRADES", {0: lambda payload: payload[1:]})
        outbox = opened(folder)
        (found,) = outbox.due(9)
        assert (found.id, found.request.body) == ("old", b"o")
        outbox.close()
    for lost in (1, 0):  # no way is known: counted, once
        outbox = opened(folder)
        assert ids(outbox) == []
        assert outbox.counters()["lost"] == lost
        outbox.close()


def test_the_files_of_a_later_version_are_set_aside_untouched(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = opened(folder)
    with monkeypatch.context() as patch:
        patch.setattr("hedge.uplink.outbox.record_log.Head", lambda _, *rest: Head(7, *rest))
        outbox.put([record("a")])
    outbox.close()
    data = (folder / "00000001.log").read_bytes()
    again = opened(folder)
    assert ids(again) == []
    assert again.put([record("b")]) == ([], [])
    assert (folder / "format-7" / "00000001.log").read_bytes() == data
    again.close()
    assert ids(opened(folder)) == ["b"]


def test_memory_does_not_hold_the_bodies(folder: Path) -> None:
    code = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_durable_outbox import opened, record
outbox = opened(Path({str(folder)!r}), max_bytes=1 << 28)
def most(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for number in range(40):
    outbox.put([record(f"{{number}}", body=bytes(1 << 20))])
    if number == 3: before = most()
assert outbox.stats().pending == 40
print(most() - before)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert int(ran.stdout) < 20_000  # KiB, of the 36 MiB put meanwhile


def test_this_boot_has_a_name_and_the_wall_clock_says_whether_it_is_true() -> None:
    assert boot_id() == boot_id() != ""
    wall_ns = synchronised_wall_ns()
    assert wall_ns is None or abs(wall_ns - time.time_ns()) < 60 * 10**9


def test_users_that_never_get_a_final_outcome_do_not_fill_the_memory(folder: Path) -> None:
    outbox = opened(folder)
    for number in range(0, 4200, 60):
        ids_of_it = [f"{one}" for one in range(number, number + 60)]
        outbox.put([record(one, answer_by_ns=1) for one in ids_of_it])
        outbox.settle(dict.fromkeys(ids_of_it, "answered"))
    assert outbox.counters()["unfinal"] == 4200 - 4096
    killed(outbox)
    assert len(ids(opened(folder))) == 4096


@dataclass
class Asked:
    """What the model knows of an ask that was stored."""

    body: bytes
    deadline_ns: int | None
    final: bool
    settled: bool = False

    @property
    def gone(self) -> bool:
        return self.final and self.settled


class Life(RuleBasedStateMachine):
    """An outbox's life against a dict: puts, ends, time, failures, kills and restarts."""

    def __init__(self) -> None:
        super().__init__()
        fast = MEMORY if os.access(MEMORY, os.W_OK) else None
        self.folder = Path(tempfile.mkdtemp(dir=fast))
        self.now_ns = 1000
        self.made = 0
        self.asks: dict[str, Asked] = {}
        self.outbox = self.reopened()

    def reopened(self) -> DurableOutbox:
        return DurableOutbox(
            self.folder,
            max_count=12,
            max_bytes=1 << 17,
            min_free_bytes=0,
            max_strikes=3,
            clock=lambda: self.now_ns,
            boot="one",
            wall=lambda: None,
        )

    def waiting(self) -> list[str]:
        return [ask_id for ask_id, ask in self.asks.items() if not ask.settled]

    def chosen(self, number: int) -> str:
        """Return one of those that wait; or one that was never seen."""
        waiting = self.waiting()
        return waiting[number % len(waiting)] if waiting else "nobody"

    @rule(
        count=st.integers(0, 8),
        seed=st.integers(0, 2**16),
        broken=st.sampled_from([None, None, None, "pwrite", "fdatasync", "fsync"]),
    )
    def put(self, count: int, seed: int, broken: str | None) -> None:
        rng = np.random.default_rng(seed)
        records = []
        for _ in range(count):
            self.made += 1
            left = int(rng.integers(1, 10**9))
            records.append(
                record(
                    f"{self.made}",
                    body=rng.bytes(int(rng.integers(1, 3000))),
                    score=float(rng.random()),
                    deadline_ns=self.now_ns + left if rng.random() < 0.5 else None,
                    answer_by_ns=1 if rng.random() < 0.5 else None,
                )
            )
        with mock.patch.object(os, broken or "sep", failing(errno.EIO) if broken else "/"):
            placed = self.outbox.put(records)
        for new in records:
            if new.id not in placed.refused:
                self.asks[new.id] = Asked(
                    new.request.body, new.deadline_ns, new.answer_by_ns is None
                )
        assert not set(placed.evicted) - set(self.waiting())
        for ask_id in placed.evicted:
            self.asks[ask_id].settled = True

    @rule(number=st.integers(0, 99), lease=st.integers(1, 50))
    def send(self, number: int, lease: int) -> None:
        self.outbox.sent(self.chosen(number), lease_until_ns=self.now_ns + lease)

    @rule(
        numbers=st.lists(st.integers(0, 99), max_size=5),
        end=st.sampled_from(["answered", "refused"]),
    )
    def settle(self, numbers: list[int], end: End) -> None:
        chosen = {self.chosen(number) for number in numbers}
        self.outbox.settle(dict.fromkeys(chosen, end))
        for ask_id in chosen & self.asks.keys():
            self.asks[ask_id].settled = True

    @rule(number=st.integers(0, 99))
    def final(self, number: int) -> None:
        owed = [ask_id for ask_id, ask in self.asks.items() if not ask.final]
        if owed:
            ask_id = owed[number % len(owed)]
            self.outbox.final([ask_id])
            self.asks[ask_id].final = True

    @rule(left=st.integers(0, 300), lost=st.booleans())
    def time_passes(self, left: int, *, lost: bool) -> None:
        self.now_ns += left * 10**6
        if lost:
            self.outbox.requeue()
        late = self.outbox.expire(now_ns=self.now_ns)
        assert set(late) == {
            ask_id
            for ask_id in self.waiting()
            if (self.asks[ask_id].deadline_ns or self.now_ns + 1) <= self.now_ns
        }
        for ask_id in late:
            self.asks[ask_id].settled = True
        failures = self.outbox.failures()
        assert set(failures.values()) <= {"dead"}
        for ask_id in failures:
            self.asks[ask_id].settled = True

    @rule(kill=st.booleans())
    def restart(self, *, kill: bool) -> None:
        killed(self.outbox) if kill else self.outbox.close()
        for ask in self.asks.values():
            ask.settled = ask.gone
        self.outbox = self.reopened()
        assert {one.id for one in self.outbox.recovered()} == {
            ask_id for ask_id in self.waiting() if not self.asks[ask_id].final
        }

    @invariant()
    def nothing_is_lost_or_invented(self) -> None:
        waiting = self.waiting()
        pending, in_flight, _ = self.outbox.stats()
        assert pending + in_flight == len(waiting)
        for ask_id in waiting:
            found = self.outbox.find(ask_id)
            assert found is not None
            assert found.request.body == self.asks[ask_id].body
        assert self.outbox.counters()["lost"] == 0
        for ask_id in [ask_id for ask_id, ask in self.asks.items() if ask.gone]:
            assert self.outbox.find(ask_id) is None
            del self.asks[ask_id]

    def teardown(self) -> None:
        self.outbox.close()
        shutil.rmtree(self.folder)


Life.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)
test_whatever_happens_an_ask_is_there_until_it_has_ended = Life.TestCase


def test_what_a_refused_newcomer_would_have_pushed_out_stays() -> None:
    """Else its end may be told of and never written: the disk fails, a kill, and it is back."""
    life = Life()
    try:
        life.put(broken=None, count=4, seed=0)
        life.put(broken=None, count=7, seed=1940)
        life.time_passes(left=85, lost=False)
        for count in (1, 2, 1):
            life.put(broken=None, count=count, seed=0)
        life.restart(kill=False)
        life.put(broken="pwrite", count=1, seed=30)
        life.restart(kill=True)
        life.nothing_is_lost_or_invented()
    finally:
        life.teardown()
