"""The engines on disk: only what is whole and asked for comes out again."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedge.models.errors import ModelError
from hedge.runtime.backends.tensorrt.engine_cache import EngineCache, EngineKey, TimingKey
from hedge.runtime.backends.tensorrt.library import Gpu

GPU = Gpu("Orin", (8, 7), 8)
KEY = EngineKey(
    model_sha256="a" * 64,
    tensorrt="10.3.0",
    gpu=GPU,
    precision="int8",
    shapes=((1, 4), (8, 4), (8, 4)),
    calibration_sha256="b" * 64,
)
PLAN = bytes(range(256)) * 8


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines", max_bytes=100_000)


def other(number: int) -> EngineKey:
    return msgspec.structs.replace(KEY, model_sha256=f"{number:064x}")


def test_what_was_stored_comes_out_again(cache: EngineCache) -> None:
    assert cache.load(KEY) is None
    cache.store(KEY, PLAN)
    assert cache.load(KEY) == PLAN
    timing = TimingKey(tensorrt="10.3.0", gpu=GPU)
    cache.store(timing, b"times")
    assert (cache.load(timing), cache.load(KEY)) == (b"times", PLAN)
    assert cache.counts == {"missing": 1, "found": 3}


def test_it_is_ours_alone(cache: EngineCache, tmp_path: Path) -> None:
    cache.store(KEY, PLAN)
    assert stat.S_IMODE((tmp_path / "engines").stat().st_mode) == 0o700
    assert stat.S_IMODE(cache.path(KEY).stat().st_mode) == 0o600
    assert [file.name for file in (tmp_path / "engines").iterdir()] == [cache.path(KEY).name]


@pytest.mark.parametrize(
    "change",
    [
        {"model_sha256": "c" * 64},
        {"tensorrt": "10.3.1"},
        {"gpu": Gpu("Orin", (8, 7), 16)},
        {"gpu": Gpu("Orin", (8, 6), 8)},
        {"gpu": Gpu("Thor", (8, 7), 8)},
        {"precision": "fp16"},
        {"shapes": ((1, 4), (8, 4), (9, 4))},
        {"shapes": ((8, 4),)},
        {"calibration_sha256": "d" * 64},
        {"calibration_sha256": None},
    ],
)
def test_whatever_an_engine_depends_on_makes_it_another(
    cache: EngineCache, change: dict[str, Any]
) -> None:
    cache.store(KEY, PLAN)
    assert cache.load(msgspec.structs.replace(KEY, **change)) is None
    assert cache.load(KEY) == PLAN


def _cut(length: int) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(path.read_bytes()[:length])


def _flip(at: int) -> Callable[[Path], None]:
    def flip(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 0x10
        path.write_bytes(data)

    return flip


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def _give_away(path: Path) -> None:
    os.chown(path, 12345, 12345)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": _cut(0),
    "half a head": _cut(30),
    "head alone": _cut(56),
    "half a key": _cut(90),
    "half a plan": _cut(1000),
    "one byte short": _cut(-1),
    "one byte more": lambda path: path.write_bytes(path.read_bytes() + b"x"),
    "another magic": _flip(0),
    "another version": _flip(8),
    "a longer key": _flip(12),
    "a longer plan": _flip(18),
    "another digest": _flip(30),
    "another key": _flip(70),
    "a flipped bit": _flip(-5),
    "a link": _link,
    "others may write": lambda path: path.chmod(0o620),
    "anyone may write": lambda path: path.chmod(0o602),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_not_as_it_was_written_is_removed_and_not_handed_out(
    cache: EngineCache, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache.store(KEY, PLAN)
    DAMAGE[damage](cache.path(KEY))
    assert cache.load(KEY) is None
    assert not os.path.lexists(cache.path(KEY))
    assert cache.counts == {"removed": 1}
    assert "built anew" in caplog.text
    cache.store(KEY, PLAN)
    assert cache.load(KEY) == PLAN


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_not_handed_out(cache: EngineCache) -> None:
    cache.store(KEY, PLAN)
    _give_away(cache.path(KEY))
    assert cache.load(KEY) is None


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_flipped_bit_goes_unseen(cache: EngineCache, data: st.DataObject) -> None:
    cache.store(KEY, b"plan")
    held = bytearray(cache.path(KEY).read_bytes())
    bit = data.draw(st.integers(0, 8 * len(held) - 1))
    held[bit // 8] ^= 1 << bit % 8
    cache.path(KEY).write_bytes(held)
    assert cache.load(KEY) is None


def test_the_engine_of_another_key_is_not_handed_out_under_this_one(cache: EngineCache) -> None:
    cache.store(other(1), PLAN)
    cache.path(other(1)).rename(cache.path(KEY))
    assert cache.load(KEY) is None
    assert not cache.path(KEY).exists()


def test_a_folder_in_the_place_of_an_engine_is_no_engine(cache: EngineCache) -> None:
    cache.path(KEY).mkdir()
    assert cache.load(KEY) is None


def test_the_longest_unused_go_where_there_is_no_room(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, max_bytes=8000)
    for number in range(3):
        cache.store(other(number), PLAN)
        os.utime(cache.path(other(number)), ns=(number, number))
    assert cache.load(other(0)) == PLAN  # used just now
    cache.store(other(3), PLAN)
    assert [cache.load(other(number)) is not None for number in range(4)] == [1, 0, 1, 1]
    assert cache.counts["evicted"] == 1
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) <= 8000


def test_the_newest_stays_though_the_clock_has_been_set_back(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, max_bytes=5500)
    for number in range(2):
        cache.store(other(number), PLAN)
        os.utime(cache.path(other(number)), (1 << 33, 1 << 33))
    cache.store(other(2), PLAN)
    assert cache.load(other(2)) == PLAN


def test_an_engine_larger_than_the_cache_is_refused_with_both_sizes(cache: EngineCache) -> None:
    with pytest.raises(ModelError, match=r"^\S+\.engine: 100\d{3} bytes, and all .* have 100000"):
        cache.store(KEY, bytes(100_000))
    assert cache.load(KEY) is None


def test_a_folder_that_cannot_be_made_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="engines cannot be kept: Not a directory"):
        EngineCache(tmp_path / "file" / "engines")


_STORE = """
import os, resource, signal, sys
from pathlib import Path
from hedge.models.errors import ModelError
from hedge.runtime.backends.tensorrt.engine_cache import EngineCache, EngineKey
import msgspec
cache = EngineCache(Path(sys.argv[1]))
key = msgspec.json.decode(sys.argv[2], type=EngineKey)
"""


def _child(
    code: str, folder: Path, *, stdin: int | None = None, stdout: int | None = None
) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _STORE + code, str(folder), msgspec.json.encode(KEY).decode()]
    return subprocess.Popen(command, cwd="/", stdin=stdin, stdout=stdout)


def test_a_process_that_is_killed_half_way_leaves_nothing_that_is_taken_for_an_engine(
    tmp_path: Path,
) -> None:
    killed = _child(
        "os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)\n"
        "cache.store(key, bytes(100_000))",
        tmp_path,
    )
    assert killed.wait(60) == -9
    (part,) = tmp_path.iterdir()
    assert part.stat().st_size > 50_000
    cache = EngineCache(tmp_path)
    assert cache.load(KEY) is None
    assert part.exists()  # it may be somebody's who has only just begun
    os.utime(part, (1, 1))
    EngineCache(tmp_path)
    assert not part.exists()


def test_what_somebody_is_still_writing_is_left_alone(tmp_path: Path) -> None:
    writing = _child(
        "sync = os.fsync\n"
        "def wait(descriptor):\n"
        "    os.utime(descriptor, (1, 1)); print('half', flush=True); sys.stdin.read()\n"
        "    sync(descriptor)\n"
        "os.fsync = wait\n"
        "cache.store(key, b'plan')",
        tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with writing:
        assert writing.stdout is not None
        assert writing.stdout.readline() == b"half\n"
        cache = EngineCache(tmp_path)
        assert len(list(tmp_path.glob(".*.part"))) == 1
        assert writing.stdin is not None
        writing.stdin.close()
        assert writing.wait(60) == 0
    assert cache.load(KEY) == b"plan"


def test_a_full_disk_leaves_the_cache_as_it_was(tmp_path: Path) -> None:
    EngineCache(tmp_path).store(KEY, PLAN)
    full = _child(
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))\n"
        "try:\n"
        "    cache.store(key, bytes(5000))\n"
        "except ModelError as error:\n"
        "    print(error)",
        tmp_path,
        stdout=subprocess.PIPE,
    )
    said, _ = full.communicate(timeout=60)
    assert b"not kept: File too large" in said
    assert EngineCache(tmp_path).load(KEY) == PLAN
    assert len(list(tmp_path.iterdir())) == 1


def test_processes_that_store_and_load_at_once_never_see_half_an_engine(tmp_path: Path) -> None:
    storing = [
        _child(f"for _ in range(150): cache.store(key, bytes([{number}]) * 50_000)", tmp_path)
        for number in range(2)
    ]
    cache, seen = EngineCache(tmp_path), set()
    while any(process.poll() is None for process in storing):
        plan = cache.load(KEY)
        if plan is not None:
            assert len(plan) == 50_000
            assert len(set(plan)) == 1
            seen.add(plan[0])
    assert [process.wait() for process in storing] == [0, 0]
    assert cache.counts["removed"] == 0
    assert seen <= {0, 1}
    assert len(list(tmp_path.iterdir())) == 1


@pytest.fixture
def builder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that builds until its input ends."""
    code = "with cache.building(waits=lambda: None): print('builds', flush=True); sys.stdin.read()"
    with _child(code, tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"builds\n"
        yield process
        process.kill()


def test_only_one_process_builds_and_the_other_says_that_it_waits(
    tmp_path: Path, builder: subprocess.Popen[bytes]
) -> None:
    told, built = threading.Event(), threading.Event()

    def build() -> None:
        with EngineCache(tmp_path).building(waits=told.set):
            built.set()

    waiting = threading.Thread(target=build)
    waiting.start()
    assert told.wait(30)
    time.sleep(0.05)
    assert not built.is_set()
    builder.kill()  # the lock goes with the process
    waiting.join(30)
    assert built.is_set()


def test_nobody_waits_where_nobody_builds(cache: EngineCache) -> None:
    told: list[bool] = []
    with cache.building(waits=lambda: told.append(True)):
        pass
    assert not told
