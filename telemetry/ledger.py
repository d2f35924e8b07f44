"""The ledger of one stream: where every sample went, and what each stage cost.

Two sums hold at every moment (`Ledger.imbalance`)::

    read                = dropped + reused + accepted + escalated + failed + overrun
    escalated + resumed = answered + expired + evicted + dead + refused + lost + waiting

Resumed are samples that an earlier run had escalated and left without a final outcome.
"""

from __future__ import annotations

from collections import Counter

from msgspec import Struct

from .histogram import Histogram

ROUTES = ("dropped", "reused", "accepted", "escalated", "failed", "overrun")
ENDS = ("answered", "expired", "evicted", "dead", "refused", "lost")
QUANTILES = (0.5, 0.9, 0.99)


class Latency(Struct, frozen=True):
    """A stage's latency, in milliseconds; None where nothing was recorded."""

    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    max: float | None


class StreamReport(Struct, frozen=True, kw_only=True):
    """A stream's ledger as it is reported. ``energy_j`` is None where no sensor exists."""

    stream: str
    read: int
    routes: dict[str, int]
    ends: dict[str, int]
    waiting: int
    resumed: int
    reasons: dict[str, int]
    latency_ms: dict[str, Latency]
    energy_j: float | None


class Stages:
    """A latency histogram per stage.

    ``filter``, ``infer``, ``decide`` (score and policy), ``uplink`` (offer to answer),
    ``first`` and ``final`` (capture to the sample's first and final outcome).
    """

    __slots__ = ("decide", "filter", "final", "first", "infer", "uplink")

    def __init__(self) -> None:
        self.filter = Histogram()
        self.infer = Histogram()
        self.decide = Histogram()
        self.uplink = Histogram()
        self.first = Histogram()
        self.final = Histogram()


class Ledger:
    """Counters by route, by end and by reason, and a latency histogram per stage."""

    __slots__ = ("ends", "read", "reasons", "resumed", "routes", "stages", "stream", "waiting")

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.read = 0
        self.waiting = 0
        self.resumed = 0
        self.routes = dict.fromkeys(ROUTES, 0)
        self.ends = dict.fromkeys(ENDS, 0)
        self.reasons: Counter[str] = Counter()
        self.stages = Stages()

    def imbalance(self) -> str | None:
        """Return which of the two sums does not hold, or None as long as both do."""
        routed, ended = sum(self.routes.values()), sum(self.ends.values())
        if self.read != routed:
            return f"{self.stream}: {self.read} samples read, {routed} routed: {self.routes}"
        if self.routes["escalated"] + self.resumed != ended + self.waiting:
            return (
                f"{self.stream}: {self.routes['escalated']} samples escalated, "
                f"{self.resumed} resumed, "
                f"{ended} ended and {self.waiting} waiting: {self.ends}"
            )
        return None

    def report(self) -> StreamReport:
        """Return everything counted so far."""
        return StreamReport(
            stream=self.stream,
            read=self.read,
            routes=dict(self.routes),
            ends=dict(self.ends),
            waiting=self.waiting,
            resumed=self.resumed,
            reasons=dict(sorted(self.reasons.items())),
            latency_ms={stage: latency(getattr(self.stages, stage)) for stage in Stages.__slots__},
            energy_j=None,
        )


def latency(histogram: Histogram) -> Latency:
    """Return a histogram's summary in milliseconds."""
    p50, p90, p99 = (_ms(ns) for ns in histogram.quantiles(QUANTILES))
    return Latency(histogram.count, _ms(histogram.mean_ns), p50, p90, p99, _ms(histogram.max_ns))


def _ms(ns: float | None) -> float | None:
    return None if ns is None else round(ns / 1e6, 6)
