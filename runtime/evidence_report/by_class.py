"""What escalates, class by class, and what it is taken for."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ...models.measures import Flags, Labels, hits
from .answers import Answers
from .record import Classes, OfClass

MOST_CLASSES = 100
"""Of more, no one reads a matrix."""


def by_class(found: Answers, y: Labels, *, labels: tuple[str, ...]) -> Classes:
    """Return the figures of each class on rows of classes ``y`` (N,)."""
    return Classes(of=tuple(_each(found, y, labels)), taken_for=_taken_for(found, y, len(labels)))


def _each(found: Answers, y: Labels, labels: tuple[str, ...]) -> Iterator[OfClass]:
    near = hits(found.edge.probs, y)
    far = None if found.cloud is None else hits(found.cloud.probs, y)
    both = None if found.cooperative is None else hits(found.cooperative.probs, y)
    asked = None if found.asked is None else found.asked.escalated
    for place, label in enumerate(labels):
        of = y == place
        yield OfClass(
            label=label,
            rows=int(of.sum()),
            escalated=_share(asked, of),
            edge_accuracy=_share(near, of),
            accepted_accuracy=None if asked is None else _share(near, of & ~asked),
            cloud_accuracy=_share(far, of),
            cooperative_accuracy=_share(both, of),
        )


def _share(which: Flags | None, of: Flags) -> float | None:
    return None if which is None or not of.any() else float(which[of].mean())


def _taken_for(found: Answers, y: Labels, classes: int) -> tuple[tuple[int, ...], ...]:
    """Return counts (K, K) of the rows that escalate: by class, and by the edge's label."""
    if found.asked is None or classes > MOST_CLASSES:
        return ()
    which, said = found.asked.escalated, found.edge.probs.argmax(axis=1)
    counts = np.zeros((classes, classes), np.intp)
    np.add.at(counts, (y[which], said[which]), 1)
    return tuple(tuple(row) for row in counts.tolist())
