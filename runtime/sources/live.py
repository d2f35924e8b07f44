"""A live source: a thread that reads, opens again what went away, and a bounded buffer."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from typing import Literal, TypeVar

from ...models.errors import DataError, HedgeError, SourceError
from ...telemetry.clock import Clock, boottime_ns
from ...telemetry.ledger import SourceState
from ...uplink.link.backoff import Backoff
from ..logs import rarely
from .source import Captured, Reader, Recorder, StuckError

_log = logging.getLogger(__name__)

_GOODBYE_NS = 1_000_000_000
_CAP_S = 1.0  # a source that is back is found within a second
_HELD_NS = 5_000_000_000  # a source that has given as long was really there
_STEADY_NS = 60_000_000_000  # and after a minute its troubles are news again
_BAD_ROW = 64  # captures in a row that are no good,
_BAD_S = 0.01  # and then the loop is shown a hundred a second
_MOST_BYTES = 64 << 20  # of captures that nobody has taken
_STUCK_FIRST_S, _STUCK_CAP_S = 2.0, 60.0  # between tries of what needs somebody to mend it
_TEXTS = 16  # that are told apart when what was said is counted
T = TypeVar("T")


class Live:
    """Reads by ``reader`` in a thread of its own, which begins at once, or with `begin`.

    ``policy`` "latest": of ``buffer`` captures that nobody has taken the oldest gives way to a
    new one and counts as overrun; one that is no good gives way first, and never takes the
    place of a good one. "every": the thread waits for room, and loses nothing that the source
    itself keeps. What waits has ``most_bytes`` at most, too, or is one capture. ``ring`` is called
    whenever something is there, and when `state` changes.

    With "latest", what is no good is read and thrown away as fast as it comes: after 64 in a row
    a hundred a second are put where the loop sees them, and the others count as overrun.

    What cannot be opened, or goes away, is tried again after ``backoff``, which begins anew once
    the source has given something for a few seconds: what opens and fails at once, over and
    over, is never tried in a hurry. After `StuckError` that takes up to a minute.
    """

    def __init__(
        self,
        reader: Reader,
        *,
        name: str,
        policy: Literal["latest", "every"],
        buffer: int,
        ring: Callable[[], None],
        begin: bool = True,
        clock: Clock = boottime_ns,
        backoff: Backoff | None = None,
        stuck_backoff: Backoff | None = None,
        most_bytes: int = _MOST_BYTES,
    ) -> None:
        self._reader = reader
        self._name = name
        self._buffer = buffer
        self._ring = ring
        self._clock = clock
        self._backoff = backoff or Backoff(first_s=0.1, cap_s=_CAP_S)
        self._stuck = False  # somebody has to mend it
        self._stuck_backoff = stuck_backoff or Backoff(first_s=_STUCK_FIRST_S, cap_s=_STUCK_CAP_S)
        self._captured: deque[Captured | HedgeError] = deque()
        self._errors = 0  # among those
        self._bytes = 0  # in those
        self._most_bytes = most_bytes
        self._bad = 0  # that came in a row
        self._shown_ns = 0  # when the loop was shown one of them
        self._changed = threading.Condition()
        self._closing = False
        self._state: Literal["away", "open", "ended"] = "away"
        self._since_ns = clock()
        self._calling_ns: int | None = None  # since when the reader has been at work
        self._opened = self._lost = 0
        self._why: str | None = None
        self._missed = False  # it was away, and has given nothing since
        self._told: Counter[str] = Counter()
        self.patient = policy == "every"
        self.overrun = 0
        self._thread = threading.Thread(target=self._run, name=f"hedge-{name}"[:15], daemon=True)
        if begin:
            self.begin()

    def begin(self) -> None:
        """Begin to read; where it has begun nothing happens."""
        if self._thread.ident is None:
            self._thread.start()

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._state == "ended" and not self._captured

    @property
    def recorder(self) -> Recorder | None:
        """What keeps the last seconds as they were captured."""
        return self._reader.recorder

    def state(self) -> SourceState:
        """Return how the source is."""
        return SourceState(
            state=self._state,
            since_s=round((self._clock() - self._since_ns) / 1e9, 3),
            opened=self._opened,
            lost=self._lost,
            why=self._why,
        )

    def due_ns(self) -> int | None:
        """Return 0, which is long ago, where something waits; the bell rings for the rest."""
        return 0 if self._captured else None

    def poll(self, now_ns: int) -> Captured | None:  # noqa: ARG002 -- the protocol's signature
        """Take the oldest capture.

        Raises:
            DataError: what came instead of it is no good.
        """
        with self._changed:
            if not self._captured:
                return None
            found = self._captured.popleft()
            self._errors -= isinstance(found, HedgeError)
            self._bytes -= _size(found)
            self._changed.notify_all()
        if isinstance(found, HedgeError):
            raise found
        return found

    def close(self) -> None:
        """Stop reading; what was not taken is dropped.

        A driver that holds the thread for longer than a second is not waited for: of several
        such sources the shutdown waits one second, and not one for each.
        """
        with self._changed:
            self._closing = True
            self._captured.clear()
            self._errors = self._bytes = 0
            self._changed.notify_all()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            since_ns = self._calling_ns
            held_ns = 0 if since_ns is None else self._clock() - since_ns
            self._thread.join(max(0, _GOODBYE_NS - held_ns) / 1e9)

    def _run(self) -> None:
        while not self._closing and self._state != "ended":
            try:
                self._called(self._reader.open)
                self._be("open")
                self._read()
            except HedgeError as error:
                self._lose(error)
            except Exception as error:  # noqa: BLE001 -- a bug must not end the source
                self._lose(SourceError(f"has failed: {error!r}"), bug=error)
            finally:
                self._leave()
            if self._state == "away":
                self._pause((self._stuck_backoff if self._stuck else self._backoff).next_s())

    def _read(self) -> None:
        while not self._closing:
            try:
                found = self._called(self._reader.read)
            except DataError as error:
                self._take_bad(error)
                continue
            if found is None:
                self._be("ended")
                return
            if found:
                self._bad = 0
                self._gave()
                self._put(found)

    def _take_bad(self, error: DataError) -> None:
        """Show the loop what is no good; of very much of it only a little."""
        self._bad += 1
        if self._bad > _BAD_ROW and not self.patient:  # what waits for the loop has its pace
            now_ns = self._clock()
            if now_ns - self._shown_ns < _BAD_S * 1e9:
                self.overrun += 1
                return
            self._shown_ns = now_ns
        self._put((error,))

    def _called(self, call: Callable[[], T]) -> T:
        """Call the reader; `close` can see for how long."""
        self._calling_ns = self._clock()
        try:
            return call()
        finally:
            self._calling_ns = None

    def _leave(self) -> None:
        try:
            self._called(self._reader.close)
        except Exception as error:  # noqa: BLE001 -- what is broken may not close either
            self._say(f"close: {error!r}", "its source did not close: %r", error)

    def _put(self, found: Iterable[Captured | HedgeError]) -> None:
        for one in found:
            with self._changed:
                if not self._make_room(one):
                    continue
                self._captured.append(one)
                self._errors += isinstance(one, HedgeError)
                self._bytes += _size(one)
            self._ring()

    def _make_room(self, one: Captured | HedgeError) -> bool:
        """Return whether there is room; what gives way for it is counted."""
        size = _size(one)
        if self.patient:
            self._changed.wait_for(lambda: self._fits(size) or self._closing)
        while not self._fits(size) and not self._closing:
            self.overrun += 1
            if self._errors:
                at = next(
                    at for at, old in enumerate(self._captured) if isinstance(old, HedgeError)
                )
                del self._captured[at]
                self._errors -= 1
            elif isinstance(one, HedgeError):
                return False
            else:
                self._bytes -= _size(self._captured.popleft())
        return not self._closing

    def _fits(self, size: int) -> bool:
        held = len(self._captured)
        return not held or (held < self._buffer and self._bytes + size <= self._most_bytes)

    def _gave(self) -> None:
        """Note that the source gives something: in the end its troubles are over."""
        if self._missed:
            self._missed = False
            self._say("back", "its source is back")
        stood_ns = self._clock() - self._since_ns
        if stood_ns >= _HELD_NS:
            self._backoff.reset()
            self._stuck_backoff.reset()
        if stood_ns >= _STEADY_NS and self._told:
            self._told.clear()

    def _be(self, state: Literal["away", "open", "ended"], *, why: str | None = None) -> None:
        self._opened += state == "open"
        self._why = why
        self._since_ns = self._clock()
        self._state = state
        self._ring()

    def _lose(self, error: HedgeError, *, bug: Exception | None = None) -> None:
        """Note that the source is away, and why."""
        self._lost += 1
        self._missed = True
        self._stuck = isinstance(error, StuckError)
        if not self._closing:
            self._say(str(error), "%s; it is tried again", error, bug=bug)
        if self._state == "away":
            self._why = str(error)
        else:
            self._be("away", why=str(error))

    def _say(self, key: str, text: str, *values: object, bug: Exception | None = None) -> None:
        """Log what happens, ever more rarely while it happens again and again."""
        if key not in self._told and len(self._told) >= _TEXTS:
            key = ""
        self._told[key] += 1
        level = rarely(self._told[key])
        _log.log(level, f"%s: {text}", self._name, *values, exc_info=bug)

    def _pause(self, for_s: float) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing, timeout=for_s)


def _size(one: Captured | HedgeError) -> int:
    """Return the bytes of a capture's data."""
    return 0 if isinstance(one, HedgeError) else one.data.nbytes
