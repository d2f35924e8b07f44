"""The files of clips: what they are called, and which of them go.

A clip has its name only once it is whole and durable; before that it has a dot in front of it.
Only files that are named like clips are ever removed, and nothing behind a symbolic link is.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from .options import ClipOptions

_NAME = r"\d{8}T\d{6}Z-[a-z0-9_-]{1,64}-\d{1,20}-e\d{1,20}\.[a-z0-9]{1,8}"
_NAMED = re.compile(rf"{_NAME}\Z")
_TORN = re.compile(rf"\.{{1,2}}{_NAME}(?:\.[a-z]{{1,8}})?\Z")  # or what a recorder makes of it


def name_of(opened_at_s: float, event: str, event_id: str, suffix: str) -> str:
    """Return the name of a clip: when its event began (UTC), which it is, and its id.

    >>> name_of(1e9, "person", "7-e3", ".mp4")
    '20010909T014640Z-person-7-e3.mp4'
    """
    begun = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(opened_at_s))
    return f"{begun}-{event}-{event_id}{suffix}"


def torn(path: Path) -> Path:
    """Return what a clip is called while it is written."""
    return path.with_name(f".{path.name}")


def settle(path: Path) -> int:
    """Make a written clip durable, for its owner only, and give it its name; return its bytes.

    Raises:
        OSError: the disk is full, or it is not there.
    """
    fd = os.open(torn(path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fchmod(fd, 0o600)
        os.fsync(fd)
        size_bytes = os.fstat(fd).st_size
    finally:
        os.close(fd)
    torn(path).replace(path)
    return size_bytes


def remove_oldest(
    folder: Path, options: ClipOptions, *, now_s: float, spared: str | None = None
) -> None:
    """Remove the oldest clips of a folder until they are as few and as young as ``options`` say.

    The one of the name ``spared`` stays. What cannot be removed is passed over.
    """
    oldest_s = now_s - options.keep_days * 86_400
    clips = sorted((found.st_mtime, name, found.st_size) for name, found in _files(folder, _NAMED))
    size_bytes = sum(size for _, _, size in clips)
    for written_s, name, size in clips:
        if name != spared and (written_s < oldest_s or size_bytes > options.keep_bytes):
            with contextlib.suppress(OSError):
                (folder / name).unlink()
                size_bytes -= size


def remove_torn(folder: Path) -> None:
    """Remove what a run that was killed has left half-written."""
    for name, _ in _files(folder, _TORN):
        with contextlib.suppress(OSError):
            (folder / name).unlink()


def _files(folder: Path, named: re.Pattern[str]) -> Iterator[tuple[str, os.stat_result]]:
    """Give the files of such names, but no link to one."""
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if named.match(entry.name) and entry.is_file(follow_symlinks=False):
                yield entry.name, entry.stat(follow_symlinks=False)
