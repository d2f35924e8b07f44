"""Outcomes and events on the device's own MQTT topics, by way of the uplink's connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from ...models.records import Outcome
from ...uplink.publishers.outcomes import OutcomePublisher
from ..events.event import Event
from .sink import line_of

_FULL = "the queue of outcomes to be published is full"


class MqttSink:
    """Encodes outcomes and offers them to the publisher, which the uplink's thread drives.

    ``which`` are "finals", or "all": first outcomes and late answers, too; ``events`` go out
    in either case. ``wall`` is the Unix time in seconds, which stamps outcomes.
    """

    def __init__(
        self,
        publisher: OutcomePublisher,
        *,
        labels: Mapping[str, tuple[str, ...]],
        which: Literal["finals", "all"] = "finals",
        events: bool = True,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._publisher = publisher
        self._labels = labels
        self._all = which == "all"
        self._events = events
        self._wall = wall
        self._encode = msgspec.json.Encoder().encode

    def emit(self, outcome: Outcome) -> None:
        """Hand one outcome over.

        Raises:
            OSError: the queue is full.
        """
        if not (outcome.final or self._all):
            return
        line = line_of(outcome, self._labels[outcome.stream], at_s=round(self._wall(), 3))
        taken = self._publisher.offer(
            outcome.stream,
            self._encode(line),
            final=outcome.final,
            escalated=outcome.final and _was_escalated(outcome),
        )
        if not taken:
            raise OSError(_FULL)

    def tell(self, event: Event) -> None:
        """Hand one event over, as `emit` does an outcome."""
        if self._events and not self._publisher.tell(event.stream, self._encode(event)):
            raise OSError(_FULL)

    def close(self) -> None:
        """Do nothing: the publisher is closed by the uplink's thread."""


def _was_escalated(outcome: Outcome) -> bool:
    return outcome.route in {"cloud", "fused"} or outcome.degraded is not None
