"""Calibration: where the gate stands, from rows that training has not seen.

The score, its threshold, the split above it and whether to fuse are all chosen on calibration
rows; what they are worth has to be measured on others. Source: Lu et al., §4.1 (4), with what
the paper leaves open settled by measurement.
"""

from .aims import Aim, BudgetAim, PaperQuantiles, TargetAccuracy, TargetRate
from .calibrating import PAPER_QUANTILE, SCORES, calibrate
from .choice import choose_score
from .fusion import fusion_gain
from .threshold import threshold_for_rate

__all__ = [
    "PAPER_QUANTILE",
    "SCORES",
    "Aim",
    "BudgetAim",
    "PaperQuantiles",
    "TargetAccuracy",
    "TargetRate",
    "calibrate",
    "choose_score",
    "fusion_gain",
    "threshold_for_rate",
]
