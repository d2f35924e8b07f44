"""What a filter says of a sample that it keeps from the model, and what a filter is."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, Protocol

from numpy.typing import NDArray

from ...models.records import Probs


class Filtered(NamedTuple):
    """A sample that the model need not see: dropped, or answered as ``reused_from`` was.

    ``probs`` (K,) are those of the answer, ``label`` the greatest of them.
    """

    route: Literal["dropped", "reused"]
    probs: Probs | None = None
    label: int | None = None
    reused_from: str | None = None


DROPPED = Filtered("dropped")


class Filter(Protocol):
    """A filter of single samples, as a `Screen` calls it."""

    @property
    def certainty(self) -> float | None:
        """How certain it was of the last sample, in units of its own; None: it cannot tell."""

    def judge(self, batch: NDArray[Any]) -> Filtered | None:
        """Return what becomes of the one sample of ``batch`` (1, *input shape); None: it goes on.

        Raises:
            ModelError: the filter failed, or what it gives is no number.
        """
