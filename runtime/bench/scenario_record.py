"""What an MLPerf LoadGen run of one scenario found."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from .energy_record import Energy
from .latency import Latency

Scenario = Literal["SingleStream", "MultiStream", "Server", "Offline"]
Part = Literal["null", "filter", "infer", "uncertainty", "escalation"]


class ScenarioResult(Struct, frozen=True, kw_only=True):
    """One scenario over one variant, as LoadGen judges it.

    ``parts`` are the parts of the device's way that every query took: ``("infer",)`` is the
    model alone, ``("null",)`` the floor: LoadGen, Python and the clock. An invalid result
    carries LoadGen's own words in ``why_invalid``: its figures are no results to quote.

    ``min_duration_s`` and ``min_queries`` are what LoadGen was asked for, ``warm_up_samples``
    what was served before, apart, at ``expected_samples_per_s``; ``seconds`` is from the first
    query to the end of the last.

    ``latency`` and ``histogram_ms`` (upper bound, count) are by hedge's own clock: of queries,
    in Offline, which is a single query, of its samples. ``loadgen_ms`` are LoadGen's latencies
    of the same by percentile ("90.00"). ``scored_ms`` is that of the ``scored_percentile``: the
    early-stopping estimate of SingleStream and MultiStream, Server's percentile, None in
    Offline and where there were too few queries. ``target_qps`` and ``target_latency_ms`` are
    Server's. ``escalated``, ``answered``, ``dropped`` and ``reused`` count samples; None where
    no part counts them.
    """

    scenario: Scenario
    variant: str
    threads: int
    parts: tuple[Part, ...]
    valid: bool
    why_invalid: tuple[str, ...] = ()
    loadgen: str
    seed: int
    min_duration_s: float
    min_queries: int
    warm_up_samples: int
    expected_samples_per_s: float
    queries: int
    samples: int
    seconds: float
    samples_per_s: float
    latency: Latency
    loadgen_ms: dict[str, float]
    scored_percentile: float
    scored_ms: float | None = None
    target_qps: float | None = None
    target_latency_ms: float | None = None
    histogram_ms: tuple[tuple[float, int], ...] = ()
    escalated: int | None = None
    answered: int | None = None
    dropped: int | None = None
    reused: int | None = None
    energy: Energy | None = None
