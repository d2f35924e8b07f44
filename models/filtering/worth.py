"""Whether a filter saves more than it costs, and whether that can be told.

It pays where its rate r > C(filter) / (C(model) - C(filtered)). Costs are measured, and no two
measurements agree: where the interval of what is saved holds nothing, too, that is no verdict.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from msgspec import Struct

from ..calibration.promise import student_quantile

Verdict = Literal["pays", "does not pay", "cannot be told"]
_QUANTILE = 0.975


class Worth(Struct, frozen=True):
    """Whether a filter ``pays``: its rate has to be above ``needed``, by its cost over the model's.

    ``saved`` is the share of the cost that is saved in all; below 0 it costs more than it saves.
    """

    needed: float
    saved: float
    pays: bool


class Saving(Struct, frozen=True):
    """The share of a model's cost that a filter saves in all, below 0 where it costs more.

    ``low`` and ``high`` hold it with 95 %.
    """

    share: float
    low: float
    high: float

    @property
    def verdict(self) -> Verdict:
        """What that says of the filter."""
        if self.low > 0:
            return "pays"
        return "does not pay" if self.high <= 0 else "cannot be told"

    def __str__(self) -> str:
        return f"{self.share:.1%} [{self.low:.1%}, {self.high:.1%}]"


def worth(
    rate: float, *, filter_cost: float, model_cost: float, filtered_cost: float = 0.0
) -> Worth:
    """Return whether a filter pays: iff rate > C(filter) / (C(model) - C(filtered)).

    The costs are of one sample each, in one unit: milliseconds, or joules. ``filtered_cost`` is
    what one takes beyond the filter that is filtered: 0 for one that is skipped.

    >>> worth(0.5, filter_cost=1.0, model_cost=4.0)
    Worth(needed=0.25, saved=0.25, pays=True)
    """
    spared = model_cost - filtered_cost
    needed = filter_cost / spared if spared > 0 else math.inf
    saved = (rate * spared - filter_cost) / model_cost if model_cost > 0 else -math.inf
    return Worth(needed, saved, saved > 0)


def saving_of(each: Sequence[float], *, least: float = 0.0) -> Saving:
    """Return the saving of which these are measurements, two at least, by Student's t.

    ``least`` is how far it is off at least, however well they agree.

    >>> saving_of([0.1, 0.2, 0.3]).verdict
    'cannot be told'
    """
    mean = float(np.mean(each))
    half = student_quantile(_QUANTILE, len(each) - 1) * float(np.std(each, ddof=1))
    half = max(least, half / math.sqrt(len(each)))
    return Saving(mean, mean - half, mean + half)
