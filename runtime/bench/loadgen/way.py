"""The way that a sample takes through the device, in so many parts as are to be measured.

The parts are the device's own: its filters, its model, `Lane.judge`, and for escalation its
whole loop (`whole_device`). One sample is served after the other, as the device does.
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from ....models.bundle import Bundle
from ....models.errors import BundleError
from ....models.manifest import Edge
from ....models.model import Model
from ....models.opinion import Assessor
from ....models.prepare import fed_dtype, preparer
from ....models.records import Decision, Opinion
from ....telemetry.clock import boottime_ns
from ....telemetry.ledger import Ledger
from ...backends.null import NullModel
from ...device_models import DeviceModels
from ...filters.opening import open_screens
from ...filters.screen import Screen
from ...lane import Lane
from ...policy import Policy
from ..rounds import Contender
from .messages import Task
from .queries import Done, Queries

STREAM = "loadgen"

Row = NDArray[Any]
Say = Callable[[str], None]
Fail = Callable[[BaseException], NoReturn]
"""Ends the process with an error: LoadGen itself cannot be stopped."""


class Way(Protocol):
    """Serves samples."""

    def serve(self, row: Row, done: Done) -> None:
        """Serve one sample, and call ``done`` once it has its final outcome."""

    def counts(self) -> dict[str, int]:
        """How many samples went which way, and were answered, as far as a part counts that."""


class Straight:
    """Serves a sample where it is called, and returns once it is done."""

    def __init__(self, run: Callable[[Row], None], counts: dict[str, int]) -> None:
        self._run = run
        self._counts = counts

    def serve(self, row: Row, done: Done) -> None:
        """Serve it."""
        self._run(row)
        done()

    def counts(self) -> dict[str, int]:
        """Return the counts."""
        return dict(self._counts)


class InTurn:
    """Serves samples in a thread of its own; those that come meanwhile wait for their turn.

    Their number is bounded by whoever asks: LoadGen ends a run that leaves too many waiting.
    """

    def __init__(self, way: Way, *, fail: Fail) -> None:
        self._way = way
        self._fail = fail
        self._waiting: queue.SimpleQueue[tuple[Row, Done] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="hedge-queries", daemon=True)
        self._thread.start()

    def serve(self, row: Row, done: Done) -> None:
        """Put it behind the others."""
        self._waiting.put((row, done))

    def counts(self) -> dict[str, int]:
        """Return the counts."""
        return self._way.counts()

    def close(self) -> None:
        """End the thread once it has served what waits."""
        self._waiting.put(None)
        self._thread.join()

    def _work(self) -> None:
        try:
            while (one := self._waiting.get()) is not None:
                self._way.serve(*one)
        except BaseException as error:  # noqa: BLE001 -- a thread that dies ends the run
            self._fail(error)


@dataclass(slots=True, kw_only=True)
class FailingLane(Lane):
    """A lane whose first failure ends the run: a query without an answer is no result."""

    fail: Fail

    def judge(self, data: Row) -> tuple[Opinion | None, Decision] | None:
        """Judge as every lane does."""
        try:
            return Lane.judge(self, data)
        except Exception as error:  # noqa: BLE001 -- whatever it is, the loop must not go on
            self.fail(error)


class _Opened(NamedTuple):
    """What a variant and the filters before it were opened as."""

    edge: Edge
    filters: Sequence[Screen]
    model: Model
    contender: Contender


def open_way(
    task: Task, bundle: Bundle, *, stack: contextlib.ExitStack, say: Say, fail: Fail
) -> Way:
    """Open what serves the task's samples; ``stack`` closes it.

    ``say`` hears what is going on as systemd would.

    Raises:
        HedgeError: a model cannot be opened, or the bundle lacks a part.
    """
    if "escalation" in task.parts:
        from .whole_device import WholeDevice  # noqa: PLC0415  it needs all of the uplink

        queries = Queries()
        lane = _lane(task, bundle, queries, stack=stack, say=say, fail=fail)
        return WholeDevice(task, bundle, lane, queries, stack=stack)
    if "null" in task.parts:
        way: Way = Straight(_inferring(floor(bundle)), {})
    elif "uncertainty" in task.parts:
        lane = _lane(task, bundle, Queries(), stack=stack, say=say, fail=fail)
        way = _judging(lane)
    else:
        way = _filtering(_models(task, bundle, stack=stack, say=say))
    if task.scenario == "Server":
        way = InTurn(way, fail=fail)
        stack.callback(way.close)
    return way


def floor(bundle: Bundle) -> Contender:
    """Return the null backend in the bundle's place: what LoadGen, Python and the clock take."""
    classes = len(bundle.labels)
    outputs = np.full((1, classes), 1 / classes, np.float32)
    model = NullModel(outputs, shape=bundle.input.shape, dtype=fed_dtype(bundle.input))
    return Contender(preparer(bundle.input), model.infer)


def _inferring(contender: Contender) -> Callable[[Row], None]:
    prepare, infer = contender

    def run(row: Row) -> None:
        infer(prepare(row[None]))

    return run


def _filtering(opened: _Opened) -> Straight:
    filters, infer = opened.filters, _inferring(opened.contender)
    counts = _routes(filters)

    def run(row: Row) -> None:
        for one in filters:
            found = one.judge(row[None])
            if found is not None:
                counts[found.route] += 1
                return
        infer(row)

    return Straight(run, counts)


def _judging(lane: Lane) -> Straight:
    counts = {**_routes(lane.filters), "escalated": 0}
    number = itertools.count()

    def run(row: Row) -> None:
        judged = lane.judge(row)
        if judged is None:
            if lane.filtered is not None:
                counts[lane.filtered.route] += 1
            return
        opinion, decision = judged
        if decision.action != "accept":
            counts["escalated"] += 1
        elif opinion is not None:
            lane.accepted(f"{STREAM}-{next(number)}", opinion)

    return Straight(run, counts)


def _routes(filters: Sequence[Screen]) -> dict[str, int]:
    """Return counts of 0 of what the filters may make of a sample."""
    routes = {"skip": "dropped", "reuse": "reused"}
    return {routes[one.kind]: 0 for one in filters}


def _lane(
    task: Task,
    bundle: Bundle,
    queries: Queries,
    *,
    stack: contextlib.ExitStack,
    say: Say,
    fail: Fail,
) -> FailingLane:
    calibration = bundle.manifest.calibration
    if calibration is None:
        raise BundleError(
            "has no [calibration], so nothing says when to ask", where=str(bundle.path)
        )
    opened = _models(task, bundle, stack=stack, say=say)
    return FailingLane(
        name=STREAM,
        source=queries,
        input=bundle.input,
        filters=opened.filters,
        model=opened.model,
        prepare=opened.contender.prepare,
        assessor=Assessor.of(opened.edge, classes=len(bundle.labels), score=calibration.scoring),
        policy=Policy.of(calibration),
        ledger=Ledger(STREAM),
        clock=boottime_ns,
        answer_within_ns=task.answer_within_ms * 1_000_000,
        fail=fail,
    )


def _models(task: Task, bundle: Bundle, *, stack: contextlib.ExitStack, say: Say) -> _Opened:
    """Open the models as the device does, and wait for the engines that it builds."""
    models = DeviceModels(
        task.board, state=Path(task.state), base=Path(task.base), stack=stack, systemd=say
    )
    edge = next(one for one in bundle.manifest.edge if one.name == task.variant)
    filters: Sequence[Screen] = ()
    if "filter" in task.parts:
        filters = open_screens(
            bundle,
            lambda one: models.open(bundle, one, task.options),
            clock=boottime_ns,
            failed=_raise,
        )
    model, prepare = models.open(bundle, edge, task.options)
    while (due_ns := models.feed(boottime_ns())) is not None:
        time.sleep(max(0, due_ns - boottime_ns()) / 1e9)
    return _Opened(edge, filters, model, Contender(prepare, model.infer))


def _raise(error: Exception) -> NoReturn:
    raise error
