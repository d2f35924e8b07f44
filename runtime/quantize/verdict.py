"""Whether an int8 model may stand in for the float one, and in plain words why not."""

from __future__ import annotations

from collections.abc import Iterator

from .comparison import Change, Comparison

MOST_ACCURACY_LOST = 0.01  # of all rows, and of the accepted ones
MOST_AUGRC_GAINED = 0.10  # of what it was
MOST_SHARE_MOVED = 0.25  # of what it was


def concerns(found: Comparison) -> Iterator[str]:
    """Yield what is worse beyond its bound, where the interval says that it is no accident."""
    bound = MOST_ACCURACY_LOST
    if _falls(found.accuracy, by=bound):
        yield f"accuracy falls by more than a point: {_points(found.accuracy)}"
    if found.accepted_accuracy is not None and _falls(found.accepted_accuracy, by=bound):
        yield (
            "accuracy of the accepted falls by more than a point: "
            f"{_points(found.accepted_accuracy)}"
        )
    rises = found.augrc.change > MOST_AUGRC_GAINED * found.augrc.before
    if rises and found.augrc.low > 0:
        yield (
            f"AUGRC, the risk of silent failures, rises by more than a tenth: "
            f"{found.augrc.before:.5f} to {found.augrc.after:.5f}"
        )
    if found.escalated is not None and _moves(found.escalated):
        yield f"the share escalated moves by more than a quarter: {_points(found.escalated)}"


def _falls(figure: Change, *, by: float) -> bool:
    return figure.change < -by and figure.high < 0


def _moves(figure: Change) -> bool:
    sure = figure.low > 0 or figure.high < 0
    return abs(figure.change) > MOST_SHARE_MOVED * figure.before and sure


def _points(figure: Change) -> str:
    return f"{figure.before:.1%} to {figure.after:.1%}"
