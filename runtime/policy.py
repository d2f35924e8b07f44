"""The policy: what to do with an opinion, by the decision table of the paper.

======================================================  ========  ==================
the edge's opinion                                      action    reason
======================================================  ========  ==================
score < total                                           accept    sure
score ≥ total, the model has no evidence                escalate  score
score ≥ total, epistemic high                           escalate  epistemic
score ≥ total, epistemic low, aleatoric high            fuse      aleatoric
... and fusion is off                                   escalate  aleatoric
score ≥ total, neither high                             escalate  neither
... and the calibration says ``neither = "edge"``       accept    neither
there is none: the bundle has no edge model             escalate  no_edge
======================================================  ========  ==================

The paper leaves the last case open. What happens when no answer comes is the loop's.
Source: Lu et al., algorithm 1 and eq. 4-5.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from ..models.manifest import Calibration
from ..models.records import Decision, Opinion, Probs

SURE = Decision("accept", "sure")
SCORE = Decision("escalate", "score")
EPISTEMIC = Decision("escalate", "epistemic")
FUSE = Decision("fuse", "aleatoric")
ALEATORIC = Decision("escalate", "aleatoric")
NEITHER = Decision("escalate", "neither")
NEITHER_EDGE = Decision("accept", "neither")
NO_EDGE = Decision("escalate", "no_edge")


class Policy(Struct, frozen=True, kw_only=True):
    """The thresholds of one bundle; `decide` is called once per sample.

    ``total`` is on the gating score, ``epistemic`` and ``aleatoric`` on the normalised
    uncertainties; a threshold that is None is never reached. High means at the threshold
    or above it.
    """

    total: float
    epistemic: float | None = None
    aleatoric: float | None = None
    fusion: bool = False
    neither: Literal["cloud", "edge"] = "cloud"

    @classmethod
    def of(cls, calibration: Calibration) -> Policy:
        """Return the policy that a bundle's calibration asks for."""
        return cls(
            total=calibration.total,
            epistemic=calibration.epistemic,
            aleatoric=calibration.aleatoric,
            fusion=calibration.fusion,
            neither=calibration.neither,
        )

    def decide(
        self, opinion: Opinion, outputs: Probs, *, deepen: Callable[[Opinion, Probs], Opinion]
    ) -> tuple[Decision, Opinion]:
        """Return the decision on the ``opinion`` on ``outputs``, and it, deepened past the gate.

        ``deepen`` fills in the costlier uncertainties (`Assessor.deepen`); a score that is
        NaN is not below the gate.
        """
        if opinion.score < self.total:
            return SURE, opinion
        if self.epistemic is None and self.aleatoric is None:
            return SCORE, opinion
        deep = deepen(opinion, outputs)
        return (SCORE if deep.vacuity is None else self._split(deep)), deep

    def _split(self, deep: Opinion) -> Decision:
        if _reaches(deep.epistemic, self.epistemic):
            return EPISTEMIC
        if _reaches(deep.aleatoric, self.aleatoric):
            return FUSE if self.fusion else ALEATORIC
        return NEITHER if self.neither == "cloud" else NEITHER_EDGE


def _reaches(value: float | None, threshold: float | None) -> bool:
    return value is not None and threshold is not None and value >= threshold
