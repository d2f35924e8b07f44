"""What is wrong with a filter that was trained, in a line for each thing: what, why, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from .teach import Judged

RECALL = 0.95  # below which a skip filter is not what its placing meant
REUSE_ACCURACY = 0.95  # at which a reuse filter is placed, on the rows held out
_ACCURACY = 0.9  # below which nobody is served
_FEW = 50
_CHANCE = 1.0 - RECALL  # what a coin filters at that recall


class Counts(NamedTuple):
    """How many rows there were: ``before`` did not get past other filters, ``held`` placed it.

    ``by`` is what was kept together when they were divided.
    """

    rows: int
    before: int
    held: int
    by: str


def cautions(kind: str, found: Judged, counts: Counts) -> Iterator[str]:
    """Yield what a user has to know of a filter before a device runs it."""
    yield from _of_reuse(found, counts) if kind == "reuse" else _of_skip(found, counts)


def _of_skip(found: Judged, counts: Counts) -> Iterator[str]:
    point, could = found.point, found.at_recall
    if could is not None and could.rate <= _CHANCE:
        yield (
            f"it has learnt next to nothing: at a recall of {RECALL:.0%} it could skip "
            f"{could.rate:.1%}, which a coin does, too; give more rows, or another --modality"
        )
    elif point.recall < RECALL:
        yield (
            f"where it stands it loses {1 - point.recall:.1%} of what matters, on rows that "
            f"{_unlike(counts.by)} those that placed it; hedge filter tune puts it elsewhere"
        )
    elif point.rate == 0:
        yield "where it stands it skips nothing; hedge filter tune puts it elsewhere"


def _of_reuse(found: Judged, counts: Counts) -> Iterator[str]:
    point = found.point
    if point.threshold == 0:
        yield (
            f"it reuses nothing but what is equal: at no distance are {REUSE_ACCURACY:.0%} of "
            f"its answers right on the rows that placed it{_few(found, counts)}; {_MORE}"
        )
    elif point.accuracy < REUSE_ACCURACY:
        yield (
            f"{_how_bad(found)}: {point.accuracy:.1%} of the rows that judge it get the "
            f"model's result, and it was placed for {REUSE_ACCURACY:.0%}{_worse(found)}"
            f"{_elsewhere(found, counts)}{_few(found, counts)}; {_MORE}"
        )


_MORE = "give more rows, of more people or machines, or do without it"


def _how_bad(found: Judged) -> str:
    if found.point.accuracy <= max(found.constant, _ACCURACY):
        return "do not use it as it is"
    return "it may do worse than it should"


def _worse(found: Judged) -> str:
    if found.point.accuracy > found.constant:
        return ""
    return f" (the commonest result for all of them is right for {found.constant:.1%})"


def _elsewhere(found: Judged, counts: Counts) -> str:
    """Say that the rows which placed it are not like those that judge it, where that is so."""
    if found.placed is None or found.placed.accuracy < REUSE_ACCURACY:
        return ""
    return (
        f"; of those that placed it {found.placed.accuracy:.1%} do, and the rows that judge "
        f"{_unlike(counts.by)} them"
    )


def _unlike(by: str) -> str:
    kinds = {"group": "are of other groups than", "time": "are of other times than"}
    return kinds.get(by, "are others than")


def _few(found: Judged, counts: Counts) -> str:
    """Say that few results are left to tell apart, and whether other filters take them."""
    if found.rare is None or found.rare >= _FEW:
        return ""
    text = f"; only {found.rare} of the {counts.held} rows that placed it have another result than "
    text += "the commonest"
    if counts.before:
        text += f", since {counts.before} of {counts.rows} rows stop at the filters before it"
    return text
