"""How a stream's gate stands, as every exporter tells it."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

PromiseIs = Literal["kept", "tightened", "unkept"]


class AuditState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What audits say of the answers that the edge gives alone.

    ``drawn`` samples were drawn and ``asked`` about; ``judged`` of them have an answer, which
    ``wrong`` of those that the gate lets pass now contradict. ``error`` is their share among
    ``rows``, with its anytime-valid bounds ``low`` and ``high``.
    """

    drawn: int
    asked: int
    judged: int
    wrong: int
    rows: int
    error: float | None = None
    low: float | None = None
    high: float | None = None


class PromiseState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether the bundle's promise holds: ``state`` of the gate, and how often it was moved.

    "kept": the gate stands where calibration put it. "tightened": lower, since the promise failed
    there. "unkept": even the tightest gate fails, or a budget keeps it open.
    """

    accuracy: float
    confidence: float
    state: PromiseIs
    tightened: int = 0
    relaxed: int = 0
    why: str | None = None


class DriftState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the scores of the last ``rows`` samples differ from those of calibration.

    ``statistic`` is the population stability index, ``limit`` what it must not reach.
    """

    rows: int
    statistic: float | None = None
    limit: float | None = None
    drifting: bool = False
    events: int = 0


class BudgetState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How the budget of escalations was held: per hour, by the last hour and by the whole run.

    ``strayed`` is the worst that any whole hour so far was off, as a share of the budget.
    """

    unit: Literal["messages", "bytes"]
    per_hour: float
    last_hour: float
    mean_per_hour: float
    strayed: float | None = None


class GateState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A gate: ``score`` and threshold ``total`` now, and ``calibrated`` as the bundle has it."""

    score: str
    total: float
    calibrated: float
    audit: AuditState | None = None
    promise: PromiseState | None = None
    drift: DriftState | None = None
    budget: BudgetState | None = None
