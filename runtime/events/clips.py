"""Clips: the seconds around each event, and when they are complete.

The clip of an event goes from ``pre_s`` before its first sample to ``post_s`` after its last, but
of the event itself it has no more than ``max_s``: of one that is longer it is written while the
event goes on, for a recorder does not remember more.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from ..sources.source import Recorder
from .clip_writer import ClipWriter, Order
from .event import Clip, Event
from .options import ClipOptions, EventRule

_SPARE_S = 5.0  # an event is found some time after it began, and a clip may wait for another
_LAG_NS = 500_000_000  # what was captured at the very end may still be under way to the recorder
_MOST = 64
_LOOK_NS = 100_000_000


def clip_needs(rules: Sequence[EventRule]) -> tuple[float, int] | None:
    """Return for how many seconds, and how many bytes, a recorder must keep for these rules.

    It is what `Recorder.keep` takes, to be called before the source is read. None: no rule
    has a clip. They are twice the bytes of a clip, so that of one that is cut off the beginning
    is not forgotten yet when it is written.
    """
    clips = [rule.clip for rule in rules if rule.clip is not None]
    if not clips:
        return None
    seconds = max(one.pre_s + one.max_s + one.post_s for one in clips)
    return seconds + _SPARE_S, 2 * max(one.max_bytes for one in clips)


@dataclass(slots=True)
class _Due:
    """A clip that is to be: of an event as it was told last, complete at ``end_ns``.

    Without ``recorder`` the writer has it already, or it was refused.
    """

    event: Event
    options: ClipOptions
    recorder: Recorder | None
    begin_ns: int
    end_ns: int


class Clips:
    """Has the clip of each event written when it is complete, by a `ClipWriter`."""

    def __init__(self, *, state: Path, wall: Callable[[], float]) -> None:
        self._writer = ClipWriter(state=state, wall=wall)
        self._due: dict[str, _Due] = {}
        self.counts: Counter[str] = Counter()

    def keep(self, wanted: Iterable[tuple[str, ClipOptions]]) -> None:
        """Keep the clips of these streams by these options from now on."""
        self._writer.keep(wanted)

    def begin(
        self, event: Event, options: ClipOptions, recorder: Recorder | None, *, opened_ns: int
    ) -> None:
        """Keep the time around an event that has opened."""
        longest_ns = _ns(options.max_s) + _ns(options.post_s)
        if recorder is None:
            self._writer.refuse(event.id, "its source keeps nothing")
        elif len(self._due) >= _MOST:
            self._writer.refuse(event.id, f"{_MOST} others are under way")
            recorder = None
        self._due[event.id] = _Due(
            event, options, recorder, opened_ns - _ns(options.pre_s), opened_ns + longest_ns
        )

    def end(self, event: Event, *, held_ns: int) -> None:
        """Note that an event has closed, of which the last sample was taken at ``held_ns``."""
        due = self._due.get(event.id)
        if due is not None:
            due.event = event
            due.end_ns = min(due.end_ns, held_ns + _ns(due.options.post_s))

    def cut(self, stream: str, *, now_ns: int) -> None:
        """Write what is there of a stream's clips: its source goes."""
        for due in self._due.values():
            if due.event.stream == stream:
                self._order(due, now_ns=now_ns)

    def feed(self, now_ns: int) -> list[Event]:
        """Have written what is complete; return what is to be told."""
        for due in self._due.values():
            if due.end_ns + _LAG_NS <= now_ns:
                self._order(due, now_ns=now_ns)
        return [self._told(event_id, clip) for event_id, clip in self._writer.done()]

    def due_ns(self, now_ns: int) -> int | None:
        """Return when there is something to do again."""
        dues = (
            now_ns + _LOOK_NS if due.recorder is None else due.end_ns + _LAG_NS
            for due in self._due.values()
        )
        return min(dues, default=None)

    def close(self, *, now_ns: int, timeout_s: float) -> list[Event]:
        """Write what there is as long as it takes, but no longer; return what is to be told."""
        for due in self._due.values():
            self._order(due, now_ns=now_ns)
        self._writer.close(timeout_s=timeout_s)
        found = self.feed(now_ns)
        late = Clip(why="it was not written in time when the device stopped")
        return found + [self._told(event_id, late) for event_id in list(self._due)]

    def _order(self, due: _Due, *, now_ns: int) -> None:
        """Give a clip to the writer, once."""
        if due.recorder is None:
            return
        event = due.event
        order = Order(
            id=event.id,
            event=event.event,
            stream=event.stream,
            opened_at_s=event.opened_at_s,
            options=due.options,
            recorder=due.recorder,
            begin_ns=due.begin_ns,
            end_ns=min(due.end_ns, now_ns),
        )
        due.recorder = None
        self._writer.order(order)

    def _told(self, event_id: str, clip: Clip) -> Event:
        self.counts["clips_kept" if clip.path is not None else "clips_missed"] += 1
        return replace(self._due.pop(event_id).event, state="clip", clip=clip)


def _ns(seconds: float) -> int:
    return round(seconds * 1e9)
