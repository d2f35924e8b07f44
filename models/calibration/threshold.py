"""Where a threshold stands so that no more than a share reaches it."""

from __future__ import annotations

import math

import numpy as np

from ..evidence import Figures


def threshold_for_rate(score: Figures, *, rate: float) -> float:
    """Return the least threshold that at most the share ``rate`` of ``score`` (N,) reaches.

    Rows that tie are never divided, so with ties the share reached may be smaller.

    >>> threshold_for_rate(np.array([0.1, 0.5, 0.5, 0.9]), rate=0.5)
    0.9
    """
    allowed = math.floor(rate * len(score) + 1e-9)
    ordered = np.sort(score)[::-1]
    if allowed >= len(score):
        return float(ordered[-1])
    first_out = ordered[allowed]
    reached = ordered[ordered > first_out]
    return float(reached[-1]) if len(reached) else float(np.nextafter(first_out, np.inf))
