"""The session counter: unique ids for ever, whatever happens to its file."""

from __future__ import annotations

from pathlib import Path

import pytest

from hedge.runtime.session import next_session


def test_every_start_counts_one_further(tmp_path: Path) -> None:
    first = next_session(tmp_path / "state")
    assert [next_session(tmp_path / "state") for _ in range(2)] == [first + 1, first + 2]


def test_a_device_that_lost_its_state_does_not_count_from_the_same_again(tmp_path: Path) -> None:
    assert len({next_session(tmp_path / name) for name in "abcdef"}) == 6


def test_the_counter_is_for_the_owner_only(tmp_path: Path) -> None:
    next_session(tmp_path / "state")
    assert (tmp_path / "state" / "session").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"\x00\xff", b"-4", b"9" * 40])
def test_a_damaged_counter_gives_a_session_that_was_never_counted(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "session").write_bytes(content)
    first = next_session(tmp_path)
    assert first > 1 << 52
    assert next_session(tmp_path) == first + 1
    assert "damaged" in caplog.text


def test_a_place_that_cannot_be_written_does_not_stop_the_device(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    drawn = {next_session(tmp_path / "file") for _ in range(2)}
    assert len(drawn) == 2
    assert min(drawn) >= 1 << 52
