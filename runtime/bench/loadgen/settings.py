"""LoadGen's settings of one scenario."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....models.errors import ConfigError
from ...probe.free_memory import free_bytes
from .messages import Task
from .warm_up import SAMPLES_PER_QUERY, Warm

MOST_WAITING = 10_000
"""How many of Server's queries may wait: with more LoadGen ends the run, which is invalid then."""

SCORED_PERCENTILE = {"SingleStream": 0.9, "MultiStream": 0.99, "Server": 0.99, "Offline": 0.9}
"""Of the latencies (MLPerf Inference rules); Offline is scored by its throughput."""

_MOST_QPS = 10_000.0  # with more, Python's threads are what is measured
_BYTES_PER_QUERY = 400  # LoadGen 6.0: 330, and what we note of it; measured
_BYTES_PER_SAMPLE = 100
_SPARE = 2  # LoadGen generates twice what the expected latency asks for
_OFFLINE_SPARE = 1.3  # of Offline's samples it adds but a tenth: too few are no valid run


def server_qps(task: Task, warm: Warm) -> float:
    """Return at which rate Server's queries are to arrive."""
    return task.target_qps or min(warm.samples_per_s / 4, _MOST_QPS)


def settings_for(library: Any, task: Task, warm: Warm) -> Any:  # noqa: ANN401 -- it has no types
    """Return the settings; ``library`` is LoadGen.

    Raises:
        ConfigError: LoadGen would hold more queries in memory than there is room for.
    """
    _check_memory(task, warm)
    found = library.TestSettings()
    found.scenario = getattr(library.TestScenario, task.scenario)
    found.mode = library.TestMode.PerformanceOnly
    found.min_duration_ms = max(round(task.min_duration_s * 1e3), 1)
    found.min_query_count = task.min_queries
    seeds = np.random.SeedSequence(task.seed).generate_state(3, np.uint64).tolist()
    found.qsl_rng_seed, found.sample_index_rng_seed, found.schedule_rng_seed = seeds
    percentile = SCORED_PERCENTILE[task.scenario]
    match task.scenario:
        case "SingleStream":
            found.single_stream_expected_latency_ns = warm.burst_ns
            found.single_stream_target_latency_percentile = percentile
        case "MultiStream":
            found.multi_stream_expected_latency_ns = warm.burst_ns
            found.multi_stream_target_latency_percentile = percentile
            found.multi_stream_samples_per_query = SAMPLES_PER_QUERY
        case "Server":
            found.server_target_qps = server_qps(task, warm)
            found.server_target_latency_ns = round(task.target_latency_ms * 1e6)
            found.server_target_latency_percentile = percentile
            found.server_max_async_queries = MOST_WAITING
        case "Offline":
            found.offline_expected_qps = _OFFLINE_SPARE * warm.samples_per_s
    return found


def expected_queries(task: Task, warm: Warm) -> float:
    """Return how many queries (Offline: samples) LoadGen generates before it begins."""
    match task.scenario:
        case "SingleStream" | "MultiStream":
            wanted = _SPARE * task.min_duration_s * 1e9 / warm.burst_ns
        case "Server":
            wanted = task.min_duration_s * server_qps(task, warm)
        case "Offline":
            wanted = 1.1 * _OFFLINE_SPARE * task.min_duration_s * warm.samples_per_s
    return max(wanted, task.min_queries)


def longest_s(task: Task, warm: Warm) -> float:
    """Return after how long a run is given up."""
    each_s = warm.burst_ns / 1e9
    if task.scenario in ("Server", "Offline"):
        each_s /= warm.burst
    if task.scenario == "Server":
        each_s = max(each_s, 1 / server_qps(task, warm))
    return 300 + 4 * max(task.min_duration_s, task.min_queries * each_s)


def _check_memory(task: Task, warm: Warm) -> None:
    each_bytes = _BYTES_PER_QUERY
    if task.scenario == "MultiStream":
        each_bytes += SAMPLES_PER_QUERY * _BYTES_PER_SAMPLE
    queries = expected_queries(task, warm)
    needed, free = queries * each_bytes, free_bytes()
    if needed > free:
        raise ConfigError(
            f"LoadGen would hold {queries:.3g} queries in memory, about {needed / 1e9:.3g} GB "
            f"of {free / 1e9:.3g}",
            where=task.scenario,
            hint="--min-seconds bounds them, and --target-qps those of Server",
        )
