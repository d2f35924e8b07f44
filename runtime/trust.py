"""Whether a file may be trusted with our rights: a library to load, a secret to believe."""

from __future__ import annotations

import os
import stat
from pathlib import Path

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def why_untrusted(file: Path) -> str | None:
    """Return why code or secrets in ``file`` might be somebody else's; None: they are not.

    It has to belong to root or to this user, like the folder it lies in, and nobody else may
    write to either.

    Raises:
        OSError: it cannot be looked at.
    """
    for one in (file.resolve(strict=True), file.resolve().parent):
        found = one.stat()
        if found.st_uid not in (0, os.geteuid()):
            return f"{one} belongs to user {found.st_uid}, not to root or to this one"
        sticky = stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX
        if found.st_mode & _WRITABLE_BY_OTHERS and not sticky:
            return f"{one} can be written by others"
    return None
