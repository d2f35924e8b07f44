"""What is known of a filter's errors in the field, and whether they are too many.

A small share of all samples is drawn by lot, whatever the filter says of them, and goes to the
model. So what is learnt is a uniform draw, of which the bundle's word says at most how much is
lost (ruled out, though it should not have been):

- an accuracy A allows 1 - A of all that are drawn;
- a recall R allows 1 - R of those among them that matter, of several tasks to each of them.

That is asked with one probability of a false alarm for all the life of a run, by `Bets`, which
several tasks share alike (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ...models.confidence_sequence import bounds
from ...models.manifest import Tuned
from ...telemetry.filter_state import ShadowState

_CONFIDENCE = 0.95  # of the bounds, where the bundle states none
_ODDS = (1.2, 1.5, 2.0, 3.0, 5.0, 10.0)
_MOST = 1e300  # far beyond any limit


class _Bet:
    """A bet that the share of losses is another one; since it last had a gain, so many rows."""

    __slots__ = ("_gain", "_hit", "_miss", "held", "hits", "rows")

    def __init__(self, mean: float, *, odds: float) -> None:
        self._miss = 1.0 / (1.0 - mean + odds * mean)
        self._hit = odds * self._miss if mean else math.inf
        self.held = 0.0
        self._gain = 1.0
        self.rows = self.hits = 0

    def add(self, hit: bool, *, stake: float) -> None:  # noqa: FBT001 -- a row of the stream
        factor = self._hit if hit else self._miss
        self.held = min(_MOST, (self.held + stake) * factor)
        self._gain = min(_MOST, self._gain * factor)
        self.rows += 1
        self.hits += hit
        if self._gain <= 1.0:  # a change can only have come later (Page 1954)
            self._gain = 1.0
            self.rows = self.hits = 0


class Bets:
    """Bets that from some row on more than a share ``mean`` are hits, out of a capital of 1.

    With each row a part of the capital is staked on shares of 1.2, 1.5, 2, 3, 5 and 10 times the
    odds, and left there. As long as each row is a hit with a probability of ``mean`` at most,
    whatever came before, no gain is to be expected at any row. So the stakes are ever as much as c
    with a probability of 1/c at most, over all rows there will ever be (Ville 1939). A share that
    rises late is found by what is staked after that: row k has 1/log2(k+1) - 1/log2(k+2) of the
    capital, which is 1 in all, and falls hardly faster than 1/k. (An e-detector, of Shin, Ramdas
    and Rinaldo 2022, arXiv 2203.03532, stakes 1 on each row: it is the quicker one, and raises a
    false alarm sooner or later.)

    >>> bets = Bets(0.1)
    >>> bets.add(True) > 1, bets.add(False) < 2, bets.since()
    (True, True, (1, 2))
    """

    def __init__(self, mean: float) -> None:
        self._bets = [_Bet(mean, odds=odds) for odds in _ODDS]
        self._rows = 0

    def add(self, hit: bool) -> float:  # noqa: FBT001 -- a row of the stream
        """Take in the next row; return what the stakes have become."""
        self._rows += 1
        stake = 1 / math.log2(self._rows + 1) - 1 / math.log2(self._rows + 2)
        for bet in self._bets:
            bet.add(hit, stake=stake / len(self._bets))
        return math.fsum(bet.held for bet in self._bets)

    def since(self) -> tuple[int, int]:
        """Return the hits, among how many rows, since the best of the bets began to gain."""
        best = max(self._bets, key=lambda bet: bet.held)
        return best.hits, best.rows


class Shadow:
    """Counts what was judged of one filter; ``tuned`` is the bundle's word on it (None: none).

    ``tasks`` are the rules of what matters, as texts; what is said of samples is said of each.
    """

    def __init__(self, tuned: Tuned | None, *, tasks: Sequence[str] = ("",)) -> None:
        self._tuned = tuned
        known = None if tuned is None else tuned.confidence
        self._confidence = known or _CONFIDENCE
        self._bets: dict[str, Bets] = {}
        if tuned is not None:
            each = tasks if tuned.aim == "recall" else tasks[:1]
            self._bets = {task: Bets(1.0 - tuned.target) for task in each}
        self._rows = self._wrong = self._kept = self._matter = 0
        self.drawn = 0

    @property
    def holds(self) -> bool:
        """Whether there is a word to hold the filter to, for which kept samples count too."""
        return bool(self._bets)

    def keep(self, *, matters: Sequence[bool]) -> None:
        """Take in that a kept sample, drawn by lot, did matter to each task or did not."""
        self._kept += 1
        self._matter += any(matters)
        self._broken(wrong=False, matters=matters)

    def judge(self, *, wrong: bool, matters: Sequence[bool]) -> str | None:
        """Take in a filtered sample; return how the bundle's word is broken, if it is."""
        self._rows += 1
        self._wrong += wrong
        return self._broken(wrong=wrong, matters=matters)

    def state(self, *, seen: int, filtered: int) -> ShadowState:
        """Return what is known of what it has ``filtered`` of all that it has ``seen``."""
        rows, wrong = self._rows, self._wrong
        low = high = None
        if rows:
            low, high = bounds(wrong, rows, confidence=self._confidence)
        return ShadowState(
            drawn=self.drawn,
            judged=rows,
            wrong=wrong,
            error=wrong / rows if rows else None,
            low=low,
            high=high,
            limit=self._limit(seen, filtered),
        )

    def _broken(self, *, wrong: bool, matters: Sequence[bool]) -> str | None:
        tuned = self._tuned
        if tuned is None:
            return None
        if tuned.aim == "accuracy":
            matters = (True,)
        enough = len(self._bets) / (1.0 - self._confidence)
        why = None
        for (task, bets), counts in zip(self._bets.items(), matters, strict=True):
            if not counts or bets.add(wrong) < enough:
                continue
            hits, rows = bets.since()
            whose = " that matter" if tuned.aim == "recall" else ""
            whose += f' by "{task}"' if len(self._bets) > 1 else ""
            why = (
                f"of {rows} samples{whose}, drawn by lot, it has ruled out {hits} that it should "
                f"not have; {1.0 - tuned.target:.3g} of them may be so"
            )
        return why

    def _limit(self, seen: int, filtered: int) -> float | None:
        """Return about which share of what it filters may be wrong."""
        tuned = self._tuned
        if tuned is None or filtered <= 0:
            return None
        if tuned.aim == "accuracy":
            return (1 - tuned.target) * seen / filtered
        if not self._kept:
            return None
        matter = self._matter / self._kept * (seen - filtered) / filtered
        return (1 - tuned.target) / tuned.target * matter
