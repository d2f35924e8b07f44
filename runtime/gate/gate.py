"""The gate of one stream: its policy now, and the parts that watch and move it.

Two may want to move it. Where there is a budget, that alone says where it stands; else the
calibration does, and the keeper of the promise may put it lower, never higher.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from typing import Literal, Protocol

from msgspec.structs import replace

from ...models.errors import DataError
from ...models.manifest import Budget, Calibration
from ...telemetry.clock import Clock, boottime_ns
from ...telemetry.gate_state import DriftState, GateState, PromiseState
from ..policy import Policy
from .audit import Audit, Said
from .budget import EVERY_NS, BudgetController
from .drift import EVERY, DriftWatch
from .memory import GateMemory
from .options import AuditOptions, GateOptions
from .promise_keeper import PromiseKeeper
from .seen import Seen

_log = logging.getLogger(__name__)

_CONFIDENCE = 0.95  # of an audit's bounds, where no promise states one


class Keep(Protocol):
    """Keeps what a gate has learnt over restarts; `KeptGates.keep` does, of one stream."""

    def __call__(self, memory: Callable[[], GateMemory], *, at_once: bool) -> None:
        """Take in that something was learnt, and, ``at_once``, that the gate was moved by it."""


class Gate:
    """Holds the policy of one stream; lane and loop tell it what they see.

    `note` is called once per judged sample; all else seldom. ``audit`` is the loop's to ask by.
    ``told`` hears when drift begins and when it ends, ``keep`` when something was learnt. ``of``
    names all that decides what it can learn: what another gate of that name has learnt holds
    for this one.
    """

    def __init__(
        self,
        calibration: Calibration,
        *,
        stream: str,
        options: GateOptions,
        audit: AuditOptions,
        of: str = "",
        told: Callable[[DriftState], None] = lambda _: None,
        keep: Keep | None = None,
        clock: Clock = boottime_ns,
        rng: random.Random | None = None,
    ) -> None:
        self.of = of
        self.policy = Policy.of(calibration)
        self.audit = Audit(audit, rng=rng or random.Random(), clock=clock)  # noqa: S311 -- no secret
        self._calibration = calibration
        self._stream = stream
        self._told = told
        self._keep = keep
        self._seen = Seen()
        self._put, self._draw = self._seen.put, self.audit.draw
        self._keeper = _keeper(calibration) if options.promise and self.audit.share else None
        self._watch = _watch(calibration) if options.drift else None
        self._budget = _controller(calibration, options, seen=self._seen)
        self._until_look = EVERY
        self._due_ns = None if self._budget is None else 0
        self._turned = False

    @property
    def score(self) -> str:
        """The score that it gates on."""
        return self._calibration.score

    @property
    def drifting(self) -> bool:
        """Whether the scores are not those of calibration."""
        return self._watch is not None and self._watch.drifting

    def note(self, score: float) -> bool:
        """Take in the score of a sample; return whether it is drawn for the audit."""
        self._put(score)
        self._until_look -= 1
        if not self._until_look:
            self._look()
        return self._draw()

    def learn(self, said: Said, *, truth: int) -> None:
        """Take in the true label of a sample that was drawn, whatever became of it.

        The audit counts all that the gate lets pass now, or, under a budget, where it moves all
        the time, what it did let pass.
        """
        wrong = said.label != truth
        passes = said.score < self.policy.total if self._budget is None else said.accepted
        self.audit.judge(wrong=wrong, accepted=passes)
        keeper = self._keeper
        moved = keeper is not None and keeper.learn(score=said.score, wrong=wrong)
        if keeper is not None and moved:
            _log.warning(
                "%s: the gate has to stand at %.4g: %s", self._stream, keeper.total, keeper.why
            )
            if self._budget is None:
                self._move(keeper.total)
                self.audit.restart()
        if self._keep is not None:
            self._keep(self.memory, at_once=moved)

    def memory(self) -> GateMemory:
        """Return what it has learnt."""
        rows, wrong = self.audit.counted()
        keeper = None if self._keeper is None else self._keeper.memory()
        return GateMemory(keeper=keeper, rows=rows, wrong=wrong)

    def succeed(self, other: Gate) -> None:
        """Count on from where another gate of this stream stops; what it has learnt is its own."""
        self.audit.succeed(other.audit)

    def resume(self, memory: GateMemory) -> None:
        """Go on from what a gate of the same name (``of``) has learnt.

        Raises:
            DataError: it is not of such a one; then nothing is changed.
        """
        if (memory.keeper is None) != (self._keeper is None) or memory.wrong > memory.rows:
            raise DataError("is of a gate that kept another promise")
        if memory.keeper is not None and self._keeper is not None:
            self._keeper.resume(memory.keeper)
            if self._budget is None:
                self._move(self._keeper.total)
        self.audit.resume(rows=memory.rows, wrong=memory.wrong)

    def spend(self, size_bytes: int) -> None:
        """Take in that a sample was escalated, and what it takes on the wire."""
        budget = self._budget
        if budget is not None and budget.spend(size_bytes):
            self._move(budget.total)

    def feed(self, now_ns: int) -> int | None:
        """Move the gate to hold the budget, and tell of drift; return when to be fed again."""
        if self._due_ns is None or now_ns < self._due_ns:
            return self._due_ns
        self._due_ns = None
        if self._turned:
            self._turned = False
            self._tell()
        if self._budget is not None:
            self._budget.feed(now_ns)
            self._move(self._budget.total)
            self._due_ns = now_ns + EVERY_NS
        return self._due_ns

    def state(self) -> GateState:
        """Return how it stands."""
        made = self._calibration.promise
        confidence: float | None = _CONFIDENCE if made is None else made.confidence
        if self._budget is not None:
            confidence = None  # no bounds hold for a gate that moves
        return GateState(
            score=self.score,
            total=self.policy.total,
            calibrated=self._calibration.total,
            audit=self.audit.state(confidence=confidence) if self.audit.share else None,
            promise=self._promise(),
            drift=None if self._watch is None else self._watch.state(),
            budget=None if self._budget is None else self._budget.state(),
        )

    def _promise(self) -> PromiseState | None:
        if self._keeper is None:
            return None
        state = self._keeper.state()
        if self._budget is None:
            return state
        if self.policy.total > self._keeper.total:
            return replace(state, state="unkept", why="budget")
        return replace(state, state="kept", why=None)

    def _look(self) -> None:
        self._until_look = EVERY
        if self._watch is not None and self._watch.look(self._seen.last(EVERY)):
            self._turned, self._due_ns = True, 0

    def _tell(self) -> None:
        if self._watch is None:
            return
        state = self._watch.state()
        _log.warning(
            "%s: its scores %s those of calibration: their stability index is %.3g, the limit %.3g",
            *(self._stream, "drift from" if state.drifting else "are again", state.statistic),
            state.limit,
        )
        self._told(state)

    def _move(self, total: float) -> None:
        if total != self.policy.total:
            self.policy = replace(self.policy, total=total)


def budget_of(
    options: GateOptions, budget: Budget | None
) -> tuple[float, Literal["messages", "bytes"]] | None:
    """Return what a stream may spend per hour: as it is told, else as its bundle says.

    >>> budget_of(GateOptions(), Budget(messages_per_hour=60))
    (60, 'messages')
    >>> budget_of(GateOptions(messages_per_hour=0), Budget(messages_per_hour=60))
    """
    told = options.messages_per_hour, options.bytes_per_hour
    if told == (None, None) and budget is not None:
        told = budget.messages_per_hour, budget.bytes_per_hour
    messages, size = told
    if messages:
        return messages, "messages"
    return (size, "bytes") if size else None


def _controller(
    calibration: Calibration, options: GateOptions, *, seen: Seen
) -> BudgetController | None:
    found = budget_of(options, calibration.budget)
    if found is None:
        return None
    per_hour, unit = found
    return BudgetController(per_hour, unit=unit, seen=seen, calibrated=calibration.total)


def _keeper(calibration: Calibration) -> PromiseKeeper | None:
    if calibration.promise is None:
        return None
    return PromiseKeeper(
        calibration.promise, total=calibration.total, reference=calibration.reference
    )


def _watch(calibration: Calibration) -> DriftWatch | None:
    if not calibration.reference:
        return None  # an older bundle: nobody knows what its scores were
    return DriftWatch(calibration.reference, calibrated=calibration.rows)
