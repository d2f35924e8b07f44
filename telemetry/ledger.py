"""The ledger of one stream: where every sample went, and how long each stage took.

Two sums hold at every moment (`Ledger.imbalance`)::

    read                = dropped + reused + accepted + escalated + failed + overrun
    escalated + resumed = answered + expired + evicted + dead + refused + lost + waiting

Resumed are samples that an earlier run had escalated and left without a final outcome.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from msgspec import Struct

from .energy.figures import StreamEnergy
from .filter_state import FilterState
from .gate_state import GateState
from .histogram import Histogram

ROUTES = ("dropped", "reused", "accepted", "escalated", "failed", "overrun")
ENDS = ("answered", "expired", "evicted", "dead", "refused", "lost")
STAGES = ("preprocess", "filter", "infer", "uncertainty", "uplink")
ANSWERED = ("reused", "accepted", "escalated")
ANSWERS = ("edge", "cloud", "fused", "reused", "degraded")
FINALS = (*ANSWERS, "dropped", "failed")
QUANTILES = (0.5, 0.9, 0.99)
BOUNDS_MS = (
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0),
    *(250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0, 60_000.0),
)
"""Up to which durations `Latency.below` counts."""


class Latency(Struct, frozen=True, omit_defaults=True):
    """Some latencies, in milliseconds; None where nothing was recorded.

    ``sum`` is of all, ``below`` counts those up to each of BOUNDS_MS; None: not asked for.
    """

    count: int
    mean: float | None
    p50: float | None
    p90: float | None
    p99: float | None
    max: float | None
    sum: float | None = None
    below: tuple[int, ...] | None = None


class Done(NamedTuple):
    """How often something was done, and how long it took altogether."""

    times: int
    busy_ns: int


class Work(NamedTuple):
    """What a stream has done since the start, by stage and by route of the samples."""

    stages: Mapping[str, Done]
    routes: Mapping[str, Done]


class SourceState(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a live source is: there, away (and why), or at its end.

    ``opened`` counts how often it was opened, ``lost`` how often it went away or could not be
    opened; ``since_s`` is for how long it has been as it is.
    """

    state: Literal["away", "open", "ended"]
    since_s: float
    opened: int
    lost: int
    why: str | None = None


class StreamReport(Struct, frozen=True, kw_only=True):
    """A stream's ledger as it is reported.

    ``latency_ms`` is by stage, and from capture to the first and to the final outcome of all
    samples that got an answer; ``first_ms`` is to the first outcome by route, ``final_ms`` to
    the final one by whose answer it is (FINALS). ``energy`` is None where no sensor is read,
    ``source`` where it is a data set, ``gate`` of a stream that is served no more. ``filters`` are
    in the order in which they are asked.
    """

    stream: str
    read: int
    routes: dict[str, int]
    ends: dict[str, int]
    waiting: int
    resumed: int
    reasons: dict[str, int]
    latency_ms: dict[str, Latency]
    first_ms: dict[str, Latency]
    final_ms: dict[str, Latency]
    model: str | None = None
    energy: StreamEnergy | None = None
    source: SourceState | None = None
    gate: GateState | None = None
    filters: tuple[FilterState, ...] = ()


class Stages:
    """A latency histogram per stage.

    ``preprocess`` (capture to sample), ``filter``, ``infer``, ``uncertainty`` (score and
    policy), ``uplink`` (offer to answer).
    """

    __slots__ = STAGES

    def __init__(self) -> None:
        self.preprocess = Histogram()
        self.filter = Histogram()
        self.infer = Histogram()
        self.uncertainty = Histogram()
        self.uplink = Histogram()


class Ledger:
    """Counters by route, by end and by reason; latency histograms by stage and by route.

    ``first`` and ``final`` hold the time from a sample's capture to its first outcome, by
    its route, and to its final one, by whose answer that is. ``busy_ns`` is how long the
    loop was at work on the samples of a route.
    """

    __slots__ = (
        *("busy_ns", "ends", "final", "first", "read", "reasons", "resumed", "routes", "stages"),
        *("stream", "waiting"),
    )

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.read = 0
        self.waiting = 0
        self.resumed = 0
        self.routes = dict.fromkeys(ROUTES, 0)
        self.ends = dict.fromkeys(ENDS, 0)
        self.busy_ns = dict.fromkeys(ROUTES, 0)
        self.reasons: Counter[str] = Counter()
        self.stages = Stages()
        self.first = {route: Histogram() for route in ROUTES}
        self.final = {route: Histogram() for route in FINALS}

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

    def work(self) -> Work:
        """Return what was done so far; of the uplink only how often it was asked."""
        stages = {name: getattr(self.stages, name) for name in STAGES if name != "uplink"}
        return Work(
            stages={
                **{name: Done(one.count, one.sum_ns) for name, one in stages.items()},
                "uplink": Done(self.routes["escalated"], 0),
            },
            routes={name: Done(self.routes[name], self.busy_ns[name]) for name in ROUTES},
        )

    def report(
        self,
        *,
        model: str | None = None,
        energy: StreamEnergy | None = None,
        source: SourceState | None = None,
        gate: GateState | None = None,
        filters: tuple[FilterState, ...] = (),
        buckets: bool = False,
    ) -> StreamReport:
        """Return everything counted so far; with ``buckets`` also `Latency.below`."""
        stages = {name: getattr(self.stages, name) for name in STAGES}
        answers = {  # what was dropped or failed has none
            "first": _merged([self.first[route] for route in ANSWERED]),
            "final": _merged([self.final[whose] for whose in ANSWERS]),
        }

        def told(histograms: Mapping[str, Histogram]) -> dict[str, Latency]:
            return {name: latency(one, buckets=buckets) for name, one in histograms.items()}

        return StreamReport(
            stream=self.stream,
            read=self.read,
            routes=dict(self.routes),
            ends=dict(self.ends),
            waiting=self.waiting,
            resumed=self.resumed,
            reasons=dict(sorted(self.reasons.items())),
            latency_ms=told(stages | answers),
            first_ms=told({name: one for name, one in self.first.items() if one.count}),
            final_ms=told({name: one for name, one in self.final.items() if one.count}),
            model=model,
            energy=energy,
            source=source,
            gate=gate,
            filters=filters,
        )


def latency(histogram: Histogram, *, buckets: bool = False) -> Latency:
    """Return a histogram's summary in milliseconds."""
    p50, p90, p99 = (_ms(ns) for ns in histogram.quantiles(QUANTILES))
    return Latency(
        histogram.count,
        _ms(histogram.mean_ns),
        p50,
        p90,
        p99,
        _ms(histogram.max_ns),
        histogram.sum_ns / 1e6 if buckets else None,
        tuple(histogram.below([int(ms * 1e6) for ms in BOUNDS_MS])) if buckets else None,
    )


def _merged(histograms: Iterable[Histogram]) -> Histogram:
    merged = Histogram()
    for one in histograms:
        merged.add(one)
    return merged


def _ms(ns: float | None) -> float | None:
    return None if ns is None else round(ns / 1e6, 6)
