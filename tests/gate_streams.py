"""Hours of scores that come and change as those of real streams do, under a budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hedge.runtime.gate.budget import EVERY_NS, SHUT, BudgetController
from hedge.runtime.gate.seen import Seen

Figures = NDArray[np.float64]
Generator = np.random.Generator
HOUR_S = 3600
BYTES = 4000


class Kind(NamedTuple):
    """A stream: samples a second, and scores, both by the second of the run."""

    rate: Callable[[Figures], Figures]
    scores: Callable[[Figures, Generator], Figures]


class Played(NamedTuple):
    """What was escalated, as a share of the budget: by minute, (minutes,); and the rest.

    ``caught`` is how many of what was escalated are among as many of the highest scores of their
    hour, ``shut`` the share of the time that the gate was shut, ``longest_s`` the longest time.
    """

    spent: Figures
    strayed: float | None
    caught: float
    shut: float
    longest_s: float

    def hours(self) -> Figures:
        """Return (hours,) the whole hours, one after the other."""
        found: Figures = self.spent.reshape(-1, 60).sum(axis=1)
        return found

    def any_hour(self) -> Figures:
        """Return every sixty minutes that begin after the first hour, (n,)."""
        upto = np.concatenate([[0.0], self.spent.cumsum()])
        found: Figures = (upto[60:] - upto[:-60])[60:]
        return found


def _beta(a: float, b: float) -> Callable[[Figures, Generator], Figures]:
    def scores(t: Figures, rng: Generator) -> Figures:
        found: Figures = rng.beta(a, b, t.size)
        return found

    return scores


def _steady(hz: float) -> Callable[[Figures], Figures]:
    return lambda t: np.full(t.size, hz)


def _jumps(t: Figures, rng: Generator) -> Figures:
    """Return scores that jump up after 1.7 hours, and down below where they began after 2.6."""
    first, high, low = (rng.beta(*shape, t.size) for shape in ((1, 4), (4, 1), (1, 9)))
    return np.where(t < 1.7 * HOUR_S, first, np.where(t < 2.6 * HOUR_S, high, low))


def _ties(t: Figures, rng: Generator) -> Figures:
    found: Figures = rng.choice([0.0, 0.25, 0.5, 0.9], t.size, p=[0.58, 0.2, 0.2, 0.02])
    return found


def _bursts_of_scores(t: Figures, rng: Generator) -> Figures:
    return np.where(t % 900 < 60, rng.beta(9, 1, t.size), rng.beta(1, 4, t.size))


KINDS: Mapping[str, Kind] = MappingProxyType(
    {
        "steady": Kind(_steady(5), _beta(1, 4)),
        "slow": Kind(_steady(0.5), _beta(1, 4)),
        "day and night": Kind(
            lambda t: 5.1 - 4.9 * np.cos(t / (3 * HOUR_S) * 2 * math.pi), _beta(1, 4)
        ),
        "rate in steps": Kind(lambda t: np.where(t // 1800 % 2 == 1, 10.0, 1.0), _beta(1, 4)),
        "bursts of samples": Kind(lambda t: np.where(t % 600 < 30, 40.0, 2.0), _beta(1, 4)),
        "bursts of high scores": Kind(_steady(5), _bursts_of_scores),
        "drift": Kind(_steady(5), lambda t, rng: rng.beta(1 + t / 7200, 4)),
        "jumps": Kind(_steady(2), _jumps),
        "many equal": Kind(_steady(5), _ties),
    }
)


def play(kind: Kind, *, hours: int, per_hour: float, seed: int, unit: str = "messages") -> Played:
    """Return how a budget of ``per_hour`` is held over so many hours of a stream."""
    rng = np.random.default_rng(seed)
    seconds = np.arange(hours * HOUR_S, dtype=np.float64)
    came = np.repeat(seconds, rng.poisson(kind.rate(seconds)))
    came = np.sort(came + rng.random(came.size))
    scores = kind.scores(came, rng)
    sizes = rng.lognormal(math.log(BYTES), 0.5, came.size).astype(int)
    seen = Seen()
    budget = BudgetController(per_hour, unit=unit, seen=seen, calibrated=0.5)  # type: ignore[arg-type]
    spent, taken = np.zeros(hours * 60), np.zeros(came.size, bool)
    due_s, shut, longest, run = 0.0, 0, 0, 0
    for number, (at_s, score) in enumerate(zip(came.tolist(), scores.tolist(), strict=True)):
        while due_s <= at_s:
            budget.feed(int(due_s * 1e9))
            due_s += EVERY_NS / 1e9
            run = run + 1 if budget.total == SHUT else 0
            shut, longest = shut + (run > 0), max(longest, run)
        seen.put(score)
        if not score < budget.total:
            taken[number] = True
            spent[int(at_s // 60)] += 1 if unit == "messages" else sizes[number]
            budget.spend(int(sizes[number]))
    budget.feed(hours * HOUR_S * 10**9)
    return Played(
        spent / per_hour,
        budget.state().strayed,
        _caught(came, scores, taken),
        shut / (due_s / (EVERY_NS / 1e9)),
        longest * EVERY_NS / 1e9,
    )


def _caught(came: Figures, scores: Figures, taken: NDArray[np.bool_]) -> float:
    """Return how much of what was taken is among as many of the highest scores of its hour."""
    among = total = 0
    for hour in range(int(came[-1] // HOUR_S) + 1):
        here = (came // HOUR_S) == hour
        mine, count = scores[here & taken], int((here & taken).sum())
        if count:
            least = np.sort(scores[here])[-count]
            among, total = among + int((mine >= least).sum()), total + count
    return among / max(1, total)
