"""One process owns a folder at a time, and the system knows which."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path

from ...models.errors import UplinkError

LOCK = "lock"
_PATIENCE_S = 0.2  # for one that only looks whether there is an owner
_PAUSE_S = 0.01


def lock(folder: Path) -> int:
    """Own a folder, which is made if need be, until the returned descriptor is closed.

    Raises:
        UplinkError: another process owns it.
        OSError: the folder is not there, and cannot be made.
    """
    fd = _opened(folder)
    until_s = time.monotonic() + _PATIENCE_S
    while not _locked(fd, fcntl.LOCK_EX):
        if time.monotonic() > until_s:
            os.close(fd)
            raise UplinkError(
                "another process owns this outbox",
                where=str(folder),
                hint="end it first; ls, stat, verify and export only look",
            )
        time.sleep(_PAUSE_S)
    return fd


def is_owned(folder: Path) -> bool:
    """Whether a process owns a folder at this moment."""
    try:
        fd = os.open(folder / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return not _locked(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _opened(folder: Path) -> int:
    path = folder / LOCK
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # on a disk that is read-only now


def _locked(fd: int, how: int) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
