"""The session counter that makes sample ids unique per device for ever, without a clock."""

from __future__ import annotations

import logging
import secrets
from pathlib import Path

from ..telemetry.whole_file import write_whole

_log = logging.getLogger(__name__)
_LAST = (1 << 53) - 1


def next_session(state_dir: Path) -> int:
    """Count this start of the device in ``state_dir``/session, durably, and return it.

    The first session of a device is a random number, so that one whose state was lost, or a
    second one of the same name, does not use ids anew. A device must start even when its
    state cannot be read or written: then the session is a random number far above any
    counted one, and a warning says so. From a damaged file the counter goes on from such a
    number.
    """
    file = state_dir / "session"
    try:
        session = _counted(file) + 1
        write_whole(file, str(session).encode("ascii"))
    except OSError as error:
        session = _drawn()
        _log.warning("%s: no session counter (%s); session %d drawn", file, error, session)
    return session


def _counted(file: Path) -> int:
    """Return the last session; a random one where the file is damaged."""
    try:
        session = int(file.read_text("ascii"))
    except FileNotFoundError:
        return secrets.randbelow(1 << 32)
    except ValueError:
        session = -1
    if not 0 <= session < _LAST:
        session = _drawn()
        _log.warning("%s: damaged; counting on from session %d, drawn at random", file, session)
    return session


def _drawn() -> int:
    return (1 << 52) + secrets.randbelow(1 << 51)
