"""What the skip filter is taught, and where its threshold stands.

Source: InFi, chapter 3: redundancy is a function of the model's output only, so the filter
learns from what the edge model says and not from what is true.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ..evidence import Array, Figures
from ..measures import Flags

_MAY_BE_LOST = 0.004  # of the calibration rows that matter; a bundle should lose less than 0.01
_MARGIN = 0.1  # in logits


def matters(edge_logits: Array, *, redundant: NDArray[np.intp]) -> Flags:
    """Tell of which rows (n, K) the edge's label is none of the ``redundant``: (n,) bool."""
    return ~np.isin(edge_logits.argmax(axis=1), redundant)


def place_threshold(logits: Figures, keep: Flags) -> float:
    """Return the probability at and below which a sample is dropped.

    ``logits`` (n,) are the filter's on rows that it was not taught with; ``keep`` (n,) tells
    which of them matter, and both kinds occur. At most 0.4 % of those that matter are lost.
    Where a gap lies between them and the redundant rows the threshold stands in its middle,
    since what comes later is never quite like what was there.

    >>> place_threshold(np.array([-4.0, -2.0, 2.0, 3.0]), np.array([False, False, True, True]))
    0.5
    """
    least = float(np.quantile(logits[keep], _MAY_BE_LOST, method="lower"))
    most = float(np.quantile(logits[~keep], 1.0 - _MAY_BE_LOST, method="higher"))
    logit = min(least - _MARGIN, (least + most) / 2.0)
    return 1.0 / (1.0 + math.exp(-logit))
