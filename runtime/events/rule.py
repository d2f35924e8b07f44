"""One rule over the answers of one stream: a pure state machine, without clock or sinks.

Answers count in the order in which they come, which for escalated samples is not the order in
which they were taken: to wait until all older ones are there would hold up every event for as
long as an answer may take, and to leave the late ones out would leave out just those that were
worth asking about. When a sample was taken says what it may do:

- An event begins and ends with the earliest and the latest of its samples, however they came.
- Once an event has closed, samples that were taken before that, or within ``cooldown_s`` of it,
  do not count any more. So no sample opens two events, and none opens one in the past of another.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Literal, NamedTuple

from msgspec import Struct

from .options import EventRule

Why = Literal["quiet", "too_long", "stopped", "source"]

SAMPLES = 100
"""How many ids of samples an event names at most."""
LONG_AGO_NS = -(1 << 62)


class Seen(Struct, frozen=True, gc=False):
    """An event as a rule sees it; times are those of capture, in nanoseconds."""

    state: Literal["opened", "closed"]
    label: str
    opened_ns: int
    held_ns: int
    samples: tuple[str, ...]
    count: int
    peak: float
    why: Why | None = None


class _Hit(NamedTuple):
    """A sample of at least ``enter``: the how many-th it was that counted, and what it was."""

    place: int
    taken_ns: int
    sample: str
    peak: float
    label: str


class _Open:
    """The event that is open."""

    __slots__ = ("count", "held_ns", "label", "latest_ns", "opened_ns", "peak", "quiet", "samples")

    def __init__(self, hits: Sequence[_Hit]) -> None:
        best = max(hits, key=lambda hit: hit.peak)
        self.label, self.peak = best.label, best.peak
        self.opened_ns = min(hit.taken_ns for hit in hits)
        self.held_ns = self.latest_ns = max(hit.taken_ns for hit in hits)
        self.samples = deque((hit.sample for hit in hits), maxlen=SAMPLES)
        self.count = len(hits)
        self.quiet = 0

    def hold(self, taken_ns: int, sample: str, peak: float) -> None:
        """Count a sample of at least ``leave``."""
        self.held_ns = max(self.held_ns, taken_ns)
        self.samples.append(sample)
        self.count += 1
        self.peak = max(self.peak, peak)
        self.quiet = 0

    def seen(self, why: Why | None = None) -> Seen:
        """Return what is known of it by now; ``why`` it closes."""
        return Seen(
            "opened" if why is None else "closed",
            self.label,
            self.opened_ns,
            self.held_ns,
            tuple(self.samples),
            self.count,
            self.peak,
            why,
        )


class Rule:
    """Opens and closes the events of ``labels`` by ``options``, one at a time.

    A sample costs the same whatever ``n`` is; of the past no more than ``k`` samples are kept.
    Those that were taken up to ``since_ns`` do not count.
    """

    def __init__(
        self, options: EventRule, labels: Sequence[str], *, since_ns: int = LONG_AGO_NS
    ) -> None:
        self._labels = tuple(labels)
        self._k, self._n = options.k, options.n
        self._enter, self._leave = options.enter, options.leave
        self._cooldown_ns = round(options.cooldown_s * 1e9)
        self._max_ns = None if options.max_s is None else round(options.max_s * 1e9)
        self._rests_until_ns = since_ns
        self._place = 0
        self._hits: deque[_Hit] = deque(maxlen=options.k)
        self._open: _Open | None = None

    @property
    def is_open(self) -> bool:
        """Whether an event is open."""
        return self._open is not None

    @property
    def due_ns(self) -> int | None:
        """When the event that is open has lasted for ``max_s``; None: never."""
        if self._open is None or self._max_ns is None:
            return None
        return self._open.opened_ns + self._max_ns

    def take(self, taken_ns: int, sample: str, probs: Sequence[float]) -> Sequence[Seen]:
        """Count one answer: the probability of each label, for the ``sample`` of that id.

        Returns what it has closed or opened; both where the one before has lasted too long.
        """
        peak = probs[0] if len(probs) == 1 else max(probs)
        event = self._open
        if event is None:
            if taken_ns <= self._rests_until_ns:
                return ()
            self._place += 1
            found = None if peak < self._enter else self._begin(taken_ns, sample, peak, probs)
        else:
            ended = self.expire(taken_ns)
            if ended is not None:
                return (ended, *self.take(taken_ns, sample, probs))
            found = self._go_on(event, taken_ns, sample, peak)
        return () if found is None else (found,)

    def expire(self, now_ns: int) -> Seen | None:
        """Close what has lasted for ``max_s`` at that moment."""
        due_ns = self.due_ns
        if due_ns is None or now_ns < due_ns:
            return None
        return self.close(due_ns, why="too_long")

    def close(self, at_ns: int, *, why: Why) -> Seen | None:
        """Close what is open, as of that moment."""
        if self._open is None:
            return None
        seen = self._open.seen(why)
        self._open = None
        self._rests_until_ns = max(at_ns, seen.held_ns) + self._cooldown_ns
        return seen

    def _begin(
        self, taken_ns: int, sample: str, peak: float, probs: Sequence[float]
    ) -> Seen | None:
        """Open an event where the last ``k`` hits are all among the last ``n`` samples."""
        hits = self._hits
        hits.append(_Hit(self._place, taken_ns, sample, peak, self._labels[probs.index(peak)]))
        if len(hits) < self._k or hits[0].place <= self._place - self._n:
            return None
        self._open = _Open(hits)
        hits.clear()
        return self._open.seen()

    def _go_on(self, event: _Open, taken_ns: int, sample: str, peak: float) -> Seen | None:
        """Hold the event, or count the samples that do not, up to ``n``."""
        event.latest_ns = max(event.latest_ns, taken_ns)
        if peak >= self._leave:
            event.hold(taken_ns, sample, peak)
            return None
        event.quiet += 1
        return self.close(event.latest_ns, why="quiet") if event.quiet >= self._n else None
