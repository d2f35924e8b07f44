"""What a service can reach that runs as a user of its own, without homes and with its own /tmp."""

from __future__ import annotations

import stat
from pathlib import Path

_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 -- told, not used


def hidden(path: Path) -> str | None:
    """Return the folder that ProtectHome and PrivateTmp hide and in which a path lies."""
    for place in _HIDDEN:
        if path.is_relative_to(place):
            return place
    return None


def closed(path: Path, *, root: Path = Path("/")) -> Path | None:
    """Return the first part of an absolute path that others may not read, None if they may.

    A part that is not there is taken for open: to look for it is another's business.
    """
    for part in reversed(path.parents):
        if not _may(part, root, folder=stat.S_IXOTH, file=stat.S_IXOTH):
            return part
    wanted = stat.S_IROTH | stat.S_IXOTH
    return None if _may(path, root, folder=wanted, file=stat.S_IROTH) else path


def _may(path: Path, root: Path, *, folder: int, file: int) -> bool:
    try:
        mode = (root / path.relative_to("/")).stat().st_mode
    except FileNotFoundError:
        return True
    except OSError:
        return False
    wanted = folder if stat.S_ISDIR(mode) else file
    return mode & wanted == wanted
