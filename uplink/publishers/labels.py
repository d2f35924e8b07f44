"""The truth about samples, from whoever knows it: labels that come over the device's connection.

``label/<stream>`` holds one JSON object a message, ``{"id": …, "label": …}``: the id of an
outcome, and the name of its true class, or its place among them. A label is for now: one that
the broker has retained is passed over. Only what was drawn for the audit counts (`gate.audit`).
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from ..link.link import Link, Received
from ..topics import Device
from ..wire import Id

MAX_LABEL_BYTES = 1024


class Label(Struct, frozen=True):
    """What the sample ``id`` really was: the class's name, or its place among the labels."""

    id: Id
    label: Annotated[str, Meta(max_length=256)] | Annotated[int, Meta(ge=0, lt=1 << 16)]


class LabelTopic:
    """A `Publisher` that publishes nothing: it takes in the labels of ``streams``.

    ``ring`` tells the loop that there are some; what it has not taken yet is bounded, and what
    is beyond that is lost and counted.
    """

    busy = False

    def __init__(
        self,
        device: Device,
        *,
        streams: Iterable[str],
        ring: Callable[[], None],
        most: int = 1024,
    ) -> None:
        self._device = device
        self._ring = ring
        self._most = most
        self._streams: dict[str, str] = {}
        self._asked_for: frozenset[str] = frozenset()
        self._waiting: deque[tuple[str, Label]] = deque()
        self._read = msgspec.json.Decoder(Label).decode
        names = ("received", "malformed", "retained", "lost")
        self._counts = {f"labels_{name}": 0 for name in names}
        self.renew(streams)

    def renew(self, streams: Iterable[str]) -> None:
        """Take in the labels of these streams from now on; from any one thread."""
        self._streams = {self._device.label(stream): stream for stream in streams}

    def taken(self) -> list[tuple[str, Label]]:
        """Fetch what has come since the last call, each with its stream."""
        return [self._waiting.popleft() for _ in range(len(self._waiting))]

    @property
    def filters(self) -> tuple[str, ...]:
        """The topics of the streams."""
        self._asked_for = frozenset(self._streams)
        return tuple(self._streams)

    def connected(self, link: Link) -> None:
        """Do nothing: the filters are subscribed to by others."""

    def disconnected(self) -> None:
        """Do nothing."""

    def received(self, event: Received) -> bool:
        """Take in a label; see `Publisher`."""
        stream = self._streams.get(event.topic)
        if stream is None:
            return event.topic in self._asked_for  # of a stream that a reload has taken away
        if event.retained:
            self._counts["labels_retained"] += 1
        elif len(self._waiting) >= self._most:
            self._counts["labels_lost"] += 1
        else:
            self._take(stream, event.payload)
        return True

    def delivered(self, mid: int, refused: str | None) -> bool:  # noqa: ARG002 -- the protocol's
        """Return False: nothing was sent."""
        return False

    def turn(self, link: Link | None, now_ns: int) -> None:  # noqa: ARG002 -- the protocol's
        """Subscribe to what a reload has added; see `Publisher`."""
        streams = self._streams
        if link is not None and not streams.keys() <= self._asked_for:
            link.subscribe(tuple(topic for topic in streams if topic not in self._asked_for))
            self._asked_for |= frozenset(streams)

    def next_ns(self) -> int | None:
        """Return None: nothing is due by itself; see `Publisher`."""
        return None

    def counters(self) -> dict[str, int]:
        """Return how many labels came, and how many of them came to nothing; see `Publisher`."""
        return self._counts.copy()

    def close(self) -> None:
        """Do nothing: a label that was not taken in is gone; see `Publisher`."""

    def _take(self, stream: str, payload: bytes) -> None:
        label = None
        if len(payload) <= MAX_LABEL_BYTES:
            with contextlib.suppress(ValueError, RecursionError):
                label = self._read(payload)
        if label is None:
            self._counts["labels_malformed"] += 1
            return
        self._counts["labels_received"] += 1
        self._waiting.append((stream, label))
        self._ring()
