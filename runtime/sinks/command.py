"""A program that is started for each event, or outcome: an alarm, a relay, a message."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from ...models.records import Outcome
from ...uplink.tally import Tally
from ..events.event import Event
from .command_run import run
from .command_words import checked, filled, values_of
from .options import State, Which
from .sink import left_s, line_of, takes

_log = logging.getLogger(__name__)

_GOODBYE_S = 2.0
_KILL_S = 1.0  # after that, for the killed to be gone
_COUNTERS = ("run", "failed", "timed_out", "dropped", "refused", "not_started")


class Command:
    """Starts ``argv`` once for each event or outcome, one after another, in a thread.

    Words in braces are replaced (`options.CommandSink`). The program runs in ``folder``, where
    a relative path of it begins, too, in a process group of its own, which is killed when the
    program ends or after ``timeout_s``. ``queue`` calls may wait; more are refused and counted.
    On closing what waits and what runs has ``goodbye_s``.

    Raises:
        ConfigError: there is no such program, it cannot be run, or a word is unknown.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        labels: Mapping[str, tuple[str, ...]],
        folder: Path,
        which: Which = "events",
        states: Sequence[State] = ("opened", "closed", "clip"),
        timeout_s: float = 10.0,
        queue: int = 100,
        goodbye_s: float = _GOODBYE_S,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._argv = checked(argv, folder=folder)
        self._labels = labels
        self._folder = folder
        self._which: Which = which
        self._states = frozenset(states)
        self._timeout_s = timeout_s
        self._bound = queue
        self._goodbye_s = goodbye_s
        self._wall = wall
        self._encode = msgspec.json.Encoder().encode
        self._waiting: deque[tuple[float, tuple[str, ...], Outcome | Event]] = deque()
        self._go = threading.Semaphore(0)
        self._end_s: float | None = None  # closing: until then, on the monotonic clock
        self._tally = Tally(_COUNTERS, log=_log)
        self._thread = threading.Thread(target=self._work, name="hedge-command", daemon=True)
        self._thread.start()

    def emit(self, outcome: Outcome) -> None:
        """Queue a call for an outcome.

        Raises:
            OSError: the queue is full.
        """
        if takes(self._which, outcome):
            self._queue(outcome, self._labels[outcome.stream])

    def tell(self, event: Event) -> None:
        """Queue a call for an event, as `emit` does for an outcome."""
        if event.state in self._states:
            self._queue(event, ())

    def counters(self) -> dict[str, int]:
        """Return how the calls went."""
        return {f"commands_{name}": count for name, count in self._tally.copy().items()}

    def stop(self) -> None:
        """Take no more, and give what waits and what runs a moment."""
        if self._end_s is None:
            self._end_s = time.monotonic() + self._goodbye_s
            self._go.release()

    def close(self) -> None:
        """Give what waits and what runs a moment, then kill it; closing twice is harmless."""
        self.stop()
        self._thread.join(left_s(self._end_s) + _KILL_S)

    def _queue(self, said: Outcome | Event, labels: tuple[str, ...]) -> None:
        if len(self._waiting) >= self._bound or self._end_s is not None:
            self._tally.add("dropped")
            raise OSError(f"{self._argv[0]}: too many calls of it wait")
        self._waiting.append((self._wall(), labels, said))
        self._go.release()

    def _work(self) -> None:
        while self._go.acquire():
            if self._end_s is not None and time.monotonic() >= self._end_s:
                break
            if not self._waiting:
                break  # closing
            try:
                self._call(*self._waiting.popleft())
            except Exception:  # noqa: BLE001 -- one call must not end the thread
                self._tally.add("failed")
                _log.exception("%s was not run", self._argv[0])
        self._tally.add("dropped", len(self._waiting))
        self._waiting.clear()

    def _call(self, at_s: float, labels: tuple[str, ...], said: Outcome | Event) -> None:
        """Run the program for one event or outcome, and count how it went."""
        line = said if isinstance(said, Event) else line_of(said, labels, at_s=round(at_s, 3))
        until_s = time.monotonic() + self._timeout_s
        try:
            arguments = filled(self._argv, values_of(said, labels))
            ended = run(
                arguments,
                self._encode(line) + b"\n",
                folder=self._folder,
                end_s=lambda: until_s if self._end_s is None else min(until_s, self._end_s),
            )
        except ValueError as error:
            self._tally.drop("refused", error)
        except OSError as error:
            self._tally.drop("not_started", f"{self._argv[0]}: {error.strerror}")
        else:
            self._count(ended.code, ended.said[:500])

    def _count(self, code: int | None, said: str) -> None:
        program = self._argv[0]
        if code is None:
            why = "took too long" if self._end_s is None else "outlived the device's end"
            self._tally.drop("timed_out", f"{program} {why} and was killed: {said}")
        elif code:
            self._tally.drop("failed", f"{program} ended with {code}: {said}")
        else:
            self._tally.add("run")
