"""Measures the variants of a bundle side by side, run as the device runs them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...models.bundle import Bundle
from ...models.dataset import Dataset
from ...models.errors import HedgeError
from ...models.manifest import Edge, Input
from ...models.model import Model
from ...models.prepare import fed_dtype, preparer
from ...telemetry.boards.detect import Detected
from ...telemetry.clock import boottime_ns
from ...telemetry.power.null import NullReader
from ...telemetry.power.reader import PowerReader
from ..backends.null import NullModel
from ..backends.options import BackendOptions
from ..device_models import DeviceModels
from .accuracy import Accuracy, measure_accuracy
from .course import Recorder
from .energy import measure_energy
from .energy_record import Energy
from .latency import Latency, Nanoseconds, paired_ratio
from .loadgen.plan import ScenarioPlan
from .loadgen.scenarios import Setup, run_scenarios
from .machine import this_machine
from .opening import Opening, measure_opening
from .preemptions import Preemptions
from .record import FORMAT, BenchReport, Failed, Measured
from .rounds import Batches, Budget, Contender, timed_rounds
from .scenario_record import ScenarioResult
from .spread import Spread

_MOST_ROWS = 256  # as many different samples are measured on

Show = Callable[[str], object]


class Plan(Struct, frozen=True, kw_only=True):
    """What to measure: every one of ``edges`` with every one of ``threads``, where and how long.

    ``board_name`` and ``power_mode`` are those of the report. ``state`` holds TensorRT's
    engines, which are built there first where they are missing; relative paths of the
    options begin at ``base``. ``scenarios`` are LoadGen's, whose own logs go to ``logs``.
    """

    edges: tuple[Edge, ...]
    threads: tuple[int, ...]
    board: Detected
    board_name: str
    power_mode: str | None = None
    options: BackendOptions
    state: Path
    base: Path = Path()
    budget: Budget
    power_rate_hz: float = 10.0
    seed: int = 0
    scenarios: ScenarioPlan | None = None
    logs: Path | None = None

    def setup(self) -> Setup:
        """Return where and how the models run in LoadGen's processes."""
        return Setup(
            board=self.board,
            options=self.options,
            state=self.state,
            base=self.base,
            seed=self.seed,
        )


class _Entry(NamedTuple):
    """A variant that could be opened."""

    edge: Edge
    threads: int
    opening: Opening
    model: Model
    contender: Contender


def measure(
    bundle: Bundle,
    plan: Plan,
    *,
    data: Dataset | None = None,
    seen: int | None = None,
    power: PowerReader | None = None,
    show: Show = str,
) -> BenchReport:
    """Measure a bundle's variants; one that fails is reported as such, and the others go on.

    ``data`` are rows that training did not see, ``seen`` how many were left out for that;
    without data the samples are drawn by the plan's seed. ``power`` reads the board's power,
    and is closed at the end. ``show`` hears what is going on.

    Raises:
        ModelError: a variant that had been warm failed in the rounds.
    """
    machine = this_machine()
    failed: list[Failed] = []
    batches = _batches(bundle.input, data, seed=plan.seed)
    with contextlib.ExitStack() as stack:
        reader = NullReader() if power is None else power
        recorder = Recorder(plan.board, reader, rate_hz=plan.power_rate_hz)
        stack.enter_context(recorder)
        with recorder.phase("opening"):
            entries = list(_opened(bundle, plan, failed=failed, stack=stack, show=show))
        with recorder.phase("accuracy"):
            judged = list(_judged(bundle, entries, data, failed=failed, show=show))
        before = recorder.conditions()
        with recorder.phase("latency"), Preemptions() as preemptions:
            floor, *rounds = timed_rounds(
                [_floor(bundle), *(entry.contender for entry, _ in judged)],
                batches,
                budget=plan.budget,
                seed=plan.seed,
                show=show,
            )
        energies = _energies([entry for entry, _ in judged], batches, recorder, show=show)
        scenarios: tuple[ScenarioResult, ...] = ()
        if plan.scenarios is not None:
            with recorder.phase("LoadGen"):
                scenarios = run_scenarios(
                    bundle,
                    plan.scenarios,
                    contenders=[(entry.edge, entry.threads) for entry, _ in judged],
                    data=data,
                    setup=plan.setup(),
                    failed=failed,
                    logs=plan.logs,
                    energy=recorder.scenario_energy(energies),
                    show=show,
                )
        after, course = recorder.conditions(), recorder.course()
    measured = tuple(
        _measured(bundle, entry, accuracy, found, firsts=rounds[0], energy=energy, seed=plan.seed)
        for (entry, accuracy), found, energy in zip(judged, rounds, energies, strict=True)
    )
    return BenchReport(
        format=FORMAT,
        bundle=bundle.manifest.name,
        version=bundle.manifest.version,
        digest=bundle.digest,
        board=plan.board_name,
        power_mode=plan.power_mode,
        machine=machine,
        seed=plan.seed,
        rounds=len(floor),
        seen_rows_left_out=seen,
        floor=Latency.of(np.concatenate(floor)),
        measured=measured,
        failed=tuple(failed),
        floor_spread=Spread.of(floor),
        before=before,
        after=after,
        course=course,
        scenarios=scenarios,
        preempted_hz=preemptions.per_s,
    )


def named(threads: int) -> str:
    """Return how many threads, in words."""
    return "1 thread" if threads == 1 else f"{threads} threads"


def _opened(
    bundle: Bundle,
    plan: Plan,
    *,
    failed: list[Failed],
    stack: contextlib.ExitStack,
    show: Show,
) -> Iterator[_Entry]:
    """Open every variant as the device does, and wait for the engines that it builds."""
    models = DeviceModels(
        plan.board, state=plan.state, base=plan.base, stack=stack, systemd=lambda _: None
    )

    def hear(note: str | None) -> None:
        show(note or "the engines are built")

    models.tell(hear)
    for edge in plan.edges:
        for threads in plan.threads:
            show(f"opening {edge.name}, {named(threads)}")
            options = msgspec.structs.replace(plan.options, threads=threads)
            with _reported(edge, threads, failed):
                opening = measure_opening(bundle, edge, options=options)
                model, prepare = models.open(bundle, edge, options)
                yield _Entry(edge, threads, opening, model, Contender(prepare, model.infer))
    while (due_ns := models.feed(boottime_ns())) is not None:
        time.sleep(max(0, due_ns - boottime_ns()) / 1e9)


def _judged(
    bundle: Bundle,
    entries: Sequence[_Entry],
    data: Dataset | None,
    *,
    failed: list[Failed],
    show: Show,
) -> Iterator[tuple[_Entry, Accuracy | None]]:
    """Run every variant over the data, if there is any."""
    for entry in entries:
        if data is None:
            yield entry, None
            continue
        show(f"{entry.edge.name}, {named(entry.threads)}: {len(data.x)} rows")
        with _reported(entry.edge, entry.threads, failed):
            yield entry, measure_accuracy(entry.contender, data, bundle=bundle, edge=entry.edge)


@contextlib.contextmanager
def _reported(edge: Edge, threads: int, failed: list[Failed]) -> Iterator[None]:
    """Note what fails, and go on."""
    try:
        yield
    except HedgeError as error:
        failed.append(Failed(variant=edge.name, threads=threads, reason=str(error)))


def _floor(bundle: Bundle) -> Contender:
    """Return the null backend in the bundle's place: what Python and the clock take."""
    sample = bundle.input
    outputs = np.full((1, len(bundle.labels)), 1 / len(bundle.labels), np.float32)
    model = NullModel(outputs, shape=sample.shape, dtype=fed_dtype(sample))
    return Contender(preparer(sample), model.infer)


def _batches(sample: Input, data: Dataset | None, *, seed: int) -> list[NDArray[Any]]:
    """Return single samples (1, *shape) of the data, or else noise over the dtype's range."""
    if data is not None:
        rows = data.x[:_MOST_ROWS]
    else:
        rng, dtype = np.random.default_rng(seed), np.dtype(sample.dtype)
        shape = (_MOST_ROWS, *sample.shape)
        if sample.kind == "text":  # of ids beyond the vocabulary no graph makes anything
            rows = np.zeros(shape, dtype)
        elif dtype.kind == "f":
            rows = rng.standard_normal(shape, np.float32).astype(dtype)
        else:
            limits = np.iinfo(dtype)
            rows = rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)
    return [row[None] for row in rows]


def _energies(
    entries: Sequence[_Entry], batches: Batches, recorder: Recorder, *, show: Show
) -> list[Energy | None]:
    """Measure the energy of every variant, None where there is no power to read."""
    if not recorder.source.rails or not entries:
        return [None] * len(entries)

    def hear(which: int, state: str) -> None:
        show(f"{entries[which].edge.name}, {named(entries[which].threads)}: {state}")

    with recorder.phase("energy"):
        return [
            *measure_energy(
                [entry.contender for entry in entries],
                batches,
                meter=recorder.meter,
                source=recorder.source,
                period_s=recorder.period_s,
                show=hear,
            )
        ]


def _measured(
    bundle: Bundle,
    entry: _Entry,
    accuracy: Accuracy | None,
    rounds: Sequence[Nanoseconds],
    *,
    firsts: Sequence[Nanoseconds],
    energy: Energy | None,
    seed: int,
) -> Measured:
    edge = entry.edge
    return Measured(
        variant=edge.name,
        threads=entry.threads,
        sha256=bundle.manifest.files[edge.file],
        precision=edge.precision,
        runs_on=entry.model.runs_on,
        opening=entry.opening,
        latency=Latency.of(np.concatenate(rounds)),
        ratio=paired_ratio(rounds, firsts, seed=seed),
        accuracy=accuracy,
        energy=energy,
        spread=Spread.of(rounds),
    )
