"""What the stages hand to each other: frozen records, one per arrow of the loop.

They are `msgspec.Struct`s: slotted, immutable, without a dict, and cheap enough to
be made for every sample. Arrays state their shape and dtype; what is not known is None.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

Action = Literal["accept", "escalate", "fuse"]
Route = Literal["edge", "cloud", "fused", "reused", "dropped", "failed"]
Probs = NDArray[np.floating[Any]]


class Sample(msgspec.Struct, frozen=True, gc=False):
    """One thing to be classified.

    ``id`` is unique per device for ever: the session's counter, a dash, the sequence.
    ``taken_at_ns`` is CLOCK_BOOTTIME at capture. ``data`` has the bundle's input shape
    and dtype. ``meta`` is for sources and sinks; nothing decides on it.
    """

    stream: str
    id: str
    taken_at_ns: int
    data: NDArray[Any]
    meta: dict[str, Any] | None = None


class Opinion(msgspec.Struct, frozen=True, gc=False):
    """What a model thinks of one sample, and how unsure it is.

    ``probs`` (K,) is a distribution. ``score`` is what the policy gates on: higher is
    less sure. ``vacuity`` K/S lies in (0, 1]; ``aleatoric`` is the expected entropy over
    ln K, ``epistemic`` the Dirichlet variance over its maximum, both in [0, 1]. The last
    two are None until they are needed, and all of them (with ``alpha``, (K,), the
    Dirichlet's parameters) are None for a model without evidence.
    """

    probs: Probs
    score: float
    score_name: str
    vacuity: float | None = None
    aleatoric: float | None = None
    epistemic: float | None = None
    alpha: Probs | None = None


class Decision(msgspec.Struct, frozen=True, gc=False):
    """What the policy makes of an opinion, and the row of the decision table that says so."""

    action: Action
    reason: str


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """An answer to one sample, as every sink gets it.

    An escalated sample has one outcome that is not final, at once, and then exactly one
    final outcome of the same id. ``label`` indexes the bundle's labels. ``degraded``
    names why the far end's answer is missing from a final one. ``latency_ns`` runs from
    the sample's capture (``taken_at_ns``, CLOCK_BOOTTIME) to this outcome; ``energy_j`` is None
    where nothing measures it. ``detail`` says of a failed one what is wrong.
    """

    stream: str
    id: str
    route: Route
    label: int | None
    probs: Probs | None
    opinion: Opinion | None
    final: bool
    degraded: str | None = None
    reused_from: str | None = None
    latency_ns: int = 0
    energy_j: float | None = None
    reason: str | None = None
    taken_at_ns: int = 0
    detail: str | None = None
