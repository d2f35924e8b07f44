"""A file of lines that survives a crash: it holds whole lines, and lines of one kind only."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

from ..models.errors import ConfigError

_BLOCK = 1 << 16


def open_lines(path: Path, *, begins: Sequence[bytes], what: str) -> int:
    """Open a file whose first line begins with one of ``begins``, or a new one, of mode 0600.

    Returns a descriptor that appends. ``what`` are the lines, in the plural, for the error.

    Raises:
        ConfigError: the file cannot be written, or is there and holds anything else.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(path)) from error
    if not stat.S_ISREG(os.fstat(fd).st_mode) or not begins_so(os.pread(fd, 64, 0), begins):
        os.close(fd)
        raise ConfigError(
            f"is there already, and is no file of {what}", where=str(path), hint="name another"
        )
    return fd


def begins_so(head: bytes, begins: Sequence[bytes]) -> bool:
    """Return whether a file that begins with ``head`` is empty or begins with one of these.

    A file shorter than that, which a crash may leave, begins so as far as it goes.
    """
    return any(begin.startswith(head[: len(begin)]) for begin in begins)


def recover_tail(fd: int) -> int:
    """Cut a last line that has no end, left by a crash; return how many bytes went."""
    size = end = os.fstat(fd).st_size
    while end > 0:
        begin = max(0, end - _BLOCK)
        newline = os.pread(fd, end - begin, begin).rfind(b"\n")
        if newline >= 0:
            end = begin + newline + 1
            break
        end = begin
    if end < size:
        os.ftruncate(fd, end)
    return size - end
