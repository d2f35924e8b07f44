"""The process that LoadGen runs in: ``python -m hedge.runtime.bench.loadgen.child FOLDER``.

LoadGen has one state for the whole process, knows no way to stop a run, and ends the process
when a callback fails. So it gets one of its own, which leaves with whatever it has to say.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from pathlib import Path
from typing import Any, NoReturn

import msgspec
from msgspec import Struct

from ....models.bundle import load_bundle
from ....models.dataset import load_dataset
from ....models.errors import HedgeError, ModelError
from ...children import die_with_parent
from ...notify import Notifier
from ...probe.messages import Refused
from ..latency import Latency
from ..scenario_record import ScenarioResult
from .histogram import log_histogram
from .library import load
from .messages import ANSWER, LOGS, ROWS, TASK, Finished, Task
from .plan import FULL_QUERIES, FULL_S
from .settings import SCORED_PERCENTILE, longest_s, server_qps, settings_for
from .system_under_test import SystemUnderTest
from .verdict import Verdict, read_verdict
from .warm_up import Warm, warm_up
from .way import Fail, Row, Say, Way, open_way

_WARM_ROWS = 256
_SWITCH_S = 1e-4  # LoadGen's queries arrive in a thread of their own, which else waits for 5 ms


def main(folder: Path) -> None:
    """Do the task that lies in the folder, and leave the answer there."""
    die_with_parent()
    task = msgspec.json.decode((folder / TASK).read_bytes(), type=Task)

    if task.scenario == "Server":
        sys.setswitchinterval(_SWITCH_S)

    def fail(error: BaseException) -> NoReturn:
        _leave(folder, _refused(error))
        os._exit(1)  # from whatever thread it is; LoadGen does not stop otherwise

    with contextlib.closing(Notifier()) as notifier:
        try:
            finished = _measured(task, folder, say=notifier.send, fail=fail)
        except Exception as error:  # noqa: BLE001 -- the answer tells whatever it was
            fail(error)
    _leave(folder, finished)


def _measured(task: Task, folder: Path, *, say: Say, fail: Fail) -> Finished:
    library = load()
    bundle = load_bundle(Path(task.bundle), pin=task.digest)
    rows = list(load_dataset(folder / ROWS).x)
    with contextlib.ExitStack() as stack:
        way = open_way(task, bundle, stack=stack, say=say, fail=fail)
        say("STATUS=warming up")
        warm = warm_up(way, rows[:_WARM_ROWS], task.scenario, seconds=task.warm_up_s)
        before = way.counts()
        timer = threading.Timer(longest_s(task, warm), fail, [ModelError("takes far too long")])
        timer.daemon = True
        timer.start()
        say(f"STATUS=running for {task.min_duration_s:g} s or {task.min_queries} queries")
        system = _run(library, task, way, rows, warm=warm, folder=folder, fail=fail)
        timer.cancel()
        counts = {name: count - before[name] for name, count in way.counts().items()}
    return _finished(task, read_verdict(folder), system, warm, counts)


def _run(
    library: Any,  # noqa: ANN401 -- LoadGen has no types
    task: Task,
    way: Way,
    rows: list[Row],
    *,
    warm: Warm,
    folder: Path,
    fail: Fail,
) -> SystemUnderTest:
    """Let LoadGen run."""
    settings = settings_for(library, task, warm)
    logs = library.LogSettings()
    logs.enable_trace = False
    logs.log_output.outdir, logs.log_output.prefix = str(folder), LOGS
    system = SystemUnderTest(library, way, rows, per_sample=task.scenario == "Offline", fail=fail)
    sut = library.ConstructSUT(system.issue, system.flush)
    qsl = library.ConstructQSL(len(rows), len(rows), system.load, system.unload)
    library.StartTestWithLogSettings(sut, qsl, settings, logs)
    library.DestroyQSL(qsl)
    library.DestroySUT(sut)
    return system


def _finished(
    task: Task, verdict: Verdict, system: SystemUnderTest, warm: Warm, counts: dict[str, int]
) -> Finished:
    begun_ns, ended_ns = system.window_ns()
    seconds = (ended_ns - begun_ns) / 1e9
    spent_ns = system.spent_ns()
    is_server = task.scenario == "Server"
    too_short = tuple(_too_short(task, verdict, samples=system.samples))
    result = ScenarioResult(
        scenario=task.scenario,
        variant=task.variant or "null",
        threads=task.options.threads or 1,
        parts=task.parts,
        valid=verdict.valid and not too_short,
        why_invalid=verdict.why_invalid + too_short,
        loadgen=verdict.loadgen,
        seed=task.seed,
        min_duration_s=task.min_duration_s,
        min_queries=task.min_queries,
        warm_up_samples=warm.samples,
        expected_samples_per_s=warm.samples_per_s,
        queries=verdict.queries,
        samples=system.samples,
        seconds=seconds,
        samples_per_s=verdict.samples_per_s or system.samples / seconds,
        latency=Latency.of(spent_ns),
        loadgen_ms=verdict.percentiles_ms,
        scored_percentile=SCORED_PERCENTILE[task.scenario],
        scored_ms=verdict.percentiles_ms["99.00"] if is_server else verdict.estimate_ms,
        target_qps=server_qps(task, warm) if is_server else None,
        target_latency_ms=task.target_latency_ms if is_server else None,
        histogram_ms=log_histogram(spent_ns),
        escalated=counts.get("escalated"),
        answered=counts.get("answered"),
        dropped=counts.get("dropped"),
        reused=counts.get("reused"),
    )
    return Finished(result=result, begun_ns=begun_ns, ended_ns=ended_ns)


def _too_short(task: Task, verdict: Verdict, *, samples: int) -> list[str]:
    """Return what LoadGen does not say: it was asked for less than a result to quote takes."""
    queries = samples if task.scenario == "Offline" else verdict.queries
    found = []
    if task.min_duration_s < FULL_S:
        found.append(f"asked for {task.min_duration_s:g} s: a result takes {FULL_S:g} s")
    if queries < FULL_QUERIES:
        found.append(f"{queries} queries: a result takes {FULL_QUERIES}")
    return found


def _refused(error: BaseException) -> Refused:
    if isinstance(error, HedgeError):
        return Refused.by(error)
    what = f"{type(error).__name__}: {error}"
    return Refused(what=what, where=None, hint=None, is_config=False)


def _leave(folder: Path, answer: Struct) -> None:
    draft = folder / f"{ANSWER}.{threading.get_ident()}"
    draft.write_bytes(msgspec.json.encode(answer))
    draft.replace(folder / ANSWER)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
