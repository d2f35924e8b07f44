"""What evidence costs the probabilities, and what to do about it, in one line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Literal

from .record import MEASURES, Quality, Scored, Worse

_SHOWN = 4  # digits, to which a figure has to differ
_FLAGS = MappingProxyType({"max softmax": "max_prob", "p-norm": "p_norm"})


def worse_of(before: Quality, after: Quality, scaled: Quality) -> tuple[Worse, ...]:
    """Return which measures are worse ``after``, in the figures shown, and than what."""
    return (*_worse(before, after, "before"), *_worse(scaled, after, "temperature"))


def _worse(
    other: Quality, after: Quality, than: Literal["before", "temperature"]
) -> Iterator[Worse]:
    for measure in ("ece_prob", "brier", "log_score_nats"):
        was, now = getattr(other, measure), getattr(after, measure)
        if round(now, _SHOWN) > round(was, _SHOWN):
            yield Worse(measure=measure, than=than, was=was, now=now)


def advise(
    scores: Sequence[Scored], worse: Sequence[Worse], *, part: Literal["edge", "cloud"]
) -> str:
    """Return what follows for who has to choose; ``scores`` begin with vacuity's.

    What an edge gates by can be said to ``hedge calibrate``; a cloud gates nothing.
    """
    best = min(scores[1:], key=lambda one: one.augrc)
    gain = best.augrc - scores[0].augrc
    name = _FLAGS.get(best.name, best.name)
    if gain > 0:
        chance = "" if best.low > 0 else " (within what chance does)"
        gained = f"vacuity gains {gain:.5f} of AUGRC over {best.name}{chance}"
        if not worse:
            return f"{gained}, and the probabilities are no worse: take the evidence"
        return f"{gained}, but {_worst(worse)}: gate by it, and read no probabilities off it"
    if not worse:
        return "vacuity gains no AUGRC here, and the probabilities are no worse"
    how = f" (hedge calibrate --score {name})" if part == "edge" else ""
    return (
        f"vacuity gains no AUGRC here, and {_worst(worse)}: the plainer score {best.name}, of the "
        f"model as it was, is no worse and costs less{how}"
    )


def _worst(worse: Sequence[Worse]) -> str:
    """Return the change that weighs most for its size, than before if there is one."""
    before = [one for one in worse if one.than == "before"]
    one = max(before or worse, key=lambda one: one.now / max(one.was, 1e-9))
    than = "" if before else " beside a temperature alone"
    return f"{MEASURES[one.measure]} worsens from {one.was:.4f} to {one.now:.4f}{than}"
