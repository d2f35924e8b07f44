"""The nearest keys: those that a comparison with every key finds, whatever the keys are."""

from __future__ import annotations

from collections.abc import Iterator
from math import fsum, inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from hedge.models.errors import DataError
from hedge.runtime.filters import nearest as module
from hedge.runtime.filters.nearest import Key, Near, Nearest

SEED = 20281
KINDS = (
    "all over",
    "heaps",
    "grid",
    "all sizes",
    "outliers",
    "tiny",
    "far from zero",
    "sparse",
    "the same",
    "two scales",
)


def _drawn(rng: np.random.Generator, kind: str, rows: int, width: int) -> Key:
    """Draw keys (rows, width) of a kind."""
    found = rng.normal(size=(rows, width))
    match kind:
        case "heaps":
            middles = 5 * rng.normal(size=(7, width))
            found = middles[rng.integers(0, 7, rows)] + 0.1 * found
        case "grid":  # many are equally far
            found = rng.integers(-1, 2, (rows, width)).astype(np.float64)
        case "all sizes":
            found *= 10.0 ** rng.uniform(-20, 9, (rows, 1))
        case "outliers":
            found[rng.random(rows) < 0.1] *= 1e6
        case "tiny":
            found *= 1e-20
        case "far from zero":
            found += 1e4
        case "sparse":
            found[rng.random((rows, width)) < 0.9] = 0
        case "the same":
            found = found[rng.integers(0, min(4, rows), rows)]
        case "two scales":
            found *= rng.choice([1.0, 30.0], (rows, 1))
    return found.astype(np.float32)


def _brute(keys: Key, age: NDArray[np.int64], key: Key, k: int) -> tuple[list[int], list[float]]:
    """Return the slots and distances of the k nearest: every key is compared, in float64."""
    distances = np.abs(keys.astype(np.float64) - key.astype(np.float64)).sum(axis=1)
    order = np.lexsort((age, distances))[:k]
    return order.tolist(), distances[order].tolist()


def _filled(keys: Key, *, age: NDArray[np.int64] | None = None, spare: int = 0) -> Nearest:
    nearest = Nearest(width=keys.shape[1], most=len(keys) + spare)
    ages = range(len(keys)) if age is None else age.tolist()
    for slot, (key, one) in enumerate(zip(keys, ages, strict=True)):
        nearest.put(slot, key, age=one)
    return nearest


def _same(found: Near | None, slots: list[int], distances: list[float]) -> bool:
    return (
        found is not None
        and found.slots.tolist() == slots
        and found.distances.tolist() == distances
    )


def _asked(rng: np.random.Generator, keys: Key, kind: str) -> Iterator[Key]:
    """Draw samples of the same kind, a key itself, one beside it, and some that are far away."""
    yield from _drawn(rng, kind, 3, keys.shape[1])
    yield keys[0]
    yield np.nextafter(keys[-1], np.float32(1e9))
    yield keys[-1] * np.float32(1e6)
    yield np.full(keys.shape[1], -1e12, np.float32)
    yield np.zeros(keys.shape[1], np.float32)


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    kind=st.sampled_from(KINDS),
    rows=st.integers(1, 300),
    width=st.one_of(st.integers(1, 40), st.sampled_from([200, 511, 512, 513])),
    k=st.integers(1, 40),
)
def test_the_nearest_keys_are_those_that_a_comparison_with_every_key_finds(
    seed: int, kind: str, rows: int, width: int, k: int
) -> None:
    rng = np.random.default_rng(seed)
    keys = _drawn(rng, kind, rows, width)
    nearest = _filled(keys, age=rng.permutation(rows), spare=3)
    for key in _asked(rng, keys, kind):
        found = nearest.find(key, k=k)
        if rows < k:
            assert found is None
        else:
            assert _same(found, *_brute(keys, nearest.age[:rows], key, k))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("rows", "width"), [(2500, 24), (1100, 130), (300, 2000)])
def test_many_keys_and_wide_ones_are_compared_no_less_exactly(
    kind: str, rows: int, width: int
) -> None:
    rng = np.random.default_rng(SEED)
    keys = _drawn(rng, kind, rows, width)
    nearest = _filled(keys)
    for key in _asked(rng, keys, kind):
        assert _same(nearest.find(key, k=5), *_brute(keys, nearest.age, key, 5))


def test_a_distance_is_that_of_sums_without_rounding() -> None:
    rng = np.random.default_rng(SEED)
    keys, key = _drawn(rng, "all sizes", 50, 7), _drawn(rng, "all sizes", 1, 7)[0]
    found = _filled(keys).find(key, k=50)
    assert found is not None
    exact = sorted(
        fsum(abs(float(a) - float(b)) for a, b in zip(one, key, strict=True)) for one in keys
    )
    assert found.distances == pytest.approx(exact, rel=1e-14)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32), kind=st.sampled_from(KINDS), width=st.sampled_from([1, 6, 64, 600])
)
def test_keys_that_are_put_over_taken_away_and_put_again_are_found_as_they_are(
    seed: int, kind: str, width: int
) -> None:
    rng = np.random.default_rng(seed)
    most = 60
    nearest = Nearest(width=width, most=most)
    held: list[tuple[int, Key]] = []  # age and key of each slot
    for age in range(200):
        kind = kind if age < 100 else str(rng.choice(KINDS))  # the stream changes
        pool = _drawn(rng, kind, 1, width)
        key = held[rng.integers(len(held))][1] if held and rng.random() < 0.3 else pool[0]
        if held and rng.random() < 0.3:
            slot = int(rng.integers(len(held)))
            assert nearest.remove(slot) == len(held) - 1
            held[slot] = held[-1]
            held.pop()
        slot = len(held) if len(held) < most else int(rng.integers(most))
        held[slot : slot + 1] = [(age, key)]
        nearest.put(slot, key, age=age)
        assert nearest.count == len(held)
        if age % 10 == 9:
            keys = np.array([one for _, one in held])
            ages = np.array([one for one, _ in held])
            k = int(rng.integers(1, 8))
            for asked in (pool[0], keys[0]):
                found = nearest.find(asked, k=k)
                if len(held) < k:
                    assert found is None
                else:
                    assert _same(found, *_brute(keys, ages, asked, k))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_too_far_is_none_and_nothing_near_enough_is_missed(kind: str) -> None:
    rng = np.random.default_rng(SEED)
    keys = _drawn(rng, kind, 500, 32)
    nearest = _filled(keys)
    for key in _asked(rng, keys, kind):
        slots, distances = _brute(keys, nearest.age, key, 5)
        mean = sum(distances) / 5
        for share in (0.5, 0.99, 1.01, 2.0):
            found = nearest.find(key, k=5, within=share * mean)
            if share < 1 and mean > 0:
                assert found is None
            else:
                assert _same(found, slots, distances)


def test_of_more_of_the_same_keys_than_are_asked_for_the_oldest_are_found() -> None:
    rng = np.random.default_rng(SEED)
    keys = np.repeat(_drawn(rng, "all over", 3, 20), 200, axis=0)
    age = rng.permutation(600)
    nearest = _filled(keys, age=age)
    for slot in (0, 250, 599, 301):
        assert nearest.find(keys[slot], k=7) is not None
        found = nearest.find(keys[slot] + np.float32(0.01), k=7)
        same = np.arange(200) + slot // 200 * 200
        assert found is not None
        assert found.slots.tolist() == same[np.argsort(age[same])][:7].tolist()


def test_keys_whose_marks_are_the_same_by_chance_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "hash", lambda _: 12, raising=False)
    keys = np.repeat(np.array([[1, 0.5], [-1, 0.5]], np.float32), 100, axis=0)
    found = _filled(keys).find(np.array([-1e-6, 0.25], np.float32), k=4)
    assert found is not None
    assert found.slots.tolist() == [100, 101, 102, 103]


def test_a_key_far_out_does_not_make_the_steps_of_the_others_coarse() -> None:
    rng = np.random.default_rng(SEED)
    keys = _drawn(rng, "all over", 1000, 100)
    keys[::100] *= 1e6
    nearest = _filled(keys)
    left = [len(nearest._by_steps(key.astype(np.float64), k=5, within=inf)) for key in keys]
    assert np.median(left) < 50
    assert np.median(left[1:99]) < 20


@pytest.mark.parametrize("width", [1, 200, 513])
@pytest.mark.parametrize("size_bytes", [1 << 12, 1 << 16, 1 << 20, 1 << 23])
def test_what_fits_takes_no_more_than_there_is(width: int, size_bytes: int) -> None:
    most = Nearest.most_in(size_bytes, width=width)
    nearest = Nearest(width=width, most=most)
    arrays = [one for one in vars(nearest).values() if isinstance(one, np.ndarray)]
    taken = sum(one.nbytes for one in [*arrays, *nearest._steps] if one.shape != (width,))
    assert 0.9 * size_bytes - 30 * width < taken <= size_bytes


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_a_key_that_is_not_finite_is_refused(value: float) -> None:
    nearest = Nearest(width=3, most=4)
    key = np.array([1, value, 0], np.float32)
    with np.errstate(all="ignore"):  # as the loop has it
        with pytest.raises(DataError, match="not finite"):
            nearest.put(0, key, age=0)
        with pytest.raises(DataError, match="not finite"):
            nearest.find(key, k=1)
    assert nearest.count == 0
