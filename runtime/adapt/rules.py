"""The rule by which pairs are let out of quarantine: how much any device, or class, may teach."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
from msgspec import Struct

from .pairs import Pair


class Rule(Struct, frozen=True, kw_only=True):
    """What a pair must be, and how much the pairs of one kind may be of those that are released.

    ``devices`` and ``streams`` are the only ones that count, where given (a device by SITE/DEVICE
    or by its name alone), as are the samples' ``ids``. The cloud's greatest probability is
    ``least_confidence`` or more. Of a device there are ``per_device`` at most, of all that are
    released no device has more than ``device_share`` and no class more than ``class_share``.
    """

    devices: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    least_confidence: float | None = None
    per_device: int | None = None
    device_share: float | None = None
    class_share: float | None = None


def chosen(rule: Rule, quarantined: Sequence[Pair], released: Sequence[Pair]) -> list[Pair]:
    """Return which of the ``quarantined`` pairs the rule releases; those ``released`` count, too.

    Where some have to stay, which go is decided by their keys: not by their order, on which a
    device that is quick would have a hold.
    """
    found = sorted((one for one in quarantined if matches(rule, one)), key=lambda one: one.key)
    if rule.per_device is not None:
        have = Counter(one.whose for one in released)
        kept = []
        for one in found:
            if have[one.whose] < rule.per_device:
                have[one.whose] += 1
                kept.append(one)
        found = kept
    before = -1
    while before != len(found):  # each share may shrink what the other is a share of
        before = len(found)
        found = _shared(found, released, share=rule.device_share, of=lambda one: one.whose)
        found = _shared(found, released, share=rule.class_share, of=lambda one: str(one.label))
    return found


def matches(rule: Rule, pair: Pair) -> bool:
    """Tell whether a pair is one that the rule speaks of."""
    return (
        (not rule.devices or not {pair.whose, pair.device}.isdisjoint(rule.devices))
        and (not rule.streams or pair.stream in rule.streams)
        and (not rule.ids or pair.id in rule.ids)
        and (rule.least_confidence is None or pair.confidence >= rule.least_confidence)
    )


def _shared(
    found: list[Pair],
    released: Sequence[Pair],
    *,
    share: float | None,
    of: Callable[[Pair], str],
) -> list[Pair]:
    """Return as many of ``found`` that no kind is more than ``share`` of all, released ones too."""
    if share is None or not found:
        return found
    have = Counter(of(one) for one in released)
    wanted = have + Counter(of(one) for one in found)
    most = _fair(list(wanted.values()), share=share)
    kept = []
    for one in found:
        if have[of(one)] < most:
            have[of(one)] += 1
            kept.append(one)
    return kept


def _fair(counts: Sequence[int], *, share: float) -> int:
    """Return the greatest number at which no count, cut to it, is more than ``share`` of all."""
    ordered = np.array(counts)
    for most in range(int(ordered.max()), 0, -1):
        if most <= math.floor(share * int(np.minimum(ordered, most).sum()) + 1e-9):
            return most
    return 0
