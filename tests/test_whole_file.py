"""A small file is written whole or not at all."""

from __future__ import annotations

import resource
import stat
from pathlib import Path

import pytest

from hedge.telemetry.whole_file import write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_and_is_its_owners_alone(tmp_path: Path) -> None:
    file = tmp_path / "new" / "state"
    write_whole(file, b"one and more")
    write_whole(file, b"two")
    assert file.read_bytes() == b"two"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert names(file.parent) == ["state"]


def test_what_cannot_be_written_leaves_the_file_and_nothing_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "state"
    write_whole(file, b"before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # as a disk that is full after 4 KiB
    try:
        with pytest.raises(OSError, match=r"[Ff]ile too large"):
            write_whole(file, b"after" * 4096)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.read_bytes() == b"before"
    assert names(tmp_path) == ["state"]
