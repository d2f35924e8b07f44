"""Tests of reading data sets."""

from __future__ import annotations

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hedge.models.dataset import (
    Dataset,
    digest,
    is_seen,
    load_dataset,
    read_seen,
    row_digests,
    save_seen,
)
from hedge.models.errors import DataError

X = np.arange(24, dtype=np.float32).reshape(6, 2, 2) - 5
Y = np.array([2, 0, 1, 1, 0, 2], np.uint8)


def saved(tmp_path: Path, **arrays: Any) -> Path:  # noqa: ANN401  arrays right and wrong
    path = tmp_path / "d.npz"
    np.savez(path, **arrays)
    return path


def test_all_arrays_are_read_and_others_are_ignored(tmp_path: Path) -> None:
    path = saved(
        tmp_path,
        X=X,
        y=Y,
        group=np.array(["a", "b", "c", "c", "b", "a"]),
        time=np.linspace(0, 1, 6),
        labels=np.array(["u", "v", "w"]),
        channels=np.array(["left"]),
    )
    data = load_dataset(path)
    np.testing.assert_array_equal(data.x, X)
    assert data.y is not None
    assert data.y.dtype == np.int64
    np.testing.assert_array_equal(data.y, Y)
    assert data.group is not None
    assert data.group.tolist() == ["a", "b", "c", "c", "b", "a"]
    assert data.time is not None
    assert data.time[-1] == 1.0
    assert data.labels == ("u", "v", "w")


def test_x_alone_is_a_data_set(tmp_path: Path) -> None:
    data = load_dataset(saved(tmp_path, X=X))
    assert (data.y, data.group, data.time, data.labels) == (None, None, None, None)


def test_subject_and_label_names_are_other_words(tmp_path: Path) -> None:
    names = np.array(["u", "v", "w"])
    data = load_dataset(saved(tmp_path, X=X, subject=Y, label_names=names))
    assert data.group is not None
    assert data.group.tolist() == Y.tolist()
    assert data.labels == ("u", "v", "w")


def test_foreign_byte_order_becomes_native(tmp_path: Path) -> None:
    data = load_dataset(saved(tmp_path, X=X.astype(">f4")))
    assert data.x.dtype == np.dtype(np.float32)
    np.testing.assert_array_equal(data.x, X)


def test_a_folder_with_one_npz_is_that_npz(tmp_path: Path) -> None:
    saved(tmp_path, X=X)
    (tmp_path / "DATASET.md").write_text("words")
    assert len(load_dataset(tmp_path).x) == 6


def test_a_folder_with_two_npz_names_them(tmp_path: Path) -> None:
    saved(tmp_path, X=X).rename(tmp_path / "a.npz")
    saved(tmp_path, X=X)
    with pytest.raises(DataError, match=r"2 data sets: a\.npz, d\.npz \(name one\)"):
        load_dataset(tmp_path)


def test_a_folder_without_npz_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no \.npz in this folder"):
        load_dataset(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"y": Y}, "no array X"),
        ({"X": X[:, 0, 0]}, r"X \(6,\) should be \(rows, \*sample shape\)"),
        ({"X": X[:0]}, r"X \(0, 2, 2\) should be"),
        ({"X": X > 0}, "X is bool, not integers or floats"),
        ({"X": X.astype(complex)}, "X is complex128"),
        ({"X": X.astype(object)}, "X cannot be read: Object arrays cannot be loaded"),
        ({"X": np.where(X == 3, np.nan, X)}, "X has NaN or Inf in 1 of 6 rows, first row 2"),
        ({"X": np.where(X > 10, np.inf, X)}, "X has NaN or Inf in 2 of 6 rows, first row 4"),
        ({"X": X, "y": Y[:5]}, r"y \(5,\) does not match the 6 rows of X"),
        ({"X": X, "y": Y[:, None]}, r"y \(6, 1\) does not match"),
        ({"X": X, "y": Y.astype(float)}, "y is float64, not integers"),
        ({"X": X, "y": Y.astype(object)}, "y cannot be read: Object arrays"),
        ({"X": X, "y": Y.astype(np.int8) - 1}, "y runs from -1 to 1, and class numbers from 0 "),
        ({"X": X, "y": Y, "labels": np.array(["u", "v"])}, "y runs from 0 to 2, .* from 0 to 1"),
        ({"X": X, "y": Y.astype(np.uint64) + 2**63}, "y runs from 9223372036854775808"),
        ({"X": X, "group": Y[:3]}, r"group \(3,\) does not match"),
        ({"X": X, "group": Y / 2}, "group is float64, not integers or strings"),
        ({"X": X, "time": Y[:3]}, r"time \(3,\) does not match"),
        ({"X": X, "time": np.full(6, np.nan)}, "time has NaN or Inf"),
        ({"X": X, "labels": Y}, r"labels is uint8 \(6,\), not a list of names .*into y"),
        ({"X": X, "labels": np.array(["u", "u"])}, "labels has a name twice"),
    ],
)
def test_wrong_arrays_are_refused_by_file_and_name(
    tmp_path: Path, arrays: dict[str, Any], message: str
) -> None:
    path = saved(tmp_path, **arrays)
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(path)
    assert caught.value.where == str(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"absent\.npz: no such file"):
        load_dataset(tmp_path / "absent.npz")


def test_an_npy_is_not_taken_for_an_npz(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X)
    with pytest.raises(DataError, match=r"x\.npy: not an \.npz"):
        load_dataset(path)


@pytest.mark.parametrize("kept", [0, 1, 30, 200, 500])
def test_a_truncated_file_is_refused_by_name(tmp_path: Path, kept: int) -> None:
    path = saved(tmp_path, X=X, y=Y)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"d\.npz: not an \.npz, or cut short"):
        load_dataset(path)


def test_a_member_that_claims_more_than_it_holds_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "d.npz"
    np.save(tmp_path / "X.npy", X)
    short = (tmp_path / "X.npy").read_bytes()[:-8]
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("X.npy", short)
    with pytest.raises(DataError, match=r"d\.npz: X cannot be read"):
        load_dataset(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_damaged_file_raises_nothing_but_our_error(
    tmp_path: Path, changes: list[tuple[int, int]]
) -> None:
    path = saved(tmp_path, X=X, y=Y, labels=np.array(["u", "v", "w"]))
    data = bytearray(path.read_bytes())
    for place, value in changes:
        data[place % len(data)] = value
    path.write_bytes(data)
    try:
        load_dataset(path)
    except DataError as error:
        assert error.where == str(path)  # noqa: PT017  it may also be read


def test_a_rows_digest_is_blake2b_of_its_little_endian_float32() -> None:
    expected = [
        int.from_bytes(
            hashlib.blake2b(row.astype("<f4").tobytes(), digest_size=8).digest(), "little"
        )
        for row in X
    ]
    digests = row_digests(X)
    assert digests.dtype == np.uint64
    assert digests.tolist() == expected


@pytest.mark.parametrize("dtype", ["int8", "int16", "float16", "float32", "float64", ">f4", ">i2"])
def test_equal_values_have_equal_digests_in_any_dtype(dtype: str) -> None:
    np.testing.assert_array_equal(row_digests(X.astype(dtype)), row_digests(X))


def test_digests_see_values_and_not_memory_layout_or_the_sign_of_zero() -> None:
    np.testing.assert_array_equal(row_digests(np.asfortranarray(X)), row_digests(X))
    np.testing.assert_array_equal(row_digests(-np.zeros((1, 3))), row_digests(np.zeros((1, 3))))
    changed = X.copy()
    changed[4, 1, 0] += 0.5
    assert np.flatnonzero(row_digests(changed) != row_digests(X)).tolist() == [4]


def test_values_beyond_float32_have_a_digest_without_a_warning() -> None:
    assert row_digests(np.array([[1e300], [-1e300]])).tolist() != [0, 0]


def test_no_rows_have_no_digests() -> None:
    assert row_digests(X[:0]).shape == (0,)


def test_seen_rows_are_found_again_after_a_way_through_a_file() -> None:
    seen = read_seen(save_seen(row_digests(X[[3, 1, 3]])), where="seen.npy")
    assert seen.shape == (2,)
    assert is_seen(X, seen).tolist() == [False, True, False, True, False, False]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([1, 2], np.int64), "one-dimensional .npy of uint64"),
        (np.array([[1, 2]], np.uint64), "one-dimensional .npy of uint64"),
        (np.array([2, 1], np.uint64), "not sorted and unique"),
        (np.array([1, 1], np.uint64), "not sorted and unique"),
    ],
)
def test_a_wrong_list_of_seen_rows_is_refused(
    tmp_path: Path, array: np.ndarray[Any, Any], message: str
) -> None:
    np.save(tmp_path / "s.npy", array)
    with pytest.raises(DataError, match=rf"^seen\.npy: .*{message}"):
        read_seen((tmp_path / "s.npy").read_bytes(), where="seen.npy")


@pytest.mark.parametrize("data", [b"", b"\x93NUMPY", b"PK\x05\x06" + b"\0" * 18, b"\x80\x04N."])
def test_seen_rows_are_never_unpickled_or_guessed(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^seen\.npy: "):
        read_seen(data, where="seen.npy")


def test_a_data_sets_digest_ignores_how_it_was_stored() -> None:
    y, group = Y.astype(np.int64), np.array(["a", "bb", "a", "a", "a", "a"])
    one = Dataset(x=X, y=y, group=group)
    two = Dataset(x=np.asfortranarray(X.astype(">f4")), y=y, group=group.astype("<U9"))
    assert digest(one) == digest(two)
    assert len(digest(one)) == 64


@pytest.mark.parametrize("name", ["x", "y", "group"])
def test_a_data_sets_digest_changes_with_each_array(name: str) -> None:
    arrays: dict[str, Any] = {"x": X, "y": Y.astype(np.int64), "group": Y.astype(np.int64)}
    before = digest(Dataset(**arrays))
    without = digest(Dataset(**{**arrays, name: None})) if name != "x" else ""
    arrays[name] = arrays[name].copy()
    arrays[name].flat[2] += 1
    assert len({before, without, digest(Dataset(**arrays))}) == 3


@pytest.mark.parametrize(
    ("name", "shape", "labels"),
    [("har_windows", (7415, 9, 128), 6), ("kws12", (500, 49, 10), 12)],
)
def test_real_data_sets_are_read(name: str, shape: tuple[int, ...], labels: int) -> None:
    place = os.environ.get("HEDGE_DATA")
    if place is None:
        pytest.skip("HEDGE_DATA does not say where the data sets are")
    data = load_dataset(Path(place) / name)
    assert data.x.shape == shape
    assert data.labels is not None
    assert len(data.labels) == labels


def test_a_pipe_is_no_data_set(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "rows.npz")
    with pytest.raises(DataError, match=r"rows\.npz: is no plain file"):
        load_dataset(tmp_path / "rows.npz")
