"""The events that are open, in a file, so that the next run closes what a kill has left open.

It is not synced to the disk at every event: a kill loses nothing, a power cut perhaps the last.
"""

from __future__ import annotations

import contextlib
import logging
import os
from pathlib import Path

import msgspec

from ..logs import rarely
from .event import Event

_log = logging.getLogger(__name__)
_FILE = "events.json"


class OpenFile:
    """Holds what is open below ``state``; there is no file while nothing is."""

    def __init__(self, state: Path) -> None:
        self._path = state / _FILE
        self._open: dict[str, Event] = {}
        self._failures = 0

    def left(self) -> list[Event]:
        """Return what an earlier run has left open, and forget it; none if that cannot be read."""
        try:
            found = msgspec.json.decode(self._path.read_bytes(), type=list[Event])
        except FileNotFoundError:
            return []
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("%s: which events were left open is not known: %s", self._path, error)
            found = []
        self._write()
        return found

    def note(self, event: Event) -> None:
        """Note that an event has opened or closed."""
        if event.state == "opened":
            self._open[event.id] = event
        else:
            self._open.pop(event.id, None)
        self._write()

    def _write(self) -> None:
        beside = self._path.with_name(f"{_FILE}.new")
        try:
            if not self._open:
                self._path.unlink(missing_ok=True)
                return
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
            with os.fdopen(os.open(beside, flags, 0o600), "wb") as file:
                file.write(msgspec.json.encode(list(self._open.values())))
            beside.replace(self._path)
        except OSError as error:
            self._failures += 1
            level = rarely(self._failures)
            _log.log(level, "%s: cannot be written: %s", self._path, error.strerror)
            with contextlib.suppress(OSError):
                beside.unlink()
