"""What the process that LoadGen runs in is told, and what it says."""

from __future__ import annotations

from msgspec import Struct

from ....telemetry.boards.detect import Detected
from ...backends.options import BackendOptions
from ..scenario_record import Part, Scenario, ScenarioResult

LOGS = "mlperf_log_"
"""How the names of LoadGen's own logs begin."""

TASK, ROWS, ANSWER = "task.json", "rows.npz", "answer.json"


class Task(Struct, frozen=True, kw_only=True):
    """One scenario over one variant.

    ``bundle`` is the bundle's path and ``digest`` what it must have; ``variant`` is None for
    the null backend. The rows are in ROWS of the same folder, LoadGen's logs go there too.
    ``state`` holds TensorRT's engines; relative paths of ``options`` begin at ``base``.
    """

    scenario: Scenario
    parts: tuple[Part, ...]
    bundle: str
    digest: str
    variant: str | None
    board: Detected
    options: BackendOptions
    state: str
    base: str
    seed: int
    min_duration_s: float
    min_queries: int
    target_qps: float | None
    target_latency_ms: float
    answer_within_ms: int
    warm_up_s: float
    broker: str | None


class Finished(Struct, frozen=True, kw_only=True, tag="finished"):
    """What came of it; the queries were served between the two moments of CLOCK_BOOTTIME."""

    result: ScenarioResult
    begun_ns: int
    ended_ns: int
