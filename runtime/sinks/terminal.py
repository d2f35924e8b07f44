"""Outcomes and events on a terminal, one line each, by a thread of its own.

Standard output may be a pipe that nobody reads, or a terminal that is held (Ctrl-S): the loop
does not wait for it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping

from ...models.errors import ConfigError
from ...models.records import Outcome
from ...uplink.tally import Tally
from ..events.event import Event
from .sink import left_s, line_of

_log = logging.getLogger(__name__)

_QUEUE = 1000
_GOODBYE_S = 1.0
_LOOK_S = 0.05
_AT_ONCE_BYTES = select.PIPE_BUF  # a pipe that is ready for anything takes so much at once
_WHERE = "standard output"


class Terminal:
    """Writes one short line per outcome: stream, id, label, certainty, way, milliseconds.

    That of an event has its rule in the place of the way. ``fd`` is where lines go, standard
    output by default. At most ``queue`` lines wait while nobody reads; more are left out
    and counted: it shows what is going on, and is no record whose gaps are errors. On closing
    what waits has ``goodbye_s``.

    Raises:
        ConfigError: there is no standard output.
    """

    def __init__(
        self,
        *,
        labels: Mapping[str, tuple[str, ...]],
        fd: int | None = None,
        queue: int = _QUEUE,
        goodbye_s: float = _GOODBYE_S,
    ) -> None:
        self._labels = labels
        self._fd = _standard_output() if fd is None else fd
        self._room = select.poll()
        self._room.register(self._fd, select.POLLOUT)
        self._bound = queue
        self._goodbye_s = goodbye_s
        self._waiting: deque[str] = deque()
        self._go = threading.Event()
        self._end_s: float | None = None  # closing: until then, on the monotonic clock
        self._tally = Tally(("dropped",), log=_log)
        self._thread = threading.Thread(target=self._work, name="hedge-terminal", daemon=True)
        self._thread.start()

    def emit(self, outcome: Outcome) -> None:
        """Queue one line."""
        line = line_of(outcome, self._labels[outcome.stream])
        sure = "" if line.probs is None else f"{max(line.probs):6.1%}"
        state = "final" if line.final else "first"
        why = line.degraded or line.reason or ""
        self._queue(
            f"{line.stream:<12} {line.id:>12} {state} {line.route:<8} "
            f"{line.label or '-':<16} {sure:>6} {line.latency_ms:9.3f} ms  {why}\n"
        )

    def tell(self, event: Event) -> None:
        """Queue one line, as `emit` does."""
        sure = "" if event.peak is None else f"{event.peak:6.1%}"
        lasted_s = None if event.closed_at_s is None else event.closed_at_s - event.opened_at_s
        lasted = "" if lasted_s is None else f"{lasted_s:9.1f} s"
        clip = None if event.clip is None else event.clip.path or event.clip.why
        self._queue(
            f"{event.stream:<12} {event.id:>12} event {event.event:<8} "
            f"{event.label:<16} {sure:>6} {lasted:>11}   {event.state} {clip or event.why or ''}\n"
        )

    def counters(self) -> dict[str, int]:
        """Return how many lines were dropped."""
        return {f"terminal_{name}": count for name, count in self._tally.copy().items()}

    def stop(self) -> None:
        """Take no more, and give what waits a moment."""
        if self._end_s is None:
            self._end_s = time.monotonic() + self._goodbye_s
            self._go.set()

    def close(self) -> None:
        """Write what waits, if it is read soon; closing twice is harmless."""
        self.stop()
        self._thread.join(left_s(self._end_s) + 2 * _LOOK_S)  # a write may hang all the same

    def _queue(self, line: str) -> None:
        if len(self._waiting) >= self._bound or self._end_s is not None:
            self._tally.drop("dropped", f"{_WHERE}: nobody reads it, lines are left out")
            return
        self._waiting.append(line)
        self._go.set()

    def _work(self) -> None:
        closing = False
        while not closing:
            self._go.wait()
            self._go.clear()
            closing = self._end_s is not None
            while self._waiting and not self._is_over():
                self._write(self._waiting.popleft().encode("utf-8", "replace"))
        self._tally.add("dropped", len(self._waiting))
        self._waiting.clear()

    def _write(self, line: bytes) -> None:
        """Write a line as it is read, as long as that takes, or until the end."""
        left = memoryview(line)
        try:
            while left and not self._is_over():
                if self._room.poll(_LOOK_S * 1000):
                    with contextlib.suppress(BlockingIOError):  # another was faster
                        left = left[os.write(self._fd, left[:_AT_ONCE_BYTES]) :]
        except OSError as error:
            self._tally.drop("dropped", f"{_WHERE}: {error.strerror}")
            return
        if left:
            self._tally.add("dropped")

    def _is_over(self) -> bool:
        return self._end_s is not None and time.monotonic() >= self._end_s


def _standard_output() -> int:
    """Return its descriptor, past Python's buffer: a write that hangs may not hold its lock.

    Raises:
        ConfigError: it is closed.
    """
    try:
        return sys.__stdout__.fileno()  # type: ignore[union-attr]  # None where it is closed
    except (AttributeError, OSError, ValueError) as error:
        raise ConfigError(
            "there is none", where=_WHERE, hint="do without the sink of kind terminal"
        ) from error
