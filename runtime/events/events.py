"""The events of a device: outcomes go in, and sinks are told what they mean together."""

from __future__ import annotations

import itertools
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from ...models.records import Outcome
from ...telemetry.clock import Clock, boottime_ns
from ...telemetry.gate_state import DriftState
from ..logs import rarely
from ..sinks.sink import Sink
from ..sources.source import Source
from .clips import Clips
from .event import Event
from .open_file import OpenFile
from .options import EventRule
from .rule import LONG_AGO_NS, Rule, Seen, Why

_log = logging.getLogger(__name__)

_AWAY_NS = 5_000_000_000
_LOOK_NS = 1_000_000_000
_GOODBYE_S = 2.0
_NO_LABEL = -1.0  # what a dropped sample has of every label: less than any bound


class Watched(NamedTuple):
    """A stream, as far as its events are concerned: ``labels`` are its bundle's."""

    rules: tuple[EventRule, ...]
    labels: tuple[str, ...]
    source: Source


@dataclass(slots=True)
class _Watch:
    """One rule over one stream, or one of its labels; ``event`` is as it was told last."""

    stream: str
    options: EventRule
    labels: tuple[str, ...]
    places: tuple[int, ...]
    rule: Rule
    event: Event | None = None
    wall_s: float = 0.0  # Unix time less the clock, since the event has opened


@dataclass(slots=True)
class _Stream:
    source: Source
    labels: int
    answered_ns: int
    watches: list[_Watch] = field(default_factory=list)


class Events:
    """Takes outcomes as a sink does, and tells sinks of events; all of it in the loop's thread.

    ``session`` is part of the events' ids, and of those samples that count: what an earlier run
    has asked about is no part of an event of this one. ``wall`` is the Unix time in seconds. An
    `Emitter`, and a `Feed`: time passes here even when no outcome comes. Clips go below
    ``state`` (see `clips`), where is also noted what is open (see `open_file`).
    """

    def __init__(
        self,
        *,
        state: Path,
        session: int,
        clock: Clock = boottime_ns,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._session = f"{session}-"
        self._numbers = itertools.count()
        self._clock = clock
        self._wall = wall
        self._clips = Clips(state=state, wall=wall)
        self._open = OpenFile(state)
        self._left = self._open.left()
        self._streams: dict[str, _Stream] = {}
        self._drifts: dict[str, Event] = {}
        self._known: frozenset[str] = frozenset()
        self._sinks: tuple[Sink, ...] = ()
        self._due_ns: int | None = None
        self._counts: Counter[str] = Counter()

    def serve(self, watched: Mapping[str, Watched], sinks: Sequence[Sink]) -> None:
        """Watch these streams from now on, and tell these sinks.

        A rule that stays as it was keeps the event that is open; that of any other closes, which
        the sinks so far are told.
        """
        now_ns = self._clock()
        old = {_key(one): one for one in self._watches()}
        streams = {
            name: _Stream(one.source, len(one.labels), now_ns) for name, one in watched.items()
        }
        for name, one in watched.items():
            since_ns = now_ns if name in self._known else LONG_AGO_NS
            for new in _made(name, one, since_ns=since_ns):
                streams[name].watches.append(_went_on(old.pop(_key(new), None), new))
        for gone in old.values():
            self._close(gone, now_ns, why="stopped")
        for name, stream in self._streams.items():
            if name not in streams or streams[name].source is not stream.source:
                self._clips.cut(name, now_ns=now_ns)
        self._streams = {name: stream for name, stream in streams.items() if stream.watches}
        self._known = frozenset(watched)
        self._sinks = tuple(sinks)
        self._tell_left()
        self._clips.keep(
            (one.stream, one.options.clip) for one in self._watches() if one.options.clip
        )

    def emit(self, outcome: Outcome) -> None:
        """Count a final outcome; the others are none of an event's business."""
        stream = self._streams.get(outcome.stream)
        if stream is None or not outcome.final or not outcome.id.startswith(self._session):
            return
        probs = outcome.probs
        if outcome.route == "failed" or (probs is None and outcome.route != "dropped"):
            return
        stream.answered_ns, taken_ns = self._clock(), outcome.taken_at_ns
        row = [_NO_LABEL] * stream.labels if probs is None else probs.tolist()
        for watch in stream.watches:
            values = [row[place] for place in watch.places]
            for seen in watch.rule.take(taken_ns, outcome.id, values):
                self._note(watch, seen)

    def drift(self, stream: str, state: DriftState, *, score: str) -> None:
        """Tell that the scores of a stream begin to drift from those of calibration, or cease to.

        It is an event as any other, of the name "drift" and with the score for a label. A state
        of no rows says that nobody watches them any more.
        """
        before = self._drifts.get(stream)
        if state.drifting and before is None:
            event = Event(
                event="drift",
                stream=stream,
                id=f"{self._session}e{next(self._numbers)}",
                state="opened",
                label=score,
                opened_at_s=round(self._wall(), 3),
                statistic=state.statistic,
            )
            self._drifts[stream] = event
            self._note_drift(event)
        elif not state.drifting and before is not None:
            del self._drifts[stream]
            if state.rows:
                self._end_drift(before, why="quiet", statistic=state.statistic)
            else:
                self._end_drift(before, why="stopped", statistic=before.statistic)

    def feed(self, now_ns: int) -> int | None:
        """Close what has lasted too long, or whose source is away, and see to the clips."""
        if self._due_ns is None or now_ns < self._due_ns:
            return self._due_ns
        for stream in self._streams.values():
            for watch in stream.watches:
                seen = watch.rule.expire(now_ns)
                if seen is not None:
                    self._note(watch, seen)
            if now_ns - stream.answered_ns >= _AWAY_NS and _is_away(stream.source):
                for watch in stream.watches:
                    self._close(watch, now_ns, why="source")
        self._tell_clips(self._clips.feed(now_ns))
        self._due_ns = min(self._dues(now_ns), default=None)
        return self._due_ns

    def counters(self) -> dict[str, int]:
        """Return what was counted: events opened and closed by stream and name, clips, errors."""
        return {**self._counts, **self._clips.counts}

    def close(self) -> None:
        """Close what is open, and wait a moment for the clips; closing twice is harmless."""
        now_ns = self._clock()
        for stream in self._streams.values():
            for watch in stream.watches:
                self._close(watch, now_ns, why="source" if stream.source.ended else "stopped")
        self._streams = {}
        for name in list(self._drifts):
            drift = self._drifts.pop(name)
            self._end_drift(drift, why="stopped", statistic=drift.statistic)
        self._tell_clips(self._clips.close(now_ns=now_ns, timeout_s=_GOODBYE_S))
        self._due_ns = None

    def _watches(self) -> Iterator[_Watch]:
        return itertools.chain.from_iterable(one.watches for one in self._streams.values())

    def _dues(self, now_ns: int) -> Iterator[int]:
        clips_ns = self._clips.due_ns(now_ns)
        if clips_ns is not None:
            yield clips_ns
        for stream in self._streams.values():
            is_open = [watch for watch in stream.watches if watch.rule.is_open]
            yield from (watch.rule.due_ns for watch in is_open if watch.rule.due_ns is not None)
            if is_open:
                yield max(stream.answered_ns + _AWAY_NS, now_ns + _LOOK_NS)

    def _close(self, watch: _Watch, now_ns: int, *, why: Why) -> None:
        seen = watch.rule.close(now_ns, why=why)
        if seen is not None:
            self._note(watch, seen)

    def _note(self, watch: _Watch, seen: Seen) -> None:
        """Tell of an event that has opened or closed, and have its clip made."""
        self._due_ns = self._clock()  # the loop is to ask again when something is due
        self._counts[f"events_{seen.state}.{watch.stream}.{watch.options.name}"] += 1
        event = self._event(watch, seen)
        self._open.note(event)
        self._tell(event)
        clip, source = watch.options.clip, self._streams[watch.stream].source
        if seen.state == "opened":
            watch.event = event
            if clip is not None:
                self._clips.begin(event, clip, source.recorder, opened_ns=seen.opened_ns)
        else:
            watch.event = None
            self._clips.end(event, held_ns=seen.held_ns)

    def _end_drift(self, event: Event, *, why: Why, statistic: float | None) -> None:
        closed_at_s = max(event.opened_at_s, round(self._wall(), 3))
        self._note_drift(
            replace(event, state="closed", closed_at_s=closed_at_s, why=why, statistic=statistic)
        )

    def _note_drift(self, event: Event) -> None:
        self._counts[f"events_{event.state}.{event.stream}.drift"] += 1
        self._open.note(event)
        self._tell(event)

    def _event(self, watch: _Watch, seen: Seen) -> Event:
        """Return what is seen by the wall's time, which may step but not within an event."""
        before = watch.event
        if before is None:
            watch.wall_s = self._wall() - self._clock() / 1e9
        closed_ns = None if seen.state == "opened" else seen.held_ns
        return Event(
            event=watch.options.name,
            stream=watch.stream,
            id=f"{self._session}e{next(self._numbers)}" if before is None else before.id,
            state=seen.state,
            label=seen.label,
            opened_at_s=round(watch.wall_s + seen.opened_ns / 1e9, 3),
            closed_at_s=None if closed_ns is None else round(watch.wall_s + closed_ns / 1e9, 3),
            samples=seen.samples,
            count=seen.count,
            peak=seen.peak,
            why=seen.why,
            clip=None if before is None else before.clip,
        )

    def _tell_left(self) -> None:
        """Tell that what the last run has left open is over; nobody knows since when."""
        left, self._left = self._left, []
        for event in left:
            if event.stream in self._known:
                self._counts["events_left_open"] += 1
                self._tell(replace(event, state="closed", why="stopped"))

    def _tell_clips(self, events: Sequence[Event]) -> None:
        for event in events:
            self._tell(event)
            for watch in self._watches():
                if watch.event is not None and watch.event.id == event.id:
                    watch.event = replace(watch.event, clip=event.clip)

    def _tell(self, event: Event) -> None:
        for sink in self._sinks:
            try:
                sink.tell(event)
            except OSError as error:
                self._counts["event_sink_errors"] += 1
                level = rarely(self._counts["event_sink_errors"])
                _log.log(level, "an event was not written: %s", error)


def _made(name: str, one: Watched, *, since_ns: int) -> Iterator[_Watch]:
    """Make a watch of each rule; of each of its labels where it says so."""
    for options in one.rules:
        groups = [(label,) for label in options.labels] if options.separate else [options.labels]
        for labels in groups:
            places = tuple(one.labels.index(label) for label in labels)
            yield _Watch(name, options, labels, places, Rule(options, labels, since_ns=since_ns))


def _went_on(old: _Watch | None, new: _Watch) -> _Watch:
    """Return the new one, with what the old one has seen."""
    if old is None:
        return new
    return _Watch(new.stream, new.options, new.labels, new.places, old.rule, old.event, old.wall_s)


def _key(watch: _Watch) -> tuple[str, EventRule, tuple[str, ...]]:
    return watch.stream, watch.options, watch.labels


def _is_away(source: Source) -> bool:
    state = source.state()
    return source.ended or (state is not None and state.state != "open")
