"""Runs LoadGen's scenarios over a bundle's variants, each run in a process of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from ....models.bundle import Bundle
from ....models.dataset import Dataset
from ....models.errors import BundleError, ConfigError, DataError, HedgeError
from ....models.manifest import Edge
from ....telemetry.boards.detect import Detected
from ...backends.options import BackendOptions
from ...children import Child, ending
from ...far_end import far_end
from ...probe.messages import Refused
from ..energy_record import Energy
from ..record import Failed
from ..scenario_record import Part, Scenario, ScenarioResult
from .library import load
from .messages import ANSWER, LOGS, ROWS, TASK, Finished, Task
from .plan import FLOOR_S, ScenarioPlan, parts_of

_CHILD = "hedge.runtime.bench.loadgen.child"
_LOOK_S = 0.1

Joules = Callable[[int, int, int], Energy | None]
"""The energy between two moments of CLOCK_BOOTTIME in which so many samples were served."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """Where and how the models run, as in `measure.Plan`."""

    board: Detected
    options: BackendOptions
    state: Path
    base: Path = Path()
    seed: int = 0


def run_scenarios(
    bundle: Bundle,
    plan: ScenarioPlan,
    *,
    contenders: Sequence[tuple[Edge, int]],
    data: Dataset | None,
    setup: Setup,
    failed: list[Failed],
    logs: Path | None = None,
    energy: Joules | None = None,
    show: Callable[[str], object] = str,
) -> tuple[ScenarioResult, ...]:
    """Run every scenario over the null backend, and over every variant by every way.

    ``contenders`` are variants, each with its threads; ``data`` the rows that LoadGen asks
    for. A run that fails is added to ``failed``, and the others go on. LoadGen's own logs are
    kept below ``logs``, in a folder for each run; ``energy`` is asked for each run's joules.

    Raises:
        DataError: there are no rows.
        ConfigError: the logs cannot be written.
        MissingExtraError: LoadGen is not installed.
    """
    load()
    if data is None:
        raise DataError("LoadGen needs rows to ask for", where="DATA", hint="name an .npz")
    _check_logs(logs)
    found = []
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hedge-loadgen-")))
        np.savez(folder / ROWS, X=data.x)
        for task in _tasks(bundle, plan, contenders, setup=setup):
            named = _named(task)
            show(named)
            try:
                finished = _run(task, bundle, folder, logs=logs, show=show)
            except HedgeError as error:
                reason = f"{named}: {error}"
                threads = task.options.threads or 1
                failed.append(Failed(variant=_variant(task), threads=threads, reason=reason))
                continue
            found.append(_with_energy(finished, energy))
    return tuple(found)


def _tasks(
    bundle: Bundle,
    plan: ScenarioPlan,
    contenders: Sequence[tuple[Edge, int]],
    *,
    setup: Setup,
) -> Iterator[Task]:
    """Yield what is to be run, the floor of each scenario first."""
    ways = tuple(dict.fromkeys(parts_of(way, bundle.manifest) for way in plan.ways))

    def task(scenario: Scenario, edge: Edge | None, threads: int, parts: tuple[Part, ...]) -> Task:
        return Task(
            scenario=scenario,
            parts=parts,
            bundle=str(bundle.path.resolve()),
            digest=bundle.digest,
            variant=None if edge is None else edge.name,
            board=setup.board,
            options=msgspec.structs.replace(setup.options, threads=threads),
            state=str(setup.state.resolve()),
            base=str(setup.base.resolve()),
            seed=setup.seed,
            min_duration_s=plan.min_seconds if edge else min(plan.min_seconds, FLOOR_S),
            min_queries=plan.min_queries,
            target_qps=plan.target_qps,
            target_latency_ms=plan.target_latency_ms,
            answer_within_ms=plan.answer_within_ms,
            warm_up_s=plan.warm_up_s,
            broker=plan.broker,
        )

    for scenario in plan.scenarios:
        yield task(scenario, None, 1, ("null",))
        for edge, threads in contenders:
            for parts in ways:
                yield task(scenario, edge, threads, parts)


def _run(
    task: Task, bundle: Bundle, folder: Path, *, logs: Path | None, show: Callable[[str], object]
) -> Finished:
    """Run one task, with a far end where something is escalated.

    Raises:
        HedgeError: it failed, the process crashed, or the far end does not start.
    """
    if "escalation" not in task.parts:
        return _run_alone(task, folder, logs=logs, show=show)
    if bundle.manifest.cloud is None:
        raise BundleError("has no cloud model to escalate to", where=str(bundle.path))
    with far_end(bundle.path, folder=folder, broker=task.broker) as (broker, _):
        task = msgspec.structs.replace(task, broker=broker)
        return _run_alone(task, folder, logs=logs, show=show)


def _run_alone(
    task: Task, folder: Path, *, logs: Path | None, show: Callable[[str], object]
) -> Finished:
    """Run one task in a process of its own, and keep LoadGen's logs.

    Raises:
        HedgeError: it failed, or the process crashed.
    """
    named = _named(task)
    with contextlib.ExitStack() as stack:
        own = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder)))
        (own / ROWS).symlink_to(folder / ROWS)
        (own / TASK).write_bytes(msgspec.json.encode(task))
        child = Child("loadgen", [str(own)], folder=own, module=_CHILD)
        stack.callback(child.close)
        while child.process.poll() is None:
            for state in child.states():
                show(f"{named}: {state.partition('=')[2].splitlines()[0]}")
            time.sleep(_LOOK_S)
        answer = _answer(child, own)
        if logs is not None:
            _keep(own, logs / named.replace(", ", "-").replace(" ", "-"))
    if isinstance(answer, Refused):
        raise answer.error()
    return answer


def _answer(child: Child, folder: Path) -> Finished | Refused:
    try:
        data = (folder / ANSWER).read_bytes()
    except OSError as error:
        raise HedgeError(
            f"{ending(child.process.returncode)}: {child.last_words()}", where="LoadGen's process"
        ) from error
    return msgspec.json.decode(data, type=Finished | Refused)


def _keep(folder: Path, kept: Path) -> None:
    try:
        kept.mkdir(parents=True, exist_ok=True)
        for name in ("summary", "detail"):
            log = folder / f"{LOGS}{name}.txt"
            if log.exists():
                shutil.copyfile(log, kept / log.name)
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", where=str(kept)) from error


def _check_logs(logs: Path | None) -> None:
    if logs is None:
        return
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot be made: {error.strerror}", where=str(logs)) from error
    if not os.access(logs, os.W_OK | os.X_OK):
        raise ConfigError("cannot be written", where=str(logs))


def _with_energy(finished: Finished, energy: Joules | None) -> ScenarioResult:
    if energy is None:
        return finished.result
    joules = energy(finished.begun_ns, finished.ended_ns, finished.result.samples)
    return msgspec.structs.replace(finished.result, energy=joules)


def _variant(task: Task) -> str:
    return task.variant or "null"


def _named(task: Task) -> str:
    if task.variant is None:
        return f"{task.scenario}, null"
    threads = task.options.threads
    counted = "1 thread" if threads == 1 else f"{threads} threads"
    return f"{task.scenario}, {task.variant}, {counted}, {'+'.join(task.parts)}"
