"""Calls of several models, timed in turn, so that what disturbs one disturbs all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...models.prepare import Prepare
from ...telemetry.clock import Clock
from .latency import Nanoseconds

LEAST_ROUNDS = 3
MOST_CALLS = 1_000_000
_CHUNK = 100
_ROUND_NS = 20_000_000

Batches = Sequence[NDArray[Any]]


class Contender(NamedTuple):
    """What a device does with a batch (1, *sample shape): it prepares it and infers from it."""

    prepare: Prepare
    infer: Callable[[NDArray[Any]], NDArray[np.floating[Any]]]


class Budget(Struct, frozen=True, kw_only=True):
    """How long to measure: so many seconds for all models, or so many calls of each.

    In any case at least LEAST_ROUNDS rounds, and at most MOST_CALLS calls of each model.
    """

    seconds: float = 10.0
    runs: int | None = None


def timed_rounds(
    contenders: Sequence[Contender],
    batches: Batches,
    *,
    budget: Budget,
    seed: int,
    show: Callable[[str], object] = str,
    clock: Clock = time.perf_counter_ns,
) -> list[list[Nanoseconds]]:
    """Return for each contender the nanoseconds of its calls, round by round; all are warm.

    In a round all get the same batches, in an order drawn by ``seed``, after one call each
    that does not count: it meets the caches as the contender before left them.

    Raises:
        ModelError: a model failed.
    """
    rng = np.random.default_rng(seed)
    found: list[list[Nanoseconds]] = [[] for _ in contenders]
    done = 0
    for calls in _sizes(_chunk(contenders, batches[0], clock=clock), budget, clock=clock):
        taken = [batches[place % len(batches)] for place in range(done, done + calls)]
        for which in rng.permutation(len(contenders)):
            found[which].append(_timed(contenders[which], taken, clock=clock))
        done += calls
        show(f"{done} calls of each in {len(found[0])} rounds")
    return found


def _timed(contender: Contender, batches: Batches, *, clock: Clock) -> Nanoseconds:
    prepare, infer = contender
    spent_ns = []
    infer(prepare(batches[0]))
    for batch in batches:
        begun_ns = clock()
        infer(prepare(batch))
        spent_ns.append(clock() - begun_ns)
    return np.array(spent_ns, np.int64)


def _chunk(contenders: Sequence[Contender], batch: NDArray[Any], *, clock: Clock) -> int:
    """Return how many calls of each fit into one round."""
    turn_ns = sum(int(_timed(one, [batch], clock=clock)[0]) for one in contenders)
    return min(max(_ROUND_NS // max(turn_ns, 1), 1), _CHUNK)


def _sizes(chunk: int, budget: Budget, *, clock: Clock) -> Iterator[int]:
    """Yield how many calls of each the next round has, until the budget is spent."""
    most = MOST_CALLS if budget.runs is None else min(budget.runs, MOST_CALLS)
    chunk = max(min(chunk, most // LEAST_ROUNDS), 1)
    until_ns = clock() + round(budget.seconds * 1e9)
    done = 0
    while done < most:
        late = budget.runs is None and clock() >= until_ns
        if late and done >= LEAST_ROUNDS * chunk:
            return
        calls = min(chunk, most - done)
        yield calls
        done += calls
