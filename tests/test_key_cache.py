"""What a reuse filter knows: the nearest keys, the vote among them, and which keys it keeps."""

from __future__ import annotations

import logging
import math
import os
import tracemalloc
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from hedge.models.errors import BundleError, DataError
from hedge.models.manifest import Reuse
from hedge.runtime.filters.kept_caches import KeptCaches
from hedge.runtime.filters.key_cache import KeyCache, Vote
from hedge.runtime.filters.nearest import Key

SEED = 20281
_S = 10**9


class Clock:
    """Stands until it is set."""

    now_ns = 5 * _S

    def __call__(self) -> int:
        return self.now_ns


def _cache(clock: Clock, **options: Any) -> KeyCache:  # noqa: ANN401 -- those of Reuse
    given = {"width": 4, "distance": 1.0, "neighbours": 3, "capacity_bytes": 1 << 14, **options}
    return KeyCache(msgspec.convert(given, Reuse), classes=3, clock=clock)


def _key(place: float) -> Key:
    return np.array([place, 0, 0, 0], np.float32)


def _probs(label: int, sure: float = 0.8) -> NDArray[np.float32]:
    rest = (1 - sure) / 2
    return np.array([sure if one == label else rest for one in range(3)], np.float32)


def _fill(cache: KeyCache, *places: tuple[float, int]) -> None:
    for number, (place, label) in enumerate(places):
        cache.insert(_key(place), _probs(label), sample_id=f"1-{number}")


def test_it_answers_as_soon_as_there_are_enough_keys_and_not_before() -> None:
    cache = _cache(Clock())
    for number, place in enumerate((0.0, 0.25, -0.25)):
        assert cache.find(_key(0)) is None
        cache.insert(_key(place), _probs(2), sample_id=f"1-{number}")
    vote = cache.find(_key(0.125))
    assert vote is not None
    assert (vote.label, vote.nearest) == (2, "1-0")


def test_the_answer_is_the_mean_of_those_who_voted_for_it_and_names_the_nearest_of_them() -> None:
    cache = _cache(Clock(), share=0.6)
    _fill(cache, (0.1, 0), (0.2, 1))
    cache.insert(_key(0.4), _probs(1, 0.6), sample_id="1-2")
    vote = cache.find(_key(0))
    assert vote is not None
    assert (vote.label, vote.nearest) == (1, "1-1")
    assert vote.probs == pytest.approx([0.15, 0.7, 0.15])


def test_too_small_a_majority_and_too_great_a_distance_are_no_answer() -> None:
    split = (0.1, 0), (0.2, 1), (0.3, 1)
    for share, answered in ((0.6, True), (2 / 3, True), (0.7, False), (1.0, False)):
        cache = _cache(Clock(), share=share)
        _fill(cache, *split)
        assert (cache.find(_key(0)) is not None) == answered, share
    for distance, answered in ((0.21, True), (0.19, False)):
        cache = _cache(Clock(), share=0.5, distance=distance)
        _fill(cache, *split)
        assert (cache.find(_key(0)) is not None) == answered, distance


def test_of_labels_with_as_many_votes_that_of_the_nearest_key_wins() -> None:
    cache = _cache(Clock(), neighbours=4, share=0.5)
    _fill(cache, (0.4, 0), (0.3, 1), (0.2, 2), (0.1, 1), (0.15, 2))
    _fill(cache, (9.0, 0))
    vote = cache.find(_key(0))
    assert vote is not None
    assert vote.label == 1
    assert vote.nearest == "1-3"


def test_of_keys_as_far_away_the_older_ones_vote() -> None:
    cache = _cache(Clock(), neighbours=2, share=1.0)
    _fill(cache, (0.5, 1), (-0.5, 1), (0.5, 0), (-0.5, 0))
    vote = cache.find(_key(0))
    assert vote is not None
    assert (vote.label, vote.nearest) == (1, "1-0")


def test_keys_grow_too_old_by_the_clock() -> None:
    clock = Clock()
    cache = _cache(clock, ttl_s=10, neighbours=1)
    for second in range(5):
        clock.now_ns = (5 + second) * _S
        cache.insert(_key(second), _probs(second % 3), sample_id=f"1-{second}")
    clock.now_ns = 15 * _S
    assert cache.find(_key(0)) is not None
    clock.now_ns = 17 * _S + 1
    assert (cache.find(_key(0)), len(cache), cache.expired) == (None, 2, 3)
    vote = cache.find(_key(3))
    assert vote is not None
    assert vote.nearest == "1-3"
    clock.now_ns = 60 * _S
    assert (cache.find(_key(3)), len(cache), cache.expired) == (None, 0, 5)


def test_the_least_used_key_gives_way_and_of_those_the_one_used_longest_ago() -> None:
    cache = _cache(Clock(), capacity_bytes=4096, neighbours=1, distance=0.1)
    _fill(cache, *((float(number), number % 3) for number in range(cache.most)))
    for place in (0, 1, 2, 4, 2):
        assert cache.find(_key(place)) is not None
    used = {0, 1, 2, 4}
    cache.insert(_key(1000), _probs(0), sample_id="2-0")
    assert cache.find(_key(3)) is None, "the oldest of those that were never used"
    assert (len(cache), cache.evicted) == (cache.most, 1)
    for number in range(cache.most - len(used)):
        cache.insert(_key(2000 + number), _probs(0), sample_id=f"3-{number}")
    assert all(cache.find(_key(place)) is not None for place in used)


def test_a_stream_that_has_changed_is_learnt_though_all_old_keys_were_used() -> None:
    cache = _cache(Clock(), capacity_bytes=4096, neighbours=3, distance=0.1)
    _fill(cache, *((float(number % 4), 0) for number in range(cache.most)))
    for place in (0, 1, 2, 3):
        for _ in range(20):
            assert cache.find(_key(place)) is not None
    hits = []
    for number in range(10 * cache.most):
        key = _key(1000 + number % 4)
        hits.append(cache.find(key) is not None)
        if not hits[-1]:
            cache.insert(key, _probs(1), sample_id=f"2-{number}")
    assert all(hits[7 * cache.most :])


def test_its_capacity_bounds_its_memory_and_nothing_grows_with_its_use() -> None:
    rng = np.random.default_rng(SEED)
    middles = 5 * rng.normal(size=(7, 64))
    heaps = middles[rng.integers(0, 7, 4000)] + 0.1 * rng.normal(size=(4000, 64))
    keys = heaps.astype(np.float32)
    ids = [f"1-{number}" for number in range(len(keys))]
    probs = [_probs(number % 3) for number in range(3)]
    tracemalloc.start()
    try:
        cache = _cache(Clock(), width=64, capacity_bytes=1 << 18, distance=8.0, ttl_s=1e6)
        for number, key in enumerate(keys[:2000]):
            cache.find(key)
            cache.insert(key, probs[number % 3], sample_id=ids[number])
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        for number, key in enumerate(keys[2000:]):
            cache.find(key)
            cache.insert(key, probs[number % 3], sample_id=ids[number])
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held <= 1 << 18
    assert after - held < 2000
    assert peak - held < 1 << 17
    assert cache.most > 350


def test_a_capacity_below_one_vote_is_refused() -> None:
    with pytest.raises(BundleError, match="4096 bytes are 0 keys, fewer than the 3 neighbours"):
        _cache(Clock(), width=4000, capacity_bytes=4096)


def _filled(clock: Clock, **options: Any) -> KeyCache:  # noqa: ANN401 -- those of Reuse
    cache = _cache(clock, **options)
    for second, label in enumerate((0, 1, 2, 1, 0)):
        clock.now_ns = (5 + second) * _S
        cache.insert(_key(second), _probs(label), sample_id=f"7-{second}")
    return cache


def test_what_is_kept_answers_after_a_restart_and_ages_on(tmp_path: Path) -> None:
    clock = Clock()
    options: dict[str, Any] = {"neighbours": 1, "ttl_s": 60, "distance": 0.5}
    before = _filled(clock, **options)
    KeptCaches(tmp_path / "filters", unix_s=lambda: 1000.0).write("cam", before, of="x")
    again = Clock()
    again.now_ns = 3
    cache = _cache(again, **options)
    kept = KeptCaches(tmp_path / "filters", unix_s=lambda: 1057.0)
    kept.read("cam", cache, of="x")
    assert kept.counters() == {}
    assert len(cache) == 5
    vote = cache.find(_key(3.25))
    assert isinstance(vote, Vote)
    assert (vote.label, vote.nearest) == (1, "7-3")
    assert cache.find(_key(0)) is None, "it is 61 seconds old"
    assert (tmp_path / "filters" / "cam.cache").stat().st_mode & 0o777 == 0o600


def test_what_is_kept_of_a_cache_is_all_of_it(tmp_path: Path) -> None:
    clock = Clock()
    before = _filled(clock, neighbours=2)
    before.find(_key(1.5))
    kept = KeptCaches(tmp_path, unix_s=lambda: 0.0)
    kept.write("cam", before, of="x")
    after = _cache(clock, neighbours=2)
    kept.read("cam", after, of="x")
    found = after.contents()
    assert found == msgspec.structs.replace(before.contents(), used=found.used)
    assert np.argsort(found.used).tolist() == np.argsort(before.contents().used).tolist()


def _spoil(file: Path, how: str) -> None:
    data = bytearray(file.read_bytes())
    match how:
        case "cut off":
            file.write_bytes(data[: len(data) // 2])
        case "empty":
            file.write_bytes(b"")
        case "a bit":
            data[len(data) // 2] ^= 4
            file.write_bytes(data)
        case "noise":
            file.write_bytes(np.random.default_rng(SEED).bytes(len(data)))
        case "too large":
            os.truncate(file, 1 << 30)
        case "a folder":
            file.unlink()
            file.mkdir()


@pytest.mark.parametrize("how", ["cut off", "empty", "a bit", "noise", "too large", "a folder"])
def test_a_file_that_is_spoilt_is_an_empty_cache_and_one_counted_warning(
    how: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock()
    kept = KeptCaches(tmp_path)
    kept.write("cam", _filled(clock), of="x")
    _spoil(tmp_path / "cam.cache", how)
    cache = _cache(clock)
    with caplog.at_level(logging.WARNING):
        kept.read("cam", cache, of="x")
    assert (len(cache), kept.counters()) == (0, {"filter_caches_refused": 1})
    assert len(caplog.records) == 1
    assert "the cache begins empty" in caplog.text


def test_a_file_of_another_bundle_or_shape_or_of_a_time_to_come_is_refused(tmp_path: Path) -> None:
    clock = Clock()
    cases: list[tuple[str, dict[str, Any], float]] = [
        ("y", {}, 2000.0),
        ("x", {"width": 5}, 2000.0),
        ("x", {"ttl_s": 60}, 999.0),
    ]
    for number, (of, options, now_s) in enumerate(cases, 1):
        KeptCaches(tmp_path, unix_s=lambda: 1000.0).write("cam", _filled(clock), of="x")
        kept = KeptCaches(tmp_path, unix_s=lambda now_s=now_s: now_s)  # type: ignore[misc]
        cache = _cache(clock, **options)
        kept.read("cam", cache, of=of)
        assert (len(cache), kept.counters()) == (0, {"filter_caches_refused": 1}), number


@pytest.mark.parametrize("ttl_s", [None, 60])
@pytest.mark.parametrize("at_s", [math.nan, math.inf, -math.inf])
def test_a_file_of_no_time_is_refused_though_its_checksum_fits(
    at_s: float, ttl_s: float | None, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"ttl_s": ttl_s}
    KeptCaches(tmp_path, unix_s=lambda: at_s).write("cam", _filled(Clock(), **options), of="x")
    kept = KeptCaches(tmp_path, unix_s=lambda: 1000.0)
    cache = _cache(Clock(), **options)
    kept.read("cam", cache, of="x")
    assert (len(cache), kept.counters()) == (0, {"filter_caches_refused": 1})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read any file")
def test_a_file_that_may_not_be_read_is_an_empty_cache(tmp_path: Path) -> None:
    kept = KeptCaches(tmp_path)
    kept.write("cam", _filled(Clock()), of="x")
    (tmp_path / "cam.cache").chmod(0)
    cache = _cache(Clock())
    kept.read("cam", cache, of="x")
    assert (len(cache), kept.counters()) == (0, {"filter_caches_refused": 1})


def test_contents_that_contradict_themselves_are_refused_whole() -> None:
    clock = Clock()
    good = _filled(clock).contents()
    bad: list[dict[str, Any]] = [
        {"keys": good.keys[:-4]},
        {"probs": good.probs + b"1234"},
        {"ids": good.ids[:-1]},
        {"uses": (*good.uses[:-1], -1)},
        {"ages_ns": (*good.ages_ns[:-1], 1 << 62)},
        {"ids": (*good.ids[:-1], "x" * 1000)},
        {"keys": np.full(20, np.nan, np.float32).tobytes()},
        {"probs": np.full(15, 7, np.float32).tobytes()},
    ]
    for change in bad:
        cache = _cache(clock)
        with pytest.raises(DataError):
            cache.restore(msgspec.structs.replace(good, **change), away_ns=0)
        assert len(cache) == 0


def test_a_disk_that_does_not_take_it_is_counted(tmp_path: Path) -> None:
    (tmp_path / "filters").write_text("in the way")
    kept = KeptCaches(tmp_path / "filters")
    kept.write("cam", _filled(Clock()), of="x")
    assert kept.counters() == {"filter_caches_unwritten": 1}
