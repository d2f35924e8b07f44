"""Whether to fuse: only where the calibration rows show that it gains."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from ..fusion import fuse
from ..measures import Flags, Labels, hits
from ..opinion import Opinions

SIGNIFICANCE = 0.05


class FusionGain(NamedTuple):
    """What fusing did to ``rows`` rows: accuracy, fused less cloud, and its p-value."""

    rows: int
    gain: float | None
    p_value: float

    @property
    def significant(self) -> bool:
        """Whether fusing is better than the cloud alone, at the 5 % level."""
        return self.p_value < SIGNIFICANCE


def fusion_gain(edge: Opinions, cloud: Opinions, y: Labels) -> FusionGain:
    """Return what fusing gains over the cloud alone on these rows.

    The p-value is that of the exact one-sided sign test on the rows where they differ.
    """
    if not len(y):
        return FusionGain(0, None, 1.0)
    fused, alone = hits(fuse(edge, cloud), y), hits(cloud.probs, y)
    won, lost = int(np.sum(fused & ~alone)), int(np.sum(alone & ~fused))
    return FusionGain(len(y), (won - lost) / len(y), sign_test(won, lost))


def sign_test(won: int, lost: int) -> float:
    """Return P(X ≥ won) for X ~ Binomial(won + lost, ½).

    >>> sign_test(3, 1)  # (4 + 1) / 16
    0.3125
    """
    trials = won + lost
    return sum(math.comb(trials, k) for k in range(won, trials + 1)) / (1 << trials)


def fuse_case(
    deep: Opinions, *, total: float, epistemic: float | None, aleatoric: float | None
) -> Flags:
    """Return (N,) the rows that the policy's table would fuse."""
    if deep.epistemic is None or deep.aleatoric is None or epistemic is None or aleatoric is None:
        return np.zeros(len(deep.score), bool)
    low = deep.epistemic < epistemic
    return (deep.score >= total) & low & (deep.aleatoric >= aleatoric)
