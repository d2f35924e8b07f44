"""Reading a file that a user names: small, or refused."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ...models.errors import ConfigError


def read_small(path: Path, *, max_bytes: int) -> bytes:
    """Return a file's bytes.

    Raises:
        ConfigError: it cannot be read, is larger, or is no file (a pipe would never end).
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(fd, "rb") as file:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                raise ConfigError("is no regular file", where=str(path))
            data = file.read(max_bytes + 1)
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=str(path)) from error
    if len(data) > max_bytes:
        raise ConfigError(f"is larger than {max_bytes} bytes", where=str(path))
    return data
