"""LoadGen's queries as a source of the device's loop, and the sink of their outcomes."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from numpy.typing import NDArray

from ....models.records import Outcome
from ....telemetry.clock import boottime_ns
from ...sources.source import Captured

Done = Callable[[], None]


class Queries:
    """A `Source` and a `Sink` at once: what is put in is done at its final outcome.

    ``session`` begins the ids of its samples. A sensor would overrun where a query waits for
    its turn, so that its latency tells of it; LoadGen bounds how many wait.
    """

    patient = True
    overrun = 0
    recorder = None

    def __init__(self) -> None:
        self.bell = threading.Event()
        self.ended = False
        self.session = 0
        self._waiting: deque[tuple[NDArray[Any], Done, int]] = deque()
        self._open: dict[str, Done] = {}
        self._number = 0

    def put(self, row: NDArray[Any], done: Done) -> None:
        """Add a sample; ``done`` is called in the loop's thread."""
        self._waiting.append((row, done, boottime_ns()))
        self.bell.set()

    def ids(self) -> Iterator[str]:
        """Yield the id of what was polled last: the loop asks for one after each poll."""
        while True:
            yield self._id()

    def begin(self) -> None:
        """Do nothing: it is read when it is asked."""

    def state(self) -> None:
        """Return None: it is no live source."""

    def due_ns(self) -> int | None:
        """Return 0, which is long ago, while something waits."""
        return 0 if self._waiting else None

    def poll(self, now_ns: int) -> Captured | None:  # noqa: ARG002 -- the protocol's signature
        """Take the next sample."""
        if not self._waiting:
            return None
        row, done, put_ns = self._waiting.popleft()
        self._number += 1
        self._open[self._id()] = done
        return Captured(row, put_ns)

    def emit(self, outcome: Outcome) -> None:
        """Finish the sample that a final outcome is of."""
        if outcome.final:
            self._open.pop(outcome.id)()

    def close(self) -> None:
        """Say that nothing more will come."""
        self.ended = True
        self.bell.set()

    def _id(self) -> str:
        return f"{self.session}-{self._number}"
