"""The sources that go by the clock: replay and folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hedge.models.errors import DataError
from hedge.runtime.sources.folder import Folder
from hedge.runtime.sources.replay import Replay


def test_a_replay_gives_every_row_once_in_order() -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    source = Replay(x)
    rows = []
    while not source.ended:
        captured = source.poll(now_ns=100)
        assert captured is not None
        rows.append(captured.data)
    np.testing.assert_array_equal(np.stack(rows), x)


def test_a_replay_without_a_rate_is_always_due_and_can_wait() -> None:
    source = Replay(np.zeros((3, 2)))
    assert source.patient
    source.poll(now_ns=5)
    assert source.due_ns() <= 5


def test_a_replay_at_a_rate_gives_nothing_before_its_time() -> None:
    source = Replay(np.zeros((3, 2)), rate_hz=100.0)
    assert not source.patient
    assert source.poll(now_ns=1_000_000) is not None
    assert source.due_ns() == 11_000_000
    assert source.poll(now_ns=10_999_999) is None
    late = source.poll(now_ns=50_000_000)
    assert late is not None
    assert late.taken_at_ns == 11_000_000, "captured when it was due, not when it was asked for"


def test_a_folder_gives_its_files_by_name(tmp_path: Path) -> None:
    for name, value in (("b.npy", 2.0), ("a.npy", 1.0)):
        np.save(tmp_path / name, np.array([value, 7.0]))
    source = Folder(tmp_path)
    found = [source.poll(now_ns=1), source.poll(now_ns=2)]
    assert [one.data[0] for one in found if one is not None] == [1.0, 2.0]
    assert source.ended


def test_a_damaged_file_fails_by_name_and_the_next_one_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00")
    np.save(tmp_path / "b.npy", np.array([3.0]))
    source = Folder(tmp_path)
    with pytest.raises(DataError, match=r"a\.npy: not a sample"):
        source.poll(now_ns=1)
    captured = source.poll(now_ns=1)
    assert captured is not None
    assert captured.data[0] == 3.0


def test_a_pickle_is_not_a_sample(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([{"a": 1}]), allow_pickle=True)
    with pytest.raises(DataError, match="not a sample"):
        Folder(tmp_path).poll(now_ns=1)


@pytest.mark.parametrize("name", ["missing", "."])
def test_a_folder_without_samples_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match=r"no such folder|no \.npy file"):
        Folder(tmp_path / name)
