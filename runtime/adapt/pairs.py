"""A pair: a sample, what the edge thought of it, and the answer of a cloud.

Those that `hedge adapt` learns from: the edge was unsure, the cloud sure. The labels that filters
learn from are pairs, too, of asks that a filter was unsure of.
"""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...models.bundle import Bundle
from ...models.evidence import Figures, aleatoric_paper, vacuity
from ...models.records import Probs
from ...uplink.asks import Contract
from ..both_ends import contract_of

State = Literal["quarantined", "released"]


class About(Struct, frozen=True, kw_only=True):
    """What the pairs of one folder are about: the contract that all their asks fit."""

    name: str
    contract: str
    labels: tuple[str, ...]
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, bundle: Bundle) -> About:
        """Return what pairs of ``bundle``'s contract are about."""
        contract: Contract = contract_of(bundle)
        return cls(
            name=contract.name,
            contract=contract.digest,
            labels=bundle.labels,
            dtype=contract.dtype,
            shape=contract.shape,
        )

    @property
    def body_bytes(self) -> int:
        """How long one sample is."""
        return math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def classes(self) -> int:
        """How many labels there are, K."""
        return len(self.labels)


class Pair(Struct, frozen=True, kw_only=True):
    """One pair, without the sample.

    ``key`` (32 hex) is the same for the same sample of the same device. ``edge`` (K,) is what the
    edge thought, ``score`` what it gated on, both None where it was not asked; ``cloud`` (K,) the
    answer, ``alpha`` (K,) its evidence where there is some, ``doubt`` how unsure the cloud was (see
    `doubt_of`). ``at_s`` is when it was answered (Unix time), ``bundle`` the digest of the bundle
    whose cloud answered.
    """

    key: str
    site: str
    device: str
    stream: str
    id: str
    kind: str
    at_s: float
    bundle: str
    score: float | None
    doubt: float
    edge: Probs | None
    cloud: Probs
    alpha: Probs | None
    state: State = "quarantined"

    @property
    def whose(self) -> str:
        """The device, as it is named on the command line: SITE/DEVICE."""
        return f"{self.site}/{self.device}"

    @property
    def label(self) -> int:
        """The class that the cloud chose."""
        return int(np.argmax(self.cloud))

    @property
    def confidence(self) -> float:
        """The cloud's greatest probability."""
        return float(np.max(self.cloud))


def doubt_of(probs: Probs, alpha: Probs | None) -> Figures:
    """Return how unsure answers are, (...), in [0, 1]: one scale for clouds of either kind.

    With evidence ``alpha`` (..., K) it is the vacuity, else the entropy of ``probs`` (..., K) over
    ln K.
    """
    if alpha is not None:
        return vacuity(alpha.astype(np.float64))
    return aleatoric_paper(probs.astype(np.float64))


def level(counts: NDArray[np.int64], *, most: int) -> int:
    """Return the greatest level that no count may pass so that all together are ``most`` at most.

    >>> level(np.array([2, 9, 7]), most=12)  # 2 + 5 + 5
    5
    """
    left, ordered = most, np.sort(counts)
    for place, count in enumerate(ordered.tolist()):
        share = left // (len(ordered) - place)
        if count > share:
            return max(0, share)
        left -= count
    return int(ordered[-1]) if len(ordered) else 0
