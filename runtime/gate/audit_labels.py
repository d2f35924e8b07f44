"""Hands the labels that have come to the gates of their streams, in the loop's thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...uplink.publishers.labels import Label, LabelTopic
from ..lane import Lane
from .gate import Gate


class AuditLabels:
    """A `Feed`: what ``topic`` has received (None: nothing) is held against what was drawn.

    ``lanes`` gives those that are served now, ``labels`` the names of their classes. A label for
    what was not drawn, or was judged already, or of no class is counted.
    """

    def __init__(
        self,
        topic: LabelTopic | None,
        *,
        lanes: Callable[[], Sequence[Lane]],
        labels: Mapping[str, tuple[str, ...]],
    ) -> None:
        self._topic = topic
        self._lanes = lanes
        self._labels = labels
        self._counts = {"labels_counted": 0, "labels_undrawn": 0, "labels_unknown": 0}

    def feed(self, now_ns: int) -> int | None:  # noqa: ARG002 -- the protocol's
        """Take in what has come; nothing is due by itself."""
        taken = () if self._topic is None else self._topic.taken()
        if taken:
            gates = {lane.name: lane.gate for lane in self._lanes()}
            for stream, label in taken:
                self._counts[self._learn(stream, label, gates.get(stream))] += 1
        return None

    def counters(self) -> dict[str, int]:
        """Return what became of the labels."""
        return self._counts.copy()

    def _learn(self, stream: str, told: Label, gate: Gate | None) -> str:
        names = self._labels.get(stream, ())
        label = _index(told.label, names)
        if gate is None or label is None:
            return "labels_unknown"
        found = gate.audit.recall(told.id)
        if found is None:
            return "labels_undrawn"
        gate.learn(found, truth=label)
        return "labels_counted"


def _index(label: str | int, names: tuple[str, ...]) -> int | None:
    if isinstance(label, str):
        return names.index(label) if label in names else None
    return label if label < len(names) else None
