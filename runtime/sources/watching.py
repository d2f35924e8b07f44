"""Being told of the files that come into a folder, by the watchdog library."""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ...models.errors import MissingExtraError, SourceError

if TYPE_CHECKING:
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers.api import BaseObserver

_GOODBYE_S = 1.0


class Arrival(NamedTuple):
    """The name of a file that came, and when that was heard of (wall clock)."""

    name: str
    at_ns: int


class Arrivals:
    """The names of files that came and were not looked at yet, each once, in order.

    At most ``most`` are kept; what comes beyond is ``missed``, and what follows it, too, until
    `catch_up`. A name can be taken ``settle_s`` after it was added last.
    """

    def __init__(self, *, settle_s: float, most: int) -> None:
        self.missed = False
        self._settle_s = settle_s
        self._most = most
        self._waiting: OrderedDict[str, tuple[float, int]] = OrderedDict()
        self._changed = threading.Condition()

    def add(self, name: str) -> None:
        """Add a name, behind the others."""
        with self._changed:
            if name not in self._waiting and len(self._waiting) >= self._most:
                self.missed = True
            if self.missed:
                return
            self._waiting[name] = (time.monotonic() + self._settle_s, time.time_ns())
            self._waiting.move_to_end(name)  # so the first is always the one that is ready first
            self._changed.notify()

    def take(self, *, wait_s: float) -> Arrival | None:
        """Take the first name, waiting for one; None: none is ready."""
        with self._changed:
            if not self._ready():
                self._changed.wait(wait_s)
            if not self._ready():
                return None
            name, (_, at_ns) = self._waiting.popitem(last=False)
            return Arrival(name, at_ns)

    def catch_up(self) -> bool:
        """Where names were missed and those before them are taken, begin anew and say so."""
        with self._changed:
            if not self.missed or self._waiting:
                return False
            self.missed = False
            return True

    @property
    def empty(self) -> bool:
        """Whether nothing waits, ready or not."""
        return not self._waiting

    def _ready(self) -> bool:
        first = next(iter(self._waiting.values()), None)
        return first is not None and first[0] <= time.monotonic()


def need_watchdog() -> None:
    """Make sure that a folder can be watched.

    Raises:
        MissingExtraError: watchdog is not installed.
    """
    try:
        import watchdog.observers  # noqa: F401, PLC0415 -- an extra
    except ImportError as error:
        raise MissingExtraError("watchdog", extra="image") from error


def watch(folder: Path, told: Callable[[str], None], *, poll_s: float | None) -> Callable[[], None]:
    """Call ``told`` with the name of each file that was closed in a folder, or moved there.

    It is called by a thread of the library. With ``poll_s`` the folder is looked at so often,
    and a file is told of whenever it has changed. What this returns ends it.

    Raises:
        SourceError: it cannot be watched.
    """
    from watchdog.events import FileClosedEvent, FileMovedEvent  # noqa: PLC0415 -- an extra

    try:
        observer = _observer(poll_s)
    except OSError as error:
        raise _refused(folder, error) from error
    events = None if poll_s is not None else [FileClosedEvent, FileMovedEvent]
    try:
        observer.schedule(_handler(told), str(folder), event_filter=events)
        observer.start()
    except OSError as error:
        observer.stop()
        raise _refused(folder, error) from error

    def end() -> None:
        observer.stop()
        observer.join(_GOODBYE_S)  # a network file system may hold it longer

    return end


def _observer(poll_s: float | None) -> BaseObserver:
    from watchdog.observers.inotify import InotifyObserver  # noqa: PLC0415 -- an extra
    from watchdog.observers.polling import PollingObserver  # noqa: PLC0415 -- an extra

    if poll_s is not None:
        return PollingObserver(timeout=poll_s)
    return InotifyObserver(generate_full_events=True)  # with what is moved in from elsewhere


def _handler(told: Callable[[str], None]) -> FileSystemEventHandler:
    from watchdog.events import (  # noqa: PLC0415 -- an extra
        FileClosedEvent,
        FileCreatedEvent,
        FileModifiedEvent,
        FileMovedEvent,
        FileSystemEventHandler,
    )

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            match event:
                case FileMovedEvent():
                    path = event.dest_path
                case FileClosedEvent() | FileCreatedEvent() | FileModifiedEvent():
                    path = event.src_path
                case _:
                    return
            name = Path(os.fsdecode(path)).name if path else ""
            if name:
                told(name)

    return Handler()


def _refused(folder: Path, error: OSError) -> SourceError:
    return SourceError(
        f"cannot be watched: {error.strerror or error}",
        where=str(folder),
        hint="raise fs.inotify.max_user_instances and max_user_watches, or set poll_s",
    )
