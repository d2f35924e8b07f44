"""How long a model and its filter take, by turns, and whether the filter saves time.

One comparison of two times is off by what the machine was at, and by where memory happened to lie.
So both are opened anew for each of some rounds, and called in turn within each; a round gives the
median of the ratios of neighbours, and the rounds how far another one would be off. What all
rounds of a process have in common they cannot tell: between runs of the command ratios differ by
some per cent. So no interval is narrower than `_BETWEEN_RUNS` of the ratio to each side.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from ...models.filtering.worth import Saving, Worth, saving_of, worth
from ...telemetry.clock import Clock
from .load import Load
from .pair import Pair

ROUNDS = 10
_LEAST_PAIRS = 2  # in a round
_BETWEEN_RUNS = 0.05
_WARM_UP = 20
_ROUND_NS = 600_000_000

Open = Callable[[contextlib.ExitStack], Pair]


class TimeCosts(Struct, frozen=True, kw_only=True):
    """Medians of one sample each, in one thread, and what comes of them at the filter's rate.

    ``filter_us`` is that of samples as they come, ``filtered_us`` of one that is ruled out, and
    ``kept_us`` of one that is not, each with all that the filter does for it. ``keys`` is how many
    a reuse filter has looked through (None: it is none).
    """

    model_us: float
    filter_us: float
    filtered_us: float
    kept_us: float
    keys: int | None
    worth: Worth
    saving: Saving
    pairs: int


def time_lines(costs: TimeCosts, *, rate: float) -> Iterator[str]:
    """Yield what time says of a filter that filters ``rate`` of the samples."""
    verdict = costs.saving.verdict
    word = "whether it pays cannot be told" if verdict == "cannot be told" else f"it {verdict}"
    yield (
        f"in time {word}: a filter of {costs.filter_us:.1f} us before a model of "
        f"{costs.model_us:.1f} us has to filter more than {costs.worth.needed:.1%}, and filters "
        f"{rate:.1%}; {costs.saving} of the model's time are saved"
    )
    if costs.keys is not None:
        yield (
            f"  the filter with its look-up in {costs.keys} keys: {costs.filtered_us:.1f} us where "
            f"it answers, {costs.kept_us:.1f} us where it does not, and learns what the model says"
        )


class _Round(NamedTuple):
    """Medians of the nanoseconds, and of the ratios to the model's: filtered, then kept."""

    model_ns: float
    spent_ns: tuple[float, float]
    ratios: tuple[float, float]
    pairs: int


def time_costs(
    opened: Open, load: Load, *, rate: float, clock: Clock = time.perf_counter_ns
) -> TimeCosts:
    """Time both for about six seconds; ``rate`` is the share of samples that is filtered.

    Raises:
        ModelError: one cannot be opened, or fails.
    """
    rounds = []
    for _ in range(ROUNDS):
        with contextlib.ExitStack() as stack:
            rounds.append(_round(opened(stack), load, clock=clock))
    filtered_us, kept_us = np.median([one.spent_ns for one in rounds], axis=0) / 1e3
    filtered, kept = np.mean([one.ratios for one in rounds], axis=0).tolist()
    found = _worth(rate, filtered, kept)
    saved = [_worth(rate, *one.ratios).saved for one in rounds]
    return TimeCosts(
        model_us=float(np.median([one.model_ns for one in rounds])) / 1e3,
        filter_us=float(rate * filtered_us + (1.0 - rate) * kept_us),
        filtered_us=float(filtered_us),
        kept_us=float(kept_us),
        keys=None if load.known is None else len(load.known.ids),
        worth=found,
        saving=saving_of(saved, least=_BETWEEN_RUNS * (rate - found.saved)),
        pairs=sum(one.pairs for one in rounds),
    )


def _worth(rate: float, filtered: float, kept: float) -> Worth:
    """Return what a filter is worth by the parts of the model's time that it takes.

    To learn an answer costs only the sample that has got one. So C(filter) is what the filter takes
    of one that it keeps, and what it takes of another one beyond that is C(filtered).
    """
    return worth(rate, filter_cost=kept, model_cost=1.0, filtered_cost=filtered - kept)


def _round(pair: Pair, load: Load, *, clock: Clock) -> _Round:
    batches = load.turns()
    for place in range(_WARM_UP):
        pair.model(batches[place % len(batches)])
        pair.filter(batches[place % len(batches)])
    took: list[tuple[int, int]] = []
    ruled_out: list[bool] = []
    begun_ns = clock()
    while len(took) < _LEAST_PAIRS or clock() - begun_ns < _ROUND_NS:
        batch = batches[len(took) % len(batches)]
        start_ns = clock()
        pair.model(batch)
        between_ns = clock()
        ruled_out.append(pair.filter(batch))
        took.append((between_ns - start_ns, clock() - between_ns))
    model_ns, filter_ns = np.array(took, np.float64).T
    filtered = np.array(ruled_out)
    return _Round(
        model_ns=float(np.median(model_ns)),
        spent_ns=_medians(filter_ns, filtered),
        ratios=_medians(filter_ns / np.maximum(model_ns, 1.0), filtered),
        pairs=len(took),
    )


def _medians(each: NDArray[np.float64], filtered: NDArray[np.bool_]) -> tuple[float, float]:
    """Return the medians of what is filtered and what is kept; of one kind that of the other."""
    both = [each[which] if which.any() else each for which in (filtered, ~filtered)]
    return float(np.median(both[0])), float(np.median(both[1]))
