"""The thread that reads the power sensors."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

from ...models.errors import HedgeError
from ..clock import Clock, boottime_ns
from ..power.reader import PowerReader, PowerSource
from .integral import Integral, Totals
from .series import POINTS, Series, Trace

_log = logging.getLogger(__name__)
DETUNED = 0.9618
"""Sensors are read so much more rarely than asked for: a load that beats at a round rate, as a
camera does, would be met at the same moment of its period again and again."""

_ALSO_NS = 1_000_000_000
_GOODBYE_S = 1.0
_GROUP = 8  # readings are added up so many at once: alone, each would find cold caches

Hear = Callable[[int, Sequence[float | None]], None]
"""Told of every reading: when (on the sampler's clock) and what each rail said."""


class PowerSampler:
    """Reads a sensor about ``rate_hz`` times a second, less often where it says nothing new.

    It owns the reader from `start` to `close`. The thread keeps to an absolute schedule and
    leaves out what it was too late for. A reader that blocks holds up nobody else: what it
    does not say is not covered, and `close` leaves it behind. ``also`` is called about once a
    second in this thread; ``hear`` gets each reading as it came.
    """

    def __init__(
        self,
        reader: PowerReader,
        *,
        rate_hz: float,
        clock: Clock = boottime_ns,
        also: Sequence[Callable[[], object]] = (),
        hear: Hear | None = None,
        points: int = POINTS,
    ) -> None:
        self._reader = reader
        self.source: PowerSource = reader.source
        fresh_hz = min(rate_hz, self.source.fastest_hz or rate_hz)
        self.rate_hz = fresh_hz * DETUNED if self.source.rails else 1.0
        self._clock = clock
        self._also = tuple(also)
        self._hear = hear
        self._latest: tuple[object, ...] = (None,) * len(self._also)
        self._also_due_ns: int | None = None
        self._lock = threading.Lock()  # never held while a sensor is read
        self._integral = Integral(self.source, rate_hz=self.rate_hz)
        self._series = Series(self.source.rails, points=points)
        self._held: list[tuple[int, tuple[float | None, ...]]] = []
        self._errors = 0
        self._busy_ns = 0
        self._died: BaseException | None = None
        self._open = threading.Lock()  # held as long as it is: to wait for it costs least
        self._open.acquire()
        self._thread = threading.Thread(target=self._run, name="hedge-power", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def check(self) -> None:
        """Raise if the thread has died.

        Raises:
            HedgeError: it has; the cause is its error.
        """
        if self._died is not None:
            raise HedgeError(f"the power sampler's thread died: {self._died}") from self._died

    def totals(self) -> Totals:
        """Return all that was gathered so far; from any thread."""
        with self._lock:
            self._count()
            return self._integral.totals(now_ns=self._clock())

    def recent(self) -> Trace:
        """Return the power over the whole run, in bounded detail; from any thread."""
        with self._lock:
            self._count()
            return self._series.trace()

    def latest(self) -> tuple[object, ...]:
        """Return what each of ``also`` returned last; None: nothing yet, or it failed."""
        return self._latest

    def busy_ns(self) -> int:
        """Return the CPU time of the thread, as of its last reading."""
        return self._busy_ns

    def close(self, *, timeout_s: float = _GOODBYE_S) -> None:
        """End the thread and close the reader; closing twice is harmless.

        A reader that still blocks then is left to itself, with its files open.
        """
        if self._open.locked():
            self._open.release()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            _log.warning("%s: blocks, and is left behind", self.source.name)
        else:
            self._reader.close()

    def sample(self) -> None:
        """Take one reading now: what the thread does at every tick."""
        if self.source.rails:
            said = self._read()
            at_ns = self._clock()
            with self._lock:
                self._held.append((at_ns, said))
                if len(self._held) >= _GROUP:
                    self._count()
            if self._hear is not None:
                self._hear(at_ns, said)
        now_ns = self._clock()
        if self._also and (self._also_due_ns is None or self._also_due_ns <= now_ns):
            self._also_due_ns = now_ns + _ALSO_NS
            self._latest = tuple(self._asked(one) for one in self._also)

    def _count(self) -> None:
        """Add up what is held back; with the lock."""
        for at_ns, said in self._held:
            self._integral.add(at_ns, said)
            self._series.add(at_ns, self._integral.rails_w)
        self._held.clear()

    def _read(self) -> tuple[float | None, ...]:
        nothing = (None,) * len(self.source.rails)
        try:
            said = self._reader.read()
        except Exception as error:  # noqa: BLE001 -- a reader's bug must not end the readings
            self._miss(f"cannot be read: {error!r}")
            return nothing
        if len(said) != len(nothing):
            self._miss(f"has {len(nothing)} rails, and {len(said)} were read")
            return nothing
        return said

    def _asked(self, one: Callable[[], object]) -> object:
        try:
            return one()
        except Exception as error:  # noqa: BLE001 -- nor must whatever else is looked at
            self._miss(f"beside it: {error!r}")
            return None

    def _miss(self, what: str) -> None:
        self._errors += 1
        if self._errors & (self._errors - 1) == 0:  # at 1, 2, 4, 8 and so on
            _log.warning("%s: %s (error %d)", self.source.name, what, self._errors)

    def _run(self) -> None:
        try:
            self._keep_reading()
        except BaseException as error:  # noqa: BLE001 -- whatever it is, `check` tells the daemon
            self._died = error

    def _keep_reading(self) -> None:
        period_ns = max(1, int(1e9 / self.rate_hz))
        due_ns, is_closed = self._clock(), False
        while not is_closed:
            self.sample()
            self._busy_ns = time.thread_time_ns()
            now_ns = self._clock()
            due_ns += period_ns * max(1, -(-(now_ns - due_ns) // period_ns))
            is_closed = self._open.acquire(timeout=max(0, due_ns - now_ns) / 1e9)
