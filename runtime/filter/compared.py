"""A filter beside others that have learnt nothing, at the same accuracy and the same recall."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct
from numpy.typing import NDArray

from ...models.filtering.baselines import Told, best, named
from ...models.filtering.operating_point import Point


class At(Struct, frozen=True, kw_only=True):
    """What one filter reaches at the accuracy, and at the recall; None: it cannot reach it.

    ``optimum`` is the greatest rate at the accuracy.
    """

    name: str
    at_accuracy: Point | None
    at_recall: Point | None
    optimum: float


def compared(
    own: Sequence[Point],
    told: Told,
    x: NDArray[Any],
    *,
    accuracy: float,
    recall: float,
    optimum: float,
) -> Iterator[At]:
    """Yield the filter by its ``own`` points, and the others on the same rows ``x`` (N, …)."""
    for name, points in [("this filter", list(own)), *named(told, x)]:
        yield At(
            name=name,
            at_accuracy=best(points, accuracy=accuracy),
            at_recall=best(points, recall=recall),
            optimum=optimum,
        )
