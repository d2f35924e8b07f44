"""Makes a snapshot of the run whenever somebody asks, in the loop's thread."""

from __future__ import annotations

import threading
from collections.abc import Callable

from ..telemetry.snapshot import Snapshot

_PATIENCE_S = 2.0


class Snapshots:
    """A `Feed` that takes questions from other threads.

    ``make`` may read whatever the loop owns: it is called in the loop's thread, so that
    nothing has to be locked, and only when somebody asks. ``bell`` wakes the loop.
    """

    def __init__(self, make: Callable[[], Snapshot], *, bell: threading.Event) -> None:
        self._make = make
        self._bell = bell
        self._there = threading.Condition()
        self._asked = False
        self._newest: Snapshot | None = None

    def ask(self) -> Snapshot | None:
        """Return a snapshot of this moment, from any thread; None: the loop does not turn."""
        with self._there:
            before = self._newest
            self._asked = True
            self._bell.set()
            if self._there.wait_for(lambda: self._newest is not before, _PATIENCE_S):
                return self._newest
            return None

    def feed(self, now_ns: int) -> None:  # noqa: ARG002 -- the protocol's signature
        """Make one if somebody waits for it; the bell rings when it is due."""
        if self._asked:
            made = self._make()
            with self._there:
                self._asked = False
                self._newest = made
                self._there.notify_all()
