"""Outcomes on the device's own MQTT topics, by way of the uplink's connection."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Literal

import msgspec

from ...models.records import Outcome
from ...uplink.publishers.outcomes import OutcomePublisher
from .sink import line_of


class MqttSink:
    """Encodes outcomes and offers them to the publisher, which the uplink's thread drives.

    ``which`` are "finals", or "all": first outcomes and late answers, too. ``wall`` is the
    Unix time in seconds, which stamps them.
    """

    def __init__(
        self,
        publisher: OutcomePublisher,
        *,
        labels: Mapping[str, tuple[str, ...]],
        which: Literal["finals", "all"] = "finals",
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._publisher = publisher
        self._labels = labels
        self._all = which == "all"
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
            raise OSError("the queue of outcomes to be published is full")

    def close(self) -> None:
        """Do nothing: the publisher is closed by the uplink's thread."""


def _was_escalated(outcome: Outcome) -> bool:
    return outcome.route in {"cloud", "fused"} or outcome.degraded is not None
