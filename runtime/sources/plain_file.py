"""A file that is to be played: whether it is there, is a file at all, and may be read."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from ...models.errors import SourceError

_HINTS = {
    errno.ENOENT: "it is looked for again and again; is its path right?",
    errno.EACCES: "the device's user must be able to read it",
}


def check_plain(path: Path) -> None:
    """See that a file can be opened without waiting for anybody, as for a pipe's writer.

    Raises:
        SourceError: it is not there, may not be read, or is a pipe, a folder or a device.
    """
    try:
        plain = stat.S_ISREG(path.stat().st_mode)
        if plain:
            os.close(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC))
    except OSError as error:
        raise SourceError(
            str(error.strerror), where=str(path), hint=_HINTS.get(error.errno or 0)
        ) from error
    if not plain:
        raise SourceError(
            "is no plain file",
            where=str(path),
            hint="a folder, a pipe or a device cannot be played as a file",
        )
