"""A lane: one stream with the parts that serve it, from capture to decision."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..models.errors import DataError
from ..models.inputs.preprocess import Preprocess
from ..models.manifest import Input
from ..models.model import Model
from ..models.opinion import Assessor
from ..models.prepare import Prepare
from ..models.records import Decision, Opinion, Sample
from ..telemetry.clock import Clock
from ..telemetry.ledger import Ledger
from .filters.filtered import Filtered
from .filters.screen import Pending, Screen
from .gate.gate import Gate
from .policy import NO_EDGE, Policy
from .privacy import Share, Whole
from .sources.source import Captured, Source

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Waiting:
    """An escalated sample whose final outcome is still to come.

    Without an edge model there is no ``opinion``. ``told`` wants to know the far end's answer.
    Of one that an earlier run escalated neither ``reason`` nor ``timed_ns`` is known: why it
    was, and when its filters, model and policy began and the last ended.
    """

    sample: Sample
    opinion: Opinion | None
    fuse: bool
    offered_ns: int
    deadline_ns: int
    traceparent: str | None = None
    reason: str | None = None
    timed_ns: tuple[int, int, int, int] | None = None
    told: Sequence[Pending] = ()


@dataclass(slots=True, kw_only=True)
class Lane:
    """One stream: its source, filters, model and policy, its ledger, and what it waits for.

    ``title`` names its model for people. Without a ``model`` (and so without what goes with it)
    all that passes the filters is asked about. ``preprocess`` makes samples of what the source
    captures (None: it gives samples), ``share`` what the far end may see of them. Where it has a
    ``gate``, that has the policy of the moment, and ``policy`` is where it began. ``filtered`` is
    what a filter has said of the last sample, if that was the last word. It is ``labelling`` where
    filters may want the far end to label a sample.
    """

    name: str
    title: str = ""
    source: Source
    input: Input
    filters: Sequence[Screen]
    model: Model | None
    prepare: Prepare
    assessor: Assessor | None
    policy: Policy | None
    ledger: Ledger
    clock: Clock
    answer_within_ns: int
    mode: Literal["async", "wait"] = "async"
    on_unavailable: Literal["edge", "abstain"] = "edge"
    window: int = 256
    preprocess: Preprocess | None = None
    share: Share = field(default_factory=Whole)
    gate: Gate | None = None
    waiting: dict[str, Waiting] = field(default_factory=dict)
    timed_ns: tuple[int, int, int, int] = field(default=(0, 0, 0, 0), init=False)
    filtered: Filtered | None = field(default=None, init=False)
    _asked: Sequence[Screen] = field(default=(), init=False)
    _preprocess_ns: int = field(default=0, init=False)
    _overrun: int = field(default=0, init=False)
    labelling: bool = field(init=False)
    _shape: tuple[int, ...] = field(init=False)
    _dtype: np.dtype[Any] = field(init=False)

    def __post_init__(self) -> None:
        self._shape = tuple(self.input.shape)
        self._dtype = np.dtype(self.input.dtype)
        self.labelling = any(one.labelling for one in self.filters)

    def due_ns(self) -> int | None:
        """When the lane can go on; None: it has ended, or waits for an answer or the bell."""
        if self.source.ended or self._blocked():
            return None
        return self.source.due_ns()

    def _blocked(self) -> bool:
        if not self.waiting:
            return False
        if self.mode == "wait":
            return True
        return self.source.patient and len(self.waiting) >= self.window

    def sample_of(self, captured: Captured) -> NDArray[Any]:
        """Return the sample that was captured; first count what gave way to it.

        Raises:
            DataError: no sample can be made of it.
        """
        if self.source.overrun != self._overrun:
            self.count_overrun()
        if self.preprocess is None:
            return captured.data
        begun_ns = self.clock()
        data = self.preprocess(captured.data, captured.meta or {})
        self._preprocess_ns = self.clock() - begun_ns
        self.ledger.stages.preprocess.record(self._preprocess_ns)
        return data

    def count_overrun(self) -> None:
        """Book in the ledger what the source has dropped since the last time."""
        overrun = self.source.overrun
        self.ledger.read += overrun - self._overrun
        self.ledger.routes["overrun"] += overrun - self._overrun
        self._overrun = overrun

    def judge(self, data: NDArray[Any]) -> tuple[Opinion | None, Decision] | None:
        """Filter, infer, assess and decide one sample; None where a filter has settled it.

        There is no opinion where there is no model.

        Raises:
            DataError: the sample has another shape, or a dtype that does not fit.
            ModelError: a model failed on it.
        """
        if data.dtype != self._dtype or data.shape != self._shape:
            data = self._conform(data)
        batch, clock, ledger = data[None], self.clock, self.ledger
        stages = ledger.stages
        begun_ns = filtered_ns = clock()
        if self.filters:
            found = self._filter(batch)
            filtered_ns = clock()
            stages.filter.record(filtered_ns - begun_ns)
            if found is not None:
                ledger.busy_ns[found.route] += filtered_ns - begun_ns + self._preprocess_ns
                return None
        policy = self.policy if self.gate is None else self.gate.policy
        if self.model is None or self.assessor is None or policy is None:
            self.timed_ns = (begun_ns, filtered_ns, filtered_ns, filtered_ns)
            ledger.busy_ns["escalated"] += filtered_ns - begun_ns + self._preprocess_ns
            return None, NO_EDGE
        outputs = self.model.infer(self.prepare(batch))[0]
        inferred_ns = clock()
        decision, opinion = policy.decide(
            self.assessor.assess(outputs), outputs, deepen=self.assessor.deepen
        )
        for one in self._asked:
            one.by_edge(opinion.probs)
        decided_ns = clock()
        self.timed_ns = (begun_ns, filtered_ns, inferred_ns, decided_ns)  # of the last sample
        stages.infer.record(inferred_ns - filtered_ns)
        stages.uncertainty.record(decided_ns - inferred_ns)
        route = "accepted" if decision.action == "accept" else "escalated"
        ledger.busy_ns[route] += decided_ns - begun_ns + self._preprocess_ns
        return opinion, decision

    def accepted(self, sample_id: str, opinion: Opinion) -> None:
        """Let the filters know that the sample judged last is answered by the edge."""
        for one in self._asked:
            one.accepted(opinion.probs, sample_id=sample_id)

    def pending(self) -> Sequence[Pending]:
        """Return those that want to know the far end's answer to the sample judged last."""
        return [found for one in self._asked if (found := one.pending()) is not None]

    def unsure(self) -> Sequence[Screen]:
        """Return the filters that want the far end to label the last sample."""
        return [one for one in self.filters if one.unsure] if self.labelling else ()

    def _filter(self, batch: NDArray[Any]) -> Filtered | None:
        """Ask the filters in turn; what one of them has drawn goes to the model at once."""
        self._asked = self.filters
        if self.labelling:
            for one in self.filters:
                one.unsure = False
        for number, one in enumerate(self.filters, 1):
            self.filtered = one.judge(batch)
            if self.filtered is not None:
                break
            if one.drawn:
                self._asked = self.filters[:number]
                break
        return self.filtered

    def _conform(self, data: NDArray[Any]) -> NDArray[Any]:
        if data.shape != self._shape:
            raise DataError(
                f"a sample of shape {data.shape}; the bundle takes {self._shape}", where=self.name
            )
        if not np.can_cast(data.dtype, self._dtype, "same_kind"):
            raise DataError(
                f"a sample of dtype {data.dtype}; the bundle takes {self._dtype}", where=self.name
            )
        return data.astype(self._dtype)
